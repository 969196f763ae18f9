/* SPDX-License-Identifier: Apache-2.0
 *
 * Encoders and decoders one after the other. Blocks that a row does not fill are filled with zeros.
 */
#include "num/rounded.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "num/dtype.h"
#include "num/fp8.h"
#include "num/mxfp4.h"
#include "num/nvfp4.h"

/* Is every x finite? Then *AMAX is the largest |x|. */
static bool finite_amax(const float *x, size_t n, float *amax) {
    uint32_t most = 0; /* without the sign their order is that of the values, infinity and NaN on top */
    for (size_t i = 0; i < n; i++) {
        uint32_t a = f32_bits(x[i]) & 0x7fffffffu;
        most = a > most ? a : most;
    }
    *amax = f32_of_bits(most);
    return isfinite(*amax);
}

void rounded_fp8(float *x, size_t n, float scale) {
    float amax;
    if (!finite_amax(x, n, &amax) || amax == 0)
        return;
    const float up = scale > 0 ? 1.0f / scale : 448.0f / amax, down = scale > 0 ? scale : amax / 448.0f;
    for (size_t i = 0; i < n; i++)
        x[i] = e4m3_to_f32(e4m3_from_f32_sat(x[i] * up)) * down;
}

void rounded_nvfp4(float *x, size_t n, float tensor_scale) {
    float amax;
    if (!finite_amax(x, n, &amax) || amax == 0)
        return;
    const float whole = tensor_scale > 0 ? tensor_scale : amax / NVFP4_MAX;
    for (size_t at = 0; at < n; at += NVFP4_BLOCK) {
        const size_t few = n - at < NVFP4_BLOCK ? n - at : NVFP4_BLOCK;
        float block[NVFP4_BLOCK] = {0};
        uint8_t codes[NVFP4_BLOCK_BYTES];
        memcpy(block, x + at, few * sizeof *x);
        const float scale = e4m3_to_f32(nvfp4_block_scale(nvfp4_amax(block, NVFP4_BLOCK), whole));
        nvfp4_encode_block(block, scale * whole, codes);
        dtype_decode(DT_NVFP4, codes, block, NVFP4_BLOCK);
        for (size_t i = 0; i < few; i++)
            x[at + i] = block[i] * scale * whole; /* rounded once */
    }
}

void rounded_mxfp4(float *x, size_t n) {
    float amax;
    if (!finite_amax(x, n, &amax))
        return;
    for (size_t at = 0; at < n; at += MXFP4_BLOCK) {
        const size_t few = n - at < MXFP4_BLOCK ? n - at : MXFP4_BLOCK;
        float block[MXFP4_BLOCK] = {0};
        uint8_t codes[MXFP4_BLOCK_BYTES];
        memcpy(block, x + at, few * sizeof *x);
        const uint8_t scale = mxfp4_block_scale(nvfp4_amax(block, MXFP4_BLOCK));
        mxfp4_encode_block(block, scale, codes);
        dtype_decode(DT_MXFP4, codes, block, MXFP4_BLOCK);
        for (size_t i = 0; i < few; i++)
            x[at + i] = block[i] * e8m0_to_f32(scale);
    }
}

void rounded_hadamard(float *x, size_t n) {
    const size_t order = n & (~n + 1);
    for (size_t step = 1; step < order; step *= 2)
        for (size_t i = 0; i < n; i++)
            if (!(i & step)) {
                const float a = x[i], b = x[i + step];
                x[i] = a + b;
                x[i + step] = a - b;
            }
    const float unit = 1.0f / sqrtf((float)order);
    for (size_t i = 0; i < n; i++)
        x[i] *= unit;
}
