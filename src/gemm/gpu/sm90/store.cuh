/* SPDX-License-Identifier: Apache-2.0
 *
 * Fragments of results, 16 rows x 8 tokens, that stand in a warp as wgmma (and mma.sync) leave them: v = (row r0: tokens 2t, 2t + 1),
 * (row r1: the same), with r0, r1 of gemm_tile_row. After an exchange a lane has four rows of one token: full sectors.
 */
#ifndef GEMM_STORE_CUH
#define GEMM_STORE_CUH

#include "gemm/gpu/device.cuh"

GEMM_DEV uint32_t pack_pair(float a, float b, int type) {
    if (type == NIB_GEMM_BF16) {
        const __nv_bfloat162 v = __floats2bfloat162_rn(a, b);
        return *(const uint32_t *)&v;
    }
    const __half2 v = __floats2half2_rn(a, b);
    return *(const uint32_t *)&v;
}

GEMM_DEV float2 unpack_pair(uint32_t v, int type) {
    return type == NIB_GEMM_BF16 ? __bfloat1622float2(*(const __nv_bfloat162 *)&v) : __half22float2(*(const __half2 *)&v);
}

/* FP32: lanes g and g ^ 1 exchange. */
template <int COUNT>
GEMM_DEV void store_fragments_f32(const gemm_out &o, int m, int token, int row, const float4 (&v)[COUNT]) {
    const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const bool odd = g & 1;
    const int first = token + 2 * t + odd, at = row + 4 * (g >> 1);
    float4 c[COUNT], bias = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll
    for (int j = 0; j < COUNT; j++) /* all loads, then all stores: they may be the same places, and are in flight together */
        c[j] = o.c && first + 8 * j < m ? *(const float4 *)((const float *)o.c + (size_t)(first + 8 * j) * o.ldd + at)
                                        : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (o.bias) { /* of any alignment */
        const float *b = (const float *)o.bias + at;
        bias = make_float4(b[0], b[1], b[2], b[3]);
    }
#pragma unroll
    for (int j = 0; j < COUNT; j++) {
        const float got0 = __shfl_xor_sync(~0u, odd ? v[j].x : v[j].y, 4), got1 = __shfl_xor_sync(~0u, odd ? v[j].z : v[j].w, 4);
        float4 u = odd ? make_float4(got0, v[j].y, got1, v[j].w) : make_float4(v[j].x, got0, v[j].z, got1);
        u.x += fmaf(o.beta, c[j].x, bias.x), u.y += fmaf(o.beta, c[j].y, bias.y);
        u.z += fmaf(o.beta, c[j].z, bias.z), u.w += fmaf(o.beta, c[j].w, bias.w);
        if (first + 8 * j < m)
            *(float4 *)((float *)o.d + (size_t)(first + 8 * j) * o.ldd + at) = u;
    }
}

/* BF16 and FP16: pairs of tokens become rows of four by movmatrix; C comes the same way back. */
template <int COUNT>
GEMM_DEV void store_fragments_16(const gemm_out &o, int m, int token, int row, const float4 (&v)[COUNT]) {
    const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const size_t at = (size_t)(token + g) * o.ldd + row + 4 * t, step = (size_t)8 * o.ldd;
    const float b0 = o.bias ? load_float(o.bias, row + gemm_tile_row(g, 0), o.type) : 0.0f;
    const float b1 = o.bias ? load_float(o.bias, row + gemm_tile_row(g, 1), o.type) : 0.0f;
    uint2 c[COUNT];
#pragma unroll
    for (int j = 0; j < COUNT; j++)
        c[j] = o.c && token + g + 8 * j < m ? *(const uint2 *)((const uint16_t *)o.c + at + j * step) : make_uint2(0, 0);
#pragma unroll
    for (int j = 0; j < COUNT; j++) {
        float2 u0 = make_float2(v[j].x + b0, v[j].y + b0), u1 = make_float2(v[j].z + b1, v[j].w + b1);
        if (o.c) {
            const float2 c0 = unpack_pair(transpose_8x8(c[j].x), o.type), c1 = unpack_pair(transpose_8x8(c[j].y), o.type);
            u0.x = fmaf(o.beta, c0.x, u0.x), u0.y = fmaf(o.beta, c0.y, u0.y);
            u1.x = fmaf(o.beta, c1.x, u1.x), u1.y = fmaf(o.beta, c1.y, u1.y);
        }
        const uint32_t x = transpose_8x8(pack_pair(u0.x, u0.y, o.type)), y = transpose_8x8(pack_pair(u1.x, u1.y, o.type));
        if (token + g + 8 * j < m)
            *(uint2 *)((uint16_t *)o.d + at + j * step) = make_uint2(x, y);
    }
}

/* The same without C and bias: no branches, so that the exchanges overlap. */
template <int COUNT>
GEMM_DEV void store_plain_bf16(const gemm_out &o, int m, int token, int row, const float4 (&v)[COUNT]) {
    const int g = threadIdx.x >> 2 & 7, t = threadIdx.x & 3;
    uint16_t *to = (uint16_t *)o.d + (size_t)(token + g) * o.ldd + row + 4 * t;
    uint32_t x[COUNT], y[COUNT];
#pragma unroll
    for (int j = 0; j < COUNT; j++) {
        x[j] = transpose_8x8(pack_pair(v[j].x, v[j].y, NIB_GEMM_BF16));
        y[j] = transpose_8x8(pack_pair(v[j].z, v[j].w, NIB_GEMM_BF16));
    }
#pragma unroll
    for (int j = 0; j < COUNT; j++, to += (size_t)8 * o.ldd)
        if (token + g + 8 * j < m)
            asm volatile("st.global.v2.b32 [%0],{%1,%2};" ::"l"(to), "r"(x[j]), "r"(y[j]) : "memory"); /* from C it may become two */
}

/* For the product behind (GEMM_A_BF16_MMA): four rows of a token lie in two places of their 64. */
GEMM_DEV void store_prepared(const gemm_out &o, int m, int token, int row, const float4 &v) {
    const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
    const uint32_t x = transpose_8x8(pack_pair(v.x, v.y, NIB_GEMM_BF16)), y = transpose_8x8(pack_pair(v.z, v.w, NIB_GEMM_BF16));
    uint16_t *to = (uint16_t *)o.d + (size_t)(token + g) * o.ldd + (row & ~63) + 16 * t + 2 * (row / 16 % 4);
    if (token + g < m) {
        *(uint32_t *)to = x;
        *(uint32_t *)(to + 8) = y;
    }
}

/* One fragment of FP32, added to what is there, and what the norm behind needs of it. FETCH before the sums are there. */
struct spread_store {
    float4 *d;
    float4 was, w;
    int mine, at;

    GEMM_DEV void fetch(const gemm_out &o, const gemm_spread &s, int m, int token, int row) {
        const int g = threadIdx.x >> 2 & 7, t = threadIdx.x & 3;
        mine = token + 2 * t + (g & 1), at = row + 4 * (g >> 1);
        d = (float4 *)((float *)o.d + (size_t)mine * o.ldd + at);
        was = mine < m ? *d : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        w = __ldg((const float4 *)(s.w + at));
    }

    GEMM_DEV void store(const gemm_spread &s, int n_squares, int m, const float4 &v) const {
        const int g = threadIdx.x >> 2 & 7;
        const bool odd = g & 1;
        const float got0 = __shfl_xor_sync(~0u, odd ? v.x : v.y, 4), got1 = __shfl_xor_sync(~0u, odd ? v.z : v.w, 4);
        float4 u = odd ? make_float4(got0, v.y, got1, v.w) : make_float4(v.x, got0, v.z, got1);
        u.x += was.x, u.y += was.y, u.z += was.z, u.w += was.w;
        float squares = fmaf(u.x, u.x, u.y * u.y) + fmaf(u.z, u.z, u.w * u.w);
        squares += __shfl_xor_sync(~0u, squares, 8);
        squares += __shfl_xor_sync(~0u, squares, 16);
        if (mine >= m)
            return;
        *d = u;
        *(uint2 *)((__nv_bfloat16 *)s.scaled + (size_t)mine * s.ld + at) =
            make_uint2(pack_pair(u.x * w.x, u.y * w.y, NIB_GEMM_BF16), pack_pair(u.z * w.z, u.w * w.w, NIB_GEMM_BF16));
        if (g < 2)
            s.squares[(size_t)mine * n_squares + at / 16] = squares;
    }
};

/* COUNT fragments, 8 tokens further each, scaled already. ROW: of the 16's first. A whole warp calls it. */
template <int COUNT> GEMM_DEV void store_fragments(const gemm_out &o, int m, int token, int row, const float4 (&v)[COUNT]) {
    if (o.type == NIB_GEMM_F32)
        store_fragments_f32(o, m, token, row, v);
    else
        store_fragments_16(o, m, token, row, v);
}

#endif
