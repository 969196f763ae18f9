/* SPDX-License-Identifier: Apache-2.0
 *
 * A run of bytes that somebody else owns.
 */
#ifndef BASE_STRVIEW_H
#define BASE_STRVIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

typedef struct strview {
    const char *p;
    size_t n;
} strview;

static inline strview strview_of(const char *text) {
    strview v = {text, strlen(text)};
    return v;
}

static inline bool strview_equal(strview a, strview b) {
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

static inline bool strview_is(strview a, const char *text) {
    return strview_equal(a, strview_of(text));
}

#endif
