/* SPDX-License-Identifier: Apache-2.0
 *
 * The pre-tokenizers' patterns written out. Each function returns where the match that begins at P ends; the
 * comments quote the alternative of the pattern that a branch stands for. Text is whole UTF-8 characters
 * (llama.cpp's lenient kind included). Every branch looks at each character a bounded number of times.
 */
#include "text/splitter.h"

#include "base/utf8.h"
#include "nouns/pretokenizer.h"
#include "text/split_pattern.h"

typedef const unsigned char *cursor;

static char_class class_at(const char_classes *c, cursor p, cursor end, unsigned *bytes) {
    if (p >= end) {
        *bytes = 0;
        return CHAR_SPACE; /* no class that a run of letters, numbers or others goes on with */
    }
    return char_class_of(c, utf8_read(p, bytes));
}

static cursor skip_class(const char_classes *c, cursor p, cursor end, char_class kind) {
    unsigned bytes;
    while (p < end && class_at(c, p, end, &bytes) == kind)
        p += bytes;
    return p;
}

/* 's|'t|'re|'ve|'m|'ll|'d after the apostrophe at P; 0 when there is none. */
static size_t contraction(cursor p, cursor end, bool any_case, bool fold_long_s) {
    if (end - p < 2)
        return 0;
    const unsigned char fold = any_case ? 0x20 : 0;
    const unsigned char a = p[1] | fold;
    if (a == 's' || a == 't' || a == 'm' || a == 'd')
        return 2;
    if (fold_long_s && end - p >= 3 && p[1] == 0xC5 && p[2] == 0xBF)
        return 3;
    if (end - p < 3)
        return 0;
    const unsigned char b = p[2] | fold;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

/* \s+(?!\S)|\s+ : a run of white space, less its last character when a word follows. */
static cursor spaces_end(const char_classes *c, cursor p, cursor end) {
    const cursor start = p;
    cursor last = p;
    unsigned bytes;
    while (p < end && class_at(c, p, end, &bytes) == CHAR_SPACE) {
        last = p;
        p += bytes;
    }
    return p < end && last > start ? last : p;
}

static cursor gpt2_end(const char_classes *c, cursor p, cursor end) {
    if (*p == '\'') {
        const size_t n = contraction(p, end, false, false);
        if (n)
            return p + n;
    }
    unsigned bytes;
    const char_class first = class_at(c, p, end, &bytes);
    if (first != CHAR_SPACE) /* \p{L}+|\p{N}+|[^\s\p{L}\p{N}]+ */
        return skip_class(c, p + bytes, end, first);
    if (*p == ' ') { /* the same after a space */
        const char_class second = class_at(c, p + 1, end, &bytes);
        if (second != CHAR_SPACE)
            return skip_class(c, p + 1 + bytes, end, second);
    }
    return spaces_end(c, p, end);
}

static bool is_newline(unsigned char byte) {
    return byte == '\r' || byte == '\n';
}

/* \p{N}{1,K} */
static cursor digits_end(const char_classes *c, cursor p, cursor end, int max_digits) {
    unsigned bytes;
    for (int i = 0; i < max_digits && p < end && class_at(c, p, end, &bytes) == CHAR_NUMBER; i++)
        p += bytes;
    return p;
}

static cursor words_end(const split_step *step, const char_classes *c, cursor p, cursor end) {
    if (*p == '\'') {
        const size_t n = contraction(p, end, true, step->fold_long_s);
        if (n)
            return p + n;
    }
    unsigned bytes;
    const char_class first = class_at(c, p, end, &bytes);
    if (first == CHAR_NUMBER)
        return digits_end(c, p, end, step->max_digits);
    if (first == CHAR_LETTER)
        return skip_class(c, p + bytes, end, CHAR_LETTER);
    if (!is_newline(*p)) { /* [^\r\n\p{L}\p{N}]\p{L}+ */
        const cursor letters = skip_class(c, p + bytes, end, CHAR_LETTER);
        if (letters > p + bytes)
            return letters;
    }
    /* ` ?[^\s\p{L}\p{N}]+[\r\n]*` */
    const cursor others = *p == ' ' ? p + 1 : p;
    cursor q = skip_class(c, others, end, CHAR_OTHER);
    if (q > others) {
        while (q < end && is_newline(*q))
            q++;
        return q;
    }
    cursor after_newline = NULL; /* \s*[\r\n]+ : up to the last line end of the white space */
    for (q = p; q < end && class_at(c, q, end, &bytes) == CHAR_SPACE; q += bytes)
        if (is_newline(*q))
            after_newline = q + 1;
    return after_newline ? after_newline : spaces_end(c, p, end);
}

/* Digits: number characters alone (or runs of them), and what lies between. */
static cursor numbers_end(const char_classes *c, cursor p, cursor end, bool alone) {
    unsigned bytes;
    const bool number = class_at(c, p, end, &bytes) == CHAR_NUMBER;
    p += bytes;
    if (number && alone)
        return p;
    while (p < end && (class_at(c, p, end, &bytes) == CHAR_NUMBER) == number)
        p += bytes;
    return p;
}

static cursor step_end(const splitter *s, const split_step *step, cursor p, cursor end) {
    switch (step->kind) {
    case SPLIT_GPT2:
        return gpt2_end(&s->classes, p, end);
    case SPLIT_WORDS:
        return words_end(step, &s->classes, p, end);
    case SPLIT_EACH_NUMBER:
        return numbers_end(&s->classes, p, end, true);
    case SPLIT_NUMBERS:
        return numbers_end(&s->classes, p, end, false);
    case SPLIT_PATTERN:
        break;
    }
    return end;
}

typedef struct walk {
    const splitter *splitter;
    size_t step;
    split_sink *word;
    void *context;
    uint64_t *work;
} walk;

static nib_status run_from(const walk *w, const char *text, size_t n, nib_error *err);

/* The pieces that a pattern's matches leave, each given on when it is known where it ends. */
typedef struct piece_run {
    const walk *deeper;
    split_behavior behavior;
    bool invert;
    const char *text;
    size_t from, to; /* the piece at hand; empty: none */
    bool matched;    /* what it ends with */
} piece_run;

static nib_status flush_piece(piece_run *p, nib_error *err) {
    const size_t from = p->from, n = p->to - p->from;
    p->from = p->to;
    return n > 0 ? run_from(p->deeper, p->text + from, n, err) : NIB_OK;
}

/* [FROM, TO) follows what was pushed before; a match of nothing only cuts. */
static nib_status push_piece(piece_run *p, size_t from, size_t to, bool match, nib_error *err) {
    if (from == to)
        return match ? flush_piece(p, err) : NIB_OK;
    match ^= p->invert;
    const bool any = p->to > p->from;
    const bool joins = any && ((p->behavior == SPLIT_WITH_PREVIOUS && match && !p->matched) ||
                               (p->behavior == SPLIT_WITH_NEXT && !match && p->matched) ||
                               (p->behavior == SPLIT_CONTIGUOUS && match == p->matched));
    if (!joins) {
        NIB_TRY(flush_piece(p, err));
        p->from = p->behavior == SPLIT_REMOVED && match ? to : from;
    }
    p->to = to;
    p->matched = match;
    return NIB_OK;
}

static nib_status run_pattern(const walk *deeper, const split_step *step, const char *text, size_t n,
                              nib_error *err) {
    split_pattern_match match;
    piece_run pieces = {.deeper = deeper, .behavior = step->behavior, .invert = step->invert, .text = text};
    NIB_TRY(split_pattern_match_open(&match, step->pattern, text, n, deeper->work, err));
    nib_status status = NIB_OK;
    for (size_t done = 0; done < n && status == NIB_OK;) {
        size_t from, to;
        status = split_pattern_match_next(&match, &from, &to, err);
        if (status == NIB_OK)
            status = push_piece(&pieces, done, from, false, err);
        if (status == NIB_OK)
            status = push_piece(&pieces, from, to, true, err);
        done = to;
    }
    if (status == NIB_OK)
        status = flush_piece(&pieces, err);
    split_pattern_match_close(&match);
    return status;
}

static nib_status run_from(const walk *w, const char *text, size_t n, nib_error *err) {
    if (w->step == w->splitter->n_steps)
        return w->word(w->context, text, n, err);
    const split_step *step = &w->splitter->steps[w->step];
    walk deeper = *w;
    deeper.step++;
    if (step->kind != SPLIT_PATTERN) {
        const cursor end = (cursor)text + n;
        for (cursor p = (cursor)text; p < end;) {
            const cursor next = step_end(w->splitter, step, p, end);
            NIB_TRY(run_from(&deeper, (const char *)p, (size_t)(next - p), err));
            p = next;
        }
        return NIB_OK;
    }
    return run_pattern(&deeper, step, text, n, err);
}

nib_status splitter_run(const splitter *s, const char *text, size_t n, split_sink *word, void *context,
                        uint64_t *work, nib_error *err) {
    const walk w = {s, 0, word, context, work};
    return run_from(&w, text, n, err);
}

nib_status splitter_add(splitter *s, split_step step, const char *where, nib_error *err) {
    if (s->n_steps == SPLITTER_MAX_STEPS)
        return nib_fail(err, NIB_UNSUPPORTED, "%s: pre_tokenizer has more than the %d steps nibble knows",
                        where, SPLITTER_MAX_STEPS);
    s->steps[s->n_steps++] = step;
    return NIB_OK;
}

/* Is PATTERN one that is written out here? It leaves nothing between its matches, so only what may join or
 * drop them differs. */
static bool is_written_out(split_step *step, strview pattern, class_source source) {
    if (step->behavior != SPLIT_ISOLATED && !(step->behavior == SPLIT_REMOVED && step->invert))
        return false;
    step->fold_long_s = source != CLASSES_LLAMA_CPP; /* whose contractions are ASCII */
    step->kind = SPLIT_WORDS;
    if (strview_is(pattern, PRETOKENIZER_GPT2))
        step->kind = SPLIT_GPT2;
    else if (strview_is(pattern, PRETOKENIZER_WORDS("\\p{N}{1,3}")))
        step->max_digits = 3;
    else if (strview_is(pattern, PRETOKENIZER_WORDS("\\p{N}")))
        step->max_digits = 1;
    else
        return false;
    return true;
}

nib_status splitter_add_pattern(splitter *s, split_step step, strview pattern, class_source source,
                                const char *where, nib_error *err) {
    if (!is_written_out(&step, pattern, source)) {
        step.kind = SPLIT_PATTERN;
        NIB_TRY(split_pattern_open(&step.pattern, pattern, source, where, err));
    }
    const nib_status status = splitter_add(s, step, where, err);
    if (status != NIB_OK)
        split_pattern_close(step.pattern);
    return status;
}

void splitter_close(splitter *s) {
    for (size_t i = 0; i < s->n_steps; i++)
        split_pattern_close(s->steps[i].pattern);
    if (s->has_classes)
        char_classes_close(&s->classes);
    memset(s, 0, sizeof *s);
}
