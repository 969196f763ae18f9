/* SPDX-License-Identifier: Apache-2.0
 *
 * Languages of lengths and words, products of two, the opposite. State counts are bounded.
 */
#include "text/language_parts.h"

#include <stdlib.h>

#include "base/mem.h"
#include "base/utf8.h"

void *language_no_memory(grammar_builder *b) {
    grammar_fail(b, NIB_NO_MEMORY, "no memory for a language of texts");
    return NULL;
}

void *language_too_large(grammar_builder *b) {
    grammar_fail(b, NIB_UNSUPPORTED,
                 "a pattern or length takes more than %d states to hold together with what "
                 "else is asked of the text",
                 LANGUAGE_MAX_STATES);
    return NULL;
}

/* ---- states found by their keys, in the order of finding ---- */

void language_table_free(language_table *t) {
    mem_free(t->keys);
    mem_free(t->from);
    mem_free(t->slots);
}

bool language_table_open(language_table *t) {
    *t = (language_table){.words_capacity = 1024, .mask = 2 * LANGUAGE_MAX_STATES - 1};
    t->keys = mem_alloc(t->words_capacity * sizeof *t->keys);
    t->from = mem_array(LANGUAGE_MAX_STATES + 1, sizeof *t->from);
    t->slots = mem_array(t->mask + 1, sizeof *t->slots);
    return t->keys && t->from && t->slots;
}

/* The number of KEY [n]; UINT32_MAX after a failure. */
uint32_t language_table_find(grammar_builder *b, language_table *t, const uint32_t *key, size_t n) {
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
        language_too_large(b);
        return UINT32_MAX;
    }
    while (t->words + n > t->words_capacity) {
        uint32_t *grown = mem_resize(t->keys, 2 * t->words_capacity, sizeof *grown);
        if (!grown) {
            language_no_memory(b);
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
    return x && x->states ? x : language_no_memory(b);
}

/* A language of as yet unknown size, at most N states: they are settled in the arena by `settle`. */
language *language_make_open(grammar_builder *b, arena *a, size_t n) {
    language *x = arena_alloc(a, 1, sizeof *x);
    if (x)
        x->states = mem_array(n, sizeof *x->states);
    return x && x->states ? x : language_no_memory(b);
}

/* X with its states in the arena, NULL unless OK. */
const language *language_settle(grammar_builder *b, arena *a, language *x, bool ok) {
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
    return !ok ? NULL : x->states ? x : language_no_memory(b);
}

/* Adds a step, joined to the last one where it goes on. STEPS has room. */
void language_add_step(language_state *s, uint32_t first, uint32_t last, uint32_t to) {
    language_step *end = s->n_steps ? &s->steps[s->n_steps - 1] : NULL;
    if (end && end->to == to && end->last + 1 == first)
        end->last = last;
    else
        s->steps[s->n_steps++] = (language_step){first, last, to};
}

/* ---- others ---- */

const language *language_of_length(grammar_builder *b, arena *a, uint32_t min, uint32_t max) {
    const bool bounded = max != GRAMMAR_NO_MAX;
    const uint32_t last = bounded ? max : min;
    if (last >= LANGUAGE_MAX_STATES)
        return language_too_large(b);
    if (!grammar_count_states(b, last + 1, LANGUAGE_MAX_TOTAL))
        return NULL;
    language *x = make(b, a, last + 1);
    language_step *steps = arena_alloc(a, last + 1, sizeof *steps);
    if (!x || !steps)
        return steps ? NULL : language_no_memory(b);
    for (uint32_t i = 0; i <= last; i++) {
        x->states[i] = (language_state){steps + i, 0, i >= min};
        if (i < last || !bounded)
            language_add_step(&x->states[i], 0, SPELL_LAST_CODE, i < last ? i + 1 : i);
    }
    x->n_states = last + 1;
    return x;
}

/* The state after CODE in STATE, made where there is none; UINT32_MAX: no memory. */
static uint32_t word_step(arena *a, language *x, uint32_t state, uint32_t code) {
    language_state *s = &x->states[state];
    uint32_t at = 0;
    while (at < s->n_steps && s->steps[at].first < code)
        at++;
    if (at < s->n_steps && s->steps[at].first == code)
        return s->steps[at].to;
    if (s->n_steps % 8 == 0) { /* the room is a multiple of 8 */
        language_step *grown = arena_alloc(a, s->n_steps + 8, sizeof *grown);
        if (!grown)
            return UINT32_MAX;
        if (s->n_steps)
            memcpy(grown, s->steps, s->n_steps * sizeof *grown);
        s->steps = grown;
    }
    memmove(s->steps + at + 1, s->steps + at, (s->n_steps - at) * sizeof *s->steps);
    s->steps[at] = (language_step){code, code, x->n_states};
    s->n_steps++;
    return x->n_states++;
}

const language *language_of_words(grammar_builder *b, arena *a, const strview *words, size_t n) {
    size_t characters = 0;
    for (size_t i = 0; i < n && characters < LANGUAGE_MAX_TOTAL; i++)
        characters += words[i].n;
    if (characters >= LANGUAGE_MAX_TOTAL)
        return language_too_large(b);
    language *x = language_make_open(b, a, characters + 1);
    bool ok = x != NULL;
    if (ok)
        x->n_states = 1;
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
        else
            language_no_memory(b);
    }
    return language_settle(b, a, x, ok);
}

static bool and_steps(grammar_builder *b, arena *a, language_table *found, language_state *out,
                      const language_state *x, const language_state *y) {
    out->steps = arena_alloc(a, x->n_steps + y->n_steps + 1, sizeof *out->steps);
    if (!out->steps)
        return language_no_memory(b) != NULL;
    for (uint32_t i = 0, k = 0; i < x->n_steps && k < y->n_steps;) {
        const language_step *p = &x->steps[i], *q = &y->steps[k];
        const uint32_t first = p->first > q->first ? p->first : q->first;
        const uint32_t last = p->last < q->last ? p->last : q->last;
        if (first <= last) {
            const uint32_t to = language_table_find(b, found, (const uint32_t[]){p->to, q->to}, 2);
            if (to == UINT32_MAX)
                return false;
            language_add_step(out, first, last, to);
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
    language_table found;
    language *out = language_make_open(b, a, LANGUAGE_MAX_STATES);
    bool ok = language_table_open(&found) || language_no_memory(b) != NULL;
    ok = ok && out && language_table_find(b, &found, (const uint32_t[]){0, 0}, 2) == 0;
    for (uint32_t id = 0; ok && id < found.n; id++) {
        const uint32_t *pair = found.keys + 2 * (size_t)id;
        const language_state *p = &x->states[pair[0]], *q = &y->states[pair[1]];
        out->states[id].accepts = p->accepts && q->accepts;
        ok = and_steps(b, a, &found, &out->states[id], p, q);
        out->n_states = id + 1;
    }
    language_table_free(&found);
    return language_settle(b, a, out, ok);
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
            return language_no_memory(b);
        uint32_t next = 0;
        for (uint32_t i = 0; i < n; i++) {
            const language_step *step = &x->states[id].steps[i];
            if (step->first > next)
                language_add_step(s, next, step->first - 1, rest);
            language_add_step(s, step->first, step->last, step->to);
            next = step->last + 1;
        }
        if (next <= SPELL_LAST_CODE)
            language_add_step(s, next, SPELL_LAST_CODE, rest);
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
    if (!x)
        return false;
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
