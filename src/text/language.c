/* SPDX-License-Identifier: Apache-2.0
 *
 * Regular expression -> positions (an automaton without empty steps) -> sets of positions; products of two;
 * the opposite. State counts are bounded, so that (a|b)*a(a|b){20} is refused, not computed.
 */
#include "text/language.h"

#include <stdlib.h>

#include "base/mem.h"
#include "base/utf8.h"

static void *no_memory(grammar_builder *b) {
    grammar_fail(b, NIB_NO_MEMORY, "no memory for a language of texts");
    return NULL;
}

static void *too_large(grammar_builder *b) {
    grammar_fail(b, NIB_UNSUPPORTED,
                 "a pattern or length takes more than %d states to hold together with what "
                 "else is asked of the text",
                 LANGUAGE_MAX_STATES);
    return NULL;
}

/* ---- states found by their keys, in the order of finding ---- */

typedef struct table {
    uint32_t *keys; /* words of each key, one after the other */
    size_t *from;   /* [n + 1] */
    uint32_t *slots;
    size_t n, words, capacity, words_capacity, mask;
} table;

static void table_free(table *t) {
    mem_free(t->keys);
    mem_free(t->from);
    mem_free(t->slots);
}

static bool table_open(table *t) {
    *t = (table){.words_capacity = 1024, .mask = 2 * LANGUAGE_MAX_STATES - 1};
    t->keys = mem_alloc(t->words_capacity * sizeof *t->keys);
    t->from = mem_array(LANGUAGE_MAX_STATES + 1, sizeof *t->from);
    t->slots = mem_array(t->mask + 1, sizeof *t->slots);
    return t->keys && t->from && t->slots;
}

/* The number of KEY [n]; UINT32_MAX after a failure. */
static uint32_t table_find(grammar_builder *b, table *t, const uint32_t *key, size_t n) {
    uint64_t h = n;
    for (size_t i = 0; i < n; i++)
        h = (h ^ key[i]) * UINT64_C(0x9E3779B97F4A7C15), h ^= h >> 29;
    size_t i = h & t->mask;
    for (; t->slots[i]; i = (i + 1) & t->mask) {
        const size_t id = t->slots[i] - 1;
        if (t->from[id + 1] - t->from[id] == n && memcmp(t->keys + t->from[id], key, n * sizeof *key) == 0)
            return (uint32_t)id;
    }
    if (t->n == LANGUAGE_MAX_STATES || t->words > 64u * LANGUAGE_MAX_STATES) {
        too_large(b);
        return UINT32_MAX;
    }
    while (t->words + n > t->words_capacity) {
        uint32_t *grown = mem_resize(t->keys, 2 * t->words_capacity, sizeof *grown);
        if (!grown) {
            no_memory(b);
            return UINT32_MAX;
        }
        t->keys = grown;
        t->words_capacity *= 2;
    }
    memcpy(t->keys + t->words, key, n * sizeof *key);
    t->words += n;
    t->slots[i] = (uint32_t)++t->n;
    t->from[t->n] = t->words;
    return (uint32_t)t->n - 1;
}

static language *make(grammar_builder *b, arena *a, size_t n) {
    language *x = arena_alloc(a, 1, sizeof *x);
    if (x)
        x->states = arena_alloc(a, n, sizeof *x->states);
    return x && x->states ? x : no_memory(b);
}

/* A language of as yet unknown size: its states are settled in the arena by `settle`. */
static language *make_open(grammar_builder *b, arena *a) {
    language *x = arena_alloc(a, 1, sizeof *x);
    if (x)
        x->states = mem_array(LANGUAGE_MAX_STATES, sizeof *x->states);
    return x && x->states ? x : no_memory(b);
}

/* X with its states in the arena, NULL unless OK. */
static const language *settle(grammar_builder *b, arena *a, language *x, bool ok) {
    if (!x)
        return NULL;
    language_state *open = x->states;
    ok = ok && grammar_count_states(b, x->n_states, LANGUAGE_MAX_TOTAL);
    if (ok) {
        x->states = arena_alloc(a, x->n_states, sizeof *x->states);
        if (x->states)
            memcpy(x->states, open, x->n_states * sizeof *x->states);
    }
    mem_free(open);
    return !ok ? NULL : x->states ? x : no_memory(b);
}

/* Adds a step, joined to the last one where it goes on. STEPS has room. */
static void add_step(language_state *s, uint32_t first, uint32_t last, uint32_t to) {
    language_step *end = s->n_steps ? &s->steps[s->n_steps - 1] : NULL;
    if (end && end->to == to && end->last + 1 == first)
        end->last = last;
    else
        s->steps[s->n_steps++] = (language_step){first, last, to};
}

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
        return too_large(p->b) != NULL;
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
                return p->copied > MAX_COPIED ? too_large(p->b) != NULL : no_memory(p->b) != NULL;
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
        return too_large(p->b) != NULL;
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
            return too_large(p->b) != NULL;
        if (!one)
            return no_memory(p->b) != NULL;
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
    table found;
    uint32_t *cuts, *next; /* scratch */
    const ends *whole;
} subsets;

/* The steps of the state that has read up to the positions SET [n] (for the start: those that begin). A key
 * is whether the text may end there, then the positions that may come next. */
static bool find_steps(subsets *s, language_state *state, const uint32_t *set, size_t n) {
    const size_t n_cuts = find_cuts(&s->p, set, n, s->cuts, MAX_CUTS);
    if (n_cuts + 2 > MAX_CUTS)
        return too_large(s->p.b) != NULL;
    state->steps = arena_alloc(s->p.a, n_cuts + 1, sizeof *state->steps);
    if (!state->steps)
        return no_memory(s->p.b) != NULL;
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
                return too_large(s->p.b) != NULL;
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
        const uint32_t to = table_find(s->p.b, &s->found, s->next, kept);
        if (to == UINT32_MAX)
            return false;
        add_step(state, s->cuts[c], s->cuts[c + 1] - 1, to);
    }
    return true;
}

static const language *find_subsets(subsets *s) {
    language *x = make_open(s->p.b, s->p.a);
    uint32_t *set = mem_array(4 * MAX_POSITIONS + 1, sizeof *set);
    bool ok = x && set;
    if (!set)
        no_memory(s->p.b);
    if (ok) {
        s->next[0] = s->whole->empty;
        if (s->whole->n_first)
            memcpy(s->next + 1, s->whole->first, s->whole->n_first * sizeof *s->next);
        qsort(s->next + 1, s->whole->n_first, sizeof *s->next, compare_words);
        ok = table_find(s->p.b, &s->found, s->next, s->whole->n_first + 1) == 0;
    }
    for (uint32_t id = 0; ok && id < s->found.n; id++) {
        const size_t from = s->found.from[id], n = s->found.from[id + 1] - from;
        memcpy(set, s->found.keys + from, n * sizeof *set);
        x->states[id].accepts = set[0];
        ok = find_steps(s, &x->states[id], set + 1, n - 1);
        x->n_states = id + 1;
    }
    mem_free(set);
    return settle(s->p.b, s->p.a, x, ok);
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
    if (!table_open(&s.found) || !s.p.list || !s.cuts || !s.next)
        no_memory(b);
    else if (ends_of(&s.p, r, &whole))
        x = find_subsets(&s);
    table_free(&s.found);
    mem_free(s.p.list);
    mem_free(s.cuts);
    mem_free(s.next);
    return x;
}

/* ---- others ---- */

const language *language_of_length(grammar_builder *b, arena *a, uint32_t min, uint32_t max) {
    const bool bounded = max != GRAMMAR_NO_MAX;
    const uint32_t last = bounded ? max : min;
    if (last >= LANGUAGE_MAX_STATES)
        return too_large(b);
    if (!grammar_count_states(b, last + 1, LANGUAGE_MAX_TOTAL))
        return NULL;
    language *x = make(b, a, last + 1);
    language_step *steps = arena_alloc(a, last + 1, sizeof *steps);
    if (!x || !steps)
        return steps ? NULL : no_memory(b);
    for (uint32_t i = 0; i <= last; i++) {
        x->states[i] = (language_state){steps + i, 0, i >= min};
        if (i < last || !bounded)
            add_step(&x->states[i], 0, SPELL_LAST_CODE, i < last ? i + 1 : i);
    }
    x->n_states = last + 1;
    return x;
}

/* The state after CODE in STATE, made where there is none. */
static uint32_t word_step(arena *a, language *x, uint32_t state, uint32_t code) {
    language_state *s = &x->states[state];
    for (uint32_t i = 0; i < s->n_steps; i++)
        if (s->steps[i].first == code)
            return s->steps[i].to;
    language_step *grown = arena_alloc(a, s->n_steps + 1, sizeof *grown);
    if (!grown || x->n_states == LANGUAGE_MAX_STATES)
        return UINT32_MAX;
    uint32_t at = 0;
    while (at < s->n_steps && s->steps[at].first < code)
        at++;
    if (s->n_steps) {
        memcpy(grown, s->steps, at * sizeof *grown);
        memcpy(grown + at + 1, s->steps + at, (s->n_steps - at) * sizeof *grown);
    }
    grown[at] = (language_step){code, code, x->n_states};
    s->steps = grown;
    s->n_steps++;
    return x->n_states++;
}

const language *language_of_words(grammar_builder *b, arena *a, const strview *words, size_t n) {
    language *x = make_open(b, a);
    if (!x)
        return NULL;
    x->n_states = 1;
    bool ok = true;
    for (size_t w = 0; w < n && ok; w++) {
        uint32_t state = 0;
        for (size_t i = 0; i < words[w].n && ok;) {
            unsigned bytes;
            const uint32_t code = utf8_read((const unsigned char *)words[w].p + i, &bytes);
            state = word_step(a, x, state, code);
            ok = state != UINT32_MAX;
            i += bytes;
        }
        if (ok)
            x->states[state].accepts = true;
        else if (x->n_states == LANGUAGE_MAX_STATES)
            too_large(b);
        else
            no_memory(b);
    }
    return settle(b, a, x, ok);
}

static bool and_steps(grammar_builder *b, arena *a, table *found, language_state *out,
                      const language_state *x, const language_state *y) {
    out->steps = arena_alloc(a, x->n_steps + y->n_steps + 1, sizeof *out->steps);
    if (!out->steps)
        return no_memory(b) != NULL;
    for (uint32_t i = 0, k = 0; i < x->n_steps && k < y->n_steps;) {
        const language_step *p = &x->steps[i], *q = &y->steps[k];
        const uint32_t first = p->first > q->first ? p->first : q->first;
        const uint32_t last = p->last < q->last ? p->last : q->last;
        if (first <= last) {
            const uint32_t to = table_find(b, found, (const uint32_t[]){p->to, q->to}, 2);
            if (to == UINT32_MAX)
                return false;
            add_step(out, first, last, to);
        }
        if (p->last < q->last)
            i++;
        else
            k++;
    }
    return true;
}

const language *language_and(grammar_builder *b, arena *a, const language *x, const language *y) {
    if (!x || !y)
        return NULL;
    table found;
    language *out = make_open(b, a);
    bool ok = table_open(&found) || no_memory(b) != NULL;
    ok = ok && out && table_find(b, &found, (const uint32_t[]){0, 0}, 2) == 0;
    for (uint32_t id = 0; ok && id < found.n; id++) {
        const uint32_t *pair = found.keys + 2 * (size_t)id;
        const language_state *p = &x->states[pair[0]], *q = &y->states[pair[1]];
        out->states[id].accepts = p->accepts && q->accepts;
        ok = and_steps(b, a, &found, &out->states[id], p, q);
        out->n_states = id + 1;
    }
    table_free(&found);
    return settle(b, a, out, ok);
}

const language *language_not(grammar_builder *b, arena *a, const language *x) {
    language *out = x ? make(b, a, x->n_states + 1) : NULL;
    if (!out)
        return NULL;
    const uint32_t rest = x->n_states; /* whatever has left X */
    out->n_states = x->n_states + 1;
    for (uint32_t id = 0; id <= rest; id++) {
        language_state *s = &out->states[id];
        const uint32_t n = id < rest ? x->states[id].n_steps : 0;
        s->accepts = id == rest || !x->states[id].accepts;
        s->steps = arena_alloc(a, 2 * n + 1, sizeof *s->steps);
        if (!s->steps)
            return no_memory(b);
        uint32_t next = 0;
        for (uint32_t i = 0; i < n; i++) {
            const language_step *step = &x->states[id].steps[i];
            if (step->first > next)
                add_step(s, next, step->first - 1, rest);
            add_step(s, step->first, step->last, step->to);
            next = step->last + 1;
        }
        if (next <= SPELL_LAST_CODE)
            add_step(s, next, SPELL_LAST_CODE, rest);
    }
    return out;
}

bool language_is_empty(arena *a, const language *x) {
    uint32_t *todo = x ? arena_alloc(a, x->n_states, sizeof *todo) : NULL;
    bool *seen = x ? arena_alloc(a, x->n_states, sizeof *seen) : NULL;
    size_t n = 1;
    if (!todo || !seen)
        return false;
    seen[0] = true;
    while (n > 0) {
        const language_state *s = &x->states[todo[--n]];
        if (s->accepts)
            return false;
        for (uint32_t i = 0; i < s->n_steps; i++)
            if (!seen[s->steps[i].to]) {
                seen[s->steps[i].to] = true;
                todo[n++] = s->steps[i].to;
            }
    }
    return true;
}

bool language_has(const language *x, strview text) {
    uint32_t state = 0;
    for (size_t at = 0; at < text.n;) {
        unsigned bytes;
        const uint32_t code = utf8_read((const unsigned char *)text.p + at, &bytes);
        const language_state *s = &x->states[state];
        uint32_t i = 0;
        while (i < s->n_steps && s->steps[i].last < code)
            i++;
        if (i == s->n_steps || s->steps[i].first > code)
            return false;
        state = s->steps[i].to;
        at += bytes;
    }
    return x->states[state].accepts;
}

/* ---- as a grammar ---- */

/* All ways from STATE to TO are one character class. */
static grammar_node steps_to(grammar_builder *b, const language_state *s, uint32_t to, uint32_t rule,
                             spelling how) {
    grammar_span *spans = mem_array(s->n_steps, sizeof *spans);
    if (!spans)
        return grammar_fail(b, NIB_NO_MEMORY, "no memory for a language of texts");
    size_t n = 0;
    for (uint32_t i = 0; i < s->n_steps; i++)
        if (s->steps[i].to == to)
            spans[n++] = (grammar_span){s->steps[i].first, s->steps[i].last};
    const grammar_node way = GRAMMAR_SEQ(b, spell_char(b, spans, n, how), grammar_use(b, rule));
    mem_free(spans);
    return way;
}

static grammar_node state_node(grammar_builder *b, const language_state *s, uint32_t first_rule,
                               spelling how) {
    grammar_node *ways = mem_array((size_t)s->n_steps + 1, sizeof *ways);
    if (!ways)
        return grammar_fail(b, NIB_NO_MEMORY, "no memory for a language of texts");
    size_t n = 0;
    if (s->accepts)
        ways[n++] = GRAMMAR_EMPTY;
    for (uint32_t i = 0; i < s->n_steps; i++) {
        bool known = false;
        for (uint32_t k = 0; k < i && !known; k++)
            known = s->steps[k].to == s->steps[i].to;
        if (!known)
            ways[n++] = steps_to(b, s, s->steps[i].to, first_rule + s->steps[i].to, how);
    }
    const grammar_node all = grammar_alt(b, ways, n);
    mem_free(ways);
    return all;
}

grammar_node language_node(grammar_builder *b, const language *x, spelling how) {
    if (!x)
        return GRAMMAR_NEVER;
    const strview none = {"", 0};
    const uint32_t first = grammar_rule(b, none);
    for (uint32_t i = 1; i < x->n_states; i++)
        grammar_rule(b, none);
    for (uint32_t i = 0; i < x->n_states && !grammar_failed(b); i++)
        grammar_define(b, first + i, state_node(b, &x->states[i], first, how));
    return grammar_use(b, first);
}
