/* SPDX-License-Identifier: Apache-2.0
 *
 * The merging loop. A short word looks for its best pair by scanning; a long one keeps its pairs in a heap,
 * so that a megabyte of one character stays n log n. Both take the same pairs in the same order.
 */
#include "text/merge.h"

#include <assert.h>

#include "base/mem.h"

#define SCAN_SYMBOLS 24 /* longer words use the heap */

typedef struct merge_candidate {
    uint32_t rank;
    int32_t left;   /* index of the left symbol */
    int32_t id;     /* what the pair becomes */
    uint32_t bytes; /* of both symbols: a pair whose symbols grew is stale */
} merge_candidate;

static uint64_t pair_hash(uint32_t left, uint32_t right) {
    uint64_t h = ((uint64_t)left << 32 | right) * UINT64_C(0x9E3779B97F4A7C15);
    return h ^ h >> 32;
}

nib_status merge_rules_open_pairs(merge_rules *m, size_t n_pairs, nib_error *err) {
    memset(m, 0, sizeof *m);
    size_t slots = 64;
    while (slots < 2 * n_pairs)
        slots *= 2;
    size_t bytes;
    m->slots = mem_mul(slots, sizeof *m->slots, &bytes) ? mem_alloc(bytes) : NULL;
    if (!m->slots)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for %zu merges", n_pairs);
    m->slot_mask = slots - 1;
    for (size_t i = 0; i < slots; i++)
        m->slots[i].id = -1;
    return NIB_OK;
}

static merge_slot *find_pair(const merge_rules *m, uint32_t left, uint32_t right) {
    for (size_t i = (size_t)pair_hash(left, right) & m->slot_mask;; i = (i + 1) & m->slot_mask) {
        merge_slot *s = &m->slots[i];
        if (s->id < 0 || (s->left == left && s->right == right))
            return s;
    }
}

void merge_rules_add_pair(merge_rules *m, int32_t left, int32_t right, uint32_t rank, int32_t id,
                          bool replace) {
    merge_slot *s = find_pair(m, (uint32_t)left, (uint32_t)right);
    if (s->id >= 0 && !replace)
        return;
    m->n_pairs += s->id < 0;
    assert(m->n_pairs <= m->slot_mask); /* a full table would be searched for ever */
    *s = (merge_slot){(uint32_t)left, (uint32_t)right, rank, id};
}

/* Ranks that sort as the scores do, best first; equal scores have equal ranks. */
nib_status merge_rules_open_scores(merge_rules *m, const float *scores, size_t n, nib_error *err) {
    memset(m, 0, sizeof *m);
    m->ranks = mem_array(n ? n : 1, sizeof *m->ranks);
    if (!m->ranks)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for %zu scores", n);
    for (size_t i = 0; i < n; i++) {
        const float score = scores[i] + 0.0f; /* -0 becomes 0 */
        uint32_t bits;
        memcpy(&bits, &score, 4);
        const uint32_t ascending = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
        m->ranks[i] = ~ascending;
    }
    return NIB_OK;
}

void merge_rules_close(merge_rules *m) {
    mem_free(m->slots);
    mem_free(m->ranks);
    memset(m, 0, sizeof *m);
}

void merge_work_free(merge_work *w) {
    mem_free(w->symbols);
    mem_free(w->heap);
    memset(w, 0, sizeof *w);
}

nib_status merge_work_push(merge_work *w, int32_t id, uint32_t offset, uint32_t n, nib_error *err) {
    if (w->n == w->capacity) {
        const size_t capacity = w->capacity ? 2 * w->capacity : 64;
        symbol *grown = mem_resize(w->symbols, capacity, sizeof *grown);
        if (!grown)
            return nib_fail(err, NIB_NO_MEMORY, "no memory to tokenize a word of %zu symbols", w->n + 1);
        w->symbols = grown;
        w->capacity = capacity;
    }
    w->symbols[w->n++] = (symbol){id, offset, n, -1, -1};
    return NIB_OK;
}

/* What symbols a and b (adjacent) become; false: they do not merge. */
static inline bool pair_becomes(const merge_rules *rules, const vocab *v, const char *text, const symbol *a,
                                const symbol *b, uint32_t *rank, int32_t *id) {
    if (rules->slots) {
        if (a->id < 0 || b->id < 0)
            return false;
        const merge_slot *s = find_pair(rules, (uint32_t)a->id, (uint32_t)b->id);
        *rank = s->rank;
        *id = s->id;
    } else {
        *id = vocab_find(v, text + a->offset, (size_t)a->n + b->n);
        if (*id >= 0)
            *rank = rules->ranks[*id];
    }
    return *id >= 0;
}

static void join(symbol *s, int32_t left, int32_t id) {
    symbol *a = &s[left], *b = &s[a->next];
    a->id = id;
    a->n += b->n;
    a->next = b->next;
    b->n = 0;
    if (a->next >= 0)
        s[a->next].prev = left;
}

/* Candidate I holds the pair that begins at symbol i; rank UINT32_MAX stands for none (no file reaches it:
 * ranks are list positions or the bits of finite scores). */
static void merge_short(symbol *s, int32_t n, const merge_rules *rules, const vocab *v, const char *text) {
    uint32_t ranks[SCAN_SYMBOLS];
    int32_t ids[SCAN_SYMBOLS];
    for (int32_t i = 0; i < n; i++)
        if (i + 1 == n || !pair_becomes(rules, v, text, &s[i], &s[i + 1], &ranks[i], &ids[i]))
            ranks[i] = UINT32_MAX;
    for (;;) {
        int32_t best = 0;
        for (int32_t i = 1; i < n; i++)
            if (ranks[i] < ranks[best])
                best = i;
        if (ranks[best] == UINT32_MAX)
            return;
        ranks[s[best].next] = UINT32_MAX;
        join(s, best, ids[best]);
        const int32_t next = s[best].next, prev = s[best].prev;
        if (next < 0 || !pair_becomes(rules, v, text, &s[best], &s[next], &ranks[best], &ids[best]))
            ranks[best] = UINT32_MAX;
        if (prev >= 0 && !pair_becomes(rules, v, text, &s[prev], &s[best], &ranks[prev], &ids[prev]))
            ranks[prev] = UINT32_MAX;
    }
}

static inline bool before(const merge_candidate *a, const merge_candidate *b) {
    return a->rank < b->rank || (a->rank == b->rank && a->left < b->left);
}

static void sift_down(merge_candidate *heap, size_t n, size_t i) {
    const merge_candidate moving = heap[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n)
            break;
        if (child + 1 < n && before(&heap[child + 1], &heap[child]))
            child++;
        if (!before(&heap[child], &moving))
            break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = moving;
}

static void heap_push(merge_work *w, merge_candidate c) {
    size_t i = w->n_heap++;
    while (i > 0 && before(&c, &w->heap[(i - 1) / 2])) {
        w->heap[i] = w->heap[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    w->heap[i] = c;
}

static bool candidate_at(const merge_work *w, int32_t left, const merge_rules *rules, const vocab *v,
                         const char *text, merge_candidate *out) {
    const symbol *a = &w->symbols[left];
    if (a->next < 0)
        return false;
    const symbol *b = &w->symbols[a->next];
    out->left = left;
    out->bytes = a->n + b->n;
    return pair_becomes(rules, v, text, a, b, &out->rank, &out->id);
}

static nib_status merge_long(merge_work *w, const merge_rules *rules, const vocab *v, const char *text,
                             nib_error *err) {
    /* n - 1 pairs at first; every merge takes one candidate away and adds at most two */
    const size_t need = 2 * w->n;
    if (need > w->heap_capacity) {
        merge_candidate *grown = mem_resize(w->heap, need, sizeof *grown);
        if (!grown)
            return nib_fail(err, NIB_NO_MEMORY, "no memory to tokenize a word of %zu symbols", w->n);
        w->heap = grown;
        w->heap_capacity = need;
    }
    w->n_heap = 0;
    merge_candidate c;
    for (int32_t i = 0; i + 1 < (int32_t)w->n; i++)
        if (candidate_at(w, i, rules, v, text, &c))
            w->heap[w->n_heap++] = c;
    for (size_t i = w->n_heap / 2; i-- > 0;)
        sift_down(w->heap, w->n_heap, i);
    while (w->n_heap > 0) {
        c = w->heap[0];
        w->heap[0] = w->heap[--w->n_heap];
        if (w->n_heap > 0)
            sift_down(w->heap, w->n_heap, 0);
        symbol *a = &w->symbols[c.left];
        if (a->n == 0 || a->next < 0 || a->n + w->symbols[a->next].n != c.bytes)
            continue;
        join(w->symbols, c.left, c.id);
        const int32_t prev = a->prev;
        if (prev >= 0 && candidate_at(w, prev, rules, v, text, &c))
            heap_push(w, c);
        if (candidate_at(w, (int32_t)(a - w->symbols), rules, v, text, &c))
            heap_push(w, c);
    }
    return NIB_OK;
}

nib_status merge_symbols(merge_work *w, const merge_rules *rules, const vocab *v, const char *text,
                         nib_error *err) {
    for (size_t i = 0; i < w->n; i++) {
        w->symbols[i].prev = (int32_t)i - 1;
        w->symbols[i].next = i + 1 < w->n ? (int32_t)i + 1 : -1;
    }
    if (w->n < 2)
        return NIB_OK;
    if (w->n > SCAN_SYMBOLS)
        return merge_long(w, rules, v, text, err);
    merge_short(w->symbols, (int32_t)w->n, rules, v, text);
    return NIB_OK;
}
