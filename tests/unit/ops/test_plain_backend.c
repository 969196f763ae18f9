/* SPDX-License-Identifier: Apache-2.0
 *
 * The op suite on a backend of plain loops: what every op computes, said twice by different hands.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "op_suite.h"
#include "plain_backend.h"
#include "sample_suite.h"

static void test_suite(void **state) {
    (void)state;
    op_suite_run(&plain_backend, OP_SUITE_SHORT);
}

static void test_golden_draws(void **state) {
    (void)state;
    sample_suite_golden(&plain_backend);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_suite), cmocka_unit_test(test_golden_draws)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
