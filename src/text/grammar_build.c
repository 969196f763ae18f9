/* SPDX-License-Identifier: Apache-2.0
 *
 * Nodes of a grammar, and characters as UTF-8: a class of code points becomes a tree over lead and
 * continuation bytes in which whole blocks of 64, 4096 and 262144 code points are one branch.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/mem.h"
#include "text/grammar_parts.h"

nib_status grammar_builder_open(grammar_builder **out, nib_error *err) {
    *out = NULL;
    grammar_builder *b = mem_array(1, sizeof *b);
    if (!b)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a grammar");
    if (!grammar_reserve(b, &b->nodes, &b->nodes_capacity, 0, 64, sizeof *b->nodes, GRAMMAR_MAX_NODES)) {
        grammar_builder_close(b);
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a grammar");
    }
    b->nodes[0] = (node){.kind = NODE_NEVER};
    b->nodes[1] = (node){.kind = NODE_EMPTY};
    b->n_nodes = 2;
    *out = b;
    return NIB_OK;
}

void grammar_builder_close(grammar_builder *b) {
    if (!b)
        return;
    mem_free(b->nodes);
    mem_free(b->kids);
    mem_free(b->bytes);
    mem_free(b->sets);
    mem_free(b->rules);
    mem_free(b);
}

nib_status grammar_builder_status(const grammar_builder *b, nib_error *err) {
    return b->status == NIB_OK ? NIB_OK : nib_fail(err, b->status, "%s", b->err.text);
}

bool grammar_failed(const grammar_builder *b) {
    return b->status != NIB_OK;
}

grammar_node grammar_fail(grammar_builder *b, nib_status status, const char *format, ...) {
    if (b->status == NIB_OK) {
        b->status = status;
        va_list args;
        va_start(args, format);
        vsnprintf(b->err.text, sizeof b->err.text, format, args);
        va_end(args);
    }
    return GRAMMAR_NEVER;
}

bool grammar_count_states(grammar_builder *b, size_t n, size_t limit) {
    b->n_language_states += n;
    if (b->n_language_states > limit)
        grammar_fail(b, NIB_UNSUPPORTED, "the patterns and lengths take too many states together");
    return b->status == NIB_OK;
}

bool grammar_reserve(grammar_builder *b, void *list, size_t *capacity, size_t n, size_t extra, size_t size,
                     size_t limit) {
    if (b->status != NIB_OK)
        return false;
    if (n > limit || extra > limit - n) {
        grammar_fail(b, NIB_UNSUPPORTED, "the grammar is too large");
        return false;
    }
    if (extra <= *capacity - n)
        return true;
    size_t wanted = *capacity ? 2 * *capacity : 64;
    while (wanted < n + extra)
        wanted *= 2;
    void *grown = mem_resize(*(void **)list, wanted, size);
    if (!grown) {
        grammar_fail(b, NIB_NO_MEMORY, "no memory for a grammar");
        return false;
    }
    *(void **)list = grown;
    *capacity = wanted;
    return true;
}

static grammar_node add_node(grammar_builder *b, node n) {
    if (!grammar_reserve(b, &b->nodes, &b->nodes_capacity, b->n_nodes, 1, sizeof *b->nodes,
                         GRAMMAR_MAX_NODES))
        return GRAMMAR_NEVER;
    b->nodes[b->n_nodes] = n;
    return (grammar_node)b->n_nodes++;
}

/* ---- what is made of bytes ---- */

grammar_node grammar_text(grammar_builder *b, strview text) {
    if (text.n == 0)
        return GRAMMAR_EMPTY;
    if (!grammar_reserve(b, &b->bytes, &b->bytes_capacity, b->n_bytes, text.n, 1, GRAMMAR_MAX_BYTES))
        return GRAMMAR_NEVER;
    memcpy(b->bytes + b->n_bytes, text.p, text.n);
    b->n_bytes += text.n;
    return add_node(b, (node){NODE_TEXT, (uint32_t)(b->n_bytes - text.n), (uint32_t)text.n, 0});
}

#define MAX_BRANCHINGS 1000

static int compare_words(const void *x, const void *y) {
    const strview *a = x, *b = y;
    const size_t n = a->n < b->n ? a->n : b->n;
    const int order = n ? memcmp(a->p, b->p, n) : 0;
    return order ? order : (a->n > b->n) - (a->n < b->n);
}

/* Words in order that have AT bytes in common: those that they share, then a branch for each next byte, so
 * that a thousand words are followed as one. Every 32nd branching is a rule, for nodes may not be nested
 * deeply. */
static grammar_node words_from(grammar_builder *b, const strview *words, size_t n, size_t at,
                               unsigned depth) {
    const strview first = words[0], last = words[n - 1];
    grammar_node ways[257];
    if (depth > MAX_BRANCHINGS)
        return grammar_fail(b, NIB_UNSUPPORTED, "more than %d words begin alike, one inside the other",
                            MAX_BRANCHINGS);
    size_t n_ways = 0, end = at, i = 0;
    while (end < first.n && end < last.n && first.p[end] == last.p[end])
        end++;
    const grammar_node common = grammar_text(b, (strview){first.p + at, end - at});
    while (i < n && words[i].n == end) { /* one that ends here; it may be there twice */
        ways[0] = GRAMMAR_EMPTY;
        n_ways = 1;
        i++;
    }
    while (i < n && b->status == NIB_OK) {
        size_t k = i + 1;
        while (k < n && words[k].p[end] == words[i].p[end])
            k++;
        ways[n_ways++] = words_from(b, words + i, k - i, end, depth + 1);
        i = k;
    }
    grammar_node rest = grammar_alt(b, ways, n_ways);
    if (depth % 32 == 31) {
        const uint32_t r = grammar_rule(b, (strview){"", 0});
        grammar_define(b, r, rest);
        rest = grammar_use(b, r);
    }
    return GRAMMAR_SEQ(b, common, rest);
}

grammar_node grammar_words(grammar_builder *b, strview *words, size_t n) {
    if (n == 0)
        return GRAMMAR_NEVER;
    qsort(words, n, sizeof *words, compare_words);
    return words_from(b, words, n, 0, 0);
}

uint32_t grammar_set(grammar_builder *b, const uint8_t set[32]) {
    const size_t look_back = b->n_sets < 64 ? b->n_sets : 64;
    for (size_t i = b->n_sets; i > b->n_sets - look_back; i--)
        if (memcmp(b->sets[i - 1], set, 32) == 0)
            return (uint32_t)(i - 1);
    if (!grammar_reserve(b, &b->sets, &b->sets_capacity, b->n_sets, 1, 32, GRAMMAR_MAX_NODES))
        return 0;
    memcpy(b->sets[b->n_sets], set, 32);
    return (uint32_t)b->n_sets++;
}

static void set_add(uint8_t set[32], unsigned first, unsigned last) {
    for (unsigned i = first; i <= last; i++)
        set[i >> 3] |= (uint8_t)(1u << (i & 7));
}

grammar_node grammar_bytes(grammar_builder *b, const uint8_t set[32]) {
    static const uint8_t none[32];
    if (memcmp(set, none, 32) == 0)
        return GRAMMAR_NEVER;
    return add_node(b, (node){NODE_SET, grammar_set(b, set), 0, 0});
}

grammar_node grammar_byte(grammar_builder *b, unsigned char first, unsigned char last) {
    uint8_t set[32] = {0};
    set_add(set, first, last);
    return grammar_bytes(b, set);
}

/* ---- characters ---- */

typedef struct char_class_spans {
    const grammar_span *spans;
    size_t n;
} char_class_spans;

/* How much of FIRST to LAST is in the class: 0 nothing, 1 a part, 2 all. */
static int coverage(const char_class_spans *c, uint32_t first, uint32_t last) {
    size_t low = 0, high = c->n; /* the first span that ends at FIRST or later */
    while (low < high) {
        const size_t middle = (low + high) / 2;
        if (c->spans[middle].last < first)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == c->n || c->spans[low].first > last)
        return 0;
    return c->spans[low].first <= first && c->spans[low].last >= last ? 2 : 1;
}

static grammar_node continuations(grammar_builder *b, unsigned n) {
    return grammar_repeat(b, grammar_byte(b, 0x80, 0xBF), n, n);
}

/* The continuation bytes of the code points from BASE on that a lead byte leaves N more bytes for. Of the
 * block only FROM to TO exist in this length. */
static grammar_node char_tail(grammar_builder *b, const char_class_spans *c, uint32_t base, unsigned n,
                              uint32_t from, uint32_t to) {
    uint8_t whole[32] = {0};
    grammar_node parts[65];
    size_t n_parts = 0;
    const unsigned shift = 6 * (n - 1);
    for (unsigned i = 0; i < 64; i++) {
        uint32_t first = base + (i << shift), last = first + ((1u << shift) - 1);
        if (last < from || first > to)
            continue;
        const bool cut = first < from || last > to;
        const int covered = coverage(c, first < from ? from : first, last > to ? to : last);
        if (covered == 2 && !cut)
            set_add(whole, 0x80 + i, 0x80 + i);
        else if (covered)
            parts[n_parts++] =
                GRAMMAR_SEQ(b, grammar_byte(b, (unsigned char)(0x80 + i), (unsigned char)(0x80 + i)),
                            char_tail(b, c, first, n - 1, from, to));
    }
    const grammar_node set = grammar_bytes(b, whole);
    if (set)
        parts[n_parts++] = n == 1 ? set : GRAMMAR_SEQ(b, set, continuations(b, n - 1));
    return grammar_alt(b, parts, n_parts);
}

/* The characters with N continuation bytes, which are those FROM to TO. */
static grammar_node char_of_length(grammar_builder *b, const char_class_spans *c, unsigned n, uint32_t from,
                                   uint32_t to) {
    static const unsigned char leads[4] = {0, 0xC0, 0xE0, 0xF0};
    uint8_t whole[32] = {0};
    grammar_node parts[65];
    size_t n_parts = 0;
    const unsigned shift = 6 * n;
    for (uint32_t block = from >> shift; block <= to >> shift; block++) {
        const uint32_t first = block << shift, last = first + ((1u << shift) - 1);
        const unsigned char lead = (unsigned char)(leads[n] + block);
        const bool cut = first < from || last > to;
        const int covered = coverage(c, first < from ? from : first, last > to ? to : last);
        if (covered == 2 && !cut)
            set_add(whole, lead, lead);
        else if (covered)
            parts[n_parts++] =
                GRAMMAR_SEQ(b, grammar_byte(b, lead, lead), char_tail(b, c, first, n, from, to));
    }
    const grammar_node set = grammar_bytes(b, whole);
    if (set)
        parts[n_parts++] = GRAMMAR_SEQ(b, set, continuations(b, n));
    return grammar_alt(b, parts, n_parts);
}

grammar_node grammar_char(grammar_builder *b, const grammar_span *spans, size_t n) {
    grammar_span *sound = mem_array(n + 1, sizeof *sound);
    if (!sound)
        return grammar_fail(b, NIB_NO_MEMORY, "no memory for a grammar");
    size_t n_sound = 0;
    uint8_t ascii[32] = {0};
    for (size_t i = 0; i < n; i++) { /* without the surrogates, D800 to DFFF */
        if (spans[i].first < 0x80)
            set_add(ascii, spans[i].first, spans[i].last < 0x80 ? spans[i].last : 0x7F);
        if (spans[i].first < 0xD800)
            sound[n_sound++] =
                (grammar_span){spans[i].first, spans[i].last < 0xD800 ? spans[i].last : 0xD7FF};
        if (spans[i].last > 0xDFFF)
            sound[n_sound++] =
                (grammar_span){spans[i].first > 0xDFFF ? spans[i].first : 0xE000, spans[i].last};
    }
    const char_class_spans c = {sound, n_sound};
    const grammar_node any =
        GRAMMAR_ALT(b, grammar_bytes(b, ascii), char_of_length(b, &c, 1, 0x80, 0x7FF),
                    char_of_length(b, &c, 2, 0x800, 0xFFFF), char_of_length(b, &c, 3, 0x10000, 0x10FFFF));
    mem_free(sound);
    return any;
}

/* ---- what is made of nodes ---- */

static grammar_node add_list(grammar_builder *b, node_kind kind, const grammar_node *parts, size_t n) {
    if (!grammar_reserve(b, &b->kids, &b->kids_capacity, b->n_kids, n, sizeof *b->kids,
                         4 * GRAMMAR_MAX_NODES))
        return GRAMMAR_NEVER;
    memcpy(b->kids + b->n_kids, parts, n * sizeof *parts);
    b->n_kids += n;
    return add_node(b, (node){(uint8_t)kind, (uint32_t)(b->n_kids - n), (uint32_t)n, 0});
}

grammar_node grammar_seq(grammar_builder *b, const grammar_node *parts, size_t n) {
    size_t n_real = 0;
    grammar_node only = GRAMMAR_EMPTY;
    for (size_t i = 0; i < n; i++) {
        if (parts[i] == GRAMMAR_NEVER)
            return GRAMMAR_NEVER;
        if (parts[i] != GRAMMAR_EMPTY) {
            only = parts[i];
            n_real++;
        }
    }
    return n_real < 2 ? only : add_list(b, NODE_SEQ, parts, n);
}

grammar_node grammar_alt(grammar_builder *b, const grammar_node *parts, size_t n) {
    size_t n_real = 0;
    grammar_node only = GRAMMAR_NEVER;
    for (size_t i = 0; i < n; i++)
        if (parts[i] != GRAMMAR_NEVER && parts[i] != only) {
            only = parts[i];
            n_real++;
        }
    return n_real < 2 ? only : add_list(b, NODE_ALT, parts, n);
}

grammar_node grammar_repeat(grammar_builder *b, grammar_node x, uint32_t min, uint32_t max) {
    if (max != GRAMMAR_NO_MAX && min > max)
        return GRAMMAR_NEVER;
    if (min > GRAMMAR_MAX_REPEAT || (max != GRAMMAR_NO_MAX && max > GRAMMAR_MAX_REPEAT))
        return grammar_fail(b, NIB_UNSUPPORTED, "a repetition of more than %u times", GRAMMAR_MAX_REPEAT);
    if (x == GRAMMAR_NEVER)
        return min ? GRAMMAR_NEVER : GRAMMAR_EMPTY;
    if (max == 0 || x == GRAMMAR_EMPTY)
        return GRAMMAR_EMPTY;
    if (min == 1 && max == 1)
        return x;
    return add_node(b, (node){NODE_REPEAT, x, min, max});
}

grammar_node grammar_limit(grammar_builder *b, grammar_node x, uint32_t max) {
    if (x == GRAMMAR_NEVER || x == GRAMMAR_EMPTY)
        return x;
    b->has_limits = true;
    return add_node(b, (node){NODE_LIMIT, x, 0, max});
}

grammar_node grammar_tick(grammar_builder *b) {
    return add_node(b, (node){NODE_TICK, 0, 0, 0});
}

uint32_t grammar_rule(grammar_builder *b, strview name) {
    if (!grammar_reserve(b, &b->rules, &b->rules_capacity, b->n_rules, 1, sizeof *b->rules,
                         GRAMMAR_MAX_RULES) ||
        !grammar_reserve(b, &b->bytes, &b->bytes_capacity, b->n_bytes, name.n, 1, GRAMMAR_MAX_BYTES))
        return 0;
    if (name.n)
        memcpy(b->bytes + b->n_bytes, name.p, name.n);
    b->rules[b->n_rules] = (rule){GRAMMAR_NEVER, (uint32_t)b->n_bytes, (uint32_t)name.n, false};
    b->n_bytes += name.n;
    return (uint32_t)b->n_rules++;
}

void grammar_define(grammar_builder *b, uint32_t r, grammar_node body) {
    if (r >= b->n_rules)
        return; /* the builder has failed */
    b->rules[r].body = body;
    b->rules[r].defined = true;
}

grammar_node grammar_use(grammar_builder *b, uint32_t r) {
    return add_node(b, (node){NODE_RULE, r, 0, 0});
}
