/* SPDX-License-Identifier: Apache-2.0
 *
 * Thread 0 calls the workers that a run takes, each by a word of its own; at a barrier, and at the end of the
 * run, they say in another that they have come. See pool.h.
 */
#include "base/pool.h"

#include <assert.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cores.h"
#include "base/mem.h"

/* Pauses of some 30 ns: 50 us are longer than most waits inside a step, 1 ms than what one thread does alone
 * between two steps. */
enum { SPINS = 1500, IDLE_SPINS = 30000, YIELDS = 20 };

/* Between two runs the core is offered to others every so many pauses: they take it now rather than in the
 * middle of a run, where all threads would wait for the one that they took it from. */
enum { IDLE_PAUSES = 32 };

/* Who has been waited for by LATE_EACH has been put aside by the system, whose slices are milliseconds. A run
 * that has waited so for so long, so often, and for more than half of its time, goes on with as many threads
 * fewer; so do the runs that begin while LEAST_APART passes, and twice as long, up to MOST_APART, each time
 * that the next attempt with all fails as well. */
static const double LATE_EACH = .0005, LATE_SECONDS = .002, LEAST_APART = .01, MOST_APART = .64;
enum { LATE_TIMES = 2 };

/* A phase that somebody may sleep on. */
typedef struct word {
    _Alignas(64) atomic_uint phase;
    atomic_uint sleepers;
} word;

typedef struct worker {
    word call; /* goes up by one when a run takes it */
    word seat; /* the phase of ALL that it waits for */
    bool late; /* in this run; thread 0's */
    pool *pool;
    pthread_t thread;
    int number;
} worker;

struct pool {
    word all; /* goes up by one when all of the run have come */
    worker *workers;
    int threads, n_started; /* n_started: workers, from workers[1] on */
    int active, allowed;    /* threads of the run, and of the next one */
    bool leave;             /* the run ends at the barrier that all have come to */
    int spins, idle_spins;
    bool quit;
    pool_fn fn; /* of the run */
    void *arg;

    /* who is waited for; thread 0's */
    int times_late;
    double began, seconds_late; /* of the run */
    double apart, apart_until;  /* how long runs go on without some, the last time */
};

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Sets W and wakes who sleeps on it. The store comes before the look at sleepers, and a sleeper counts itself
 * before it looks at the phase: one of the two sees the other. */
static void announce(word *w, unsigned phase) {
    atomic_store(&w->phase, phase);
    if (atomic_load(&w->sleepers))
        syscall(SYS_futex, &w->phase, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

static bool spin(const word *w, unsigned wanted, int spins, int pauses) {
    for (int i = 0; i < spins; i++) {
        if (atomic_load_explicit(&w->phase, memory_order_acquire) == wanted)
            return true;
        if (i % pauses != pauses - 1)
            relax();
        else
            sched_yield();
    }
    return false;
}

static void await(word *w, unsigned wanted, int spins, int pauses) {
    if (spin(w, wanted, spins, pauses) || spin(w, wanted, YIELDS, 1))
        return;
    atomic_fetch_add(&w->sleepers, 1);
    for (unsigned seen; (seen = atomic_load(&w->phase)) != wanted;)
        syscall(SYS_futex, &w->phase, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
    atomic_fetch_sub(&w->sleepers, 1);
}

static unsigned next_phase(const word *w) {
    return atomic_load_explicit(&w->phase, memory_order_relaxed) + 1;
}

static void *work(void *argument) {
    worker *w = argument;
    pool *p = w->pool;
    for (unsigned call = 1;; call++) {
        await(&w->call, call, p->idle_spins, IDLE_PAUSES);
        if (p->quit)
            return NULL;
        p->fn(p->arg, w->number, p->active);
        announce(&w->seat, next_phase(&p->all)); /* FN may have had barriers */
    }
}

static void await_workers(pool *p) {
    unsigned next = next_phase(&p->all);
    for (int i = 1; i < p->active; i++) {
        worker *w = &p->workers[i];
        if (spin(&w->seat, next, p->spins, INT_MAX))
            continue;
        const double start = clock_seconds();
        await(&w->seat, next, 0, 1);
        const double waited = clock_seconds() - start;
        if (waited < LATE_EACH)
            continue; /* more threads than cores, or a longer piece of work */
        p->seconds_late += waited;
        p->times_late++;
        w->late = true;
    }
}

/* ---- without those that the system has something else for ---- */

static void begin_run(pool *p) {
    p->began = clock_seconds();
    p->seconds_late = 0;
    p->times_late = 0;
    for (int i = 1; i < p->threads; i++)
        p->workers[i].late = false;
    if (p->began >= p->apart_until)
        p->allowed = p->threads;
    p->active = p->allowed;
    p->leave = false;
}

/* Whether to go on with fewer. At least one has been late then. */
static bool is_crowded(const pool *p) {
    return p->times_late >= LATE_TIMES && p->seconds_late >= LATE_SECONDS &&
           p->seconds_late > (clock_seconds() - p->began) / 2;
}

static void go_on_with_fewer(pool *p) {
    double now = clock_seconds();
    bool again = now - p->apart_until < 2 * p->apart;
    p->apart = again && p->apart < MOST_APART ? 2 * p->apart : again ? MOST_APART : LEAST_APART;
    p->apart_until = now + p->apart;
    for (int i = 1; i < p->active; i++)
        p->allowed -= p->workers[i].late;
    assert(p->allowed >= 1);
    p->leave = true;
}

/* ---- runs ---- */

void pool_run(pool *p, pool_fn fn, void *arg) {
    if (pool_threads(p) == 1) {
        fn(arg, 0, 1);
        return;
    }
    p->fn = fn;
    p->arg = arg;
    begin_run(p);
    atomic_store(&p->all.phase, next_phase(&p->all)); /* seats of the run before count no more */
    for (int i = 1; i < p->active; i++)
        announce(&p->workers[i].call, next_phase(&p->workers[i].call));
    fn(arg, 0, p->active);
    await_workers(p);
}

bool pool_barrier(pool *p, int thread, pool_alone_fn alone, void *arg) {
    if (thread > 0) {
        unsigned next = next_phase(&p->all);
        announce(&p->workers[thread].seat, next);
        await(&p->all, next, p->spins, INT_MAX);
        return !p->leave;
    }
    if (p)
        await_workers(p);
    if (alone)
        alone(arg);
    if (pool_threads(p) == 1)
        return true;
    if (!p->leave && is_crowded(p)) /* once a run, whoever stays after it */
        go_on_with_fewer(p);
    announce(&p->all, next_phase(&p->all));
    return !p->leave;
}

/* ---- ranges ---- */

typedef struct ranges {
    pool_range_fn fn;
    void *arg;
    size_t n, grain;
    atomic_size_t next;
} ranges;

static void run_ranges(void *argument, int thread, int n_threads) {
    (void)n_threads;
    ranges *r = argument;
    for (;;) {
        size_t begin = atomic_fetch_add_explicit(&r->next, r->grain, memory_order_relaxed);
        if (begin >= r->n)
            return;
        r->fn(r->arg, thread, begin, r->n - begin < r->grain ? r->n : begin + r->grain);
    }
}

void pool_for(pool *p, size_t n, size_t grain, pool_range_fn fn, void *arg) {
    assert(grain > 0);
    ranges r = {.fn = fn, .arg = arg, .n = n, .grain = grain};
    if (n <= grain)
        run_ranges(&r, 0, 1);
    else
        pool_run(p, run_ranges, &r);
}

/* ---- making and freeing ---- */

/* 0, or why there is no worker I. It takes no signals but those that its own instructions raise. */
static int start(pool *p, int i) {
    static const int own[] = {SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGTRAP, SIGABRT};
    sigset_t blocked, before;
    sigfillset(&blocked);
    for (size_t s = 0; s < sizeof own / sizeof *own; s++)
        sigdelset(&blocked, own[s]);
    p->workers[i].pool = p;
    p->workers[i].number = i;
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    int reason = pthread_create(&p->workers[i].thread, NULL, work, &p->workers[i]);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return reason;
}

nib_status pool_new(pool **out, int threads, nib_error *err) {
    assert(threads >= 1);
    pool *p = mem_aligned(sizeof *p);
    worker *workers = mem_aligned((size_t)threads * sizeof *workers);
    if (!p || !workers) {
        mem_free(p);
        mem_free(workers);
        return nib_fail(err, NIB_NO_MEMORY, "no memory for %d threads", threads);
    }
    memset(p, 0, sizeof *p);
    memset(workers, 0, (size_t)threads * sizeof *workers);
    p->workers = workers;
    p->threads = threads;
    bool a_core_each = threads <= cores_usable(); /* else the one waited for may need this very core */
    p->spins = a_core_each ? SPINS : 0;
    p->idle_spins = a_core_each ? IDLE_SPINS : 0;
    for (int i = 1; i < threads; i++) {
        int reason = start(p, i);
        if (reason != 0) {
            pool_free(p);
            return nib_fail(
                err, NIB_NO_MEMORY,
                "%d threads were asked for and the system gives %d (%s); ask for no more than that", threads,
                i, strerror(reason));
        }
        p->n_started = i;
    }
    *out = p;
    return NIB_OK;
}

void pool_free(pool *p) {
    if (!p)
        return;
    p->quit = true;
    for (int i = 1; i <= p->n_started; i++) {
        announce(&p->workers[i].call, next_phase(&p->workers[i].call));
        pthread_join(p->workers[i].thread, NULL);
    }
    mem_free(p->workers);
    mem_free(p);
}

int pool_threads(const pool *p) {
    return p ? p->threads : 1;
}
