/* SPDX-License-Identifier: Apache-2.0
 *
 * A plan is written whole or not at all, wherever memory runs out.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "cli/plan.h"

static long to_fail; /* the allocation of jansson that fails, counted down to 0 */

static void *failing_alloc(size_t n) {
    return to_fail-- == 0 ? NULL : malloc(n);
}

static void check_written(const char *path) {
    json_t *root = json_load_file(path, 0, NULL);
    const json_t *parts = json_object_get(root, "parts");
    assert_int_equal(json_array_size(parts), 2);
    assert_int_equal(json_array_size(json_object_get(json_array_get(parts, 0), "tensors")), 2);
    assert_int_equal(json_array_size(json_object_get(json_array_get(parts, 1), "tensors")), 1);
    json_decref(root);
}

static void test_memory_runs_out(void **unused) {
    (void)unused;
    tensor gate = {.name = "blk.0.ffn_gate.weight"}, up = {.name = "blk.0.ffn_up.weight"};
    sensitivity_part parts[2] = {{.matrices = {&gate, &up}, .n = 2, .elements = 64},
                                 {.matrices = {&gate}, .n = 1, .elements = 32}};
    quant_format formats[2] = {QF_FP8, QF_NVFP4};
    const plan p = {.found = {.parts = parts, .n = 2}, .part_formats = formats};
    char path[] = "/tmp/nibble-plan-XXXXXX";
    const int fd = mkstemp(path);
    nib_error err;
    int failed = 0;
    assert_true(fd >= 0);
    close(fd);
    for (long n = 0; n < 1000; n++) {
        to_fail = n;
        json_set_alloc_funcs(failing_alloc, free);
        const nib_status status = plan_write(&p, path, &err);
        json_set_alloc_funcs(malloc, free);
        failed += status != NIB_OK;
        if (status != NIB_OK)
            assert_int_equal(status, NIB_NO_MEMORY);
        else
            check_written(path);
        if (to_fail >= 0)
            break;
    }
    assert_in_range(failed, 20, 998);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_memory_runs_out)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
