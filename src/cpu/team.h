/* SPDX-License-Identifier: Apache-2.0
 *
 * The threads of a step: one OpenMP region in which every thread walks the same queue and meets the others at
 * a barrier. The barrier spins for a short while, then yields, then sleeps, so that more threads than cores
 * lose little. Plain C11 atomics and a futex: ThreadSanitizer sees every edge.
 */
#ifndef CPU_TEAM_H
#define CPU_TEAM_H

#include <stdatomic.h>

typedef struct team {
    _Alignas(64) atomic_uint arrived;
    _Alignas(64) atomic_uint phase; /* changes when all have arrived */
    atomic_uint sleepers;
    _Alignas(64) atomic_uint started; /* publishes the caller's writes to the workers */
    int threads;
    int spins; /* pauses before yielding */
} team;

typedef void (*team_fn)(void *arg, int thread, int n_threads);

void team_init(team *t, int threads, int cpus);
/* FN on every thread (the caller is thread 0); returns when all have returned. The system may grant fewer
 * threads than asked for. */
void team_run(team *t, team_fn fn, void *arg);
/* Within FN: waits for all N threads; what they wrote before it is seen after it. */
void team_barrier(team *t, int n);

#endif
