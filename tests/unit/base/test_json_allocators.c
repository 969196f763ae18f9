/* SPDX-License-Identifier: Apache-2.0
 *
 * jansson's allocators belong to the process, and json_read leaves them alone: those that a program gave, and
 * jansson's own. A program of its own, since they do.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/json.h"

static int n_taken, n_given;

static void *count_alloc(size_t bytes) {
    n_taken++;
    return malloc(bytes);
}

static void count_free(void *block) {
    n_given += block != NULL;
    free(block);
}

static void assert_functions(json_malloc_t expected_alloc, json_free_t expected_free) {
    json_malloc_t allocate;
    json_free_t release;
    json_get_alloc_funcs(&allocate, &release);
    assert_true(allocate == expected_alloc && release == expected_free);
}

static void test_allocators_stay(void **unused) {
    (void)unused;
    json_t *root;
    assert_int_equal(json_read(&root, "[1]", 3, "here", NULL), NIB_OK);
    json_decref(root);
    assert_functions(malloc, free);
    json_set_alloc_funcs(count_alloc, count_free);
    nib_error err = {""};
    static const char sound[] = "{\"a\": [1, 2, \"three\"]}", broken[] = "{\"a\": [1, 2";
    assert_int_equal(json_read(&root, sound, sizeof sound - 1, "here", &err), NIB_OK);
    json_decref(root);
    assert_int_equal(json_read(&root, broken, sizeof broken - 1, "here", &err), NIB_BAD_FILE);
    assert_functions(count_alloc, count_free);
    json_text_free(json_dumps(json_null(), JSON_ENCODE_ANY));
    json_text_free(NULL);
    assert_true(n_taken > 0);
    assert_int_equal(n_taken, n_given);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_allocators_stay)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
