/* SPDX-License-Identifier: Apache-2.0
 *
 * A trie of the added tokens and the two searches over it. Time is at most ADDED_MAX_BYTES per byte of text,
 * and about one table look-up per byte on ordinary text.
 */
#include "text/added.h"

#include "base/mem.h"
#include "base/utf8.h"

typedef struct added_node {
    int32_t token;  /* that ends here, -1: none */
    int32_t parent; /* -1: none */
    uint32_t depth;
} added_node;

typedef struct added_edge {
    uint64_t key; /* node << 8 | byte */
    int32_t node; /* where it leads; 0 with key 0 is an empty slot: node 0 is nobody's child */
} added_edge;

void added_open(added_set *s) {
    memset(s, 0, sizeof *s);
    for (size_t i = 0; i < 256; i++)
        s->first[i] = -1;
}

void added_close(added_set *s) {
    mem_free(s->tokens);
    mem_free(s->nodes);
    mem_free(s->edges);
    memset(s, 0, sizeof *s);
}

void added_matches_free(added_matches *m) {
    mem_free(m->list);
    memset(m, 0, sizeof *m);
}

static added_edge *find_edge(const added_set *s, uint64_t key) {
    const uint64_t hash = key * UINT64_C(0x9E3779B97F4A7C15);
    for (size_t i = (size_t)(hash >> 32) & s->edge_mask;; i = (i + 1) & s->edge_mask) {
        added_edge *e = &s->edges[i];
        if (e->node == 0 || e->key == key)
            return e;
    }
}

static int32_t child_of(const added_set *s, int32_t node, unsigned char byte) {
    if (node < 0)
        return s->first[byte];
    if (!s->edges)
        return -1;
    const int32_t child = find_edge(s, (uint64_t)node << 8 | byte)->node;
    return child > 0 ? child : -1;
}

static nib_status grow_edges(added_set *s, nib_error *err) {
    added_set grown = *s;
    const size_t slots = s->edges ? 2 * (s->edge_mask + 1) : 256;
    grown.edges = mem_array(slots, sizeof *grown.edges);
    if (!grown.edges)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for the added tokens");
    grown.edge_mask = slots - 1;
    for (size_t i = 0; s->edges && i <= s->edge_mask; i++)
        if (s->edges[i].node > 0)
            *find_edge(&grown, s->edges[i].key) = s->edges[i];
    mem_free(s->edges);
    *s = grown;
    return NIB_OK;
}

static nib_status new_node(added_set *s, int32_t parent, unsigned char byte, int32_t *out, nib_error *err) {
    if (s->n_nodes == s->node_capacity) {
        const size_t capacity = s->node_capacity ? 2 * s->node_capacity : 256;
        added_node *grown = capacity <= INT32_MAX / 2 ? mem_resize(s->nodes, capacity, sizeof *grown) : NULL;
        if (!grown)
            return nib_fail(err, NIB_NO_MEMORY, "no memory for the added tokens");
        s->nodes = grown;
        s->node_capacity = capacity;
    }
    if (!s->edges || 2 * s->n_edges > s->edge_mask)
        NIB_TRY(grow_edges(s, err));
    const int32_t index = (int32_t)s->n_nodes++;
    s->nodes[index] = (added_node){-1, parent, parent < 0 ? 1 : s->nodes[parent].depth + 1};
    if (parent < 0) {
        s->first[byte] = index;
    } else {
        const uint64_t key = (uint64_t)parent << 8 | byte;
        *find_edge(s, key) = (added_edge){key, index};
        s->n_edges++;
    }
    *out = index;
    return NIB_OK;
}

nib_status added_add(added_set *s, added_token token, strview text, nib_error *err) {
    if (s->n == s->capacity) {
        const size_t capacity = s->capacity ? 2 * s->capacity : 64;
        added_token *grown = mem_resize(s->tokens, capacity, sizeof *grown);
        if (!grown)
            return nib_fail(err, NIB_NO_MEMORY, "no memory for the added tokens");
        s->tokens = grown;
        s->capacity = capacity;
    }
    int32_t node = -1;
    for (size_t i = 0; i < text.n; i++) {
        const unsigned char byte = (unsigned char)text.p[i];
        int32_t next = child_of(s, node, byte);
        if (next < 0)
            NIB_TRY(new_node(s, node, byte, &next, err));
        node = next;
    }
    if (node < 0)
        return NIB_OK; /* an empty token is never found */
    token.bytes = (uint32_t)text.n;
    s->tokens[s->n] = token;
    s->nodes[node].token = (int32_t)s->n++;
    return NIB_OK;
}

static nib_status push(added_matches *m, added_match match, nib_error *err) {
    if (m->n == m->capacity) {
        const size_t capacity = m->capacity ? 2 * m->capacity : 32;
        added_match *grown = mem_resize(m->list, capacity, sizeof *grown);
        if (!grown)
            return nib_fail(err, NIB_NO_MEMORY, "no memory for the added tokens of a text");
        m->list = grown;
        m->capacity = capacity;
    }
    m->list[m->n++] = match;
    return NIB_OK;
}

/* Whether RULE lets T stand at START. */
static bool is_allowed(added_rule rule, const added_token *t, size_t start) {
    if (!t->special)
        return !rule.only_special;
    return !rule.skip_special && !(rule.marks && memchr(rule.marks + start, 1, t->bytes));
}

/* ---- leftmost, then longest (tokenizer.json) ---- */

static const added_token *longest_at(const added_set *s, const char *text, size_t n) {
    const added_token *found = NULL;
    int32_t node = s->first[(unsigned char)text[0]];
    for (size_t i = 1; node >= 0; i++) {
        if (s->nodes[node].token >= 0)
            found = &s->tokens[s->nodes[node].token];
        node = i < n ? child_of(s, node, (unsigned char)text[i]) : -1;
    }
    return found;
}

/* White space as Rust's char::is_whitespace has it. */
static bool is_space(uint32_t c) {
    return (c >= 9 && c <= 13) || c == 32 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
           c == 0x3000;
}

static size_t space_after(const char *text, size_t at, size_t n) {
    while (at < n) {
        unsigned bytes;
        if (!is_space(utf8_read((const unsigned char *)text + at, &bytes)))
            break;
        at += bytes;
    }
    return at;
}

static size_t character_before(const char *text, size_t at) {
    do
        at--;
    while (at > 0 && ((unsigned char)text[at] & 0xC0) == 0x80);
    return at;
}

static size_t space_before(const char *text, size_t at, size_t floor) {
    while (at > floor) {
        const size_t before = character_before(text, at);
        unsigned bytes;
        if (before < floor || !is_space(utf8_read((const unsigned char *)text + before, &bytes)))
            break;
        at = before;
    }
    return at;
}

nib_status added_find_leftmost(const added_set *s, const char *text, size_t n, added_rule rule,
                               added_matches *m, nib_error *err) {
    size_t done = 0;
    for (size_t i = 0; i < n;) {
        const added_token *t = s->first[(unsigned char)text[i]] >= 0 ? longest_at(s, text + i, n - i) : NULL;
        if (!t) {
            i++;
            continue;
        }
        size_t start = i, end = i + t->bytes;
        if (!is_allowed(rule, t, start)) {
            /* one that begins in a user's bytes must not hide the template's own behind it */
            i = rule.marks && !rule.marks[end - 1] ? start + 1 : end;
            continue;
        }
        i = end;
        if (t->lstrip)
            start = space_before(text, start, done < start ? done : start);
        if (t->rstrip)
            end = space_after(text, end, n);
        NIB_TRY(push(m, (added_match){start, end, t->id}, err));
        done = end;
    }
    return NIB_OK;
}

/* ---- longest anywhere, then the lowest id, then leftmost (llama.cpp) ---- */

typedef struct candidate {
    uint32_t bytes;
    int32_t id;
    size_t start;
    int32_t node;
} candidate;

typedef struct candidate_heap {
    candidate *list;
    size_t n, capacity;
} candidate_heap;

static bool goes_first(const candidate *a, const candidate *b) {
    if (a->bytes != b->bytes)
        return a->bytes > b->bytes;
    if (a->id != b->id)
        return a->id < b->id;
    return a->start < b->start;
}

static void sink(candidate_heap *h, size_t i) {
    const candidate moving = h->list[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= h->n)
            break;
        if (child + 1 < h->n && goes_first(&h->list[child + 1], &h->list[child]))
            child++;
        if (!goes_first(&h->list[child], &moving))
            break;
        h->list[i] = h->list[child];
        i = child;
    }
    h->list[i] = moving;
}

/* NODE or the nearest above it where a token of at most MOST bytes ends that RULE lets stand at START. */
static int32_t allowed_node(const added_set *s, int32_t node, uint32_t most, added_rule rule, size_t start) {
    while (node >= 0 && (s->nodes[node].token < 0 || s->nodes[node].depth > most ||
                         !is_allowed(rule, &s->tokens[s->nodes[node].token], start)))
        node = s->nodes[node].parent;
    return node;
}

static candidate candidate_at(const added_set *s, int32_t node, size_t start) {
    const added_token *t = &s->tokens[s->nodes[node].token];
    return (candidate){t->bytes, t->id, start, node};
}

static nib_status gather(const added_set *s, const char *text, size_t n, added_rule rule, candidate_heap *h,
                         nib_error *err) {
    for (size_t i = 0; i < n; i++) {
        int32_t node = s->first[(unsigned char)text[i]], deepest = -1;
        for (size_t k = i + 1; node >= 0; k++) {
            if (s->nodes[node].token >= 0)
                deepest = node;
            node = k < n ? child_of(s, node, (unsigned char)text[k]) : -1;
        }
        deepest = allowed_node(s, deepest, UINT32_MAX, rule, i);
        if (deepest < 0)
            continue;
        if (h->n == h->capacity) {
            const size_t capacity = h->capacity ? 2 * h->capacity : 64;
            candidate *grown = mem_resize(h->list, capacity, sizeof *grown);
            if (!grown)
                return nib_fail(err, NIB_NO_MEMORY, "no memory for the added tokens of a text");
            h->list = grown;
            h->capacity = capacity;
        }
        h->list[h->n++] = candidate_at(s, deepest, i);
    }
    for (size_t i = h->n / 2; i-- > 0;)
        sink(h, i);
    return NIB_OK;
}

/* ends[i] > 0: a chosen token begins at i and has that many bytes; taken[i]: byte i is of a chosen one. */
static void choose(const added_set *s, candidate_heap *h, added_rule rule, uint16_t *ends,
                   unsigned char *taken) {
    while (h->n > 0) {
        candidate *top = &h->list[0];
        /* what was chosen before is no shorter: an overlap covers the first or the last byte */
        if (!taken[top->start] && taken[top->start + top->bytes - 1]) {
            uint32_t room = 0;
            while (!taken[top->start + room])
                room++;
            const int32_t node = allowed_node(s, s->nodes[top->node].parent, room, rule, top->start);
            if (node >= 0) {
                *top = candidate_at(s, node, top->start);
                sink(h, 0);
                continue;
            }
        } else if (!taken[top->start]) {
            ends[top->start] = (uint16_t)top->bytes;
            memset(taken + top->start, 1, top->bytes);
        }
        h->list[0] = h->list[--h->n];
        if (h->n > 0)
            sink(h, 0);
    }
}

nib_status added_find_longest(const added_set *s, const char *text, size_t n, added_rule rule,
                              added_matches *m, nib_error *err) {
    candidate_heap heap = {0};
    uint16_t *ends = NULL;
    unsigned char *taken = NULL;
    nib_status status = gather(s, text, n, rule, &heap, err);
    if (status == NIB_OK && heap.n > 0) {
        ends = mem_array(n, sizeof *ends);
        taken = mem_array(n, 1);
        if (ends && taken)
            choose(s, &heap, rule, ends, taken);
        else
            status = nib_fail(err, NIB_NO_MEMORY, "no memory for the added tokens of a text");
    }
    for (size_t i = 0; status == NIB_OK && taken && i < n; i++)
        if (ends[i]) {
            const added_token *t = longest_at(s, text + i, ends[i]);
            status = push(m, (added_match){i, i + ends[i], t->id}, err);
        }
    mem_free(heap.list);
    mem_free(ends);
    mem_free(taken);
    return status;
}
