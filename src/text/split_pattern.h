/* SPDX-License-Identifier: Apache-2.0
 *
 * A regular expression of a pre-tokenizer that nibble has not written out, run by Oniguruma: tokenizer.json's
 * are written in its syntax. Private to the text room; the caller is splitter.c.
 */
#ifndef TEXT_SPLIT_PATTERN_H
#define TEXT_SPLIT_PATTERN_H

#include "text/char_class.h"

typedef struct split_pattern split_pattern;

/* Categories of characters are those of SOURCE. */
nib_status split_pattern_open(split_pattern **out, strview pattern, class_source source, const char *where,
                              nib_error *err);
void split_pattern_close(split_pattern *p); /* NULL is fine */

/* Steps of backtracking that a text of N bytes may take beyond the few that every position has free: a budget
 * for all walks over it together. */
#define SPLIT_PATTERN_WORK(n) (100000000 + (uint64_t)(n)*64)

/* One walk over one text (valid UTF-8); the pattern itself may be shared by threads. */
typedef struct split_pattern_match {
    const split_pattern *pattern;
    const char *text;
    size_t n, at;
    size_t last_end; /* of the match before; n + 1: there was none */
    uint64_t *work;  /* what is left */
    void *limits;
} split_pattern_match;

nib_status split_pattern_match_open(split_pattern_match *m, const split_pattern *pattern, const char *text,
                                    size_t n, uint64_t *work, nib_error *err);
/* The next match: [from, to), which may be empty, but not where the one before it ends; from == to == n when
 * there is none. */
nib_status split_pattern_match_next(split_pattern_match *m, size_t *from, size_t *to, nib_error *err);
void split_pattern_match_close(split_pattern_match *m);

#endif
