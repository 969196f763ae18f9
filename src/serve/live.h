/* SPDX-License-Identifier: Apache-2.0
 *
 * Live: the requests that run and the connections that are open, with a thread that watches their sockets. A
 * client that leaves is noticed at once, whatever its request waits for, and the request is cancelled. A
 * connection whose request does not arrive in time is shut.
 *
 * A client that closes the side it writes on has left: on a socket the two cannot be told apart.
 */
#ifndef SERVE_LIVE_H
#define SERVE_LIVE_H

#include <stdbool.h>
#include <stddef.h>

#include "nibble.h"

typedef struct live live;

/* Part of whoever runs a request; from live_add to live_remove. */
typedef struct live_request {
    int socket;
    const char *id;
    void (*cancel)(void *context); /* from any thread; must not wait, nor call live_... */
    void *context;
    double began;    /* clock_seconds */
    uint32_t number; /* set by live_add: descriptors come again, these do not so soon */
    struct live_request *next, **link;
} live_request;

typedef struct live_connection {
    int socket;
    double deadline; /* clock_seconds; 0: none */
    struct live_connection *next, **link;
} live_connection;

nib_status live_open(live **out, nib_error *err);
void live_close(live *l); /* nothing is left in it; NULL is fine */

void live_add(live *l, live_request *r);
void live_remove(live *l, live_request *r); /* afterwards no cancel runs or comes */
size_t live_count(live *l);
/* An exchange is on its way, from its first line to the last byte of its answer. */
void live_enter(live *l);
void live_leave(live *l);
/* Cancels the request ID (NULL: all); how many there were. */
size_t live_cancel(live *l, const char *id);
bool live_wait_empty(live *l, double seconds); /* no exchange is left; false: the time was over */
/* Tells VISIT of every request, oldest last, under the lock. */
void live_each(live *l, void (*visit)(void *context, const live_request *r), void *context);

void live_connect(live *l, live_connection *c);
void live_disconnect(live *l, live_connection *c);
void live_expect(live *l, live_connection *c, double seconds); /* shut in SECONDS; 0: never */

#endif
