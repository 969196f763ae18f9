/* SPDX-License-Identifier: Apache-2.0
 *
 * A regular expression to a tree, anchors resolved.
 */
#include "text/regex.h"

#include <stdlib.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/char_class.h"
#include "text/excerpt.h"

typedef struct reader {
    grammar_builder *b;
    arena *a;
    const char *p, *end;
    const char *where;
    unsigned depth;
} reader;

static void *refuse(reader *r, const char *what) {
    grammar_fail(r->b, NIB_UNSUPPORTED, "%s: %s", r->where, what);
    return NULL;
}

static void *no_memory(reader *r) {
    grammar_fail(r->b, NIB_NO_MEMORY, "no memory for a regular expression");
    return NULL;
}

static regex *make(reader *r, regex_kind kind) {
    regex *x = arena_alloc(r->a, 1, sizeof *x);
    if (!x)
        return no_memory(r);
    x->kind = kind;
    return x;
}

static regex *make_list(reader *r, regex_kind kind, regex *const *kids, size_t n) {
    if (n == 1)
        return kids[0];
    regex *x = make(r, n ? kind : REGEX_EMPTY);
    if (!x || n == 0)
        return x;
    x->kids = arena_alloc(r->a, n, sizeof *x->kids);
    if (!x->kids)
        return no_memory(r);
    memcpy(x->kids, kids, n * sizeof *kids);
    x->n_kids = n;
    return x;
}

/* ---- classes ---- */

typedef struct spans {
    grammar_span *list;
    size_t n, capacity;
} spans; /* freed with mem_free(list) */

static bool spans_add(reader *r, spans *s, uint32_t first, uint32_t last) {
    if (s->n == s->capacity) {
        const size_t capacity = s->capacity ? 2 * s->capacity : 16;
        grammar_span *grown = mem_resize(s->list, capacity, sizeof *grown);
        if (!grown)
            return no_memory(r) != NULL;
        s->list = grown;
        s->capacity = capacity;
    }
    s->list[s->n++] = (grammar_span){first, last};
    return true;
}

static int compare_spans(const void *x, const void *y) {
    const grammar_span *a = x, *b = y;
    return (a->first > b->first) - (a->first < b->first);
}

/* Ascending and apart. */
static void spans_join(spans *s) {
    size_t n = 0;
    if (s->n > 1)
        qsort(s->list, s->n, sizeof *s->list, compare_spans);
    for (size_t i = 0; i < s->n; i++) {
        if (n > 0 && s->list[i].first <= s->list[n - 1].last + 1) {
            if (s->list[i].last > s->list[n - 1].last)
                s->list[n - 1].last = s->list[i].last;
        } else {
            s->list[n++] = s->list[i];
        }
    }
    s->n = n;
}

/* Adds what FROM, which is put in order, has not. */
static bool spans_add_rest(reader *r, spans *s, spans *from) {
    uint32_t next = 0;
    bool ok = true;
    spans_join(from);
    for (size_t i = 0; i < from->n && ok; i++) {
        if (from->list[i].first > next)
            ok = spans_add(r, s, next, from->list[i].first - 1);
        next = from->list[i].last + 1;
    }
    return ok && (next > SPELL_LAST_CODE || spans_add(r, s, next, SPELL_LAST_CODE));
}

/* Adds \d, \w, \s, \D, \W, \S, or \p{L}, \p{N}, \P{L}, \P{N} as 'L', 'N', 'l', 'n'. */
static bool add_named(reader *r, spans *s, char name) {
    const bool opposite = name == 'D' || name == 'W' || name == 'S' || name == 'l' || name == 'n';
    spans plain = {0};
    spans *to = opposite ? &plain : s;
    bool ok = true;
    if (name == 'd' || name == 'w' || name == 'D' || name == 'W')
        ok = spans_add(r, to, '0', '9');
    if (name == 'w' || name == 'W')
        ok = ok && spans_add(r, to, 'A', 'Z') && spans_add(r, to, '_', '_') && spans_add(r, to, 'a', 'z');
    if (name == 's' || name == 'S')
        ok = spans_add(r, to, '\t', '\r') && spans_add(r, to, ' ', ' ');
    for (size_t i = 0; i < n_unicode_ranges && ok && name != 'd' && name != 'w' && name != 's'; i++) {
        const unicode_range *u = &unicode_ranges[i];
        const char kind = u->category[0];
        const bool letter = kind == 'L', number = kind == 'N', space = kind == 'Z';
        if ((letter && (name == 'L' || name == 'l' || name == 'W')) ||
            (number && (name == 'N' || name == 'n' || name == 'D' || name == 'W')) || (space && name == 'S'))
            ok = spans_add(r, to, u->first, u->last);
    }
    if (name == 'W' || name == 'S') /* marks count as letters of words; some dialects know more spaces */
        ok = ok && spans_add(r, to, name == 'W' ? 0x80 : 0x1C, name == 'W' ? SPELL_LAST_CODE : 0x1F) &&
             (name == 'W' || (spans_add(r, to, 0x85, 0x85) && spans_add(r, to, 0xFEFF, 0xFEFF)));
    if (opposite)
        ok = ok && spans_add_rest(r, s, &plain);
    mem_free(plain.list);
    return ok;
}

/* The same, in the larger reading: what is not of the opposite. */
static bool add_named_larger(reader *r, spans *s, char name) {
    spans opposite = {0};
    const bool ok = add_named(r, &opposite, (char)(name ^ 32)) && spans_add_rest(r, s, &opposite);
    mem_free(opposite.list);
    return ok;
}

static int hex_value(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

/* N hexadecimal digits (1 to 6: as many as there are up to a brace, when N is 0). */
static bool read_hex(reader *r, unsigned n, uint32_t *code) {
    *code = 0;
    const bool braced = n == 0;
    unsigned i = 0;
    for (; i < (braced ? 6 : n) && r->p < r->end && hex_value(*r->p) >= 0; i++)
        *code = *code * 16 + (uint32_t)hex_value(*r->p++);
    const bool closed = !braced || (r->p < r->end && *r->p++ == '}');
    if (i == 0 || (!braced && i < n) || !closed || *code > SPELL_LAST_CODE)
        return refuse(r, "an escape that is no character") != NULL;
    return true;
}

/* \p{..} after the p. */
static bool read_property(reader *r, spans *s, bool opposite) {
    static const struct {
        const char *text;
        char name;
    } known[] = {{"{L}", 'L'}, {"{Letter}", 'L'}, {"{N}", 'N'}, {"{Number}", 'N'}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        const size_t n = strlen(known[i].text);
        if ((size_t)(r->end - r->p) >= n && memcmp(r->p, known[i].text, n) == 0) {
            r->p += n;
            return add_named(r, s, (char)(opposite ? known[i].name + 32 : known[i].name));
        }
    }
    return refuse(r, "a property of characters other than \\p{L} and \\p{N}") != NULL;
}

typedef enum place { IN_TEXT, IN_CLASS, IN_OPPOSITE } place;

/* What follows a backslash: one character (*CODE) or a class, added to S (*CODE is then UINT32_MAX). */
static bool read_escape(reader *r, spans *s, place where, uint32_t *code) {
    if (r->p == r->end)
        return refuse(r, "a backslash at the end") != NULL;
    static const char letters[] = "nrtfv0", codes[] = "\n\r\t\f\v\0";
    const char c = *r->p++;
    *code = UINT32_MAX;
    if (c && strchr("dwsDWS", c))
        return where == IN_OPPOSITE ? add_named_larger(r, s, c) : add_named(r, s, c);
    if (c == 'p' || c == 'P')
        return read_property(r, s, c == 'P');
    if (c == 'x')
        return read_hex(r, 2, code);
    if (c == 'u' && r->p < r->end && *r->p == '{') {
        r->p++;
        return read_hex(r, 0, code);
    }
    if (c == 'u') {
        uint32_t low;
        if (!read_hex(r, 4, code))
            return false;
        if (*code < 0xD800 || *code > 0xDFFF)
            return true;
        const bool pair = *code < 0xDC00 && r->end - r->p >= 6 && r->p[0] == '\\' && r->p[1] == 'u';
        r->p += pair ? 2 : 0;
        if (!pair || !read_hex(r, 4, &low) || low < 0xDC00 || low > 0xDFFF)
            return refuse(r, "half a character (a lone surrogate)") != NULL;
        *code = 0x10000 + ((*code - 0xD800) << 10) + (low - 0xDC00);
        return true;
    }
    const char *known = c ? strchr(letters, c) : NULL;
    if (known && !(c == '0' && r->p < r->end && *r->p >= '0' && *r->p <= '9')) {
        *code = (unsigned char)codes[known - letters];
        return true;
    }
    if (where != IN_TEXT && c == 'b') {
        *code = '\b';
        return true;
    }
    if ((unsigned char)c < 0x80 && !(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'z') &&
        !(c >= 'A' && c <= 'Z')) {
        *code = (unsigned char)c;
        return true;
    }
    const char text[2] = {c, 0};
    grammar_fail(r->b, NIB_UNSUPPORTED, "%s: \\%s is not supported in regular expressions", r->where,
                 (unsigned char)c < 0x80 ? text : "?");
    return false;
}

static bool read_code(reader *r, uint32_t *code) {
    unsigned bad;
    const unsigned n = utf8_decode((const unsigned char *)r->p, (size_t)(r->end - r->p), code, &bad);
    r->p += n;
    return n > 0 || refuse(r, "the pattern is not UTF-8");
}

static regex *class_of(reader *r, spans *s, bool opposite) {
    spans all = {0};
    if (opposite && !spans_add_rest(r, &all, s)) {
        mem_free(all.list);
        return NULL;
    }
    spans *from = opposite ? &all : s;
    spans_join(from);
    regex *x = make(r, REGEX_CLASS);
    grammar_span *copy = x ? arena_alloc(r->a, from->n + 1, sizeof *copy) : NULL;
    if (copy && from->n)
        memcpy(copy, from->list, from->n * sizeof *copy);
    if (copy) {
        x->spans = copy;
        x->n_spans = from->n;
    }
    mem_free(all.list);
    return copy ? x : no_memory(r);
}

/* One member of [...]: a character (*CODE) or a class that S takes (UINT32_MAX). */
static bool read_member(reader *r, spans *s, place where, uint32_t *code) {
    if (*r->p != '\\')
        return read_code(r, code);
    r->p++;
    return read_escape(r, s, where, code);
}

static bool read_members(reader *r, spans *s, place where) {
    while (r->p < r->end && *r->p != ']') {
        uint32_t first, last;
        if (r->p[0] == '[' && r->end - r->p > 1 && (r->p[1] == ':' || r->p[1] == '.'))
            return refuse(r, "[: in a class is not supported") != NULL;
        if (!read_member(r, s, where, &first))
            return false;
        if (first == UINT32_MAX)
            continue;
        last = first;
        if (r->end - r->p > 1 && r->p[0] == '-' && r->p[1] != ']') {
            r->p++;
            if (!read_member(r, s, where, &last))
                return false;
            if (last == UINT32_MAX || last < first)
                return refuse(r, "a range of characters that ends before it begins") != NULL;
        }
        if (!spans_add(r, s, first, last))
            return false;
    }
    return r->p < r->end || refuse(r, "[ without ]");
}

static regex *read_class(reader *r) {
    spans s = {0};
    const bool opposite = r->p < r->end && *r->p == '^';
    if (opposite)
        r->p++;
    regex *x = NULL;
    if (read_members(r, &s, opposite ? IN_OPPOSITE : IN_CLASS)) {
        r->p++;
        x = class_of(r, &s, opposite);
    }
    mem_free(s.list);
    return x;
}

/* ---- groups, repetitions ---- */

static regex *read_alternatives(reader *r);

static regex *read_group(reader *r) {
    if (r->p < r->end && *r->p == '?') {
        const size_t left = (size_t)(r->end - r->p);
        const bool named = left > 3 && ((r->p[1] == '<' && r->p[2] != '=' && r->p[2] != '!') ||
                                        (r->p[1] == 'P' && r->p[2] == '<'));
        if (left > 1 && r->p[1] == ':')
            r->p += 2;
        else if (named && memchr(r->p, '>', left))
            r->p = (const char *)memchr(r->p, '>', left) + 1;
        else
            return refuse(r, "groups that look around or set flags are not supported in regular expressions");
    }
    if (++r->depth > GRAMMAR_MAX_NESTING)
        return refuse(r, "groups are nested too deeply");
    regex *x = read_alternatives(r);
    r->depth--;
    if (x && (r->p == r->end || *r->p++ != ')'))
        return refuse(r, "( without )");
    return x;
}

static regex *read_atom(reader *r) {
    static const grammar_span not_dot[] = {{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}};
    spans s = {0};
    uint32_t code;
    regex *x = NULL;
    switch (*r->p) {
    case '(':
        r->p++;
        return read_group(r);
    case '[':
        r->p++;
        return read_class(r);
    case '^':
    case '$':
        return make(r, *r->p++ == '^' ? REGEX_BEGIN : REGEX_END);
    case '*':
    case '+':
    case '?':
        return refuse(r, "a repetition of nothing");
    case '.':
        r->p++;
        for (size_t i = 0; i < 3; i++)
            if (!spans_add(r, &s, not_dot[i].first, not_dot[i].last))
                break;
        x = s.n == 3 ? class_of(r, &s, true) : NULL;
        break;
    case '\\':
        r->p++;
        if (read_escape(r, &s, IN_TEXT, &code) && (code == UINT32_MAX || spans_add(r, &s, code, code)))
            x = class_of(r, &s, false);
        break;
    default:
        if (read_code(r, &code) && spans_add(r, &s, code, code))
            x = class_of(r, &s, false);
    }
    mem_free(s.list);
    return x;
}

static bool read_number(const char **p, const char *end, uint32_t *n) {
    const char *from = *p;
    uint64_t value = 0;
    for (; *p < end && **p >= '0' && **p <= '9'; (*p)++)
        value = value > GRAMMAR_MAX_REPEAT ? value : value * 10 + (uint64_t)(**p - '0');
    *n = (uint32_t)value;
    return *p > from;
}

/* A repetition after an atom: its bounds; false: there is none. */
static bool read_bounds(reader *r, uint32_t *min, uint32_t *max) {
    if (r->p == r->end)
        return false;
    if (*r->p == '*' || *r->p == '+' || *r->p == '?') {
        *min = *r->p == '+';
        *max = *r->p == '?' ? 1 : GRAMMAR_NO_MAX;
        r->p++;
        return true;
    }
    const char *p = r->p + 1;
    if (*r->p != '{' || !read_number(&p, r->end, min))
        return false; /* a brace of the text */
    *max = *min;
    if (p < r->end && *p == ',') {
        p++;
        if (!read_number(&p, r->end, max))
            *max = GRAMMAR_NO_MAX;
    }
    if (p == r->end || *p != '}')
        return false;
    r->p = p + 1;
    return true;
}

static regex *read_repeated(reader *r) {
    regex *x = read_atom(r);
    uint32_t min, max;
    while (x && read_bounds(r, &min, &max)) {
        if (max != GRAMMAR_NO_MAX && min > max)
            return refuse(r, "a repetition whose least number is above its largest");
        if (x->kind == REGEX_BEGIN || x->kind == REGEX_END)
            return refuse(r, "a repetition of an anchor");
        if (r->p < r->end && *r->p == '+')
            return refuse(r, "possessive repetitions are not supported");
        if (r->p < r->end && *r->p == '?')
            r->p++; /* lazy: the same texts */
        regex *repeat = make_list(r, REGEX_REPEAT, (regex *const[]){x, x}, 2);
        if (!repeat)
            return NULL;
        repeat->n_kids = 1;
        repeat->min = min;
        repeat->max = max;
        x = repeat;
    }
    return x;
}

static regex *read_alternatives(reader *r) {
    regex *alternatives[64], *parts[128];
    size_t n = 0, n_parts = 0;
    while (!grammar_failed(r->b)) {
        if (r->p < r->end && *r->p != '|' && *r->p != ')') {
            regex *x = read_repeated(r);
            if (!x)
                return NULL;
            if (n_parts == sizeof parts / sizeof *parts) { /* long patterns: a sequence of sequences */
                parts[0] = make_list(r, REGEX_SEQ, parts, n_parts);
                n_parts = 1;
            }
            parts[n_parts++] = x;
            continue;
        }
        if (n == sizeof alternatives / sizeof *alternatives) {
            alternatives[0] = make_list(r, REGEX_ALT, alternatives, n);
            n = 1;
        }
        alternatives[n] = make_list(r, REGEX_SEQ, parts, n_parts);
        if (!alternatives[n++])
            return NULL;
        n_parts = 0;
        if (r->p == r->end || *r->p == ')')
            return make_list(r, REGEX_ALT, alternatives, n);
        r->p++;
    }
    return NULL;
}

/* ---- anchors ---- */

static bool has_kind(const regex *x, regex_kind kind) {
    bool found = x->kind == kind;
    for (size_t i = 0; i < x->n_kids && !found; i++)
        found = has_kind(x->kids[i], kind);
    return found;
}

static regex *any_text(reader *r) {
    regex *any = make(r, REGEX_CLASS);
    grammar_span *all = any ? arena_alloc(r->a, 1, sizeof *all) : NULL;
    regex *repeat = all ? make_list(r, REGEX_REPEAT, (regex *const[]){any, any}, 2) : NULL;
    if (!repeat)
        return no_memory(r);
    *all = (grammar_span){0, SPELL_LAST_CODE};
    any->spans = all;
    any->n_spans = 1;
    repeat->n_kids = 1;
    repeat->max = GRAMMAR_NO_MAX;
    return repeat;
}

/* X with its anchors at one end (KIND) taken away; where there is none, anything may stand beyond unless
 * WHOLE. */
static regex *anchor(reader *r, regex *x, regex_kind kind, bool whole) {
    const bool begin = kind == REGEX_BEGIN;
    if (!x || r->depth > GRAMMAR_MAX_NESTING)
        return NULL;
    if (x->kind == kind)
        return make(r, REGEX_EMPTY);
    if (x->kind == REGEX_ALT ||
        (x->kind == REGEX_SEQ && has_kind(x->kids[begin ? 0 : x->n_kids - 1], kind))) {
        regex *copy = make_list(r, x->kind, x->kids, x->n_kids);
        if (!copy)
            return NULL;
        const bool alt = x->kind == REGEX_ALT;
        const size_t from = alt || begin ? 0 : x->n_kids - 1, to = alt || !begin ? x->n_kids : 1;
        r->depth++;
        for (size_t i = from; i < to; i++) {
            copy->kids[i] = anchor(r, x->kids[i], kind, whole);
            if (!copy->kids[i])
                return NULL;
        }
        r->depth--;
        return copy;
    }
    if (whole)
        return x;
    regex *any = any_text(r);
    if (!any)
        return NULL;
    regex *const two[] = {begin ? any : x, begin ? x : any};
    return make_list(r, REGEX_SEQ, two, 2);
}

regex *regex_read(grammar_builder *b, arena *a, strview pattern, bool whole, const char *where) {
    reader r = {b, a, pattern.p, pattern.p + pattern.n, where, 0};
    if (pattern.n > REGEX_MAX_BYTES)
        return refuse(&r, "a regular expression of more than 4096 bytes");
    regex *x = read_alternatives(&r);
    if (x && r.p < r.end)
        return refuse(&r, ") without (");
    r.depth = 0;
    x = anchor(&r, x, REGEX_BEGIN, whole);
    x = anchor(&r, x, REGEX_END, whole);
    if (x && (has_kind(x, REGEX_BEGIN) || has_kind(x, REGEX_END)))
        return refuse(&r, "an anchor in the middle of the pattern is not supported");
    return x;
}

uint32_t regex_least(const regex *x) {
    uint64_t least = x->kind == REGEX_ALT ? GRAMMAR_MAX_REPEAT + 1 : x->kind == REGEX_CLASS;
    if (x->kind == REGEX_REPEAT)
        least = (uint64_t)x->min * regex_least(x->kids[0]);
    for (size_t i = 0; i < x->n_kids && x->kind != REGEX_REPEAT; i++) {
        const uint64_t kid = regex_least(x->kids[i]);
        least = x->kind == REGEX_SEQ ? least + kid : kid < least ? kid : least;
    }
    return least > GRAMMAR_MAX_REPEAT ? GRAMMAR_MAX_REPEAT + 1 : (uint32_t)least;
}

grammar_node regex_node(grammar_builder *b, const regex *x, spelling how) {
    grammar_node all = x->kind == REGEX_ALT ? GRAMMAR_NEVER : GRAMMAR_EMPTY;
    switch (x->kind) {
    case REGEX_CLASS:
        return spell_char(b, x->spans, x->n_spans, how);
    case REGEX_REPEAT:
        return grammar_repeat(b, regex_node(b, x->kids[0], how), x->min, x->max);
    case REGEX_SEQ:
    case REGEX_ALT: {
        grammar_node *kids = mem_array(x->n_kids, sizeof *kids);
        if (!kids)
            return grammar_fail(b, NIB_NO_MEMORY, "no memory for a regular expression");
        for (size_t i = 0; i < x->n_kids; i++)
            kids[i] = regex_node(b, x->kids[i], how);
        all = x->kind == REGEX_SEQ ? grammar_seq(b, kids, x->n_kids) : grammar_alt(b, kids, x->n_kids);
        mem_free(kids);
        return all;
    }
    default:
        return all;
    }
}
