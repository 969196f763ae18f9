/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of stored formats, and decoding by format.
 */
#include "num/dtype.h"

#include <assert.h>
#include <string.h>

#include "num/e2m1.h"
#include "num/fp8.h"
#include "num/gguf_blocks.h"

static const dtype_info table[DT_COUNT] = {
    [DT_NONE] = {"none", 1, 0, false},
    [DT_F32] = {"F32", 1, 4, true},
    [DT_F16] = {"F16", 1, 2, true},
    [DT_BF16] = {"BF16", 1, 2, true},
    [DT_F8_E4M3] = {"FP8 E4M3", 1, 1, true},
    [DT_F8_E5M2] = {"FP8 E5M2", 1, 1, true},
    [DT_NVFP4] = {"NVFP4", 16, 8, true},
    [DT_MXFP4] = {"MXFP4", 32, 16, true},
    [DT_GGUF_NVFP4] = {"NVFP4 (GGUF)", 64, 36, true},
    [DT_GGUF_MXFP4] = {"MXFP4 (GGUF)", 32, 17, true},
    [DT_Q4_0] = {"Q4_0", 32, 18, true},
    [DT_Q4_1] = {"Q4_1", 32, 20, true},
    [DT_Q5_0] = {"Q5_0", 32, 22, true},
    [DT_Q5_1] = {"Q5_1", 32, 24, true},
    [DT_Q8_0] = {"Q8_0", 32, 34, true},
    [DT_Q4_K] = {"Q4_K", 256, 144, true},
    [DT_Q5_K] = {"Q5_K", 256, 176, true},
    [DT_Q6_K] = {"Q6_K", 256, 210, true},
    [DT_IQ4_NL] = {"IQ4_NL", 32, 18, true},
    [DT_Q2_K] = {"Q2_K", 256, 84, true},
    [DT_Q3_K] = {"Q3_K", 256, 110, true},
    [DT_IQ4_XS] = {"IQ4_XS", 256, 136, true},
    [DT_IQ1_S] = {"IQ1_S", 256, 50, true},
    [DT_IQ1_M] = {"IQ1_M", 256, 56, true},
    [DT_IQ2_XXS] = {"IQ2_XXS", 256, 66, true},
    [DT_IQ2_XS] = {"IQ2_XS", 256, 74, true},
    [DT_IQ2_S] = {"IQ2_S", 256, 82, true},
    [DT_IQ3_XXS] = {"IQ3_XXS", 256, 98, true},
    [DT_IQ3_S] = {"IQ3_S", 256, 110, true},
    [DT_TQ1_0] = {"TQ1_0", 256, 54, true},
    [DT_TQ2_0] = {"TQ2_0", 256, 66, true},
    [DT_I8] = {"I8", 1, 1, false},
    [DT_I16] = {"I16", 1, 2, false},
    [DT_I32] = {"I32", 1, 4, false},
    [DT_I64] = {"I64", 1, 8, false},
    [DT_U8] = {"U8", 1, 1, false},
    [DT_F64] = {"F64", 1, 8, false},
    [DT_BOOL] = {"BOOL", 1, 1, false},
};

const dtype_info *dtype_get(dtype t) {
    assert(t >= DT_NONE && t < DT_COUNT);
    return &table[t];
}

bool dtype_bytes(dtype t, size_t n, size_t *bytes) {
    const dtype_info *info = dtype_get(t);
    return n % info->block == 0 && !__builtin_mul_overflow(n / info->block, (size_t)info->block_bytes, bytes);
}

static uint16_t u16_at(const unsigned char *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}

static void decode_plain(dtype t, const unsigned char *src, float *dst, size_t n) {
    switch (t) {
    case DT_F32:
        memcpy(dst, src, n * sizeof *dst);
        break;
    case DT_F16:
        for (size_t i = 0; i < n; i++)
            dst[i] = f16_to_f32(u16_at(src + 2 * i));
        break;
    case DT_BF16:
        for (size_t i = 0; i < n; i++)
            dst[i] = bf16_to_f32(u16_at(src + 2 * i));
        break;
    case DT_F8_E4M3:
        for (size_t i = 0; i < n; i++)
            dst[i] = e4m3_to_f32(src[i]);
        break;
    case DT_F8_E5M2:
        for (size_t i = 0; i < n; i++)
            dst[i] = e5m2_to_f32(src[i]);
        break;
    case DT_NVFP4:
    case DT_MXFP4:
        for (size_t i = 0; i < n / 2; i++) {
            dst[2 * i] = e2m1_to_f32(src[i] & 15);
            dst[2 * i + 1] = e2m1_to_f32(src[i] >> 4);
        }
        break;
    default:
        assert(!"a format that holds no weights");
    }
}

void dtype_decode(dtype t, const void *src, float *dst, size_t n) {
    const dtype_info *info = dtype_get(t);
    assert(info->is_weight && n % info->block == 0);
    gguf_block_decoder decode = gguf_blocks_decoder(t);
    if (decode)
        decode(src, dst, n / info->block);
    else
        decode_plain(t, src, dst, n);
}
