/* SPDX-License-Identifier: Apache-2.0
 *
 * The sampler against one that sorts the whole vocabulary and works in FP64: the same candidates survive, and
 * they are drawn as often as their probabilities say.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "engine/sampler.h"

#define MAX_VOCAB 5000

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
static int reference(const nib_sampling *how, const float *logits, int vocab, entry *out) {
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

static uint64_t rng_state = 1;

static double rng(void) {
    rng_state = rng_state * 6364136223846793005u + 1442695040888963407u;
    return (double)(rng_state >> 33) * 0x1p-31;
}

/* N_DRAWS draws: none outside the reference's candidates, and a chi-square that chance explains. */
static void check_draws(const nib_sampling *how, const float *logits, int vocab, int n_draws) {
    static entry want[MAX_VOCAB];
    static int seen[MAX_VOCAB];
    sampler *s;
    assert_int_equal(sampler_open(&s, vocab, NULL), NIB_OK);
    int n = reference(how, logits, vocab, want);
    memset(seen, 0, sizeof seen);
    for (int i = 0; i < n_draws; i++) {
        int32_t id = sampler_pick(s, how, logits, NULL, 0, (uint64_t)i);
        assert_true(id >= 0 && id < vocab);
        assert_int_equal(id, sampler_pick(s, how, logits, NULL, 0, (uint64_t)i));
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
    sampler_close(s);
}

static void test_distributions(void **state) {
    (void)state;
    static float logits[MAX_VOCAB];
    static const nib_sampling settings[] = {
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
        for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
            nib_sampling how = settings[i];
            how.seed = 100 * v + i;
            for (int j = 0; j < vocabs[v]; j++)
                logits[j] = (float)(4 * (rng() + rng() + rng() - 1.5) + (rng() < 0.01 ? 6 : 0));
            check_draws(&how, logits, vocabs[v], 3000);
        }
}

static void test_ties(void **state) {
    (void)state;
    static float logits[1000];
    sampler *s;
    assert_int_equal(sampler_open(&s, 1000, NULL), NIB_OK);
    for (uint64_t i = 0; i < 100; i++) { /* all equal: top-k keeps the lowest ids */
        nib_sampling how = {.temperature = 1, .top_k = 7, .seed = i};
        assert_true(sampler_pick(s, &how, logits, NULL, 0, 0) < 7);
    }
    assert_int_equal(sampler_pick(s, &(nib_sampling){0}, logits, NULL, 0, 0), 0);
    logits[700] = logits[701] = 1;
    assert_int_equal(sampler_pick(s, &(nib_sampling){0}, logits, NULL, 0, 0), 700);
    sampler_close(s);
}

static void test_repeat_penalty(void **state) {
    (void)state;
    float logits[100] = {[3] = 2, [4] = 1.5f, [5] = 1.2f};
    int32_t tokens[70] = {[0] = 5, [68] = 3, [69] = 3}; /* 5 is too far back */
    for (int i = 1; i < 68; i++)
        tokens[i] = 90;
    sampler *s;
    assert_int_equal(sampler_open(&s, 100, NULL), NIB_OK);
    nib_sampling how = {.repeat_penalty = 1.5f}; /* 2 / 1.5 once, though it stands there twice */
    assert_int_equal(sampler_pick(s, &how, logits, tokens, 70, 0), 4);
    how.repeat_penalty = 1.3f;
    assert_int_equal(sampler_pick(s, &how, logits, tokens, 70, 0), 3);
    for (int i = 0; i < 100; i++)
        logits[i] = -1;
    how.repeat_penalty = 2; /* negative logits move down too */
    assert_int_equal(sampler_pick(s, &how, logits, (int32_t[]){0, 1}, 2, 0), 2);
    sampler_close(s);
}

static void test_no_numbers(void **state) {
    (void)state;
    float logits[100] = {[50] = NAN};
    sampler *s;
    assert_int_equal(sampler_open(&s, 100, NULL), NIB_OK);
    nib_sampling warm = {.temperature = 1, .top_p = 0.9f, .top_k = 5, .min_p = 1};
    assert_int_equal(sampler_pick(s, &(nib_sampling){0}, logits, NULL, 0, 0), -1);
    assert_int_equal(sampler_pick(s, &warm, logits, NULL, 0, 0), -1);
    logits[50] = INFINITY;
    assert_int_equal(sampler_pick(s, &warm, logits, NULL, 0, 0), -1);
    logits[50] = 3e38f;
    logits[51] = -3e38f; /* a spread that is no float */
    assert_int_equal(sampler_pick(s, &warm, logits, NULL, 0, 0), -1);
    logits[51] = 0;
    assert_int_equal(sampler_pick(s, &warm, logits, NULL, 0, 0), 50);
    warm.temperature = 1e-38f;
    assert_int_equal(sampler_pick(s, &warm, logits, NULL, 0, 0), 50);
    sampler_close(s);
}

static void test_no_memory(void **state) {
    (void)state;
    for (long n = 0; n < 3; n++) {
        sampler *s;
        mem_fail_after(n);
        assert_int_equal(sampler_open(&s, 100, NULL), NIB_NO_MEMORY);
        mem_fail_after(-1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_distributions),  cmocka_unit_test(test_ties),
        cmocka_unit_test(test_repeat_penalty), cmocka_unit_test(test_no_numbers),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
