/* SPDX-License-Identifier: Apache-2.0
 *
 * An engine over a model of 25 kB (tests/golden/models/llama-words), and requests to it. Included by test
 * programs; everything is static.
 */
#ifndef TINY_ENGINE_H
#define TINY_ENGINE_H

#include "engine/engine.h"

#define TINY TESTS_DIR "/golden/models/llama-words"

enum { TINY_VOCAB = 280 };

static inline nib_engine *open_tiny(const nib_options *options, const loaded_needs *needs) {
    nib_engine *e;
    nib_error err = {""};
    nib_options o = *options;
    o.threads = o.threads > 0 ? o.threads : 1; /* more would spin beside other tests */
    if (engine_open(&e, TINY, &o, needs, &err) != NIB_OK)
        fail_msg("%s", err.text);
    return e;
}

static inline nib_request *submit_options(nib_engine *e, const nib_request_options *options) {
    nib_request *r;
    nib_error err = {""};
    nib_request_options o = *options;
    o.size = sizeof o;
    if (nib_submit(e, &o, &r, &err) != NIB_OK)
        fail_msg("%s", err.text);
    return r;
}

static const int32_t tiny_prompt[] = {40, 41, 42};

static inline nib_request *submit(nib_engine *e, int max_tokens) {
    return submit_options(
        e, &(nib_request_options){
               .prompt = tiny_prompt, .n_prompt = 3, .max_tokens = max_tokens, .ignore_eos = true});
}

static inline nib_event next(nib_request *r, int timeout_ms) {
    nib_event event = {.size = sizeof event};
    assert_int_equal(nib_next_event(r, &event, timeout_ms, NULL), NIB_OK);
    return event;
}

/* Everything that R says, to its END. */
typedef struct answer {
    int32_t tokens[600];
    int n_tokens;
    char text[16384];
    nib_event end;
    char error[512];
} answer;

static inline void read_answer(nib_request *r, answer *a) {
    size_t n = 0;
    a->n_tokens = 0;
    do {
        a->end = next(r, -1);
        memcpy(a->text + n, a->end.text, a->end.text_bytes + 1);
        n += a->end.text_bytes;
        if (a->end.kind == NIB_EVENT_TOKEN)
            a->tokens[a->n_tokens++] = a->end.token;
    } while (a->end.kind != NIB_EVENT_END);
    snprintf(a->error, sizeof a->error, "%s", a->end.error);
    nib_release(r);
}

#endif
