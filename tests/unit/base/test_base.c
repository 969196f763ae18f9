/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory, arena, error sentences, mapped files, JSON.
 */
#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/mapfile.h"
#include "base/mem.h"

static void test_mem(void **state) {
    (void)state;
    size_t n;
    assert_false(mem_mul(SIZE_MAX, 2, &n));
    assert_false(mem_add(SIZE_MAX, 1, &n));
    assert_true(mem_mul(3, 5, &n) && n == 15);
    assert_null(mem_array(SIZE_MAX / 2, 3));
    assert_null(mem_resize(NULL, SIZE_MAX, 2));
    assert_null(mem_aligned(SIZE_MAX));
    unsigned char *zeros = mem_array(100, 3);
    for (int i = 0; i < 300; i++)
        assert_int_equal(zeros[i], 0);
    zeros = mem_resize(zeros, 1000, 1);
    assert_non_null(zeros);
    mem_free(zeros);
    void *aligned = mem_aligned(100);
    assert_int_equal((uintptr_t)aligned % 64, 0);
    mem_free(aligned);
    char *text = mem_copy_text("hello", 4);
    assert_string_equal(text, "hell");
    mem_free(text);

    mem_fail_after(1);
    void *first = mem_alloc(8);
    assert_non_null(first);
    assert_null(mem_alloc(8));
    assert_null(mem_array(1, 1));
    assert_null(mem_resize(first, 2, 8));
    assert_null(mem_aligned(8));
    assert_null(mem_copy_text("x", 1));
    mem_fail_after(-1);
    mem_free(first);
}

static void test_arena(void **state) {
    (void)state;
    arena a = {0};
    unsigned char *pieces[200];
    for (int i = 0; i < 200; i++) {
        size_t n = (size_t)i * 997 % 40000;
        pieces[i] = arena_alloc(&a, n, 1);
        assert_non_null(pieces[i]);
        assert_int_equal((uintptr_t)pieces[i] % 16, 0);
        for (size_t j = 0; j < n; j++)
            assert_int_equal(pieces[i][j], 0);
        memset(pieces[i], i, n);
    }
    for (int i = 0; i < 200; i++)
        for (size_t j = 0; j < (size_t)i * 997 % 40000; j++)
            assert_int_equal(pieces[i][j], (unsigned char)i);
    assert_string_equal(arena_format(&a, "%d-%s", 7, "x"), "7-x");
    assert_string_equal(arena_text(&a, "abc", 2), "ab");
    assert_null(arena_alloc(&a, SIZE_MAX, 2));
    assert_null(arena_alloc(&a, SIZE_MAX - 8, 1));
    mem_fail_after(0);
    assert_null(arena_alloc(&a, 1 << 20, 1));
    mem_fail_after(-1);
    arena_free(&a);
    assert_null(a.head);
}

static void test_sentences(void **state) {
    (void)state;
    nib_error err;
    assert_int_equal(nib_fail(NULL, NIB_IO, "%d", 1), NIB_IO);
    assert_int_equal(
        nib_fail(&err, NIB_BAD_FILE, "a\033[2J b\xff\xfe c\xc3\xa4 \xe2\x82\xac \xc2\x9b \xed\xa0\x80"),
        NIB_BAD_FILE);
    assert_string_equal(err.text, "a?[2J b?? c\xc3\xa4 \xe2\x82\xac ?? ???");
    char big[2000];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    nib_fail(&err, NIB_IO, "%s", big);
    assert_int_equal(strlen(err.text), sizeof err.text - 1);
    assert_true(clock_seconds() <= clock_seconds());
}

static void test_mapfile(void **state) {
    (void)state;
    mapfile m;
    nib_error err;
    assert_int_equal(mapfile_open(&m, "/no/such/file", &err), NIB_IO);
    assert_int_equal(mapfile_open(&m, "/tmp", &err), NIB_BAD_FILE);
    assert_non_null(strstr(err.text, "is a directory"));
    assert_int_equal(mapfile_open(&m, "/dev/null", &err), NIB_BAD_FILE);
    char path[] = "/tmp/nibble-map-XXXXXX";
    int fd = mkstemp(path);
    assert_int_equal(mapfile_open(&m, path, &err), NIB_BAD_FILE);
    assert_non_null(strstr(err.text, "empty"));
    assert_null(m.bytes);
    mapfile_close(&m);
    static char page[20000];
    memset(page, 7, sizeof page);
    assert_int_equal(write(fd, page, sizeof page), sizeof page);
    close(fd);
    assert_int_equal(mapfile_open(&m, path, &err), NIB_OK);
    mapfile_forget(m.bytes + 1, m.size - 1);
    assert_memory_equal(m.bytes, page, sizeof page); /* read again */
    mapfile_close(&m);
    unlink(path);
}

static nib_status parse(const char *text, nib_error *err) {
    json_t *root = NULL;
    nib_status status = json_read(&root, text, strlen(text), "x.json", err);
    json_decref(root);
    return status;
}

static void test_json(void **state) {
    (void)state;
    nib_error err;
    assert_int_equal(parse("{\"a\": [1, 2.5, null, \"\\u20ac\"]}", &err), NIB_OK);
    assert_int_equal(parse("{\"a\": 1, \"a\": 2}", &err), NIB_BAD_FILE);
    assert_non_null(strstr(err.text, "duplicate"));
    assert_non_null(strstr(err.text, "x.json"));
    assert_int_equal(parse("{} x", &err), NIB_BAD_FILE);
    assert_int_equal(parse("\"\xff\"", &err), NIB_BAD_FILE);
    assert_int_equal(parse("", &err), NIB_BAD_FILE);
    assert_int_equal(parse("1e999", &err), NIB_BAD_FILE);
    char *deep = mem_alloc(2000001);
    assert_non_null(deep);
    memset(deep, '[', 2000000);
    deep[2000000] = '\0';
    assert_int_equal(parse(deep, &err), NIB_BAD_FILE);
    mem_free(deep);

    json_t *root; /* what real tokenizer_config.json files hold */
    const char *big = "{\"model_max_length\": 1000000000000000019884624838656, \"n\": 9223372036854775807, "
                      "\"s\": \"1000000000000000019884624838656\"}";
    assert_int_equal(json_read(&root, big, strlen(big), "x", &err), NIB_OK);
    assert_true(json_is_real(json_object_get(root, "model_max_length")));
    assert_true(json_real_value(json_object_get(root, "model_max_length")) > 0.99e30);
    assert_int_equal(json_integer_value(json_object_get(root, "n")), INT64_MAX);
    assert_string_equal(json_string_value(json_object_get(root, "s")), "1000000000000000019884624838656");
    json_decref(root);
}

/* A real made of an integer is never printed on the way: the decimal comma of a host's locale stays out. */
static void test_json_in_locales(void **state) {
    (void)state;
    static const char *const locales[] = {"C", "de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "C"};
    static const char *const numbers[] = {"1000000000000000019884624838656",
                                          "-1000000000000000019884624838656", "9223372036854775808",
                                          "-9223372036854775809", "18446744073709551615"};
    nib_error err;
    bool comma = false;
    for (size_t l = 0; l < sizeof locales / sizeof locales[0]; l++) {
        if (!setlocale(LC_ALL, locales[l]))
            continue; /* not on this machine */
        comma |= *localeconv()->decimal_point == ',';
        for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
            json_t *root;
            assert_int_equal(json_read(&root, numbers[i], strlen(numbers[i]), "x", &err), NIB_OK);
            assert_true(json_real_value(root) == strtod(numbers[i], NULL));
            json_decref(root);
        }
        assert_int_equal(parse("[12345678901234567890-3]", &err), NIB_BAD_FILE);
        assert_int_equal(parse("[012345678901234567890]", &err), NIB_BAD_FILE);
    }
    if (!comma)
        print_message("SKIP: no locale here has a decimal comma\n");
}

/* Digits past any double are refused. */
static void test_json_huge(void **state) {
    (void)state;
    nib_error err;
    char digits[1000];
    memset(digits, '9', sizeof digits);
    digits[sizeof digits - 1] = '\0';
    assert_int_equal(parse(digits, &err), NIB_BAD_FILE);
    assert_non_null(strstr(err.text, "real number overflow"));
}

static void test_json_without_memory(void **state) {
    (void)state;
    nib_error err;
    const char *text =
        "{\"a\": [1, 2, {\"b\": \"a longer string than fits\"}], \"c\": 100000000000000000000000}";
    nib_status status = NIB_NO_MEMORY;
    for (long n = 0; status != NIB_OK; n++) {
        mem_fail_after(n);
        status = parse(text, &err);
        mem_fail_after(-1);
        assert_true(status == NIB_OK || status == NIB_NO_MEMORY);
        assert_true(n < 1000);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mem),       cmocka_unit_test(test_arena),
        cmocka_unit_test(test_sentences), cmocka_unit_test(test_mapfile),
        cmocka_unit_test(test_json),      cmocka_unit_test(test_json_in_locales),
        cmocka_unit_test(test_json_huge), cmocka_unit_test(test_json_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
