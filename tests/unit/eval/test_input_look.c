/* SPDX-License-Identifier: Apache-2.0
 *
 * What a look at rows adds up, against a double loop and sorted magnitudes; the same for several threads.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/mem.h"
#include "eval/input_look.h"

enum { ROWS = 700, AT_ONCE = 256, MOST_COLS = 160 };

static float rows[ROWS * MOST_COLS];
static nib_error err;

static void draw(size_t n) {
    uint32_t state = 3;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        const float u = (float)(int32_t)state * 0x1p-31f;
        rows[i] = i % 997 == 0 ? 0 : u * u * u * 40 * (i % 500 == 7 ? 30 : 1);
    }
}

static input_stat look(size_t cols, int threads) {
    input_stat out = {0};
    input_looker by;
    input_look k;
    pool *team = NULL;
    if (threads > 1)
        assert_int_equal(pool_new(&team, threads, &err), NIB_OK);
    assert_int_equal(input_looker_open(&by, team, &err), NIB_OK);
    assert_int_equal(input_look_open(&k, cols, &err), NIB_OK);
    for (size_t r = 0; r < ROWS; r += AT_ONCE)
        input_look_add(&k, &by, rows + r * cols, ROWS - r < AT_ONCE ? ROWS - r : AT_ONCE);
    assert_int_equal(input_look_finish(&k, &out, &err), NIB_OK);
    input_look_close(&k);
    input_looker_close(&by);
    pool_free(team);
    return out;
}

static int by_size(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void check_peaks(const input_stat *s, size_t cols) {
    const size_t n = ROWS * cols;
    float *sorted = malloc(n * sizeof *sorted);
    for (size_t i = 0; i < n; i++)
        sorted[i] = fabsf(rows[i]);
    qsort(sorted, n, sizeof *sorted, by_size);
    assert_true(s->has_peaks && s->peaks[0] == sorted[n - 1]);
    for (size_t i = 1; i < INPUT_STATS_PEAKS; i++) {
        const float exact = sorted[(size_t)ceil(input_stats_shares[i] * (double)n) - 1];
        assert_true(s->peaks[i] >= exact && s->peaks[i] <= exact * (1 + 1.0f / 127));
    }
    free(sorted);
}

static void check(size_t cols) {
    draw(ROWS * cols);
    input_stat s = look(cols, 1), again = look(cols, 3);
    check_peaks(&s, cols);
    assert_memory_equal(s.peaks, again.peaks, sizeof s.peaks);
    assert_true((s.blocks != NULL) == (cols % INPUT_STATS_BLOCK == 0));
    for (size_t i = 0; i < cols && s.blocks; i++)
        for (size_t j = 0; j < INPUT_STATS_BLOCK; j++) {
            double sum = 0, size = 0;
            for (size_t r = 0; r < ROWS; r++) {
                const double p = (double)rows[r * cols + i] *
                                 (double)rows[r * cols + i / INPUT_STATS_BLOCK * INPUT_STATS_BLOCK + j];
                sum += p;
                size += fabs(p);
            }
            assert_true(fabs((double)s.blocks[i * INPUT_STATS_BLOCK + j] - sum) <= 1e-5 * size);
        }
    if (s.blocks) {
        assert_memory_equal(s.blocks, again.blocks, cols * INPUT_STATS_BLOCK * sizeof *s.blocks);
        assert_true(s.blocks_count == ROWS);
    }
    mem_free(s.blocks);
    mem_free(again.blocks);
}

static void test_look(void **unused) {
    (void)unused;
    check(16);
    check(MOST_COLS);
    check(24); /* no whole number of blocks */
}

/* Magnitudes beyond the bins: none is above the largest. */
static void test_extremes(void **unused) {
    (void)unused;
    for (size_t i = 0; i < ROWS * 16; i++)
        rows[i] = i % 2 ? 1e-30f : 1e30f;
    input_stat s = look(16, 1);
    assert_true(s.peaks[0] == 1e30f && s.peaks[1] == 1e30f);
    mem_free(s.blocks);
    memset(rows, 0, sizeof rows);
    s = look(16, 1);
    for (size_t i = 0; i < INPUT_STATS_PEAKS; i++)
        assert_true(s.peaks[i] == 0);
    mem_free(s.blocks);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_look), cmocka_unit_test(test_extremes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
