/* SPDX-License-Identifier: Apache-2.0
 *
 * The inner step of the exact mma.sync kernels: two row tiles share each B fragment; the block scale is multiplied into
 * the BF16 operand, once for the 64 weights a lane has of 64 k.
 */
#ifndef GEMM_GROUP_CUH
#define GEMM_GROUP_CUH

#include "gemm/gpu/device.cuh"

/* c[r][n] += 32 rows x 8 TILES tokens x 128 k. STAGE: the group of row tile 0, then of row tile 1. X: the lane's 32 B of
 * token g, tokens STRIDE bytes apart. Weights are w * s * 2^-119 (then tokens carry 2^64), LIFT: w * s * 2^-17. */
template <int TILES, bool LIFT> GEMM_DEV void add_group(uint32_t stage, uint32_t x, int stride, float (&c)[2][TILES][4]) {
    const int lane = threadIdx.x & 31;
    const uint32_t q[2] = {lds32(stage + 1024 + lane * 4), lds32(stage + GEMM_GROUP_BYTES + 1024 + lane * 4)};
#pragma unroll
    for (int h = 0; h < 2; h++) {
        uint32_t b[TILES][8], w[2][4], s0[2], s1[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const uint4 v = lds128(stage + r * GEMM_GROUP_BYTES + h * 512 + lane * 16);
            w[r][0] = v.x, w[r][1] = v.y, w[r][2] = v.z, w[r][3] = v.w;
            uint32_t s = mul_bf16x2((h ? q[r] >> 4 : q[r] << 4) & GEMM_SCALE_BITS, 0x7f007f00u);
            if (LIFT)
                s = mul_bf16x2(s, 0x72807280u);
            s0[r] = permute_bytes(s, s, 0x1010);
            s1[r] = permute_bytes(s, s, 0x3232);
        }
#pragma unroll
        for (int n = 0; n < TILES; n++) {
            const uint4 u = lds128(x + n * 8 * stride + h * 128), v = lds128(x + n * 8 * stride + h * 128 + 16);
            b[n][0] = u.x, b[n][1] = u.y, b[n][2] = u.z, b[n][3] = u.w;
            b[n][4] = v.x, b[n][5] = v.y, b[n][6] = v.z, b[n][7] = v.w;
        }
#pragma unroll
        for (int z = 0; z < 4; z += 2)
#pragma unroll
            for (int r = 0; r < 2; r++) {
                uint32_t f[8];
                decode_fragments(w[r][z], w[r][z + 1], f);
#pragma unroll
                for (int i = 0; i < 8; i++)
                    f[i] = mul_bf16x2(f[i], i & 1 ? s1[r] : s0[r]);
#pragma unroll
                for (int n = 0; n < TILES; n++) {
                    mma_bf16(c[r][n], f, b[n][2 * z], b[n][2 * z + 1]);
                    mma_bf16(c[r][n], f + 4, b[n][2 * z + 2], b[n][2 * z + 3]);
                }
            }
    }
}

#endif
