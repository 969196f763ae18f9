/* SPDX-License-Identifier: Apache-2.0
 *
 * Sampling against one that sorts the whole vocabulary and works in FP64: the same candidates survive, they
 * are drawn as often as their probabilities say, and a seed gives the token it always gave.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../ops/sample_suite.h"
#include "base/clock.h"
#include "base/mem.h"
#include "cpu/cpu.h"
#include "cpu/sample.h"

enum { MAX_VOCAB = 5000, LARGE_VOCAB = 262144 };

static void *scratch;

static sampled pick_all(const sample_row *how, const float *logits, size_t vocab) {
    sampled out;
    sample_pick(&out, logits, vocab, how, scratch);
    return out;
}

static int32_t pick(const sample_row *how, const float *logits, size_t vocab) {
    return pick_all(how, logits, vocab).token;
}

static int open_scratch(void **state) {
    (void)state;
    size_t bytes = sample_scratch_bytes(LARGE_VOCAB);
    scratch = mem_aligned(bytes);
    if (scratch)
        memset(scratch, 0xA5, bytes); /* its content is of no matter */
    return !scratch;
}

static int close_scratch(void **state) {
    (void)state;
    mem_free(scratch);
    return 0;
}

static uint64_t rng_state = 1;

static double rng(void) {
    rng_state = rng_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(rng_state >> 33) * 0x1p-31;
}

static void random_logits(float *logits, int n) {
    for (int i = 0; i < n; i++)
        logits[i] = (float)(4 * (rng() + rng() + rng() - 1.5) + (rng() < 0.01 ? 6 : 0));
}

/* ---- as an op ---- */

static void test_op(void **state) {
    (void)state;
    backend *be;
    for (int threads = 1; threads <= 3; threads += 2) {
        assert_int_equal(cpu_open(&be, &(cpu_options){.threads = threads}, NULL), NIB_OK);
        sample_suite_golden(be);
        be->close(be);
    }
}

/* ---- against FP64 ---- */

typedef struct entry {
    double p; /* probability */
    double logit;
    int id;
} entry;

static int by_logit(const void *a, const void *b) {
    const entry *x = a, *y = b;
    return x->logit != y->logit ? (x->logit > y->logit ? -1 : 1) : x->id - y->id;
}

/* The distribution that the settings leave, sorted; returns how many tokens it has. */
static int reference(const sample_row *how, const float *logits, int vocab, entry *out) {
    for (int i = 0; i < vocab; i++)
        out[i] = (entry){.id = i, .logit = logits[i]};
    qsort(out, (size_t)vocab, sizeof *out, by_logit);
    int n = how->top_k > 0 && how->top_k < vocab ? how->top_k : vocab;
    double total = 0, sum = 0;
    for (int i = 0; i < n; i++)
        total += out[i].p = exp((out[i].logit - out[0].logit) / how->temperature);
    if (how->top_p > 0 && how->top_p < 1)
        for (int i = 0; i < n; i++)
            if ((sum += out[i].p) >= how->top_p * total)
                n = i + 1;
    while (n > 1 && out[n - 1].p < how->min_p)
        n--;
    total = 0;
    for (int i = 0; i < n; i++)
        total += out[i].p;
    for (int i = 0; i < n; i++)
        out[i].p /= total;
    return n;
}

/* N_DRAWS draws: none outside the reference's candidates, and a chi-square that chance explains. */
static void check_draws(const sample_row *settings, const float *logits, int vocab, int n_draws) {
    static entry want[MAX_VOCAB];
    static int seen[MAX_VOCAB];
    sample_row how = *settings;
    int n = reference(&how, logits, vocab, want);
    memset(seen, 0, sizeof seen);
    for (int i = 0; i < n_draws; i++) {
        how.position = (uint64_t)i;
        int32_t id = pick(&how, logits, (size_t)vocab);
        assert_true(id >= 0 && id < vocab);
        seen[id]++;
    }
    int allowed = 0, groups = 0;
    double chi = 0, rest_p = 1, rest_seen = n_draws;
    for (int i = 0; i < n; i++) {
        allowed += seen[want[i].id];
        if (want[i].p * n_draws < 8)
            continue; /* too rare to count alone */
        double d = seen[want[i].id] - want[i].p * n_draws;
        chi += d * d / (want[i].p * n_draws);
        rest_p -= want[i].p;
        rest_seen -= seen[want[i].id];
        groups++;
    }
    if (rest_p * n_draws > 8) {
        chi += pow(rest_seen - rest_p * n_draws, 2) / (rest_p * n_draws);
        groups++;
    }
    assert_int_equal(allowed, n_draws);
    assert_true(groups > 0);
    assert_true(chi < groups + 5 * sqrt(2.0 * groups) + 5);
}

static void test_distributions(void **state) {
    (void)state;
    static float logits[MAX_VOCAB];
    static const sample_row settings[] = {
        {.temperature = 1},
        {.temperature = 0.6f, .top_p = 0.95f, .top_k = 20},
        {.temperature = 0.7f, .top_k = 1},
        {.temperature = 1.5f, .top_k = 300},
        {.temperature = 1, .top_p = 0.5f},
        {.temperature = 2, .top_p = 0.999f},
        {.temperature = 1, .min_p = 0.05f},
        {.temperature = 0.8f, .top_k = 50, .top_p = 0.9f, .min_p = 0.1f},
        {.temperature = 3, .top_p = 0.9f, .min_p = 0.01f},
        {.temperature = 1, .top_k = 100000, .top_p = 1},
    };
    static const int vocabs[] = {3, 33, 1000, MAX_VOCAB};
    for (size_t v = 0; v < 4; v++)
        for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
            for (int outliers = 0; outliers < 2; outliers++) {
                sample_row how = settings[i];
                how.seed = 100 * v + i;
                how.n_top = -1;
                random_logits(logits, vocabs[v]);
                if (outliers) {
                    logits[0] = -1e9f;
                    logits[vocabs[v] / 2] = -INFINITY;
                }
                check_draws(&how, logits, vocabs[v], vocabs[v] < MAX_VOCAB ? 2000 : 500);
            }
}

static void test_ties(void **state) {
    (void)state;
    static float logits[1000];
    for (uint64_t i = 0; i < 100; i++) { /* all equal: top-k keeps the lowest ids */
        sample_row how = {.temperature = 1, .top_k = 7, .seed = i, .n_top = -1};
        assert_true(pick(&how, logits, 1000) < 7);
    }
    assert_int_equal(pick(&(sample_row){.n_top = -1}, logits, 1000), 0);
    logits[700] = logits[701] = 1;
    assert_int_equal(pick(&(sample_row){.n_top = -1}, logits, 1000), 700);
}

/* ---- penalties, bias, mask ---- */

static void test_repeat_penalty(void **state) {
    (void)state;
    float logits[100] = {[3] = 2, [4] = 1.5f, [5] = 1.2f};
    int32_t tokens[70] = {[0] = 5, [68] = 3, [69] = 3};
    for (int i = 1; i < 68; i++)
        tokens[i] = 90;
    sample_row how = {
        .repeat_penalty = 1.5f, .penalty_window = 64, .tokens = tokens, .n_tokens = 70, .n_top = -1};
    assert_int_equal(pick(&how, logits, 100), 4); /* 2 / 1.5 once, though it stands there twice */
    how.repeat_penalty = 1.3f;
    assert_int_equal(pick(&how, logits, 100), 3);
    for (int i = 0; i < 100; i++)
        logits[i] = -1;
    how.repeat_penalty = 2; /* negative logits move down too */
    how.tokens = (int32_t[]){0, 1};
    how.n_tokens = 2;
    assert_int_equal(pick(&how, logits, 100), 2);
}

/* The window's last token is in it, the one before is not. */
static void test_penalty_window(void **state) {
    (void)state;
    float logits[10] = {[3] = 2, [4] = 1.5f};
    int32_t tokens[200];
    static const int32_t windows[] = {1, 63, 64, 65, 150};
    for (size_t i = 0; i < sizeof windows / sizeof *windows; i++)
        for (int back = 1; back <= 200; back++) {
            for (int j = 0; j < 200; j++)
                tokens[j] = j == 200 - back ? 3 : 9;
            sample_row how = {.repeat_penalty = 2,
                              .penalty_window = windows[i],
                              .tokens = tokens,
                              .n_tokens = 200,
                              .n_top = -1};
            assert_int_equal(pick(&how, logits, 10), back <= windows[i] ? 4 : 3);
        }
}

static void test_presence_and_frequency(void **state) {
    (void)state;
    float logits[8] = {0, 3, 2.5f, 2, 1};
    int32_t tokens[] = {1, 1, 1, 2, 2, 3};
    sample_row how = {.tokens = tokens, .n_tokens = 6, .n_prompt = 3, .presence_penalty = 1, .n_top = -1};
    assert_int_equal(pick(&how, logits, 8), 1); /* the prompt does not count */
    how.n_prompt = 1;
    assert_int_equal(pick(&how, logits, 8), 1); /* 2, 1.5, 1, 1: the first of them */
    how.presence_penalty = 2.2f;
    assert_int_equal(pick(&how, logits, 8), 4); /* .8, .3, -.2, 1 */
    how.presence_penalty = 0;
    how.frequency_penalty = 0.6f; /* 1.8, 1.3, 1.4, 1 */
    assert_int_equal(pick(&how, logits, 8), 1);
    how.n_prompt = 0; /* 1.2, 1.3, 1.4, 1 */
    assert_int_equal(pick(&how, logits, 8), 3);
    how.frequency_penalty = -1; /* may encourage: 6 */
    assert_int_equal(pick(&how, logits, 8), 1);
}

static void test_bias_and_mask(void **state) {
    (void)state;
    float logits[70] = {[3] = 2, [40] = 1};
    token_bias bias[] = {{40, 1.5f}, {3, -INFINITY}};
    sample_row how = {.bias = bias, .n_bias = 1, .n_top = 1};
    sampled s = pick_all(&how, logits, 70);
    assert_int_equal(s.token, 40);
    assert_int_equal(s.top[0].token, 3); /* log-probabilities are the network's */
    how.n_bias = 2;
    assert_int_equal(pick(&how, logits, 70), 40);
    uint32_t mask[3] = {1u << 3 | 1u << 7, 0, 1u << 5};
    how.mask = mask;
    assert_int_equal(pick(&how, logits, 70), 7);
    for (uint64_t i = 0; i < 50; i++) {
        sample_row warm = {
            .temperature = 2, .seed = i, .mask = mask, .top_p = i % 2 ? 0.99f : 0, .n_top = -1};
        int32_t token = pick(&warm, logits, 70);
        assert_true(token == 3 || token == 7 || token == 69);
    }
    memset(mask, 0, sizeof mask);
    assert_int_equal(pick(&how, logits, 70), -1); /* nothing is allowed */
    memset(mask, 0xFF, sizeof mask);
    assert_int_equal(pick(&how, logits, 70), 40);
}

/* ---- log-probabilities ---- */

static void test_logprobs(void **state) {
    (void)state;
    static float logits[MAX_VOCAB];
    static entry want[MAX_VOCAB];
    for (int round = 0; round < 20; round++) {
        int vocab = round % 2 ? MAX_VOCAB : 2 + round;
        random_logits(logits, vocab);
        logits[vocab / 2] = -INFINITY;
        sample_row plain = {.temperature = 1};
        reference(&plain, logits, vocab, want);
        sample_row how = {.temperature = 2, .seed = (uint64_t)round, .n_top = round % 3 ? SAMPLE_MAX_TOP : 0};
        sampled s = pick_all(&how, logits, (size_t)vocab);
        int n = how.n_top < vocab ? how.n_top : vocab;
        assert_int_equal(s.n_top, n);
        for (int i = 0; i < vocab; i++) {
            double p = log(want[i].p);
            if (i < n) {
                assert_int_equal(s.top[i].token, want[i].id);
                assert_true(s.top[i].logprob == p || fabs(s.top[i].logprob - p) < 2e-6 * (1 + fabs(p)));
            }
            if (want[i].id == s.token)
                assert_true(fabs(s.logprob - p) < 2e-6 * (1 + fabs(p)));
        }
    }
}

/* ---- odd logits ---- */

static void test_no_numbers(void **state) {
    (void)state;
    float logits[100] = {[50] = NAN};
    sample_row cold = {.n_top = -1},
               warm = {.temperature = 1, .top_p = 0.9f, .top_k = 5, .min_p = 1, .n_top = -1};
    assert_int_equal(pick(&cold, logits, 100), -1);
    assert_int_equal(pick(&warm, logits, 100), -1);
    logits[50] = INFINITY;
    assert_int_equal(pick(&cold, logits, 100), -1);
    assert_int_equal(pick(&warm, logits, 100), -1);
    logits[50] = 3e38f;
    logits[51] = -3e38f; /* a spread that is no float */
    assert_int_equal(pick(&warm, logits, 100), 50);
    warm.temperature = 1e-38f;
    assert_int_equal(pick(&warm, logits, 100), 50);
    warm.temperature = 3e38f;
    assert_int_equal(pick(&warm, logits, 100), 50); /* min-p of 1 */
    for (int i = 0; i < 100; i++)
        logits[i] = -INFINITY;
    assert_int_equal(pick(&cold, logits, 100), -1);
    assert_int_equal(pick(&warm, logits, 100), -1);
    logits[99] = -5;
    for (int k = 0; k < 3; k++)
        for (int p = 0; p < 2; p++) {
            sample_row how = {.temperature = 1, .top_k = k, .top_p = p ? 0.5f : 0, .n_top = -1};
            assert_int_equal(pick(&how, logits, 100), 99);
        }
    assert_int_equal(pick(&cold, logits, 100), 99);
}

static double fastest(const sample_row *how, const float *logits) {
    double best = 1e9;
    for (int i = 0; i < 12; i++) {
        double start = clock_seconds();
        assert_true(pick(how, logits, LARGE_VOCAB) >= 0);
        double seconds = clock_seconds() - start;
        best = seconds < best ? seconds : best;
    }
    return best;
}

/* One logit far away must not make the steps so large that all others fall into one. */
static void test_outliers_cost_nothing(void **state) {
    (void)state;
    static float logits[LARGE_VOCAB];
    static const sample_row settings[] = {
        {.temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f, .n_top = -1},
        {.temperature = 1, .top_p = 0.95f, .n_top = -1},
        {.temperature = 1, .n_top = -1},
        {.temperature = 0, .n_top = -1},
        {.temperature = 0, .n_top = 20},
    };
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        random_logits(logits, LARGE_VOCAB);
        double plain = fastest(&settings[i], logits);
        logits[777] = -1e9f;
        logits[778] = -INFINITY;
        double outlier = fastest(&settings[i], logits);
        print_message(
            "temperature %.1f, top-k %d, top-p %.2f, %d alternatives: %.3f ms, with outliers %.3f ms\n",
            (double)settings[i].temperature, settings[i].top_k, (double)settings[i].top_p, settings[i].n_top,
            1e3 * plain, 1e3 * outlier);
        assert_true(outlier < 4 * plain + 1e-3);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_op),
        cmocka_unit_test(test_distributions),
        cmocka_unit_test(test_ties),
        cmocka_unit_test(test_repeat_penalty),
        cmocka_unit_test(test_penalty_window),
        cmocka_unit_test(test_presence_and_frequency),
        cmocka_unit_test(test_bias_and_mask),
        cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_no_numbers),
        cmocka_unit_test(test_outliers_cost_nothing),
    };
    return cmocka_run_group_tests(tests, open_scratch, close_scratch);
}
