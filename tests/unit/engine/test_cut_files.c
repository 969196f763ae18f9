/* SPDX-License-Identifier: Apache-2.0
 *
 * A model's file that is cut short under a program: after nib_open it does not matter; while nib_open reads
 * it, it is an error in words. Through a map it would be SIGBUS.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/mapfile.h"
#include "tiny_engine.h"

static char folder[] = "/tmp/nibble-cut-XXXXXX", weights_path[512];

static void copy_file(const char *name) {
    static char bytes[1 << 20];
    char path[512];
    snprintf(path, sizeof path, "%s/%s", TINY, name);
    FILE *in = fopen(path, "rb");
    assert_non_null(in);
    size_t n = fread(bytes, 1, sizeof bytes, in);
    fclose(in);
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(bytes, 1, n, out), n);
    fclose(out);
}

static int make_folder(void **state) {
    (void)state;
    if (!mkdtemp(folder))
        return 1;
    copy_file("config.json");
    copy_file("tokenizer.json");
    copy_file("tokenizer_config.json");
    snprintf(weights_path, sizeof weights_path, "%s/model.safetensors", folder);
    return 0;
}

static int remove_folder(void **state) {
    (void)state;
    static const char *const names[] = {"config.json", "tokenizer.json", "tokenizer_config.json",
                                        "model.safetensors"};
    char path[512];
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    return rmdir(folder);
}

static void test_cut_after_opening(void **state) {
    (void)state;
    nib_engine *whole = open_tiny(&(nib_options){.max_model_len = 100}, NULL), *cut;
    nib_error err = {""};
    answer a, b;
    for (int f32 = 0; f32 < 2; f32++) {
        copy_file("model.safetensors");
        nib_options o = {.size = sizeof o,
                         .threads = 1,
                         .max_model_len = 100,
                         .activations = f32 ? NIB_ACTIVATIONS_F32 : NIB_ACTIVATIONS_AUTO};
        if (nib_open(&cut, folder, &o, &err) != NIB_OK)
            fail_msg("%s", err.text);
        assert_int_equal(truncate(weights_path, 0), 0);
        read_answer(submit(cut, 60), &b);
        assert_int_equal(b.end.reason, NIB_END_LENGTH);
        if (!f32) {
            read_answer(submit(whole, 60), &a);
            assert_memory_equal(a.tokens, b.tokens, 60 * sizeof(int32_t));
            assert_string_equal(a.text, b.text);
        }
        nib_close(cut);
    }
    nib_close(whole);
}

static bool cut_it(void *context, const char *what, uint64_t done, uint64_t total) {
    int *at = context;
    (void)what, (void)done, (void)total;
    if ((*at)-- == 0)
        assert_int_equal(truncate(weights_path, 0), 0);
    return true;
}

static void test_cut_while_opening(void **state) {
    (void)state;
    for (int at = 0; at < 3; at++) {
        int left = at;
        nib_engine *e;
        nib_error err = {""};
        nib_options o = {.size = sizeof o, .threads = 1, .progress = cut_it, .progress_context = &left};
        copy_file("model.safetensors");
        assert_int_equal(nib_open(&e, folder, &o, &err), NIB_BAD_FILE);
        assert_null(e);
        assert_non_null(strstr(err.text, "cut short while it was read"));
        assert_non_null(strstr(err.text, folder));
    }
}

static void test_read(void **state) {
    (void)state;
    mapfile m;
    char bytes[64], own[4] = "abc";
    nib_error err = {""};
    copy_file("model.safetensors");
    assert_int_equal(mapfile_open(&m, weights_path, &err), NIB_OK);
    assert_int_equal(mapfile_read(bytes, m.bytes + 10, 64, &err), NIB_OK);
    assert_memory_equal(bytes, m.bytes + 10, 64);
    assert_int_equal(mapfile_read(bytes, own, 4, &err), NIB_OK);
    assert_string_equal(bytes, "abc");
    assert_int_equal(truncate(weights_path, 50), 0);
    assert_int_equal(mapfile_read(bytes, m.bytes + 10, 40, &err), NIB_OK);
    assert_int_equal(mapfile_read(bytes, m.bytes + 10, 41, &err), NIB_BAD_FILE);
    assert_string_equal(err.text, "cut short while it was read, at byte 50");
    mapfile_close(&m);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut_after_opening),
        cmocka_unit_test(test_cut_while_opening),
        cmocka_unit_test(test_read),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
