/* SPDX-License-Identifier: Apache-2.0
 *
 * The pool: every thread takes part, nobody passes a barrier before all have come, with fewer and with more
 * threads than cores; one that is always late is left out and comes back; ranges are whole; a denied thread
 * (pthread_create is wrapped) is an error and leaves no thread behind.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cores.h"
#include "base/mem.h"
#include "base/pool.h"

enum { ROUNDS = 2000, MOST = 16 };

static int places = INT_MAX;

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*fn)(void *), void *arg);

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*fn)(void *), void *arg) {
    if (places == 0)
        return EAGAIN;
    places--;
    return __real_pthread_create(thread, how, fn, arg);
}

static pool *open_pool(int threads) {
    pool *p = NULL;
    nib_error err;
    if (pool_new(&p, threads, &err) != NIB_OK)
        fail_msg("%s", err.text);
    assert_int_equal(pool_threads(p), threads);
    return p;
}

/* ---- barriers; plain memory on purpose: only the pool orders it ---- */

typedef struct stage {
    pool *pool;
    int counts[MOST][16]; /* a line each */
    int wrong, alone;
} stage;

static void count_alone(void *arg) {
    ((stage *)arg)->alone++;
}

static void walk(void *arg, int thread, int n_threads) {
    stage *s = arg;
    for (int round = 1; round <= ROUNDS; round++) {
        s->counts[thread][0] = round;
        pool_barrier(s->pool, thread, count_alone, s);
        for (int i = 0; i < n_threads; i++)
            if (s->counts[i][0] != round && thread == 0)
                s->wrong++;
        if (s->alone % ROUNDS != round % ROUNDS)
            s->counts[thread][1]++;
        pool_barrier(s->pool, thread, NULL, NULL);
    }
}

static void test_barrier(void **state) {
    (void)state;
    static const int threads[] = {1, 2, 3, MOST};
    for (size_t i = 0; i < 4; i++) {
        stage *s = calloc(1, sizeof *s);
        s->pool = open_pool(threads[i]);
        for (int again = 0; again < 3; again++)
            pool_run(s->pool, walk, s);
        assert_int_equal(s->wrong, 0);
        assert_int_equal(s->alone, 3 * ROUNDS);
        for (int j = 0; j < threads[i]; j++) {
            assert_int_equal(s->counts[j][0], ROUNDS);
            assert_int_equal(s->counts[j][1], 0); /* everybody saw what thread 0 did alone */
        }
        pool_free(s->pool);
        free(s);
    }
}

/* ---- runs ---- */

typedef struct roll {
    int came[MOST][16], n_threads;
} roll;

static void call(void *arg, int thread, int n_threads) {
    roll *r = arg;
    r->came[thread][0]++;
    if (thread == 0)
        r->n_threads = n_threads;
}

/* Short runs, and pauses in which the workers fall asleep; no pool at all; pools that never run. */
static void test_run(void **state) {
    (void)state;
    for (int threads = 1; threads <= 5; threads += 2) {
        roll r = {{{0}}, 0};
        pool *p = open_pool(threads);
        for (int i = 0; i < 300; i++) {
            if (i % 100 == 50)
                usleep(20000);
            pool_run(p, call, &r);
        }
        assert_int_equal(r.n_threads, threads);
        for (int t = 0; t < MOST; t++)
            assert_int_equal(r.came[t][0], t < threads ? 300 : 0);
        pool_free(p);
    }
    roll alone = {{{0}}, 0};
    pool_run(NULL, call, &alone);
    assert_int_equal(alone.n_threads, 1);
    assert_int_equal(alone.came[0][0], 1);
    pool_free(open_pool(4));
    pool_free(NULL);
}

/* ---- a thread that is late at every barrier, as where other programs have its core ---- */

enum { STAGES = 50, SLOWEST = 3 };

typedef struct crowd {
    pool *pool;
    int done, fewest; /* thread 0's: stages, threads of the smallest run */
    int slow;         /* the late one's stages */
    bool crowded;
} crowd;

static void stages(void *arg, int thread, int n_threads) {
    crowd *c = arg;
    bool crowded = c->crowded, stay = true;
    for (int done = c->done; stay && done < STAGES; done++) {
        if (crowded && thread == SLOWEST - 1 && c->slow++ >= 0)
            usleep(3000);
        stay = pool_barrier(c->pool, thread, NULL, NULL);
        if (thread == 0)
            c->done = done + 1;
        if (thread == 0 && n_threads < c->fewest)
            c->fewest = n_threads;
    }
    pool_barrier(c->pool, thread, NULL, NULL); /* nobody reads DONE any more */
}

static void test_crowd(void **state) {
    (void)state;
    crowd c = {.pool = open_pool(SLOWEST), .crowded = true, .fewest = SLOWEST};
    for (int again = 0; again < 10; again++) {
        for (c.done = 0; c.done < STAGES;)
            pool_run(c.pool, stages, &c);
        assert_int_equal(c.done, STAGES);
    }
    assert_true(c.fewest >= 1 && c.fewest < SLOWEST);
    assert_true(c.slow > 0 && c.slow < 10 * STAGES / 2);
    c.crowded = false;
    usleep(700000); /* longer than it is ever left out */
    roll r = {{{0}}, 0};
    pool_run(c.pool, call, &r);
    assert_int_equal(r.n_threads, SLOWEST);
    pool_free(c.pool);
}

static void *run_elsewhere(void *arg) {
    roll r = {{{0}}, 0};
    pool_run(arg, call, &r);
    return r.came[2][0] == 1 ? arg : NULL;
}

static void test_another_caller(void **state) {
    (void)state;
    pool *p = open_pool(3);
    void *done = run_elsewhere(p);
    pthread_t thread;
    assert_ptr_equal(done, p);
    assert_int_equal(__real_pthread_create(&thread, NULL, run_elsewhere, p), 0);
    assert_int_equal(pthread_join(thread, &done), 0);
    assert_ptr_equal(done, p);
    pool_free(p);
}

/* ---- ranges ---- */

enum { ITEMS = 1000 };

typedef struct marks {
    unsigned char seen[ITEMS];
    int threads;
    size_t longest;
    atomic_int bad;
} marks;

static void mark(void *arg, int thread, size_t begin, size_t end) {
    marks *m = arg;
    if (thread < 0 || thread >= m->threads || begin >= end || end - begin > m->longest)
        m->bad++;
    for (size_t i = begin; i < end; i++)
        m->seen[i]++;
}

static void test_ranges(void **state) {
    (void)state;
    static const size_t counts[] = {0, 1, 7, 8, 9, ITEMS}, grains[] = {1, 8, 2 * ITEMS};
    for (int threads = 1; threads <= 3; threads++) {
        pool *p = threads > 1 ? open_pool(threads) : NULL;
        for (size_t i = 0; i < 6 * 3; i++) {
            size_t n = counts[i % 6], grain = grains[i / 6];
            marks m = {.threads = threads, .longest = grain};
            pool_for(p, n, grain, mark, &m);
            assert_int_equal(m.bad, 0);
            for (size_t j = 0; j < ITEMS; j++)
                assert_int_equal(m.seen[j], j < n);
        }
        pool_free(p);
    }
}

/* ---- what the system denies ---- */

static int threads_alive(void) {
    DIR *d = opendir("/proc/self/task");
    int n = 0;
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

/* A joined thread is listed for a moment longer. */
static void assert_no_more_than(int n) {
    for (int i = 0; i < 500 && threads_alive() > n; i++)
        usleep(1000);
    assert_true(threads_alive() <= n);
}

static void test_denied(void **state) {
    (void)state;
    enum { N = 8 };
    int before = threads_alive();
    for (int k = 0; k < N; k++) {
        pool *p = NULL;
        nib_error err = {""};
        char words[64];
        places = k;
        nib_status status = pool_new(&p, N, &err);
        places = INT_MAX;
        if (k == N - 1) {
            assert_int_equal(status, NIB_OK);
            pool_free(p);
        } else {
            assert_int_equal(status, NIB_NO_MEMORY);
            assert_null(p);
            snprintf(words, sizeof words, "%d threads were asked for and the system gives %d (", N, k + 1);
            assert_non_null(strstr(err.text, words));
        }
        assert_no_more_than(before);
    }
}

static void test_no_memory(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        pool *p = NULL;
        mem_fail_after(k);
        nib_status status = pool_new(&p, 3, NULL);
        mem_fail_after(-1);
        assert_int_equal(status, NIB_NO_MEMORY);
    }
}

/* ---- signals belong to the threads of the program ---- */

static void ask_mask(void *arg, int thread, int n_threads) {
    (void)n_threads;
    sigset_t mask;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    if (thread > 0)
        *(atomic_int *)arg += sigismember(&mask, SIGINT) && sigismember(&mask, SIGUSR1) &&
                              !sigismember(&mask, SIGBUS) && !sigismember(&mask, SIGSEGV);
}

static void test_signals(void **state) {
    (void)state;
    pool *p = open_pool(3);
    atomic_int right = 0;
    sigset_t mask;
    pool_run(p, ask_mask, &right);
    assert_int_equal(right, 2);
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    assert_false(sigismember(&mask, SIGINT));
    pool_free(p);
}

static void test_cores(void **state) {
    (void)state;
    assert_true(cores_physical() >= 1 && cores_physical() <= cores_usable());
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_barrier),        cmocka_unit_test(test_run),
        cmocka_unit_test(test_another_caller), cmocka_unit_test(test_crowd),
        cmocka_unit_test(test_ranges),         cmocka_unit_test(test_denied),
        cmocka_unit_test(test_no_memory),      cmocka_unit_test(test_signals),
        cmocka_unit_test(test_cores),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
