/* SPDX-License-Identifier: Apache-2.0
 *
 * A language as a grammar: a rule per state, which ends in the rule of the next, so that it takes no depth.
 */
#include "base/mem.h"
#include "text/language_parts.h"

/* Ways by rare characters (controls and all beyond ASCII) to a state, which many states have in common, as
 * rules. */
typedef struct rare_ways {
    struct {
        const grammar_span *spans;
        size_t n;
        uint32_t to, rule;
    } list[64];
    size_t n;
    arena a;
} rare_ways;

/* Of SPANS, those FIRST to LAST. */
static size_t cut_spans(const grammar_span *spans, size_t n, uint32_t first, uint32_t last,
                        grammar_span *out) {
    size_t kept = 0;
    for (size_t i = 0; i < n; i++)
        if (spans[i].first <= last && spans[i].last >= first)
            out[kept++] = (grammar_span){spans[i].first > first ? spans[i].first : first,
                                         spans[i].last < last ? spans[i].last : last};
    return kept;
}

static grammar_node way(grammar_builder *b, const grammar_span *spans, size_t n, uint32_t rule,
                        spelling how) {
    return n ? GRAMMAR_SEQ(b, spell_char(b, spans, n, how), grammar_use(b, rule)) : GRAMMAR_NEVER;
}

static grammar_node rare_way(grammar_builder *b, rare_ways *rare, const grammar_span *spans, size_t n,
                             uint32_t to, uint32_t rule, spelling how) {
    for (size_t i = 0; i < rare->n; i++)
        if (rare->list[i].to == to && rare->list[i].n == n &&
            memcmp(rare->list[i].spans, spans, n * sizeof *spans) == 0)
            return grammar_use(b, rare->list[i].rule);
    grammar_span *copy = n && rare->n < 64 ? arena_alloc(&rare->a, n, sizeof *copy) : NULL;
    if (!copy)
        return way(b, spans, n, rule, how);
    memcpy(copy, spans, n * sizeof *copy);
    rare->list[rare->n].spans = copy;
    rare->list[rare->n].n = n;
    rare->list[rare->n].to = to;
    rare->list[rare->n].rule = grammar_rule(b, (strview){"", 0});
    grammar_define(b, rare->list[rare->n].rule, way(b, spans, n, rule, how));
    return grammar_use(b, rare->list[rare->n++].rule);
}

/* All ways from a state to TO. */
static grammar_node steps_to(grammar_builder *b, rare_ways *rare, const language_state *s, uint32_t to,
                             uint32_t rule, spelling how) {
    grammar_span *spans = mem_array(4 * (size_t)s->n_steps + 2, sizeof *spans);
    if (!spans)
        return grammar_fail(b, NIB_NO_MEMORY, "no memory for a language of texts");
    grammar_span *cut = spans + s->n_steps;
    size_t n = 0;
    for (uint32_t i = 0; i < s->n_steps; i++)
        if (s->steps[i].to == to)
            spans[n++] = (grammar_span){s->steps[i].first, s->steps[i].last};
    size_t n_cut = cut_spans(spans, n, 0x20, 0x7F, cut);
    const grammar_node common = way(b, cut, n_cut, rule, how);
    n_cut = cut_spans(spans, n, 0, 0x1F, cut);
    n_cut += cut_spans(spans, n, 0x80, SPELL_LAST_CODE, cut + n_cut);
    const grammar_node both = GRAMMAR_ALT(b, common, rare_way(b, rare, cut, n_cut, to, rule, how));
    mem_free(spans);
    return both;
}

static grammar_node state_node(grammar_builder *b, rare_ways *rare, const language_state *s,
                               uint32_t first_rule, spelling how) {
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
            ways[n++] = steps_to(b, rare, s, s->steps[i].to, first_rule + s->steps[i].to, how);
    }
    const grammar_node all = grammar_alt(b, ways, n);
    mem_free(ways);
    return all;
}

grammar_node language_node(grammar_builder *b, const language *x, spelling how) {
    if (!x)
        return GRAMMAR_NEVER;
    const strview none = {"", 0};
    rare_ways rare = {.n = 0};
    const uint32_t first = grammar_rule(b, none);
    for (uint32_t i = 1; i < x->n_states; i++)
        grammar_rule(b, none);
    for (uint32_t i = 0; i < x->n_states && !grammar_failed(b); i++)
        grammar_define(b, first + i, state_node(b, &rare, &x->states[i], first, how));
    arena_free(&rare.a);
    return grammar_use(b, first);
}
