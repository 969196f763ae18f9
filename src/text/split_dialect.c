/* SPDX-License-Identifier: Apache-2.0
 *
 * A walk over the pattern that knows escapes, brackets and groups; everything else is the library's to read.
 * Sources: Oniguruma's doc/RE and doc/SYNTAX.md.
 */
#include "text/split_dialect.h"

#include <stdio.h>

#include "text/excerpt.h"

#define MAX_GROUPS 250 /* as many as Oniguruma nests brackets */

typedef struct walk {
    text_buffer *out;
    const char *p, *end;
    class_source source;
    const char *where;
    nib_error *err;
    int brackets;                  /* [ ] around */
    int groups;                    /* ( ) around */
    bool any_case[MAX_GROUPS + 1]; /* of each: case is ignored in it */
} walk;

static nib_status refuse(const walk *w, const char *what) {
    return nib_fail(w->err, NIB_UNSUPPORTED, "%s: a Split pattern with %s, which nibble does not cut by",
                    w->where, what);
}

static nib_status copy(walk *w, size_t n) {
    NIB_TRY(text_buffer_append(w->out, w->p, n, w->err));
    w->p += n;
    return NIB_OK;
}

static bool at(const walk *w, const char *text) {
    const size_t n = strlen(text);
    return (size_t)(w->end - w->p) >= n && memcmp(w->p, text, n) == 0;
}

/* ---- categories ---- */

static nib_status append_span(void *context, unicode_span span, nib_error *err) {
    char text[40];
    const int n = span.first == span.last ? snprintf(text, sizeof text, "\\x{%X}", (unsigned)span.first)
                                          : snprintf(text, sizeof text, "\\x{%X}-\\x{%X}",
                                                     (unsigned)span.first, (unsigned)span.last);
    return text_buffer_append(context, text, (size_t)n, err);
}

/* The characters of NAME, or all others, as a bracket of their own; inside one it is a part of it. */
static nib_status spell_category(walk *w, strview name, bool negated) {
    if (w->brackets == 0 && w->any_case[w->groups])
        return refuse(w, "a category where case is ignored");
    NIB_TRY(text_buffer_append(w->out, negated ? "[^" : "[", negated ? 2 : 1, w->err));
    NIB_TRY(char_class_spans(name, w->source, append_span, w->out, w->err));
    return text_buffer_append(w->out, "]", 1, w->err);
}

/* \p{Lu}, \P{Lu}, \p{^Lu}: at the backslash. */
static nib_status read_property(walk *w) {
    const char *name = w->p + 3, *close = memchr(name, '}', (size_t)(w->end - name));
    if (!close)
        return copy(w, 2); /* the library says what is wrong */
    bool negated = w->p[1] == 'P';
    if (*name == '^') {
        negated = !negated;
        name++;
    }
    const strview category = {name, (size_t)(close - name)};
    if (!char_class_known(category))
        return copy(w, (size_t)(close + 1 - w->p));
    w->p = close + 1;
    return spell_category(w, category, negated);
}

static nib_status read_escape(walk *w) {
    if (w->end - w->p < 2)
        return copy(w, 1);
    const char letter = w->p[1];
    if (letter == 'K' || letter == 'G')
        return refuse(w, letter == 'K' ? "\\K" : "\\G");
    if ((letter == 'p' || letter == 'P') && w->end - w->p > 3 && w->p[2] == '{')
        return read_property(w);
    if (letter == 'd' || letter == 'D') {
        w->p += 2;
        return spell_category(w, strview_of("Nd"), letter == 'D');
    }
    return copy(w, 2);
}

/* ---- brackets ---- */

/* [ or [^, and a ] that stands first: it is itself. */
static nib_status open_bracket(walk *w) {
    w->brackets++;
    NIB_TRY(copy(w, 1));
    if (at(w, "^"))
        NIB_TRY(copy(w, 1));
    return at(w, "]") ? copy(w, 1) : NIB_OK;
}

static nib_status read_in_bracket(walk *w) {
    if (at(w, "[:")) { /* [:alpha:] */
        const char *close = memmem(w->p, (size_t)(w->end - w->p), ":]", 2);
        if (close)
            return copy(w, (size_t)(close + 2 - w->p));
    }
    if (*w->p == '[')
        return open_bracket(w);
    w->brackets -= *w->p == ']';
    return copy(w, 1);
}

/* ---- groups ---- */

/* (?i-m: or (?i) after the question mark: which options are on. *letters is how many letters stand there. */
static nib_status read_options(const walk *w, size_t *letters, bool *any_case) {
    bool on = true;
    const char *p = w->p + 2;
    for (; p < w->end && *p != ')' && *p != ':'; p++) {
        if (*p == '-')
            on = false;
        else if (*p == 'i')
            *any_case = on;
        else if (*p != 'm')
            return refuse(w, "an option other than (?i) and (?m)");
    }
    *letters = (size_t)(p - w->p);
    return NIB_OK;
}

static nib_status open_group(walk *w) {
    static const char *const plain[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?~"};
    if (w->groups == MAX_GROUPS)
        return refuse(w, "more than 250 groups in one another");
    const bool outer = w->any_case[w->groups];
    w->any_case[w->groups + 1] = outer;
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (at(w, plain[i])) {
            w->groups++;
            return copy(w, strlen(plain[i]));
        }
    if (at(w, "(?#")) {
        const char *close = memchr(w->p, ')', (size_t)(w->end - w->p));
        return copy(w, close ? (size_t)(close + 1 - w->p) : 3);
    }
    if (!at(w, "(?")) {
        w->groups++;
        return copy(w, 1);
    }
    if (at(w, "(?<") || at(w, "(?'") || at(w, "(?(") || at(w, "(?{"))
        return refuse(w, "a named or conditional group");
    size_t letters = 0;
    bool any_case = outer;
    NIB_TRY(read_options(w, &letters, &any_case));
    if (w->p + letters < w->end && w->p[letters] == ')') {
        w->any_case[w->groups] = any_case; /* for the rest of the group around */
    } else {
        w->groups++;
        w->any_case[w->groups] = any_case;
    }
    return copy(w, letters + (w->p + letters < w->end));
}

nib_status split_dialect_spell(text_buffer *out, strview pattern, class_source source, const char *where,
                               nib_error *err) {
    walk w = {.out = out,
              .p = pattern.p,
              .end = pattern.p + pattern.n,
              .source = source,
              .where = where,
              .err = err};
    while (w.p < w.end) {
        if (*w.p == '\\')
            NIB_TRY(read_escape(&w));
        else if (w.brackets > 0)
            NIB_TRY(read_in_bracket(&w));
        else if (*w.p == '[')
            NIB_TRY(open_bracket(&w));
        else if (at(&w, "(*"))
            return refuse(&w, "a callout");
        else if (*w.p == '(')
            NIB_TRY(open_group(&w));
        else {
            w.groups -= *w.p == ')' && w.groups > 0;
            NIB_TRY(copy(&w, 1));
        }
    }
    return NIB_OK;
}
