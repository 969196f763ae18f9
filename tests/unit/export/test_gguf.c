/* SPDX-License-Identifier: Apache-2.0
 *
 * GGUF written and read back: every value type, raw carry-over, tensors in any cuts, what the writer refuses,
 * and the checked reads.
 */
#include "../store/fixture.h"

#include <math.h>

#include "base/clock.h"
#include "base/mem.h"
#include "export/gguf_write.h"
#include "store/gguf.h"

static const strview texts[] = {{"", 0}, {"one", 3}, {"t\303\274", 3}};

static void write_keys(gguf_write *w) {
    int8_t i8 = -3;
    uint16_t u16 = 65535;
    int16_t i16 = -32768;
    int64_t i64 = INT64_MIN;
    double f64 = 2.5;
    uint8_t u8 = 200;
    gguf_write_text(w, "general.architecture", strview_of("none"));
    gguf_write_scalar(w, "u8", GGUF_U8, &u8);
    gguf_write_scalar(w, "i8", GGUF_I8, &i8);
    gguf_write_scalar(w, "u16", GGUF_U16, &u16);
    gguf_write_scalar(w, "i16", GGUF_I16, &i16);
    gguf_write_u32(w, "u32", 1);
    gguf_write_i32(w, "i32", -7);
    gguf_write_u64(w, "u64", UINT64_MAX);
    gguf_write_scalar(w, "i64", GGUF_I64, &i64);
    gguf_write_f32(w, "f32", 0.1f);
    gguf_write_scalar(w, "f64", GGUF_F64, &f64);
    gguf_write_bool(w, "yes", true);
    gguf_write_bool(w, "no", false);
    gguf_write_array(w, "numbers", GGUF_I16, (int16_t[]){-1, 2, -3}, 3);
    gguf_write_array(w, "reals", GGUF_F32, (float[]){1.5f, -INFINITY}, 2);
    gguf_write_array(w, "none", GGUF_U64, NULL, 0);
    gguf_write_texts(w, "texts", texts, 3);
    gguf_write_u32(w, "dropped", 1);
    gguf_write_u32(w, "u32", 4000000000u); /* the later value stays */
    gguf_write_drop(w, "dropped");
    gguf_write_drop(w, "never there");
}

static void check_keys(const gguf *g) {
    nib_error err;
    int64_t v;
    float x;
    bool b, found;
    strview t;
    assert_int_equal(g->n_keys, 17);
    assert_null(gguf_find(g, "dropped"));
    static const struct {
        const char *name;
        int64_t value;
    } numbers[] = {{"u8", 200},         {"i8", -3},  {"u16", 65535},    {"i16", -32768},
                   {"u32", 4000000000}, {"i32", -7}, {"i64", INT64_MIN}};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        ASSERT_OK(gguf_get_int(g, numbers[i].name, INT64_MIN, INT64_MAX, &v, NULL, &err));
        assert_int_equal(v, numbers[i].value);
    }
    assert_int_equal(gguf_get_int(g, "u64", 0, INT64_MAX, &v, NULL, &err), NIB_BAD_FILE);
    assert_words(&err, "key u64 is out of bounds");
    assert_int_equal(gguf_get_int(g, "i32", -6, 6, &v, NULL, &err), NIB_BAD_FILE);
    assert_int_equal(gguf_get_int(g, "f32", 0, 9, &v, NULL, &err), NIB_BAD_FILE);
    assert_words(&err, "key f32 is of type f32, expected an integer");
    ASSERT_OK(gguf_get_float(g, "f32", &x, NULL, &err));
    assert_true(x == 0.1f);
    ASSERT_OK(gguf_get_float(g, "f64", &x, NULL, &err));
    assert_true(x == 2.5f);
    ASSERT_OK(gguf_get_bool(g, "yes", &b, &found, &err));
    assert_true(b && found);
    ASSERT_OK(gguf_get_bool(g, "no", &b, NULL, &err));
    assert_false(b);
    assert_int_equal(gguf_get_bool(g, "u8", &b, NULL, &err), NIB_BAD_FILE);
    ASSERT_OK(gguf_get_text(g, "general.architecture", &t, NULL, &err));
    assert_true(strview_is(t, "none"));
    ASSERT_OK(gguf_get_text(g, "absent", &t, &found, &err));
    assert_false(found);
    assert_int_equal(gguf_get_text(g, "absent", &t, NULL, &err), NIB_BAD_FILE);
    assert_words(&err, "key absent is missing");
    const gguf_key *k = gguf_find(g, "numbers");
    assert_int_equal(k->n_items, 3);
    assert_int_equal(gguf_item_int(k, 0), -1);
    assert_int_equal(gguf_item_int(k, 2), -3);
    k = gguf_find(g, "reals");
    assert_true(gguf_item_float(k, 0) == 1.5 && isinf(gguf_item_float(k, 1)));
    assert_int_equal(gguf_find(g, "none")->n_items, 0);
    strview read[3];
    k = gguf_find(g, "texts");
    assert_int_equal(k->n_items, 3);
    gguf_item_texts(k, read);
    for (int i = 0; i < 3; i++)
        assert_true(strview_equal(read[i], texts[i]));
}

static void check_tensors(const gguf *g) {
    assert_int_equal(g->n_tensors, 3);
    const gguf_tensor *t = gguf_find_tensor(g, "matrix");
    assert_non_null(t);
    assert_int_equal(t->dtype, DT_F32);
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->dims[0], 3);
    assert_int_equal(t->dims[1], 2);
    float values[6];
    memcpy(values, t->data, sizeof values);
    for (int i = 0; i < 6; i++)
        assert_true(values[i] == (float)i);
    t = gguf_find_tensor(g, "scalar");
    assert_int_equal(t->bytes, 4);
    assert_int_equal(t->n_dims, 0);
    t = gguf_find_tensor(g, "blocks");
    assert_int_equal(t->ggml_type, 40);
    assert_int_equal(t->bytes, 72);
    assert_int_equal(((const unsigned char *)t->data)[71], 71);
    assert_null(gguf_find_tensor(g, "matri"));
}

/* The data of the three tensors, in cuts that cross their borders. */
static void write_data(gguf_write *w, const char *bytes, size_t n, size_t cut) {
    nib_error err;
    for (size_t i = 0; i < n; i += cut)
        ASSERT_OK(gguf_write_data(w, bytes + i, n - i < cut ? n - i : cut, &err));
}

static void test_round_trip(void **state) {
    (void)state;
    char data[24 + 4 + 72];
    for (int i = 0; i < 6; i++)
        memcpy(data + 4 * i, &(float){(float)i}, 4);
    memcpy(data + 24, &(float){9}, 4);
    for (int i = 0; i < 72; i++)
        data[28 + i] = (char)i;
    for (size_t cut = 1; cut <= sizeof data; cut += 33) {
        nib_error err = {""};
        gguf_write *w;
        gguf g;
        uint64_t size;
        ASSERT_OK(gguf_write_open(&w, fixture_path("a.gguf"), &err));
        write_keys(w);
        gguf_write_tensor(w, "matrix", DT_F32, 2, (size_t[]){2, 3});
        gguf_write_tensor(w, "scalar", DT_F32, 0, NULL);
        gguf_write_tensor(w, "blocks", DT_GGUF_NVFP4, 2, (size_t[]){2, 64});
        ASSERT_OK(gguf_write_begin(w, &err));
        write_data(w, data, sizeof data, cut);
        ASSERT_OK(gguf_write_commit(w, &size, &err));
        ASSERT_OK(gguf_open(&g, fixture_path("a.gguf"), &err));
        assert_int_equal(g.map.size, size);
        check_keys(&g);
        check_tensors(&g);
        /* Once more, every key carried over raw. */
        ASSERT_OK(gguf_write_open(&w, fixture_path("b.gguf"), &err));
        for (size_t i = 0; i < g.n_keys; i++)
            gguf_write_copy(w, &g.keys[i]);
        ASSERT_OK(gguf_write_begin(w, &err));
        ASSERT_OK(gguf_write_commit(w, NULL, &err));
        gguf copy;
        ASSERT_OK(gguf_open(&copy, fixture_path("b.gguf"), &err));
        check_keys(&copy);
        gguf_close(&copy);
        gguf_close(&g);
    }
}

static void test_writer_refusals(void **state) {
    (void)state;
    nib_error err = {""};
    gguf_write *w;
    static const struct {
        dtype type;
        int n_dims;
        size_t dims[5];
        const char *name, *words;
    } bad[] = {{DT_NVFP4, 2, {2, 64}, "t", "GGUF has no type for tensor t"},
               {DT_F32, 5, {1, 1, 1, 1, 1}, "t", "4 dimensions"},
               {DT_Q4_0, 2, {4, 16}, "t", "no whole number of blocks"},
               {DT_F32, 2, {SIZE_MAX, 4}, "t", "wrap"}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ASSERT_OK(gguf_write_open(&w, fixture_path("c.gguf"), &err));
        gguf_write_tensor(w, bad[i].name, bad[i].type, bad[i].n_dims, bad[i].dims);
        assert_int_not_equal(gguf_write_begin(w, &err), NIB_OK);
        assert_words(&err, bad[i].words);
        gguf_write_abandon(w);
        assert_int_not_equal(access(fixture_path("c.gguf"), F_OK), 0);
    }
    ASSERT_OK(gguf_write_open(&w, fixture_path("c.gguf"), &err));
    gguf_write_tensor(w, "t", DT_F32, 1, (size_t[]){2});
    ASSERT_OK(gguf_write_begin(w, &err));
    assert_int_equal(gguf_write_data(w, "123456789", 9, &err), NIB_BAD_ARGUMENT);
    gguf_write_abandon(w);
    ASSERT_OK(gguf_write_open(&w, fixture_path("c.gguf"), &err));
    gguf_write_tensor(w, "t", DT_F32, 1, (size_t[]){2});
    ASSERT_OK(gguf_write_begin(w, &err));
    ASSERT_OK(gguf_write_data(w, "1234567", 7, &err));
    assert_int_equal(gguf_write_commit(w, NULL, &err), NIB_BAD_ARGUMENT);
    assert_words(&err, "bytes of tensor t were not written");
    assert_int_not_equal(access(fixture_path("c.gguf"), F_OK), 0);
}

static void test_types(void **state) {
    (void)state;
    int n = 0;
    for (int t = DT_NONE; t < DT_COUNT; t++) {
        uint32_t id;
        if (!gguf_ggml_type((dtype)t, &id))
            continue;
        n++;
        assert_int_equal(gguf_dtype(id), t);
        assert_non_null(gguf_ggml_name(id));
    }
    assert_int_equal(n, 31); /* F32 F16 BF16 F64, I8 to I64, 10 block formats, 9 IQ, 2 TQ, MXFP4, NVFP4 */
    assert_null(gguf_ggml_name(4));
    assert_null(gguf_ggml_name(1000));
    assert_string_equal(gguf_type_name((gguf_type)77), "unknown");
}

static void put(unsigned char **p, const void *bytes, size_t n) {
    memcpy(*p, bytes, n);
    *p += n;
}

/* Copying keys takes time by their number, not by its square. */
static void test_many_keys(void **state) {
    (void)state;
    enum { N = 65000, NAME = 40, EACH = 8 + NAME + 4 + 1 };
    unsigned char *bytes = mem_array(24 + N * EACH, 1), *p = bytes;
    const uint64_t counts[2] = {0, N}, name_bytes = NAME;
    const uint32_t version = 3, type = GGUF_U8;
    assert_non_null(bytes);
    put(&p, "GGUF", 4);
    put(&p, &version, 4);
    put(&p, counts, 16);
    for (int i = 0; i < N; i++) {
        char name[NAME + 1];
        snprintf(name, sizeof name, "%0*d", NAME, i);
        put(&p, &name_bytes, 8);
        put(&p, name, NAME);
        put(&p, &type, 4);
        *p++ = (unsigned char)i;
    }
    gguf g, copy;
    gguf_write *w;
    nib_error err;
    double from = clock_seconds();
    ASSERT_OK(gguf_parse(&g, bytes, (size_t)(p - bytes), "keys", &err));
    ASSERT_OK(gguf_write_open(&w, fixture_path("keys.gguf"), &err));
    for (size_t i = 0; i < g.n_keys; i++)
        gguf_write_copy(w, &g.keys[i]);
    gguf_write_u32(w, "0000000000000000000000000000000000000007", 7); /* in its place */
    gguf_write_u32(w, "general.file_type", 1);
    ASSERT_OK(gguf_write_begin(w, &err));
    ASSERT_OK(gguf_write_commit(w, NULL, &err));
    ASSERT_OK(gguf_open(&copy, fixture_path("keys.gguf"), &err));
    assert_true(clock_seconds() - from < 4); /* looking each of them up took 15 s */
    assert_int_equal(copy.n_keys, N + 1);
    for (size_t i = 0; i < N; i++) {
        assert_true(strview_equal(copy.keys[i].name, g.keys[i].name));
        assert_int_equal(copy.keys[i].type, i == 7 ? GGUF_U32 : GGUF_U8);
        assert_int_equal(*copy.keys[i].bytes, (unsigned char)i);
    }
    gguf_close(&copy);
    gguf_close(&g);
    mem_free(bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_writer_refusals),
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_many_keys),
    };
    return cmocka_run_group_tests(tests, fixture_setup, fixture_teardown);
}
