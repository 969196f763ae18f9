/* SPDX-License-Identifier: Apache-2.0
 *
 * Packed weights as the BF16 register operand of wgmma: what wgmma.cuh and few.cu share.
 */
#ifndef GEMM_OPERAND_CUH
#define GEMM_OPERAND_CUH

#include "gemm/gpu/sm90/wgmma_ops.cuh"

/* Half a group (64 k, H: which) of BF16 fragments, 4 of 16 k, from a lane's words and the group's scales. */
GEMM_DEV void convert_bf16(const uint4 &v, uint32_t q, int h, uint32_t *a) {
    /* s * 2^-120, then * 2^127 * 2^102: with w * 2^-126 it makes w * s * 2^-17; neither factor alone is BF16 */
    const uint32_t s = mul_bf16x2(mul_bf16x2((h ? q >> 4 : q << 4) & GEMM_SCALE_BITS, 0x7f007f00u), 0x72807280u);
    const uint32_t s0 = permute_bytes(s, s, 0x1010), s1 = permute_bytes(s, s, 0x3232);
    decode_fragments(v.x, v.y, a);
    decode_fragments(v.z, v.w, a + 8);
#pragma unroll
    for (int i = 0; i < 16; i++)
        a[i] = mul_bf16x2(a[i], i & 1 ? s1 : s0);
}

#endif
