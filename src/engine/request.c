/* SPDX-License-Identifier: Apache-2.0
 *
 * A request is checked and made, all on the caller's thread: whatever it will need is allocated here.
 */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/engine.h"
#include "engine/sized.h"

/* ---- life ---- */

static void request_free(nib_request *r) {
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->changed);
    flow_close(&r->told);
    flow_close(&r->watched);
    stops_close(&r->stops);
    mem_free(r->bias);
    mem_free(r->stop_ids);
    mem_free(r->tokens);
    mem_free(r->logprobs);
    mem_free(r->mask);
    pooling_close(&r->pooling);
    mem_free(r);
}

void request_leave(nib_request *r) {
    pthread_mutex_lock(&r->lock);
    bool last = --r->n_owners == 0;
    pthread_mutex_unlock(&r->lock);
    if (last)
        request_free(r);
}

/* ---- checks ---- */

static bool is_in(double x, double least, double most) {
    return x >= least && x <= most; /* no NaN */
}

static nib_status check_sampling(const nib_sampling *s, nib_error *err) {
    if (!(s->temperature >= 0 && isfinite(s->temperature)))
        return nib_fail(err, NIB_BAD_ARGUMENT, "temperature is %g; it must be 0 (greedy) or more",
                        (double)s->temperature);
    if (s->top_k < 0)
        return nib_fail(err, NIB_BAD_ARGUMENT, "top_k is %d; it must be 0 (off) or more", s->top_k);
    if (!is_in((double)s->top_p, 0, 1) || !is_in((double)s->min_p, 0, 1))
        return nib_fail(err, NIB_BAD_ARGUMENT, "top_p is %g and min_p %g; both must lie between 0 and 1",
                        (double)s->top_p, (double)s->min_p);
    if (s->repeat_penalty != 0 && !(s->repeat_penalty >= 0.01f && s->repeat_penalty <= 100))
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "repeat_penalty is %g; it must be 0 (off) or lie between 0.01 and 100",
                        (double)s->repeat_penalty);
    if (!is_in((double)s->presence_penalty, -100, 100) || !is_in((double)s->frequency_penalty, -100, 100))
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "presence_penalty is %g and frequency_penalty %g; both must lie between -100 and 100",
                        (double)s->presence_penalty, (double)s->frequency_penalty);
    return NIB_OK;
}

static nib_status check_ids(const int32_t *ids, size_t n, int vocab, const char *what, nib_error *err) {
    if (n > 0 && !ids)
        return nib_fail(err, NIB_BAD_ARGUMENT, "%s is NULL; expected %zu tokens", what, n);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return nib_fail(err, NIB_BAD_ARGUMENT, "token %zu of the %s is %d; the vocabulary has %d", i,
                            what, ids[i], vocab);
    return NIB_OK;
}

static nib_status check_bias(const nib_token_bias *bias, size_t n, int vocab, nib_error *err) {
    if (n > (size_t)vocab || (n > 0 && !bias))
        return nib_fail(err, NIB_BAD_ARGUMENT, "a bias for %zu tokens%s; the vocabulary has %d", n,
                        bias ? "" : " at NULL", vocab);
    for (size_t i = 0; i < n; i++) {
        NIB_TRY(check_ids(&bias[i].token, 1, vocab, "bias", err));
        if (isnan(bias[i].bias) || bias[i].bias == INFINITY)
            return nib_fail(err, NIB_BAD_ARGUMENT,
                            "the bias of token %d is %g; expected a number, or minus infinity", bias[i].token,
                            (double)bias[i].bias);
    }
    return NIB_OK;
}

static nib_status check_lengths(const nib_engine *e, const nib_request_options *o, nib_error *err) {
    int max_len = e->l->options.max_model_len;
    if (!o->prompt || o->n_prompt < 1)
        return nib_fail(err, NIB_BAD_ARGUMENT, "an empty prompt; it needs at least one token");
    if (o->n_prompt >= (size_t)max_len)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "a prompt of %zu tokens; with max_model_len %d it can have at most %d", o->n_prompt,
                        max_len, max_len - 1);
    if (o->max_tokens < 0)
        return nib_fail(err, NIB_BAD_ARGUMENT, "max_tokens is %d; it must be 0 (no limit) or more",
                        o->max_tokens);
    if (o->min_tokens < 0 || (o->max_tokens > 0 && o->min_tokens > o->max_tokens))
        return nib_fail(err, NIB_BAD_ARGUMENT, "min_tokens is %d; it must lie between 0 and max_tokens, %d",
                        o->min_tokens, o->max_tokens);
    if (o->top_logprobs < 0 || o->top_logprobs > NIB_MAX_LOGPROBS || (o->top_logprobs > 0 && !o->logprobs))
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "top_logprobs is %d; it must lie between 0 and %d, and needs logprobs to be set",
                        o->top_logprobs, NIB_MAX_LOGPROBS);
    return NIB_OK;
}

static nib_status check_twin(const nib_engine *e, const nib_request_options *o, nib_error *err) {
    const nib_request *t = o->same_prompt;
    if (t && (t->engine != e || (size_t)t->n_prompt != o->n_prompt ||
              memcmp(t->tokens, o->prompt, o->n_prompt * sizeof *o->prompt) != 0))
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "same_prompt is a request of another prompt or another engine");
    return NIB_OK;
}

/* Of what would be generated nothing can be asked where nothing is. */
static nib_status check_pooling(const nib_request_options *o, nib_error *err) {
    const struct {
        const char *name;
        bool given;
    } fields[] = {{"max_tokens", o->max_tokens != 0},
                  {"min_tokens", o->min_tokens != 0},
                  {"ignore_eos", o->ignore_eos},
                  {"sampling", o->sampling != NULL},
                  {"stop_ids", o->n_stop_ids > 0},
                  {"stop_texts", o->n_stop_texts > 0},
                  {"bias", o->n_bias > 0},
                  {"logprobs", o->logprobs},
                  {"guide", o->guide != NULL},
                  {"same_prompt", o->same_prompt != NULL},
                  {"control_text", o->control_text}};
    if ((unsigned)o->pooling > NIB_POOLING_MEAN)
        return nib_fail(err, NIB_BAD_ARGUMENT, "pooling is %d; expected one of nib_pooling", (int)o->pooling);
    for (size_t i = 0; o->pooling != NIB_POOLING_NONE && i < sizeof fields / sizeof *fields; i++)
        if (fields[i].given)
            return nib_fail(err, NIB_BAD_ARGUMENT,
                            "%s is given beside pooling, which generates nothing; expected zero",
                            fields[i].name);
    return NIB_OK;
}

static nib_status check_request(const nib_engine *e, const nib_request_options *o, nib_error *err) {
    int vocab = e->l->file->hp.vocab;
    NIB_TRY(check_lengths(e, o, err));
    NIB_TRY(check_ids(o->prompt, o->n_prompt, vocab, "prompt", err));
    if (o->n_stop_ids > (size_t)vocab)
        return nib_fail(err, NIB_BAD_ARGUMENT, "%zu stop_ids; the vocabulary has %d tokens", o->n_stop_ids,
                        vocab);
    NIB_TRY(check_ids(o->stop_ids, o->n_stop_ids, vocab, "stop_ids", err));
    NIB_TRY(check_bias(o->bias, o->n_bias, vocab, err));
    NIB_TRY(check_pooling(o, err));
    return check_twin(e, o, err);
}

/* ---- making ---- */

/* Of token ids, and of what begins with one. */
static int by_token(const void *a, const void *b) {
    const int32_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static bool is_in_sorted(int32_t token, const void *list, size_t n, size_t size) {
    return n > 0 && bsearch(&token, list, n, size, by_token) != NULL;
}

bool request_stops_at(const nib_request *r, int32_t token) {
    return is_in_sorted(token, r->stop_ids, r->n_stop_ids, sizeof *r->stop_ids);
}

/* Sorted, each once. */
static nib_status make_stop_ids(nib_request *r, const nib_request_options *o, nib_error *err) {
    r->stop_ids = mem_array(o->n_stop_ids + 1, sizeof *r->stop_ids);
    if (!r->stop_ids)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for %zu stop ids", o->n_stop_ids);
    if (o->n_stop_ids > 0)
        memcpy(r->stop_ids, o->stop_ids, o->n_stop_ids * sizeof *r->stop_ids);
    qsort(r->stop_ids, o->n_stop_ids, sizeof *r->stop_ids, by_token);
    for (size_t i = 0; i < o->n_stop_ids; i++)
        if (i == 0 || r->stop_ids[i] != r->stop_ids[i - 1])
            r->stop_ids[r->n_stop_ids++] = r->stop_ids[i];
    return NIB_OK;
}

/* Before min_tokens the ends are banned, which takes the place of a bias for them. */
static void make_banned(nib_request *r) {
    const nib_engine *e = r->engine;
    if (r->min_tokens == 0)
        return;
    for (size_t i = 0; i < r->n_stop_ids; i++)
        r->bias[r->n_banned++] = (token_bias){r->stop_ids[i], -INFINITY};
    for (size_t i = 0; i < e->n_ends && !r->ignore_eos; i++)
        if (!request_stops_at(r, e->ends[i]))
            r->bias[r->n_banned++] = (token_bias){e->ends[i], -INFINITY};
    qsort(r->bias, (size_t)r->n_banned, sizeof *r->bias, by_token);
}

static nib_status make_bias(nib_request *r, const nib_request_options *o, nib_error *err) {
    r->bias = mem_array(r->engine->n_ends + r->n_stop_ids + o->n_bias + 1, sizeof *r->bias);
    token_bias *given = mem_array(o->n_bias + 1, sizeof *given);
    nib_status status = NIB_OK;
    if (!r->bias || !given)
        status = nib_fail(err, NIB_NO_MEMORY, "no memory for a bias of %zu tokens", o->n_bias);
    for (size_t i = 0; i < o->n_bias && status == NIB_OK; i++)
        given[i] = (token_bias){o->bias[i].token, o->bias[i].bias};
    if (status == NIB_OK) {
        qsort(given, o->n_bias, sizeof *given, by_token);
        make_banned(r);
    }
    for (size_t i = 1; i < o->n_bias && status == NIB_OK; i++)
        if (given[i].token == given[i - 1].token)
            status = nib_fail(err, NIB_BAD_ARGUMENT, "token %d has two biases; expected one", given[i].token);
    for (int of_banned = 0; of_banned < 2 && status == NIB_OK; of_banned++)
        for (size_t i = 0; i < o->n_bias; i++)
            if (is_in_sorted(given[i].token, r->bias, (size_t)r->n_banned, sizeof *r->bias) == of_banned) {
                r->bias[r->n_banned + r->n_bias++] = given[i];
                r->n_bias_of_banned += of_banned;
            }
    mem_free(given);
    return status;
}

static nib_status make_sampling(nib_request *r, const nib_request_options *o, nib_error *err) {
    nib_sampling s;
    NIB_TRY(sized_read(&s, sizeof s, o->sampling, "nib_sampling", err));
    NIB_TRY(check_sampling(&s, err));
    if (s.random_seed && getrandom(&s.seed, sizeof s.seed, 0) != sizeof s.seed)
        return nib_fail(err, NIB_IO, "the system gives no random seed");
    r->how = (sample_row){.temperature = s.temperature,
                          .top_k = s.top_k,
                          .top_p = s.top_p,
                          .min_p = s.min_p,
                          .repeat_penalty = s.repeat_penalty,
                          .presence_penalty = s.presence_penalty,
                          .frequency_penalty = s.frequency_penalty,
                          .penalty_window = ENGINE_PENALTY_WINDOW,
                          .tokens = r->tokens,
                          .n_prompt = r->n_prompt,
                          .seed = s.seed,
                          .n_top = o->logprobs ? o->top_logprobs : -1};
    return make_bias(r, o, err);
}

static nib_status make_guide(nib_request *r, const nib_guide *guide, nib_error *err) {
    if (!guide)
        return NIB_OK;
    NIB_TRY(sized_read(&r->guide, sizeof r->guide, guide, "nib_guide", err));
    if (!r->guide.mask || !r->guide.accept)
        return nib_fail(err, NIB_BAD_ARGUMENT, "nib_guide: mask or accept is NULL; expected functions");
    r->mask = mem_array(((size_t)r->engine->l->file->hp.vocab + 31) / 32, sizeof *r->mask);
    return r->mask ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "no memory for a guide's mask");
}

static nib_status make_parts(nib_request *r, const nib_request_options *o, nib_error *err) {
    size_t n_max = o->n_prompt + (size_t)r->max_tokens;
    NIB_TRY(stops_open(&r->stops, o->stop_texts, o->n_stop_texts, err));
    NIB_TRY(flow_open(&r->told, &r->stops, r->engine->longest_piece, err));
    if (r->stops.n > 0)
        NIB_TRY(flow_open(&r->watched, &r->stops, r->engine->longest_piece, err));
    r->told.control = r->watched.control = o->control_text;
    r->tokens = mem_array(n_max, sizeof *r->tokens);
    if (o->logprobs)
        r->logprobs = mem_array((size_t)r->max_tokens, (1 + (size_t)o->top_logprobs) * sizeof *r->logprobs);
    if (!r->tokens || (o->logprobs && !r->logprobs))
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a request of %zu tokens", o->n_prompt);
    memcpy(r->tokens, o->prompt, o->n_prompt * sizeof *r->tokens);
    NIB_TRY(make_stop_ids(r, o, err));
    NIB_TRY(make_guide(r, o->guide, err));
    NIB_TRY(pooling_open(&r->pooling, o->pooling, (size_t)r->engine->l->file->hp.dim, err));
    return make_sampling(r, o, err);
}

nib_status request_make(nib_request **out, nib_engine *e, const nib_request_options *o, nib_error *err) {
    NIB_TRY(check_request(e, o, err));
    nib_request *r = mem_array(1, sizeof *r);
    if (!r)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a request of %zu tokens", o->n_prompt);
    int room = e->l->options.max_model_len - (int)o->n_prompt;
    r->engine = e;
    r->ignore_eos = o->ignore_eos;
    r->no_prefix_cache = o->no_prefix_cache || o->pooling == NIB_POOLING_MEAN; /* it needs every row */
    r->n_prompt = (int)o->n_prompt;
    r->max_tokens = o->max_tokens > 0 && o->max_tokens < room ? o->max_tokens : room;
    if (o->pooling != NIB_POOLING_NONE)
        r->max_tokens = 1; /* the place that the scheduler wants behind a prompt */
    r->min_tokens = o->min_tokens;
    r->priority = o->priority;
    r->salt = o->cache_salt;
    r->on_event = o->on_event;
    r->event_context = o->event_context;
    r->seq = -1;
    r->luck.guess = -1;
    r->n_owners = 2;
    pthread_mutex_init(&r->lock, NULL);
    pthread_condattr_t attributes; /* nib_next_event's timeouts must not jump with the wall clock */
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&r->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    nib_status status = make_parts(r, o, err);
    if (status != NIB_OK) {
        request_free(r);
        return status;
    }
    *out = r;
    return NIB_OK;
}

/* ---- the engine's side ---- */

void request_row(const nib_request *r, int ahead, sample_row *row) {
    const int n_generated = r->n_generated + ahead;
    const bool may_end = n_generated >= r->min_tokens;
    *row = r->how;
    row->n_tokens = r->n_prompt + n_generated;
    row->position = (uint64_t)n_generated;
    row->bias = may_end ? r->bias + r->n_banned : r->bias;
    row->n_bias = may_end ? r->n_bias : r->n_banned + r->n_bias - r->n_bias_of_banned;
}

int request_free_tokens(const nib_request *r) {
    const nib_guide *g = &r->guide;
    return !g->mask ? INT_MAX : g->n_free ? g->n_free(g->context) : 0;
}

/* ---- the caller's side ---- */

/* Places in which what is submitted now will run, so that it does not wait for its turn, as of the last step.
 */
static int free_places(const nib_engine *e) {
    const bool at_once = e->rest == NIB_REST_NONE && e->stats.waiting == 0;
    return at_once ? e->l->options.max_num_seqs - e->stats.running : 0;
}

static nib_status enqueue(nib_engine *e, nib_request *r, nib_error *err) {
    nib_status status = NIB_OK;
    pthread_mutex_lock(&e->lock);
    if (e->n_waiting >= e->l->options.max_waiting + free_places(e)) {
        e->stats.refused++;
        status =
            nib_fail(err, NIB_BUSY, "%d requests wait already, as many as max_waiting lets; try again later",
                     e->l->options.max_waiting);
    } else {
        *e->submitted_end = r;
        e->submitted_end = &r->next;
        e->n_waiting++;
        e->stats.submitted++;
        pthread_cond_signal(&e->wake);
    }
    pthread_mutex_unlock(&e->lock);
    return status;
}

nib_status nib_submit(nib_engine *e, const nib_request_options *options, nib_request **out, nib_error *err) {
    nib_request_options o;
    nib_request *r;
    if (out)
        *out = NULL;
    if (!e || !options || !out)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "nib_submit: the engine, the options or the place for the request is "
                        "NULL");
    NIB_TRY(sized_read(&o, sizeof o, options, "nib_request_options", err));
    NIB_TRY(request_make(&r, e, &o, err));
    r->submitted = clock_seconds();
    if (o.same_prompt) {
        pthread_mutex_lock(&o.same_prompt->lock);
        o.same_prompt->n_owners++;
        pthread_mutex_unlock(&o.same_prompt->lock);
        r->twin = o.same_prompt;
    }
    *out = r; /* a callback may come before nib_submit returns */
    nib_status status = enqueue(e, r, err);
    if (status != NIB_OK) {
        *out = NULL;
        if (r->twin)
            request_leave(r->twin);
        request_free(r);
    }
    return status;
}

void nib_cancel(nib_request *r) {
    if (!r)
        return;
    atomic_store(&r->cancelled, true);
    atomic_store(&r->engine->any_cancelled, true);
}

void nib_release(nib_request *r) {
    if (!r)
        return;
    nib_cancel(r);
    request_leave(r);
}
