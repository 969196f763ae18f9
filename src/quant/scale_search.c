/* SPDX-License-Identifier: Apache-2.0
 *
 * The candidate loop is written so that compilers vectorize it: 16 lanes, no branches, no table. Rounding to
 * E2M1 is done by adding and subtracting 1.5 * 2^k: with k chosen by |y| the FP32 addition itself rounds to a
 * multiple of 0.5, 1 or 2, ties to even, which are the E2M1 steps below 2, below 4 and above.
 */
#include "quant/scale_search.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "num/e2m1.h"
#include "num/fp8.h"
#include "num/mxfp4.h"
#include "num/nvfp4.h"

#define E4M3_MAX_CODE  0x7e
#define EXACT_MAX_CODE 0x68 /* 64 */

float scale_search_reciprocal(float s) {
    float near = 1.0f / s;
    if (1.0f / near == s)
        return near;
    float below = nextafterf(near, 0.0f), above = nextafterf(near, INFINITY);
    return 1.0f / below == s ? below : 1.0f / above == s ? above : near;
}

void scale_search_init(scale_search *s, quant_method method, float amax, bool ct, const float *weights) {
    float most = method == QM_FOUR_OVER_SIX ? 1536.0f : NVFP4_MAX;
    if (amax > 0.0f && amax < most * FLT_MIN) /* a tensor scale below, subnormal, has no reciprocal */
        amax = most * FLT_MIN;
    *s = (scale_search){.method = method, .amax = amax, .tensor_scale = 1.0f, .weights = weights};
    if (method == QM_RTN && ct) {
        s->global_scale = nvfp4_ct_global_scale(amax, false);
        s->tensor_scale = 1.0f / s->global_scale;
        return;
    }
    if (amax > 0.0f) {
        s->tensor_scale = amax / most;
        if (method == QM_SWEEP || method == QM_WEIGHTED)
            while (1.0f / scale_search_reciprocal(s->tensor_scale) != s->tensor_scale)
                s->tensor_scale = nextafterf(s->tensor_scale, INFINITY);
    }
    if (ct)
        s->global_scale = scale_search_reciprocal(s->tensor_scale);
}

bool scale_search_is_fp8_exact(uint8_t scale) {
    bool subnormal = scale < 8; /* 2, 4 or 6 times 2^-9 */
    return scale > 0 && scale <= EXACT_MAX_CODE && scale % 2 == 0 && (subnormal || scale % 8 != 6);
}

void scale_search_init_fp8_exact(scale_search *s, quant_method method, float amax, bool ct,
                                 const float *weights) {
    scale_search_init(s, method, amax * (448.0f / 64.0f), ct, weights);
    s->fp8_exact = true;
}

/* What 1 stands for under a block scale, computed as the method's reference computes it. */
static float step_of(const scale_search *s, uint8_t scale) {
    return s->method == QM_RTN && s->global_scale ? e4m3_to_f32(scale) / s->global_scale
                                                  : e4m3_to_f32(scale) * s->tensor_scale;
}

/* Adds up v[0..15] by halves, in an order that does not depend on the vector length. */
static float sum16(float *v) {
    for (int i = 0; i < 8; i++)
        v[i] += v[i + 8];
    for (int i = 0; i < 4; i++)
        v[i] += v[i + 4];
    return (v[0] + v[2]) + (v[1] + v[3]);
}

/* sum_j w_j (|x_j| - step * e2m1(|x_j| / step))^2 */
static float block_error(const float *restrict a, const float *restrict w, float step) {
    float e[NVFP4_BLOCK], inverse = 1.0f / step;
    for (int i = 0; i < NVFP4_BLOCK; i++) {
        float y = a[i] * inverse;
        float magic = y < 2.0f ? 0x1.8p22f : y < 4.0f ? 0x1.8p23f : 0x1.8p24f;
        float q = (y + magic) - magic;
        float d = y - (q < 6.0f ? q : 6.0f);
        e[i] = w[i] * (d * d);
    }
    return sum16(e) * (step * step);
}

static const float ones[NVFP4_BLOCK] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

/* Importance of a block's elements; a block whose inputs were never seen counts all alike. */
static const float *block_weights(const scale_search *s, size_t col) {
    if (!s->weights)
        return ones;
    for (int i = 0; i < NVFP4_BLOCK; i++)
        if (s->weights[col + (size_t)i] > 0.0f)
            return s->weights + col;
    return ones;
}

static uint8_t e4m3_floor(float x) { /* 0 <= x <= 448 */
    uint8_t code = e4m3_from_f32(x);
    return code && e4m3_to_f32(code) > x ? code - 1 : code;
}

/* The code with the least error; the first of equals. */
static uint8_t best_scale(const scale_search *s, const float *x, const float *w, float amax, int below,
                          int above) {
    float a[NVFP4_BLOCK];
    for (int i = 0; i < NVFP4_BLOCK; i++)
        a[i] = fabsf(x[i]);
    float ideal = amax / 6.0f / s->tensor_scale;
    float most = s->fp8_exact ? 64.0f : 448.0f;
    int base = e4m3_floor(ideal < most ? ideal : most);
    int first = base - below < 1 ? 1 : base - below;
    int last = base + above > E4M3_MAX_CODE ? E4M3_MAX_CODE : base + above;
    float least = INFINITY;
    int best = first;
    for (int code = first; code <= last; code++) {
        if (s->fp8_exact && !scale_search_is_fp8_exact((uint8_t)code))
            continue;
        float error = block_error(a, w, step_of(s, (uint8_t)code));
        if (error < least) {
            least = error;
            best = code;
        }
    }
    return (uint8_t)best;
}

/* The fouroversix reference: y = x * (1 / (decode * scale)), the error taken on q * scale * amax / 1536, the
 * scale for 4 only when its error is strictly less. */
static void four_over_six(const scale_search *s, const float *x, float amax, uint8_t *codes, uint8_t *scale) {
    float encode = 1536.0f / s->amax, decode = 1.0f / encode, least = 0.0f;
    for (int four = 0; four < 2; four++) {
        float exact = amax / 6.0f * encode;
        uint8_t code = e4m3_from_f32(four ? exact * 1.5f : exact);
        float value = e4m3_to_f32(code), factor = code ? 1.0f / (decode * value) : 0.0f;
        float y[NVFP4_BLOCK], e[NVFP4_BLOCK];
        uint8_t packed[NVFP4_BLOCK_BYTES];
        for (int i = 0; i < NVFP4_BLOCK; i++)
            y[i] = x[i] * factor;
        nvfp4_encode_block(y, 1.0f, packed);
        for (int i = 0; i < NVFP4_BLOCK; i++) {
            float q = e2m1_to_f32(packed[i / 2] >> 4 * (i & 1));
            float d = q * value * s->amax / 1536.0f - x[i];
            e[i] = d * d;
        }
        float error = sum16(e);
        if (!four || error < least) {
            least = error;
            *scale = code;
            memcpy(codes, packed, sizeof packed);
        }
    }
}

/* Squares of very small or large numbers leave FP32: the power of two that brings a scale of that kind to
 * [1, 2), else 1. Multiplying with it is exact, so it changes no choice but where squares were lost. */
static float unit_of(float scale) {
    return scale >= 0x1p-40f && scale < 0x1p40f ? 1.0f : ldexpf(1.0f, -ilogbf(scale));
}

/* X times UNIT: itself, or in ROOM. */
static const float *in_units(const float *x, size_t n, float unit, float *room) {
    if (unit == 1.0f)
        return x;
    for (size_t i = 0; i < n; i++)
        room[i] = x[i] * unit;
    return room;
}

void scale_search_nvfp4_row(const scale_search *search, const float *x, size_t cols, uint8_t *codes,
                            uint8_t *scales) {
    assert(cols % NVFP4_BLOCK == 0);
    float unit = unit_of(search->tensor_scale), room[NVFP4_BLOCK];
    scale_search lifted = *search;
    lifted.amax *= unit;
    lifted.tensor_scale *= unit;
    lifted.global_scale /= unit;
    const scale_search *s = &lifted;
    for (size_t col = 0; col < cols; col += NVFP4_BLOCK, codes += NVFP4_BLOCK_BYTES, scales++) {
        const float *block = in_units(x + col, NVFP4_BLOCK, unit, room);
        float amax = nvfp4_amax(block, NVFP4_BLOCK);
        if (s->method == QM_FOUR_OVER_SIX && s->amax > 0.0f) {
            four_over_six(s, block, amax, codes, scales);
            continue;
        }
        if (s->method == QM_RTN && s->global_scale)
            *scales = nvfp4_ct_block_scale(amax, s->global_scale, false);
        else if (s->method == QM_RTN || amax == 0.0f)
            *scales = nvfp4_block_scale(amax, s->tensor_scale);
        else if (s->method == QM_WEIGHTED)
            *scales = best_scale(s, block, block_weights(s, col), amax, 8, 7);
        else
            *scales = best_scale(s, block, ones, amax, 3, 7);
        nvfp4_encode_block(block, step_of(s, *scales), codes);
    }
}

void scale_search_mxfp4_row(const scale_search *s, const float *x, size_t cols, uint8_t *codes,
                            uint8_t *scales) {
    assert(cols % MXFP4_BLOCK == 0);
    for (size_t col = 0; col < cols; col += MXFP4_BLOCK, codes += MXFP4_BLOCK_BYTES, scales++) {
        const float *block = x + col;
        int base = mxfp4_block_scale(nvfp4_amax(block, MXFP4_BLOCK)), best = base;
        if (s->method != QM_RTN && base > 0) {
            float a[MXFP4_BLOCK], least = INFINITY, unit = unit_of(e8m0_to_f32((uint8_t)base));
            for (int i = 0; i < MXFP4_BLOCK; i++)
                a[i] = fabsf(block[i]) * unit;
            for (int scale = base - 1; scale <= base + 1 && scale < 0xff; scale++) {
                float step = e8m0_to_f32((uint8_t)scale) * unit;
                float error = block_error(a, block_weights(s, col), step) +
                              block_error(a + 16, block_weights(s, col + 16), step);
                if (error < least) {
                    least = error;
                    best = scale;
                }
            }
        }
        *scales = (uint8_t)best;
        mxfp4_encode_block(block, *scales, codes);
    }
}
