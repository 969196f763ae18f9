/* SPDX-License-Identifier: Apache-2.0
 *
 * Every invariant of the scheduler, asserted: for tests. Slow.
 */
#undef NDEBUG
#include <assert.h>
#include <string.h>

#include "sched/sched_inside.h"

/* What Q holds of group G is there, is remembered only where it is full, and shared only where it is not
 * about to be written. */
static void check_pages(const sched *s, const seq *q, int g, int32_t *n_refs) {
    const pages *pool = &s->pools[g];
    bool state = s->limits.groups[g].kind == CACHE_STATE;
    int32_t n_full = q->n_computed / KV_PAGE_TOKENS;
    assert(q->first[g] >= 0 && q->first[g] <= q->end[g] && q->end[g] <= seq_pages_of(q->limit - 1));
    for (int32_t i = 0; i < seq_pages_of(q->limit - 1); i++) {
        int32_t page = q->pages[g][i];
        if (i < q->first[g] || i >= q->end[g]) {
            assert(page == PAGES_NONE);
            continue;
        }
        assert(page >= 0 && page < pool->n_pages && pool->refs[page] > 0);
        n_refs[page]++;
        assert(!state || (pool->refs[page] == 1 && pool->block[page] == PAGES_NONE));
        if (q->n_planned > 0 && i >= n_full)
            assert(pool->refs[page] == 1 && pool->block[page] == PAGES_NONE);
    }
    if (q->running && state)
        assert(q->first[g] == 0 && q->end[g] == 1);
    else if (q->running)
        assert(q->end[g] >= seq_pages_of(q->n_computed + q->n_planned));
    else
        assert(q->end[g] == 0);
}

static void check_seq(const sched *s, const seq *q, bool running) {
    assert(s->by_id[q->id] == q && q->running == running);
    assert(q->n_tokens >= 1 && q->n_tokens < q->limit && q->limit <= s->limits.max_len);
    assert(q->n_drafts >= 0 && q->n_tokens + q->n_drafts < q->limit);
    assert(q->n_computed >= 0 && q->n_computed < q->n_tokens);
    assert(q->n_computed + q->n_planned <= q->n_tokens + q->n_drafts);
    assert(running || (q->n_computed == 0 && q->n_planned == 0 && q->n_drafts == 0));
}

static void check_list(const sched *s, const seq_list *l, bool running) {
    int n = 0;
    for (const seq *q = l->first; q; q = q->next, n++) {
        assert(q->next ? q->next->prev == q && seq_precedes(q, q->next) : l->last == q);
        check_seq(s, q, running);
    }
    assert(n == l->n);
}

static void check_group(const sched *s, int g) {
    const pages *pool = &s->pools[g];
    static int32_t n_refs[1 << 16];
    assert(pool->n_pages <= (int32_t)(sizeof n_refs / sizeof *n_refs));
    memset(n_refs, 0, (size_t)pool->n_pages * sizeof *n_refs);
    for (const seq *q = s->running.first; q; q = q->next)
        check_pages(s, q, g, n_refs);
    for (const seq *q = s->waiting.first; q; q = q->next)
        check_pages(s, q, g, n_refs);
    for (int32_t page = 0; page < pool->n_pages; page++)
        assert(n_refs[page] == pool->refs[page]);
    pages_check(pool);
}

static void check_batch(const sched *s) {
    const batch *b = &s->batch;
    int row = 0, out = 0, k = 0;
    for (int i = 0; i < b->n_seqs; i++) {
        const batch_seq *r = &b->seqs[i];
        const seq *q = s->by_id[s->seq_ids[i]];
        assert(q && r->row == row && r->n_rows == q->n_planned && r->pos == q->n_computed);
        for (int g = 0; g < s->limits.n_groups; g++)
            assert(r->pages[g] == q->pages[g]);
        assert(r->n_pages * KV_PAGE_TOKENS >= r->pos + r->n_rows);
        assert(memcmp(b->tokens + row, q->tokens + r->pos, (size_t)r->n_rows * sizeof *b->tokens) == 0);
        row += r->n_rows;
        if (r->pos + r->n_rows < q->n_tokens)
            continue;
        const sched_out *o = &s->outs[k++];
        assert(o->id == q->id && o->out == out && o->n_out == 1 + q->n_drafts);
        for (int j = 0; j < o->n_out; j++)
            assert(b->out_rows[out++] == row - o->n_out + j);
    }
    assert(row == b->n_rows && row > 0 && row <= s->limits.max_rows);
    assert(out == b->n_out && out <= s->limits.max_out && k == s->step.n_outs);
    if (s->step.n_decode_rows > 0 && s->budget != 0)
        assert(b->n_rows - s->step.n_decode_rows <= (s->budget > 0 ? s->budget : 0));
}

void sched_check(const sched *s) {
    check_list(s, &s->running, true);
    check_list(s, &s->waiting, false);
    assert(s->running.n <= s->limits.max_seqs);
    for (int g = 0; g < s->limits.n_groups; g++)
        check_group(s, g);
    prefix_check(&s->prefix);
    int n_free = 0;
    for (int id = 0; id < s->n_ids; id++)
        n_free += !s->by_id[id];
    assert(n_free == s->n_free_ids && n_free + s->running.n + s->waiting.n == s->n_ids);
    if (s->in_step)
        check_batch(s);
}
