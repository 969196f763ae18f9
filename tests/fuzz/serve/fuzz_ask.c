/* SPDX-License-Identifier: Apache-2.0
 *
 * Bodies of requests: a byte that says which API, then JSON. Read or refused in words that JSON can hold,
 * also when memory runs out.
 */
#include <stdint.h>
#include <stdlib.h>

#include "base/mem.h"
#include "serve/ask.h"

static bool read_messages(ask *a, const json_t *body, api_error *e) {
    return ask_read_messages(a, body, false, e);
}

static bool (*const readers[])(ask *a, const json_t *body, api_error *e) = {
    ask_read_chat, ask_read_completion, ask_read_responses, read_messages, ask_read_embeddings};

static void check(bool good) {
    if (!good)
        abort();
}

static api_kind read_body(size_t which, const json_t *body) {
    ask a = {0};
    api_error e = {0};
    const bool good = readers[which](&a, body, &e);
    check(good == (e.kind == API_NO_ERROR));
    if (!good) {
        json_t *told = api_error_json(&e, API_STYLE_OPENAI);
        check(e.message[0] && told);
        json_decref(told);
    } else {
        check(a.best_of >= a.n && a.n >= 1 && a.top_logprobs <= NIB_MAX_LOGPROBS);
        check(a.messages ? json_array_size(a.messages) > 0 : a.prompt != NULL);
    }
    ask_free(&a);
    return e.kind;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    json_t *body;
    if (size < 1 || json_read(&body, data + 1, size - 1, "body", NULL) != NIB_OK)
        return 0;
    const size_t which = (data[0] & 15) % (sizeof readers / sizeof *readers);
    if (json_is_object(body)) {
        api_kind kind = read_body(which, body);
        for (long k = 0; kind != API_FAILED && size < 300 && k < 8; k++) {
            mem_fail_after(k);
            (void)read_body(which, body);
            mem_fail_after(-1);
        }
    }
    json_decref(body);
    return 0;
}
