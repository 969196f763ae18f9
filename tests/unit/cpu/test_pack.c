/* SPDX-License-Identifier: Apache-2.0
 *
 * Packing is exact: a packed row has the values, and a packed block the codes and scales, of its tensor.
 */
#include "base/mem.h"
#include "cpu/pack.h"
#include "matmul_fixture.h"
#include "num/e2m1.h"

static const dtype formats[] = {DT_F32,   DT_F16,        DT_BF16,       DT_F8_E4M3, DT_F8_E5M2, DT_NVFP4,
                                DT_MXFP4, DT_GGUF_NVFP4, DT_GGUF_MXFP4, DT_Q4_0,    DT_Q4_1,    DT_Q5_0,
                                DT_Q5_1,  DT_Q8_0,       DT_Q4_K,       DT_Q5_K,    DT_Q6_K,    DT_IQ4_NL};
enum { N_FORMATS = sizeof formats / sizeof formats[0] };

static void check_rows(const packed *w, const tensor *const *parts, size_t n_parts) {
    size_t row0 = 0, cols = parts[0]->cols;
    float *expected = malloc(cols * sizeof(float)), *got = malloc(cols * sizeof(float));
    for (size_t i = 0; i < n_parts; row0 += parts[i]->rows, i++)
        for (size_t r = 0; r < parts[i]->rows; r++) {
            tensor_decode_row(parts[i], r, expected);
            pack_unpack_row(w, row0 + r, got);
            assert_memory_equal(got, expected, cols * sizeof(float));
        }
    assert_int_equal(w->head.rows, row0);
    free(expected);
    free(got);
}

static void unpacks_to_the_same_values(void **state) {
    (void)state;
    static const size_t rows[] = {1, 7, 16, 33, 64}, blocks[] = {1, 2, 3, 5};
    rng r = {1};
    for (int f = 0; f < N_FORMATS; f++)
        for (size_t i = 0; i < 5; i++)
            for (size_t j = 0; j < 4; j++)
                for (int kind = 0; kind < FILL_COUNT; kind++) {
                    size_t block = dtype_get(formats[f])->block;
                    tensor t = fixture_tensor(formats[f], rows[i], blocks[j] * (block < 16 ? 17 : block), &r,
                                              (fill)kind, kind == FILL_RANDOM);
                    const tensor *part = &t;
                    packed *w = NULL;
                    assert_int_equal(pack_weight(&w, &part, 1, true, NULL, NULL), NIB_OK);
                    check_rows(w, &part, 1);
                    pack_free(w);
                    fixture_free(&t);
                }
}

static void joins_tensors_of_several_formats(void **state) {
    (void)state;
    rng r = {2};
    tensor q = fixture_tensor(DT_NVFP4, 70, 256, &r, FILL_RANDOM, false);
    tensor k = fixture_tensor(DT_Q6_K, 17, 256, &r, FILL_RANDOM, true);
    tensor v = fixture_tensor(DT_Q8_0, 300, 256, &r, FILL_RANDOM, true);
    const tensor *parts[] = {&q, &k, &v};
    packed *w = NULL;
    for (int threads = 1; threads <= 3; threads++) {
        pool *p = NULL;
        assert_int_equal(pool_new(&p, threads, NULL), NIB_OK);
        assert_int_equal(pack_weight(&w, parts, 3, true, p, NULL), NIB_OK);
        pool_free(p);
        check_rows(w, parts, 3);
        pack_free(w);
    }
    fixture_free(&q);
    fixture_free(&k);
    fixture_free(&v);
}

/* Codes and scales, not only their products; every E4M3 scale there is. */
static void keeps_codes_and_scales(void **state) {
    (void)state;
    enum { ROWS = 127, COLS = 80 };
    rng r = {3};
    tensor t = fixture_tensor(DT_NVFP4, ROWS, COLS, &r, FILL_RANDOM, false);
    uint8_t *scales = (uint8_t *)t.block_scales;
    for (size_t i = 0; i < ROWS * COLS / 16; i++)
        scales[i] = (uint8_t)(i % 0x7f);
    const tensor *part = &t;
    packed *w = NULL;
    assert_int_equal(pack_weight(&w, &part, 1, true, NULL, NULL), NIB_OK);
    assert_int_equal(w->parts[0].kind, PACK_NVFP4);
    for (size_t row = 0; row < ROWS; row++)
        for (size_t b = 0; b < COLS / 16; b++) {
            uint8_t codes[16];
            float scale, least;
            pack_block(&w->parts[0], row, b, codes, &scale, &least);
            assert_true(least == 0.0f && scale == e4m3_to_f32(scales[row * (COLS / 16) + b]));
            for (size_t i = 0; i < 16; i += 2) {
                uint8_t pair = ((const uint8_t *)t.data)[(row * COLS + b * 16 + i) / 2];
                assert_int_equal(codes[i], pair & 15);
                assert_int_equal(codes[i + 1], pair >> 4);
            }
        }
    pack_free(w);
    fixture_free(&t);
}

/* Scales that the packed form has no room for leave the tensor where it is, with its values. */
static void keeps_odd_scales_by_rows(void **state) {
    (void)state;
    static const uint8_t odd[] = {0x80, 0x81, 0xff, 0x7f};
    for (size_t i = 0; i < sizeof odd; i++) {
        rng r = {4};
        tensor t = fixture_tensor(DT_NVFP4, 20, 64, &r, FILL_RANDOM, true);
        ((uint8_t *)t.block_scales)[37] = odd[i];
        const tensor *part = &t;
        packed *w = NULL;
        assert_int_equal(pack_weight(&w, &part, 1, true, NULL, NULL), NIB_OK);
        assert_int_equal(w->parts[0].kind, PACK_ROWS);
        check_rows(w, &part, 1);
        pack_free(w);
        fixture_free(&t);
    }
    rng r = {5};
    tensor t = fixture_tensor(DT_MXFP4, 20, 64, &r, FILL_RANDOM, false);
    ((uint8_t *)t.block_scales)[3] = 160; /* more than E5M3's span above the others */
    const tensor *part = &t;
    packed *w = NULL;
    assert_int_equal(pack_weight(&w, &part, 1, true, NULL, NULL), NIB_OK);
    assert_int_equal(w->parts[0].kind, PACK_ROWS);
    check_rows(w, &part, 1);
    pack_free(w);
    fixture_free(&t);
}

static void takes_no_more_room_than_the_file(void **state) {
    (void)state;
    static const dtype in_groups[] = {DT_NVFP4, DT_GGUF_NVFP4, DT_Q4_0, DT_IQ4_NL, DT_Q8_0, DT_Q4_1,
                                      DT_Q5_0,  DT_Q5_1,       DT_Q4_K, DT_Q5_K,   DT_Q6_K};
    for (size_t i = 0; i < sizeof in_groups / sizeof in_groups[0]; i++) {
        rng r = {6};
        tensor t = fixture_tensor(in_groups[i], 64, 768, &r, FILL_RANDOM, false);
        const tensor *part = &t;
        packed *w = NULL;
        assert_int_equal(pack_weight(&w, &part, 1, true, NULL, NULL), NIB_OK);
        assert_true(w->parts[0].kind != PACK_ROWS);
        /* a byte for each 6 bits of scale, and half a line of Q6_K's that is not used */
        size_t more = dtype_get(in_groups[i])->block == 256 ? 64 * 768 / 256 * 4 : 0;
        assert_in_range(w->head.bytes, tensor_total_bytes(&t), tensor_total_bytes(&t) + more);
        pack_free(w);
        fixture_free(&t);
    }
}

/* A tensor larger than a slab needs memory of its own, whatever was packed before: weight, slab, its bytes.
 */
static void says_when_memory_is_short(void **state) {
    (void)state;
    rng r = {7};
    tensor t = fixture_tensor(DT_NVFP4, 40000, 1536, &r, FILL_ZERO, false);
    const tensor *part = &t;
    for (long n = 0; n < 3; n++) {
        packed *w = NULL;
        nib_error err = {{0}};
        mem_fail_after(n);
        assert_int_equal(pack_weight(&w, &part, 1, false, NULL, &err), NIB_NO_MEMORY);
        mem_fail_after(-1);
        assert_null(w);
        assert_true(err.text[0]);
    }
    fixture_free(&t);
}

/* Weights share slabs: they come and go in any order and keep what they hold. */
static void weights_come_and_go(void **state) {
    (void)state;
    enum { N = 12 };
    rng r = {8};
    tensor t[N];
    packed *w[N] = {0};
    for (size_t i = 0; i < 3 * N; i++) {
        size_t at = i * 5 % N;
        const tensor *part = &t[at];
        if (w[at]) {
            check_rows(w[at], &part, 1);
            pack_free(w[at]);
            fixture_free(&t[at]);
        }
        t[at] = fixture_tensor(DT_Q8_0, 16 + i, 3200, &r, FILL_RANDOM, false);
        assert_int_equal(pack_weight(&w[at], &part, 1, false, NULL, NULL), NIB_OK);
        assert_int_equal((uintptr_t)w[at]->parts[0].groups % 64, 0);
    }
    for (size_t i = 0; i < N; i++) {
        const tensor *part = &t[i];
        check_rows(w[i], &part, 1);
        pack_free(w[i]);
        fixture_free(&t[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unpacks_to_the_same_values),
        cmocka_unit_test(joins_tensors_of_several_formats),
        cmocka_unit_test(keeps_codes_and_scales),
        cmocka_unit_test(keeps_odd_scales_by_rows),
        cmocka_unit_test(takes_no_more_room_than_the_file),
        cmocka_unit_test(says_when_memory_is_short),
        cmocka_unit_test(weights_come_and_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
