/* SPDX-License-Identifier: Apache-2.0
 *
 * A pool of threads that stay: the caller is thread 0, and the workers wait for its next run. A denied thread
 * is an error of pool_new like any other; after that nothing can fail. Nothing belongs to the process:
 * whoever makes a pool frees it, and then no thread is left.
 *
 * Callers: a CPU backend for its steps, whatever goes through tensors or rows of logits. One thread at a time
 * uses a pool, any thread. A forked child has the pool's memory but not its threads: it must leave it alone.
 *
 * Every thread says in a line of its own that it has come; thread 0 reads them all, does what one thread has
 * to do alone, and lets everybody go on: two transfers of a line between cores, however many there are. Who
 * waits spins for a short while, then yields, then sleeps, so that more threads than cores lose little. Where
 * other programs have the cores, a barrier waits for a thread until it is its turn, milliseconds: runs then
 * go on with as many threads fewer as were late, and try again with all later. The last ones stay at home,
 * whoever was late: no thread is bound to a core, so the system moves the others to those that are free.
 * Plain C11 atomics and a futex: ThreadSanitizer sees every edge.
 */
#ifndef BASE_POOL_H
#define BASE_POOL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/status.h"

typedef struct pool pool; /* where a pool is taken, NULL is one too: the caller alone */

typedef void (*pool_fn)(void *arg, int thread, int n_threads);
typedef void (*pool_alone_fn)(void *arg);
typedef void (*pool_range_fn)(void *arg, int thread, size_t begin, size_t end);

/* THREADS with the caller, at least 1. NIB_NO_MEMORY when the system gives fewer. */
nib_status pool_new(pool **out, int threads, nib_error *err);
void pool_free(pool *p);
int pool_threads(const pool *p);

/* FN on every thread, or on fewer (see above), 0 up to N_THREADS; returns when all have returned. */
void pool_run(pool *p, pool_fn fn, void *arg);
/* Within FN: waits for all threads of the run; what they wrote before it is seen after it. Thread 0 calls
 * ALONE (which may be NULL) when all have come and nobody goes on yet. False, for all: leave FN, what is left
 * is another run's, which will have fewer threads. FN may also stay, with the threads that it has. */
bool pool_barrier(pool *p, int thread, pool_alone_fn alone, void *arg);
/* FN on [0, n) in pieces of GRAIN, by whichever thread is free. */
void pool_for(pool *p, size_t n, size_t grain, pool_range_fn fn, void *arg);

#endif
