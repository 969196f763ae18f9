/* SPDX-License-Identifier: Apache-2.0
 *
 * The NVFP4 block encoder and its two layouts.
 */
#include "num/nvfp4.h"

#include <float.h>
#include <math.h>
#include <string.h>

#include "num/e2m1.h"
#include "num/fp8.h"

float nvfp4_amax(const float *x, size_t n) {
    float amax = 0.0f;
    for (size_t i = 0; i < n; i++) {
        float a = fabsf(x[i]);
        amax = a > amax ? a : amax;
    }
    return amax;
}

uint8_t nvfp4_block_scale(float block_amax, float tensor_scale) {
    float scale = block_amax / (6.0f * tensor_scale);
    if (scale == 0.0f)
        scale = 1.0f;
    return e4m3_from_f32(scale < 0x1p-9f ? 0x1p-9f : scale > 448.0f ? 448.0f : scale);
}

static float round_bf16(float x) {
    return bf16_to_f32(bf16_from_f32(x));
}

/* PyTorch computes 2688 / t as reciprocal(t) * 2688: two roundings. */
float nvfp4_ct_global_scale(float amax, bool bf16_step) {
    float scale = 1.0f / (amax < FLT_MIN ? FLT_MIN : amax);
    scale = (bf16_step ? round_bf16(scale) : scale) * NVFP4_MAX;
    scale = bf16_step ? round_bf16(scale) : scale;
    return isfinite(scale) ? scale : 1.0f;
}

uint8_t nvfp4_ct_block_scale(float block_amax, float global_scale, bool bf16_step) {
    float sixth = bf16_step ? round_bf16(block_amax / 6.0f) : block_amax / 6.0f;
    uint8_t scale = e4m3_from_f32_sat(global_scale * sixth);
    return scale ? scale : 0x20; /* 0.125 */
}

int nvfp4_doublings(uint8_t most) {
    const float scale = e4m3_to_f32(most & 0x7f);
    int times = 0;
    while (scale > 0 && ldexpf(scale, times + 1) <= 448)
        times++;
    return times;
}

uint8_t nvfp4_doubled(uint8_t scale, int times) {
    return (scale & 0x7f) == 0x7f ? scale : e4m3_from_f32(ldexpf(e4m3_to_f32(scale), times));
}

void nvfp4_encode_block(const float *x, float scale, uint8_t *codes) {
    uint8_t q[NVFP4_BLOCK];
    if (scale == 0.0f) {
        memset(codes, 0, NVFP4_BLOCK_BYTES);
        return;
    }
    for (int i = 0; i < NVFP4_BLOCK; i++) {
        float y = x[i] / scale;
        q[i] = (uint8_t)((y < 0.0f) << 3 | e2m1_index(fabsf(y)));
    }
    for (int i = 0; i < NVFP4_BLOCK_BYTES; i++)
        codes[i] = (uint8_t)(q[2 * i] | q[2 * i + 1] << 4);
}

/* Element I of packed pairs (2i, 2i + 1). */
static uint8_t code_at(const uint8_t *codes, int i) {
    return codes[i / 2] >> 4 * (i & 1) & 15;
}

bool nvfp4_to_gguf(const uint8_t *codes, const uint8_t *scales, uint8_t *block) {
    for (int s = 0; s < 4; s++, codes += NVFP4_BLOCK_BYTES) {
        if ((scales[s] & 0x7f) == 0x7f)
            return false;
        uint8_t flip = scales[s] & 0x80 ? 8 : 0;
        block[s] = scales[s] & 0x7f;
        for (int j = 0; j < 8; j++)
            block[4 + 8 * s + j] =
                (uint8_t)((code_at(codes, j) ^ flip) | (code_at(codes, j + 8) ^ flip) << 4);
    }
    return true;
}

bool nvfp4_from_gguf(const uint8_t *block, uint8_t *codes, uint8_t *scales) {
    for (int s = 0; s < 4; s++, codes += NVFP4_BLOCK_BYTES) {
        const uint8_t *pairs = block + 4 + 8 * s;
        if (block[s] == 0xff)
            return false;
        scales[s] = block[s] == 0x7f ? 0 : block[s] & 0x7f; /* 0x7F is zero there, NaN here */
        for (int j = 0; j < 8; j++) {
            int low = 2 * j, shift = low < 8 ? 0 : 4;
            codes[j] = (uint8_t)((pairs[low & 7] >> shift & 15) | (pairs[(low + 1) & 7] >> shift & 15) << 4);
        }
    }
    return true;
}
