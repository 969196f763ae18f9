/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights with their block scales folded in, E4M3: each byte is rn_e4m3(magnitude * scale / 8), looked up with one PRMT
 * for four weights in the 8 bytes that belong to the scale.
 */
#ifndef GEMM_FOLD_CUH
#define GEMM_FOLD_CUH

#include <cuda_fp8.h>

#include "gemm/gpu/device.cuh"

/* The 8 magnitudes times each scale / 8, as E4M3 bytes; the scale 0x7F (NaN) is not in packed weights. */
GEMM_DEV void build_lut(uint2 *lut) {
    if (threadIdx.x < 128) {
        uint32_t b[2] = {0, 0};
        const __half_raw h = __nv_cvt_fp8_to_halfraw((__nv_fp8_storage_t)threadIdx.x, __NV_E4M3);
        const float s = threadIdx.x == 127 ? 0.0f : __half2float(*(const __half *)&h) * 0.125f;
        for (int i = 0; i < 8; i++) {
            const float m = i < 5 ? 0.5f * i : i == 5 ? 3.0f : i == 6 ? 4.0f : 6.0f;
            b[i / 4] |= (uint32_t)__nv_cvt_float_to_fp8(m * s, __NV_SATFINITE, __NV_E4M3) << 8 * (i % 4);
        }
        lut[threadIdx.x] = make_uint2(b[0], b[1]);
    }
}

/* The weights of a lane in one stage: rows r0 and r1, 4 steps of 32 bytes of A each. */
struct raw_e4m3 {
    uint32_t w[8];
    uint2 lut0[2], lut1[2];

    GEMM_DEV void load(uint32_t lane16, uint32_t scales, const uint2 *lut) {
        const uint32_t q = lds32(scales);
        const uint4 u = lds128(lane16), v = lds128(lane16 + 512);
        w[0] = u.x, w[1] = u.y, w[2] = u.z, w[3] = u.w, w[4] = v.x, w[5] = v.y, w[6] = v.z, w[7] = v.w;
        lut0[0] = lut[q & 255]; /* in C: the shared memory's own addressing multiplies by 8 */
        lut0[1] = lut[q >> 8 & 255];
        lut1[0] = lut[q >> 16 & 255];
        lut1[1] = lut[q >> 24];
    }

    GEMM_DEV void step(int j, uint32_t *a) const { /* fragment of 32 k */
        decode_e4m3(w[2 * j], lut0[j >> 1], a[0], a[2]);
        decode_e4m3(w[2 * j + 1], lut1[j >> 1], a[1], a[3]);
    }
};

#endif
