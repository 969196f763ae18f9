/* SPDX-License-Identifier: Apache-2.0
 *
 * GBNF to nodes. A rule ends at the end of its line, except inside parentheses, after `|` and after `::=`.
 */
#include "text/gbnf.h"

#include <stdlib.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/spell.h"

typedef struct known_rule {
    strview name;
    uint32_t rule;
    bool defined;
} known_rule;

typedef struct reader {
    grammar_builder *b;
    const char *p, *end;
    unsigned line, depth;
    known_rule *rules;
    size_t n_rules, capacity;
} reader;

static grammar_node refuse(reader *r, const char *what) {
    return grammar_fail(r->b, NIB_UNSUPPORTED, "the grammar, line %u: %s", r->line, what);
}

/* Blanks and comments; line ends too when LINES. */
static void skip_blanks(reader *r, bool lines) {
    while (r->p < r->end) {
        if (*r->p == '#') {
            while (r->p < r->end && *r->p != '\n')
                r->p++;
        } else if (*r->p == ' ' || *r->p == '\t' || *r->p == '\r' || (lines && *r->p == '\n')) {
            r->line += *r->p++ == '\n';
        } else {
            return;
        }
    }
}

static bool is_name(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

static strview read_name(reader *r) {
    const char *from = r->p;
    while (r->p < r->end && is_name(*r->p))
        r->p++;
    return (strview){from, (size_t)(r->p - from)};
}

/* The rule NAME, new where it is not known; NULL after a failure. */
static known_rule *find_rule(reader *r, strview name) {
    for (size_t i = 0; i < r->n_rules; i++)
        if (strview_equal(r->rules[i].name, name))
            return &r->rules[i];
    if (r->n_rules == GBNF_MAX_RULES) {
        refuse(r, "too many rules");
        return NULL;
    }
    if (r->n_rules == r->capacity) {
        const size_t capacity = r->capacity ? 2 * r->capacity : 32;
        known_rule *grown = mem_resize(r->rules, capacity, sizeof *grown);
        if (!grown) {
            grammar_fail(r->b, NIB_NO_MEMORY, "no memory for a grammar");
            return NULL;
        }
        r->rules = grown;
        r->capacity = capacity;
    }
    r->rules[r->n_rules] = (known_rule){name, grammar_rule(r->b, name), false};
    return &r->rules[r->n_rules++];
}

/* One character of a literal or class, escapes read. */
static bool read_char(reader *r, uint32_t *code) {
    static const char letters[] = "nrt\\\"[]-^", codes[] = "\n\r\t\\\"[]-^";
    unsigned bad;
    if (r->p < r->end && *r->p != '\\') {
        const unsigned n = utf8_decode((const unsigned char *)r->p, (size_t)(r->end - r->p), code, &bad);
        r->p += n;
        if (n == 0 || *code == '\n')
            refuse(r, n == 0 ? "the text is not UTF-8" : "a line end inside a literal or class");
        return n > 0 && *code != '\n';
    }
    if (r->end - r->p < 2)
        return refuse(r, "a backslash at the end") != 0;
    const char c = r->p[1];
    const unsigned digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    const char *known = c ? strchr(letters, c) : NULL;
    r->p += 2;
    *code = known ? (unsigned char)codes[known - letters] : 0;
    if (!known && !digits)
        return refuse(r, "an escape other than \\n \\r \\t \\\\ \\\" \\[ \\] \\x \\u \\U") != 0;
    for (unsigned i = 0; i < digits; i++) {
        const char d = r->p < r->end ? *r->p++ : 0;
        const int value = d >= '0' && d <= '9'   ? d - '0'
                          : d >= 'a' && d <= 'f' ? d - 'a' + 10
                          : d >= 'A' && d <= 'F' ? d - 'A' + 10
                                                 : -1;
        if (value < 0 || *code > SPELL_LAST_CODE)
            return refuse(r, "an escape that is no character") != 0;
        *code = *code * 16 + (uint32_t)value;
    }
    if (*code > SPELL_LAST_CODE || (*code >= 0xD800 && *code < 0xE000))
        return refuse(r, "an escape that is no character") != 0;
    return true;
}

static grammar_node read_literal(reader *r) {
    grammar_node all = GRAMMAR_EMPTY, parts[64];
    size_t n = 0;
    while (r->p < r->end && *r->p != '"') {
        uint32_t code;
        char bytes[4];
        if (!read_char(r, &code))
            return GRAMMAR_NEVER;
        parts[n++] = grammar_text(r->b, (strview){bytes, utf8_encode(code, bytes)});
        if (n == 64) {
            parts[0] = grammar_seq(r->b, parts, n);
            n = 1;
        }
    }
    if (r->p == r->end)
        return refuse(r, "a literal without its second quote");
    r->p++;
    all = grammar_seq(r->b, parts, n);
    return all;
}

static int compare_spans(const void *x, const void *y) {
    const grammar_span *a = x, *b = y;
    return (a->first > b->first) - (a->first < b->first);
}

/* Of N spans in any order: one of them, or one of no of them. */
static grammar_node class_node(reader *r, grammar_span *spans, size_t n, bool opposite) {
    size_t kept = 0;
    if (n > 1)
        qsort(spans, n, sizeof *spans, compare_spans);
    for (size_t i = 0; i < n; i++) {
        if (kept > 0 && spans[i].first <= spans[kept - 1].last + 1) {
            if (spans[i].last > spans[kept - 1].last)
                spans[kept - 1].last = spans[i].last;
        } else {
            spans[kept++] = spans[i];
        }
    }
    if (!opposite)
        return grammar_char(r->b, spans, kept);
    grammar_span rest[257];
    size_t n_rest = 0;
    uint32_t next = 0;
    for (size_t i = 0; i < kept; i++) {
        if (spans[i].first > next)
            rest[n_rest++] = (grammar_span){next, spans[i].first - 1};
        next = spans[i].last + 1;
    }
    if (next <= SPELL_LAST_CODE)
        rest[n_rest++] = (grammar_span){next, SPELL_LAST_CODE};
    return grammar_char(r->b, rest, n_rest);
}

static grammar_node read_class(reader *r) {
    grammar_span spans[256];
    size_t n = 0;
    const bool opposite = r->p < r->end && *r->p == '^';
    if (opposite)
        r->p++;
    while (r->p < r->end && *r->p != ']') {
        uint32_t first, last;
        if (n == 256)
            return refuse(r, "a class of more than 256 parts");
        if (!read_char(r, &first))
            return GRAMMAR_NEVER;
        last = first;
        if (r->end - r->p > 1 && r->p[0] == '-' && r->p[1] != ']') {
            r->p++;
            if (!read_char(r, &last))
                return GRAMMAR_NEVER;
            if (last < first)
                return refuse(r, "a range of characters that ends before it begins");
        }
        spans[n++] = (grammar_span){first, last};
    }
    if (r->p == r->end)
        return refuse(r, "a class without its ]");
    r->p++;
    return class_node(r, spans, n, opposite);
}

static grammar_node read_alternatives(reader *r, bool in_group);

static grammar_node read_atom(reader *r) {
    static const grammar_span any = {0, SPELL_LAST_CODE};
    const char c = *r->p;
    grammar_node x;
    if (is_name(c)) {
        const known_rule *rule = find_rule(r, read_name(r));
        return rule ? grammar_use(r->b, rule->rule) : GRAMMAR_NEVER;
    }
    r->p++;
    switch (c) {
    case '"':
        return read_literal(r);
    case '[':
        return read_class(r);
    case '.':
        return grammar_char(r->b, &any, 1);
    case '(':
        if (++r->depth > GRAMMAR_MAX_NESTING)
            return refuse(r, "parentheses are nested too deeply");
        x = read_alternatives(r, true);
        r->depth--;
        if (!grammar_failed(r->b) && (r->p == r->end || *r->p++ != ')'))
            return refuse(r, "( without )");
        return x;
    case '<':
    case '!':
        return refuse(r, "tokens as terminals (<...>) are not supported");
    default:
        return refuse(r, "expected a literal, class, rule name or group");
    }
}

static bool read_number(reader *r, uint32_t *n) {
    const char *from = r->p;
    uint64_t value = 0;
    for (; r->p < r->end && *r->p >= '0' && *r->p <= '9'; r->p++)
        value = value > GRAMMAR_MAX_REPEAT ? value : value * 10 + (uint64_t)(*r->p - '0');
    *n = (uint32_t)value;
    return r->p > from;
}

/* {m}, {m,}, {,n}, {m,n} after the brace. */
static grammar_node read_braces(reader *r, grammar_node x) {
    uint32_t min = 0, max;
    const bool has_min = read_number(r, &min);
    max = min;
    skip_blanks(r, false);
    if (r->p < r->end && *r->p == ',') {
        r->p++;
        skip_blanks(r, false);
        if (!read_number(r, &max))
            max = GRAMMAR_NO_MAX;
    } else if (!has_min) {
        return refuse(r, "a repetition without a number");
    }
    skip_blanks(r, false);
    if (r->p == r->end || *r->p++ != '}')
        return refuse(r, "{ without }");
    if (max != GRAMMAR_NO_MAX && min > max)
        return refuse(r, "a repetition whose least number is above its largest");
    return grammar_repeat(r->b, x, min, max);
}

static grammar_node read_repeated(reader *r, bool in_group) {
    grammar_node x = read_atom(r);
    for (;;) {
        skip_blanks(r, in_group);
        if (r->p == r->end || grammar_failed(r->b))
            return x;
        const char c = *r->p;
        if (c != '*' && c != '+' && c != '?' && c != '{')
            return x;
        r->p++;
        if (c == '{')
            x = read_braces(r, x);
        else
            x = grammar_repeat(r->b, x, c == '+', c == '?' ? 1 : GRAMMAR_NO_MAX);
    }
}

static grammar_node read_sequence(reader *r, bool in_group) {
    grammar_node parts[64];
    size_t n = 0;
    for (;;) {
        skip_blanks(r, in_group);
        if (r->p == r->end || *r->p == '\n' || *r->p == '|' || *r->p == ')' || grammar_failed(r->b))
            return grammar_seq(r->b, parts, n);
        if (n == 64) {
            parts[0] = grammar_seq(r->b, parts, n);
            n = 1;
        }
        parts[n++] = read_repeated(r, in_group);
    }
}

static grammar_node read_alternatives(reader *r, bool in_group) {
    grammar_node parts[64];
    size_t n = 0;
    skip_blanks(r, true);
    for (;;) {
        if (n == 64) {
            parts[0] = grammar_alt(r->b, parts, n);
            n = 1;
        }
        parts[n++] = read_sequence(r, in_group);
        if (r->p == r->end || *r->p != '|' || grammar_failed(r->b))
            return grammar_alt(r->b, parts, n);
        r->p++;
        skip_blanks(r, true);
    }
}

static void read_rule(reader *r) {
    const strview name = read_name(r);
    if (name.n == 0) {
        refuse(r, "expected the name of a rule");
        return;
    }
    skip_blanks(r, false);
    if (r->end - r->p < 3 || memcmp(r->p, "::=", 3) != 0) {
        refuse(r, "expected ::= after the name of a rule");
        return;
    }
    r->p += 3;
    const known_rule *rule = find_rule(r, name);
    if (!rule)
        return;
    if (rule->defined) {
        grammar_fail(r->b, NIB_UNSUPPORTED, "the grammar, line %u: the rule \"%.*s\" is defined twice",
                     r->line, (int)name.n, name.p);
        return;
    }
    const size_t at = (size_t)(rule - r->rules);
    r->rules[at].defined = true;
    grammar_define(r->b, r->rules[at].rule, read_alternatives(r, false));
    if (!grammar_failed(r->b) && r->p < r->end && *r->p != '\n')
        refuse(r, ") without (");
}

grammar_node gbnf_read(grammar_builder *b, strview text) {
    reader r = {.b = b, .p = text.p, .end = text.p + text.n, .line = 1};
    if (text.n > GBNF_MAX_BYTES)
        return refuse(&r, "a grammar of more than 256 KiB");
    for (skip_blanks(&r, true); r.p < r.end && !grammar_failed(b); skip_blanks(&r, true))
        read_rule(&r);
    grammar_node root = GRAMMAR_NEVER;
    for (size_t i = 0; i < r.n_rules; i++)
        if (strview_is(r.rules[i].name, "root") && r.rules[i].defined)
            root = grammar_use(b, r.rules[i].rule);
    mem_free(r.rules);
    return root == GRAMMAR_NEVER ? grammar_fail(b, NIB_UNSUPPORTED, "the grammar has no rule \"root\"")
                                 : root;
}
