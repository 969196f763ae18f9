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

enum { ROWS = 40, COLS = 224, BYTES = ROWS * COLS / Q5_BLOCK * Q5_BYTES };

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

static void test_q5(void **unused) {
    (void)unused, (void)scales;
    static double h[COLS * COLS], inverse[COLS * COLS], u[COLS * COLS];
    nib_error err;
    const double shrink = 0.1;
    tensor t = draw(ROWS, COLS);
    gptq_rows rows = {.t = &t, .stride = 1, .n = ROWS};
    gptq_factor f;
    plain_moments(h, COLS, GPTQ_FULL, shrink);
    plain_inverse(h, inverse, COLS);
    plain_cholesky(inverse, u, COLS);
    for (size_t r = 0; r < ROWS; r++)
        plain_q5_row(weights + r * COLS, u, wanted + r * (BYTES / ROWS));
    assert_int_equal(gptq_code_bytes(GPTQ_Q5_0, COLS), BYTES / ROWS);
    assert_int_equal(gptq_factor_make(&f, hessian, COLS, GPTQ_FULL, shrink, NULL, &err), NIB_OK);
    assert_int_equal(gptq_quantize(&rows, &f, fives(codes), NULL, &err), NIB_OK);
    gptq_factor_free(&f);
    assert_memory_equal(codes, wanted, BYTES);

    const double by_gptq = error_of(&t, codes);
    const gptq_moments m = {hessian, COLS, shrink};
    assert_int_equal(gptq_refine(&rows, m, 2, fives(codes), NULL, &err), NIB_OK);
    const double refined = error_of(&t, codes);
    q5_search_row(NULL, weights, ROWS * COLS / Q5_BLOCK, codes);
    const double searched = error_of(&t, codes);
    print_message("of the search's error GPTQ leaves %.3f, the descent %.3f\n", by_gptq / searched,
                  refined / searched);
    assert_true(by_gptq < 0.5 * searched && refined < by_gptq);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_q5)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
