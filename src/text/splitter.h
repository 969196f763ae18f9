/* SPDX-License-Identifier: Apache-2.0
 *
 * Pre-tokenizer: cuts text into the words inside which byte-pair merges happen. A list of steps, each cutting
 * the pieces of the step before. The three patterns of the families nibble runs are written out here (exact,
 * linear in time); any other pattern goes to Oniguruma.
 * Private to the text room.
 */
#ifndef TEXT_SPLITTER_H
#define TEXT_SPLITTER_H

#include "base/strview.h"
#include "text/char_class.h"

#define SPLITTER_MAX_STEPS 8

typedef enum split_kind {
    SPLIT_GPT2 = 1,    /* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
    SPLIT_WORDS,       /* (?i:'s|...)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,K}| ?[^\s\p{L}\p{N}]+[\r\n]*|
                          \s*[\r\n]+|\s+(?!\S)|\s+ : Qwen2 (K = 1), Llama 3 (K = 3) */
    SPLIT_EACH_NUMBER, /* every number character alone */
    SPLIT_NUMBERS,     /* runs of them */
    SPLIT_PATTERN      /* Oniguruma; matches and what lies between them */
} split_kind;

/* What becomes of the matches of a pattern (tokenizers' SplitDelimiterBehavior). */
typedef enum split_behavior {
    SPLIT_ISOLATED = 0,
    SPLIT_REMOVED,
    SPLIT_WITH_PREVIOUS, /* a match joins what lies before it, unless that is a match */
    SPLIT_WITH_NEXT,
    SPLIT_CONTIGUOUS /* matches that touch are one piece */
} split_behavior;

typedef struct split_step {
    split_kind kind;
    int max_digits;   /* SPLIT_WORDS */
    bool fold_long_s; /* SPLIT_WORDS: (?i:'s) matches U+017F too, as tokenizers' pattern does */
    struct split_pattern *pattern;
    split_behavior behavior; /* SPLIT_PATTERN */
    bool invert;             /* what lies between are the matches */
} split_step;

typedef struct splitter {
    split_step steps[SPLITTER_MAX_STEPS];
    size_t n_steps;
    char_classes classes;
    bool has_classes;
} splitter;

void splitter_close(splitter *s);

nib_status splitter_add(splitter *s, split_step step, const char *where, nib_error *err);
/* Appends STEP with PATTERN as tokenizer.json spells it; its kind is set here. Its categories are SOURCE's.
 */
nib_status splitter_add_pattern(splitter *s, split_step step, strview pattern, class_source source,
                                const char *where, nib_error *err);

/* Calls WORD for every word of TEXT [n > 0] in order; a failure of it ends the walk. *work is what
 * Oniguruma may still do for the text that this is a part of (SPLIT_PATTERN_WORK of its length at first). */
typedef nib_status split_sink(void *context, const char *word, size_t n, nib_error *err);
nib_status splitter_run(const splitter *s, const char *text, size_t n, split_sink *word, void *context,
                        uint64_t *work, nib_error *err);

#endif
