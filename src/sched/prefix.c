/* SPDX-License-Identifier: Apache-2.0
 *
 * A hash table with chains over a fixed array of blocks. See prefix.h.
 */
#include "sched/prefix.h"

#undef NDEBUG /* as in sched.c */
#include <assert.h>
#include <string.h>

#include "base/mem.h"

nib_status prefix_open(prefix *x, pages *pools, int n_groups, nib_error *err) {
    *x = (prefix){.pools = pools, .n_groups = n_groups, .n_buckets = 1};
    size_t n = 0;
    for (int g = 0; g < n_groups; g++)
        n += (size_t)pools[g].n_pages;
    while (x->n_buckets < n)
        x->n_buckets *= 2;
    x->blocks = mem_array(n, sizeof *x->blocks);
    x->tokens = mem_array(n, KV_PAGE_TOKENS * sizeof *x->tokens);
    x->buckets = mem_array(x->n_buckets, sizeof *x->buckets);
    if (n > INT32_MAX || !x->blocks || !x->tokens || !x->buckets) {
        prefix_close(x);
        return nib_fail(err, NIB_NO_MEMORY, "no memory to remember %zu KV pages", n);
    }
    x->n_blocks = (int32_t)n;
    for (int32_t i = 0; i < x->n_blocks; i++)
        x->blocks[i].next = i + 1 < x->n_blocks ? i + 1 : PAGES_NONE;
    memset(x->buckets, 0xFF, x->n_buckets * sizeof *x->buckets);
    return NIB_OK;
}

void prefix_close(prefix *x) {
    mem_free(x->blocks);
    mem_free(x->tokens);
    mem_free(x->buckets);
    *x = (prefix){0};
}

/* ---- blocks ---- */

static uint64_t mix(uint64_t h, uint64_t value) {
    h = (h ^ value) * 0x9E3779B97F4A7C15u;
    return h ^ (h >> 32);
}

static uint64_t hash_of(prefix_end parent, const int32_t *tokens) {
    uint64_t h = mix(parent.serial, (uint64_t)parent.depth);
    for (int i = 0; i < KV_PAGE_TOKENS; i++)
        h = mix(h, (uint32_t)tokens[i]);
    return h;
}

static int32_t *bucket_of(const prefix *x, uint64_t hash) {
    return &x->buckets[(hash >> 32) & (x->n_buckets - 1)];
}

static int32_t find(const prefix *x, prefix_end parent, const int32_t *tokens, uint64_t hash) {
    int32_t i = *bucket_of(x, hash);
    for (; i != PAGES_NONE; i = x->blocks[i].next) {
        const prefix_block *b = &x->blocks[i];
        if (b->hash == hash && b->parent.serial == parent.serial && b->parent.depth == parent.depth &&
            memcmp(x->tokens + (size_t)i * KV_PAGE_TOKENS, tokens, KV_PAGE_TOKENS * sizeof *tokens) == 0)
            break;
    }
    return i;
}

int32_t prefix_find(const prefix *x, prefix_end parent, const int32_t *tokens) {
    return find(x, parent, tokens, hash_of(parent, tokens));
}

prefix_end prefix_after(const prefix *x, int32_t block) {
    const prefix_block *b = &x->blocks[block];
    return (prefix_end){b->serial, b->parent.depth + 1};
}

static int32_t make(prefix *x, prefix_end parent, const int32_t *tokens, uint64_t hash) {
    int32_t i = x->first_free;
    assert(i != PAGES_NONE); /* every block in use has a page, and a page one block */
    prefix_block *b = &x->blocks[i];
    x->first_free = b->next;
    x->n_used++;
    *b =
        (prefix_block){.parent = parent, .serial = x->n_serials++, .hash = hash, .next = *bucket_of(x, hash)};
    *bucket_of(x, hash) = i;
    memset(b->pages, 0xFF, sizeof b->pages);
    memcpy(x->tokens + (size_t)i * KV_PAGE_TOKENS, tokens, KV_PAGE_TOKENS * sizeof *tokens);
    return i;
}

static void unmake(prefix *x, int32_t i) {
    int32_t *at = bucket_of(x, x->blocks[i].hash);
    while (*at != i)
        at = &x->blocks[*at].next;
    *at = x->blocks[i].next;
    x->blocks[i].next = x->first_free;
    x->first_free = i;
    x->n_used--;
}

prefix_end prefix_keep(prefix *x, prefix_end parent, const int32_t *tokens, const int32_t *held) {
    uint64_t hash = hash_of(parent, tokens);
    int32_t i = find(x, parent, tokens, hash);
    for (int g = 0; g < x->n_groups; g++) {
        if (held[g] == PAGES_NONE || x->pools[g].block[held[g]] != PAGES_NONE)
            continue;
        if (i == PAGES_NONE)
            i = make(x, parent, tokens, hash);
        prefix_block *b = &x->blocks[i];
        if (b->pages[g] != PAGES_NONE)
            continue;
        b->pages[g] = held[g];
        b->n_pages++;
        pages_name(&x->pools[g], held[g], i);
    }
    /* No page at all: what follows gets a parent that nothing will find. */
    return i == PAGES_NONE ? (prefix_end){x->n_serials++, parent.depth + 1} : prefix_after(x, i);
}

void prefix_lose(prefix *x, int group, int32_t block) {
    prefix_block *b = &x->blocks[block];
    assert(b->n_pages > 0 && b->pages[group] != PAGES_NONE);
    b->pages[group] = PAGES_NONE;
    if (--b->n_pages == 0)
        unmake(x, block);
}

void prefix_unname(prefix *x, int group, int32_t page) {
    int32_t block = x->pools[group].block[page];
    pages_unname(&x->pools[group], page);
    prefix_lose(x, group, block);
}

void prefix_clear(prefix *x) {
    for (int g = 0; g < x->n_groups; g++)
        for (int32_t page = 0; page < x->pools[g].n_pages; page++)
            if (x->pools[g].block[page] != PAGES_NONE)
                prefix_unname(x, g, page);
}

void prefix_check(const prefix *x) {
    int32_t n_used = 0, n_linked = 0;
    for (int32_t i = 0; i < x->n_blocks; i++) {
        const prefix_block *b = &x->blocks[i];
        int32_t n_pages = 0;
        for (int g = 0; b->n_pages > 0 && g < x->n_groups; g++)
            if (b->pages[g] != PAGES_NONE) {
                assert(x->pools[g].block[b->pages[g]] == i);
                n_pages++;
            }
        assert(n_pages == b->n_pages);
        n_used += n_pages > 0;
    }
    for (size_t k = 0; k < x->n_buckets; k++)
        for (int32_t i = x->buckets[k]; i != PAGES_NONE; i = x->blocks[i].next, n_linked++)
            assert(x->blocks[i].n_pages > 0 && bucket_of(x, x->blocks[i].hash) == &x->buckets[k]);
    assert(n_used == x->n_used && n_linked == n_used);
    for (int g = 0; g < x->n_groups; g++)
        for (int32_t page = 0; page < x->pools[g].n_pages; page++) {
            int32_t i = x->pools[g].block[page];
            assert(i == PAGES_NONE || x->blocks[i].pages[g] == page);
        }
}
