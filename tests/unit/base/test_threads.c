/* SPDX-License-Identifier: Apache-2.0
 *
 * threads_ready when the system denies the K-th thread (pthread_create is wrapped; OpenMP's own calls are
 * not: had the proof been skipped, they would succeed and the test fail).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>
#include <errno.h>
#include <limits.h>
#include <omp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "base/mem.h"
#include "base/threads.h"

enum { N = 8 };

static int places = INT_MAX, asked;

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*fn)(void *), void *arg);

int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*fn)(void *), void *arg) {
    asked++;
    if (places == 0)
        return EAGAIN;
    places--;
    return __real_pthread_create(thread, how, fn, arg);
}

/* N threads, when the K first requests of the system are granted; it is asked ASKS times. */
static nib_status ready(int n, int k, int asks, nib_error *err) {
    places = k;
    asked = 0;
    nib_status status = threads_ready(n, err);
    assert_int_equal(asked, asks);
    places = INT_MAX;
    return status;
}

static int team_of(int n) {
    atomic_int there = 0;
#pragma omp parallel num_threads(n)
    atomic_fetch_add(&there, 1);
    return there;
}

static void test_denied(void **state) {
    (void)state;
    for (int k = 0; k < N - 1; k++) {
        nib_error err;
        char words[64];
        assert_int_equal(ready(N, k, k + 1, &err), NIB_NO_MEMORY);
        snprintf(words, sizeof words, "%d threads were asked for and the system gives %d (", N, k + 1);
        assert_non_null(strstr(err.text, words));
    }
}

/* After test_denied: what was denied before is asked for anew. */
static void test_kept(void **state) {
    (void)state;
    nib_error err;
    assert_int_equal(ready(N, N - 1, N - 1, &err), NIB_OK);
    assert_int_equal(team_of(N), N);
    assert_int_equal(ready(N, 0, 0, &err), NIB_OK);
    assert_int_equal(ready(1, 0, 0, &err), NIB_OK);
    assert_int_equal(team_of(1), 1);
    assert_int_equal(ready(N, 0, 0, &err), NIB_OK); /* a team of one takes nothing away */
    assert_int_equal(ready(3, 0, 0, &err), NIB_OK); /* a smaller one ends the rest */
    assert_int_equal(team_of(3), 3);
    assert_int_equal(ready(N, 2, 3, &err), NIB_NO_MEMORY);
    assert_non_null(strstr(err.text, "gives 5"));
    assert_int_equal(ready(N, N - 3, N - 3, &err), NIB_OK);
    assert_int_equal(team_of(N), N);
}

static void test_no_memory(void **state) {
    (void)state;
    mem_fail_after(0);
    assert_int_equal(ready(2 * N, INT_MAX, 0, NULL), NIB_NO_MEMORY);
    mem_fail_after(-1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_denied),
        cmocka_unit_test(test_kept),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
