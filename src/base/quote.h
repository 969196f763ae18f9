/* SPDX-License-Identifier: Apache-2.0
 *
 * Text from a stranger's file, made safe for a sentence: printable ASCII stays, every other byte becomes '?',
 * what is long is cut. Used by who reads files.
 */
#ifndef BASE_QUOTE_H
#define BASE_QUOTE_H

#include "base/strview.h"

typedef struct quote_text {
    char text[84];
} quote_text;

static inline quote_text quote_make(strview v) {
    quote_text out;
    size_t limit = sizeof out.text - 4, n = v.n < limit ? v.n : limit;
    for (size_t i = 0; i < n; i++)
        out.text[i] = v.p[i] >= 0x20 && v.p[i] < 0x7f ? v.p[i] : '?';
    memcpy(out.text + n, v.n > n ? "..." : "", v.n > n ? 4 : 1);
    return out;
}

/* For printf arguments: lives until the end of the full expression. */
#define QUOTE(view)    (quote_make(view).text)
#define QUOTEZ(string) (quote_make(strview_of(string)).text)

#endif
