/* SPDX-License-Identifier: Apache-2.0
 *
 * When an answer is said to go round in circles, and when not.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cli/repeats.h"

/* After how many tokens of i -> i % PERIOD, behind BEFORE others, a circle is seen. */
static int tokens_until_circle(int before, int period, int *circle) {
    repeats r = {.n = 0};
    for (int i = 0; i < before; i++)
        assert_int_equal(repeats_push(&r, 1000 + i), 0);
    for (int i = 0; i < 4096; i++)
        if ((*circle = repeats_push(&r, i % period)) > 0)
            return i + 1;
    return -1;
}

static void test_circles(void **unused) {
    (void)unused;
    static const int periods[] = {1, 2, 7, 31, 32, 33, 64, 127, 128};
    for (size_t i = 0; i < sizeof periods / sizeof *periods; i++)
        for (int before = 0; before < 300; before += 149) {
            const int p = periods[i], rounds = REPEATS_ROUNDS * p;
            int circle;
            assert_int_equal(tokens_until_circle(before, p, &circle),
                             rounds > REPEATS_TOKENS ? rounds : REPEATS_TOKENS);
            assert_int_equal(circle, p);
        }
    int circle;
    assert_int_equal(tokens_until_circle(0, REPEATS_PERIOD + 1, &circle), -1);
}

static void test_lists_and_changes_are_none(void **unused) {
    (void)unused;
    repeats r = {.n = 0};
    for (int i = 0; i < 4096; i++) /* a table: every row has another number */
        assert_int_equal(repeats_push(&r, i % 8 ? i % 8 : 100 + i), 0);
    for (int i = 0; i < 4096; i++) /* a circle that breaks off in time */
        assert_int_equal(repeats_push(&r, i % (REPEATS_TOKENS - 1) ? 5 : 6), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_circles),
        cmocka_unit_test(test_lists_and_changes_are_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
