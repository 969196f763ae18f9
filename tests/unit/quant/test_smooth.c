/* SPDX-License-Identifier: Apache-2.0
 *
 * Factors of smoothing beside ModelOpt's (tests/golden/quant/make_smooth.py), for the same layer and inputs.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "golden_tensor.h"
#include "quant/smooth.h"

enum { ROWS = 96, COLS = 256, INPUTS = 64 };

static smooth_channel channels[COLS];
static smooth_stats stats = {.channels = channels, .cols = COLS};

static void show(void) {
    float *values = malloc(GOLDEN_N * sizeof *values), x[COLS];
    assert_non_null(values);
    smooth_clear(&stats);
    golden_bell(51, values);
    for (size_t r = 0; r < ROWS; r++)
        smooth_add_weights(&stats, values + r * GOLDEN_COLS);
    golden_bell(61, values);
    for (size_t i = 0; i < INPUTS; i++) {
        for (size_t j = 0; j < COLS; j++)
            x[j] = ldexpf(values[i * GOLDEN_COLS + j], (int)(j % 7) - 3);
        smooth_add_input(&stats, x);
    }
    free(values);
}

/* ModelOpt's are the same but for one number, by which it makes the geometric mean of the largest and the
 * smallest 1 (awq) or nothing (smoothquant); to FP32. */
static void test_modelopt(void **state) {
    (void)state;
    static const struct {
        const char *name;
        smooth_rule rule;
        double strength;
    } list[] = {{"smoothquant 0.25", SMOOTH_SMOOTHQUANT, 0.25},
                {"smoothquant 0.50", SMOOTH_SMOOTHQUANT, 0.5},
                {"smoothquant 0.75", SMOOTH_SMOOTHQUANT, 0.75},
                {"awq 0.00", SMOOTH_AWQ, 0},
                {"awq 0.25", SMOOTH_AWQ, 0.25},
                {"awq 0.50", SMOOTH_AWQ, 0.5},
                {"awq 0.75", SMOOTH_AWQ, 0.75},
                {"awq 1.00", SMOOTH_AWQ, 1}};
    double factors[COLS], ratio = 0;
    show();
    for (size_t i = 0; i < sizeof list / sizeof *list; i++) {
        const char *p = golden_line(TESTS_DIR "/golden/quant/smooth.txt", list[i].name);
        assert_non_null(p);
        smooth_factors(&stats, list[i].rule, list[i].strength, factors);
        for (size_t j = 0; j < COLS; j++) {
            const double theirs = (double)f32_of_bits((uint32_t)golden_hex(&p));
            ratio = j ? ratio : theirs / factors[0];
            assert_true(fabs(factors[j] * ratio / theirs - 1) < 2e-6);
        }
    }
}

/* What nothing fills keeps 1, and nothing is NaN where nothing was shown. */
static void test_empty_channels(void **state) {
    (void)state;
    double factors[COLS];
    float x[COLS], w[COLS];
    smooth_clear(&stats);
    for (int shown = 0; shown < 2; shown++) {
        for (size_t j = 0; j < COLS; j++) {
            x[j] = j == 3 ? 0 : 1 + (float)(j % 5);
            w[j] = j == 7 ? 0 : 1 + (float)(j % 3);
        }
        for (int rule = 0; rule < SMOOTH_RULES; rule++) {
            double logs = 0;
            smooth_factors(&stats, (smooth_rule)rule, 0.5, factors);
            for (size_t j = 0; j < COLS; j++) {
                assert_true(shown || factors[j] == 1);
                logs += log(factors[j]);
            }
            assert_true(factors[3] == 1 && fabs(logs) < 1e-9);
            assert_true(rule == SMOOTH_MOMENTS || factors[7] == 1);
        }
        smooth_add_input(&stats, x);
        smooth_add_weights(&stats, w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_modelopt),
                                       cmocka_unit_test(test_empty_channels)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
