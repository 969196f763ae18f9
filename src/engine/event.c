/* SPDX-License-Identifier: Apache-2.0
 *
 * What became of a request, told to its caller: published by the engine's thread, then waited for on the
 * caller's, or handed to a callback. The engine's side is a few instructions under the request's lock, never
 * a wait for the caller.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "engine/engine.h"
#include "engine/sized.h"

/* ---- the next event ---- */

/* With r->lock held: the next thing to tell, without its text. */
static void look(const nib_request *r, nib_event *event) {
    *event = (nib_event){.size = sizeof *event,
                         .text = "",
                         .error = "",
                         .end_token = -1,
                         .end_text = -1,
                         .n_prompt = r->n_prompt,
                         .n_cached = r->n_cached,
                         .seed = r->how.seed};
    if (r->n_taken < r->n_tokens) {
        event->kind = NIB_EVENT_TOKEN;
        event->token = r->tokens[r->n_prompt + r->n_taken];
        event->n_generated = r->n_taken + 1;
    } else if (r->ended) {
        event->kind = NIB_EVENT_END;
        event->reason = r->end.reason;
        event->error = r->end.error.text; /* written once, before ended */
        event->status = r->end.status;
        event->end_token = r->end.token;
        event->end_text = r->end.text;
        event->n_generated = r->n_tokens;
        event->n_guessed = r->n_guessed;
        event->n_right_guesses = r->n_right;
        if (r->end.reason == NIB_END_STOP && r->pooling.how != NIB_POOLING_NONE) {
            event->embedding = r->pooling.vector;
            event->n_embedding = (int)r->pooling.dim;
        }
    }
    if (r->started > 0)
        event->queue_ms = (r->started - r->submitted) * 1e3;
    if (r->first_token > 0) {
        event->prompt_ms = (r->first_token - r->submitted) * 1e3;
        event->generate_ms = (r->last_token - r->first_token) * 1e3;
    }
}

/* The consumer's part: text and log-probabilities. */
static void take(nib_request *r, nib_event *event) {
    if (event->kind == NIB_EVENT_TOKEN) {
        flow_push(&r->told, r->engine->l->words, event->token);
        if (r->logprobs) {
            const token_logprob *p = r->logprobs + (size_t)r->n_taken * (1 + (size_t)r->how.n_top);
            _Static_assert(sizeof(nib_token_logprob) == sizeof(token_logprob), "the same pair");
            event->logprob = p->logprob;
            event->top = (const nib_token_logprob *)(p + 1);
            while (event->n_top < r->how.n_top && p[1 + event->n_top].token >= 0)
                event->n_top++;
        }
        r->n_taken++;
    } else if (!r->end_told) {
        flow_end(&r->told);
        r->end_told = true;
    }
    event->text = r->told.text;
    event->text_bytes = r->told.n_text;
}

/* ---- the engine's side ---- */

static void call_back(nib_request *r) {
    nib_event event;
    do {
        pthread_mutex_lock(&r->lock);
        look(r, &event);
        pthread_mutex_unlock(&r->lock);
        if (event.kind == NIB_EVENT_NONE)
            return;
        take(r, &event);
        r->on_event(r->event_context, r, &event);
    } while (event.kind != NIB_EVENT_END);
}

void event_publish(nib_request *r) {
    pthread_mutex_lock(&r->lock);
    r->n_tokens = r->n_generated;
    r->started = r->begun;
    r->first_token = r->got_first;
    r->last_token = r->got_last;
    r->n_cached = r->found;
    r->ended = r->is_over;
    r->end = r->over;
    pthread_mutex_unlock(&r->lock);
    pthread_cond_signal(&r->changed); /* the engine owns a part of R yet */
    bool is_over = r->is_over;        /* the caller may release it in the callback */
    if (r->on_event)
        call_back(r);
    if (is_over)
        request_leave(r);
}

/* ---- the caller's side ---- */

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

nib_status nib_next_event(nib_request *r, nib_event *event, int timeout_ms, nib_error *err) {
    nib_event next;
    if (!r || !event)
        return nib_fail(err, NIB_BAD_ARGUMENT, "nib_next_event: the request or the event is NULL");
    if (r->on_event)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "nib_next_event: the request calls back; it cannot be waited for");
    NIB_TRY(sized_check(event, "nib_event", err)); /* so that a bad size loses no event */
    pthread_mutex_lock(&r->lock);
    wait_for_news(r, timeout_ms);
    look(r, &next);
    pthread_mutex_unlock(&r->lock);
    if (next.kind != NIB_EVENT_NONE)
        take(r, &next);
    return sized_write(event, &next, sizeof next, "nib_event", err);
}
