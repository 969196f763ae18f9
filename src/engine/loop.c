/* SPDX-License-Identifier: Apache-2.0
 *
 * The step loop: take what was submitted, see what was cancelled, ask the scheduler for a step, begin it,
 * tell what the step before gave, wait, commit. A failed step ends its own requests with words; the loop goes
 * on.
 */
#include <assert.h>
#include <sched.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/engine.h"

/* ---- what is to be told ---- */

#define NOBODY_RAN 2e-6 /* seconds: a yield that comes back so soon */

static void add_news(nib_engine *e, nib_request *r) {
    if (r->has_news)
        return;
    r->has_news = true;
    r->next_news = e->news;
    e->news = r;
}

/* Those who were told of N events take a core now rather than in the middle of the step, where all threads
 * would wait for the one that they took it from. On an idle core this is over at once. */
static void let_readers_run(int n) {
    for (double from = clock_seconds(), now; n > 1; from = now, n--) {
        sched_yield();
        now = clock_seconds();
        if (now - from < NOBODY_RAN)
            return;
    }
}

static void tell_news(nib_engine *e) {
    int n = 0;
    for (; e->news; n++) {
        nib_request *r = e->news;
        e->news = r->next_news;
        r->has_news = false;
        event_publish(r); /* R may be gone now */
    }
    let_readers_run(n);
}

/* R is over; END without an error's words is complete as it is. */
static void finish(nib_engine *e, nib_request *r, request_end end, const char *error) {
    if (r->draft)
        draft_forget(e->draft, &r->draft);
    if (r->n_generated > 0) {
        e->hope = speculate_learn(e->hope, &r->luck);
        e->mean_answer += (r->n_generated - e->mean_answer) / 8;
    }
    if (r->seq >= 0) {
        e->by_seq[r->seq] = NULL;
        e->n_active--;
        r->seq = -1;
    }
    if (error)
        nib_fail(&end.error, end.status, "%s", error);
    r->over = end;
    r->is_over = true;
    e->counted.ended[end.reason]++;
    add_news(e, r);
}

static request_end end_of(nib_end_reason reason) {
    return (request_end){.reason = reason, .token = -1, .text = -1};
}

static void fail(nib_engine *e, nib_request *r, nib_status status, const char *error) {
    request_end end = end_of(NIB_END_FAILED);
    end.status = status;
    finish(e, r, end, error);
}

/* ---- requests enter ---- */

static bool grow_by_seq(nib_engine *e, int n) {
    if (n <= e->n_by_seq)
        return true;
    nib_request **grown = mem_resize(e->by_seq, (size_t)n, sizeof *grown);
    if (!grown)
        return false;
    memset(grown + e->n_by_seq, 0, (size_t)(n - e->n_by_seq) * sizeof *grown);
    e->by_seq = grown;
    e->n_by_seq = n;
    return true;
}

/* FROM: the sequence whose pages it shares, or -1. */
static void start(nib_engine *e, nib_request *r, int from) {
    nib_error err = {""};
    sched_request s = {.tokens = r->tokens,
                       .n_prompt = r->n_prompt,
                       .limit = r->n_prompt + r->max_tokens,
                       .priority = r->priority,
                       .salt = r->salt,
                       .no_prefix_cache = r->no_prefix_cache};
    int seq;
    if (atomic_load(&r->cancelled)) { /* before any_cancelled was looked at, maybe */
        finish(e, r, end_of(NIB_END_CANCELLED), NULL);
        return;
    }
    nib_status status = r->pooling.how != NIB_POOLING_NONE ? model_open_hidden(e->l->model, &err) : NIB_OK;
    if (status == NIB_OK)
        status = from < 0 ? sched_add(e->sched, &s, &seq, &err) : sched_fork(e->sched, from, &s, &seq, &err);
    if (status == NIB_OK && !grow_by_seq(e, sched_id_bound(e->sched))) {
        sched_end(e->sched, seq);
        status = nib_fail(&err, NIB_NO_MEMORY, "no memory for one more request");
    }
    if (status != NIB_OK) {
        fail(e, r, status, err.text);
        return;
    }
    r->seq = seq;
    r->luck.right = e->hope;
    e->by_seq[seq] = r;
    e->n_active++;
}

/* A request of another's prompt starts when that is computed, or will not be. */
static void start_twins(nib_engine *e) {
    for (nib_request **at = &e->twins; *at;) {
        nib_request *r = *at;
        const nib_request *twin = r->twin;
        if (twin->n_generated == 0 && !twin->is_over && !atomic_load(&r->cancelled)) {
            at = &r->next;
            continue;
        }
        *at = r->next;
        e->n_twins--;
        if (atomic_load(&r->cancelled))
            finish(e, r, end_of(NIB_END_CANCELLED), NULL);
        else
            start(e, r, twin->seq);
        request_leave(r->twin);
        r->twin = NULL;
    }
}

static void accept(nib_engine *e, nib_request *list) {
    while (list) {
        nib_request *r = list;
        list = r->next;
        if (!r->twin) {
            start(e, r, -1);
            continue;
        }
        nib_request **end = &e->twins;
        while (*end)
            end = &(*end)->next;
        *end = r; /* in the order of arrival */
        r->next = NULL;
        e->n_twins++;
    }
}

void loop_publish_stats(nib_engine *e) {
    sched_counts c = {0};
    if (e->sched)
        sched_count(e->sched, &c);
    nib_stats *s = &e->counted;
    s->waiting = c.waiting + e->n_twins;
    s->waiting_for_twin = e->n_twins;
    s->rest = e->rest;
    s->running = c.running;
    s->preemptions = c.preemptions;
    s->prefix_queries = c.prefix_queries;
    s->prefix_hits = c.prefix_hits;
    s->kv_pages = c.n_pages[0];
    s->kv_pages_free = c.free_pages[0];
    s->kv_pages_remembered = c.remembered_pages[0];
    s->submitted = e->stats.submitted;
    s->refused = e->stats.refused;
    e->stats = *s;
}

/* Waits, where there is nothing to do, until there is. False when the engine closes. */
static bool take_submitted(nib_engine *e) {
    pthread_mutex_lock(&e->lock);
    loop_publish_stats(e);
    e->n_waiting = e->stats.waiting;
    for (nib_request *r = e->submitted; r; r = r->next)
        e->n_waiting++;
    rest_wait(e);
    nib_request *list = rest_take_submitted(e);
    bool closing = e->closing, forget = e->forget_prefixes;
    e->forget_prefixes = false;
    pthread_mutex_unlock(&e->lock);
    if (forget && e->sched)
        sched_clear_prefix(e->sched);
    accept(e, list);
    return !closing;
}

static void see_cancelled(nib_engine *e, bool all) {
    if (!atomic_exchange(&e->any_cancelled, false) && !all)
        return;
    for (int i = 0; i < e->n_by_seq && e->n_active > 0; i++) {
        nib_request *r = e->by_seq[i];
        if (!r || !(all || atomic_load(&r->cancelled)))
            continue;
        sched_end(e->sched, i);
        finish(e, r, end_of(NIB_END_CANCELLED), NULL);
    }
}

/* ---- a step begins ---- */

/* What is wanted of the token behind AHEAD guesses of R. Where its guide fails, the request is over after the
 * step. */
static void fill_row(nib_engine *e, nib_request *r, int ahead, sample_row *row) {
    request_row(r, ahead, row);
    if (ahead < request_free_tokens(r))
        return;
    size_t n_words = ((size_t)e->l->file->hp.vocab + 31) / 32;
    memset(r->mask, 0, n_words * sizeof *r->mask);
    r->guide_status = r->guide.mask(r->guide.context, r->mask, n_words, &r->guide_error);
    row->mask = r->guide_status == NIB_OK ? r->mask : NULL;
}

/* Whether anyone in the step wants its hidden states. */
static bool pools(const nib_engine *e, const sched_step *step) {
    for (int i = 0; i < step->batch->n_seqs; i++)
        if (e->by_seq[step->ids[i]]->pooling.how != NIB_POOLING_NONE)
            return true;
    return false;
}

static const sched_step *begin_step(nib_engine *e) {
    sched_set_budget(e->sched, e->options.prefill_beside
                                   ? e->options.prefill_beside
                                   : pace_budget(&e->pace, e->n_active, e->l->limits.max_rows));
    guesses_plan(e);
    const sched_step *step = sched_next(e->sched);
    if (!step)
        return NULL;
    e->step_began = clock_seconds();
    for (int i = 0; i < step->batch->n_seqs; i++) {
        nib_request *r = e->by_seq[step->ids[i]];
        if (r->begun == 0)
            r->begun = e->step_began;
    }
    for (int k = 0; k < step->n_outs; k++)
        for (int j = 0; j < step->outs[k].n_out; j++)
            fill_row(e, e->by_seq[step->outs[k].id], j, &e->rows[step->outs[k].out + j]);
    for (int i = 0; i < step->n_copies; i++)
        model_copy_page(e->l->model, step->copies[i].group, step->copies[i].to, step->copies[i].from);
    if (pools(e, step))
        model_want_hidden(e->l->model);
    model_begin(e->l->model, step->batch, e->rows, e->sampled);
    return step;
}

/* ---- and ends ---- */

static bool ends_answer(const nib_engine *e, const nib_request *r, int32_t token) {
    for (size_t i = 0; !r->ignore_eos && i < e->n_ends; i++)
        if (e->ends[i] == token)
            return true;
    return request_stops_at(r, token);
}

static void keep_logprobs(nib_request *r, const sampled *s) {
    size_t n_top = (size_t)r->how.n_top;
    token_logprob *p = r->logprobs + (size_t)r->n_generated * (1 + n_top);
    p[0] = (token_logprob){s->token, s->logprob};
    for (size_t i = 0; i < n_top; i++)
        p[1 + i] = i < (size_t)s->n_top ? s->top[i] : (token_logprob){.token = -1};
}

/* What S means for R, whose sequence it belongs to. True: R is over. */
static bool take_token(nib_engine *e, nib_request *r, const sampled *s) {
    if (r->guide_status != NIB_OK) {
        fail(e, r, r->guide_status, r->guide_error.text);
        return true;
    }
    if (s->token < 0) {
        e->counted.corrupted += !r->guide.mask && r->n_bias == 0 && r->n_banned == 0;
        fail(e, r, NIB_BAD_FILE,
             r->guide.mask || r->n_bias > 0 || r->n_banned > 0
                 ? "no token is left that may come, or the network's output is not a number"
                 : "the network's output is not a number: a damaged model, or an overflow");
        return true;
    }
    request_end end = end_of(NIB_END_STOP);
    if (ends_answer(e, r, s->token)) {
        end.token = s->token;
        finish(e, r, end, NULL);
        return true;
    }
    if (r->guide.accept) {
        nib_error err = {"the guide failed"};
        nib_status status = r->guide.accept(r->guide.context, s->token, &err);
        if (status != NIB_OK) {
            fail(e, r, status, err.text);
            return true;
        }
    }
    if (r->logprobs)
        keep_logprobs(r, s);
    speculate_saw(&r->luck, s->token);
    r->got_last = e->step_ended;
    if (r->n_generated++ == 0)
        r->got_first = e->step_ended;
    e->counted.generated_tokens++;
    add_news(e, r);
    end.text = r->stops.n > 0 ? flow_push(&r->watched, e->l->words, s->token) : -1;
    if (end.text < 0 && r->n_generated < r->max_tokens)
        return false;
    finish(e, r, end.text >= 0 ? end : end_of(NIB_END_LENGTH), NULL);
    return true;
}

/* What the step says of one sequence: its next token, and one more for each guess that was it. Returns how
 * many were taken; *ended: R is over. */
static int take_tokens(nib_engine *e, nib_request *r, const sched_out *o, bool *ended) {
    const int32_t *guesses = r->tokens + r->n_prompt + r->n_generated;
    int n = 0;
    e->counted.guessed_tokens += (uint64_t)(o->n_out - 1);
    e->counted.drafts += o->n_out > 1;
    r->n_guessed += o->n_out - 1;
    for (;;) {
        const sampled *s = &e->sampled[o->out + n];
        const bool right = n < o->n_out - 1 && guesses[n] == s->token;
        e->tokens[o->out + n] = s->token;
        *ended = take_token(e, r, s);
        n++;
        if (*ended || !right)
            return n;
        e->counted.right_guesses++;
        e->counted.right_by_position[n - 1 < NIB_STATS_POSITIONS ? n - 1 : NIB_STATS_POSITIONS - 1]++;
        r->n_right++;
        r->luck.guess = n < o->n_out - 1 ? guesses[n] : -1;
    }
}

/* The step's rows of every prompt that is pooled. */
static void pool_rows(nib_engine *e, const sched_step *step) {
    const float *hidden = pools(e, step) ? model_hidden(e->l->model) : NULL;
    for (int i = 0; hidden && i < step->batch->n_seqs; i++) {
        const batch_seq *q = &step->batch->seqs[i];
        nib_request *r = e->by_seq[step->ids[i]];
        if (r->pooling.how != NIB_POOLING_NONE)
            pooling_add(&r->pooling, hidden + (size_t)q->row * r->pooling.dim, q->pos, q->n_rows);
    }
}

/* The whole prompt of R has been seen: it has what it asked for. */
static void end_pooled(nib_engine *e, nib_request *r) {
    r->got_first = r->got_last = e->step_ended;
    if (pooling_end(&r->pooling))
        finish(e, r, end_of(NIB_END_STOP), NULL);
    else
        fail(e, r, NIB_BAD_FILE, "the network's output is not a number: a damaged model, or an overflow");
}

/* What the step's guesses brought and took. */
static void count_guesses(nib_engine *e, const sched_step *step) {
    int n_guesses = 0, n_right = 0;
    for (int k = 0; k < step->n_outs; k++) {
        n_guesses += step->outs[k].n_out > 1 ? step->outs[k].n_out - 1 : 0;
        n_right += e->n_accepted[k] > 1 ? e->n_accepted[k] - 1 : 0;
    }
    const int rows = step->n_decode_rows - n_guesses;
    const speculate_bill bill =
        step->batch->n_rows == step->n_decode_rows
            ? speculate_timed(&e->costs, rows, n_guesses, n_right, e->step_ended - e->step_began,
                              e->guess_seconds)
            : speculate_mixed(&e->costs, rows, n_guesses, n_right, e->pace.row_s, e->guess_seconds);
    for (int k = 0; k < step->n_outs; k++)
        if (!e->ended[k])
            speculate_charge(&e->by_seq[step->outs[k].id]->luck, bill, e->n_accepted[k] - 1);
}

static void count_step(nib_engine *e, const sched_step *step) {
    double seconds = e->step_ended - e->step_began;
    int n_prefill = step->batch->n_rows - step->n_decode_rows;
    pace_saw(&e->pace, step->n_decode_rows, n_prefill, seconds);
    int i = 0;
    while (i < NIB_STATS_ROWS - 1 && step->batch->n_rows > 1 << i)
        i++;
    e->counted.steps_by_rows[i]++;
    e->counted.steps++;
    e->counted.step_rows += (uint64_t)step->batch->n_rows;
    e->counted.step_seconds += seconds;
}

static void end_step(nib_engine *e, const sched_step *step) {
    nib_error err = {""};
    nib_status status = model_wait(e->l->model, NULL, &err);
    e->step_ended = clock_seconds();
    count_step(e, step);
    if (status != NIB_OK) {
        const int *seqs;
        int n = sched_drop(e->sched, &seqs);
        for (int i = 0; i < n; i++)
            fail(e, e->by_seq[seqs[i]], status, err.text);
        return;
    }
    pool_rows(e, step);
    for (int k = 0; k < step->n_outs; k++) {
        nib_request *r = e->by_seq[step->outs[k].id];
        if (r->n_generated == 0) {
            r->found = sched_see(e->sched, r->seq).n_cached;
            e->counted.prompt_tokens += (uint64_t)r->n_prompt;
            e->counted.cached_prompt_tokens += (uint64_t)r->found;
        }
        e->ended[k] = r->pooling.how != NIB_POOLING_NONE;
        e->n_accepted[k] = 0;
        if (e->ended[k])
            end_pooled(e, r);
        else
            e->n_accepted[k] = take_tokens(e, r, &step->outs[k], &e->ended[k]);
    }
    count_guesses(e, step);
    sched_commit(e->sched, e->tokens, e->n_accepted, e->ended);
}

/* ---- life ---- */

nib_status loop_open(nib_engine *e, nib_error *err) {
    const model_limits *limits = &e->l->limits;
    size_t n = (size_t)limits->max_out;
    sched_limits l = {.max_seqs = e->l->options.max_num_seqs,
                      .max_rows = limits->max_rows,
                      .max_out = limits->max_out,
                      .max_len = e->l->options.max_model_len,
                      .no_prefix_cache = e->l->options.no_prefix_cache};
    cache_shape shapes[CACHE_MAX_GROUPS];
    l.n_groups = model_groups(&e->l->file->hp, limits->kv_dtype, shapes);
    for (int g = 0; g < l.n_groups; g++) {
        l.groups[g] = shapes[g].group;
        l.groups[g].n_pages = limits->n_pages[g];
    }
    NIB_TRY(sched_open(&e->sched, &l, err));
    e->rows = mem_array(n, sizeof *e->rows);
    e->sampled = mem_array(n, sizeof *e->sampled);
    e->tokens = mem_array(n, sizeof *e->tokens);
    e->n_accepted = mem_array(n, sizeof *e->n_accepted);
    e->ended = mem_array(n, sizeof *e->ended);
    if (!e->rows || !e->sampled || !e->tokens || !e->n_accepted || !e->ended)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for an engine", e->path);
    e->hope = SPECULATE_HOPE;
    return e->options.draft ? draft_open(&e->draft, e->options.draft, e->l, err) : NIB_OK;
}

void loop_run(nib_engine *e) {
    while (take_submitted(e)) {
        see_cancelled(e, false);
        start_twins(e);
        rest_follow(e);
        const sched_step *step = e->n_active > 0 && e->rest == NIB_REST_NONE ? begin_step(e) : NULL;
        tell_news(e);
        if (step)
            end_step(e, step);
    }
    see_cancelled(e, true);
    for (nib_request *r; (r = e->twins);) {
        e->twins = r->next;
        request_leave(r->twin);
        finish(e, r, end_of(NIB_END_CANCELLED), NULL);
    }
    tell_news(e);
}

void loop_close(nib_engine *e) {
    mem_free(e->by_seq);
    mem_free(e->rows);
    mem_free(e->sampled);
    mem_free(e->tokens);
    mem_free(e->n_accepted);
    mem_free(e->ended);
    draft_close(e->draft);
    sched_close(e->sched);
    e->by_seq = NULL;
    e->n_by_seq = 0;
    e->rows = NULL;
    e->sampled = NULL;
    e->tokens = NULL;
    e->n_accepted = NULL;
    e->ended = NULL;
    e->draft = NULL;
    e->sched = NULL;
}
