/* SPDX-License-Identifier: Apache-2.0
 *
 * Regular expression -> positions (an automaton without empty steps) -> sets of positions. State counts are
 * bounded, so that (a|b)*a(a|b){20} is refused, not computed.
 */
#include <stdlib.h>

#include "base/mem.h"
#include "text/language_parts.h"

/* ---- of a regular expression: positions of its classes ---- */

typedef struct position {
    const regex *class;
    uint32_t *follows; /* positions */
    uint32_t n;
} position;

typedef struct positions {
    grammar_builder *b;
    arena *a;
    position *list;
    uint32_t n;
    size_t compared, copied;
} positions;

#define MAX_POSITIONS 1024
#define MAX_COMPARED  (1u << 24) /* positions looked at while lists are joined */
#define MAX_COPIED    (1u << 20)

typedef struct ends {
    uint32_t *first, *last; /* positions that begin and end a text, in the arena */
    uint32_t n_first, n_last;
    bool empty;
} ends;

/* Adds to *LIST what of MORE it has not; the list is copied, for others may share it. */
static bool join(positions *p, uint32_t **list, uint32_t *n, const uint32_t *more, uint32_t n_more) {
    uint32_t total = *n, *both = *list;
    p->compared += (size_t)*n * n_more;
    if (p->compared > MAX_COMPARED)
        return language_too_large(p->b) != NULL;
    for (uint32_t i = 0; i < n_more; i++) {
        bool known = false;
        for (uint32_t k = 0; k < *n && !known; k++)
            known = both[k] == more[i];
        if (known)
            continue;
        if (both == *list) {
            p->copied += *n + n_more;
            both = p->copied > MAX_COPIED ? NULL : arena_alloc(p->a, *n + n_more, sizeof *both);
            if (!both)
                return p->copied > MAX_COPIED ? language_too_large(p->b) != NULL
                                              : language_no_memory(p->b) != NULL;
            if (*n)
                memcpy(both, *list, *n * sizeof *both);
        }
        both[total++] = more[i];
    }
    *list = both;
    *n = total;
    return true;
}

static bool connect(positions *p, const ends *x, const ends *y) {
    for (uint32_t i = 0; i < x->n_last; i++) {
        position *from = &p->list[x->last[i]];
        if (!join(p, &from->follows, &from->n, y->first, y->n_first))
            return false;
    }
    return true;
}

/* X, then Y. */
static bool ends_seq(positions *p, ends *x, const ends *y) {
    if (!connect(p, x, y) || (x->empty && !join(p, &x->first, &x->n_first, y->first, y->n_first)))
        return false;
    ends last = *y;
    if (y->empty && !join(p, &last.last, &last.n_last, x->last, x->n_last))
        return false;
    x->last = last.last;
    x->n_last = last.n_last;
    x->empty = x->empty && y->empty;
    return true;
}

static bool ends_of(positions *p, const regex *r, ends *out);

static bool ends_of_repeat(positions *p, const regex *r, ends *out) {
    *out = (ends){.empty = true};
    const uint32_t turns = r->max == GRAMMAR_NO_MAX ? (r->min ? r->min : 1) : r->max;
    if (turns > MAX_POSITIONS)
        return language_too_large(p->b) != NULL;
    for (uint32_t i = 0; i < turns; i++) {
        ends turn;
        if (!ends_of(p, r->kids[0], &turn))
            return false;
        if (r->max == GRAMMAR_NO_MAX && i + 1 == turns && !connect(p, &turn, &turn))
            return false;
        turn.empty |= i >= r->min;
        if (!ends_seq(p, out, &turn))
            return false;
    }
    return true;
}

static bool ends_of(positions *p, const regex *r, ends *out) {
    *out = (ends){.empty = r->kind == REGEX_EMPTY};
    if (r->kind == REGEX_CLASS) {
        uint32_t *one = arena_alloc(p->a, 1, sizeof *one);
        if (p->n == MAX_POSITIONS)
            return language_too_large(p->b) != NULL;
        if (!one)
            return language_no_memory(p->b) != NULL;
        *one = p->n;
        p->list[p->n++] = (position){.class = r};
        *out = (ends){one, one, 1, 1, false};
    } else if (r->kind == REGEX_REPEAT) {
        return ends_of_repeat(p, r, out);
    } else if (r->kind == REGEX_SEQ) {
        out->empty = true;
        for (size_t i = 0; i < r->n_kids; i++) {
            ends part;
            if (!ends_of(p, r->kids[i], &part) || !ends_seq(p, out, &part))
                return false;
        }
    } else if (r->kind == REGEX_ALT) {
        for (size_t i = 0; i < r->n_kids; i++) {
            ends part;
            if (!ends_of(p, r->kids[i], &part) ||
                !join(p, &out->first, &out->n_first, part.first, part.n_first) ||
                !join(p, &out->last, &out->n_last, part.last, part.n_last))
                return false;
            out->empty |= part.empty;
        }
    }
    return true;
}

static int compare_words(const void *x, const void *y) {
    const uint32_t a = *(const uint32_t *)x, b = *(const uint32_t *)y;
    return (a > b) - (a < b);
}

/* The code points where the classes of a set of positions begin or have just ended, in order. */
static size_t find_cuts(const positions *p, const uint32_t *set, size_t n, uint32_t *cuts, size_t room) {
    size_t n_cuts = 0, kept = 0;
    for (size_t i = 0; i < n; i++) {
        const regex *class = p->list[set[i]].class;
        for (size_t k = 0; k < class->n_spans && n_cuts + 2 <= room; k++) {
            cuts[n_cuts++] = class->spans[k].first;
            cuts[n_cuts++] = class->spans[k].last + 1;
        }
    }
    if (n_cuts > 1)
        qsort(cuts, n_cuts, sizeof *cuts, compare_words);
    for (size_t i = 0; i < n_cuts; i++)
        if (kept == 0 || cuts[i] != cuts[kept - 1])
            cuts[kept++] = cuts[i];
    return kept;
}

static bool class_has(const regex *class, uint32_t code) {
    size_t low = 0, high = class->n_spans;
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (class->spans[middle].last < code)
            low = middle + 1;
        else
            high = middle;
    }
    return low < class->n_spans && class->spans[low].first <= code;
}

#define MAX_CUTS 8192

typedef struct subsets {
    positions p;
    language_table found;
    uint32_t *cuts, *next; /* scratch */
    const ends *whole;
} subsets;

/* The steps of the state that has read up to the positions SET [n] (for the start: those that begin). A key
 * is whether the text may end there, then the positions that may come next. */
static bool find_steps(subsets *s, language_state *state, const uint32_t *set, size_t n) {
    const size_t n_cuts = find_cuts(&s->p, set, n, s->cuts, MAX_CUTS);
    if (n_cuts + 2 > MAX_CUTS)
        return language_too_large(s->p.b) != NULL;
    state->steps = arena_alloc(s->p.a, n_cuts + 1, sizeof *state->steps);
    if (!state->steps)
        return language_no_memory(s->p.b) != NULL;
    for (size_t c = 0; c + 1 < n_cuts; c++) {
        size_t n_next = 1;
        s->next[0] = 0;
        for (size_t i = 0; i < n; i++) {
            const position *at = &s->p.list[set[i]];
            if (!class_has(at->class, s->cuts[c]))
                continue;
            for (uint32_t k = 0; k < s->whole->n_last; k++)
                s->next[0] |= s->whole->last[k] == set[i];
            if (n_next + at->n > 4 * MAX_POSITIONS)
                return language_too_large(s->p.b) != NULL;
            if (at->n)
                memcpy(s->next + n_next, at->follows, at->n * sizeof *s->next);
            n_next += at->n;
        }
        if (n_next == 1 && !s->next[0])
            continue;
        size_t kept = 1;
        qsort(s->next + 1, n_next - 1, sizeof *s->next, compare_words);
        for (size_t i = 1; i < n_next; i++)
            if (kept == 1 || s->next[i] != s->next[kept - 1])
                s->next[kept++] = s->next[i];
        const uint32_t to = language_table_find(s->p.b, &s->found, s->next, kept);
        if (to == UINT32_MAX)
            return false;
        language_add_step(state, s->cuts[c], s->cuts[c + 1] - 1, to);
    }
    return true;
}

static const language *find_subsets(subsets *s) {
    language *x = language_make_open(s->p.b, s->p.a, LANGUAGE_MAX_STATES);
    uint32_t *set = mem_array(4 * MAX_POSITIONS + 1, sizeof *set);
    bool ok = x && set;
    if (!set)
        language_no_memory(s->p.b);
    if (ok) {
        s->next[0] = s->whole->empty;
        if (s->whole->n_first)
            memcpy(s->next + 1, s->whole->first, s->whole->n_first * sizeof *s->next);
        qsort(s->next + 1, s->whole->n_first, sizeof *s->next, compare_words);
        ok = language_table_find(s->p.b, &s->found, s->next, s->whole->n_first + 1) == 0;
    }
    for (uint32_t id = 0; ok && id < s->found.n; id++) {
        const size_t from = s->found.from[id], n = s->found.from[id + 1] - from;
        memcpy(set, s->found.keys + from, n * sizeof *set);
        x->states[id].accepts = set[0];
        ok = find_steps(s, &x->states[id], set + 1, n - 1);
        x->n_states = id + 1;
    }
    mem_free(set);
    return language_settle(s->p.b, s->p.a, x, ok);
}

const language *language_of_regex(grammar_builder *b, arena *a, const regex *r) {
    if (!r)
        return NULL;
    const language *x = NULL;
    ends whole;
    subsets s = {.p = {.b = b, .a = a}, .whole = &whole};
    s.p.list = mem_array(MAX_POSITIONS, sizeof *s.p.list);
    s.cuts = mem_array(MAX_CUTS, sizeof *s.cuts);
    s.next = mem_array(4 * MAX_POSITIONS + 1, sizeof *s.next);
    if (!language_table_open(&s.found) || !s.p.list || !s.cuts || !s.next)
        language_no_memory(b);
    else if (ends_of(&s.p, r, &whole))
        x = find_subsets(&s);
    language_table_free(&s.found);
    mem_free(s.p.list);
    mem_free(s.cuts);
    mem_free(s.next);
    return x;
}
