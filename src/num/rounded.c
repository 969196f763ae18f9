/* SPDX-License-Identifier: Apache-2.0
 *
 * Encoders and decoders one after the other. Blocks that a row does not fill are filled with zeros.
 */
#include "num/rounded.h"

#include <float.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "num/dtype.h"
#include "num/fp8.h"
#include "num/mxfp4.h"
#include "num/nvfp4.h"

#define TINY (FLT_MIN * NVFP4_MAX) /* a row below it has no scale with a reciprocal */

enum {
    CLAMP_PART = 100,
    CLAMP_MOST = 1024
}; /* one number of so many lies beyond the clamp; so many at most */

/* Is every x finite, and one of them not zero? Then *AMAX is the largest |x|. */
static bool has_values(float *x, size_t n, float *amax) {
    uint32_t most = 0; /* without the sign their order is that of the values, infinity and NaN on top */
    for (size_t i = 0; i < n; i++) {
        uint32_t a = f32_bits(x[i]) & 0x7fffffffu;
        most = a > most ? a : most;
    }
    *amax = f32_of_bits(most);
    if (*amax < TINY)
        memset(x, 0, n * sizeof *x);
    return isfinite(*amax) && *amax >= TINY;
}

void rounded_fp8(float *x, size_t n, float scale) {
    float amax;
    if (!has_values(x, n, &amax))
        return;
    const bool given = scale >= FLT_MIN;
    const float up = given ? 1.0f / scale : 448.0f / amax, down = given ? scale : amax / 448.0f;
    for (size_t i = 0; i < n; i++)
        x[i] = e4m3_to_f32(e4m3_from_f32_sat(x[i] * up)) * down;
}

void rounded_nvfp4(float *x, size_t n, float tensor_scale) {
    float amax;
    if (!has_values(x, n, &amax))
        return;
    const float whole = tensor_scale >= FLT_MIN ? tensor_scale : amax / NVFP4_MAX;
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

/* The largest of x's magnitudes but for the K largest, K up to CLAMP_MOST. */
static float largest_but(const float *x, size_t n, size_t k) {
    float top[CLAMP_MOST + 1] = {0}; /* [k + 1] from the largest down */
    for (size_t i = 0; i < n; i++) {
        const float a = fabsf(x[i]);
        if (!(a > top[k]))
            continue;
        size_t at = k;
        for (; at > 0 && a > top[at - 1]; at--)
            top[at] = top[at - 1];
        top[at] = a;
    }
    return top[k];
}

void rounded_nvfp4_clamp(float *x, size_t n) {
    float amax, beyond[CLAMP_MOST];
    size_t where[CLAMP_MOST], n_beyond = 0, k = (n + CLAMP_PART - 1) / CLAMP_PART;
    k = k < CLAMP_MOST ? k : CLAMP_MOST;
    if (!has_values(x, n, &amax))
        return;
    const float most = largest_but(x, n, k);
    for (size_t i = 0; i < n; i++) {
        if (!(fabsf(x[i]) > most))
            continue;
        where[n_beyond] = i;
        beyond[n_beyond++] = x[i] - copysignf(most, x[i]);
        x[i] = copysignf(most, x[i]);
    }
    rounded_nvfp4(x, n, 0);
    for (size_t i = 0; i < n_beyond; i++)
        x[where[i]] += beyond[i];
}

/* In the order of the reference, on which ties between the two depend. */
static float sum_squares(float *v) {
    for (int i = 0; i < 8; i++)
        v[i] += v[i + 8];
    for (int i = 0; i < 4; i++)
        v[i] += v[i + 4];
    return (v[0] + v[2]) + (v[1] + v[3]);
}

/* x [NVFP4_BLOCK] of a row whose largest magnitude is AMAX; *VALUE is the block's scale. */
static void four_over_six(const float *x, float amax, float q[NVFP4_BLOCK], float *value) {
    const float encode = 1536.0f / amax, decode = 1.0f / encode;
    const float exact = nvfp4_amax(x, NVFP4_BLOCK) / 6.0f * encode;
    float least = 0;
    for (int four = 0; four < 2; four++) {
        const float scale = e4m3_to_f32(e4m3_from_f32(four ? exact * 1.5f : exact));
        const float factor = scale > 0 ? 1.0f / (decode * scale) : 0;
        float y[NVFP4_BLOCK], squares[NVFP4_BLOCK];
        uint8_t codes[NVFP4_BLOCK_BYTES];
        for (int i = 0; i < NVFP4_BLOCK; i++)
            y[i] = x[i] * factor;
        nvfp4_encode_block(y, 1.0f, codes);
        dtype_decode(DT_NVFP4, codes, y, NVFP4_BLOCK);
        for (int i = 0; i < NVFP4_BLOCK; i++) {
            const float d = y[i] * scale * amax / 1536.0f - x[i];
            squares[i] = d * d;
        }
        const float error = sum_squares(squares);
        if (!four || error < least) {
            least = error;
            *value = scale;
            memcpy(q, y, sizeof y);
        }
    }
}

void rounded_nvfp4_4over6(float *x, size_t n) {
    float amax;
    if (!has_values(x, n, &amax))
        return;
    const float whole = amax / 1536.0f;
    for (size_t at = 0; at < n; at += NVFP4_BLOCK) {
        const size_t few = n - at < NVFP4_BLOCK ? n - at : NVFP4_BLOCK;
        float block[NVFP4_BLOCK] = {0}, q[NVFP4_BLOCK], scale = 0;
        memcpy(block, x + at, few * sizeof *x);
        four_over_six(block, amax, q, &scale);
        for (size_t i = 0; i < few; i++)
            x[at + i] = q[i] * scale * whole;
    }
}

void rounded_mxfp4(float *x, size_t n) {
    float amax;
    if (!has_values(x, n, &amax))
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

void rounded_hadamard(float *x, size_t n, size_t order) {
    const size_t most = n & (~n + 1); /* the largest power of two that divides N */
    order = order < most ? order : most;
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
