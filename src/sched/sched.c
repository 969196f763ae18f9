/* SPDX-License-Identifier: Apache-2.0
 *
 * The scheduler. A sequence is its tokens and how many of them have keys and values in its pages
 * (n_computed); what is left is the rows it needs before its next token can be sampled. One left row is
 * decoding, more are prefill, and a preempted sequence is simply one with n_computed = 0 again.
 *
 * The last token of a sequence is never computed (nothing follows it), so a sequence of LIMIT tokens needs
 * pages for LIMIT - 1 positions.
 */
#include "sched/sched.h"

#undef NDEBUG /* integers are cheap to check, and a page with two holders is the worst of mistakes */
#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "sched/pages.h"

typedef struct seq {
    int id;
    uint64_t arrival;
    bool running;
    int32_t *tokens; /* [limit] */
    int32_t n_tokens, limit;
    int32_t n_computed; /* positions whose keys and values are in the pages */
    int32_t n_planned;  /* rows of the step being computed; 0 when not in it */
    int32_t *pages;     /* [pages_of(limit - 1)] */
    int32_t n_pages;
    struct seq *prev, *next; /* in the waiting or the running list, oldest first */
} seq;

typedef struct seq_list {
    seq *first, *last;
    int n;
} seq_list;

struct sched {
    sched_limits limits;
    pages pages;
    seq **by_id; /* [n_ids]; NULL where the id is free */
    int n_ids;
    seq_list waiting, running; /* both in order of arrival */
    uint64_t n_arrivals, n_preemptions;
    bool in_step; /* between sched_next and sched_commit */

    batch batch; /* the step's arrays, sized once */
    int32_t *tokens, *out_rows;
    batch_seq *seqs;
    int *out_ids, *seq_ids;
};

static int32_t pages_of(int32_t n_positions) {
    return (n_positions + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
}

static int32_t min_i32(int32_t a, int32_t b) {
    return a < b ? a : b;
}

/* ---- lists ---- */

static void list_append(seq_list *l, seq *q) {
    q->prev = l->last;
    q->next = NULL;
    *(l->last ? &l->last->next : &l->first) = q;
    l->last = q;
    l->n++;
}

static void list_prepend(seq_list *l, seq *q) {
    q->prev = NULL;
    q->next = l->first;
    *(l->first ? &l->first->prev : &l->last) = q;
    l->first = q;
    l->n++;
}

static void list_remove(seq_list *l, seq *q) {
    *(q->prev ? &q->prev->next : &l->first) = q->next;
    *(q->next ? &q->next->prev : &l->last) = q->prev;
    q->prev = q->next = NULL;
    l->n--;
}

/* ---- open and close ---- */

nib_status sched_open(sched **out, const sched_limits *limits, nib_error *err) {
    const sched_limits *l = limits;
    *out = NULL;
    if (l->n_pages < 1 || l->max_seqs < 1 || l->max_len < 1 || l->max_rows < l->max_seqs)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "scheduler limits: %d pages, %d sequences, %d tokens of one, %d rows of a step; all "
                        "must be at least 1, and a step must have a row for every sequence",
                        l->n_pages, l->max_seqs, l->max_len, l->max_rows);
    sched *s = mem_array(1, sizeof *s);
    if (!s)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for the scheduler");
    s->limits = *limits;
    nib_status status = pages_open(&s->pages, l->n_pages, err);
    s->tokens = mem_array((size_t)l->max_rows, sizeof *s->tokens);
    s->seqs = mem_array((size_t)l->max_seqs, sizeof *s->seqs);
    s->out_rows = mem_array((size_t)l->max_seqs, sizeof *s->out_rows);
    s->out_ids = mem_array((size_t)l->max_seqs, sizeof *s->out_ids);
    s->seq_ids = mem_array((size_t)l->max_seqs, sizeof *s->seq_ids);
    if (status == NIB_OK && (!s->tokens || !s->seqs || !s->out_rows || !s->out_ids || !s->seq_ids))
        status = nib_fail(err, NIB_NO_MEMORY, "no memory for the scheduler");
    if (status != NIB_OK) {
        sched_close(s);
        return status;
    }
    s->batch = (batch){.tokens = s->tokens, .seqs = s->seqs, .out_rows = s->out_rows};
    *out = s;
    return NIB_OK;
}

static void seq_free(seq *q) {
    if (!q)
        return;
    mem_free(q->tokens);
    mem_free(q->pages);
    mem_free(q);
}

void sched_close(sched *s) {
    if (!s)
        return;
    for (int i = 0; i < s->n_ids; i++)
        seq_free(s->by_id[i]);
    mem_free(s->by_id);
    pages_close(&s->pages);
    mem_free(s->tokens);
    mem_free(s->seqs);
    mem_free(s->out_rows);
    mem_free(s->out_ids);
    mem_free(s->seq_ids);
    mem_free(s);
}

/* ---- sequences come and go ---- */

static int find_free_id(sched *s) {
    for (int i = 0; i < s->n_ids; i++)
        if (!s->by_id[i])
            return i;
    int n = s->n_ids ? 2 * s->n_ids : 16;
    seq **grown = mem_resize(s->by_id, (size_t)n, sizeof *grown);
    if (!grown)
        return -1;
    memset(grown + s->n_ids, 0, (size_t)(n - s->n_ids) * sizeof *grown);
    int id = s->n_ids;
    s->by_id = grown;
    s->n_ids = n;
    return id;
}

nib_status sched_add(sched *s, const int32_t *prompt, int n_prompt, int max_tokens, int *id, nib_error *err) {
    assert(!s->in_step);
    int max_len = s->limits.max_len;
    if (n_prompt < 1 || max_tokens < 1 || n_prompt >= max_len)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "a prompt of %d tokens and %d more to come; both must be at least 1, and the prompt "
                        "shorter than max_model_len, %d",
                        n_prompt, max_tokens, max_len);
    int32_t limit = max_tokens < max_len - n_prompt ? n_prompt + max_tokens : max_len;
    if (pages_of(limit - 1) > s->limits.n_pages)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "a sequence of %d tokens needs %d KV pages of %d positions; there are %d", limit,
                        pages_of(limit - 1), KV_PAGE_TOKENS, s->limits.n_pages);
    seq *q = mem_array(1, sizeof *q);
    if (q) {
        q->tokens = mem_array((size_t)limit, sizeof *q->tokens);
        q->pages = mem_array((size_t)pages_of(limit - 1), sizeof *q->pages);
    }
    int free_id = q && q->tokens && q->pages ? find_free_id(s) : -1;
    if (free_id < 0) {
        seq_free(q);
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a sequence of %d tokens", limit);
    }
    q->id = *id = free_id;
    q->arrival = s->n_arrivals++;
    q->limit = limit;
    q->n_tokens = n_prompt;
    memcpy(q->tokens, prompt, (size_t)n_prompt * sizeof *prompt);
    s->by_id[q->id] = q;
    list_append(&s->waiting, q);
    return NIB_OK;
}

static void give_pages_back(sched *s, seq *q) {
    while (q->n_pages > 0)
        pages_give(&s->pages, q->pages[--q->n_pages], q->id);
    q->n_computed = 0;
}

static void end(sched *s, seq *q) {
    give_pages_back(s, q);
    list_remove(q->running ? &s->running : &s->waiting, q);
    s->by_id[q->id] = NULL;
    seq_free(q);
}

static void preempt(sched *s, seq *q) {
    assert(q->running && q->n_planned == 0);
    give_pages_back(s, q);
    list_remove(&s->running, q);
    q->running = false;
    list_prepend(&s->waiting, q); /* whoever waits came later than whoever ran: the front is its place */
    s->n_preemptions++;
}

/* ---- a step ---- */

static void plan_rows(sched *s, seq *q, int32_t n_rows) {
    batch *b = &s->batch;
    assert(n_rows > 0 && b->n_rows + n_rows <= s->limits.max_rows && b->n_seqs < s->limits.max_seqs);
    s->seq_ids[b->n_seqs] = q->id;
    s->seqs[b->n_seqs++] = (batch_seq){.pages = CACHE_EVERY_GROUP(q->pages),
                                       .n_pages = q->n_pages,
                                       .row = b->n_rows,
                                       .n_rows = n_rows,
                                       .pos = q->n_computed};
    memcpy(s->tokens + b->n_rows, q->tokens + q->n_computed, (size_t)n_rows * sizeof *s->tokens);
    b->n_rows += n_rows;
    q->n_planned = n_rows;
    if (q->n_computed + n_rows == q->n_tokens) {
        s->out_ids[b->n_out] = q->id;
        s->out_rows[b->n_out++] = b->n_rows - 1;
    }
}

/* One row for everyone who decodes, oldest first. A sequence at the end of its last page takes another;
 * where there is none the youngest runner gives way, and that may be the asker itself. */
static void plan_decode(sched *s) {
    for (seq *q = s->running.first, *next; q; q = next) {
        bool preempted_itself = false;
        if (q->n_tokens - q->n_computed == 1) {
            while (pages_of(q->n_tokens) > q->n_pages && !preempted_itself) {
                if (s->pages.n_free > 0) {
                    q->pages[q->n_pages++] = pages_take(&s->pages, q->id);
                } else {
                    preempted_itself = s->running.last == q;
                    preempt(s, s->running.last);
                }
            }
            if (!preempted_itself)
                plan_rows(s, q, 1);
        }
        next = preempted_itself ? NULL : q->next; /* whoever preempts itself was the last */
    }
}

static void plan_prefill(sched *s) {
    for (seq *q = s->running.first; q && s->batch.n_rows < s->limits.max_rows; q = q->next)
        if (q->n_planned == 0)
            plan_rows(s, q, min_i32(q->n_tokens - q->n_computed, s->limits.max_rows - s->batch.n_rows));
}

/* The first in the waiting line starts when there is room; nobody overtakes. */
static void admit(sched *s) {
    while (s->waiting.first && s->running.n < s->limits.max_seqs && s->batch.n_rows < s->limits.max_rows) {
        seq *q = s->waiting.first;
        int32_t n_pages = pages_of(min_i32(q->n_tokens + 1, q->limit - 1));
        if (n_pages > s->pages.n_free)
            return;
        list_remove(&s->waiting, q);
        q->running = true;
        list_append(&s->running, q);
        while (q->n_pages < n_pages)
            q->pages[q->n_pages++] = pages_take(&s->pages, q->id);
        plan_rows(s, q, min_i32(q->n_tokens, s->limits.max_rows - s->batch.n_rows));
    }
}

const batch *sched_next(sched *s, const int **ids) {
    assert(!s->in_step);
    s->batch.n_rows = s->batch.n_seqs = s->batch.n_out = 0;
    *ids = s->out_ids;
    plan_decode(s);
    plan_prefill(s);
    admit(s);
    if (s->batch.n_rows == 0) {
        assert(s->running.n == 0 && s->waiting.n == 0); /* the oldest can always go on */
        return NULL;
    }
    s->in_step = true;
    return &s->batch;
}

void sched_commit(sched *s, const int32_t *tokens, const bool *ended) {
    assert(s->in_step);
    s->in_step = false;
    for (int i = 0; i < s->batch.n_seqs; i++) {
        seq *q = s->by_id[s->seq_ids[i]];
        q->n_computed += q->n_planned;
        q->n_planned = 0;
    }
    for (int i = 0; i < s->batch.n_out; i++) {
        seq *q = s->by_id[s->out_ids[i]];
        q->tokens[q->n_tokens++] = tokens[i];
        assert(ended[i] || q->n_tokens < q->limit);
        if (ended[i])
            end(s, q);
    }
}

int sched_drop(sched *s, const int **ids) {
    assert(s->in_step);
    s->in_step = false;
    for (int i = 0; i < s->batch.n_seqs; i++)
        end(s, s->by_id[s->seq_ids[i]]);
    *ids = s->seq_ids;
    return s->batch.n_seqs;
}

void sched_end(sched *s, int id) {
    assert(!s->in_step && id >= 0 && id < s->n_ids && s->by_id[id]);
    end(s, s->by_id[id]);
}

/* ---- views ---- */

const int32_t *sched_tokens(const sched *s, int id, int *n, int *limit) {
    assert(id >= 0 && id < s->n_ids && s->by_id[id]);
    *n = s->by_id[id]->n_tokens;
    if (limit)
        *limit = s->by_id[id]->limit;
    return s->by_id[id]->tokens;
}

int sched_id_bound(const sched *s) {
    return s->n_ids;
}

void sched_count(const sched *s, sched_counts *out) {
    *out = (sched_counts){.waiting = s->waiting.n,
                          .running = s->running.n,
                          .free_pages = s->pages.n_free,
                          .preemptions = s->n_preemptions};
}

static void check_seq(const sched *s, const seq *q, bool running) {
    assert(s->by_id[q->id] == q && q->running == running);
    assert(q->n_tokens >= 1 && q->n_tokens < q->limit && q->limit <= s->limits.max_len);
    assert(q->n_computed >= 0 && q->n_computed + q->n_planned <= q->n_tokens);
    assert(q->n_pages <= pages_of(q->limit - 1));
    for (int i = 0; i < q->n_pages; i++)
        assert(s->pages.holder[q->pages[i]] == q->id);
    if (running)
        assert(q->n_pages >= pages_of(q->n_computed + q->n_planned));
    else
        assert(q->n_pages == 0 && q->n_computed == 0 && q->n_planned == 0);
}

static int check_list(const sched *s, const seq_list *l, bool running, uint64_t *last_arrival) {
    int n = 0, n_held = 0;
    for (const seq *q = l->first; q; q = q->next, n++) {
        assert(q->next ? q->next->prev == q : l->last == q);
        assert(*last_arrival == UINT64_MAX || q->arrival > *last_arrival);
        *last_arrival = q->arrival;
        check_seq(s, q, running);
        n_held += q->n_pages;
    }
    assert(n == l->n);
    return n_held;
}

static void check_batch(const sched *s) {
    const batch *b = &s->batch;
    int row = 0, out = 0;
    for (int i = 0; i < b->n_seqs; i++) {
        const batch_seq *r = &b->seqs[i];
        const seq *q = s->by_id[s->seq_ids[i]];
        assert(q && r->row == row && r->n_rows == q->n_planned && r->pos == q->n_computed);
        assert(r->pages[0] == q->pages && r->n_pages * KV_PAGE_TOKENS >= r->pos + r->n_rows);
        assert(memcmp(b->tokens + row, q->tokens + r->pos, (size_t)r->n_rows * sizeof *b->tokens) == 0);
        row += r->n_rows;
        if (r->pos + r->n_rows == q->n_tokens) {
            assert(s->out_ids[out] == q->id && b->out_rows[out] == row - 1);
            out++;
        }
    }
    assert(row == b->n_rows && row > 0 && row <= s->limits.max_rows && out == b->n_out);
}

void sched_check(const sched *s) {
    uint64_t last_arrival = UINT64_MAX;
    int n_held = check_list(s, &s->running, true, &last_arrival);
    n_held += check_list(s, &s->waiting, false, &last_arrival);
    assert(n_held + s->pages.n_free == s->pages.n_pages);
    assert(s->running.n <= s->limits.max_seqs);
    pages_check(&s->pages);
    if (s->in_step)
        check_batch(s);
}
