/* SPDX-License-Identifier: Apache-2.0
 *
 * The barrier and the one parallel region. See team.h.
 */
#include "cpu/team.h"

#include <limits.h>
#include <linux/futex.h>
#include <omp.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/threads.h"

enum { SPINS = 1500, YIELDS = 20 }; /* about 50 us of pauses: longer than most waits inside a token */

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

nib_status team_init(team *t, int threads, int cpus, nib_error *err) {
    atomic_init(&t->all.phase, 0);
    atomic_init(&t->all.sleepers, 0);
    atomic_init(&t->started, 0);
    t->threads = threads;
    t->spins = threads <= cpus ? SPINS : 0; /* the one waited for may need this very core */
    t->seats = mem_aligned((size_t)threads * sizeof *t->seats);
    if (!t->seats)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for %d threads", threads);
    memset(t->seats, 0, (size_t)threads * sizeof *t->seats);
    return NIB_OK;
}

void team_free(team *t) {
    mem_free(t->seats);
    t->seats = NULL;
}

/* Sets WORD and wakes who sleeps on it. The store comes before the look at sleepers, and a sleeper counts
 * itself before it looks at the phase: one of the two sees the other. */
static void announce(team_word *word, unsigned phase) {
    atomic_store(&word->phase, phase);
    if (atomic_load(&word->sleepers))
        syscall(SYS_futex, &word->phase, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static void await(const team *t, team_word *word, unsigned wanted) {
    for (int i = 0; i < t->spins + YIELDS; i++) {
        if (atomic_load_explicit(&word->phase, memory_order_acquire) == wanted)
            return;
        if (i < t->spins)
            relax();
        else
            sched_yield();
    }
    atomic_fetch_add(&word->sleepers, 1);
    for (unsigned seen; (seen = atomic_load(&word->phase)) != wanted;)
        syscall(SYS_futex, &word->phase, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
    atomic_fetch_sub(&word->sleepers, 1);
}

void team_barrier(team *t, int thread, int n, team_alone_fn alone, void *arg) {
    unsigned next = atomic_load_explicit(&t->all.phase, memory_order_relaxed) + 1;
    if (thread > 0) {
        announce(&t->seats[thread], next);
        await(t, &t->all, next);
        return;
    }
    for (int i = 1; i < n; i++)
        await(t, &t->seats[i], next);
    if (alone)
        alone(arg);
    if (n > 1)
        announce(&t->all, next);
}

nib_status team_run(team *t, team_fn fn, void *arg, nib_error *err) {
    if (t->threads == 1) {
        fn(arg, 0, 1);
        return NIB_OK;
    }
    NIB_TRY(threads_ready(t->threads, err));
    atomic_fetch_add_explicit(&t->started, 1, memory_order_release);
#pragma omp parallel num_threads(t->threads) default(none) firstprivate(t, fn, arg)
    {
        /* Both edges below exist inside OpenMP too, but a sanitizer cannot see them there. */
        (void)atomic_load_explicit(&t->started, memory_order_acquire);
        int thread = omp_get_thread_num(), n = omp_get_num_threads();
        fn(arg, thread, n);
        team_barrier(t, thread, n, NULL, NULL);
    }
    return NIB_OK;
}
