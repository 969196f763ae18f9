/* SPDX-License-Identifier: Apache-2.0
 *
 * See live.h.
 */
#include "serve/live.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/status.h"

struct live {
    pthread_t thread;
    int poll, stop;       /* descriptors */
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t emptied;
    live_request *requests;
    live_connection *connections;
    size_t n_requests, n_exchanges;
    uint32_t next_number;
};

#define STOP UINT64_MAX /* in an event, in place of a request's number */

/* ---- the thread ---- */

static void client_left(live *l, uint32_t number) {
    pthread_mutex_lock(&l->lock);
    for (live_request *r = l->requests; r; r = r->next)
        if (r->number == number)
            r->cancel(r->context);
    pthread_mutex_unlock(&l->lock);
}

static void shut_late(live *l) {
    const double now = clock_seconds();
    pthread_mutex_lock(&l->lock);
    for (live_connection *c = l->connections; c; c = c->next)
        if (c->deadline > 0 && now > c->deadline) {
            shutdown(c->socket, SHUT_RDWR); /* its thread sees the end and closes it */
            c->deadline = 0;
        }
    pthread_mutex_unlock(&l->lock);
}

static void *watch(void *argument) {
    live *l = argument;
    double swept = clock_seconds();
    for (;;) {
        struct epoll_event events[64];
        const int n = epoll_wait(l->poll, events, sizeof events / sizeof *events, 1000);
        for (int i = 0; i < n; i++) {
            if (events[i].data.u64 == STOP)
                return NULL;
            client_left(l, (uint32_t)events[i].data.u64);
        }
        if (clock_seconds() - swept >= 1) {
            shut_late(l);
            swept = clock_seconds();
        }
    }
}

static int start_thread(live *l) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    const int failed = pthread_create(&l->thread, NULL, watch, l);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return failed;
}

/* ---- life ---- */

static void live_free(live *l) {
    if (l->poll >= 0)
        close(l->poll);
    if (l->stop >= 0)
        close(l->stop);
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->emptied);
    mem_free(l);
}

static nib_status start(live *l, nib_error *err) {
    struct epoll_event event = {.events = EPOLLIN};
    l->poll = epoll_create1(EPOLL_CLOEXEC);
    l->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    event.data.u64 = STOP;
    if (l->poll < 0 || l->stop < 0 || epoll_ctl(l->poll, EPOLL_CTL_ADD, l->stop, &event) != 0)
        return nib_fail(err, NIB_IO, "the sockets cannot be watched: %s", strerror(errno));
    const int failed = start_thread(l);
    return failed ? nib_fail(err, NIB_NO_MEMORY, "no thread to watch the sockets: %s", strerror(failed))
                  : NIB_OK;
}

nib_status live_open(live **out, nib_error *err) {
    *out = NULL;
    live *l = mem_array(1, sizeof *l);
    if (!l)
        return nib_fail(err, NIB_NO_MEMORY, "out of memory for the server");
    pthread_condattr_t attributes;
    l->poll = l->stop = -1;
    pthread_mutex_init(&l->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&l->emptied, &attributes);
    pthread_condattr_destroy(&attributes);
    const nib_status status = start(l, err);
    if (status == NIB_OK)
        *out = l;
    else
        live_free(l);
    return status;
}

void live_close(live *l) {
    if (!l)
        return;
    eventfd_write(l->stop, 1);
    pthread_join(l->thread, NULL);
    live_free(l);
}

/* ---- requests ---- */

void live_add(live *l, live_request *r) {
    pthread_mutex_lock(&l->lock);
    r->next = l->requests;
    r->link = &l->requests;
    if (r->next)
        r->next->link = &r->next;
    l->requests = r;
    l->n_requests++;
    r->number = l->next_number++;
    pthread_mutex_unlock(&l->lock);
    /* Once is enough; a client that has left already is told at once. */
    struct epoll_event event = {.events = EPOLLRDHUP | EPOLLHUP | EPOLLERR | EPOLLONESHOT,
                                .data.u64 = r->number};
    epoll_ctl(l->poll, EPOLL_CTL_ADD, r->socket, &event);
}

void live_remove(live *l, live_request *r) {
    epoll_ctl(l->poll, EPOLL_CTL_DEL, r->socket, NULL);
    pthread_mutex_lock(&l->lock);
    *r->link = r->next;
    if (r->next)
        r->next->link = r->link;
    l->n_requests--;
    pthread_mutex_unlock(&l->lock);
}

void live_enter(live *l) {
    pthread_mutex_lock(&l->lock);
    l->n_exchanges++;
    pthread_mutex_unlock(&l->lock);
}

void live_leave(live *l) {
    pthread_mutex_lock(&l->lock);
    if (--l->n_exchanges == 0)
        pthread_cond_broadcast(&l->emptied);
    pthread_mutex_unlock(&l->lock);
}

size_t live_count(live *l) {
    pthread_mutex_lock(&l->lock);
    const size_t n = l->n_requests;
    pthread_mutex_unlock(&l->lock);
    return n;
}

size_t live_cancel(live *l, const char *id) {
    size_t n = 0;
    pthread_mutex_lock(&l->lock);
    for (live_request *r = l->requests; r; r = r->next)
        if (!id || strcmp(id, r->id) == 0) {
            r->cancel(r->context);
            n++;
        }
    pthread_mutex_unlock(&l->lock);
    return n;
}

bool live_wait_empty(live *l, double seconds) {
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)seconds;
    until.tv_nsec += (long)((seconds - (double)(time_t)seconds) * 1e9);
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    int late = 0;
    pthread_mutex_lock(&l->lock);
    while (l->n_exchanges > 0 && !late)
        late = pthread_cond_timedwait(&l->emptied, &l->lock, &until);
    const bool empty = l->n_exchanges == 0;
    pthread_mutex_unlock(&l->lock);
    return empty;
}

void live_each(live *l, void (*visit)(void *context, const live_request *r), void *context) {
    pthread_mutex_lock(&l->lock);
    for (const live_request *r = l->requests; r; r = r->next)
        visit(context, r);
    pthread_mutex_unlock(&l->lock);
}

/* ---- connections ---- */

void live_connect(live *l, live_connection *c) {
    pthread_mutex_lock(&l->lock);
    c->next = l->connections;
    c->link = &l->connections;
    if (c->next)
        c->next->link = &c->next;
    l->connections = c;
    pthread_mutex_unlock(&l->lock);
}

void live_disconnect(live *l, live_connection *c) {
    if (!c->link)
        return;
    pthread_mutex_lock(&l->lock);
    *c->link = c->next;
    if (c->next)
        c->next->link = c->link;
    pthread_mutex_unlock(&l->lock);
}

void live_expect(live *l, live_connection *c, double seconds) {
    if (!c)
        return;
    pthread_mutex_lock(&l->lock);
    c->deadline = seconds > 0 ? clock_seconds() + seconds : 0;
    pthread_mutex_unlock(&l->lock);
}
