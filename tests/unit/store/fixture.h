/* SPDX-License-Identifier: Apache-2.0
 *
 * What the store's tests share: a scratch directory of their own, files written into it, sentences checked.
 */
#ifndef TESTS_STORE_FIXTURE_H
#define TESTS_STORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/status.h"

static char fixture_dir[256]; /* made by fixture_setup, removed with what is in it by fixture_teardown */

static inline int fixture_setup(void **state) {
    (void)state;
    const char *base = getenv("TMPDIR");
    snprintf(fixture_dir, sizeof fixture_dir, "%s/nibble-store-XXXXXX", base ? base : "/tmp");
    return mkdtemp(fixture_dir) ? 0 : -1;
}

static inline int fixture_remove(const char *path, const struct stat *st, int flag, struct FTW *at) {
    (void)st;
    (void)flag;
    (void)at;
    return remove(path);
}

static inline int fixture_teardown(void **state) {
    (void)state;
    return nftw(fixture_dir, fixture_remove, 8, FTW_DEPTH | FTW_PHYS);
}

/* The scratch path of NAME; valid until the eighth call after. */
static inline const char *fixture_path(const char *name) {
    static char paths[8][600];
    static int next;
    char *path = paths[next++ % 8];
    assert_in_range(snprintf(path, sizeof paths[0], "%s/%s", fixture_dir, name), 1, sizeof paths[0] - 1);
    return path;
}

static inline const char *fixture_write(const char *name, const void *bytes, size_t n) {
    const char *path = fixture_path(name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
    return path;
}

static inline void fixture_directory(const char *name) {
    mkdir(fixture_path(name), 0777);
}

#define ASSERT_OK(expression)                                                                                \
    do {                                                                                                     \
        nib_status fixture_status_ = (expression);                                                           \
        if (fixture_status_ != NIB_OK)                                                                       \
            fail_msg("%s: %s", #expression, err.text);                                                       \
    } while (0)

static inline void assert_words(const nib_error *err, const char *words) {
    if (!strstr(err->text, words))
        fail_msg("\"%s\" does not say \"%s\"", err->text, words);
}

#endif
