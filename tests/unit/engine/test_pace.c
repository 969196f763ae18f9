/* SPDX-License-Identifier: Apache-2.0
 *
 * The budget of prefill beside decoding, on simulated machines: steps that only decode take D, a row of
 * prefill adds R. Whatever the machine, and however it wavers, a step with prefill comes to its share of the
 * time, and some of the prompt is read in every step.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "engine/pace.h"

static double noise(uint64_t *state, double share) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return 1 + share * ((double)(*state >> 33) * 0x1p-30 - 1);
}

/* 0: the step only decodes, to see what that takes. */
static int budget(const pace *p) {
    int rows = pace_budget(p, 0, 512); /* the prompt is less than its share */
    assert_true(rows == PACE_NONE || (rows >= 1 && rows <= 512));
    return rows == PACE_NONE ? 0 : rows;
}

static void mixed_step(pace *p, double decode_s, double row_s) {
    int rows = budget(p);
    pace_saw(p, 4, rows, decode_s + rows * row_s);
}

static void test_it_settles(void **state) {
    (void)state;
    static const double decode_s[] = {0.001, 0.044, 0.5}, row_s[] = {1e-5, 0.0029, 0.02};
    for (int d = 0; d < 3; d++)
        for (int r = 0; r < 3; r++)
            for (int wavers = 0; wavers < 2; wavers++) {
                pace p = {0};
                uint64_t random = 5;
                double share = wavers ? 0.3 : 0;
                for (int i = 0; i < 40; i++)
                    pace_saw(&p, 8, 0, decode_s[d] * noise(&random, share));
                for (int i = 0; i < 200; i++) {
                    int rows = budget(&p);
                    double seconds = decode_s[d] + rows * row_s[r];
                    if (i >= 40 && rows > 1)
                        assert_true(seconds <= (wavers ? 2.5 : 1.01 * PACE_LEAST) * decode_s[d]);
                    if (i >= 40 && rows > 0 && rows < 512) /* and no less than there is time for */
                        assert_true(seconds + row_s[r] >= (wavers ? 1.2 : 0.99 * PACE_LEAST) * decode_s[d]);
                    pace_saw(&p, 8, rows, seconds * noise(&random, share));
                }
            }
}

/* It follows a machine that becomes ten times slower, or faster. */
static void test_it_follows(void **state) {
    (void)state;
    pace p = {0};
    for (int phase = 0; phase < 3; phase++) {
        double factor = phase == 1 ? 10 : 1;
        for (int i = 0; i < 60; i++)
            pace_saw(&p, 4, 0, 0.02 * factor);
        for (int i = 0; i < 60; i++)
            mixed_step(&p, factor * 0.02, factor * 0.001);
        pace_saw(&p, 4, 0, factor * 0.02);
        assert_in_range(pace_budget(&p, 0, 512), (PACE_LEAST - 1) * 20 - 1, (PACE_LEAST - 1) * 20);
    }
}

/* Answers come and go while a queue of prompts is read, so that no step would only decode of its own accord.
 */
static void test_decoders_change_beside_a_backlog(void **state) {
    (void)state;
    static const struct {
        double learned_s, decode_s, row_s;
    } cases[] = {{0.044, 0.088, 0.0029},
                 {0.044, 0.07, 0.0029},
                 {0.005, 0.011, 0.00002},
                 {0, 0.005, 0.00002},
                 {0.088, 0.044, 0.0029}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pace p = {0};
        for (int j = 0; j < 20 && cases[i].learned_s > 0; j++)
            pace_saw(&p, 1, 0, cases[i].learned_s);
        for (int j = 0; j < 200; j++)
            mixed_step(&p, cases[i].decode_s, cases[i].row_s);
        pace_saw(&p, 1, 0, cases[i].decode_s);
        double right = (PACE_LEAST - 1) * cases[i].decode_s / cases[i].row_s;
        right = right > 512 ? 512 : right;
        int rows = pace_budget(&p, 0, 512);
        if (!(rows >= 0.7 * right && rows <= 1.4 * right + 1))
            fail_msg("case %zu: %d rows, not about %.0f", i, rows, right);
    }
}

static void test_nothing_known(void **state) {
    (void)state;
    pace p = {0};
    assert_int_equal(pace_budget(&p, 1, 512), 16);
    assert_int_equal(pace_budget(&p, 1, 7), 7);
    pace_saw(&p, 0, 400, 1); /* prefill alone: what a row takes, but not what decoding does */
    assert_int_equal(pace_budget(&p, 1, 512), 16);
    pace_saw(&p, 3, 0, 0.05);
    assert_int_equal(pace_budget(&p, 6, 512), 20);
    pace_saw(&p, 3, 20, 0.04); /* over faster than those that only decoded */
    assert_in_range(pace_budget(&p, 6, 512), 20, 40);
}

/* Of 12 requests 4 are answered: a step takes 3 times as long, and the others are among them soon. */
static void test_shares(void **state) {
    (void)state;
    static const int requests[] = {0, 4, 5, 8, 12, 24, 25, 1000},
                     rows[] = {30, 30, 30, 50, 100, 250, 250, 250};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        pace p = {.row_s = 0.001};
        pace_saw(&p, 4, 0, 0.05);
        assert_in_range(pace_budget(&p, requests[i], 512), rows[i] - 1, rows[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_it_settles),
        cmocka_unit_test(test_it_follows),
        cmocka_unit_test(test_decoders_change_beside_a_backlog),
        cmocka_unit_test(test_nothing_known),
        cmocka_unit_test(test_shares),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
