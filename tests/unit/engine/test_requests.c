/* SPDX-License-Identifier: Apache-2.0
 *
 * What a request can ask for, over a tiny model: how its tokens are drawn and which may come, and where it
 * ends.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "cpu/sample.h"
#include "one_engine.h"

/* ---- the draw ---- */

/* The answer as the model and the sampler give it, without an engine. */
static void compute_alone(const sample_row *settings, int n, int32_t *tokens, sampled *drawn) {
    loaded *l;
    nib_options o = {.threads = 1, .max_model_len = 400};
    assert_int_equal(loaded_open(&l, TINY, &o, NULL, NULL), NIB_OK);
    void *scratch = mem_aligned(sample_scratch_bytes(TINY_VOCAB));
    int32_t pages[8] = {0, 1, 2, 3, 4, 5, 6, 7}, sequence[400];
    memcpy(sequence, tiny_prompt, sizeof tiny_prompt);
    for (int i = 0; i < n; i++) {
        int n_rows = i == 0 ? 3 : 1, pos = i == 0 ? 0 : 2 + i;
        batch_seq seq = {.pages = CACHE_EVERY_GROUP(pages), .n_pages = 8, .n_rows = n_rows, .pos = pos};
        batch b = {.tokens = sequence + pos,
                   .n_rows = n_rows,
                   .seqs = &seq,
                   .n_seqs = 1,
                   .out_rows = &(int32_t){n_rows - 1},
                   .n_out = 1};
        const float *logits;
        assert_int_equal(model_forward(l->model, &b, &logits, NULL), NIB_OK);
        sample_row how = *settings;
        how.tokens = sequence;
        how.n_prompt = 3;
        how.n_tokens = 3 + i;
        how.position = (uint64_t)i;
        sample_pick(&drawn[i], logits, TINY_VOCAB, &how, scratch);
        tokens[i] = sequence[3 + i] = drawn[i].token;
    }
    mem_free(scratch);
    loaded_close(l);
}

/* A draw shifted by one, or a penalty window of 63, gives other tokens. */
static void test_draws(void **state) {
    (void)state;
    enum { N = 150 };
    static const sample_row settings[] = {
        {.temperature = 1, .seed = 5, .n_top = -1},
        {.temperature = 0.9f, .top_k = 30, .top_p = 0.9f, .min_p = 0.01f, .seed = 6, .n_top = -1},
        {.repeat_penalty = 3, .penalty_window = 64, .n_top = -1},
        {.temperature = 0.7f, .repeat_penalty = 1.5f, .penalty_window = 64, .seed = 7, .n_top = 3},
        {.temperature = 0.7f, .presence_penalty = 1, .frequency_penalty = 0.5f, .seed = 8, .n_top = 20},
    };
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        const sample_row *s = &settings[i];
        int32_t tokens[N];
        static sampled drawn[N];
        compute_alone(s, N, tokens, drawn);
        nib_sampling how = {.size = sizeof how,
                            .temperature = s->temperature,
                            .top_k = s->top_k,
                            .top_p = s->top_p,
                            .min_p = s->min_p,
                            .repeat_penalty = s->repeat_penalty,
                            .presence_penalty = s->presence_penalty,
                            .frequency_penalty = s->frequency_penalty,
                            .seed = s->seed};
        nib_request *r =
            submit_options(e, &(nib_request_options){PROMPT, .max_tokens = N, .ignore_eos = true,
                                                     .sampling = &how, .logprobs = s->n_top >= 0,
                                                     .top_logprobs = s->n_top > 0 ? s->n_top : 0});
        for (int k = 0; k < N; k++) {
            nib_event event = next(r, -1);
            assert_int_equal(event.token, tokens[k]);
            assert_true(event.seed == s->seed);
            assert_int_equal(event.n_top, s->n_top > 0 ? s->n_top : 0);
            assert_true(s->n_top < 0 || event.logprob == drawn[k].logprob);
            for (int j = 0; j < event.n_top; j++) {
                assert_int_equal(event.top[j].token, drawn[k].top[j].token);
                assert_true(event.top[j].logprob == drawn[k].top[j].logprob);
            }
        }
        assert_int_equal(next(r, -1).kind, NIB_EVENT_END);
        nib_release(r);
    }
    refusal(&(nib_request_options){PROMPT, .logprobs = true, .top_logprobs = 21}, "top_logprobs is 21");
    refusal(&(nib_request_options){PROMPT, .top_logprobs = 1}, "needs logprobs");
}

static void test_random_seed(void **state) {
    (void)state;
    nib_sampling how = {.size = sizeof how, .temperature = 3, .random_seed = true};
    nib_request_options o = {PROMPT, .max_tokens = 30, .ignore_eos = true, .sampling = &how};
    answer a = ask(&o), b = ask(&o);
    assert_true(a.end.seed != b.end.seed);
    assert_memory_not_equal(a.tokens, b.tokens, 30 * sizeof(int32_t));
    how.random_seed = false; /* the one that was told gives the same again */
    how.seed = a.end.seed;
    b = ask(&o);
    assert_memory_equal(a.tokens, b.tokens, 30 * sizeof(int32_t));
}

/* ---- what may come, and where it ends ---- */

static void test_ends(void **state) {
    (void)state;
    nib_token_bias to_end = {2, 1000}; /* the model's end, wanted at once */
    nib_request_options o = {PROMPT, .max_tokens = 5, .bias = &to_end, .n_bias = 1};
    answer a = ask(&o);
    assert_int_equal(a.end.reason, NIB_END_STOP);
    assert_int_equal(a.end.end_token, 2);
    assert_int_equal(a.end.end_text, -1);
    assert_int_equal(a.n_tokens, 0);
    o.ignore_eos = true;
    a = ask(&o);
    assert_int_equal(a.end.reason, NIB_END_LENGTH);
    assert_int_equal(a.n_tokens, 5);
    assert_int_equal(a.tokens[4], 2);
    assert_string_equal(a.text, "");
    o.ignore_eos = false;
    o.min_tokens = 3; /* until then it cannot come, whatever the bias */
    a = ask(&o);
    assert_int_equal(a.end.reason, NIB_END_STOP);
    assert_int_equal(a.n_tokens, 3);
    for (int i = 0; i < 3; i++)
        assert_int_not_equal(a.tokens[i], 2);
    int32_t stop = 77;
    nib_token_bias two[] = {{77, 2000}, {2, 1000}};
    o = (nib_request_options){PROMPT,      .max_tokens = 9,   .ignore_eos = true, .bias = two,
                              .n_bias = 2, .stop_ids = &stop, .n_stop_ids = 1,    .min_tokens = 4};
    a = ask(&o);
    assert_int_equal(a.end.reason, NIB_END_STOP);
    assert_int_equal(a.end.end_token, 77);
    assert_int_equal(a.n_tokens, 4);
    assert_int_equal(a.tokens[3], 2);
    two[1].token = 77;
    refusal(&o, "token 77 has two biases");
    two[1] = (nib_token_bias){5, NAN};
    refusal(&o, "the bias of token 5 is nan");
    two[1].token = 280;
    refusal(&o, "token 0 of the bias is 280");
    o.n_bias = 0;
    stop = -1;
    refusal(&o, "token 0 of the stop_ids is -1");
    static int32_t many[TINY_VOCAB + 1]; /* in any order, and more than once */
    for (int i = 0; i < TINY_VOCAB; i++)
        many[i] = i % 2 ? 77 : TINY_VOCAB - 1 - i;
    o.stop_ids = many;
    o.n_stop_ids = TINY_VOCAB;
    a = ask(&o);
    assert_true(a.n_tokens >= 4);
    for (int i = 0; i < a.n_tokens; i++)
        assert_true(a.tokens[i] % 2 == 0); /* the odd ones end it, from the fifth on */
    o.n_stop_ids = TINY_VOCAB + 1;
    refusal(&o, "281 stop_ids; the vocabulary has 280 tokens");
    o.n_stop_ids = 0;
    o.min_tokens = 10;
    refusal(&o, "min_tokens is 10");
    o.min_tokens = -1;
    refusal(&o, "min_tokens is -1");
}

static void test_forbidden(void **state) {
    (void)state;
    nib_request_options plain = {PROMPT, .max_tokens = 20, .ignore_eos = true};
    answer a = ask(&plain);
    nib_token_bias never = {a.tokens[0], -INFINITY};
    nib_request_options o = {PROMPT, .max_tokens = 20, .ignore_eos = true, .bias = &never, .n_bias = 1};
    answer b = ask(&o);
    for (int i = 0; i < 20; i++)
        assert_int_not_equal(b.tokens[i], never.token);
    static nib_token_bias all[TINY_VOCAB];
    for (int i = 0; i < TINY_VOCAB; i++)
        all[i] = (nib_token_bias){i, -INFINITY};
    o.bias = all;
    o.n_bias = TINY_VOCAB;
    b = ask(&o);
    assert_int_equal(b.end.reason, NIB_END_FAILED);
    assert_non_null(strstr(b.error, "no token is left"));
}

/* The text is that before the stop text, however the tokens cut it, and nothing of it was ever told. */
static void test_stop_texts(void **state) {
    (void)state;
    nib_sampling how = {.size = sizeof how, .temperature = 1.5f, .seed = 3};
    nib_request_options o = {PROMPT, .max_tokens = 120, .ignore_eos = true, .sampling = &how};
    answer a = ask(&o);
    size_t length = strlen(a.text);
    assert_true(length > 60);
    for (size_t at = 0; at + 7 < length; at += 3)
        for (size_t n = 1; n <= 7; n += 3) {
            char stop[8] = {0};
            memcpy(stop, a.text + at, n);
            if (((unsigned char)stop[0] & 0xC0) == 0x80 || ((unsigned char)a.text[at + n] & 0xC0) == 0x80)
                continue; /* not a whole character */
            const char *const stops[] = {"\x7F never", stop, "nor this \x7F"};
            o.stop_texts = stops;
            o.n_stop_texts = 3;
            answer b = ask(&o);
            size_t first = (size_t)(strstr(a.text, stop) - a.text);
            assert_int_equal(b.end.reason, NIB_END_STOP);
            assert_int_equal(b.end.end_text, 1);
            assert_int_equal(b.end.end_token, -1);
            if (strlen(b.text) != first)
                fail_msg("stop [%s] in [%s]: [%s]", stop, a.text, b.text);
            assert_memory_equal(b.text, a.text, first);
            assert_memory_equal(b.tokens, a.tokens, (size_t)b.n_tokens * sizeof(int32_t));
        }
    char begun[8] = {0}; /* what only begins like a stop text is told in the end */
    size_t last = length - 1;
    while (((unsigned char)a.text[last] & 0xC0) == 0x80)
        last--;
    strcat(strcpy(begun, a.text + last), "\x7F");
    o.stop_texts = (const char *const[]){begun};
    o.n_stop_texts = 1;
    answer b = ask(&o);
    assert_int_equal(b.end.reason, NIB_END_LENGTH);
    assert_string_equal(b.text, a.text);
    static const char *const bad[] = {"", "\xFF", NULL};
    for (int i = 0; i < 3; i++) {
        o.stop_texts = &bad[i];
        refusal(&o, "stop text 0 is empty");
    }
    o.stop_texts = NULL;
    refusal(&o, "stop_texts is NULL");
}

/* ---- guides ---- */

typedef struct even_guide {
    int32_t accepted[200];
    int n_accepted, n_masks, fail_mask_at, fail_accept_at;
} even_guide;

/* Even tokens where the one before was not; from 70 on only. */
static nib_status even_mask(void *context, uint32_t *bits, size_t n_words, nib_error *err) {
    even_guide *g = context;
    assert_int_equal(n_words, (TINY_VOCAB + 31) / 32);
    if (++g->n_masks == g->fail_mask_at) {
        snprintf(err->text, sizeof err->text, "no mask today");
        return NIB_NO_MEMORY;
    }
    for (size_t t = 70; t < TINY_VOCAB; t++)
        if (t % 2 == (size_t)g->n_accepted % 2)
            bits[t / 32] |= 1u << t % 32;
    return NIB_OK;
}

static nib_status even_accept(void *context, int32_t token, nib_error *err) {
    even_guide *g = context;
    g->accepted[g->n_accepted++] = token;
    if (g->n_accepted == g->fail_accept_at) {
        snprintf(err->text, sizeof err->text, "not this one");
        return NIB_BAD_ARGUMENT;
    }
    return NIB_OK;
}

static void test_guides(void **state) {
    (void)state;
    even_guide g = {.n_accepted = 0};
    nib_guide guide = {.size = sizeof guide, .context = &g, .mask = even_mask, .accept = even_accept};
    nib_sampling how = {.size = sizeof how, .temperature = 2, .seed = 9};
    nib_request_options o = {PROMPT, .max_tokens = 100, .ignore_eos = true, .guide = &guide,
                             .sampling = &how};
    answer a = ask(&o);
    assert_int_equal(a.n_tokens, 100);
    assert_int_equal(g.n_accepted, 100);
    assert_memory_equal(a.tokens, g.accepted, 100 * sizeof(int32_t));
    for (int i = 0; i < 100; i++)
        assert_true(a.tokens[i] >= 70 && a.tokens[i] % 2 == i % 2);
    g = (even_guide){.fail_mask_at = 4};
    a = ask(&o);
    assert_int_equal(a.end.reason, NIB_END_FAILED);
    assert_int_equal(a.end.status, NIB_NO_MEMORY);
    assert_string_equal(a.error, "no mask today");
    assert_int_equal(a.n_tokens, 3);
    g = (even_guide){.fail_accept_at = 4};
    a = ask(&o);
    assert_int_equal(a.end.status, NIB_BAD_ARGUMENT);
    assert_string_equal(a.error, "not this one");
    guide.accept = NULL;
    refusal(&o, "mask or accept is NULL");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_draws),     cmocka_unit_test(test_random_seed), cmocka_unit_test(test_ends),
        cmocka_unit_test(test_forbidden), cmocka_unit_test(test_stop_texts),  cmocka_unit_test(test_guides),
    };
    return cmocka_run_group_tests(tests, open_engine, close_engine);
}
