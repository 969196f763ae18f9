/* SPDX-License-Identifier: Apache-2.0
 *
 * What a walk stands on: second moments by matrix products against a double loop, the journal that a killed
 * run leaves, activations on disk.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/pool.h"
#include "tune/gram.h"
#include "tune/journal.h"
#include "tune/stream.h"

static nib_error err;

/* ---- moments ---- */

static void draw(float *a, size_t n) {
    uint32_t state = 5;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        a[i] = (float)(int32_t)state * 0x1p-31f;
    }
}

/* Y [rows, y_cols] with X, or NULL, AT_ONCE rows at a time. */
static void gather(gram *g, pool *team, const float *y, size_t y_cols, const float *x, size_t cols,
                   size_t rows, size_t at_once) {
    assert_int_equal(gram_open(g, team, y_cols, cols, &err), NIB_OK);
    for (size_t r = 0; r < rows; r += at_once)
        gram_add(g, y ? y + r * y_cols : NULL, x + r * cols, rows - r < at_once ? rows - r : at_once);
    gram_finish(g);
    assert_int_equal(g->n, rows);
}

/* Of one kind of values (Y_COLS 0) or of two of the same rows; the same bits for several threads. */
static void check_gram(size_t y_cols, size_t cols, size_t rows, size_t at_once) {
    float *x = calloc(rows * (cols + y_cols), sizeof *x), *y = y_cols ? x + rows * cols : NULL;
    const size_t n = y ? y_cols : cols;
    gram g, again;
    pool *team;
    draw(x, rows * (cols + y_cols));
    gather(&g, NULL, y, y_cols, x, cols, rows, at_once);
    for (size_t i = 0; i < n; i += 5)
        for (size_t j = 0; j < cols; j++) {
            double sum = 0;
            for (size_t r = 0; r < rows; r++)
                sum += (double)(y ? y[r * n + i] : x[r * n + i]) * (double)x[r * cols + j];
            assert_true(fabs(g.h[i * cols + j] - sum / (double)rows) < 1e-6);
            assert_true(y || g.h[i * cols + j] == g.h[j * cols + i]);
        }
    assert_int_equal(pool_new(&team, 3, &err), NIB_OK);
    gather(&again, team, y, y_cols, x, cols, rows, rows);
    assert_memory_equal(again.h, g.h, n * cols * sizeof *g.h);
    pool_free(team);
    gram_close(&again);
    gram_close(&g);
    free(x);
}

static void test_gram(void **unused) {
    (void)unused;
    check_gram(16, 48, 1100, 256);
    check_gram(70, 272, 300, 300); /* less than a panel of y at its end */
    check_gram(0, 16, 3, 3);
    check_gram(0, 48, 2500, 256);
    check_gram(0, 304, 1100, 700);
}

static void test_no_rows(void **unused) {
    (void)unused;
    gram g;
    gather(&g, NULL, NULL, 0, NULL, 16, 0, 1);
    assert_true(g.h[0] == 0 && g.h[255] == 0);
    gram_close(&g);
}

/* ---- journal ---- */

#define ENTRY(codes, scales)                                                                                 \
    { .codes_bytes = (codes), .scales_bytes = (scales) }

static char path[64];

static void fill(journal_entry *e, unsigned char with) {
    memset(e->codes, with, e->codes_bytes);
    memset(e->scales, with + 1, e->scales_bytes);
    e->note[0] = with;
    e->note[3] = 0.5;
}

static void test_journal(void **unused) {
    (void)unused;
    journal_entry entries[3] = {ENTRY(100, 13), ENTRY(64, 64), ENTRY(7, 1)};
    journal j;
    snprintf(path, sizeof path, "journal-%d", (int)getpid());
    assert_int_equal(journal_open(&j, path, 42, entries, 3, &err), NIB_OK);
    for (size_t i = 0; i < 3; i++)
        assert_false(journal_has(&j, i));
    for (size_t i = 0; i < 2; i++) {
        fill(&entries[i], (unsigned char)(10 * i));
        journal_note(&j, i);
    }
    fill(&entries[2], 77); /* never noted: a run killed here */
    journal other;
    journal_entry more[3] = {ENTRY(100, 13), ENTRY(64, 64), ENTRY(7, 1)};
    assert_int_equal(journal_open(&other, path, 42, more, 3, &err), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "another nibble"));
    journal_close(&j, false);

    journal_entry again[3] = {ENTRY(100, 13), ENTRY(64, 64), ENTRY(7, 1)};
    assert_int_equal(journal_open(&j, path, 42, again, 3, &err), NIB_OK);
    assert_true(journal_has(&j, 0) && journal_has(&j, 1) && !journal_has(&j, 2));
    assert_true(again[1].note[0] == 10 && again[1].note[3] == 0.5 && again[1].codes[63] == 10);
    again[1].codes[5] ^= 1; /* damage */
    assert_false(journal_has(&j, 1));
    journal_close(&j, false);

    assert_int_equal(journal_open(&j, path, 43, again, 3, &err), NIB_OK); /* other work */
    assert_false(journal_has(&j, 0));
    journal_close(&j, true);
    assert_int_equal(access(path, F_OK), -1);
}

static void test_foreign_file(void **unused) {
    (void)unused;
    journal_entry entries[1] = {ENTRY(16, 16)};
    journal j;
    char text[8] = {0};
    snprintf(path, sizeof path, "journal-%d", (int)getpid());
    FILE *f = fopen(path, "w");
    fputs("dear", f);
    fclose(f);
    assert_int_equal(journal_open(&j, path, 1, entries, 1, &err), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "expected nothing there"));
    f = fopen(path, "r");
    assert_int_equal(fread(text, 1, sizeof text, f), 4);
    assert_string_equal(text, "dear");
    fclose(f);
    unlink(path);
    assert_int_equal(journal_open(&j, "no/such/place", 1, entries, 1, &err), NIB_IO);
    assert_int_equal(mkdir(path, 0755), 0);
    assert_int_equal(journal_open(&j, path, 1, entries, 1, &err), NIB_IO);
    rmdir(path);
}

/* ---- streams ---- */

static void test_streams(void **unused) {
    (void)unused;
    for (int on_disk = 0; on_disk < 2; on_disk++) {
        stream s;
        snprintf(path, sizeof path, "stream-%d", (int)getpid());
        assert_int_equal(stream_open(&s, 10000, on_disk, path, &err), NIB_OK);
        assert_true(s.at[9999] == 0);
        for (int i = 0; i < 10000; i++)
            s.at[i] = (float)i;
        stream_leave(&s, 100, 9000);
        for (int i = 0; i < 10000; i++)
            assert_true(s.at[i] == (float)i);
        stream_close(&s);
        stream_close(&s);
    }
    stream s;
    assert_int_equal(stream_open(&s, 100, true, "no/such/place", &err), NIB_IO);
    assert_non_null(strstr(err.text, "cannot keep 400 bytes"));
    stream_close(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gram), cmocka_unit_test(test_no_rows),
                                       cmocka_unit_test(test_journal), cmocka_unit_test(test_foreign_file),
                                       cmocka_unit_test(test_streams)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
