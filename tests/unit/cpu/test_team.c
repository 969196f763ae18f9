/* SPDX-License-Identifier: Apache-2.0
 *
 * The team: nobody passes a barrier before all have come, with fewer and with more threads than cores; and
 * the rungs a mask leaves.
 */
#include "cpu_fixture.h"

#include "cpu/features.h"
#include "cpu/team.h"

enum { ROUNDS = 3000, MOST = 16 };

typedef struct stage {
    team team;
    int counts[MOST][16]; /* a line each */
    int wrong, alone;
} stage;

static void count_alone(void *arg) {
    ((stage *)arg)->alone++;
}

/* Plain memory on purpose: only the barrier orders it. */
static void walk(void *arg, int thread, int n_threads) {
    stage *s = arg;
    for (int round = 1; round <= ROUNDS; round++) {
        s->counts[thread][0] = round;
        team_barrier(&s->team, thread, n_threads, count_alone, s);
        for (int i = 0; i < n_threads; i++)
            if (s->counts[i][0] != round && thread == 0)
                s->wrong++;
        if (s->alone % ROUNDS != round % ROUNDS)
            s->counts[thread][1]++;
        team_barrier(&s->team, thread, n_threads, NULL, NULL);
    }
}

static void test_barrier(void **state) {
    (void)state;
    static const int threads[] = {1, 2, 3, MOST};
    for (size_t i = 0; i < 4; i++) {
        stage *s = test_calloc(1, sizeof *s + 64);
        stage *aligned = (stage *)(((uintptr_t)s + 63) & ~(uintptr_t)63);
        assert_int_equal(team_init(&aligned->team, threads[i], features_cpus(), NULL), NIB_OK);
        for (int again = 0; again < 3; again++)
            assert_int_equal(team_run(&aligned->team, walk, aligned, NULL), NIB_OK);
        assert_int_equal(aligned->wrong, 0);
        assert_int_equal(aligned->alone, 3 * ROUNDS);
        for (int j = 0; j < threads[i]; j++) {
            assert_int_equal(aligned->counts[j][0], ROUNDS);
            assert_int_equal(aligned->counts[j][1], 0); /* everybody saw what thread 0 did alone */
        }
        team_free(&aligned->team);
        test_free(s);
    }
}

static void test_mask(void **state) {
    (void)state;
    uint32_t all = cpu_features();
    assert_int_equal(features_lowered(0), all);
    assert_int_equal(features_lowered(all), all);
    assert_int_equal(features_lowered(NIB_CPU_SCALAR), NIB_CPU_SCALAR);
    assert_int_equal(features_lowered(NIB_CPU_AVX2), all & (NIB_CPU_SCALAR | NIB_CPU_AVX2));
    assert_int_equal(features_lowered(NIB_CPU_AVX512_VNNI), all); /* with the rungs it stands on */
    assert_true(cpu_physical_cores() >= 1 && cpu_physical_cores() <= features_cpus());
}

static void test_open(void **state) {
    (void)state;
    nib_error err;
    backend *be = NULL;
    assert_int_equal(cpu_open(&be, &(cpu_options){.threads = -1}, &err), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "-1 threads"));
    assert_int_equal(cpu_open(&be, &(cpu_options){.features = NIB_CPU_SCALAR}, &err), NIB_OK);
    assert_int_equal(cpu_threads(be), cpu_physical_cores());
    assert_non_null(strstr(be->path, "scalar"));
    be->close(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_barrier), cmocka_unit_test(test_mask),
                                       cmocka_unit_test(test_open)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
