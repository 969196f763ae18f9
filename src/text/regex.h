/* SPDX-License-Identifier: Apache-2.0
 *
 * Regular expressions, the part that all dialects agree on: literals, `.`, classes, \d \w \s and their
 * opposites, \p{L} \p{N}, groups, alternatives, * + ? {m,n} (lazy ones too), and anchors at the ends. What
 * looks around, back or only at words is refused in words. `.` is no line end; where dialects disagree about
 * a class (is an Arabic digit \d?) the smaller reading is taken. Private to the text room.
 */
#ifndef TEXT_REGEX_H
#define TEXT_REGEX_H

#include "base/arena.h"
#include "text/spell.h"

#define REGEX_MAX_BYTES 4096

typedef enum regex_kind {
    REGEX_EMPTY,
    REGEX_CLASS,
    REGEX_SEQ,
    REGEX_ALT,
    REGEX_REPEAT, /* kids[0], min to max times */
    REGEX_BEGIN,
    REGEX_END
} regex_kind;

typedef struct regex {
    regex_kind kind;
    uint32_t min, max;
    grammar_span *spans; /* [n_spans], ascending, apart */
    size_t n_spans;
    struct regex **kids; /* [n_kids] */
    size_t n_kids;
} regex;

/* The tree of PATTERN, in memory of A, without anchors. WHOLE: it matches a text from its beginning to its
 * end; else anywhere in it, as JSON Schema says, and the tree then holds the rest of the text too. WHERE
 * names the pattern in sentences. NULL when it was refused: B has failed. */
regex *regex_read(grammar_builder *b, arena *a, strview pattern, bool whole, const char *where);
/* The fewest characters of a text that R matches; at most GRAMMAR_MAX_REPEAT + 1, which stands for more. */
uint32_t regex_least(const regex *r);
grammar_node regex_node(grammar_builder *b, const regex *r, spelling how);

#endif
