/* SPDX-License-Identifier: Apache-2.0
 *
 * The GGUF block decoders against the gguf package (tests/golden/num/gguf_blocks.txt).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <math.h>

#include "../../golden/num/golden.h"
#include "num/bf16.h"
#include "num/dtype.h"

#define GOLDEN TESTS_DIR "/golden/num/gguf_blocks.txt"
#define BLOCKS 1024

static const struct {
    const char *name;
    dtype dtype;
    int halves[2]; /* where a block's halves lie; -1: none */
} formats[] = {
    {"Q4_0", DT_Q4_0, {0, -1}},         {"Q4_1", DT_Q4_1, {0, 2}},          {"Q5_0", DT_Q5_0, {0, -1}},
    {"Q5_1", DT_Q5_1, {0, 2}},          {"Q8_0", DT_Q8_0, {0, -1}},         {"Q4_K", DT_Q4_K, {0, 2}},
    {"Q5_K", DT_Q5_K, {0, 2}},          {"Q6_K", DT_Q6_K, {208, -1}},       {"IQ4_NL", DT_IQ4_NL, {0, -1}},
    {"MXFP4", DT_GGUF_MXFP4, {-1, -1}}, {"NVFP4", DT_GGUF_NVFP4, {-1, -1}}, {"Q2_K", DT_Q2_K, {80, 82}},
    {"Q3_K", DT_Q3_K, {108, -1}},       {"IQ4_XS", DT_IQ4_XS, {0, -1}},     {"TQ1_0", DT_TQ1_0, {52, -1}},
    {"TQ2_0", DT_TQ2_0, {64, -1}},      {"IQ1_S", DT_IQ1_S, {0, -1}},       {"IQ1_M", DT_IQ1_M, {54, -1}},
    {"IQ2_XXS", DT_IQ2_XXS, {0, -1}},   {"IQ2_XS", DT_IQ2_XS, {0, -1}},     {"IQ2_S", DT_IQ2_S, {0, -1}},
    {"IQ3_XXS", DT_IQ3_XXS, {0, -1}},   {"IQ3_S", DT_IQ3_S, {0, -1}},
};

static void test_blocks(void **state) {
    (void)state;
    static unsigned char blocks[BLOCKS * 256];
    static float values[BLOCKS * 256];
    for (size_t f = 0; f < sizeof formats / sizeof formats[0]; f++) {
        const dtype_info *info = dtype_get(formats[f].dtype);
        size_t bytes = BLOCKS * info->block_bytes, n = BLOCKS * info->block;
        for (size_t i = 0; i < bytes; i++)
            blocks[i] = (unsigned char)golden_word(100 + f, i);
        for (int h = 0; h < 2; h++)
            for (size_t b = 0; b < BLOCKS && formats[f].halves[h] >= 0; b++)
                blocks[b * info->block_bytes + (size_t)formats[f].halves[h] + 1] &= 0xBF;
        dtype_decode(formats[f].dtype, blocks, values, n);
        bool fp4 = formats[f].dtype == DT_GGUF_MXFP4 || formats[f].dtype == DT_GGUF_NVFP4;
        for (size_t i = 0; i < n && fp4; i++)
            values[i] += 0.0f; /* one zero */

        const char *p = golden_line(GOLDEN, formats[f].name);
        assert_non_null(p);
        uint32_t expected = (uint32_t)golden_hex(&p);
        for (int i = 0; i < 8; i++)
            assert_int_equal(f32_bits(values[i]), (uint32_t)golden_hex(&p));
        for (size_t i = 0; i < n; i++)
            if (isnan(values[i]))
                values[i] = f32_of_bits(0x7fc00000);
        assert_int_equal(golden_crc(values, n * sizeof *values), expected);
        print_message("%s: %d random blocks equal the gguf package\n", formats[f].name, BLOCKS);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_blocks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
