/* SPDX-License-Identifier: Apache-2.0
 *
 * Pages of one sequence. See hold.h.
 */
#include "sched/hold.h"

#undef NDEBUG /* as in sched.c */
#include <assert.h>

static int32_t min_i32(int32_t a, int32_t b) {
    return a < b ? a : b;
}

/* The first page of group G that a row at position POS still sees. */
static int32_t first_seen(const sched *s, int g, int32_t pos) {
    const cache_group *group = &s->limits.groups[g];
    if (group->kind != CACHE_WINDOW || pos < group->window)
        return 0;
    return (pos - group->window + 1) / KV_PAGE_TOKENS;
}

static int32_t take(sched *s, int g) {
    int32_t lost, page = pages_take(&s->pools[g], &lost);
    if (lost != PAGES_NONE)
        prefix_lose(&s->prefix, g, lost);
    return page;
}

static void copy(sched *s, int g, int32_t to, int32_t from) {
    assert(s->step.n_copies < s->max_copies);
    s->copies[s->step.n_copies++] = (sched_copy){g, to, from};
}

/* ---- the beginning ---- */

/* Blocks of Q's tokens, into s->matched, for which every group has what the next row sees. */
static int32_t match(sched *s, const seq *q) {
    int32_t n_blocks = (q->n_tokens - 1) / KV_PAGE_TOKENS, n_good = 0;
    int32_t unbroken[CACHE_MAX_GROUPS] = {0}; /* blocks up to here, without a gap, that have a page */
    prefix_end end = {q->salt, 0};
    for (int32_t i = 0; q->remembers && i < n_blocks; i++) {
        int32_t block = prefix_find(&s->prefix, end, q->tokens + (size_t)i * KV_PAGE_TOKENS);
        if (block == PAGES_NONE)
            break;
        s->matched[i] = block;
        end = prefix_after(&s->prefix, block);
        bool good = true;
        for (int g = 0; g < s->limits.n_groups; g++) {
            bool has = s->prefix.blocks[block].pages[g] != PAGES_NONE;
            unbroken[g] = has ? unbroken[g] + 1 : 0;
            int32_t needed = s->limits.groups[g].kind == CACHE_STATE
                                 ? 1
                                 : i + 1 - first_seen(s, g, (i + 1) * KV_PAGE_TOKENS);
            good = good && unbroken[g] >= needed;
        }
        if (good)
            n_good = i + 1;
    }
    return n_good;
}

/* Positions for which pages are taken when Q starts with N_BLOCKS found: all that it needs to give a token,
 * in a window those of its first rows. */
static int32_t first_reach(const sched *s, const seq *q, int g, int32_t n_blocks) {
    int32_t all = min_i32(q->n_tokens + 1, q->limit - 1);
    if (s->limits.groups[g].kind != CACHE_WINDOW)
        return all;
    return min_i32(all, n_blocks * KV_PAGE_TOKENS + s->limits.max_rows);
}

static bool fits(const sched *s, const seq *q, int32_t n_blocks) {
    for (int g = 0; g < s->limits.n_groups; g++) {
        int32_t needed = 1;
        if (s->limits.groups[g].kind != CACHE_STATE) {
            needed = seq_pages_of(first_reach(s, q, g, n_blocks)) - n_blocks;
            for (int32_t i = first_seen(s, g, n_blocks * KV_PAGE_TOKENS); i < n_blocks; i++)
                needed += s->pools[g].refs[s->prefix.blocks[s->matched[i]].pages[g]] == 0;
        }
        if (needed > pages_available(&s->pools[g]))
            return false;
    }
    return true;
}

bool hold_can_start(sched *s, const seq *q) {
    return fits(s, q, match(s, q));
}

bool hold_start(sched *s, seq *q) {
    int32_t n_blocks = match(s, q);
    if (!fits(s, q, n_blocks))
        return false;
    q->n_computed = n_blocks * KV_PAGE_TOKENS;
    q->chain = n_blocks ? prefix_after(&s->prefix, s->matched[n_blocks - 1]) : (prefix_end){q->salt, 0};
    /* What is found is referred to before anything is taken: it might be what is forgotten first. */
    int32_t snapshot[CACHE_MAX_GROUPS];
    for (int g = 0; g < s->limits.n_groups; g++) {
        bool state = s->limits.groups[g].kind == CACHE_STATE;
        q->first[g] = state ? n_blocks - 1 : first_seen(s, g, q->n_computed);
        for (int32_t i = q->first[g] < 0 ? 0 : q->first[g]; i < n_blocks; i++) {
            int32_t page = s->prefix.blocks[s->matched[i]].pages[g];
            *(state ? &snapshot[g] : &q->pages[g][i]) = page;
            if (!state)
                pages_share(&s->pools[g], page);
        }
        q->end[g] = n_blocks;
    }
    for (int g = 0; g < s->limits.n_groups; g++) {
        if (s->limits.groups[g].kind == CACHE_STATE) {
            q->first[g] = 0;
            q->end[g] = 1;
            q->pages[g][0] = take(s, g); /* maybe the snapshot itself */
            if (n_blocks > 0 && q->pages[g][0] != snapshot[g])
                copy(s, g, q->pages[g][0], snapshot[g]);
            continue;
        }
        while (q->end[g] < seq_pages_of(first_reach(s, q, g, n_blocks)))
            q->pages[g][q->end[g]++] = take(s, g);
    }
    return true;
}

bool hold_fork(sched *s, seq *q, const seq *from) {
    int32_t n = min_i32(from->n_computed, q->n_tokens - 1);
    if (n == 0 || s->has_state)
        return false;
    for (int g = 0; g < s->limits.n_groups; g++)
        if (first_seen(s, g, n) < from->first[g])
            return false;
    q->n_computed = n;
    for (int g = 0; g < s->limits.n_groups; g++) {
        q->first[g] = first_seen(s, g, n);
        q->end[g] = seq_pages_of(n);
        for (int32_t i = q->first[g]; i < q->end[g]; i++) {
            q->pages[g][i] = from->pages[g][i];
            pages_share(&s->pools[g], q->pages[g][i]);
        }
    }
    q->chain = (prefix_end){q->salt, 0};
    while (q->remembers && q->chain.depth < n / KV_PAGE_TOKENS) {
        int32_t block =
            prefix_find(&s->prefix, q->chain, q->tokens + (size_t)q->chain.depth * KV_PAGE_TOKENS);
        if (block == PAGES_NONE)
            break;
        q->chain = prefix_after(&s->prefix, block);
    }
    return true;
}

/* ---- as it grows ---- */

/* Of group G: whether the page that Q writes next is another's too. */
static bool is_shared(const sched *s, const seq *q, int g) {
    int32_t i = q->n_computed / KV_PAGE_TOKENS;
    return i >= q->first[g] && i < q->end[g] && s->pools[g].refs[q->pages[g][i]] > 1;
}

int32_t hold_room(const sched *s, const seq *q) {
    int32_t room = q->limit - 1;
    for (int g = 0; g < s->limits.n_groups; g++) {
        if (s->limits.groups[g].kind == CACHE_STATE)
            continue;
        int32_t available = pages_available(&s->pools[g]) - is_shared(s, q, g);
        if (available < 0)
            return q->n_computed;
        room = min_i32(room, min_i32(q->end[g] + available, seq_pages_of(room)) * KV_PAGE_TOKENS);
    }
    return room;
}

void hold_reach(sched *s, seq *q, int32_t n_positions) {
    for (int g = 0; g < s->limits.n_groups; g++) {
        if (s->limits.groups[g].kind == CACHE_STATE)
            continue;
        int32_t at = q->n_computed / KV_PAGE_TOKENS, *page = &q->pages[g][at];
        if (is_shared(s, q, g)) {
            int32_t own = take(s, g);
            copy(s, g, own, *page);
            pages_give(&s->pools[g], *page);
            *page = own;
        } else if (at >= q->first[g] && at < q->end[g] && s->pools[g].block[*page] != PAGES_NONE) {
            prefix_unname(&s->prefix, g, *page);
        }
        while (q->end[g] < seq_pages_of(n_positions))
            q->pages[g][q->end[g]++] = take(s, g);
    }
}

/* The state behind the block that Q has just completed becomes a page of that block. */
static int32_t snapshot(sched *s, const seq *q, int g) {
    int32_t block = prefix_find(&s->prefix, q->chain, q->tokens + (size_t)q->chain.depth * KV_PAGE_TOKENS);
    bool known = block != PAGES_NONE && s->prefix.blocks[block].pages[g] != PAGES_NONE;
    bool ends_here = q->n_computed == (q->chain.depth + 1) * KV_PAGE_TOKENS;
    if (known || !ends_here || pages_available(&s->pools[g]) == 0)
        return PAGES_NONE;
    int32_t slot = take(s, g);
    copy(s, g, slot, q->pages[g][0]);
    return slot;
}

static void name_full_pages(sched *s, seq *q) {
    while (q->chain.depth < q->n_computed / KV_PAGE_TOKENS) {
        int32_t i = q->chain.depth, held[CACHE_MAX_GROUPS];
        for (int g = 0; g < s->limits.n_groups; g++)
            held[g] = s->limits.groups[g].kind == CACHE_STATE ? snapshot(s, q, g) : q->pages[g][i];
        q->chain = prefix_keep(&s->prefix, q->chain, q->tokens + (size_t)i * KV_PAGE_TOKENS, held);
        for (int g = 0; g < s->limits.n_groups; g++)
            if (s->limits.groups[g].kind == CACHE_STATE && held[g] != PAGES_NONE)
                pages_give(&s->pools[g], held[g]);
    }
}

void hold_computed(sched *s, seq *q) {
    if (q->remembers)
        name_full_pages(s, q);
    for (int g = 0; g < s->limits.n_groups; g++) {
        if (s->limits.groups[g].kind == CACHE_STATE)
            continue;
        for (int32_t seen = first_seen(s, g, q->n_computed); q->first[g] < seen; q->first[g]++) {
            pages_give(&s->pools[g], q->pages[g][q->first[g]]);
            q->pages[g][q->first[g]] = PAGES_NONE;
        }
        while (q->n_drafts > 0 && q->end[g] > seq_pages_of(q->n_tokens)) {
            pages_give(&s->pools[g], q->pages[g][--q->end[g]]);
            q->pages[g][q->end[g]] = PAGES_NONE;
        }
    }
}

/* The end first: of what is remembered, beginnings are forgotten last. */
void hold_give(sched *s, seq *q) {
    for (int g = 0; g < s->limits.n_groups; g++) {
        while (q->end[g] > q->first[g]) {
            pages_give(&s->pools[g], q->pages[g][--q->end[g]]);
            q->pages[g][q->end[g]] = PAGES_NONE;
        }
        q->first[g] = q->end[g] = 0;
    }
    q->n_computed = 0;
}
