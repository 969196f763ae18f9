/* SPDX-License-Identifier: Apache-2.0
 *
 * A regular expression of tokenizer.json that nibble has not written out, run by PCRE2 (JIT, Unicode
 * properties). Private to the text room; the caller is splitter.c.
 */
#ifndef TEXT_SPLIT_PATTERN_H
#define TEXT_SPLIT_PATTERN_H

#include "base/status.h"
#include "base/strview.h"

typedef struct split_pattern split_pattern;

nib_status split_pattern_open(split_pattern **out, strview pattern, const char *where, nib_error *err);
void split_pattern_close(split_pattern *p); /* NULL is fine */

/* Steps of backtracking that a text of N bytes may take beyond the few that every position has free: a budget
 * for all walks over it together. */
#define SPLIT_PATTERN_WORK(n) (400000000 + (uint64_t)(n)*256)

/* One walk over one text (valid UTF-8); the pattern itself may be shared by threads. */
typedef struct split_pattern_match {
    const split_pattern *pattern;
    const char *text;
    size_t n, at;
    uint64_t *work; /* what is left */
    void *data, *context, *stack;
} split_pattern_match;

nib_status split_pattern_match_open(split_pattern_match *m, const split_pattern *pattern, const char *text,
                                    size_t n, uint64_t *work, nib_error *err);
/* The next match that is not empty: [from, to); from == to == n when there is none. */
nib_status split_pattern_match_next(split_pattern_match *m, size_t *from, size_t *to, nib_error *err);
void split_pattern_match_close(split_pattern_match *m);

#endif
