/* SPDX-License-Identifier: Apache-2.0
 *
 * One token's share of a warp: 16 rows x 128 or 256 k of packed weights times x, by mma.sync with a block-diagonal B
 * (gemv.cu says how). Used by the GEMV and by the engine's persistent kernel.
 */
#ifndef GEMM_GEMV_CUH
#define GEMM_GEMV_CUH

#include "gemm/gpu/device.cuh"

#define UNIT       2 /* groups of 128 k a stage */
#define UNIT_BYTES (UNIT * GEMM_GROUP_BYTES)

/* Scales of a group: (r0, t) (r0, 4 + t) (r1, t) (r1, 4 + t) as FP32. */
GEMM_DEV void load_scales(uint32_t q, float *s) {
#if __CUDA_ARCH__ >= 890
    uint32_t lo, hi;
    asm("cvt.rn.f16x2.e4m3x2 %0,%1;" : "=r"(lo) : "h"((uint16_t)q));
    asm("cvt.rn.f16x2.e4m3x2 %0,%1;" : "=r"(hi) : "h"((uint16_t)(q >> 16)));
    const float2 a = __half22float2(*(const __half2 *)&lo), b = __half22float2(*(const __half2 *)&hi);
    s[0] = a.x, s[1] = a.y, s[2] = b.x, s[3] = b.y;
#else
#pragma unroll
    for (int i = 0; i < 4; i++) /* the bits, as FP32, are the scale * 2^-120 */
        s[i] = __uint_as_float((q >> 8 * i & 0x7f) << 20) * 0x1p120f;
#endif
}

/* acc[2 i + 0..1] (rows r0, r1 of token i) += GROUPS x 128 k. STAGE: the lane's 16 B; X: the lane's 32 B of x, STEP bytes a
 * 128 k. Of two tokens column 2t + 1 of B has the second one's. */
template <int GROUPS, int TOKENS = 1> GEMM_DEV void add_unit(uint32_t stage, uint32_t scales, uint32_t x, uint32_t step, float *acc) {
    uint32_t w[2 * GROUPS][4], q[GROUPS];
    float d[2 * GROUPS][4];
#pragma unroll
    for (int h = 0; h < 2 * GROUPS; h++) {
        const uint4 v = lds128(stage + h / 2 * GEMM_GROUP_BYTES + h % 2 * 512);
        w[h][0] = v.x, w[h][1] = v.y, w[h][2] = v.z, w[h][3] = v.w;
    }
#pragma unroll
    for (int p = 0; p < GROUPS; p++)
        q[p] = lds32(scales + p * GEMM_GROUP_BYTES);
#pragma unroll
    for (int p = 0; p < GROUPS; p++, x += step) {
        uint32_t b[2][8];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            const uint4 u = lds128(x + 128 * h), v = lds128(x + 128 * h + 16);
            b[h][0] = u.x, b[h][1] = u.y, b[h][2] = u.z, b[h][3] = u.w;
            b[h][4] = v.x, b[h][5] = v.y, b[h][6] = v.z, b[h][7] = v.w;
        }
#pragma unroll
        for (int s = 0; s < 4; s++)
#pragma unroll
            for (int h = 2 * p; h < 2 * p + 2; h++) { /* two chains in turn */
                uint32_t f[8];
                if (s == 0)
                    d[h][0] = d[h][1] = d[h][2] = d[h][3] = 0.0f;
                decode_fragments(w[h][s & 2], w[h][s | 1], f); /* of a pair; the compiler keeps one decode */
                mma_bf16(d[h], f + 4 * (s & 1), b[h & 1][2 * s], b[h & 1][2 * s + 1]);
            }
    }
#pragma unroll
    for (int p = 0; p < GROUPS; p++) {
        float s[4];
        load_scales(q[p], s);
#pragma unroll
        for (int j = 0; j < 2 * TOKENS; j++) {
            const int h = j / TOKENS, i = j % TOKENS;
            acc[2 * i] = fmaf(d[2 * p + h][i], s[h], acc[2 * i]);
            acc[2 * i + 1] = fmaf(d[2 * p + h][2 + i], s[2 + h], acc[2 * i + 1]);
        }
    }
}

#endif
