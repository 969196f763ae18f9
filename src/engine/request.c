/* SPDX-License-Identifier: Apache-2.0
 *
 * A request as its caller sees it: submitted, waited for, cancelled, released. Ids become text here, on the
 * caller's thread. The engine's side is request_token and request_end: a few instructions under the request's
 * lock, never a wait for the caller.
 */
#include <errno.h>
#include <math.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "engine/engine.h"

/* ---- life ---- */

static void request_free(nib_request *r) {
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->changed);
    mem_free(r->prompt);
    mem_free(r->tokens);
    mem_free(r->text);
    mem_free(r);
}

static void leave(nib_request *r) {
    pthread_mutex_lock(&r->lock);
    bool last = --r->n_owners == 0;
    pthread_mutex_unlock(&r->lock);
    if (last)
        request_free(r);
}

static nib_status check_sampling(const nib_sampling *s, nib_error *err) {
    if (!(s->temperature >= 0 && isfinite(s->temperature)))
        return nib_fail(err, NIB_BAD_ARGUMENT, "temperature is %g; it must be 0 (greedy) or more",
                        (double)s->temperature);
    if (s->top_k < 0)
        return nib_fail(err, NIB_BAD_ARGUMENT, "top_k is %d; it must be 0 (off) or more", s->top_k);
    if (!(s->top_p >= 0 && s->top_p <= 1) || !(s->min_p >= 0 && s->min_p <= 1))
        return nib_fail(err, NIB_BAD_ARGUMENT, "top_p is %g and min_p %g; both must lie between 0 and 1",
                        (double)s->top_p, (double)s->min_p);
    if (s->repeat_penalty != 0 && !(s->repeat_penalty >= 0.01f && s->repeat_penalty <= 100))
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "repeat_penalty is %g; it must be 0 (off) or lie between 0.01 and 100",
                        (double)s->repeat_penalty);
    return NIB_OK;
}

static nib_status check_request(const nib_engine *e, const nib_request_options *o, nib_error *err) {
    int max_len = e->l->options.max_model_len, vocab = e->l->file->hp.vocab;
    if (!o->prompt || o->n_prompt < 1)
        return nib_fail(err, NIB_BAD_ARGUMENT, "an empty prompt; it needs at least one token");
    if (o->n_prompt >= (size_t)max_len)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "a prompt of %zu tokens; with max_model_len %d it can have at most %d", o->n_prompt,
                        max_len, max_len - 1);
    if (o->max_tokens < 0)
        return nib_fail(err, NIB_BAD_ARGUMENT, "max_tokens is %d; it must be 0 (no limit) or more",
                        o->max_tokens);
    for (size_t i = 0; i < o->n_prompt; i++)
        if (o->prompt[i] < 0 || o->prompt[i] >= vocab)
            return nib_fail(err, NIB_BAD_ARGUMENT, "token %zu of the prompt is %d; the vocabulary has %d", i,
                            o->prompt[i], vocab);
    return check_sampling(&o->sampling, err);
}

static nib_request *request_new(nib_engine *e, const nib_request_options *o) {
    nib_request *r = mem_array(1, sizeof *r);
    if (!r)
        return NULL;
    int room = e->l->options.max_model_len - (int)o->n_prompt;
    r->engine = e;
    r->sampling = o->sampling;
    r->ignore_eos = o->ignore_eos;
    r->n_prompt = (int)o->n_prompt;
    r->max_tokens = o->max_tokens > 0 && o->max_tokens < room ? o->max_tokens : room;
    r->n_owners = 2;
    pthread_mutex_init(&r->lock, NULL);
    pthread_condattr_t attributes; /* nib_next_event's timeouts must not jump with the wall clock */
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&r->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    r->prompt = mem_array(o->n_prompt, sizeof *r->prompt);
    r->tokens = mem_array((size_t)r->max_tokens, sizeof *r->tokens);
    if (!r->prompt || !r->tokens) {
        request_free(r);
        return NULL;
    }
    memcpy(r->prompt, o->prompt, o->n_prompt * sizeof *r->prompt);
    return r;
}

nib_status nib_submit(nib_engine *e, const nib_request_options *options, nib_request **out, nib_error *err) {
    *out = NULL;
    NIB_TRY(check_request(e, options, err));
    nib_request *r = request_new(e, options);
    if (!r)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a request of %zu tokens", options->n_prompt);
    r->submitted = clock_seconds();
    pthread_mutex_lock(&e->lock);
    *e->submitted_end = r;
    e->submitted_end = &r->next;
    pthread_cond_signal(&e->wake);
    pthread_mutex_unlock(&e->lock);
    *out = r;
    return NIB_OK;
}

void nib_cancel(nib_request *r) {
    atomic_store(&r->cancelled, true);
}

void nib_release(nib_request *r) {
    if (!r)
        return;
    nib_cancel(r);
    leave(r);
}

/* ---- the engine's side ---- */

void request_token(nib_request *r, int32_t token) {
    double now = clock_seconds();
    pthread_mutex_lock(&r->lock);
    if (r->n_tokens == 0)
        r->first_token = now;
    r->last_token = now;
    r->tokens[r->n_tokens++] = token;
    pthread_cond_signal(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

void request_end(nib_request *r, nib_end_reason reason, nib_status status, const char *error) {
    pthread_mutex_lock(&r->lock);
    r->ended = true;
    r->reason = reason;
    r->status = status;
    if (error)
        nib_fail(&r->error, status, "%s", error);
    pthread_cond_signal(&r->changed);
    pthread_mutex_unlock(&r->lock);
    leave(r);
}

/* ---- events ---- */

/* With r->lock held: until there is something to tell, or the time is over. */
static void wait_for_news(nib_request *r, int timeout_ms) {
    struct timespec until;
    if (timeout_ms >= 0) {
        clock_gettime(CLOCK_MONOTONIC, &until);
        until.tv_sec += timeout_ms / 1000;
        until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
        until.tv_sec += until.tv_nsec / 1000000000;
        until.tv_nsec %= 1000000000;
    }
    while (r->n_taken == r->n_tokens && !r->ended) {
        if (timeout_ms < 0)
            pthread_cond_wait(&r->changed, &r->lock);
        else if (pthread_cond_timedwait(&r->changed, &r->lock, &until) == ETIMEDOUT)
            return;
    }
}

static nib_status make_room_for_text(nib_request *r, size_t bytes, nib_error *err) {
    if (bytes <= r->text_capacity)
        return NIB_OK;
    char *grown = mem_resize(r->text, bytes, 1);
    if (!grown)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for %zu bytes of text", bytes);
    r->text = grown;
    r->text_capacity = bytes;
    return NIB_OK;
}

/* What the event says of a token, or of the end when TOKEN is negative. */
static nib_status write_text(nib_request *r, nib_event *event, int32_t token, nib_error *err) {
    const tokenizer *words = r->engine->l->words;
    bool known = token >= 0 && (size_t)token < tokenizer_vocab(words); /* the head may have rows to spare */
    size_t piece = known ? tokenizer_piece(words, token, false).n : 0;
    NIB_TRY(make_room_for_text(r, DETOKENIZER_ROOM(piece) + 1, err)); /* and a NUL */
    event->text = r->text;
    if (known)
        event->text_bytes = detokenizer_push(words, &r->detokenizer, token, false, r->text);
    else if (token < 0)
        event->text_bytes = detokenizer_flush(&r->detokenizer, r->text);
    r->text[event->text_bytes] = 0;
    return NIB_OK;
}

nib_status nib_next_event(nib_request *r, nib_event *event, int timeout_ms, nib_error *err) {
    *event = (nib_event){.text = "", .error = "", .n_prompt = r->n_prompt};
    /* So that a failure here loses no event. */
    NIB_TRY(make_room_for_text(r, DETOKENIZER_ROOM(0) + 1, err));
    pthread_mutex_lock(&r->lock);
    wait_for_news(r, timeout_ms);
    if (r->n_taken < r->n_tokens) {
        event->kind = NIB_EVENT_TOKEN;
        event->token = r->tokens[r->n_taken];
        event->n_generated = r->n_taken + 1;
    } else if (r->ended) {
        event->kind = NIB_EVENT_END;
        event->reason = r->reason;
        event->error = r->error.text; /* written once, before ended */
        event->status = r->status;
        event->n_generated = r->n_tokens;
    }
    if (r->n_tokens > 0) {
        event->prompt_ms = (r->first_token - r->submitted) * 1e3;
        event->generate_ms = (r->last_token - r->first_token) * 1e3;
    }
    pthread_mutex_unlock(&r->lock);
    if (event->kind == NIB_EVENT_NONE)
        return NIB_OK;
    NIB_TRY(write_text(r, event, event->kind == NIB_EVENT_TOKEN ? event->token : -1, err));
    r->n_taken += event->kind == NIB_EVENT_TOKEN;
    return NIB_OK;
}
