/* SPDX-License-Identifier: Apache-2.0
 *
 * GPTQ against a plain FP64 one, written to be read and by another road: the inverse by Gauss and Jordan, its
 * Cholesky factor, one column of one row at a time. Codes and scales must be equal; then what GPTQ is for:
 * less error on what the layer gives, and the same bytes for any number of threads.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/pool.h"
#include "plain_gptq.h"
#include "quant/dense.h"

static uint8_t want_codes[sizeof codes], want_scales[sizeof scales];
static double unseen[MAX_COLS * MAX_COLS];

static void plain_row(const float *x, const double *u, size_t n, size_t reach, float tensor_scale,
                      uint8_t *row_codes, uint8_t *row_scales) {
    double w[MAX_COLS];
    for (size_t j = 0; j < n; j++)
        w[j] = (double)x[j];
    for (size_t col = 0; col < n; col += 16)
        plain_block(w, u, n, col, reach ? n : col + 16, tensor_scale, row_codes + col / 2,
                    row_scales + col / 16);
}

static void plain(const tensor *t, gptq_reach reach, double shrink) {
    static double h[MAX_COLS * MAX_COLS], inverse[MAX_COLS * MAX_COLS], u[MAX_COLS * MAX_COLS];
    size_t n = t->cols;
    plain_moments(h, n, reach, shrink);
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
    gptq_rows rows = {.t = t, .stride = 1, .n = t->rows};
    assert_int_equal(gptq_factor_make(&f, hessian, t->cols, reach, shrink, team, &err), NIB_OK);
    assert_int_equal(gptq_quantize(&rows, &f, into(t, codes, scales), team, &err), NIB_OK);
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
    gptq_rows rows = {.t = t, .stride = 1, .n = t->rows};
    assert_int_equal(gptq_error(&rows, h, NULL, into(t, codes, scales), NULL, &out, &err), NIB_OK);
    return out;
}

/* The sum over all rows, spelled out. */
static double plain_error(const tensor *t, const double *h) {
    const float step = scale_of(t);
    double total = 0, d[MAX_COLS];
    for (size_t r = 0; r < t->rows; r++) {
        for (size_t c = 0; c < t->cols; c++) {
            size_t i = r * t->cols + c;
            d[c] = (double)weights[i] - plain_value(codes, scales, i, step);
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
    gptq_rows some = {.t = &t, .first = 3, .stride = 7, .n = 14};
    assert_int_equal(gptq_factor_make(&f, hessian, t.cols, GPTQ_FULL, 0.1, NULL, &err), NIB_OK);
    assert_int_equal(gptq_quantize(&some, &f, into(&t, want_codes, want_scales), NULL, &err), NIB_OK);
    for (size_t i = 0; i < 14; i++)
        assert_memory_equal(want_codes + i * t.cols / 2, codes + (3 + 7 * i) * t.cols / 2, t.cols / 2);
    gptq_factor_free(&f);
}

static void test_bad_numbers(void **unused) {
    (void)unused;
    nib_error err;
    gptq_factor f;
    tensor t = draw(40, 64);
    gptq_rows rows = {.t = &t, .stride = 1, .n = t.rows};
    assert_int_equal(gptq_factor_make(&f, hessian, t.cols, GPTQ_FULL, 0.1, NULL, &err), NIB_OK);
    weights[64 * 37 + 5] = NAN;
    assert_int_equal(
        gptq_quantize(&rows, &f, (gptq_codes){{.tensor_scale = 0.01f}, codes, scales}, NULL, &err),
        NIB_BAD_FILE);
    assert_non_null(strstr(err.text, "NaN"));
    gptq_factor_free(&f);
    hessian[3 * 64 + 3] = NAN;
    assert_int_equal(gptq_factor_make(&f, hessian, t.cols, GPTQ_FULL, 0.1, NULL, &err), NIB_BAD_FILE);
    memset(hessian, 0, sizeof hessian); /* inputs that were never seen: rounded alone, all alike */
    assert_int_equal(gptq_factor_make(&f, hessian, t.cols, GPTQ_FULL, 0.1, NULL, &err), NIB_OK);
    gptq_factor_free(&f);
}

/* What blocks alone give is what all of H gives of them; blocks that are no moments are refused. */
static void test_factor_of_blocks(void **unused) {
    (void)unused;
    enum { N = 80 };
    nib_error err;
    static double h[N * N];
    static float blocks[N * GPTQ_BLOCKS];
    gptq_factor whole, part;
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < N; j++)
            h[i * N + j] =
                (double)(float)(1.0 / (1.0 + fabs((double)i - (double)j)) + (i == j ? (double)i / 9 : 0));
    for (size_t i = 0; i < N; i++)
        for (size_t j = 0; j < GPTQ_BLOCKS; j++)
            blocks[i * GPTQ_BLOCKS + j] = (float)h[i * N + i / GPTQ_BLOCKS * GPTQ_BLOCKS + j];
    assert_int_equal(gptq_factor_make(&whole, h, N, GPTQ_BLOCKS, 0.05, NULL, &err), NIB_OK);
    assert_int_equal(gptq_factor_of_blocks(&part, blocks, N, GPTQ_BLOCKS, 0.05, &err), NIB_OK);
    assert_memory_equal(whole.u, part.u, N * GPTQ_BLOCKS * sizeof *part.u);
    gptq_factor_free(&whole);
    gptq_factor_free(&part);
    blocks[1] = blocks[GPTQ_BLOCKS] = 100;
    assert_int_equal(gptq_factor_of_blocks(&part, blocks, N, GPTQ_BLOCKS, 0.05, &err), NIB_BAD_FILE);
    assert_null(part.u);
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
        cmocka_unit_test(test_factor),     cmocka_unit_test(test_factor_of_blocks),
        cmocka_unit_test(test_plain),      cmocka_unit_test(test_error),
        cmocka_unit_test(test_threads),    cmocka_unit_test(test_strided_rows),
        cmocka_unit_test(test_bad_numbers)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
