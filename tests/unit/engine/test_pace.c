/* SPDX-License-Identifier: Apache-2.0
 *
 * The budget of prefill beside decoding, on simulated machines: steps that only decode take D, a row of
 * prefill adds R. Whatever the machine, and however it wavers, a step with prefill comes to about twice the
 * time of one without, and some of the prompt is read in every step.
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
                    int rows = pace_budget(&p, 512);
                    double seconds = decode_s[d] + rows * row_s[r];
                    assert_true(rows >= 1 && rows <= 512);
                    if (i >= 40 && rows > 1)
                        assert_true(seconds <= (wavers ? 3 : 2.01) * decode_s[d]);
                    if (i >= 40 && rows < 512) /* and no less than there is time for */
                        assert_true(seconds + row_s[r] >= (wavers ? 1.4 : 1.99) * decode_s[d]);
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
            pace_saw(&p, 4, pace_budget(&p, 512), factor * (0.02 + 0.001 * pace_budget(&p, 512)));
        assert_in_range(pace_budget(&p, 512), 19, 20);
    }
}

static void test_nothing_known(void **state) {
    (void)state;
    pace p = {0};
    assert_int_equal(pace_budget(&p, 512), 16);
    assert_int_equal(pace_budget(&p, 7), 7);
    pace_saw(&p, 0, 400, 1); /* prefill alone: what a row takes, but not what decoding does */
    assert_int_equal(pace_budget(&p, 512), 16);
    pace_saw(&p, 3, 0, 0.05);
    assert_int_equal(pace_budget(&p, 512), 20);
    pace_saw(&p, 3, 20, 0.04); /* over faster than those that only decoded */
    assert_in_range(pace_budget(&p, 512), 20, 30);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_it_settles),
        cmocka_unit_test(test_it_follows),
        cmocka_unit_test(test_nothing_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
