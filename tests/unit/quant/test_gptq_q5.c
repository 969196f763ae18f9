/* SPDX-License-Identifier: Apache-2.0
 *
 * GPTQ on Q5_0's grid: against a plain FP64 one, byte by byte; it leaves less than the search of single
 * codes, and the descent after it less still.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "num/bf16.h"
#include "num/gguf_blocks.h"
#include "plain_gptq.h"
#include "quant/q5_search.h"

enum { ROWS = 40, COLS = 224, ROW_BYTES = COLS / Q5_BLOCK * Q5_BYTES, BYTES = ROWS * ROW_BYTES };

static uint8_t wanted[BYTES];

static gptq_codes fives(uint8_t *to) {
    return (gptq_codes){{.grid = GPTQ_Q5_0}, to, NULL};
}

/* Rounds the block at COL under STEP; errors over U_jj reach columns below REACH. */
static double plain_fives(double *w, const double *u, size_t col, size_t reach, double step, int8_t *out) {
    double loss = 0;
    for (size_t j = col; j < col + Q5_BLOCK; j++) {
        const double q = step == 0 ? 0 : fmin(15, fmax(-16, nearbyint(w[j] / step)));
        const double e = (w[j] - q * step) / u[j * COLS + j];
        out[j - col] = (int8_t)q;
        loss += e * e;
        for (size_t k = j + 1; k < reach; k++)
            w[k] -= e * u[j * COLS + k];
    }
    return loss;
}

static void plain_q5_row(const float *x, const double *u, uint8_t *out) {
    double w[COLS], copy[COLS];
    int8_t codes_of[Q5_BLOCK];
    for (size_t j = 0; j < COLS; j++)
        w[j] = (double)x[j];
    for (size_t col = 0; col < COLS; col += Q5_BLOCK) {
        double largest = 0, least = INFINITY;
        uint16_t best = 0;
        for (size_t j = col; j < col + Q5_BLOCK; j++)
            largest = fabs(w[j]) > fabs(largest) ? w[j] : largest;
        for (int k = 0; k < 33; k++) {
            const uint16_t half = f16_from_f32((float)(largest / -(12 + 0.25 * k)));
            memcpy(copy, w, sizeof w);
            const double loss = plain_fives(copy, u, col, col + Q5_BLOCK, (double)f16_to_f32(half), codes_of);
            if (loss < least) {
                least = loss;
                best = half;
            }
        }
        plain_fives(w, u, col, COLS, (double)f16_to_f32(best), codes_of);
        gguf_blocks_pack_q5_0(best, codes_of, out + col / Q5_BLOCK * Q5_BYTES);
    }
}

static double error_of(const tensor *t, uint8_t *chosen) {
    nib_error err;
    double out;
    gptq_rows rows = {.t = t, .stride = 1, .n = t->rows};
    assert_int_equal(gptq_error(&rows, hessian, NULL, fives(chosen), NULL, &out, &err), NIB_OK);
    return out;
}

static void quantize(gptq_rows rows, gptq_reach reach, double shrink, uint8_t *out) {
    nib_error err;
    gptq_factor f;
    assert_int_equal(gptq_factor_make(&f, hessian, COLS, reach, shrink, NULL, &err), NIB_OK);
    assert_int_equal(gptq_quantize(&rows, &f, fives(out), NULL, &err), NIB_OK);
    gptq_factor_free(&f);
}

/* By blocks of 16 columns, two to one of Q5_0's. */
static void quantize_narrow(gptq_rows rows, uint8_t *out) {
    static float blocks[COLS * GPTQ_BLOCKS];
    nib_error err;
    gptq_factor f;
    for (size_t i = 0; i < COLS; i++)
        for (size_t j = 0; j < GPTQ_BLOCKS; j++)
            blocks[i * GPTQ_BLOCKS + j] = (float)hessian[i * COLS + i / GPTQ_BLOCKS * GPTQ_BLOCKS + j];
    assert_int_equal(gptq_factor_of_blocks(&f, blocks, COLS, GPTQ_WIDE_BLOCKS, 0, &err), NIB_OK);
    for (size_t i = 0; i < COLS; i++)
        for (size_t j = i + 1; j < i / GPTQ_WIDE_BLOCKS * GPTQ_WIDE_BLOCKS + GPTQ_WIDE_BLOCKS; j++)
            assert_true(f.u[i * GPTQ_WIDE_BLOCKS + j % GPTQ_WIDE_BLOCKS] == 0 ||
                        i / GPTQ_BLOCKS == j / GPTQ_BLOCKS);
    assert_int_equal(gptq_quantize(&rows, &f, fives(out), NULL, &err), NIB_OK);
    gptq_factor_free(&f);
}

static void check_plain(const tensor *t, gptq_reach reach, double shrink) {
    static double h[COLS * COLS], inverse[COLS * COLS], u[COLS * COLS];
    plain_moments(h, COLS, reach, shrink);
    plain_inverse(h, inverse, COLS);
    plain_cholesky(inverse, u, COLS);
    for (size_t r = 0; r < ROWS; r++)
        plain_q5_row(weights + r * COLS, u, wanted + r * ROW_BYTES);
    quantize((gptq_rows){.t = t, .stride = 1, .n = ROWS}, reach, shrink, codes);
    assert_memory_equal(codes, wanted, BYTES);
}

static void test_plain(void **unused) {
    (void)unused, (void)scales;
    tensor t = draw(ROWS, COLS);
    assert_int_equal(gptq_code_bytes(GPTQ_Q5_0, COLS), ROW_BYTES);
    check_plain(&t, GPTQ_WIDE_BLOCKS, 0);
    const double wide = error_of(&t, codes);
    quantize_narrow((gptq_rows){.t = &t, .stride = 1, .n = ROWS}, codes);
    assert_true(wide < error_of(&t, codes)); /* a block that sees all of its columns */
    check_plain(&t, GPTQ_FULL, 0.1);
    quantize((gptq_rows){.t = &t, .first = 1, .stride = 3, .n = ROWS / 3}, GPTQ_FULL, 0.1, codes);
    for (size_t r = 0; r < ROWS / 3; r++)
        assert_memory_equal(codes + r * ROW_BYTES, wanted + (1 + 3 * r) * ROW_BYTES, ROW_BYTES);
}

static void test_less_is_lost(void **unused) {
    (void)unused;
    nib_error err;
    tensor t = draw(ROWS, COLS);
    gptq_rows rows = {.t = &t, .stride = 1, .n = ROWS};
    const gptq_moments m = {hessian, COLS, 0.1};
    quantize(rows, GPTQ_FULL, m.shrink, codes);
    const double by_gptq = error_of(&t, codes);
    assert_int_equal(gptq_refine(&rows, m, 2, fives(codes), NULL, &err), NIB_OK);
    const double refined = error_of(&t, codes);
    q5_search_row(NULL, weights, ROWS * COLS / Q5_BLOCK, codes);
    const double searched = error_of(&t, codes);
    print_message("of the search's error GPTQ leaves %.3f, the descent %.3f\n", by_gptq / searched,
                  refined / searched);
    assert_true(by_gptq < 0.5 * searched && refined < by_gptq);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_plain), cmocka_unit_test(test_less_is_lost)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
