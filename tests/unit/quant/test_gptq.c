/* SPDX-License-Identifier: Apache-2.0
 *
 * GPTQ against a plain FP64 one, written to be read and by another road: the inverse by Gauss and Jordan, its
 * Cholesky factor, one column of one row at a time. Codes and scales must be equal; then what GPTQ is for:
 * less error on what the layer gives, and the same bytes for any number of threads.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/pool.h"
#include "num/e2m1.h"
#include "num/fp8.h"
#include "num/nvfp4.h"
#include "quant/dense.h"
#include "quant/gptq.h"

enum { MAX_COLS = 320, MAX_ROWS = 100, SAMPLES = 900 };

static float weights[MAX_ROWS * MAX_COLS];
static double hessian[MAX_COLS * MAX_COLS], unseen[MAX_COLS * MAX_COLS];
static uint8_t codes[MAX_ROWS * MAX_COLS / 2], scales[MAX_ROWS * MAX_COLS / 16];
static uint8_t want_codes[sizeof codes], want_scales[sizeof scales];

/* ---- numbers ---- */

static uint64_t state;

static double uniform(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return ((double)(state >> 11) + 0.5) * 0x1p-53;
}

static double gauss(void) {
    return sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform());
}

/* H = E[x x^T] of inputs that share directions, some channels much larger than others. */
static void draw_hessian(double *h, size_t cols, size_t samples) {
    static double mix[8][MAX_COLS], x[MAX_COLS];
    uint64_t kept = state;
    state = 7;
    for (size_t k = 0; k < 8; k++)
        for (size_t c = 0; c < cols; c++)
            mix[k][c] = gauss();
    state = kept;
    memset(h, 0, cols * cols * sizeof *h);
    for (size_t s = 0; s < samples; s++) {
        double f[8];
        for (size_t k = 0; k < 8; k++)
            f[k] = gauss();
        for (size_t c = 0; c < cols; c++) {
            x[c] = 0.5 * gauss();
            for (size_t k = 0; k < 8; k++)
                x[c] += f[k] * mix[k][c];
            x[c] *= c % 37 == 5 ? 10 : 1;
        }
        for (size_t i = 0; i < cols; i++)
            for (size_t j = 0; j < cols; j++)
                h[i * cols + j] += x[i] * x[j] / (double)samples;
    }
}

static tensor draw(size_t rows, size_t cols) {
    state = 1;
    for (size_t i = 0; i < rows * cols; i++)
        weights[i] = (float)(0.05 * gauss());
    draw_hessian(hessian, cols, SAMPLES);
    return (tensor){.name = "w",
                    .dtype = DT_F32,
                    .rows = rows,
                    .cols = cols,
                    .data = weights,
                    .bytes = rows * cols * sizeof *weights,
                    .tensor_scale = 1};
}

static bool fp8_exact;

static float scale_of(const tensor *t) {
    scale_search s;
    (fp8_exact ? scale_search_init_fp8_exact
               : scale_search_init)(&s, QM_WEIGHTED, nvfp4_amax(weights, t->rows * t->cols), false, NULL);
    return s.tensor_scale;
}

static gptq_scales scales_by(const tensor *t) {
    return (gptq_scales){scale_of(t), fp8_exact};
}

/* ---- the plain one ---- */

static void plain_inverse(const double *h, double *inverse, size_t n) {
    static double a[MAX_COLS][2 * MAX_COLS];
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            a[i][j] = h[i * n + j];
            a[i][n + j] = i == j;
        }
    for (size_t p = 0; p < n; p++) {
        double pivot = a[p][p];
        for (size_t j = 0; j < 2 * n; j++)
            a[p][j] /= pivot;
        for (size_t i = 0; i < n; i++) {
            double f = a[i][p];
            for (size_t j = 0; i != p && j < 2 * n; j++)
                a[i][j] -= f * a[p][j];
        }
    }
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            inverse[i * n + j] = a[i][n + j];
}

/* U upper, A = U^T U */
static void plain_cholesky(const double *a, double *u, size_t n) {
    memset(u, 0, n * n * sizeof *u);
    for (size_t i = 0; i < n; i++)
        for (size_t j = i; j < n; j++) {
            double sum = a[i * n + j];
            for (size_t k = 0; k < i; k++)
                sum -= u[k * n + i] * u[k * n + j];
            u[i * n + j] = i == j ? sqrt(sum) : sum / u[i * n + i];
        }
}

static double nearest(double y, uint8_t *code) {
    *code = 0;
    for (uint8_t c = 1; c < 8; c++) {
        double off = fabs(fabs(y) - (double)e2m1_to_f32(c));
        double least = fabs(fabs(y) - (double)e2m1_to_f32(*code));
        if (off < least || (off == least && c % 2 == 0))
            *code = c;
    }
    double q = (double)e2m1_to_f32(*code);
    if (y < 0 && *code)
        *code |= 8;
    return y < 0 ? -q : q;
}

/* Rounds columns [col, end) of W under one scale; errors over U_jj reach columns below REACH. */
static double plain_round(double *w, const double *u, size_t n, size_t col, size_t end, size_t reach,
                          double step, uint8_t *out) {
    double loss = 0;
    for (size_t j = col; j < end; j++) {
        double q = nearest(w[j] / step, &out[j - col]), e = (w[j] - q * step) / u[j * n + j];
        loss += e * e;
        for (size_t k = j + 1; k < reach; k++)
            w[k] -= e * u[j * n + k];
    }
    return loss;
}

static void plain_row(const float *x, const double *u, size_t n, size_t reach, float tensor_scale,
                      uint8_t *row_codes, uint8_t *row_scales) {
    double w[MAX_COLS], copy[MAX_COLS];
    uint8_t c[16];
    for (size_t j = 0; j < n; j++)
        w[j] = (double)x[j];
    for (size_t col = 0; col < n; col += 16) {
        double amax = 0, least = INFINITY;
        for (size_t j = col; j < col + 16; j++)
            amax = fmax(amax, fabs(w[j]));
        float ideal = (float)fmin(amax / 6 / (double)tensor_scale, fp8_exact ? 64 : 448);
        int base = e4m3_from_f32(ideal), best = 0;
        base -= base && e4m3_to_f32((uint8_t)base) > ideal;
        for (int code = base - 8; code <= base + 7; code++) {
            int inside = code < 1 ? 1 : code > 0x7e ? 0x7e : code;
            if (fp8_exact && (inside > 0x68 || inside % 2 || (inside >= 8 && inside % 8 == 6)))
                continue;
            memcpy(copy, w, sizeof copy);
            double step = (double)(e4m3_to_f32((uint8_t)inside) * tensor_scale);
            double loss = plain_round(copy, u, n, col, col + 16, col + 16, step, c);
            if (loss < least) {
                least = loss;
                best = inside;
            }
        }
        double step = (double)(e4m3_to_f32((uint8_t)best) * tensor_scale);
        plain_round(w, u, n, col, col + 16, reach ? n : col + 16, step, c);
        row_scales[col / 16] = (uint8_t)best;
        for (size_t j = 0; j < 16; j += 2)
            row_codes[(col + j) / 2] = (uint8_t)(c[j] | c[j + 1] << 4);
    }
}

static void plain(const tensor *t, gptq_reach reach, double shrink) {
    static double h[MAX_COLS * MAX_COLS], inverse[MAX_COLS * MAX_COLS], u[MAX_COLS * MAX_COLS];
    size_t n = t->cols;
    double mean = 0;
    for (size_t i = 0; i < n; i++)
        mean += hessian[i * n + i] / (double)n;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            h[i * n + j] = i == j                                   ? hessian[i * n + j] + 1e-3 * mean
                           : reach == GPTQ_FULL || i / 16 == j / 16 ? (1 - shrink) * hessian[i * n + j]
                                                                    : 0;
    plain_inverse(h, inverse, n);
    plain_cholesky(inverse, u, n);
    for (size_t r = 0; r < t->rows; r++)
        plain_row(weights + r * n, u, n, reach == GPTQ_FULL, scale_of(t), want_codes + r * n / 2,
                  want_scales + r * n / 16);
}

/* ---- tests ---- */

static void quantize(const tensor *t, gptq_reach reach, double shrink, int threads) {
    nib_error err;
    pool *team;
    assert_int_equal(pool_new(&team, threads, &err), NIB_OK);
    gptq_factor f;
    gptq_rows rows = {t, 0, 1, t->rows};
    assert_int_equal(gptq_factor_make(&f, hessian, t->cols, reach, shrink, team, &err), NIB_OK);
    assert_int_equal(gptq_quantize(&rows, &f, scales_by(t), codes, scales, team, &err), NIB_OK);
    gptq_factor_free(&f);
    pool_free(team);
}

static size_t differing(const uint8_t *a, const uint8_t *b, size_t n) {
    size_t d = 0;
    for (size_t i = 0; i < n; i++)
        d += a[i] != b[i];
    return d;
}

static void check_plain(size_t rows, size_t cols, gptq_reach reach, double shrink) {
    tensor t = draw(rows, cols);
    quantize(&t, reach, shrink, 2);
    plain(&t, reach, shrink);
    size_t d = differing(codes, want_codes, rows * cols / 2),
           e = differing(scales, want_scales, rows * cols / 16);
    print_message("[%zu, %zu], shrunk by %.2f: %zu of %zu code bytes and %zu of %zu scales differ\n", rows,
                  cols, shrink, d, rows * cols / 2, e, rows * cols / 16);
    assert_int_equal(d, 0);
    assert_int_equal(e, 0);
}

static void test_plain(void **unused) {
    (void)unused;
    check_plain(100, 320, GPTQ_FULL, 0.05);
    check_plain(33, 208, GPTQ_FULL, 0.5);
    check_plain(32, 16, GPTQ_FULL, 0);
    check_plain(40, 144, GPTQ_BLOCKS, 0);
    check_plain(5, 64, GPTQ_FULL, 1);
    fp8_exact = true;
    check_plain(40, 208, GPTQ_FULL, 0.2);
    fp8_exact = false;
}

static double error_on(const tensor *t, const double *h) {
    nib_error err;
    double out;
    gptq_rows rows = {t, 0, 1, t->rows};
    assert_int_equal(gptq_error(&rows, h, scale_of(t), codes, scales, NULL, &out, &err), NIB_OK);
    return out;
}

/* The sum over all rows, spelled out. */
static double plain_error(const tensor *t, const double *h) {
    double total = 0, d[MAX_COLS];
    for (size_t r = 0; r < t->rows; r++) {
        for (size_t c = 0; c < t->cols; c++) {
            size_t i = r * t->cols + c;
            d[c] = (double)weights[i] - (double)e2m1_to_f32((codes[i / 2] >> 4 * (i & 1)) & 15) *
                                            (double)(e4m3_to_f32(scales[i / 16]) * scale_of(t));
        }
        for (size_t i = 0; i < t->cols; i++)
            for (size_t j = 0; j < t->cols; j++)
                total += d[i] * h[i * t->cols + j] * d[j];
    }
    return total;
}

static void test_error(void **unused) {
    (void)unused;
    tensor t = draw(MAX_ROWS, MAX_COLS);
    state = 99;
    draw_hessian(unseen, t.cols, SAMPLES);
    scale_search s;
    scale_search_init(&s, QM_SWEEP, nvfp4_amax(weights, t.rows * t.cols), false, NULL);
    assert_true(s.tensor_scale == scale_of(&t));
    for (size_t r = 0; r < t.rows; r++)
        scale_search_nvfp4_row(&s, weights + r * t.cols, t.cols, codes + r * t.cols / 2,
                               scales + r * t.cols / 16);
    double sweep = error_on(&t, unseen), before = sweep;
    assert_true(fabs(sweep / plain_error(&t, unseen) - 1) < 1e-9);
    const struct {
        const char *name;
        gptq_reach reach;
        double shrink, most;
    } list[] = {
        {"diagonal", GPTQ_FULL, 1, 0.75}, {"blocks", GPTQ_BLOCKS, 0, 1}, {"all of H", GPTQ_FULL, 0.05, 0.6}};
    for (size_t i = 0; i < 3; i++) {
        quantize(&t, list[i].reach, list[i].shrink, 1);
        double e = error_on(&t, unseen);
        print_message("%s: x %.3f of sweep's error on unseen inputs\n", list[i].name, e / sweep);
        assert_true(e < list[i].most * before);
        before = e;
    }
}

static void test_threads(void **unused) {
    (void)unused;
    tensor t = draw(MAX_ROWS, MAX_COLS);
    quantize(&t, GPTQ_FULL, 0.1, 1);
    memcpy(want_codes, codes, sizeof codes);
    memcpy(want_scales, scales, sizeof scales);
    double error = error_on(&t, hessian);
    for (int threads = 2; threads <= 5; threads++) { /* the error's sums too are in the order of rows */
        quantize(&t, GPTQ_FULL, 0.1, threads);
        assert_memory_equal(codes, want_codes, sizeof codes);
        assert_memory_equal(scales, want_scales, sizeof scales);
        assert_true(error_on(&t, hessian) == error);
    }
}

/* A part of the rows gives those rows' codes. */
static void test_strided_rows(void **unused) {
    (void)unused;
    nib_error err;
    gptq_factor f;
    tensor t = draw(MAX_ROWS, MAX_COLS);
    quantize(&t, GPTQ_FULL, 0.1, 2);
    gptq_rows some = {&t, 3, 7, 14};
    assert_int_equal(gptq_factor_make(&f, hessian, t.cols, GPTQ_FULL, 0.1, NULL, &err), NIB_OK);
    assert_int_equal(gptq_quantize(&some, &f, scales_by(&t), want_codes, want_scales, NULL, &err), NIB_OK);
    for (size_t i = 0; i < 14; i++)
        assert_memory_equal(want_codes + i * t.cols / 2, codes + (3 + 7 * i) * t.cols / 2, t.cols / 2);
    gptq_factor_free(&f);
}

static void test_bad_numbers(void **unused) {
    (void)unused;
    nib_error err;
    gptq_factor f;
    tensor t = draw(40, 64);
    gptq_rows rows = {&t, 0, 1, t.rows};
    assert_int_equal(gptq_factor_make(&f, hessian, t.cols, GPTQ_FULL, 0.1, NULL, &err), NIB_OK);
    weights[64 * 37 + 5] = NAN;
    assert_int_equal(gptq_quantize(&rows, &f, (gptq_scales){0.01f, false}, codes, scales, NULL, &err),
                     NIB_BAD_FILE);
    assert_non_null(strstr(err.text, "NaN"));
    gptq_factor_free(&f);
    hessian[3 * 64 + 3] = NAN;
    assert_int_equal(gptq_factor_make(&f, hessian, t.cols, GPTQ_FULL, 0.1, NULL, &err), NIB_BAD_FILE);
    memset(hessian, 0, sizeof hessian); /* inputs that were never seen: rounded alone, all alike */
    assert_int_equal(gptq_factor_make(&f, hessian, t.cols, GPTQ_FULL, 0.1, NULL, &err), NIB_OK);
    gptq_factor_free(&f);
}

/* H of every size about the blocks of the factorization: U H U^T = 1 since H^-1 = U^T U. */
static void test_factor(void **unused) {
    (void)unused;
    static double u[MAX_COLS * MAX_COLS], room[DENSE_ROOM(MAX_COLS)];
    for (size_t n = 1; n <= 200; n += n < 10 ? 1 : 27) {
        state = n;
        draw_hessian(hessian, n, 400);
        memcpy(u, hessian, n * n * sizeof *u);
        assert_true(dense_factor(u, n, room, NULL));
        for (size_t i = 0; i < n; i += 1 + n / 9)
            for (size_t j = 0; j < n; j += 1 + n / 9) {
                double sum = 0;
                for (size_t a = 0; a < n; a++)
                    for (size_t b = 0; b < n; b++)
                        sum += u[i * n + a] * hessian[a * n + b] * u[j * n + b];
                assert_true(fabs(sum - (i == j)) < 1e-7);
                assert_true(j >= i || u[i * n + j] == 0);
            }
    }
    u[0] = -1;
    assert_false(dense_factor(u, 1, room, NULL));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_factor),       cmocka_unit_test(test_plain),
        cmocka_unit_test(test_error),        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_strided_rows), cmocka_unit_test(test_bad_numbers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
