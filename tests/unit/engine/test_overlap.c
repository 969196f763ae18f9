/* SPDX-License-Identifier: Apache-2.0
 *
 * A real model: 16 requests of different lengths, seeds and arrival times, some cancelled, each on a thread
 * of its own; every text is the one the request gets alone. Skipped, in words, where the model is not there
 * (NIBBLE_MODELS, else the repository's models folder). The same on a tiny model over a backend of plain
 * loops.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "../ops/plain_backend.h"
#include "../sanitized.h"
#include "engine/engine.h"
#include "overlap.h"

#define MODEL_FILE "SmolLM2-135M-Instruct.Q4_1.gguf"

enum { N_REQUESTS = SANITIZED ? 4 : 16 }; /* a few overlapping requests walk the same code */

static const char *const questions[16] = {
    "What is the capital of France?",
    "Name three colours.",
    "Write a very short poem about the sea.",
    "Why is the sky blue? Explain it to a child, slowly, and do not forget to say what light is made of.",
    "Count from one to ten.",
    "What is 2 + 2?",
    "Tell me about cats.",
    "Translate 'good morning' to Spanish.",
    "List the planets of the solar system in order from the sun, and say one thing about each of them.",
    "Hi!",
    "Finish this sentence: once upon a time there was a little",
    "What do bees do all day?",
    "Give me a recipe for pancakes.",
    "Who wrote Hamlet?",
    "Repeat after me: the quick brown fox jumps over the lazy dog; the lazy dog sleeps; the fox runs away.",
    "What is a prime number?",
};

static void make_requests(overlap_request *requests, nib_engine *e) {
    for (int i = 0; i < N_REQUESTS; i++) {
        int32_t *ids;
        size_t n;
        nib_error err = {""};
        nib_message message = {"user", questions[i]};
        nib_status status = nib_chat_tokens(e, &message, 1, &ids, &n, &err);
        if (status == NIB_UNSUPPORTED) /* no template: the tiny model */
            status = nib_tokenize(e, questions[i], strlen(questions[i]), 0, &ids, &n, &err);
        if (status != NIB_OK)
            fail_msg("%s", err.text);
        memset(&requests[i], 0, sizeof requests[i]);
        requests[i].options = (nib_request_options){
            .prompt = ids,
            .n_prompt = n,
            .max_tokens = SANITIZED ? 4 : 6 + 3 * (i % 7),
            .ignore_eos = i % 5 == 0,
        };
        requests[i].sampling = (nib_sampling){.temperature = i % 3 ? 0.8f : 0,
                                              .top_k = i % 2 ? 40 : 0,
                                              .top_p = 0.95f,
                                              .repeat_penalty = i % 4 ? 0 : 1.1f,
                                              .seed = 1000 + (uint64_t)i};
    }
}

static void free_prompts(overlap_request *requests) {
    for (int i = 0; i < N_REQUESTS; i++)
        nib_free((void *)requests[i].options.prompt);
}

/* Each request's text beside the others is its text alone, where the backend promises the bits of a row;
 * where not, each comes to its end. Returns how many were cancelled in time: a tiny model may be through
 * before. */
static int check_overlap(nib_engine *e) {
    static overlap_request alone[N_REQUESTS], beside[N_REQUESTS];
    nib_error err = {""};
    nib_info info = {.size = sizeof info};
    assert_int_equal(nib_get_info(e, &info, &err), NIB_OK);
    print_message("%s, %d threads\n", info.compute_path, info.threads);
    make_requests(alone, e);
    make_requests(beside, e);
    for (int i = 0; i < N_REQUESTS; i++) {
        alone[i].engine = beside[i].engine = e;
        beside[i].delay_ms = 25 * (i * 7 % N_REQUESTS);
        beside[i].cancel_after = i % 6 == 3 ? 1 + i / 3 : 0;
        overlap_run(&alone[i]);
    }
    overlap_run_all(beside, N_REQUESTS);
    int n_cancelled = 0;
    for (int i = 0; i < N_REQUESTS; i++) {
        if (info.row_bits_fixed)
            overlap_expect_equal(&beside[i], &alone[i]);
        else if (beside[i].reason == NIB_END_FAILED)
            fail_msg("%s", beside[i].error);
        n_cancelled += beside[i].reason == NIB_END_CANCELLED;
        print_message("%2d: %3zu + %2d tokens%s: %.60s\n", i, beside[i].options.n_prompt, beside[i].n_tokens,
                      beside[i].reason == NIB_END_CANCELLED ? ", cancelled" : "", beside[i].text);
    }
    print_message("%d requests overlapping, %d of them cancelled\n", N_REQUESTS, n_cancelled);
    free_prompts(alone);
    free_prompts(beside);
    return n_cancelled;
}

/* 100 rows a step: the long prompts come in chunks; 6 in flight: the others wait for their turn. */
static const nib_options options = {
    .size = sizeof options, .max_model_len = 256, .max_num_seqs = 6, .max_num_batched_tokens = 100};

static void test_sixteen(void **state) {
    (void)state;
    char path[1024];
    const char *folder = getenv("NIBBLE_MODELS");
    snprintf(path, sizeof path, "%s/" MODEL_FILE, folder ? folder : TESTS_DIR "/../models");
    if (access(path, R_OK) != 0) {
        print_message("SKIP: no %s\n", path);
        skip();
    }
    nib_engine *e;
    nib_error err = {""};
    if (nib_open(&e, path, &options, &err) != NIB_OK)
        fail_msg("%s", err.text);
    assert_true(check_overlap(e) > 0);
    nib_close(e);
}

/* Another backend under the same engine. */
static void test_plain_backend(void **state) {
    (void)state;
    nib_engine *e;
    nib_error err = {""};
    if (engine_open(&e, TESTS_DIR "/golden/models/llama-words", &options,
                    &(loaded_needs){.be = &plain_backend}, &err) != NIB_OK)
        fail_msg("%s", err.text);
    check_overlap(e);
    nib_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_sixteen), cmocka_unit_test(test_plain_backend)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
