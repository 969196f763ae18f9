/* SPDX-License-Identifier: Apache-2.0
 *
 * Every file of tests/golden/bad is refused with its sentence within a second, and no failing allocation on
 * the way brings the reader down. Files whose fault lies above the store are opened all the same.
 */
#include "fixture.h"

#include "base/clock.h"
#include "base/mem.h"
#include "store/model_file.h"

typedef struct bad_file {
    char path[512], room[16], sentence[1024];
} bad_file;

/* One line of EXPECTED.tsv, the sentence's {} and {dir} replaced; false at the end. */
static bool next_bad(FILE *list, bad_file *out) {
    char line[1024], *fields[5], *rest = line;
    if (!fgets(line, sizeof line, list))
        return false;
    line[strcspn(line, "\n")] = '\0';
    for (int i = 0; i < 5; i++) {
        fields[i] = strsep(&rest, "\t");
        assert_non_null(fields[i]);
    }
    snprintf(out->path, sizeof out->path, "%s/golden/bad/%s", TESTS_DIR, fields[0]);
    snprintf(out->room, sizeof out->room, "%s", fields[1]);
    size_t n = 0;
    for (const char *p = fields[4]; *p && n < sizeof out->sentence - sizeof out->path; p++) {
        if (strncmp(p, "{}", 2) == 0) {
            n += (size_t)sprintf(out->sentence + n, "%s", out->path);
            p++;
        } else if (strncmp(p, "{dir}", 5) == 0) {
            n += (size_t)sprintf(out->sentence + n, "%s/golden/bad", TESTS_DIR);
            p += 4;
        } else {
            out->sentence[n++] = *p;
        }
    }
    out->sentence[n] = '\0';
    return true;
}

static FILE *open_list(void) {
    FILE *list = fopen(TESTS_DIR "/golden/bad/EXPECTED.tsv", "r");
    assert_non_null(list);
    return list;
}

/* Equal, but for what an error has no room for. */
static bool says(const char *text, const char *sentence) {
    size_t n = strlen(text), full = sizeof((nib_error *)NULL)->text - 1;
    return strcmp(text, sentence) == 0 || (n == full && strncmp(text, sentence, n) == 0);
}

static void check_refused(const bad_file *bad) {
    model_file *f;
    nib_error err = {""};
    double from = clock_seconds();
    nib_status status = model_file_open(&f, bad->path, &err);
    if (clock_seconds() - from > 1)
        fail_msg("%s took more than a second", bad->path);
    if (strcmp(bad->room, "store") == 0) {
        if (status == NIB_OK)
            fail_msg("%s was not refused", bad->path);
        if (!says(err.text, bad->sentence))
            fail_msg("%s\n  said     %s\n  expected %s", bad->path, err.text, bad->sentence);
        return;
    }
    if (status != NIB_OK)
        fail_msg("%s: %s", bad->path, err.text);
    if (strcmp(bad->room, "model") == 0) {
        assert_int_equal(model_file_need_network(f, &err), NIB_UNSUPPORTED);
        if (!says(err.text, bad->sentence))
            fail_msg("%s\n  said     %s\n  expected %s", bad->path, err.text, bad->sentence);
    }
    model_file_close(f);
}

static void test_sentences(void **state) {
    (void)state;
    FILE *list = open_list();
    bad_file bad;
    int n = 0;
    for (; next_bad(list, &bad); n++)
        check_refused(&bad);
    fclose(list);
    assert_in_range(n, 60, 1000);
}

/* Opens PATH with the N-th allocation failing, for growing N, until none fails. */
static void fail_allocations(const char *path, bool words_only) {
    for (long n = 0;; n += 1 + n / 8) {
        model_file *f;
        nib_error err = {""};
        mem_fail_after(n);
        nib_status status =
            words_only ? model_file_open_words(&f, path, &err) : model_file_open(&f, path, &err);
        mem_fail_after(-1);
        if (status == NIB_OK)
            model_file_close(f);
        else
            assert_true(err.text[0] != '\0');
        if (status != NIB_NO_MEMORY)
            return;
        assert_in_range(n, 0, 1000000);
    }
}

static void test_no_memory(void **state) {
    (void)state;
    FILE *list = open_list();
    bad_file bad;
    while (next_bad(list, &bad))
        fail_allocations(bad.path, false);
    fclose(list);
    static const char *const good[] = {"llama.gguf", "qwen3", "lone.safetensors"};
    for (size_t i = 0; i < 3; i++) {
        char path[512];
        model_file *f;
        nib_error err;
        snprintf(path, sizeof path, "%s/golden/bad/good/%s", TESTS_DIR, good[i]);
        ASSERT_OK(model_file_open(&f, path, &err));
        assert_int_equal(f->has_network, i < 2);
        model_file_close(f);
        fail_allocations(path, false);
        fail_allocations(path, true);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sentences),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
