/* SPDX-License-Identifier: Apache-2.0
 *
 * A short printable form of a stranger's bytes, for sentences.
 */
#ifndef TEXT_EXCERPT_H
#define TEXT_EXCERPT_H

#include "base/strview.h"

typedef struct excerpt {
    char text[44];
} excerpt;

static inline excerpt excerpt_of(strview v) {
    excerpt e;
    size_t n = 0;
    for (; n < v.n && n < 40; n++) {
        const unsigned char byte = (unsigned char)v.p[n];
        e.text[n] = (char)(byte < 0x20 || byte >= 0x7F || byte == '"' ? '?' : byte);
    }
    memcpy(e.text + n, v.n > n ? "..." : "", v.n > n ? 4 : 1);
    return e;
}

#endif
