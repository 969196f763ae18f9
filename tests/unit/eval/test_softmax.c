/* SPDX-License-Identifier: Apache-2.0
 *
 * Softmax statistics against FP64 sums over libm's exponential.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "eval/softmax.h"

static uint32_t state = 1;
static float uniform(float low, float high) {
    state = state * 1664525u + 1013904223u;
    return low + (high - low) * (float)(state >> 8) / 16777216.0f;
}

static double reference_log_sum(const float *x, size_t n, double max) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += exp(x[i] - max);
    return log(sum);
}

static double reference_kl(const float *x, const float *y, size_t n) {
    double zx = 0, zy = 0, kl = 0;
    for (size_t i = 0; i < n; i++) {
        zx += exp(x[i] - 50.0);
        zy += exp(y[i] - 50.0);
    }
    for (size_t i = 0; i < n; i++) {
        double lp = x[i] - 50.0 - log(zx), lq = y[i] - 50.0 - log(zy);
        kl += exp(lp) * (lp - lq);
    }
    return kl;
}

static void test_exponential(void **unused) {
    (void)unused;
    for (float x = 0; x > -86.5f; x -= 0.0137f)
        assert_true(fabs(softmax_exp(x) - exp(x)) <= 2e-7 * exp(x));
    assert_true(softmax_exp(-1e6f) == 0 && softmax_exp(-INFINITY) == 0);
}

static void test_rows(void **unused) {
    (void)unused;
    static const size_t sizes[] = {1, 2, 15, 16, 17, 511, 512, 513, 4096, 49152};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        size_t n = sizes[s];
        float *x = malloc(n * sizeof *x), *y = malloc(n * sizeof *y);
        assert_true(x && y);
        for (size_t i = 0; i < n; i++) {
            x[i] = uniform(-30, 30);
            y[i] = x[i] + uniform(-0.5f, 0.5f);
        }
        size_t best = 0;
        for (size_t i = 1; i < n; i++)
            best = x[i] > x[best] ? i : best;
        softmax_row p = softmax_of(x, n), q = softmax_of(y, n);
        assert_int_equal(p.argmax, best);
        assert_true(p.max == x[best]);
        assert_true(fabs(p.log_sum - reference_log_sum(x, n, p.max)) < 1e-6);
        assert_true(fabs(softmax_log_prob(x, &p, (int32_t)(n - 1)) -
                         ((double)x[n - 1] - p.max - reference_log_sum(x, n, p.max))) < 1e-6);
        assert_true(fabs(softmax_kl(x, &p, y, &q, n) - reference_kl(x, y, n)) < 1e-6);
        assert_true(fabs(softmax_kl(x, &p, x, &p, n)) < 1e-12);
        free(x);
        free(y);
    }
}

/* The same argmax among equals: the first. */
static void test_ties(void **unused) {
    (void)unused;
    float x[40];
    for (int i = 0; i < 40; i++)
        x[i] = i == 7 || i == 23 ? 2.5f : 1;
    assert_int_equal(softmax_of(x, 40).argmax, 7);
}

static void test_not_finite(void **unused) {
    (void)unused;
    float x[20] = {0};
    x[13] = NAN;
    assert_false(isfinite(softmax_of(x, 20).log_sum));
    x[13] = INFINITY;
    assert_false(isfinite(softmax_of(x, 20).log_sum));
    x[13] = -INFINITY; /* a masked token is none */
    assert_true(fabs(softmax_of(x, 20).log_sum - log(19)) < 1e-6);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_exponential), cmocka_unit_test(test_rows),
                                       cmocka_unit_test(test_ties), cmocka_unit_test(test_not_finite)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
