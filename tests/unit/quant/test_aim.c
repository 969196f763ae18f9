/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights to aim at: that they solve their equations, and that what a choice loses is what inputs and outputs
 * that are spelled out lose.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/pool.h"
#include "plain_gptq.h"

enum { ROWS = 37, COLS = 208, SEEN = 300 };

static float x[SEEN][COLS], d[SEEN][COLS], r[SEEN][ROWS], aims[ROWS * COLS];
static double h[COLS * COLS], lost[COLS * COLS], c[COLS * COLS], to[ROWS * COLS], across[ROWS * COLS];
static double squares[ROWS];

/* Inputs, what they lack of what they should be, and what is wanted besides, all of them related. */
static tensor draw_pull(void) {
    tensor t = draw(ROWS, COLS);
    for (size_t s = 0; s < SEEN; s++) {
        for (size_t i = 0; i < COLS; i++)
            x[s][i] = (float)(gauss() * (i % 29 == 3 ? 6 : 1) + (i ? 0.5 * (double)x[s][i - 1] : 0));
        for (size_t i = 0; i < COLS; i++)
            d[s][i] = (float)(0.1 * gauss() + 0.05 * (double)x[s][(i + 1) % COLS]);
        for (size_t i = 0; i < ROWS; i++)
            r[s][i] = (float)(0.05 * gauss() + 0.02 * (double)x[s][i]);
    }
    return t;
}

static void mean_of_products(double *out, const float *a, size_t rows, const float *b, size_t cols) {
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < cols; j++) {
            double sum = 0;
            for (size_t s = 0; s < SEEN; s++)
                sum += (double)a[s * rows + i] * (double)b[s * cols + j];
            out[i * cols + j] = sum / SEEN;
        }
}

static gptq_pull moments_of(void) {
    mean_of_products(hessian, *x, COLS, *x, COLS);
    mean_of_products(lost, *d, COLS, *d, COLS);
    mean_of_products(c, *d, COLS, *x, COLS);
    mean_of_products(to, *r, ROWS, *x, COLS);
    mean_of_products(across, *r, ROWS, *d, COLS);
    for (size_t i = 0; i < ROWS; i++) {
        squares[i] = 0;
        for (size_t s = 0; s < SEEN; s++)
            squares[i] += (double)r[s][i] * (double)r[s][i] / SEEN;
    }
    return (gptq_pull){c, to};
}

/* (aims - W) H = share (W C + R) */
static void check_aims(gptq_rows rows, const gptq_pull *pull, double share) {
    nib_error err;
    gptq_factor f;
    assert_int_equal(gptq_factor_make(&f, hessian, COLS, GPTQ_FULL, 0.1, NULL, &err), NIB_OK);
    assert_int_equal(gptq_aim(&rows, &f, pull, share, aims, NULL, &err), NIB_OK);
    gptq_factor_free(&f);
    plain_moments(h, COLS, GPTQ_FULL, 0.1);
    for (size_t i = 0; i < rows.n; i++)
        for (size_t j = 0, row = rows.first + i * rows.stride; j < COLS; j += 5) {
            double is = 0, want = pull->r ? share * to[row * COLS + j] : 0;
            for (size_t k = 0; k < COLS; k++) {
                is += ((double)aims[i * COLS + k] - (double)weights[row * COLS + k]) * h[k * COLS + j];
                want += share * (double)weights[row * COLS + k] * c[k * COLS + j];
            }
            assert_true(fabs(is - want) < 1e-4);
        }
}

static void test_aims(void **unused) {
    (void)unused;
    tensor t = draw_pull();
    gptq_pull pull = moments_of(), alone = {c, NULL};
    gptq_rows all = {.t = &t, .stride = 1, .n = ROWS}, some = {.t = &t, .first = 2, .stride = 5, .n = 7};
    check_aims(all, &pull, 1);
    check_aims(some, &pull, 0.5);
    check_aims(all, &alone, 1);
}

/* E |w^ x - w (x + d) - r|^2 over all rows. */
static double spelled_out(const tensor *t) {
    const float step = scale_of(t);
    double total = 0;
    for (size_t row = 0; row < ROWS; row++)
        for (size_t s = 0; s < SEEN; s++) {
            double off = -(double)r[s][row];
            for (size_t j = 0; j < COLS; j++)
                off +=
                    plain_value(codes + row * COLS / 2, scales + row * COLS / 16, j, step) * (double)x[s][j] -
                    (double)weights[row * COLS + j] * ((double)x[s][j] + (double)d[s][j]);
            total += off * off / SEEN;
        }
    return total;
}

static void test_loss(void **unused) {
    (void)unused;
    nib_error err;
    tensor t = draw_pull();
    gptq_pull pull = moments_of();
    gptq_rows rows = {.t = &t, .stride = 1, .n = ROWS};
    gptq_factor f;
    double base, losses[2];
    assert_int_equal(gptq_lost(&rows, lost, across, squares, NULL, &base, &err), NIB_OK);
    assert_int_equal(gptq_factor_make(&f, hessian, COLS, GPTQ_FULL, 0.05, NULL, &err), NIB_OK);
    for (int aimed = 0; aimed < 2; aimed++) {
        double moved;
        rows.aims = NULL;
        assert_int_equal(gptq_aim(&rows, &f, &pull, 1, aims, NULL, &err), NIB_OK);
        rows.aims = aimed ? aims : NULL;
        assert_int_equal(gptq_quantize(&rows, &f, into(&t, codes, scales), NULL, &err), NIB_OK);
        rows.aims = NULL;
        assert_int_equal(gptq_error(&rows, hessian, &pull, into(&t, codes, scales), NULL, &moved, &err),
                         NIB_OK);
        losses[aimed] = base + moved;
        assert_true(fabs(losses[aimed] / spelled_out(&t) - 1) < 1e-5);
    }
    print_message("aimed: x %.3f of what is lost without\n", losses[1] / losses[0]);
    assert_true(losses[1] < 0.8 * losses[0]);
    gptq_factor_free(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_aims), cmocka_unit_test(test_loss)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
