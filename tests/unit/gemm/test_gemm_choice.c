/* SPDX-License-Identifier: Apache-2.0
 *
 * The choice table and the packed layout, which need no GPU.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gemm/gemm.h"
#include "gemm/layout.h"
#include "gemm/scale_tile.h"
#include "gemm/word.h"

static const int archs[] = {80, 86, 89, 90, 100, 103, 120, 121};
#define N_ARCHS (sizeof archs / sizeof *archs)

/* AUTO and W4A16 have a kernel on every GPU, for every number of tokens and every shape. */
static void test_every_shape_has_a_kernel(void **state) {
    (void)state;
    const size_t sizes[] = {16, 48, 176, 640, 1152, 2880, 4096, 12288, 21504, 151936};
    const size_t tokens[] = {1, 2, 8, 9, 16, 17, 64, 128, 333, 8192};
    for (size_t a = 0; a < N_ARCHS; a++)
        for (size_t n = 0; n < 10; n++)
            for (size_t k = 0; k < 9; k++)
                for (size_t m = 0; m < 10; m++)
                    for (int mode = NIB_GEMM_AUTO; mode <= NIB_GEMM_W4A16; mode++) {
                        gemm_choice c;
                        assert_int_equal(gemm_choose(archs[a], 132, (nib_gemm_mode)mode, m % 2, tokens[m],
                                                     sizes[n], sizes[k], &c, NULL),
                                         NIB_OK);
                        assert_true(c.kernel > GEMM_KERNEL_NONE && c.kernel < GEMM_KERNEL_COUNT);
                        assert_true(c.mode != NIB_GEMM_AUTO && c.name && c.why);
                        assert_in_range(c.k_slices, 1, 64);
                        assert_true((size_t)c.k_slices <= gemm_groups(sizes[k]));
                        if (mode == NIB_GEMM_W4A16)
                            assert_int_equal(c.mode, NIB_GEMM_W4A16);
                    }
}

/* On Hopper a cluster shares K only where all tiles then run at a time, each block with 4 groups at least. */
static void test_forms_on_hopper(void **state) {
    (void)state;
    const size_t sizes[] = {16, 144, 640, 2880, 4096, 6144, 24576};
    const int at_a_time[] = {0, 132, 66, 39, 30};
    for (size_t n = 0; n < 7; n++)
        for (size_t k = 0; k < 6; k++)
            for (size_t m = 33; m < 9000; m = m * 3 / 2)
                for (int mode = NIB_GEMM_W4A16; mode <= NIB_GEMM_W4A8; mode++) {
                    gemm_choice c;
                    assert_int_equal(
                        gemm_choose(90, 132, (nib_gemm_mode)mode, false, m, sizes[n], sizes[k], &c, NULL),
                        NIB_OK);
                    const size_t tokens = (size_t)c.tile_tokens, slices = (size_t)c.k_slices;
                    const size_t rows = (size_t)c.tile_rows;
                    const size_t tiles = (sizes[n] + rows - 1) / rows * ((m + tokens - 1) / tokens);
                    assert_in_range(slices, 1, tokens == 64 || rows == 192 ? 4 : tokens == 256 ? 1 : 2);
                    assert_true(slices == 1 || (tiles <= (size_t)at_a_time[slices] && !c.cut &&
                                                gemm_groups(sizes[k]) >= 4 * slices));
                    assert_true(tokens == 32 || tokens < 2 * m);
                }
}

static void test_who_shares_k_on_hopper(void **state) {
    (void)state;
    static const struct {
        size_t m, n, k;
        int tile, slices;
        bool cut;
    } cases[] = {
        {64, 2880, 2880, 64, 4, false}, /* 23 tiles */
        {64, 4096, 4096, 64, 3, false}, /* 32, of which clusters of four fit 30 */
        {64, 6144, 4096, 64, 2, false},   {256, 4096, 4096, 128, 2, false},  {512, 4096, 4096, 128, 1, false},
        {128, 4096, 12288, 128, 1, true}, {2048, 24576, 4096, 256, 1, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        gemm_choice c;
        assert_int_equal(
            gemm_choose(90, 132, NIB_GEMM_W4A8, true, cases[i].m, cases[i].n, cases[i].k, &c, NULL), NIB_OK);
        assert_int_equal(c.tile_tokens, cases[i].tile);
        assert_int_equal(c.k_slices, cases[i].slices);
        assert_int_equal(c.cut, cases[i].cut);
    }
}

/* Tiles of 192 rows where that makes one wave of tiles, or of clusters. */
static void test_tall_tiles_on_hopper(void **state) {
    (void)state;
    static const struct {
        nib_gemm_mode mode;
        size_t m, n, k;
        int tile, rows, slices;
    } cases[] = {
        {NIB_GEMM_W4A16, 64, 24576, 4096, 64, 192, 1},   {NIB_GEMM_W4A8, 64, 24576, 4096, 64, 192, 1},
        {NIB_GEMM_W4A16, 128, 24576, 4096, 128, 192, 1}, {NIB_GEMM_W4A8, 256, 2880, 7680, 128, 192, 4},
        {NIB_GEMM_W4A8, 256, 6144, 4096, 128, 192, 2},   {NIB_GEMM_W4A16, 64, 4096, 4096, 64, 128, 3},
        {NIB_GEMM_W4A8, 512, 2880, 2880, 128, 192, 2},   {NIB_GEMM_W4A8, 512, 2880, 7680, 128, 192, 2},
        {NIB_GEMM_W4A8, 256, 2880, 2880, 128, 128, 2},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        gemm_choice c;
        assert_int_equal(
            gemm_choose(90, 132, cases[i].mode, false, cases[i].m, cases[i].n, cases[i].k, &c, NULL), NIB_OK);
        assert_int_equal(c.tile_tokens, cases[i].tile);
        assert_int_equal(c.tile_rows, cases[i].rows);
        assert_int_equal(c.k_slices, cases[i].slices);
        assert_false(c.cut);
    }
}

/* Exact FP32 results: no plan that sums more than 8 groups of K in one accumulator, but whole tiles, a launch
 * each. */
static void test_exact_sums_on_hopper(void **state) {
    (void)state;
    static const struct {
        size_t m, n, groups;
        int tile, slices;
        bool cut;
    } cases[] = {
        {256, 4096, 96, 64, 1,
         false}, /* as BF16: 128 tokens x 2 slices, which would leave half of the GPU idle */
        {64, 25600, 8, 64, 1, true},  /* 200 tiles, 132 multiprocessors */
        {64, 2880, 16, 64, 4, false}, /* a cluster's parts are short enough */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        gemm_choice c = {.mode = NIB_GEMM_W4A16};
        gemm_choose_exact_sums(132, cases[i].m, cases[i].n, cases[i].groups, &c);
        assert_int_equal(c.tile_tokens, cases[i].tile);
        assert_int_equal(c.k_slices, cases[i].slices);
        assert_int_equal(c.cut, cases[i].cut);
    }
    for (size_t groups = 1; groups < 200; groups++)
        for (size_t m = 17; m < 2048; m *= 3) {
            gemm_choice c = {.mode = NIB_GEMM_W4A16};
            gemm_choose_exact_sums(132, m, 4096, groups, &c);
            assert_true(c.k_slices == 1 || groups <= (size_t)c.k_slices * GEMM_EXACT_GROUPS);
            assert_true(!c.cut || groups <= GEMM_EXACT_GROUPS);
        }
}

static void test_a_mode_is_never_swapped(void **state) {
    (void)state;
    gemm_choice c;
    nib_error err;
    assert_int_equal(gemm_choose(80, 108, NIB_GEMM_W4A8, true, 64, 4096, 4096, &c, &err), NIB_UNSUPPORTED);
    assert_non_null(strstr(err.text, "8.0 has no w4a8: it has w4a16"));
    assert_int_equal(gemm_choose(90, 132, NIB_GEMM_W4A4, true, 64, 4096, 4096, &c, &err), NIB_UNSUPPORTED);
    assert_non_null(strstr(err.text, "it has w4a16 and w4a8"));
    assert_int_equal(gemm_choose(90, 132, NIB_GEMM_W4A8_EXACT, true, 64, 4096, 4096, &c, &err),
                     NIB_UNSUPPORTED);
    assert_non_null(strstr(err.text, "9.0 has no w4a8-exact: it has w4a16 and w4a8"));
    for (size_t a = 0; a < N_ARCHS; a++) { /* where FP8 goes through mma.sync, for any number of tokens */
        const bool has = archs[a] == 89 || archs[a] >= 120;
        for (size_t m = 1; m <= 512; m *= 8) {
            assert_int_equal(gemm_choose(archs[a], 128, NIB_GEMM_W4A8_EXACT, m % 2, m, 48, 176, &c, &err),
                             has ? NIB_OK : NIB_UNSUPPORTED);
            if (has)
                assert_true(c.kernel == GEMM_KERNEL_TILE_E4M3_EXACT && c.mode == NIB_GEMM_W4A8_EXACT &&
                            !c.run_here);
        }
    }
    assert_int_equal(gemm_choose(120, 170, NIB_GEMM_W4A4, true, 64, 4096, 4096, &c, &err), NIB_OK);
    assert_true(c.kernel == GEMM_KERNEL_TILE_E2M1 && c.mode == NIB_GEMM_W4A4 && !c.run_here);
    for (int arch = 100; arch <= 103; arch += 3) {
        assert_int_equal(gemm_choose(arch, 148, NIB_GEMM_W4A4, true, 64, 4096, 4096, &c, &err), NIB_OK);
        assert_true(c.kernel == GEMM_KERNEL_BLASLT && c.mode == NIB_GEMM_W4A4 && !c.run_here);
        assert_int_equal(gemm_choose(arch, 148, NIB_GEMM_W4A4, true, 64, 4096, 4112, &c, &err),
                         NIB_UNSUPPORTED);
        assert_non_null(strstr(err.text, "k = 4112: expected a multiple of 32"));
    }
    assert_int_equal(gemm_choose(120, 170, NIB_GEMM_W4A4, true, 64, 4096, 4112, &c, &err), NIB_OK);
    assert_int_equal(gemm_choose(120, 170, NIB_GEMM_W4A4, true, (1u << 24) - 4096, 16, 4096, &c, &err),
                     NIB_OK);
    assert_int_equal(gemm_choose(120, 170, NIB_GEMM_W4A4, true, (1u << 24) - 4095, 16, 4096, &c, &err),
                     NIB_UNSUPPORTED);
    assert_non_null(strstr(err.text, "at most 2^36 - 2^24 activations"));
    assert_int_equal(gemm_choose(75, 132, NIB_GEMM_AUTO, true, 64, 4096, 4096, &c, &err), NIB_UNSUPPORTED);
    assert_non_null(strstr(err.text, "no kernels"));
    assert_int_equal(gemm_choose(90, 132, NIB_GEMM_AUTO, true, 64, 4090, 4096, &c, &err), NIB_BAD_ARGUMENT);
    assert_non_null(strstr(err.text, "multiples of 16"));
    assert_int_equal(gemm_choose(90, 132, (nib_gemm_mode)9, true, 64, 4096, 4096, &c, &err),
                     NIB_BAD_ARGUMENT);
}

/* Few tokens on Hopper: what shares K, as measured (docs/gpu/few.md). */
static void test_few_shares_k(void **state) {
    (void)state;
    static const struct {
        size_t m, n, k;
        int slices, parts;
    } cases[] = {
        {16, 24576, 4096, 4, 2}, {16, 4096, 12288, 8, 4}, {16, 4096, 4096, 8, 4},
        {8, 24576, 4096, 4, 2},  {32, 24576, 4096, 8, 2}, {32, 4096, 4096, 8, 4},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        gemm_choice c;
        assert_int_equal(
            gemm_choose(90, 132, NIB_GEMM_AUTO, true, cases[i].m, cases[i].n, cases[i].k, &c, NULL), NIB_OK);
        assert_int_equal(c.k_slices, cases[i].slices);
        assert_int_equal(c.k_parts, cases[i].parts);
    }
}

/* Few tokens on Hopper: which kernel follows from the shape, and prepared activations go elsewhere. */
static void test_few_tokens_on_hopper(void **state) {
    (void)state;
    static const struct {
        size_t m, n, k;
        bool plain;
        gemm_kernel kernel;
    } cases[] = {
        {1, 4096, 4096, true, GEMM_KERNEL_PAIRS},        {1, 24576, 4096, true, GEMM_KERNEL_GEMV},
        {1, 4096, 12288, true, GEMM_KERNEL_GEMV},        {2, 24576, 4096, true, GEMM_KERNEL_FEW},
        {16, 4096, 4096, true, GEMM_KERNEL_FEW},         {32, 4096, 12288, true, GEMM_KERNEL_FEW},
        {16, 64, 256, true, GEMM_KERNEL_GEMV16},         {33, 4096, 4096, true, GEMM_KERNEL_WGMMA_E4M3},
        {32, 4096, 4096, false, GEMM_KERNEL_WGMMA_E4M3}, {32, 64, 128, true, GEMM_KERNEL_WGMMA_E4M3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        gemm_choice c;
        assert_int_equal(
            gemm_choose(90, 132, NIB_GEMM_AUTO, cases[i].plain, cases[i].m, cases[i].n, cases[i].k, &c, NULL),
            NIB_OK);
        assert_int_equal(c.kernel, cases[i].kernel);
        assert_int_equal(c.mode, c.kernel == GEMM_KERNEL_WGMMA_E4M3 ? NIB_GEMM_W4A8 : NIB_GEMM_W4A16);
    }
}

static void test_explain_needs_no_gpu(void **state) {
    (void)state;
    char text[1024];
    nib_error err;
    assert_int_equal(nib_gemm_explain(NULL, 90, NIB_GEMM_AUTO, 1, 4096, 4096, text, sizeof text, &err),
                     NIB_OK);
    assert_non_null(strstr(text, "w4a16"));
    assert_null(strstr(text, "Not yet run"));
    assert_int_equal(nib_gemm_explain(NULL, 90, NIB_GEMM_W4A8, 256, 4096, 4096, text, sizeof text, &err),
                     NIB_OK);
    assert_non_null(strstr(text, "128 tokens a tile, K in 2 slices"));
    assert_int_equal(nib_gemm_explain(NULL, 90, NIB_GEMM_W4A8, 256, 24576, 4096, text, sizeof text, &err),
                     NIB_OK);
    assert_non_null(strstr(text, "256 tokens a tile, tiles cut into equal runs of K"));
    assert_int_equal(nib_gemm_explain(NULL, 120, NIB_GEMM_AUTO, 1, 4096, 4096, text, sizeof text, &err),
                     NIB_OK);
    assert_non_null(strstr(text, "Not yet run on this GPU"));
    assert_int_equal(nib_gemm_explain(NULL, 100, NIB_GEMM_W4A4, 512, 4096, 4096, text, sizeof text, &err),
                     NIB_OK);
    assert_non_null(strstr(text, "cuBLASLt (NVFP4; weights unpacked"));
    assert_non_null(strstr(text, "Not yet run on this GPU"));
    assert_int_equal(nib_gemm_explain(NULL, 89, NIB_GEMM_W4A8_EXACT, 64, 4096, 4096, text, sizeof text, &err),
                     NIB_OK);
    assert_non_null(strstr(text, "w4a8-exact.\nKernel: tile (mma.sync m16n8k16 E4M3, block scales in FP32)"));
    assert_non_null(strstr(text, "Not yet run on this GPU"));
    assert_int_equal(nib_gemm_explain(NULL, 0, NIB_GEMM_AUTO, 1, 4096, 4096, text, sizeof text, &err),
                     NIB_BAD_ARGUMENT);
}

/* A context that found no cuBLASLt says so before a product is asked for; of another GPU it does not know. */
static void test_explain_looks_for_the_library(void **state) {
    (void)state;
    char text[1024];
    nib_error err;
    nib_gemm g = {.arch = 100, .n_sms = 148, .name = "none"};
    assert_int_equal(nib_gemm_explain(&g, 0, NIB_GEMM_W4A4, 64, 4096, 4096, text, sizeof text, &err),
                     NIB_UNSUPPORTED);
    assert_non_null(strstr(err.text, "libcublasLt.so.13"));
    assert_int_equal(nib_gemm_explain(&g, 0, NIB_GEMM_W4A16, 64, 4096, 4096, text, sizeof text, &err),
                     NIB_OK);
    assert_int_equal(nib_gemm_explain(&g, 103, NIB_GEMM_W4A4, 64, 4096, 4096, text, sizeof text, &err),
                     NIB_OK);
}

static void test_word_is_a_permutation(void **state) {
    (void)state;
    uint32_t seen = 0;
    for (int bit = 0; bit < 32; bit++) {
        uint32_t word = gemm_word_pack(1u << bit);
        assert_true(word && !(word & (word - 1)) && !(seen & word));
        seen |= word;
        assert_int_equal(gemm_word_unpack(word), 1u << bit);
    }
}

static void test_pack_and_unpack(void **state) {
    (void)state;
    const size_t shapes[][2] = {{16, 16}, {48, 176}, {32, 128}, {176, 640}};
    for (size_t i = 0; i < 4; i++) {
        size_t n = shapes[i][0], k = shapes[i][1];
        uint8_t *codes = malloc(n * k / 2), *scales = malloc(n * k / 16);
        uint8_t *codes2 = malloc(n * k / 2), *scales2 = malloc(n * k / 16);
        uint8_t *packed = malloc(nib_gemm_packed_bytes(n, k));
        float tensor_scale = 0.0f;
        assert_true(codes && scales && codes2 && scales2 && packed);
        for (size_t j = 0; j < n * k / 2; j++)
            codes[j] = (uint8_t)(j * 2654435761u >> 11);
        for (size_t j = 0; j < n * k / 16; j++)
            scales[j] = (uint8_t)((j * 40503u >> 3) % 0x7f);
        layout_pack(codes, scales, 0.125f, n, k, packed);
        layout_unpack(packed, n, k, codes2, scales2, &tensor_scale);
        assert_memory_equal(codes, codes2, n * k / 2);
        assert_memory_equal(scales, scales2, n * k / 16);
        assert_true(tensor_scale == 0.125f);
        free(codes), free(scales), free(codes2), free(scales2), free(packed);
    }
}

/* From a tile's side: byte 16 r + 4 q + b of a tile is row 32 q + r, block b; tiles go along the row first.
 */
static void test_scale_tiles(void **state) {
    (void)state;
    const size_t shapes[][2] = {{16, 1}, {128, 4}, {129, 5}, {400, 180}};
    for (size_t i = 0; i < 4; i++) {
        size_t rows = shapes[i][0], blocks = shapes[i][1], found = 0;
        size_t bytes = nib_gemm_scale_tile_bytes(rows, blocks * 16), row_tiles = (rows + 127) / 128;
        assert_int_equal(bytes, row_tiles * ((blocks + 3) / 4) * 512);
        for (size_t at = 0; at < bytes; at++) {
            size_t tile = at / 512, in_tile = at % 512, across = (blocks + 3) / 4;
            size_t row = tile / across * 128 + in_tile % 16 / 4 * 32 + in_tile / 16;
            size_t block = tile % across * 4 + in_tile % 4;
            if (row < rows && block < blocks) {
                assert_int_equal(gemm_scale_place(row, block, blocks), at);
                found++;
            }
        }
        assert_int_equal(found, rows * blocks);
    }
}

static void test_activation_orders_are_permutations(void **state) {
    (void)state;
    uint64_t bf16 = 0, e4m3 = 0;
    for (int k = 0; k < 64; k++) {
        bf16 |= 1ull << gemm_bf16_position(k);
        e4m3 |= 1ull << gemm_e4m3_position(k);
    }
    assert_true(bf16 == UINT64_MAX && e4m3 == UINT64_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_shape_has_a_kernel),
        cmocka_unit_test(test_forms_on_hopper),
        cmocka_unit_test(test_who_shares_k_on_hopper),
        cmocka_unit_test(test_tall_tiles_on_hopper),
        cmocka_unit_test(test_exact_sums_on_hopper),
        cmocka_unit_test(test_a_mode_is_never_swapped),
        cmocka_unit_test(test_few_shares_k),
        cmocka_unit_test(test_few_tokens_on_hopper),
        cmocka_unit_test(test_explain_needs_no_gpu),
        cmocka_unit_test(test_explain_looks_for_the_library),
        cmocka_unit_test(test_word_is_a_permutation),
        cmocka_unit_test(test_pack_and_unpack),
        cmocka_unit_test(test_scale_tiles),
        cmocka_unit_test(test_activation_orders_are_permutations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
