/* SPDX-License-Identifier: Apache-2.0
 *
 * The scheduler: sequences come and go, steps are planned and committed. Which pages they hold is hold.c's.
 */
#include "sched/sched.h"

#undef NDEBUG /* integers are cheap to check, and a page with two writers is the worst of mistakes */
#include <assert.h>
#include <limits.h>
#include <string.h>

#include "base/mem.h"
#include "sched/hold.h"

static int32_t min_i32(int32_t a, int32_t b) {
    return a < b ? a : b;
}

/* ---- open and close ---- */

/* Pages of a group that one sequence may need at once. */
static int32_t pages_of_one(const sched_limits *l, const cache_group *g) {
    int32_t whole = seq_pages_of(l->max_len - 1);
    return g->kind == CACHE_WINDOW ? min_i32(whole, seq_pages_of(g->window + l->max_rows) + 1) : 1;
}

static nib_status check_limits(const sched_limits *l, nib_error *err) {
    if (l->n_groups < 1 || l->n_groups > CACHE_MAX_GROUPS || l->max_seqs < 1 || l->max_len < 2 ||
        l->max_rows < l->max_seqs || l->max_out < l->max_seqs)
        return nib_fail(
            err, NIB_BAD_ARGUMENT,
            "scheduler limits: %d cache groups, %d sequences of %d tokens, %d rows and %d outputs of "
            "a step; expected 1 to %d groups, sequences of 2 tokens at least, and a row and an "
            "output for every sequence",
            l->n_groups, l->max_seqs, l->max_len, l->max_rows, l->max_out, CACHE_MAX_GROUPS);
    for (int i = 0; i < l->n_groups; i++) {
        const cache_group *g = &l->groups[i];
        int32_t least = g->kind == CACHE_STATE ? l->max_seqs : pages_of_one(l, g);
        if (g->n_pages < least || (g->kind == CACHE_WINDOW && g->window < 1))
            return nib_fail(err, NIB_BAD_ARGUMENT,
                            "scheduler limits: cache group %d has %d pages and a window of %d; expected at "
                            "least %d pages, and 1",
                            i, g->n_pages, g->window, least);
    }
    return NIB_OK;
}

static nib_status open_step(sched *s, nib_error *err) {
    const sched_limits *l = &s->limits;
    size_t n_seqs = (size_t)l->max_seqs;
    s->max_copies = 3 * l->max_seqs * l->n_groups; /* one at a commit, two of a plan */
    s->tokens = mem_array((size_t)l->max_rows, sizeof *s->tokens);
    s->out_rows = mem_array((size_t)l->max_out, sizeof *s->out_rows);
    s->seqs = mem_array(n_seqs, sizeof *s->seqs);
    s->seq_ids = mem_array(n_seqs, sizeof *s->seq_ids);
    s->outs = mem_array(n_seqs, sizeof *s->outs);
    s->copies = mem_array((size_t)s->max_copies, sizeof *s->copies);
    s->matched = mem_array((size_t)seq_pages_of(l->max_len), sizeof *s->matched);
    if (!s->tokens || !s->out_rows || !s->seqs || !s->seq_ids || !s->outs || !s->copies || !s->matched)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for the scheduler");
    s->batch = (batch){.tokens = s->tokens, .seqs = s->seqs, .out_rows = s->out_rows};
    s->step = (sched_step){.batch = &s->batch, .ids = s->seq_ids, .outs = s->outs, .copies = s->copies};
    return NIB_OK;
}

static nib_status open_parts(sched *s, nib_error *err) {
    const sched_limits *l = &s->limits;
    s->remembers = !l->no_prefix_cache;
    for (int g = 0; g < l->n_groups; g++) {
        s->has_state |= l->groups[g].kind == CACHE_STATE;
        NIB_TRY(pages_open(&s->pools[g], l->groups[g].n_pages, err));
    }
    NIB_TRY(prefix_open(&s->prefix, s->pools, l->n_groups, err));
    return open_step(s, err);
}

nib_status sched_open(sched **out, const sched_limits *limits, nib_error *err) {
    *out = NULL;
    NIB_TRY(check_limits(limits, err));
    sched *s = mem_array(1, sizeof *s);
    if (!s)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for the scheduler");
    s->limits = *limits;
    nib_status status = open_parts(s, err);
    if (status != NIB_OK) {
        sched_close(s);
        return status;
    }
    *out = s;
    return NIB_OK;
}

void sched_close(sched *s) {
    if (!s)
        return;
    for (int i = 0; i < s->n_ids; i++)
        seq_free(s->by_id[i]);
    mem_free(s->by_id);
    mem_free(s->free_ids);
    prefix_close(&s->prefix);
    for (int g = 0; g < s->limits.n_groups; g++)
        pages_close(&s->pools[g]);
    mem_free(s->matched);
    mem_free(s->tokens);
    mem_free(s->out_rows);
    mem_free(s->seqs);
    mem_free(s->seq_ids);
    mem_free(s->outs);
    mem_free(s->copies);
    mem_free(s);
}

/* ---- sequences come and go ---- */

static bool reserve_id(sched *s) {
    if (s->n_free_ids > 0)
        return true;
    int n = s->n_ids ? 2 * s->n_ids : 16;
    seq **by_id = mem_resize(s->by_id, (size_t)n, sizeof *by_id);
    if (!by_id)
        return false;
    s->by_id = by_id;
    int *free_ids = mem_resize(s->free_ids, (size_t)n, sizeof *free_ids);
    if (!free_ids)
        return false;
    s->free_ids = free_ids;
    for (int id = n - 1; id >= s->n_ids; id--) {
        s->by_id[id] = NULL;
        s->free_ids[s->n_free_ids++] = id;
    }
    s->n_ids = n;
    return true;
}

static nib_status check_request(const sched *s, const sched_request *r, nib_error *err) {
    const sched_limits *l = &s->limits;
    if (r->n_prompt < 1 || r->limit <= r->n_prompt || r->limit > l->max_len)
        return nib_fail(
            err, NIB_BAD_ARGUMENT,
            "a prompt of %d tokens in a sequence of %d; expected a prompt of at least 1, room for at "
            "least 1 more, and %d in all at most",
            r->n_prompt, r->limit, l->max_len);
    int32_t needed = seq_pages_of(r->limit - 1);
    for (int g = 0; g < l->n_groups; g++)
        if (l->groups[g].kind == CACHE_FULL && needed > l->groups[g].n_pages)
            return nib_fail(err, NIB_BAD_ARGUMENT,
                            "a sequence of %d tokens needs %d KV pages of %d positions; there are %d",
                            r->limit, needed, KV_PAGE_TOKENS, l->groups[g].n_pages);
    return NIB_OK;
}

/* In no list yet. */
static nib_status make(sched *s, const sched_request *r, seq **out, nib_error *err) {
    NIB_TRY(check_request(s, r, err));
    seq *q = seq_new(r, s->limits.n_groups);
    if (!q || !reserve_id(s)) {
        seq_free(q);
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a sequence of %d tokens", r->limit);
    }
    q->id = s->free_ids[--s->n_free_ids];
    q->arrival = s->n_arrivals++;
    q->remembers = s->remembers && !r->no_prefix_cache;
    s->by_id[q->id] = q;
    *out = q;
    return NIB_OK;
}

nib_status sched_add(sched *s, const sched_request *r, int *id, nib_error *err) {
    seq *q;
    NIB_TRY(make(s, r, &q, err));
    seq_list_insert(&s->waiting, q);
    *id = q->id;
    return NIB_OK;
}

static seq *find(const sched *s, int id) {
    assert(id >= 0 && id < s->n_ids && s->by_id[id]);
    return s->by_id[id];
}

/* Q has started with the pages it holds. */
static void set_running(sched *s, seq *q) {
    q->running = true;
    seq_list_insert(&s->running, q);
    if (q->n_cached < 0)
        q->n_cached = q->n_computed;
    if (q->remembers) {
        s->prefix_queries += (uint64_t)q->n_tokens;
        s->prefix_hits += (uint64_t)q->n_computed;
    }
}

nib_status sched_fork(sched *s, int from, const sched_request *r, int *id, nib_error *err) {
    const seq *f = find(s, from);
    seq *q;
    assert(!s->in_step && r->n_prompt <= f->n_tokens);
    assert(memcmp(r->tokens, f->tokens, (size_t)r->n_prompt * sizeof *r->tokens) == 0);
    NIB_TRY(make(s, r, &q, err));
    bool is_next = !s->waiting.first || seq_precedes(q, s->waiting.first);
    if (is_next && s->running.n < s->limits.max_seqs && hold_fork(s, q, f))
        set_running(s, q);
    else
        seq_list_insert(&s->waiting, q);
    *id = q->id;
    return NIB_OK;
}

static void end(sched *s, seq *q) {
    hold_give(s, q);
    seq_list_remove(q->running ? &s->running : &s->waiting, q);
    s->by_id[q->id] = NULL;
    s->free_ids[s->n_free_ids++] = q->id;
    seq_free(q);
}

void sched_end(sched *s, int id) {
    assert(!s->in_step);
    end(s, find(s, id));
}

void sched_clear_prefix(sched *s) {
    assert(!s->in_step);
    prefix_clear(&s->prefix);
}

void sched_set_budget(sched *s, int prefill_rows) {
    s->budget = prefill_rows;
}

static bool decodes(const seq *q) {
    return q->n_tokens - q->n_computed == 1;
}

int sched_draft(sched *s, int id, const int32_t *guesses, int n) {
    seq *q = find(s, id);
    assert(!s->in_step && n >= 0);
    if (!q->running || !decodes(q) || s->has_state)
        return 0;
    q->n_drafts = min_i32(n, q->limit - q->n_tokens - 1); /* and room for the token behind them */
    memcpy(q->tokens + q->n_tokens, guesses, (size_t)q->n_drafts * sizeof *guesses);
    return q->n_drafts;
}

void sched_rewrite(sched *s, int id, int32_t keep, const int32_t *tokens, int32_t n) {
    seq *q = find(s, id);
    assert(!s->in_step && !s->remembers && !s->has_state);
    assert(keep >= 0 && keep <= q->n_tokens && n >= 0 && keep + n > 0 && keep + n < q->limit);
    memcpy(q->tokens + keep, tokens, (size_t)n * sizeof *tokens);
    q->n_tokens = keep + n;
    q->n_computed = min_i32(q->n_computed, min_i32(keep, q->n_tokens - 1));
}

/* ---- planning ---- */

static void preempt(sched *s, seq *q) {
    assert(q->running && q->n_planned == 0);
    hold_give(s, q);
    seq_list_remove(&s->running, q);
    q->running = false;
    q->n_drafts = 0;
    seq_list_insert(&s->waiting, q);
    s->n_preemptions++;
}

/* The next N_ROWS rows of Q, with N_OUT outputs at their end; it holds the pages. */
static void plan_rows(sched *s, seq *q, int32_t n_rows, int32_t n_out) {
    batch *b = &s->batch;
    assert(n_rows > 0 && b->n_rows + n_rows <= s->limits.max_rows && b->n_seqs < s->limits.max_seqs);
    assert(b->n_out + n_out <= s->limits.max_out);
    hold_reach(s, q, q->n_computed + n_rows);
    batch_seq *r = &s->seqs[b->n_seqs];
    *r = (batch_seq){.n_pages = seq_pages_of(q->n_computed + n_rows),
                     .row = b->n_rows,
                     .n_rows = n_rows,
                     .pos = q->n_computed};
    for (int g = 0; g < s->limits.n_groups; g++)
        r->pages[g] = q->pages[g];
    s->seq_ids[b->n_seqs++] = q->id;
    memcpy(s->tokens + b->n_rows, q->tokens + q->n_computed, (size_t)n_rows * sizeof *s->tokens);
    b->n_rows += n_rows;
    q->n_planned = n_rows;
    q->n_out = n_out;
    if (n_out > 0)
        s->outs[s->step.n_outs++] = (sched_out){q->id, b->n_out, n_out};
    for (int32_t row = b->n_rows - n_out; row < b->n_rows; row++)
        s->out_rows[b->n_out++] = row;
}

/* Where the first in the line is of a higher priority than the last who runs, that one makes way. */
static void make_way(sched *s) {
    const seq *q = s->waiting.first;
    while (q && s->running.last && s->running.last->priority > q->priority &&
           (s->running.n == s->limits.max_seqs || !hold_can_start(s, q)))
        preempt(s, s->running.last);
}

/* A row for everyone who decodes, in their order, and rows for guesses where nobody has to give way for them.
 * Where there is no page the last runner gives way, and that may be the asker itself. */
static void plan_decode(sched *s) {
    int32_t n_left = 0;
    for (const seq *q = s->running.first; q; q = q->next)
        n_left += decodes(q);
    for (seq *q = s->running.first, *next; q; q = next) {
        if (decodes(q)) {
            bool preempted_itself = false;
            while (!preempted_itself && hold_room(s, q) < q->n_tokens) {
                seq *last = s->running.last;
                n_left -= last != q && decodes(last);
                preempted_itself = last == q;
                preempt(s, last);
            }
            if (preempted_itself)
                break; /* it was the last */
            n_left--;
            int32_t room =
                min_i32(hold_room(s, q) - q->n_tokens,
                        min_i32(s->limits.max_rows - s->batch.n_rows, s->limits.max_out - s->batch.n_out) -
                            n_left - 1);
            q->n_drafts = min_i32(q->n_drafts, room);
            plan_rows(s, q, 1 + q->n_drafts, 1 + q->n_drafts);
        }
        next = q->next;
    }
    s->step.n_decode_rows = s->batch.n_rows;
}

/* Rows of prefill that the step has room for. */
static int32_t prefill_room(const sched *s) {
    int32_t left = s->limits.max_rows - s->batch.n_rows;
    if (s->step.n_decode_rows > 0 && s->budget != 0)
        left = min_i32(left, (s->budget > 0 ? s->budget : 0) - (s->batch.n_rows - s->step.n_decode_rows));
    return left - s->kept;
}

/* How many of WANTED rows of prefill Q gets: what the step has room for. A sequence with STATE groups stops
 * at its last whole page, where its state can be remembered. */
static int32_t prefill_rows(const sched *s, const seq *q) {
    int32_t left = prefill_room(s);
    int32_t end = q->n_tokens, whole = (end - 1) / KV_PAGE_TOKENS * KV_PAGE_TOKENS;
    if (s->has_state && q->remembers && q->n_computed < whole)
        end = whole;
    if (s->batch.n_out == s->limits.max_out)
        end = min_i32(end, q->n_tokens - 1);
    return min_i32(left, end - q->n_computed);
}

static void plan_prefill_of(sched *s, seq *q, int32_t n_rows) {
    plan_rows(s, q, n_rows, q->n_computed + n_rows == q->n_tokens);
}

static void plan_prefill(sched *s) {
    for (seq *q = s->running.first; q; q = q->next) {
        if (q->n_planned > 0)
            continue;
        int32_t wanted = prefill_rows(s, q);
        while (wanted > 0 && hold_room(s, q) <= q->n_computed && s->running.last != q &&
               s->running.last->n_planned == 0)
            preempt(s, s->running.last);
        wanted = min_i32(wanted, hold_room(s, q) - q->n_computed);
        if (wanted > 0)
            plan_prefill_of(s, q, wanted);
    }
}

/* The first in the waiting line starts when there is room, unless it is of a lower priority than WORST. */
static void admit(sched *s, int worst) {
    while (s->waiting.first && s->running.n < s->limits.max_seqs) {
        seq *q = s->waiting.first;
        if (q->priority > worst || prefill_rows(s, q) < 1 || !hold_start(s, q))
            return;
        seq_list_remove(&s->waiting, q);
        set_running(s, q);
        plan_prefill_of(s, q, min_i32(prefill_rows(s, q), hold_room(s, q) - q->n_computed));
    }
}

/* Rows of prefill that those behind a long prompt have at least, as far as it keeps a quarter. */
enum { ROWS_BEHIND = 16 };

/* Where the first prompt would take the whole step, a quarter of its rows, or ROWS_BEHIND, goes to those of
 * its priority behind it: that is planned before the rest. */
static void plan_behind(sched *s) {
    const seq *first = s->running.first;
    while (first && first->n_planned > 0)
        first = first->next;
    if (!first || first->n_tokens - first->n_computed < prefill_room(s))
        return;
    int32_t room = prefill_room(s), few = min_i32(ROWS_BEHIND, room - room / 4);
    s->kept = room - (room / 4 > few ? room / 4 : few);
    for (seq *q = first->next; q && q->priority == first->priority; q = q->next) {
        int32_t wanted = q->n_planned > 0 ? 0 : min_i32(prefill_rows(s, q), hold_room(s, q) - q->n_computed);
        if (wanted > 0)
            plan_prefill_of(s, q, wanted);
    }
    admit(s, first->priority);
    s->kept = 0;
}

const sched_step *sched_next(sched *s) {
    assert(!s->in_step);
    s->batch.n_rows = s->batch.n_seqs = s->batch.n_out = 0;
    s->step.n_outs = 0;
    make_way(s);
    plan_decode(s);
    plan_behind(s);
    plan_prefill(s);
    admit(s, INT_MAX);
    if (s->batch.n_rows == 0) {
        assert(s->running.n == 0 && s->waiting.n == 0); /* the first can always go on */
        return NULL;
    }
    s->in_step = true;
    return &s->step;
}

/* ---- what became of it ---- */

static void close_step(sched *s) {
    assert(s->in_step);
    s->in_step = false;
    s->step.n_copies = 0;
}

void sched_commit(sched *s, const int32_t *tokens, const int *n_accepted, const bool *ended) {
    close_step(s);
    for (int i = 0, k = 0; i < s->batch.n_seqs; i++) {
        seq *q = s->by_id[s->seq_ids[i]];
        bool has_out = k < s->step.n_outs && s->outs[k].id == q->id;
        int32_t n = has_out ? n_accepted[k] : 0;
        assert(n >= 0 && n <= q->n_out && (n > 0 || !has_out || ended[k]));
        for (int32_t j = 0; j < n; j++) { /* a guess was right where it is what was sampled */
            int32_t *place = &q->tokens[q->n_tokens++];
            assert(j == n - 1 || *place == tokens[s->outs[k].out + j]);
            *place = tokens[s->outs[k].out + j];
        }
        q->n_computed += n > 0 ? q->n_planned - q->n_out + n : q->n_planned - q->n_drafts;
        hold_computed(s, q);
        q->n_planned = q->n_out = q->n_drafts = 0;
        bool ends = has_out && ended[k];
        assert(ends || q->n_tokens < q->limit);
        k += has_out;
        if (ends)
            end(s, q);
    }
}

int sched_drop(sched *s, const int **ids) {
    close_step(s);
    for (int i = 0; i < s->batch.n_seqs; i++)
        end(s, s->by_id[s->seq_ids[i]]);
    *ids = s->seq_ids;
    return s->batch.n_seqs;
}

/* ---- views ---- */

int sched_id_bound(const sched *s) {
    return s->n_ids;
}

sched_view sched_see(const sched *s, int id) {
    const seq *q = find(s, id);
    return (sched_view){.tokens = q->tokens,
                        .n_tokens = q->n_tokens,
                        .limit = q->limit,
                        .n_computed = q->n_computed,
                        .n_cached = q->n_cached,
                        .running = q->running};
}

void sched_count(const sched *s, sched_counts *out) {
    *out = (sched_counts){.waiting = s->waiting.n,
                          .running = s->running.n,
                          .preemptions = s->n_preemptions,
                          .prefix_queries = s->prefix_queries,
                          .prefix_hits = s->prefix_hits};
    for (int g = 0; g < s->limits.n_groups; g++) {
        out->n_pages[g] = s->pools[g].n_pages;
        out->free_pages[g] = pages_available(&s->pools[g]);
        out->remembered_pages[g] = s->pools[g].n_kept;
    }
}
