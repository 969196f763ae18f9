/* SPDX-License-Identifier: Apache-2.0
 *
 * RoPE frequencies against figures worked out by hand (those of transformers: store/test_rope_goldens.c).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>

#include "nouns/rope.h"

#define D 4 /* a head of two pairs */

static void expect(const rope_params *r, int32_t context, const float *divisors, double first,
                   double second) {
    float f[2];
    rope_inv_freq(f, r, D, context, divisors);
    if (fabs(f[0] - first) > 1e-7 * first || fabs(f[1] - second) > 1e-6 * second)
        fail_msg("%s: %g and %g, expected %g and %g", rope_kind_name(r->kind), (double)f[0], (double)f[1],
                 first, second);
}

static void test_plain_and_linear(void **state) {
    (void)state;
    rope_params r = {.theta = 10000};
    expect(&r, 100, NULL, 1, 0.01);
    expect(&r, 100, (float[]){1, 2}, 1, 0.005);
    assert_true(rope_attention_factor(&r) == 1);
    r.kind = ROPE_LINEAR;
    r.factor = 8;
    expect(&r, 100, NULL, 0.125, 0.01 / 8);
    expect(&r, 100, (float[]){1, 2}, 0.125, 0.01 / 16);
}

static void test_llama3(void **state) {
    (void)state;
    /* Wavelengths 6.28 and 628 positions; kept below 64 / 4, stretched above 64 / 1. */
    rope_params r = {.theta = 10000,
                     .kind = ROPE_LLAMA3,
                     .factor = 8,
                     .low_freq = 1,
                     .high_freq = 4,
                     .original_context = 64};
    expect(&r, 100, NULL, 1, 0.01 / 8);
    assert_true(rope_llama3_divisor(&r, D, 0) == 1 && fabs(rope_llama3_divisor(&r, D, 1) - 8) < 1e-12);
    /* Between: wavelength 32 mixes (64 / 32 - 1) / 3 = 1/3 kept, 2/3 stretched. */
    r.theta = (float)pow(32 / 6.28318530717958647692, 2);
    expect(&r, 100, NULL, 1, (1.0 / 3 + 2.0 / 3 / 8) * 6.28318530717958647692 / 32);
}

static void test_yarn(void **state) {
    (void)state;
    /* Pair 0 turns often over the original context and stays, pair 1 hardly turns and is stretched. */
    rope_params r = {.theta = 10000,
                     .kind = ROPE_YARN,
                     .factor = 4,
                     .original_context = 64,
                     .beta_fast = 4,
                     .beta_slow = 1,
                     .attention_factor = 1.25f};
    expect(&r, 100, NULL, 1, 0.01 / 4);
    assert_true(rope_attention_factor(&r) == 1.25f);
    /* Ends that are not rounded: dimensions 4 ln(64 / 8 pi) / 2 ln 10^4 = .203 and .504: pair 1 is past both.
     * With ends at 0 turns a little, .203 and 4 ln(64 / .02 pi) / 2 ln 10^4 = 1.504, it is at .6125 of the
     * ramp. */
    r.no_truncate = true;
    r.beta_slow = 0.01f;
    double low = 4 * log(64 / (4 * 6.28318530717958647692)) / (2 * log(10000)),
           high = 4 * log(64 / (0.01 * 6.28318530717958647692)) / (2 * log(10000));
    double ramp = (1 - low) / (high - low);
    assert_true(ramp > 0.6 && ramp < 0.63);
    expect(&r, 100, NULL, 1, 0.01 * (1 - ramp) + 0.01 / 4 * ramp);
}

static void test_by_context(void **state) {
    (void)state;
    rope_params r = {.theta = 100, .kind = ROPE_DYNAMIC, .factor = 2, .original_context = 50};
    expect(&r, 10, NULL, 1, 0.1); /* as trained */
    expect(&r, 50, NULL, 1, 0.1);
    expect(&r, 100, NULL, 1, 0.1 / 3); /* theta times (2 * 100 / 50 - 1)^(4 / 2) */
    r = (rope_params){.theta = 100,
                      .kind = ROPE_LONGROPE,
                      .original_context = 50,
                      .attention_factor = 1.5f,
                      .short_divisors = {1, 2},
                      .long_divisors = {4, 5}};
    expect(&r, 50, NULL, 1, 0.05);
    expect(&r, 51, NULL, 0.25, 0.02);
    assert_true(rope_attention_factor(&r) == 1.5f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain_and_linear),
        cmocka_unit_test(test_llama3),
        cmocka_unit_test(test_yarn),
        cmocka_unit_test(test_by_context),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
