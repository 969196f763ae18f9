/* SPDX-License-Identifier: Apache-2.0
 *
 * "Anything up to a mark": the marks as one automaton after Aho and Corasick, a rule per state, each of which
 * ends in the rule of the next, so that it takes no depth. The beginning of the text is a byte of its own.
 */
#include "base/mem.h"
#include "text/grammar.h"

#define MAX_STATES 2048
#define START      256 /* no byte: the beginning */

typedef struct until {
    uint16_t (*next)[257]; /* [n]: 0: none yet, which is where nothing of a mark has been read as well */
    uint16_t *shorter;     /* [n]: the state of the longest proper end of what leads here */
    uint16_t *mark;        /* [n]: the mark that is complete here, from 1; 0: none */
    uint16_t *order;       /* [n]: states by the length of what leads to them */
    size_t n;
} until;

static void close_until(until *u) {
    mem_free(u->next);
    mem_free(u->shorter);
    mem_free(u->mark);
    mem_free(u->order);
}

static bool open_until(until *u, size_t n) {
    *u = (until){.n = 1};
    u->next = mem_array(n, sizeof *u->next);
    u->shorter = mem_array(n, sizeof *u->shorter);
    u->mark = mem_array(n, sizeof *u->mark);
    u->order = mem_array(n, sizeof *u->order);
    return u->next && u->shorter && u->mark && u->order;
}

static void step_to_new(until *u, size_t *state, unsigned byte) {
    uint16_t *to = &u->next[*state][byte];
    if (*to == 0)
        *to = (uint16_t)u->n++;
    *state = *to;
}

static void add_mark(until *u, strview text, bool at_start, size_t number) {
    size_t state = 0;
    if (at_start)
        step_to_new(u, &state, START);
    for (size_t i = 0; i < text.n; i++)
        step_to_new(u, &state, (unsigned char)text.p[i]);
    if (u->mark[state] == 0)
        u->mark[state] = (uint16_t)number;
}

/* Fills the ways that no mark has: those of the longest end that is the beginning of one. */
static void complete(until *u) {
    size_t n = 1; /* order[0] is 0 */
    for (size_t k = 0; k < n; k++) {
        const size_t state = u->order[k], shorter = u->shorter[state];
        if (u->mark[state] == 0)
            u->mark[state] = u->mark[shorter];
        for (unsigned byte = 0; byte <= START; byte++) {
            const uint16_t to = u->next[state][byte], instead = state ? u->next[shorter][byte] : 0;
            if (to == 0) {
                u->next[state][byte] = instead;
                continue;
            }
            u->shorter[to] = instead;
            u->order[n++] = to;
        }
    }
}

static grammar_node state_node(grammar_builder *b, const until *u, size_t state, const grammar_mark *marks,
                               uint32_t first_rule, bool may_end) {
    grammar_node ways[257];
    bool done[256] = {false};
    size_t n = 0;
    if (may_end)
        ways[n++] = GRAMMAR_EMPTY;
    for (unsigned byte = 0; byte < 256; byte++) {
        uint8_t set[32] = {0};
        const uint16_t to = u->next[state][byte];
        if (done[byte])
            continue;
        for (unsigned other = byte; other < 256; other++)
            if (u->next[state][other] == to) {
                set[other >> 3] |= (uint8_t)(1u << (other & 7));
                done[other] = true;
            }
        const grammar_node then = u->mark[to] ? marks[u->mark[to] - 1].then : grammar_use(b, first_rule + to);
        ways[n++] = GRAMMAR_SEQ(b, grammar_bytes(b, set), then);
    }
    return grammar_alt(b, ways, n);
}

grammar_node grammar_until(grammar_builder *b, const grammar_mark *marks, size_t n, bool may_end) {
    size_t n_states = 1;
    until u;
    for (size_t i = 0; i < n; i++)
        n_states += marks[i].text.n + marks[i].at_start;
    if (n_states > MAX_STATES)
        return grammar_fail(b, NIB_UNSUPPORTED, "markers of %zu bytes, expected at most %d", n_states - 1,
                            MAX_STATES - 1);
    if (!open_until(&u, n_states)) {
        close_until(&u);
        return grammar_fail(b, NIB_NO_MEMORY, "no memory for a grammar");
    }
    for (size_t i = 0; i < n; i++)
        add_mark(&u, marks[i].text, marks[i].at_start, i + 1);
    complete(&u);
    const uint32_t first = grammar_rule(b, (strview){"", 0});
    for (size_t i = 1; i < u.n; i++)
        grammar_rule(b, (strview){"", 0});
    for (size_t i = 0; i < u.n && !grammar_failed(b); i++)
        grammar_define(b, first + (uint32_t)i, state_node(b, &u, i, marks, first, may_end));
    const uint32_t start = first + u.next[0][START];
    close_until(&u);
    return grammar_use(b, start);
}
