/* SPDX-License-Identifier: Apache-2.0
 *
 * Descent by blocks against a plain one that multiplies all of H anew for every block; that every pass lowers
 * what it is to lower, and that the result does not depend on the number of threads.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/pool.h"
#include "plain_gptq.h"

static double h[MAX_COLS * MAX_COLS];
static uint8_t want_codes[sizeof codes], want_scales[sizeof scales];

/* U of the block's A, in its place in U [n, n]; A^-1 = U^T U. */
static void plain_corner(double *u, size_t n, size_t col) {
    double a[256], inverse[256], corner[256];
    for (size_t i = 0; i < 16; i++)
        for (size_t j = 0; j < 16; j++)
            a[i * 16 + j] = h[(col + i) * n + col + j];
    plain_inverse(a, inverse, 16);
    plain_cholesky(inverse, corner, 16);
    for (size_t i = 0; i < 16; i++)
        for (size_t j = 0; j < 16; j++)
            u[(col + i) * n + col + j] = corner[i * 16 + j];
}

/* V = w^ + A^-1 g at the block; what the block's values cost now, as the choice counts it. */
static double plain_aim(const double *d, const double *u, size_t n, size_t col, double *v) {
    double cost = 0, t[16], g[16];
    for (size_t i = 0; i < 16; i++) {
        g[i] = 0;
        for (size_t j = 0; j < n; j++)
            g[i] += h[(col + i) * n + j] * d[j];
    }
    for (size_t i = 0; i < 16; i++) {
        t[i] = 0;
        for (size_t j = i; j < 16; j++)
            t[i] += u[(col + i) * n + col + j] * g[j];
        cost += t[i] * t[i];
    }
    for (size_t j = 0; j < 16; j++)
        for (size_t i = 0; i <= j; i++)
            v[col + j] += u[(col + i) * n + col + j] * t[i];
    return cost;
}

static void plain_refine_row(const float *x, const double *u, size_t n, float tensor_scale,
                             uint8_t *row_codes, uint8_t *row_scales) {
    for (size_t col = 0; col < n; col += 16) {
        double d[MAX_COLS], v[MAX_COLS] = {0};
        uint8_t block_codes[8], scale;
        for (size_t c = 0; c < n; c++)
            d[c] = (double)x[c] - plain_value(row_codes, row_scales, c, tensor_scale);
        for (size_t c = col; c < col + 16; c++)
            v[c] = plain_value(row_codes, row_scales, c, tensor_scale);
        double before = plain_aim(d, u, n, col, v);
        if (plain_block(v, u, n, col, col + 16, tensor_scale, block_codes, &scale) < before * (1 - 1e-9)) {
            memcpy(row_codes + col / 2, block_codes, 8);
            row_scales[col / 16] = scale;
        }
    }
}

static double loss_of(const tensor *t) {
    const float step = scale_of(t);
    double total = 0, d[MAX_COLS];
    size_t n = t->cols;
    for (size_t r = 0; r < t->rows; r++) {
        for (size_t c = 0; c < n; c++)
            d[c] = (double)weights[r * n + c] - plain_value(codes + r * n / 2, scales + r * n / 16, c, step);
        for (size_t i = 0; i < n; i++)
            for (size_t j = 0; j < n; j++)
                total += d[i] * h[i * n + j] * d[j];
    }
    return total;
}

static void refine(const tensor *t, double shrink, int passes, int threads) {
    nib_error err;
    pool *team;
    gptq_rows rows = {.t = t, .stride = 1, .n = t->rows};
    assert_int_equal(pool_new(&team, threads, &err), NIB_OK);
    assert_int_equal(gptq_refine(&rows, (gptq_moments){hessian, t->cols, shrink}, passes,
                                 into(t, codes, scales), team, &err),
                     NIB_OK);
    pool_free(team);
}

/* From the sweep's codes, which leave much to do. */
static void begin(const tensor *t) {
    scale_search s;
    (fp8_exact ? scale_search_init_fp8_exact
               : scale_search_init)(&s, QM_SWEEP, nvfp4_amax(weights, t->rows * t->cols), false, NULL);
    for (size_t r = 0; r < t->rows; r++)
        scale_search_nvfp4_row(&s, weights + r * t->cols, t->cols, codes + r * t->cols / 2,
                               scales + r * t->cols / 16);
}

static void check(size_t rows, size_t cols, double shrink) {
    static double u[MAX_COLS * MAX_COLS];
    tensor t = draw(rows, cols);
    begin(&t);
    plain_moments(h, cols, GPTQ_FULL, shrink);
    for (size_t col = 0; col < cols; col += 16)
        plain_corner(u, cols, col);
    double losses[4] = {loss_of(&t)};
    for (int pass = 1; pass < 4; pass++) {
        memcpy(want_codes, codes, sizeof codes);
        memcpy(want_scales, scales, sizeof scales);
        for (size_t r = 0; r < rows; r++)
            plain_refine_row(weights + r * cols, u, cols, scale_of(&t), want_codes + r * cols / 2,
                             want_scales + r * cols / 16);
        refine(&t, shrink, 1, 1 + pass);
        assert_memory_equal(codes, want_codes, rows * cols / 2);
        assert_memory_equal(scales, want_scales, rows * cols / 16);
        losses[pass] = loss_of(&t);
        assert_true(losses[pass] <= losses[pass - 1]);
    }
    print_message("[%zu, %zu], shrunk by %.2f: x %.3f, %.3f, %.3f of the sweep's error\n", rows, cols, shrink,
                  losses[1] / losses[0], losses[2] / losses[0], losses[3] / losses[0]);
    assert_true(losses[1] < losses[0]);
    begin(&t); /* several passes at once are the same as one by one */
    refine(&t, shrink, 3, 2);
    assert_memory_equal(codes, want_codes, rows * cols / 2);
    assert_memory_equal(scales, want_scales, rows * cols / 16);
}

static void test_plain(void **unused) {
    (void)unused;
    check(40, 272, 0.1);
    check(3, 128, 0);
    check(33, 16, 0.5);
    fp8_exact = true;
    check(34, 144, 0.4);
    fp8_exact = false;
}

/* After GPTQ, on what it was to lower: there is something left to gain. */
static void test_after_gptq(void **unused) {
    (void)unused;
    nib_error err;
    gptq_factor f;
    tensor t = draw(64, 256);
    gptq_rows rows = {.t = &t, .stride = 1, .n = t.rows};
    plain_moments(h, t.cols, GPTQ_FULL, 0.2);
    assert_int_equal(gptq_factor_make(&f, hessian, t.cols, GPTQ_FULL, 0.2, NULL, &err), NIB_OK);
    assert_int_equal(gptq_quantize(&rows, &f, into(&t, codes, scales), NULL, &err), NIB_OK);
    gptq_factor_free(&f);
    double before = loss_of(&t);
    refine(&t, 0.2, 2, 1);
    print_message("after GPTQ: x %.3f\n", loss_of(&t) / before);
    assert_true(loss_of(&t) < 0.99 * before);
}

static void test_bad_numbers(void **unused) {
    (void)unused;
    nib_error err;
    tensor t = draw(4, 64);
    gptq_rows rows = {.t = &t, .stride = 1, .n = t.rows};
    begin(&t);
    weights[70] = INFINITY;
    assert_int_equal(
        gptq_refine(&rows, (gptq_moments){hessian, 64, 0}, 1, into(&t, codes, scales), NULL, &err),
        NIB_BAD_FILE);
    hessian[5 * 64 + 5] = NAN;
    assert_int_equal(
        gptq_refine(&rows, (gptq_moments){hessian, 64, 0}, 1, into(&t, codes, scales), NULL, &err),
        NIB_BAD_FILE);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_after_gptq),
        cmocka_unit_test(test_bad_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
