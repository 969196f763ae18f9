/* SPDX-License-Identifier: Apache-2.0
 *
 * The golden models on the CPU backend in exact mode, at every rung this machine has: logits within 1e-4
 * (relative L2) of transformers in FP32, for one batch, for chunks, and token by token.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "../model/golden_case.h"
#include "cpu/cpu.h"

static const struct {
    const char *name;
    uint32_t features;
} rungs[] = {
    {"scalar", NIB_CPU_SCALAR},
    {"avx2", NIB_CPU_SCALAR | NIB_CPU_AVX2},
    {"avx512", NIB_CPU_SCALAR | NIB_CPU_AVX2 | NIB_CPU_AVX512},
    {"avx512-vnni", NIB_CPU_SCALAR | NIB_CPU_AVX2 | NIB_CPU_AVX512 | NIB_CPU_AVX512_VNNI},
};

static void test_goldens_on_every_rung(void **state) {
    (void)state;
    double worst = 0;
    for (size_t r = 0; r < sizeof rungs / sizeof *rungs; r++) {
        if (rungs[r].features & ~(cpu_features() | NIB_CPU_SCALAR)) {
            printf("SKIP: %s is not on this machine\n", rungs[r].name);
            continue;
        }
        backend *be;
        nib_error err;
        cpu_options options = {
            .threads = 1, .features = rungs[r].features, .activations = NIB_ACTIVATIONS_F32};
        assert_int_equal(cpu_open(&be, &options, &err), NIB_OK);
        for (size_t i = 0; i < GOLDEN_CASE_COUNT; i++)
            worst = fmax(worst, golden_check(&golden_cases[i], be, NIB_KV_FP32, rungs[r].name));
        be->close(be);
    }
    printf("worst relative L2 distance: %.2e (limit %.0e)\n", worst, GOLDEN_LIMIT);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_goldens_on_every_rung)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
