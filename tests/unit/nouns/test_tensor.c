/* SPDX-License-Identifier: Apache-2.0
 *
 * Values of stored tensors: element times block scale times row scale times tensor scale.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <string.h>

#include "base/mem.h"
#include "nouns/family.h"
#include "nouns/tensor.h"

static void test_nvfp4(void **state) {
    (void)state;
    /* 0 .5 1 1.5 2 3 4 6 and their negatives, under 0x38 (1.0) and 0x45 (3.25), times 0.5 */
    static const uint8_t codes[2][16] = {
        {0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe, 0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe},
        {0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0x77, 0, 0, 0, 0, 0, 0, 0, 0}};
    static const uint8_t scales[2][2] = {{0x38, 0x45}, {0x7e, 0x01}};
    static const float grid[8] = {0, .5f, 1, 1.5f, 2, 3, 4, 6};
    tensor t = {.dtype = DT_NVFP4,
                .rows = 2,
                .cols = 32,
                .data = codes,
                .bytes = sizeof codes,
                .block_scales = scales[0],
                .tensor_scale = 0.5f};
    float x[32];
    tensor_decode_row(&t, 0, x);
    for (int i = 0; i < 16; i++) {
        float v = i < 8 ? grid[i] : -grid[i - 8];
        assert_true(x[i] == v * 0.5f);
        assert_true(x[16 + i] == v * 3.25f * 0.5f);
    }
    tensor_decode_row(&t, 1, x);
    assert_true(x[0] == 6 * 448 * 0.5f && x[16] == 0);
    assert_int_equal(tensor_total_bytes(&t), 32 + 4 + 4);
}

static void test_mxfp4(void **state) {
    (void)state;
    uint8_t codes[16], scales[1] = {130};
    memset(codes, 0x53, sizeof codes);
    tensor t = {.dtype = DT_MXFP4,
                .rows = 1,
                .cols = 32,
                .data = codes,
                .bytes = sizeof codes,
                .block_scales = scales,
                .tensor_scale = 1};
    float x[32];
    tensor_decode_row(&t, 0, x);
    assert_true(x[0] == 12 && x[1] == 24);
    assert_int_equal(tensor_total_bytes(&t), 17);
}

static void test_row_scales(void **state) {
    (void)state;
    static const uint8_t fp8[2][2] = {{0x38, 0xc0}, {0x38, 0xc0}};
    static const float rows[2] = {2, 3};
    tensor t = {.dtype = DT_F8_E4M3,
                .rows = 2,
                .cols = 2,
                .data = fp8,
                .bytes = sizeof fp8,
                .row_scales = rows,
                .tensor_scale = 0.25f};
    float x[2];
    tensor_decode_row(&t, 1, x);
    assert_true(x[0] == 0.75f && x[1] == -1.5f);
    assert_int_equal(tensor_total_bytes(&t), 4 + 8 + 4);
}

/* A view of rows has the values of those rows, whatever lies beside the elements. */
static void test_rows(void **state) {
    (void)state;
    enum { ROWS = 5, COLS = 64 };
    static uint8_t codes[ROWS * COLS / 2], scales[ROWS * COLS / 16];
    static const float row_scales[ROWS] = {1, 2, 3, 4, 5};
    for (size_t i = 0; i < sizeof codes; i++)
        codes[i] = (uint8_t)(i * 37);
    for (size_t i = 0; i < sizeof scales; i++)
        scales[i] = (uint8_t)(0x30 + i % 16);
    for (int mx = 0; mx < 2; mx++) {
        tensor t = {.dtype = mx ? DT_MXFP4 : DT_NVFP4,
                    .rows = ROWS,
                    .cols = COLS,
                    .dims = {ROWS, COLS},
                    .data = codes,
                    .bytes = sizeof codes,
                    .block_scales = scales,
                    .row_scales = row_scales,
                    .tensor_scale = 0.5f};
        tensor part = tensor_rows(&t, 2, 3);
        assert_true(part.rows == 3 && part.dims[0] == 3 && part.bytes == 3 * COLS / 2);
        for (size_t r = 0; r < 3; r++) {
            float want[COLS], got[COLS];
            tensor_decode_row(&t, 2 + r, want);
            tensor_decode_row(&part, r, got);
            assert_memory_equal(got, want, sizeof got);
        }
    }
}

/* A branch adds its product, of the view's own rows too, and counts. */
static void test_branch(void **state) {
    (void)state;
    static const float ones[4] = {1, 1, 1, 1};
    static const uint16_t down[2 * 2] = {0x3f80, 0x4000, 0xc040, 0x3f00}; /* 1 2; -3 0.5 */
    static const uint16_t up[2 * 2] = {0x3f80, 0x0000, 0x4000, 0x4080};   /* 1 0; 2 4 */
    tensor t = {.name = "t",
                .dtype = DT_F32,
                .rows = 2,
                .cols = 2,
                .n_dims = 2,
                .dims = {2, 2},
                .data = ones,
                .bytes = sizeof ones,
                .tensor_scale = 1,
                .branch = {2, down, up, 0.5f}},
           own;
    void *memory;
    nib_error err;
    assert_int_equal(tensor_branch_bytes(&t), 2 * (2 + 2) * 2);
    assert_int_equal(tensor_total_bytes(&t), sizeof ones + 16);
    assert_int_equal(tensor_read(&own, &memory, &t, &err), NIB_OK);
    const tensor cut = tensor_rows(&t, 1, 1), *const same[] = {&t, &own};
    float row[2];
    for (int i = 0; i < 2; i++) {
        tensor_decode_row(same[i], 0, row);
        assert_true(row[0] == 1.5f && row[1] == 2);
        tensor_decode_row(same[i], 1, row);
        assert_true(row[0] == -4 && row[1] == 4);
    }
    tensor_decode_row(&cut, 0, row);
    assert_true(row[0] == -4 && row[1] == 4 && own.branch.up != up);
    mem_free(memory);
}

static void test_names(void **state) {
    (void)state;
    for (int s = 0; s < SLOT_COUNT; s++) {
        assert_non_null(slot_name((slot)s));
        for (int other = 0; other < s; other++)
            assert_string_not_equal(slot_name((slot)s), slot_name((slot)other));
    }
    assert_string_equal(family_name(FAMILY_GEMMA3), "gemma3");
    assert_string_equal(family_name(FAMILY_NONE), "none");
}

/* Tiles of 2 x 3 over 5 x 4 elements, and a part that begins inside a tile. */
static void test_tiles(void **state) {
    (void)state;
    uint8_t ones[5 * 4];
    memset(ones, 0x38, sizeof ones); /* E4M3 1.0 */
    const float scales[3 * 2] = {1, 2, 3, 4, 5, 6};
    tensor t = {.name = "t",
                .dtype = DT_F8_E4M3,
                .rows = 5,
                .cols = 4,
                .n_dims = 2,
                .dims = {5, 4},
                .data = ones,
                .bytes = sizeof ones,
                .tile_scales = scales,
                .tile_rows = 2,
                .tile_cols = 3,
                .tensor_scale = 0.5f};
    tensor part = tensor_rows(&t, 3, 2), tail = tensor_rows(&part, 1, 1);
    float row[4];
    for (size_t r = 0; r < 5; r++) {
        tensor_decode_row(&t, r, row);
        for (size_t c = 0; c < 4; c++)
            assert_true(row[c] == scales[r / 2 * 2 + c / 3] * 0.5f);
        if (r < 3)
            continue;
        float same[4];
        tensor_decode_row(&part, r - 3, same);
        assert_memory_equal(row, same, sizeof row);
    }
    tensor_decode_row(&tail, 0, row);
    assert_true(row[0] == 2.5f && row[3] == 3);
    assert_int_equal(tensor_total_bytes(&t), 20 + 6 * 4 + 4);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_nvfp4),      cmocka_unit_test(test_mxfp4),
                                       cmocka_unit_test(test_row_scales), cmocka_unit_test(test_rows),
                                       cmocka_unit_test(test_tiles),      cmocka_unit_test(test_names),
                                       cmocka_unit_test(test_branch)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
