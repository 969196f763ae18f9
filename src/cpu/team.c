/* SPDX-License-Identifier: Apache-2.0
 *
 * A sense-reversing barrier (the sense is the low bit of a phase count) and the one parallel region.
 */
#include "cpu/team.h"

#include <limits.h>
#include <linux/futex.h>
#include <omp.h>
#include <sched.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SPINS = 1500, YIELDS = 20 }; /* about 50 us of pauses: longer than most waits inside a token */

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

void team_init(team *t, int threads, int cpus) {
    atomic_init(&t->arrived, 0);
    atomic_init(&t->phase, 0);
    atomic_init(&t->sleepers, 0);
    atomic_init(&t->started, 0);
    t->threads = threads;
    t->spins = threads <= cpus ? SPINS : 0; /* the one waited for may need this very core */
}

static void release_all(team *t, unsigned phase) {
    atomic_store_explicit(&t->arrived, 0, memory_order_relaxed);
    atomic_store(&t->phase, phase + 1); /* before the look at sleepers: one of the two sees the other */
    if (atomic_load(&t->sleepers))
        syscall(SYS_futex, &t->phase, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

void team_barrier(team *t, int n) {
    if (n == 1)
        return;
    unsigned phase = atomic_load_explicit(&t->phase, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&t->arrived, 1, memory_order_acq_rel) + 1 == (unsigned)n) {
        release_all(t, phase);
        return;
    }
    for (int i = 0; i < t->spins + YIELDS; i++) {
        if (atomic_load_explicit(&t->phase, memory_order_acquire) != phase)
            return;
        if (i < t->spins)
            relax();
        else
            sched_yield();
    }
    atomic_fetch_add(&t->sleepers, 1);
    while (atomic_load(&t->phase) == phase)
        syscall(SYS_futex, &t->phase, FUTEX_WAIT_PRIVATE, phase, NULL, NULL, 0);
    atomic_fetch_sub(&t->sleepers, 1);
}

void team_run(team *t, team_fn fn, void *arg) {
    if (t->threads == 1) {
        fn(arg, 0, 1);
        return;
    }
    atomic_fetch_add_explicit(&t->started, 1, memory_order_release);
#pragma omp parallel num_threads(t->threads) default(none) firstprivate(t, fn, arg)
    {
        /* Both edges below exist inside OpenMP too, but a sanitizer cannot see them there. */
        (void)atomic_load_explicit(&t->started, memory_order_acquire);
        int n = omp_get_num_threads();
        fn(arg, omp_get_thread_num(), n);
        team_barrier(t, n);
    }
}
