/* SPDX-License-Identifier: Apache-2.0
 *
 * safetensors written and read back, and what the writer refuses.
 */
#include "../store/fixture.h"

#include "export/safetensors_write.h"
#include "store/safetensors.h"

static const safetensors_tensor *find(const safetensors *s, const char *name) {
    for (size_t i = 0; i < s->n_tensors; i++)
        if (strcmp(s->tensors[i].name, name) == 0)
            return &s->tensors[i];
    fail_msg("no tensor %s", name);
    return NULL;
}

static void test_round_trip(void **state) {
    (void)state;
    nib_error err = {""};
    safetensors_write *w;
    safetensors s;
    uint64_t size;
    char bytes[4 + 12 + 8 + 2];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (char)(i * 3);
    for (size_t cut = 1; cut < 30; cut += 7) {
        ASSERT_OK(safetensors_write_open(&w, fixture_path("a.safetensors"), &err));
        safetensors_write_tensor(w, "scalar", DT_F32, 0, NULL);
        safetensors_write_tensor(w, "quote\"d", DT_BF16, 3, (size_t[]){1, 2, 3});
        safetensors_write_tensor(w, "codes", DT_NVFP4, 2, (size_t[]){1, 8});
        safetensors_write_tensor(w, "scales", DT_F8_E4M3, 2, (size_t[]){2, 1});
        ASSERT_OK(safetensors_write_begin(w, &err));
        for (size_t i = 0; i < sizeof bytes; i += cut)
            ASSERT_OK(
                safetensors_write_data(w, bytes + i, sizeof bytes - i < cut ? sizeof bytes - i : cut, &err));
        ASSERT_OK(safetensors_write_commit(w, &size, &err));
        ASSERT_OK(safetensors_open(&s, fixture_path("a.safetensors"), &err));
        assert_int_equal(s.n_tensors, 4);
        assert_int_equal(s.map.size, size);
        assert_int_equal((uintptr_t)s.tensors[0].data % 8, 0);
        const safetensors_tensor *t = find(&s, "quote\"d");
        assert_int_equal(t->dtype, DT_BF16);
        assert_int_equal(t->n_dims, 3);
        assert_int_equal(t->dims[2], 3);
        assert_memory_equal(t->data, bytes + 4, 12);
        assert_string_equal(find(&s, "codes")->dtype_name, "U8");
        assert_memory_equal(find(&s, "scales")->data, bytes + 24, 2);
        safetensors_close(&s);
    }
    FILE *f = fopen(fixture_path("a.safetensors"), "rb"); /* transformers asks for this line */
    char head[64] = "";
    assert_int_equal(fread(head, 1, sizeof head - 1, f), sizeof head - 1);
    fclose(f);
    assert_non_null(strstr(head + 8, "{\"__metadata__\":{\"format\":\"pt\"}"));
}

static safetensors parse(const char *header, size_t data_bytes) {
    static char file[1024];
    size_t n = strlen(header);
    safetensors s = {0};
    nib_error err = {""};
    assert_true(8 + n + data_bytes <= sizeof file);
    memcpy(file, &(uint64_t){n}, 8);
    memcpy(file + 8, header, n);
    ASSERT_OK(safetensors_parse(&s, file, 8 + n + data_bytes, "file", &err));
    return s;
}

/* What the format allows though we do not write it: white space in front, no elements, codes of four bits. */
static void test_legal(void **state) {
    (void)state;
    safetensors s = parse("\n {\"none\":{\"dtype\":\"F32\",\"shape\":[3,0],\"data_offsets\":[0,0]},"
                          "\"codes\":{\"dtype\":\"F4\",\"shape\":[2,6],\"data_offsets\":[0,6]},"
                          "\"none either\":{\"dtype\":\"BF16\",\"shape\":[0],\"data_offsets\":[6,6]}}",
                          6);
    assert_int_equal(s.n_tensors, 3);
    assert_true(find(&s, "none")->bytes == 0 && find(&s, "none either")->bytes == 0);
    const safetensors_tensor *t = find(&s, "codes");
    assert_true(t->dtype == DT_U8 && t->bytes == 6 && t->dims[0] == 2 && t->dims[1] == 3);
    assert_string_equal(t->dtype_name, "F4");
    safetensors_close(&s);
}

static void expect_refused(const char *words, dtype first, dtype second, const char *second_name) {
    nib_error err = {""};
    safetensors_write *w;
    ASSERT_OK(safetensors_write_open(&w, fixture_path("b.safetensors"), &err));
    safetensors_write_tensor(w, "a", first, 1, (size_t[]){3});
    safetensors_write_tensor(w, second_name, second, 1, (size_t[]){2});
    assert_int_not_equal(safetensors_write_begin(w, &err), NIB_OK);
    assert_words(&err, words);
    safetensors_write_abandon(w);
    assert_int_not_equal(access(fixture_path("b.safetensors"), F_OK), 0);
}

static void test_writer_refusals(void **state) {
    (void)state;
    expect_refused("declared twice: tensor a", DT_U8, DT_U8, "a");
    expect_refused("multiples of the element size; misplaced tensor b", DT_U8, DT_F32, "b");
    expect_refused("safetensors has no dtype for tensor b", DT_U8, DT_Q4_K, "b");
    nib_error err = {""};
    safetensors_write *w;
    ASSERT_OK(safetensors_write_open(&w, fixture_path("b.safetensors"), &err));
    safetensors_write_tensor(w, "a", DT_U8, 1, (size_t[]){3});
    ASSERT_OK(safetensors_write_begin(w, &err));
    assert_int_equal(safetensors_write_data(w, "1234", 4, &err), NIB_BAD_ARGUMENT);
    ASSERT_OK(safetensors_write_data(w, "12", 2, &err));
    assert_int_equal(safetensors_write_commit(w, NULL, &err), NIB_BAD_ARGUMENT);
    assert_words(&err, "2 of 3 declared bytes were written");
    assert_int_not_equal(access(fixture_path("b.safetensors"), F_OK), 0);
}

/* A last tensor of as many bytes as come. */
static void test_rest(void **state) {
    (void)state;
    static char bytes[100000];
    static const size_t sizes[] = {0, 1, 9, 10, 99999};
    nib_error err = {""};
    safetensors_write *w;
    safetensors s;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        uint64_t size;
        memset(bytes, (int)i + 1, sizeof bytes);
        ASSERT_OK(safetensors_write_open(&w, fixture_path("c.safetensors"), &err));
        safetensors_write_tensor(w, "first", DT_I32, 1, (size_t[]){1});
        safetensors_write_rest(w, "all");
        ASSERT_OK(safetensors_write_begin(w, &err));
        ASSERT_OK(safetensors_write_data(w, "1234", 4, &err));
        ASSERT_OK(safetensors_write_data(w, bytes, sizes[i] / 2, &err));
        ASSERT_OK(safetensors_write_data(w, bytes, sizes[i] - sizes[i] / 2, &err));
        ASSERT_OK(safetensors_write_commit(w, &size, &err));
        ASSERT_OK(safetensors_open(&s, fixture_path("c.safetensors"), &err));
        assert_int_equal(s.map.size, size);
        assert_memory_equal(find(&s, "first")->data, "1234", 4);
        const safetensors_tensor *t = find(&s, "all");
        assert_true(t->dtype == DT_U8 && t->n_dims == 1 && t->bytes == sizes[i]);
        assert_memory_equal(t->data, bytes, sizes[i]);
        safetensors_close(&s);
    }
    ASSERT_OK(safetensors_write_open(&w, fixture_path("b.safetensors"), &err));
    safetensors_write_tensor(w, "a", DT_U8, 1, (size_t[]){3});
    safetensors_write_rest(w, "a");
    assert_int_equal(safetensors_write_begin(w, &err), NIB_BAD_ARGUMENT);
    assert_words(&err, "declared twice: tensor a");
    safetensors_write_abandon(w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_legal),
        cmocka_unit_test(test_writer_refusals),
        cmocka_unit_test(test_rest),
    };
    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
