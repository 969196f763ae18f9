/* SPDX-License-Identifier: Apache-2.0
 *
 * Numbers, masks, tables and sizes of the program.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/json.h"
#include "cli/cli.h"
#include "cli/lines.h"
#include "cli/ui.h"

static void test_integers(void **unused) {
    (void)unused;
    long long n = 0;
    assert_true(cli_integer("42", 0, 100, &n) && n == 42);
    assert_true(cli_integer("-3", -5, 5, &n) && n == -3);
    assert_true(cli_integer("9223372036854775807", 0, INT64_MAX, &n) && n == INT64_MAX);
    static const char *const bad[] = {
        "", "x", "4x", "4 ", "101", "-1", "1e2", "0x10", "99999999999999999999", "4.0"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(cli_integer(bad[i], 0, 100, &n));
}

static void test_reals(void **unused) {
    (void)unused;
    double x = 0;
    assert_true(cli_real("0.8", 0, 1, &x) && x == 0.8);
    assert_true(cli_real("1e-3", 0, 1, &x) && x == 1e-3);
    static const char *const bad[] = {"", "x", "1.1", "-0.1", "nan", "inf", "0,5", "1e999"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(cli_real(bad[i], 0, 1, &x));
}

static void test_cpu_mask(void **unused) {
    (void)unused;
    unsigned mask = 0;
    assert_true(cli_cpu_mask("scalar", &mask) && mask == NIB_CPU_SCALAR);
    assert_true(cli_cpu_mask("avx2", &mask) && mask == (NIB_CPU_SCALAR | NIB_CPU_AVX2));
    assert_true(cli_cpu_mask("scalar,avx512", &mask) &&
                mask == (NIB_CPU_SCALAR | NIB_CPU_AVX2 | NIB_CPU_AVX512));
    assert_true(cli_cpu_mask("11", &mask) && mask == 11);
    assert_false(cli_cpu_mask("", &mask) || cli_cpu_mask("sse2", &mask) || cli_cpu_mask("avx2,", &mask) ||
                 cli_cpu_mask("0", &mask) || cli_cpu_mask("16", &mask) || cli_cpu_mask("4096", &mask) ||
                 cli_cpu_mask("avx", &mask) || cli_cpu_mask("amx", &mask));
}

static void check_text(bool terminal, const char *text, size_t n, const char *expected) {
    char *out;
    size_t size;
    FILE *stream = open_memstream(&out, &size);
    assert_non_null(stream);
    ui_put_text(stream, terminal, text, n);
    fclose(stream);
    assert_int_equal(size, strlen(expected));
    assert_memory_equal(out, expected, size);
    free(out);
}

static void test_model_text(void **unused) {
    (void)unused;
    static const char sound[] = "a\tb\n\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\xC2\xA0";
    check_text(true, sound, sizeof sound - 1, sound);
    static const struct {
        const char *text, *shown;
    } cases[] = {
        {"\033[2Jx", "\\x1b[2Jx"},
        {"\r\x7F", "\\x0d\\x7f"},
        {"\xC2\x9B[2J", "\\xc2\\x9b[2J"}, /* CSI as a C1 control */
        {"\xC2\x80\xC2\x9F\xC2\xA1", "\\xc2\\x80\\xc2\\x9f\xC2\xA1"},
        {"\x9B[2J", "\\x9b[2J"}, /* the same for an 8-bit terminal: no UTF-8 */
        {"\xE2\x82", "\\xe2\\x82"},
        {"\xC0\x9B\xED\xA0\x80", "\\xc0\\x9b\\xed\\xa0\\x80"}, /* overlong, surrogate */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        check_text(true, cases[i].text, strlen(cases[i].text), cases[i].shown);
        check_text(false, cases[i].text, strlen(cases[i].text), cases[i].text);
    }
    check_text(true, "\0x", 2, "\\x00x");
}

static const ui_column columns[] = {{"name", "name", false}, {"t/s", "ts", true}};

/* What ui_table_print writes, freed by the caller. */
static char *printed(ui_table_format format) {
    ui_table t = {.columns = columns, .n_columns = 2};
    assert_true(ui_table_add(&t, "a \"b\", c") && ui_table_add(&t, "%.1f", 12.5));
    assert_true(ui_table_add(&t, "µ") && ui_table_add(&t, "%s", ""));
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    assert_non_null(out);
    ui_table_print(&t, format, out);
    fclose(out);
    ui_table_free(&t);
    return text;
}

static void test_tables(void **unused) {
    (void)unused;
    char *text = printed(UI_MD);
    assert_string_equal(text, "| name     |  t/s |\n"
                              "| -------- | ---: |\n"
                              "| a \"b\", c | 12.5 |\n"
                              "| µ        |      |\n");
    free(text);
    text = printed(UI_CSV);
    assert_string_equal(text, "name,ts\n\"a \"\"b\"\", c\",12.5\nµ,\n");
    free(text);
    text = printed(UI_JSON);
    json_t *json = NULL;
    assert_int_equal(json_read(&json, text, strlen(text), "table", NULL), NIB_OK);
    assert_int_equal(json_array_size(json), 2);
    assert_string_equal(json_string_value(json_object_get(json_array_get(json, 0), "name")), "a \"b\", c");
    assert_true(json_real_value(json_object_get(json_array_get(json, 0), "ts")) == 12.5);
    assert_true(json_is_null(json_object_get(json_array_get(json, 1), "ts")));
    json_decref(json);
    free(text);
}

static void test_sizes(void **unused) {
    (void)unused;
    char text[32];
    assert_string_equal(ui_bytes(text, sizeof text, 0), "0 B");
    assert_string_equal(ui_bytes(text, sizeof text, 1536), "1.50 KiB");
    assert_string_equal(ui_bytes(text, sizeof text, 144ull << 20), "144.0 MiB");
    assert_string_equal(ui_bytes(text, sizeof text, 5ull << 40), "5.00 TiB");
}

static void test_exit_codes(void **unused) {
    (void)unused;
    nib_error err = {"x: a sentence"};
    assert_int_equal(cli_fail(NIB_OK, &err), CLI_OK);
    assert_int_equal(cli_fail(NIB_BAD_FILE, &err), CLI_BAD_INPUT);
    assert_int_equal(cli_fail(NIB_UNSUPPORTED, &err), CLI_BAD_INPUT);
    assert_int_equal(cli_fail(NIB_IO, &err), CLI_BAD_INPUT);
    assert_int_equal(cli_fail(NIB_NO_MEMORY, &err), CLI_BAD_INPUT);
    assert_int_equal(cli_fail(NIB_BAD_ARGUMENT, &err), CLI_BAD_INPUT);
    cli_interrupted = SIGTERM;
    assert_int_equal(cli_fail(NIB_CANCELLED, &err), 128 + SIGTERM);
    cli_interrupted = 0;
}

static void test_history_path(void **unused) {
    (void)unused;
    char folder[] = "/tmp/test_cli_XXXXXX", path[1024], expected[1024];
    assert_non_null(mkdtemp(folder));
    assert_int_equal(setenv("XDG_DATA_HOME", folder, 1), 0);
    assert_true(lines_history_path(path, sizeof path));
    snprintf(expected, sizeof expected, "%s/nibble/history", folder);
    assert_string_equal(path, expected);
    unsetenv("XDG_DATA_HOME");
    assert_int_equal(setenv("HOME", folder, 1), 0);
    assert_true(lines_history_path(path, sizeof path));
    snprintf(expected, sizeof expected, "%s/.local/share/nibble", folder);
    struct stat st;
    assert_int_equal(stat(expected, &st), 0);
    assert_false(lines_history_path(path, 8)); /* too long a path is none */
    unsetenv("HOME");
    assert_false(lines_history_path(path, sizeof path));
    static const char *const made[] = {"/nibble", "/.local/share/nibble", "/.local/share", "/.local", ""};
    for (size_t i = 0; i < sizeof made / sizeof *made; i++) {
        snprintf(path, sizeof path, "%s%s", folder, made[i]);
        assert_int_equal(remove(path), 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_integers),   cmocka_unit_test(test_reals),
        cmocka_unit_test(test_model_text), cmocka_unit_test(test_cpu_mask),
        cmocka_unit_test(test_tables),     cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_exit_codes), cmocka_unit_test(test_history_path)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
