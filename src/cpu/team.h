/* SPDX-License-Identifier: Apache-2.0
 *
 * The threads of a step: one OpenMP region in which every thread walks the same queue and meets the others at
 * a barrier. Every thread says in a line of its own that it has come; thread 0 reads them all, does what one
 * thread has to do alone, and lets everybody go on: two transfers of a line between cores, however many there
 * are. Who waits spins for a short while, then yields, then sleeps, so that more threads than cores lose
 * little. Plain C11 atomics and a futex: ThreadSanitizer sees every edge.
 */
#ifndef CPU_TEAM_H
#define CPU_TEAM_H

#include <stdatomic.h>

#include "base/status.h"

/* A phase that somebody may sleep on. */
typedef struct team_word {
    _Alignas(64) atomic_uint phase;
    atomic_uint sleepers;
} team_word;

typedef struct team {
    team_word all;                    /* goes up by one when all have come */
    _Alignas(64) atomic_uint started; /* publishes the caller's writes to the workers */
    team_word *seats;                 /* [threads] the phase that a thread waits for */
    int threads;
    int spins; /* pauses before yielding */
} team;

typedef void (*team_fn)(void *arg, int thread, int n_threads);
typedef void (*team_alone_fn)(void *arg);

/* CPUS that the process may run on; T is 64-byte aligned. */
nib_status team_init(team *t, int threads, int cpus, nib_error *err);
void team_free(team *t);
/* FN on every thread (the caller is thread 0); returns when all have returned. OpenMP's settings may grant
 * fewer threads than asked for; where the system has no place for them, nothing is run. */
nib_status team_run(team *t, team_fn fn, void *arg, nib_error *err);
/* Within FN: waits for all N threads; what they wrote before it is seen after it. Thread 0 calls ALONE (which
 * may be NULL) when all have come and nobody goes on yet. */
void team_barrier(team *t, int thread, int n, team_alone_fn alone, void *arg);

#endif
