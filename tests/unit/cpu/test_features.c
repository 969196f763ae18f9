/* SPDX-License-Identifier: Apache-2.0
 *
 * The rungs a mask leaves, and opening with them.
 */
#include "cpu_fixture.h"

#include "base/cores.h"
#include "cpu/features.h"

static void test_mask(void **state) {
    (void)state;
    uint32_t all = cpu_features();
    assert_int_equal(features_lowered(0), all);
    assert_int_equal(features_lowered(all), all);
    assert_int_equal(features_lowered(NIB_CPU_SCALAR), NIB_CPU_SCALAR);
    assert_int_equal(features_lowered(NIB_CPU_AVX2), all & (NIB_CPU_SCALAR | NIB_CPU_AVX2));
    assert_int_equal(features_lowered(NIB_CPU_AVX512_VNNI), all); /* with the rungs it stands on */
}

static void test_open(void **state) {
    (void)state;
    nib_error err;
    backend *be = NULL;
    assert_int_equal(cpu_open(&be, &(cpu_options){.threads = -1}, &err), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "-1 threads"));
    assert_int_equal(cpu_open(&be, &(cpu_options){.features = NIB_CPU_SCALAR}, &err), NIB_OK);
    assert_int_equal(cpu_threads(be), cores_physical());
    assert_non_null(strstr(be->path, "scalar"));
    be->close(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mask), cmocka_unit_test(test_open)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
