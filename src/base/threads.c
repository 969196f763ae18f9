/* SPDX-License-Identifier: Apache-2.0
 *
 * The proof that the system gives N threads, and OpenMP's claim to them. See threads.h.
 */
#include "base/threads.h"

#include <omp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/mem.h"

/* Address space held during the proof for what OpenMP allocates (and cannot be denied either) when it makes a
 * team: little, but malloc may answer with a new arena, 64 MiB in glibc. */
#define SPARE_BYTES ((size_t)65 << 20)

typedef struct probe {
    pthread_t thread;
    pthread_mutex_t *gate; /* shut until all probes are there */
    long tid;
} probe;

/* The size of the last team of this thread: OpenMP keeps that many, lets what is above end with the next
 * smaller team, and starts more for a larger one. */
static _Thread_local int n_ready = 1;

static void *stand_by(void *argument) {
    probe *p = argument;
    p->tid = syscall(SYS_gettid);
    pthread_mutex_lock(p->gate);
    pthread_mutex_unlock(p->gate);
    return NULL;
}

/* A joined thread counts against the limits for a moment longer; when its number is gone, it counts no more.
 */
static void await_gone(long tid) {
    const struct timespec moment = {.tv_nsec = 20000};
    for (int i = 0; i < 500 && syscall(SYS_tgkill, getpid(), tid, 0) == 0; i++)
        nanosleep(&moment, NULL);
}

/* N more threads at once: *started of them came to be, for *reason no more. False: no memory to try. */
static bool probe_threads(int n, int *started, int *reason) {
    pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
    probe *probes = mem_array((size_t)n, sizeof *probes);
    void *spare = mmap(NULL, SPARE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    bool tried = probes && spare != MAP_FAILED;
    *started = *reason = 0;
    pthread_mutex_lock(&gate);
    while (tried && *started < n && *reason == 0) {
        probe *p = &probes[*started];
        p->gate = &gate;
        *reason = pthread_create(&p->thread, NULL, stand_by, p);
        *started += *reason == 0;
    }
    pthread_mutex_unlock(&gate);
    for (int i = 0; i < *started; i++)
        pthread_join(probes[i].thread, NULL);
    for (int i = 0; i < *started; i++)
        await_gone(probes[i].tid);
    pthread_mutex_destroy(&gate);
    if (spare != MAP_FAILED)
        munmap(spare, SPARE_BYTES);
    mem_free(probes);
    return tried;
}

/* A first team. What it counts is of no use but that the compiler must leave the team in. */
static void claim(int n) {
    atomic_int n_there = 0;
    omp_set_dynamic(0); /* a team that varied in size would end threads and start them again, unproven */
#pragma omp parallel num_threads(n)
    atomic_fetch_add(&n_there, 1);
}

nib_status threads_ready(int n, nib_error *err) {
    if (n <= 1 || n == n_ready)
        return NIB_OK;
    int started, reason, more = n - n_ready;
    if (more > 0) {
        if (!probe_threads(more, &started, &reason))
            return nib_fail(err, NIB_NO_MEMORY, "no memory for %d threads", n);
        if (started < more)
            return nib_fail(
                err, NIB_NO_MEMORY,
                "%d threads were asked for and the system gives %d (%s); ask for no more than that", n,
                n_ready + started, strerror(reason));
    }
    claim(n);
    n_ready = n;
    return NIB_OK;
}
