/* SPDX-License-Identifier: Apache-2.0
 *
 * Statistics over scored tokens, against values worked out by hand.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "eval/scores.h"

static void assert_near(double a, double b) {
    if (fabs(a - b) > 1e-12 * (1 + fabs(b)))
        fail_msg("%.17g is not %.17g", a, b);
}

static void test_mean(void **unused) {
    (void)unused;
    const double v[] = {1, 2, 3, 6};
    eval_mean m = scores_mean(v, 4);
    assert_near(m.value, 3);
    assert_near(m.error, sqrt(3.5 / 3)); /* variance over n is 14/4; error over n - 1 */
}

static void test_percentiles(void **unused) {
    (void)unused;
    const double v[] = {0, 10, 20, 30, 40};
    assert_near(scores_percentile(v, 5, 0), 0);
    assert_near(scores_percentile(v, 5, 1), 40);
    assert_near(scores_percentile(v, 5, 0.5), 20);
    assert_near(scores_percentile(v, 5, 0.9), 36);
    assert_near(scores_percentile(v, 1, 0.9), 0);
}

static void test_ppl(void **unused) {
    (void)unused;
    const double nll[] = {log(2), log(8)};
    eval_ppl_result r = {.n_scored = 2};
    scores_ppl(nll, &r);
    assert_near(r.ppl.value, 4);
    assert_near(r.ppl.error, 4 * log(2));
}

static void test_summary(void **unused) {
    (void)unused;
    scores s;
    assert_int_equal(scores_open(&s, 4, NULL), NIB_OK);
    const double nll[] = {1, 2, 3, 4}, base[] = {1, 1, 3, 3}, kld[] = {.4, .1, .3, .2},
                 dp[] = {.1, -.1, .3, -.3};
    memcpy(s.nll, nll, sizeof nll);
    memcpy(s.nll_base, base, sizeof base);
    memcpy(s.kld, kld, sizeof kld);
    memcpy(s.p_diff, dp, sizeof dp);
    s.same_top[0] = s.same_top[2] = s.same_top[3] = 1;
    eval_kld_result r;
    scores_summarize(&s, &r);
    assert_int_equal(r.n_scored, 4);
    assert_near(r.ppl.value, exp(2.5));
    assert_near(r.ppl_base.value, exp(2));
    assert_near(r.log_ratio.value, 0.5);
    /* the paired error is the error of the differences 0, 1, 0, 1 */
    assert_near(r.log_ratio.error, sqrt(0.25 / 3));
    assert_near(r.ppl_ratio.value, exp(0.5));
    assert_near(r.correlation, 1.0 / sqrt(1.25));
    assert_near(r.kld.value, 0.25);
    assert_near(r.kld_at[0], 0.4);  /* maximum */
    assert_near(r.kld_at[5], 0.25); /* median */
    assert_near(r.kld_at[10], 0.1); /* minimum */
    assert_near(r.p_diff.value, 0);
    assert_near(r.p_diff_rms.value, sqrt(0.05));
    assert_near(r.same_top.value, 0.75);
    assert_near(r.same_top.error, 0.25);
    scores_close(&s);
}

static void test_not_finite(void **unused) {
    (void)unused;
    const double v[] = {1, NAN};
    nib_error err;
    assert_int_equal(scores_check(v, 1, 0, &err), NIB_OK);
    assert_int_equal(scores_check(v, 2, 40, &err), NIB_BAD_FILE);
    assert_non_null(strstr(err.text, "41"));
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mean), cmocka_unit_test(test_percentiles),
                                       cmocka_unit_test(test_ppl), cmocka_unit_test(test_summary),
                                       cmocka_unit_test(test_not_finite)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
