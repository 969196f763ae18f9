/* SPDX-License-Identifier: Apache-2.0
 *
 * An engine that does not compute for a while: paused, or asleep with its memory given back. Callers' threads
 * say what is wanted; the engine's own thread follows between two steps, as soon as what runs lets it.
 */
#include <errno.h>
#include <time.h>

#include "base/status.h"
#include "engine/engine.h"

enum { LOOK_MS = 20 }; /* while it rests: whether somebody has cancelled */

/* ---- the engine's thread ---- */

static bool is_idle(const nib_engine *e) {
    return e->n_active == 0 && !e->twins;
}

static void wait_a_moment(nib_engine *e) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += LOOK_MS * 1000000L;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&e->wake, &e->lock, &until);
}

static bool some_are_cancelled(nib_engine *e) {
    bool some = atomic_load(&e->any_cancelled);
    for (nib_request *r = e->submitted; r && !some; r = r->next)
        some = atomic_load(&r->cancelled);
    return some;
}

void rest_wait(nib_engine *e) {
    while (!e->closing && !e->news && e->wanted == e->rest) {
        if (e->rest == NIB_REST_NONE ? e->submitted || !is_idle(e) : some_are_cancelled(e))
            return;
        if (e->rest == NIB_REST_NONE)
            pthread_cond_wait(&e->wake, &e->lock);
        else
            wait_a_moment(e);
    }
}

nib_request *rest_take_submitted(nib_engine *e) {
    nib_request *taken = NULL, **end = &taken, **at = &e->submitted;
    const bool all = e->closing || (e->wanted == NIB_REST_NONE && e->rest == NIB_REST_NONE);
    while (*at) {
        nib_request *r = *at;
        if (e->closing && !e->sched)
            atomic_store(&r->cancelled, true);
        if (!all && !atomic_load(&r->cancelled)) {
            at = &r->next;
            continue;
        }
        *at = r->next;
        r->next = NULL;
        *end = r;
        end = &r->next;
    }
    e->submitted_end = at;
    return taken;
}

/* All that was submitted until now. */
static void cancel_all(nib_engine *e) {
    for (int i = 0; i < e->n_by_seq; i++)
        if (e->by_seq[i])
            atomic_store(&e->by_seq[i]->cancelled, true);
    for (nib_request *r = e->twins; r; r = r->next)
        atomic_store(&r->cancelled, true);
    pthread_mutex_lock(&e->lock);
    for (nib_request *r = e->submitted; r; r = r->next)
        atomic_store(&r->cancelled, true);
    pthread_mutex_unlock(&e->lock);
    atomic_store(&e->any_cancelled, true);
}

static nib_status wake_up(nib_engine *e, nib_error *err) {
    NIB_TRY(loaded_reload(e->l, e->path, &e->needs, err));
    const nib_status status = loop_open(e, err);
    if (status != NIB_OK) {
        loop_close(e);
        loaded_unload(e->l);
    }
    return status;
}

static void go_to_sleep(nib_engine *e) {
    loop_close(e);
    loaded_unload(e->l);
}

void rest_follow(nib_engine *e) {
    nib_error err = {""};
    nib_status status = NIB_OK;
    pthread_mutex_lock(&e->lock);
    const nib_rest wanted = e->wanted;
    const bool closing = e->closing;
    pthread_mutex_unlock(&e->lock);
    if (wanted == e->rest)
        e->rest_cancelled = false; /* also where a wish was taken back: the next one cancels anew */
    if (wanted == e->rest || closing)
        return;
    const bool ends_all = wanted == NIB_REST_ABORT || wanted == NIB_REST_SLEEP;
    if (ends_all && !e->rest_cancelled)
        cancel_all(e);
    e->rest_cancelled = ends_all;
    if (e->rest == NIB_REST_KEEP && wanted == NIB_REST_WAIT && !is_idle(e)) {
        pthread_mutex_lock(&e->lock);
        e->rest = NIB_REST_NONE; /* what was kept goes on to its end */
        pthread_mutex_unlock(&e->lock);
    }
    if (!is_idle(e) && wanted != NIB_REST_NONE && wanted != NIB_REST_KEEP)
        return; /* the next step, or the next look at who is cancelled, brings it nearer */
    if (wanted == NIB_REST_SLEEP)
        go_to_sleep(e);
    else if (e->rest == NIB_REST_SLEEP)
        status = wake_up(e, &err);
    e->rest_cancelled = false;
    pthread_mutex_lock(&e->lock);
    e->rest = status == NIB_OK ? wanted : NIB_REST_SLEEP;
    if (e->wanted ==
        wanted) { /* else whoever wanted it has been told that another call wants something else */
        if (status != NIB_OK)
            e->wanted = NIB_REST_SLEEP;
        e->rest_status = status;
        e->rest_error = err;
    }
    loop_publish_stats(e); /* who is told sees it */
    pthread_cond_broadcast(&e->rested);
    pthread_mutex_unlock(&e->lock);
}

/* ---- callers' ---- */

nib_status nib_set_rest(nib_engine *e, nib_rest rest, nib_error *err) {
    if (!e || (unsigned)rest > NIB_REST_SLEEP)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        e ? "nib_set_rest: rest is %d; expected a NIB_REST_ value"
                          : "nib_set_rest: the engine is NULL, rest %d",
                        (int)rest);
    nib_status status = NIB_OK;
    pthread_mutex_lock(&e->lock);
    if (e->wanted != rest) {
        e->wanted = rest;
        e->rest_status = NIB_OK;
        pthread_cond_broadcast(&e->wake);
        pthread_cond_broadcast(&e->rested); /* who wanted something else waits no longer */
    }
    while (e->rest != rest && e->wanted == rest && e->rest_status == NIB_OK)
        pthread_cond_wait(&e->rested, &e->lock);
    if (e->rest != rest && e->rest_status != NIB_OK) {
        status = e->rest_status;
        if (err)
            *err = e->rest_error;
    } else if (e->rest != rest) {
        status = nib_fail(err, NIB_BUSY, "another call wants something else of the engine by now");
    }
    pthread_mutex_unlock(&e->lock);
    return status;
}
