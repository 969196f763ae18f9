/* SPDX-License-Identifier: Apache-2.0
 *
 * The engine over a tiny model: many threads, few pages, cancels, failed steps. Small enough for TSan, ASan
 * and a failing allocator.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "base/mem.h"
#include "overlap.h"
#include "tiny_engine.h"

/* ---- overlapping requests ---- */

enum { N_REQUESTS = 24 };

static uint32_t rng(uint64_t *state, uint32_t below) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33) % below;
}

static void make_requests(overlap_request *requests, int32_t (*prompts)[200]) {
    uint64_t state = 7;
    for (int i = 0; i < N_REQUESTS; i++) {
        overlap_request *r = &requests[i];
        int n_prompt = 1 + (int)rng(&state, i % 3 ? 30 : 150);
        for (int j = 0; j < n_prompt; j++)
            prompts[i][j] = (int32_t)rng(&state, 275);
        memset(r, 0, sizeof *r);
        r->options = (nib_request_options){
            .prompt = prompts[i],
            .n_prompt = (size_t)n_prompt,
            .max_tokens = i % 5 == 0 ? 0 : 1 + (int)rng(&state, 60),
            .ignore_eos = i % 2,
        };
        r->sampling = (nib_sampling){.temperature = i % 4 ? 0.5f * (float)(i % 4) : 0,
                                     .top_k = i % 3 ? 40 : 0,
                                     .top_p = i % 7 ? 0.95f : 0,
                                     .repeat_penalty = i % 6 ? 0 : 1.2f,
                                     .seed = (uint64_t)i};
    }
}

static void check_overlap(nib_activations activations, nib_kv_dtype kv_dtype) {
    static overlap_request alone[N_REQUESTS], beside[N_REQUESTS];
    static int32_t prompts[N_REQUESTS][200];
    uint64_t random = 99;
    make_requests(alone, prompts);
    nib_options options = {
        .max_model_len = 200, .max_num_seqs = 1, .activations = activations, .kv_cache = kv_dtype};
    nib_engine *e = open_tiny(&options, NULL);
    for (int i = 0; i < N_REQUESTS; i++) {
        alone[i].engine = e;
        overlap_run(&alone[i]);
    }
    nib_close(e);
    /* 7 pages of 64 positions for 6 sequences of up to 200: some must give way and start again. */
    options.max_num_seqs = 6;
    options.max_num_batched_tokens = 37;
    options.threads = 2;
    e = open_tiny(&options, &(loaded_needs){.n_kv_pages = 7});
    for (int round = 0; round < 3; round++) {
        make_requests(beside, prompts);
        for (int i = 0; i < N_REQUESTS; i++) {
            beside[i].engine = e;
            beside[i].delay_ms = (int)rng(&random, 10);
            beside[i].cancel_after = rng(&random, 4) ? 0 : 1 + (int)rng(&random, 20);
        }
        overlap_run_all(beside, N_REQUESTS);
        for (int i = 0; i < N_REQUESTS && e->l->be->row_bits_fixed; i++)
            overlap_expect_equal(&beside[i], &alone[i]);
    }
    pthread_mutex_lock(&e->lock);
    assert_true(e->stats.preemptions > 0);
    pthread_mutex_unlock(&e->lock);
    nib_close(e);
}

static void test_overlap_equals_alone(void **state) {
    (void)state;
    check_overlap(NIB_ACTIVATIONS_AUTO, NIB_KV_AUTO);
    check_overlap(NIB_ACTIVATIONS_F32, NIB_KV_FP32);
    check_overlap(NIB_ACTIVATIONS_INT8, NIB_KV_FP8);
}

/* ---- a request's life ---- */

static void test_events(void **state) {
    (void)state;
    nib_engine *e = open_tiny(&(nib_options){.max_model_len = 100}, NULL);
    nib_request *r = submit(e, 5);
    double prompt_ms = 0;
    for (int i = 1; i <= 5; i++) {
        nib_event event = next(r, -1);
        assert_int_equal(event.kind, NIB_EVENT_TOKEN);
        assert_int_equal(event.n_generated, i);
        assert_int_equal(event.n_prompt, 3);
        assert_int_equal(strlen(event.text), event.text_bytes);
        prompt_ms = event.prompt_ms;
    }
    assert_true(prompt_ms > 0);
    for (int i = 0; i < 2; i++) { /* the end stays the end */
        nib_event event = next(r, -1);
        assert_int_equal(event.kind, NIB_EVENT_END);
        assert_int_equal(event.reason, NIB_END_LENGTH);
        assert_int_equal(event.n_generated, 5);
        assert_string_equal(event.error, "");
    }
    nib_release(r);

    r = submit(e, 0); /* up to max_model_len */
    nib_event event;
    do
        event = next(r, -1);
    while (event.kind != NIB_EVENT_END);
    assert_int_equal(event.n_generated, 97);
    nib_release(r);
    nib_release(NULL);
    nib_close(e);
}

static void test_cancel_and_close(void **state) {
    (void)state;
    nib_engine *e = open_tiny(&(nib_options){.max_model_len = 500, .max_num_seqs = 2}, NULL);
    nib_request *running = submit(e, 0), *second = submit(e, 0), *waiting = submit(e, 0);
    nib_cancel(waiting); /* before it ever ran */
    nib_event event = next(waiting, -1);
    assert_int_equal(event.kind, NIB_EVENT_END);
    assert_int_equal(event.reason, NIB_END_CANCELLED);
    assert_int_equal(event.n_generated, 0);
    nib_release(waiting);
    nib_release(second); /* while it runs */
    assert_int_equal(next(running, -1).kind, NIB_EVENT_TOKEN);
    nib_cancel(running);
    do
        event = next(running, -1);
    while (event.kind != NIB_EVENT_END);
    assert_int_equal(event.reason, NIB_END_CANCELLED);
    nib_release(running);
    for (int i = 0; i < 10; i++)
        nib_release(submit(e, 0));
    nib_close(e); /* with some of them still inside */
    nib_close(NULL);
}

static void test_bad_requests(void **state) {
    (void)state;
    nib_engine *e = open_tiny(&(nib_options){.max_model_len = 64}, NULL);
    static int32_t prompt[64];
    static const struct {
        nib_request_options options;
        nib_sampling sampling;
        int32_t first;
        const char *words;
    } cases[] = {
        {{.prompt = prompt, .n_prompt = 0}, {0}, 0, "an empty prompt"},
        {{.prompt = prompt, .n_prompt = 64}, {0}, 0, "with max_model_len 64 it can have at most 63"},
        {{.prompt = prompt, .n_prompt = 2, .max_tokens = -1}, {0}, 0, "max_tokens is -1"},
        {{.prompt = prompt, .n_prompt = 2}, {0}, 280, "token 0 of the prompt is 280; the vocabulary has 280"},
        {{.prompt = prompt, .n_prompt = 2}, {0}, -1, "token 0 of the prompt is -1"},
        {{.prompt = prompt, .n_prompt = 2}, {.temperature = -1}, 0, "temperature is -1"},
        {{.prompt = prompt, .n_prompt = 2}, {.temperature = NAN}, 0, "temperature is"},
        {{.prompt = prompt, .n_prompt = 2}, {.top_k = -1}, 0, "top_k is -1"},
        {{.prompt = prompt, .n_prompt = 2}, {.top_p = 1.5f}, 0, "top_p is 1.5"},
        {{.prompt = prompt, .n_prompt = 2}, {.min_p = -0.5f}, 0, "min_p -0.5"},
        {{.prompt = prompt, .n_prompt = 2}, {.repeat_penalty = INFINITY}, 0, "repeat_penalty is"},
        {{.prompt = prompt, .n_prompt = 2}, {.repeat_penalty = NAN}, 0, "repeat_penalty is"},
        {{.prompt = prompt, .n_prompt = 2}, {.repeat_penalty = 101}, 0, "between 0.01 and 100"},
        {{.prompt = prompt, .n_prompt = 2}, {.repeat_penalty = 1e-40f}, 0, "repeat_penalty is"},
        {{.prompt = prompt, .n_prompt = 2}, {.repeat_penalty = -1}, 0, "repeat_penalty is -1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        nib_request *r;
        nib_error err = {""};
        prompt[0] = cases[i].first;
        nib_request_options o = cases[i].options;
        nib_sampling sampling = cases[i].sampling;
        sampling.size = sizeof sampling;
        o.size = sizeof o;
        o.sampling = &sampling;
        assert_int_equal(nib_submit(e, &o, &r, &err), NIB_BAD_ARGUMENT);
        if (!strstr(err.text, cases[i].words))
            fail_msg("'%s' does not say '%s'", err.text, cases[i].words);
        assert_null(r);
    }
    nib_close(e);
}

static void test_bad_opens(void **state) {
    (void)state;
    static const struct {
        const char *path;
        nib_options options;
        nib_status status;
    } cases[] = {
        {TINY "-not-there", {0}, NIB_IO},
        {TINY, {.threads = -1}, NIB_BAD_ARGUMENT},
        {TINY, {.max_num_seqs = -1}, NIB_BAD_ARGUMENT},
        {TINY, {.max_num_seqs = 5000}, NIB_BAD_ARGUMENT},
        {TINY, {.max_num_seqs = 20, .max_num_batched_tokens = 10}, NIB_BAD_ARGUMENT},
        {TINY, {.max_num_batched_tokens = -1}, NIB_BAD_ARGUMENT},
        {TINY, {.max_model_len = -1}, NIB_BAD_ARGUMENT},
        {TINY, {.max_model_len = 513}, NIB_BAD_ARGUMENT}, /* the model was made for 512 */
        {TINY, {.activations = (nib_activations)6}, NIB_BAD_ARGUMENT},
        {TINY, {.activations = (nib_activations)-1}, NIB_BAD_ARGUMENT},
        {TINY, {.kv_cache = (nib_kv_dtype)4}, NIB_BAD_ARGUMENT},
        {TINY, {.kv_cache = (nib_kv_dtype)-1}, NIB_BAD_ARGUMENT},
        {TINY, {.cpu_features = NIB_CPU_ALL + 1}, NIB_BAD_ARGUMENT},
        {TINY, {.max_waiting = -1}, NIB_BAD_ARGUMENT},
        {TINY, {.prefill_beside = -1}, NIB_BAD_ARGUMENT},
        {TINY, {.device = "gpu"}, NIB_BAD_ARGUMENT},
        {TINY, {.device = "cuda:"}, NIB_BAD_ARGUMENT},
        {TINY, {.device = "cuda:0,"}, NIB_BAD_ARGUMENT},
        {TINY, {.device = "cuda:0"}, NIB_UNSUPPORTED},
        {TINY, {.device = "cuda:0,1"}, NIB_UNSUPPORTED},
        {TINY, {.device = "cpu", .activations = NIB_ACTIVATIONS_FP8}, NIB_UNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        nib_engine *e;
        nib_error err = {""};
        nib_options o = cases[i].options;
        o.size = sizeof o;
        assert_int_equal(nib_open(&e, cases[i].path, &o, &err), cases[i].status);
        assert_null(e);
        assert_true(strlen(err.text) > 10);
        assert_int_equal(nib_open(&e, cases[i].path, &o, NULL), cases[i].status);
    }
}

/* ---- failures inside ---- */

static nib_status (*sound_step_wait)(backend *be, nib_error *err);

static nib_status failing_step(backend *be, nib_error *err) {
    sound_step_wait(be, err);
    return nib_fail(err, NIB_NO_MEMORY, "the device went away");
}

static void not_numbers(backend *be, sampled *out, const buf *logits, const sample_row *rows) {
    (void)be, (void)rows;
    for (size_t i = 0; i < logits->rows; i++)
        out[i] = (sampled){.token = -1};
}

/* Requests under way end with the words; the engine serves the next one as if nothing had been. */
static void expect_failure(nib_engine *e, nib_status kind, const char *words) {
    nib_request *r[3];
    for (int i = 0; i < 3; i++)
        r[i] = submit(e, 4);
    for (int i = 0; i < 3; i++) {
        nib_event event = next(r[i], -1);
        assert_int_equal(event.kind, NIB_EVENT_END);
        assert_int_equal(event.reason, NIB_END_FAILED);
        assert_int_equal(event.status, kind);
        if (!strstr(event.error, words))
            fail_msg("'%s' does not say '%s'", event.error, words);
        nib_release(r[i]);
    }
}

static void test_failed_steps(void **state) {
    (void)state;
    nib_engine *e = open_tiny(&(nib_options){.max_model_len = 64}, NULL);
    backend *be = e->l->be, sound = *be; /* the engine's thread is idle whenever this one changes BE */
    sound_step_wait = be->step_wait;
    be->step_wait = failing_step;
    expect_failure(e, NIB_NO_MEMORY, "the device went away");
    be->step_wait = sound.step_wait;
    be->op.sample = not_numbers;
    expect_failure(e, NIB_BAD_FILE, "not a number");
    be->op.sample = sound.op.sample;
    nib_request *r = submit(e, 2);
    assert_int_equal(next(r, -1).kind, NIB_EVENT_TOKEN);
    assert_int_equal(next(r, -1).kind, NIB_EVENT_TOKEN);
    assert_int_equal(next(r, -1).reason, NIB_END_LENGTH);
    nib_release(r);
    nib_close(e);
}

static void test_no_memory(void **state) {
    (void)state;
    bool opened = false;
    for (long n = 0; !opened; n += n < 40 ? 1 : 7) {
        nib_engine *e;
        nib_error err = {""};
        mem_fail_after(n);
        nib_status status = nib_open(
            &e, TINY, &(nib_options){.size = sizeof(nib_options), .threads = 1, .max_model_len = 64}, &err);
        mem_fail_after(-1);
        opened = status == NIB_OK;
        if (opened)
            nib_close(e);
        else if (status != NIB_NO_MEMORY)
            fail_msg("allocation %ld failed: status %d, %s", n, status, err.text);
    }
    nib_engine *e = open_tiny(&(nib_options){.max_model_len = 64}, NULL);
    for (long n = 0; n < 20; n++) { /* the caller's allocations and the engine's, in whatever order */
        nib_request_options o = {
            .size = sizeof o, .prompt = (int32_t[]){5, 6}, .n_prompt = 2, .max_tokens = 3};
        nib_request *r;
        mem_fail_after(n);
        nib_status status = nib_submit(e, &o, &r, NULL);
        nib_event event = {.size = sizeof event};
        while (status == NIB_OK && event.kind != NIB_EVENT_END)
            status = nib_next_event(r, &event, 100, NULL);
        mem_fail_after(-1);
        while (r && event.kind != NIB_EVENT_END) /* a failed call loses no event */
            event = next(r, -1);
        assert_true(status == NIB_OK || status == NIB_NO_MEMORY);
        nib_release(r);
    }
    nib_close(e);
}

/* ---- words and facts ---- */

enum { LONGEST = 3000 };

/* A vocabulary of 280 pieces of up to LONGEST bytes, none of which is UTF-8: byte 0xFF, the byte-level
 * alphabet's U+00FF. */
static tokenizer *hostile_words(void) {
    static char all[2 * LONGEST];
    static strview tokens[280];
    for (size_t i = 0; i < sizeof all; i += 2)
        memcpy(all + i, "\xC3\xBF", 2);
    for (size_t i = 0; i < 280; i++)
        tokens[i] = (strview){all, 2 * (i < 2 ? i + 1 : LONGEST - i)};
    static const strview merge = {"\xC3\xBF \xC3\xBF", 5}; /* a vocabulary without any is refused */
    token_source source = token_source_unset("hostile");
    source.model = strview_of("gpt2");
    source.pre = strview_of("smollm");
    source.tokens = tokens;
    source.n_tokens = 280;
    source.merges = &merge;
    source.n_merges = 1;
    source.vocab = 280;
    tokenizer *t;
    nib_error err = {""};
    if (tokenizer_open(&t, &source, &err) != NIB_OK)
        fail_msg("%s", err.text);
    return t;
}

/* Every byte of a piece becomes three of U+FFFD: the text of a token is three times its piece. */
static void test_pieces_of_invalid_bytes(void **state) {
    (void)state;
    nib_engine *e = open_tiny(&(nib_options){.max_model_len = 64}, NULL);
    tokenizer *sound = e->l->words;
    e->l->words = hostile_words(); /* the engine's thread is idle */
    e->longest_piece = LONGEST;
    nib_request *r = submit(e, 4);
    for (int i = 0; i < 4; i++) {
        nib_event event = next(r, -1);
        assert_int_equal(event.kind, NIB_EVENT_TOKEN);
        assert_in_range(event.token, 2, 279);
        size_t piece = LONGEST - (size_t)event.token;
        assert_int_equal(event.text_bytes, 3 * piece);
        assert_int_equal(strlen(event.text), 3 * piece);
        char *text;
        size_t bytes;
        assert_int_equal(nib_detokenize(e, &event.token, 1, &text, &bytes, NULL), NIB_OK);
        assert_int_equal(bytes, 3 * piece);
        assert_memory_equal(text, event.text, bytes + 1);
        nib_free(text);
    }
    assert_int_equal(next(r, -1).kind, NIB_EVENT_END);
    nib_release(r);
    tokenizer_close(e->l->words);
    e->l->words = sound;
    nib_close(e);
}

static void test_text_and_back(void **state) {
    (void)state;
    nib_engine *e = open_tiny(&(nib_options){0}, NULL);
    static const char text[] = "the cat sat on \xC3\xA9\xE2\x82\xAC\n";
    int32_t *ids;
    size_t n, bytes;
    char *again;
    nib_error err = {""};
    assert_int_equal(nib_tokenize(e, text, sizeof text - 1, 0, &ids, &n, NULL), NIB_OK);
    assert_int_equal(nib_detokenize(e, ids, n, &again, &bytes, NULL), NIB_OK);
    assert_int_equal(bytes, sizeof text - 1);
    assert_string_equal(again, text);
    nib_free(again);
    assert_int_equal(nib_detokenize(e, NULL, 0, &again, &bytes, NULL), NIB_OK);
    assert_true(bytes == 0 && again[0] == 0);
    nib_free(again);
    static const int32_t outside[] = {280, -1, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < 4; i++) {
        ids[n - 1] = outside[i];
        assert_int_equal(nib_detokenize(e, ids, n, &again, &bytes, &err), NIB_BAD_ARGUMENT);
        assert_non_null(strstr(err.text, "the vocabulary has 280"));
        assert_null(again);
    }
    nib_free(ids);
    nib_close(e);
    assert_string_equal(nib_version(), NIB_VERSION);
}

static void test_words(void **state) {
    (void)state;
    nib_engine *e = open_tiny(&(nib_options){.threads = 2}, NULL);
    nib_info info = {.size = sizeof info};
    assert_int_equal(nib_get_info(e, &info, NULL), NIB_OK);
    assert_string_equal(info.name, "llama-words");
    assert_string_equal(info.compute_mode, "w4a8-int8");
    assert_true(info.row_bits_fixed);
    assert_int_equal(info.model_len, 512);
    assert_int_equal(info.n_ends, 2);
    assert_int_equal(info.ends[1], 2);
    assert_string_equal(info.family, "llama");
    assert_non_null(strstr(info.compute_path, "cpu"));
    assert_int_equal(info.max_model_len, 512); /* of the model, less than the default */
    assert_int_equal(info.vocab_size, 280);
    assert_int_equal(info.threads, 2);
    assert_true(info.weight_bytes > 10000 && info.kv_bytes > 10000);
    assert_true(info.has_chat_template);
    assert_string_equal(info.chat_template_note, "");

    int32_t *ids, *plain;
    size_t n, n_plain;
    const char *text = "the <|im_end|> singer";
    assert_int_equal(nib_tokenize(e, text, strlen(text), 0, &ids, &n, NULL), NIB_OK);
    assert_int_equal(nib_tokenize(e, text, strlen(text), NIB_TOKENIZE_NO_SPECIAL, &plain, &n_plain, NULL),
                     NIB_OK);
    assert_true(n < n_plain);
    nib_free(ids);
    nib_free(plain);
    nib_message messages[] = {{"user", "Say <|im_end|>."}};
    nib_error err = {""};
    if (nib_chat_tokens(e, messages, 1, &ids, &n, &err) != NIB_OK)
        fail_msg("%s", err.text);
    int n_ends = 0;
    for (size_t i = 0; i < n; i++)
        n_ends += ids[i] == 2;
    assert_int_equal(n_ends, 1); /* the template's own; the user's is text */
    nib_free(ids);
    messages[0].role = "nobody";
    assert_int_equal(nib_chat_tokens(e, messages, 1, &ids, &n, &err), NIB_BAD_ARGUMENT);
    assert_null(ids);
    nib_close(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_overlap_equals_alone),
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_cancel_and_close),
        cmocka_unit_test(test_bad_requests),
        cmocka_unit_test(test_bad_opens),
        cmocka_unit_test(test_failed_steps),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_pieces_of_invalid_bytes),
        cmocka_unit_test(test_text_and_back),
        cmocka_unit_test(test_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
