/* SPDX-License-Identifier: Apache-2.0
 *
 * NVFP4 blocks of 16 values on the GPU, bit-equal to num/nvfp4.c and quant/scale_search.c: every operation is
 * theirs in their order, rounded once (the room is compiled without contraction).
 */
#ifndef GEMM_QUANT_CUH
#define GEMM_QUANT_CUH

#include <float.h>

#include <cuda_fp8.h>

#include "gemm/gpu/device.cuh"

#define NVFP4_LIMIT 2688.0f /* 6 * 448 */

GEMM_DEV float e4m3_value(uint32_t code) { /* 0 .. 0x7E */
    return code < 8 ? (float)code * 0x1p-9f : __uint_as_float((code << 20) + (120u << 23));
}

/* x >= 0, up to 448; NaN is 0x7F */
GEMM_DEV uint32_t e4m3_code(float x) {
    return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3) & 0x7f; /* one instruction; without saturation many */
}

/* Index of |y| in {0, .5, 1, 1.5, 2, 3, 4, 6}, ties to even; NaN is 0. */
GEMM_DEV uint32_t e2m1_index(float y) {
    const float a = fminf(fabsf(y), 6.0f);
    const uint32_t small = __float_as_uint(a + 0x1p22f) & 7; /* steps of 0.5 below 2 */
    const uint32_t bits = __float_as_uint(a);
    const uint32_t large = (bits + 0x1fffffu + (bits >> 22 & 1)) >> 22;
    return y != y ? 0 : a < 1.0f ? small : large - 252; /* 1 -> 2, 6 -> 7 */
}

/* x / s, correctly rounded, INVERSE = 1 / s correctly rounded and both far from under- and overflow: the quotient
 * and its residue, as Markstein showed. */
GEMM_DEV float divide_by(float x, float s, float inverse) {
    const float q = x * inverse;
    return fmaf(fmaf(-q, s, x), inverse, q);
}

/* Eight codes of numbers Y, element e in bits 4e; no -0 among them. The index of a magnitude a is the least of 2 a, a + 2 and
 * a / 2 + 4, each rounded to even by adding 1.5 * 2^23; the sums' low bits hold it. What stands above those bits adds up
 * modulo 2^32 and is taken off at the end. Instructions are shared out between the pipes that add and those that compare. */
GEMM_DEV uint32_t encode_numbers(const float *y) {
    uint32_t codes = 0;
#pragma unroll
    for (int i = 7; i >= 0; i--) {
        const float a = fminf(fabsf(y[i]), 6.0f);
        const float index = fminf(fminf(fmaf(a, 2.0f, 0x1.8p23f), a + (0x1.8p23f + 2.0f)), fmaf(a, 0.5f, 0x1.8p23f + 4.0f));
        codes = __funnelshift_l(__float_as_uint(y[i]), codes, 1) * 8 + __float_as_uint(index); /* its sign, its index */
    }
    return codes - 0x3f400000u;
}

/* 16 codes of X, values of T none above AMAX, under SCALE (block scale times tensor scale), element e in bits 4e. NUMBERS: no
 * NaN among them; of FP32 it is found out here. */
template <class T> GEMM_DEV uint64_t encode_block(const float *x, float amax, bool numbers, float scale) {
    constexpr bool wide = sizeof(T) == 4;
    uint64_t codes = 0;
    if (scale == 0.0f)
        return 0;
    const float inverse = 1.0f / scale;
    float y[16], all = 0.0f;
    if (numbers && scale > 0x1p-90f && scale < (wide ? 0x1p90f : 0x1p16f) && amax * inverse < 0x1p30f) {
#pragma unroll
        for (int i = 0; i < 16; i++) {
            y[i] = divide_by(x[i], scale, inverse);
            if (wide) { /* 16 bits underflow under no such scale */
                y[i] += 0.0f; /* -0, where it underflows, has no sign */
                all = fmaf(y[i], 0.0f, all); /* a NaN stays one */
            }
        }
        if (all == 0.0f)
            return encode_numbers(y) | (uint64_t)encode_numbers(y + 8) << 32;
    }
#pragma unroll
    for (int i = 0; i < 16; i++) { /* rare */
        const float q = x[i] / scale;
        codes |= (uint64_t)((uint32_t)(q < 0.0f) << 3 | e2m1_index(q)) << 4 * i;
    }
    return codes;
}

GEMM_DEV float block_amax(const float *x) {
    float amax = 0.0f;
#pragma unroll
    for (int i = 0; i < 16; i++)
        amax = fmaxf(amax, fabsf(x[i])); /* a NaN is passed over */
    return amax;
}

GEMM_DEV uint32_t rtn_scale(float amax, float tensor_scale) {
    float scale = amax / (6.0f * tensor_scale);
    if (scale == 0.0f)
        scale = 1.0f;
    return e4m3_code(scale < 0x1p-9f ? 0x1p-9f : scale > 448.0f ? 448.0f : scale);
}

/* The tensor's scale for METHOD (scale_search_init). */
GEMM_DEV float reciprocal_of(float s) {
    const float near = 1.0f / s;
    if (1.0f / near == s)
        return near;
    const float below = nextafterf(near, 0.0f), above = nextafterf(near, INFINITY);
    return 1.0f / below == s ? below : 1.0f / above == s ? above : near;
}

GEMM_DEV float tensor_scale_of(float amax, int method) {
    if (!(amax > 0.0f))
        return 1.0f;
    float s = amax / (method == NIB_GEMM_FOUR_OVER_SIX ? 1536.0f : NVFP4_LIMIT);
    s = s < FLT_MIN ? FLT_MIN : s;
    if (method == NIB_GEMM_SWEEP || method == NIB_GEMM_FP8_EXACT)
        while (1.0f / reciprocal_of(s) != s)
            s = nextafterf(s, INFINITY);
    return s;
}

GEMM_DEV float sum16(float *v) {
    for (int i = 0; i < 8; i++)
        v[i] += v[i + 8];
    for (int i = 0; i < 4; i++)
        v[i] += v[i + 4];
    return (v[0] + v[2]) + (v[1] + v[3]);
}

GEMM_DEV float block_error(const float *x, float step) {
    float e[16];
    const float inverse = 1.0f / step;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const float y = fabsf(x[i]) * inverse;
        const float magic = y < 2.0f ? 0x1.8p22f : y < 4.0f ? 0x1.8p23f : 0x1.8p24f;
        const float q = (y + magic) - magic;
        const float d = y - (q < 6.0f ? q : 6.0f);
        e[i] = d * d;
    }
    return sum16(e) * (step * step);
}

/* Every magnitude times the scale is E4M3 after the eighth that folding takes. */
GEMM_DEV bool fold_is_exact(uint32_t code) {
    const float s = e4m3_value(code);
    for (int i = 1; i < 8; i++) {
        const float v = (i < 5 ? 0.5f * i : i == 5 ? 3.0f : i == 6 ? 4.0f : 6.0f) * s * 0.125f;
        if (e4m3_value(e4m3_code(v)) != v)
            return false;
    }
    return true;
}

GEMM_DEV uint32_t e4m3_floor(float x) {
    const uint32_t code = e4m3_code(x);
    return code && e4m3_value(code) > x ? code - 1 : code;
}

/* The scale of least squared error among codes -3 .. +7 about amax / 6 (fold-exact ones among -8 .. +7). */
GEMM_DEV uint32_t best_scale(const float *x, float amax, float tensor_scale, bool exact) {
    const float ideal = amax / 6.0f / tensor_scale;
    const int base = (int)e4m3_floor(ideal < 448.0f ? ideal : 448.0f);
    const int first = max(base - (exact ? 8 : 3), exact ? 0x10 : 1);
    const int last = max(min(base + 7, 0x7e), first);
    float least = INFINITY;
    int best = first;
    for (int code = first; code <= last; code++) {
        if (exact && !fold_is_exact(code))
            continue;
        const float error = block_error(x, e4m3_value(code) * tensor_scale);
        if (error < least) {
            least = error;
            best = code;
        }
    }
    return best;
}

/* The fouroversix reference's block (scale_search.c, four_over_six). AMAX: the tensor's. */
GEMM_DEV uint64_t four_over_six(const float *x, float block, float amax, uint32_t *scale) {
    const float encode = 1536.0f / amax, decode = 1.0f / encode;
    float least = 0.0f;
    uint64_t codes = 0;
    for (int four = 0; four < 2; four++) {
        const float exact = block / 6.0f * encode;
        const uint32_t code = e4m3_code(four ? exact * 1.5f : exact);
        const float value = e4m3_value(code), factor = code ? 1.0f / (decode * value) : 0.0f;
        float y[16], e[16];
        for (int i = 0; i < 16; i++)
            y[i] = x[i] * factor;
        const uint64_t packed = encode_block<float>(y, 16.0f, true, 1.0f);
        for (int i = 0; i < 16; i++) {
            const uint32_t q = (uint32_t)(packed >> 4 * i) & 15, m = q & 7;
            const float v = (m < 5 ? 0.5f * m : m == 5 ? 3.0f : m == 6 ? 4.0f : 6.0f) * (q & 8 ? -1.0f : 1.0f);
            const float d = v * value * amax / 1536.0f - x[i];
            e[i] = d * d;
        }
        const float error = sum16(e);
        if (!four || error < least) {
            least = error;
            *scale = code;
            codes = packed;
        }
    }
    return codes;
}

/* 16 values of T, as words, to FP32. */
template <class T> GEMM_DEV void expand_block(const uint32_t *w, float *x) {
#pragma unroll
    for (int i = 0; i < 16; i++) {
        const uint32_t half = sizeof(T) == 4 ? 0 : w[i / 2] >> 16 * (i % 2) & 0xffff;
        if constexpr (sizeof(T) == 4)
            x[i] = __uint_as_float(w[i]);
        else if constexpr (__is_same(T, __nv_bfloat16))
            x[i] = __uint_as_float(half << 16);
        else
            x[i] = __half2float(__ushort_as_half((unsigned short)half));
    }
}

/* A plain load that stays behind dependency_wait. */
GEMM_DEV uint4 load_written(const uint4 *p) {
    uint4 v;
    asm volatile("ld.global.v4.u32 {%0,%1,%2,%3},[%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

/* CONST: nothing writes them while the kernel runs, which is not so for a dependent launch's input: the kernel before writes
 * it, and the one may begin before the other has ended. */
template <bool CONST, class T> GEMM_DEV void load_words(const T *p, uint32_t *w) {
#pragma unroll
    for (int i = 0; i < (int)sizeof(T); i++) {
        const uint4 *at = (const uint4 *)p + i, v = CONST ? __ldg(at) : load_written(at);
        w[4 * i] = v.x, w[4 * i + 1] = v.y, w[4 * i + 2] = v.z, w[4 * i + 3] = v.w;
    }
}

template <bool CONST, class T> GEMM_DEV void load_block(const T *p, float *x) {
    uint32_t w[sizeof(T) * 4];
    load_words<CONST>(p, w);
    expand_block<T>(w, x);
}

/* Codes and scale of 16 values of T, as words. AMAX: the tensor's, for 4over6. Magnitudes of 16 bits are compared as they are,
 * two at a time: they are in the order of their numbers, and a NaN is above all. */
template <class T, int METHOD> GEMM_DEV uint64_t quantize_words(const uint32_t *w, float tensor_scale, float amax, uint32_t *scale) {
    float x[16], block;
    bool numbers = true;
    expand_block<T>(w, x);
    if constexpr (sizeof(T) == 2) {
        uint32_t most = 0;
#pragma unroll
        for (int i = 0; i < 8; i++)
            most = __vmaxu2(most, w[i] & 0x7fff7fffu);
        most = max(most & 0xffff, most >> 16);
        numbers = most <= (__is_same(T, __nv_bfloat16) ? 0x7f80u : 0x7c00u);
        block = __is_same(T, __nv_bfloat16) ? __uint_as_float(most << 16) : __half2float(__ushort_as_half((unsigned short)most));
    }
    if (sizeof(T) == 4 || !numbers)
        block = block_amax(x);
    if (METHOD == NIB_GEMM_FOUR_OVER_SIX && amax > 0.0f)
        return four_over_six(x, block, amax, scale);
    *scale = METHOD <= NIB_GEMM_FOUR_OVER_SIX || block == 0.0f
                 ? rtn_scale(block, tensor_scale)
                 : best_scale(x, block, tensor_scale, METHOD == NIB_GEMM_FP8_EXACT);
    return encode_block<T>(x, block, numbers, e4m3_value(*scale) * tensor_scale);
}

template <class T, int METHOD> GEMM_DEV uint64_t quantize_block(const T *p, float tensor_scale, float amax, uint32_t *scale) {
    uint32_t w[sizeof(T) * 4];
    load_words<true>(p, w);
    return quantize_words<T, METHOD>(w, tensor_scale, amax, scale);
}

#endif
