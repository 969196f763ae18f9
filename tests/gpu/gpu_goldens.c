/* SPDX-License-Identifier: Apache-2.0
 *
 * The golden models of every family on the CUDA backend's exact mode, in every format of their files: logits
 * equal transformers'.
 */
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failed;
#define fail_msg(...)          (printf("WRONG "), printf(__VA_ARGS__), printf("\n"), failed++)
#define assert_non_null(p)     assert((p) != NULL)
#define assert_int_equal(a, b) assert((a) == (b))
#define assert_true(a)         assert(a)
#include "../unit/model/golden_case.h"
#include "ops/plugin.h"

extern const backend_plugin nibble_plugin;

int main(void) {
    backend *be;
    nib_error err = {""};
    double worst = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (nibble_plugin.open(&be, &(device_options){.mode = COMPUTE_EXACT}, &err) != NIB_OK) {
        printf("%s\n", err.text);
        return 1;
    }
    for (size_t i = 0; i < GOLDEN_CASE_COUNT; i++)
        worst = fmax(worst, golden_check(&golden_cases[i], be, NIB_KV_FP32, "cuda"));
    be->close(be);
    printf("golden models: worst distance %.1e, %d wrong\n", worst, failed);
    return failed > 0;
}
