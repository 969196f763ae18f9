/* SPDX-License-Identifier: Apache-2.0
 *
 * Second moments of a site's inputs: a window that counts four times is as a window that is there four
 * times. The walks are rows of numbers.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tune/moments.h"

enum { COLS = 32, ROWS = 24, KINDS = 3 };

static nib_error err;
static float numbers[2][KINDS][2][ROWS * COLS]; /* of a walk, a window; its input, its residual stream */

/* first_row of a batch says which of the windows it is. */
static const float *of(const walk *w, size_t i, int what) {
    return numbers[w->dim][w->text->first_row[i]][what];
}

nib_status walk_input(walk *w, walk_site at, int layer, size_t i, const float **out, nib_error *e) {
    (void)at, (void)layer, (void)e;
    *out = of(w, i, 0);
    return NIB_OK;
}

const float *walk_residual(const walk *w, size_t i) {
    return of(w, i, 1);
}

void walk_leave(const walk *w, size_t i) {
    (void)w, (void)i;
}

static nib_status tick(void *context, nib_error *e) {
    (void)e;
    ++*(int *)context;
    return NIB_OK;
}

static void gather(moments *train, moments *test, const size_t *windows, const float *by,
                   const bool *held_out, size_t n) {
    batch batches[16];
    for (size_t i = 0; i < n; i++)
        batches[i] = (batch){.n_rows = ROWS};
    walk_text text = {.batches = batches,
                      .first_row = (size_t *)(uintptr_t)windows,
                      .by = (float *)(uintptr_t)by,
                      .held_out = (bool *)(uintptr_t)held_out,
                      .n_batches = n};
    walk now = {.text = &text}, source = {.text = &text, .dim = 1}; /* the mock's: which walk it is */
    const hparams hp = {.dim = COLS, .residual_scale = 1};
    int ticks = 0;
    const moments_job job = {.train = train,
                             .test = test,
                             .now = &now,
                             .source = &source,
                             .hp = &hp,
                             .at = SITE_O,
                             .cols = COLS,
                             .tick = tick,
                             .context = &ticks};
    assert_int_equal(moments_gather(&job, &err), NIB_OK);
    assert_int_equal(ticks, n);
}

static void check_same(const gram *a, const gram *b) {
    for (size_t i = 0; i < a->rows * a->cols; i++)
        assert_true(fabs(a->h[i] * (double)a->n - b->h[i] * (double)b->n) < 1e-3);
}

static void test_counts(void **unused) {
    (void)unused;
    static const size_t once[] = {0, 1, 2, 2}, often[] = {0, 1, 1, 1, 1, 2, 2, 2, 2, 2};
    static const float by[] = {1, 2, 1, 2}, ones[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
    static const bool held[] = {false, false, true, true},
                      held_often[] = {false, false, false, false, false, true, true, true, true, true};
    float *all = &numbers[0][0][0][0];
    uint32_t state = 7;
    for (size_t i = 0; i < sizeof numbers / sizeof *all; i++) {
        state = state * 1664525u + 1013904223u;
        all[i] = (float)(int32_t)state * 0x1p-31f;
    }
    moments a = {0}, a_test = {0}, b = {0}, b_test = {0};
    gather(&a, &a_test, once, by, held, 4);
    gather(&b, &b_test, often, ones, held_often, 10);
    check_same(&a.h, &b.h);
    check_same(&a.c, &b.c);
    check_same(&a.r, &b.r);
    check_same(&a_test.h, &b_test.h);
    check_same(&a_test.d, &b_test.d);
    check_same(&a_test.across, &b_test.across);
    for (int j = 0; j < COLS; j++)
        assert_true(fabs(a_test.squares[j] * (double)a_test.across.n -
                         b_test.squares[j] * (double)b_test.across.n) < 1e-3);
    moments_close(&a);
    moments_close(&a_test);
    moments_close(&b);
    moments_close(&b_test);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_counts)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
