/* SPDX-License-Identifier: Apache-2.0
 *
 * The branch of a matrix takes all of it that has its rank, as much of the weighted error as any can, and
 * is the same for any number of threads.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "num/bf16.h"
#include "quant/low_rank.h"

enum { ROWS = 48, COLS = 64, N = ROWS * COLS };

static double noise(uint64_t *state) {
    double sum = 0;
    for (int i = 0; i < 12; i++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        sum += (double)(*state >> 40) * 0x1p-24;
    }
    return sum - 6;
}

/* sum over rows of d H d^T for d = w - up down. */
static double loss(const float *w, const double *h, size_t rank, const uint16_t *down, const uint16_t *up) {
    double sum = 0;
    for (size_t r = 0; r < ROWS; r++) {
        double d[COLS];
        for (size_t c = 0; c < COLS; c++) {
            d[c] = (double)w[r * COLS + c];
            for (size_t k = 0; k < rank; k++)
                d[c] -= (double)bf16_to_f32(up[r * rank + k]) * (double)bf16_to_f32(down[k * COLS + c]);
        }
        for (size_t i = 0; i < COLS; i++)
            for (size_t j = 0; j < COLS; j++)
                sum += d[i] * h[i * COLS + j] * d[j];
    }
    return sum;
}

static tensor tensor_of(const float *w) {
    return (tensor){.name = "w",
                    .dtype = DT_F32,
                    .rows = ROWS,
                    .cols = COLS,
                    .data = w,
                    .bytes = N * sizeof *w,
                    .tensor_scale = 1};
}

static void find(const float *w, const double *h, size_t rank, uint16_t *down, uint16_t *up, int threads) {
    const tensor t = tensor_of(w);
    nib_error err;
    pool *team;
    assert_int_equal(pool_new(&team, threads, &err), NIB_OK);
    assert_int_equal(low_rank_find(&t, h, rank, down, up, team, NULL, &err), NIB_OK);
    pool_free(team);
}

static double h_of(size_t i, size_t j) {
    return i == j ? 1.0 + (double)(i % 7) * 3 : 0.3 / (1 + fabs((double)i - (double)j));
}

static float w[N];
static double h[COLS * COLS];
static uint16_t down[32 * COLS], up[ROWS * 32];

/* Of rank 3 and nothing else: all but BF16's rounding is taken. */
static void test_exact_rank(void **state) {
    (void)state;
    uint64_t seed = 1;
    double left[ROWS * 3], right[3 * COLS], all = 0;
    for (size_t i = 0; i < ROWS * 3; i++)
        left[i] = noise(&seed);
    for (size_t i = 0; i < 3 * COLS; i++)
        right[i] = noise(&seed);
    for (size_t i = 0; i < N; i++)
        w[i] =
            (float)(left[i / COLS * 3] * right[i % COLS] + left[i / COLS * 3 + 1] * right[COLS + i % COLS] +
                    left[i / COLS * 3 + 2] * right[2 * COLS + i % COLS]);
    for (size_t i = 0; i < COLS * COLS; i++)
        h[i] = h_of(i / COLS, i % COLS);
    memset(up, 0, sizeof up);
    all = loss(w, h, 3, down, up);
    find(w, h, 3, down, up, 1);
    assert_true(loss(w, h, 3, down, up) < 4e-5 * all);
}

/* A diagonal matrix under a diagonal H: the singular values are known, w_i sqrt(h_i), and so is what the best
 * of a rank leaves. A plain SVD would take others. */
static void test_weighted(void **state) {
    (void)state;
    double want = 0, all = 0;
    memset(w, 0, sizeof w);
    memset(h, 0, sizeof h);
    for (size_t i = 0; i < COLS; i++)
        h[i * COLS + i] = i < 8 ? 100 : 1;
    for (size_t i = 0; i < ROWS; i++) {
        w[i * COLS + i] = i < 8 ? 1 : 5;
        all += (double)(w[i * COLS + i] * w[i * COLS + i]) * h[i * COLS + i];
    }
    want = all - 8 * 100;
    find(w, h, 8, down, up, 1);
    assert_true(fabs(loss(w, h, 8, down, up) - want) < 1e-3 * all);
}

static void test_noise(void **state) {
    (void)state;
    uint64_t seed = 2;
    uint16_t down2[32 * COLS], up2[ROWS * 32];
    double last = INFINITY;
    for (size_t i = 0; i < N; i++)
        w[i] = (float)noise(&seed);
    for (size_t i = 0; i < COLS * COLS; i++)
        h[i] = h_of(i / COLS, i % COLS);
    for (size_t rank = 1; rank <= 32; rank *= 2) {
        find(w, h, rank, down, up, 1);
        const double now = loss(w, h, rank, down, up);
        assert_true(now < last);
        last = now;
        find(w, h, rank, down2, up2, 3);
        assert_memory_equal(down, down2, rank * COLS * sizeof *down);
        assert_memory_equal(up, up2, rank * ROWS * sizeof *up);
    }
}

static void test_not_finite(void **state) {
    (void)state;
    nib_error err;
    const tensor t = tensor_of(w);
    w[7] = NAN;
    assert_int_equal(low_rank_find(&t, h, 2, down, up, NULL, NULL, &err), NIB_BAD_FILE);
    assert_non_null(strstr(err.text, "NaN"));
}

static void test_stopped(void **state) {
    (void)state;
    nib_error err;
    const tensor t = tensor_of(w);
    const volatile sig_atomic_t stop = SIGINT;
    memset(w, 0, sizeof w);
    assert_int_equal(low_rank_find(&t, h, 2, down, up, NULL, &stop, &err), NIB_CANCELLED);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_exact_rank), cmocka_unit_test(test_weighted),
                                       cmocka_unit_test(test_noise), cmocka_unit_test(test_not_finite),
                                       cmocka_unit_test(test_stopped)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
