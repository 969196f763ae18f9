/* SPDX-License-Identifier: Apache-2.0
 *
 * Q5_0: what is written is read again; what lies on a block's grid stays what it is; the search is never
 * worse than ggml's own way, and near to trying every step.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>

#include "../../golden/num/golden.h"
#include "num/bf16.h"
#include "num/dtype.h"
#include "num/gguf_blocks.h"
#include "quant/q5_search.h"

enum { BLOCKS = 2000, N = 32 };

static double uniform(uint64_t seed, uint64_t i) {
    return ((double)(golden_word(seed, i) >> 11) + 0.5) * 0x1p-53;
}

static float gaussian(uint64_t seed, uint64_t i) {
    return (float)(sqrt(-2 * log(uniform(seed, 2 * i))) * cos(6.283185307179586 * uniform(seed, 2 * i + 1)));
}

static double loss(const float *w, const float *x, const float *y) {
    double sum = 0;
    for (int j = 0; j < N; j++)
        sum += (double)w[j] * ((double)x[j] - y[j]) * ((double)x[j] - y[j]);
    return sum;
}

/* X under step D. */
static void round_to(const float *x, float d, float *y) {
    for (int j = 0; j < N; j++)
        y[j] = d == 0 ? 0 : d * fmaxf(-16, fminf(15, rintf(x[j] / d)));
}

static void test_codes_are_read_again(void **state) {
    (void)state;
    for (uint64_t b = 0; b < BLOCKS; b++) {
        int8_t codes[N];
        unsigned char block[22];
        float y[N];
        const uint16_t step = f16_from_f32(gaussian(1, b));
        for (int j = 0; j < N; j++)
            codes[j] = (int8_t)((int)(golden_word(2, b * N + (uint64_t)j) & 31) - 16);
        gguf_blocks_pack_q5_0(step, codes, block);
        dtype_decode(DT_Q5_0, block, y, N);
        for (int j = 0; j < N; j++)
            assert_true(y[j] == f16_to_f32(step) * (float)codes[j]);
        codes[golden_word(3, b) % N] = -16; /* so that the largest magnitude says the step */
        for (int j = 0; j < N; j++)
            y[j] = f16_to_f32(step) * (float)codes[j];
        float back[N];
        q5_search_row(NULL, y, 1, block);
        dtype_decode(DT_Q5_0, block, back, N);
        for (int j = 0; j < N; j++)
            assert_true(y[j] == back[j]);
    }
}

/* By ggml's step, the signed largest / -16; by the best of 4,000; by the search. */
static void test_search(void **state) {
    (void)state;
    double sums[3] = {0};
    for (uint64_t b = 0; b < BLOCKS; b++) {
        float x[N], w[N], y[N], largest = 0;
        unsigned char block[22];
        double least = INFINITY;
        for (int j = 0; j < N; j++) {
            x[j] = gaussian(4, b * N + (uint64_t)j);
            w[j] = expf(2 * gaussian(5, b * N + (uint64_t)j));
            largest = fabsf(x[j]) > fabsf(largest) ? x[j] : largest;
        }
        round_to(x, f16_to_f32(f16_from_f32(largest / -16)), y);
        const double plain = loss(w, x, y);
        for (int i = 0; i < 4000; i++) {
            round_to(x, f16_to_f32(f16_from_f32(-largest / (12 + (float)i * 0.002f))), y);
            least = fmin(least, loss(w, x, y));
        }
        q5_search_row(w, x, 1, block);
        dtype_decode(DT_Q5_0, block, y, N);
        sums[0] += plain;
        sums[1] += least;
        sums[2] += loss(w, x, y);
    }
    print_message("the search leaves %.3f of what ggml's step does, trying 4,000 %.3f\n", sums[2] / sums[0],
                  sums[1] / sums[0]);
    assert_true(sums[2] < 0.85 * sums[0] && sums[2] < 1.05 * sums[1]);
}

static void test_ends_of_the_range(void **state) {
    (void)state;
    static const float sizes[] = {0,        0x1p-149f, 0x1p-30f, 0x1p-20f, 0x1p-18f,
                                  0x1p-14f, 1,         60000,    0x1p20f,  3e38f};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        const float bound = sizes[s] > 0x1p20f    ? sizes[s]
                            : sizes[s] < 0x1p-22f ? sizes[s]
                                                  : fmaxf(0x1p-24f, sizes[s] / 31);
        float x[N], w[N] = {0}, y[N];
        unsigned char block[22];
        for (int j = 0; j < N; j++)
            x[j] = sizes[s] / 16 * (float)(j - 16);
        q5_search_row(s & 1 ? w : NULL, x, 1, block); /* weights of nothing but zeros count as none */
        dtype_decode(DT_Q5_0, block, y, N);
        for (int j = 0; j < N; j++)
            if (!(fabsf(y[j] - x[j]) <= bound))
                fail_msg("%g became %g", (double)x[j], (double)y[j]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_codes_are_read_again),
                                       cmocka_unit_test(test_search),
                                       cmocka_unit_test(test_ends_of_the_range)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
