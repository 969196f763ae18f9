/* SPDX-License-Identifier: Apache-2.0
 *
 * The step loop: take what was submitted, see what was cancelled, ask the scheduler for a batch, compute it,
 * sample, commit. A failed step ends its own requests with words; the loop goes on.
 */
#include "engine/engine.h"

#include <assert.h>
#include <signal.h>
#include <string.h>

#include "base/mem.h"
#include "nouns/family.h"

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

static void start_request(nib_engine *e, nib_request *r) {
    nib_error err = {""};
    nib_status status = sched_add(e->sched, r->prompt, r->n_prompt, r->max_tokens, &r->seq, &err);
    if (status == NIB_OK && !grow_by_seq(e, sched_id_bound(e->sched))) {
        sched_end(e->sched, r->seq);
        status = nib_fail(&err, NIB_NO_MEMORY, "no memory for one more request");
    }
    if (status != NIB_OK) {
        request_end(r, NIB_END_FAILED, status, err.text);
        return;
    }
    mem_free(r->prompt);
    r->prompt = NULL;
    e->by_seq[r->seq] = r;
    e->n_active++;
}

/* Waits until there is something to do; false when the engine closes. */
static bool take_submitted(nib_engine *e) {
    pthread_mutex_lock(&e->lock);
    sched_count(e->sched, &e->counts);
    while (!e->closing && !e->submitted && e->n_active == 0)
        pthread_cond_wait(&e->wake, &e->lock);
    nib_request *list = e->submitted;
    bool closing = e->closing;
    e->submitted = NULL;
    e->submitted_end = &e->submitted;
    pthread_mutex_unlock(&e->lock);
    while (list) {
        nib_request *r = list;
        list = r->next;
        start_request(e, r);
    }
    return !closing;
}

/* ---- requests leave ---- */

static void finish(nib_engine *e, int seq, nib_end_reason reason, nib_status status, const char *error) {
    nib_request *r = e->by_seq[seq];
    e->by_seq[seq] = NULL;
    e->n_active--;
    request_end(r, reason, status, error);
}

static void see_cancelled(nib_engine *e, bool all) {
    for (int i = 0; i < e->n_by_seq && e->n_active > 0; i++) {
        if (!e->by_seq[i] || !(all || atomic_load(&e->by_seq[i]->cancelled)))
            continue;
        sched_end(e->sched, i);
        finish(e, i, NIB_END_CANCELLED, NIB_OK, NULL);
    }
}

/* ---- a step ---- */

/* One token for out row I of the batch; ended[i] and the request's fate follow from it. */
static void take_token(nib_engine *e, int i, const float *logits) {
    int seq = e->out_seqs[i], n_tokens, limit;
    nib_request *r = e->by_seq[seq];
    const int32_t *tokens = sched_tokens(e->sched, seq, &n_tokens, &limit);
    int n_drawn = n_tokens - r->n_prompt;
    int32_t token = sampler_pick(e->sampler, &r->sampling, logits, tokens, n_tokens, (uint64_t)n_drawn);
    bool ends_answer =
        token >= 0 && (size_t)token < tokenizer_vocab(e->l->words) && tokenizer_is_end(e->l->words, token);
    e->sampled[i] = token;
    e->ended[i] = true;
    if (token < 0) {
        finish(e, seq, NIB_END_FAILED, NIB_BAD_FILE,
               "the network's output is not a number: a damaged model, or an overflow");
        return;
    }
    if (ends_answer && !r->ignore_eos) {
        finish(e, seq, NIB_END_STOP, NIB_OK, NULL);
        return;
    }
    request_token(r, token);
    e->ended[i] = n_tokens + 1 == limit;
    if (e->ended[i])
        finish(e, seq, NIB_END_LENGTH, NIB_OK, NULL);
}

static void step(nib_engine *e) {
    nib_error err = {""};
    const int *seqs;
    const float *logits;
    const batch *b = sched_next(e->sched, &seqs);
    if (!b)
        return;
    nib_status status = model_forward(e->l->model, b, &logits, &err);
    if (status != NIB_OK) {
        int n = sched_drop(e->sched, &seqs);
        for (int i = 0; i < n; i++)
            finish(e, seqs[i], NIB_END_FAILED, status, err.text);
        return;
    }
    size_t vocab = (size_t)e->l->file->hp.vocab;
    memcpy(e->out_seqs, seqs, (size_t)b->n_out * sizeof *seqs);
    for (int i = 0; i < b->n_out; i++)
        take_token(e, i, logits + (size_t)i * vocab);
    sched_commit(e->sched, e->sampled, e->ended);
}

/* ---- life ---- */

static nib_status open_parts(nib_engine *e, nib_error *err) {
    NIB_TRY(loaded_open(&e->l, e->path, &e->options, &e->needs, err));
    const nib_options *o = &e->l->options;
    sched_limits limits = {.n_pages = e->l->limits.n_pages[0],
                           .max_seqs = o->max_num_seqs,
                           .max_rows = o->max_num_batched_tokens,
                           .max_len = o->max_model_len};
    NIB_TRY(sched_open(&e->sched, &limits, err));
    NIB_TRY(sampler_open(&e->sampler, e->l->file->hp.vocab, err));
    e->sampled = mem_array((size_t)o->max_num_seqs, sizeof *e->sampled);
    e->ended = mem_array((size_t)o->max_num_seqs, sizeof *e->ended);
    e->out_seqs = mem_array((size_t)o->max_num_seqs, sizeof *e->out_seqs);
    if (!e->sampled || !e->ended || !e->out_seqs)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for an engine", e->path);
    return NIB_OK;
}

static void close_parts(nib_engine *e) {
    mem_free(e->by_seq);
    mem_free(e->sampled);
    mem_free(e->ended);
    mem_free(e->out_seqs);
    sampler_close(e->sampler);
    sched_close(e->sched);
    loaded_close(e->l);
}

static void *engine_main(void *argument) {
    nib_engine *e = argument;
    nib_error err = {""};
    nib_status status = open_parts(e, &err);
    pthread_mutex_lock(&e->lock);
    e->open_status = status;
    e->open_error = err;
    e->opened = true;
    pthread_cond_broadcast(&e->wake);
    pthread_mutex_unlock(&e->lock);
    while (status == NIB_OK && take_submitted(e)) {
        see_cancelled(e, false);
        step(e);
    }
    if (status == NIB_OK)
        see_cancelled(e, true);
    close_parts(e);
    return NULL;
}

/* The engine's thread takes no signals (Ctrl-C belongs to the program) but those of its own faults, which a
 * program may want to hear of. */
static int start_thread(nib_engine *e) {
    static const int faults[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL};
    sigset_t all, before;
    sigfillset(&all);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++)
        sigdelset(&all, faults[i]);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&e->thread, NULL, engine_main, e);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}

static void engine_free(nib_engine *e) {
    pthread_mutex_destroy(&e->lock);
    pthread_cond_destroy(&e->wake);
    mem_free(e);
}

nib_status engine_open(nib_engine **out, const char *path, const nib_options *options,
                       const loaded_needs *needs, nib_error *err) {
    *out = NULL;
    nib_engine *e = mem_array(1, sizeof *e);
    if (!e)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for an engine", path);
    pthread_mutex_init(&e->lock, NULL);
    pthread_cond_init(&e->wake, NULL);
    e->submitted_end = &e->submitted;
    e->path = path; /* needed until opened only */
    if (options)
        e->options = *options;
    if (needs)
        e->needs = *needs;
    int failed = start_thread(e);
    if (failed) {
        engine_free(e);
        return nib_fail(err, NIB_NO_MEMORY, "%s: no thread for an engine: %s", path, strerror(failed));
    }
    pthread_mutex_lock(&e->lock);
    while (!e->opened)
        pthread_cond_wait(&e->wake, &e->lock);
    nib_status status = e->open_status;
    if (status != NIB_OK && err)
        *err = e->open_error;
    pthread_mutex_unlock(&e->lock);
    if (status != NIB_OK) {
        pthread_join(e->thread, NULL);
        engine_free(e);
        return status;
    }
    *out = e;
    return NIB_OK;
}

nib_status nib_open(nib_engine **out, const char *path, const nib_options *options, nib_error *err) {
    return engine_open(out, path, options, NULL, err);
}

void nib_close(nib_engine *e) {
    if (!e)
        return;
    pthread_mutex_lock(&e->lock);
    e->closing = true;
    pthread_cond_broadcast(&e->wake);
    pthread_mutex_unlock(&e->lock);
    pthread_join(e->thread, NULL);
    engine_free(e);
}

void nib_get_info(const nib_engine *e, nib_info *info) {
    const loaded *l = e->l;
    *info = (nib_info){
        .family = family_name(l->file->hp.family),
        .compute_path = l->be->path,
        .weight_bytes = model_weight_bytes(l->model),
        .kv_bytes = model_kv_bytes(l->model),
        .max_model_len = l->options.max_model_len,
        .vocab_size = l->file->hp.vocab,
        .threads = l->threads,
        .has_chat_template = l->chat != NULL,
        .chat_template_note = !l->chat && l->file->words.chat_template.n ? l->chat_problem.text : "",
    };
}
