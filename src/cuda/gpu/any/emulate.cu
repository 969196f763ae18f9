/* SPDX-License-Identifier: Apache-2.0
 *
 * Activations as NVFP4 has them, in place: what W4A4 computes, where it is not computed by FP4 cores. Each
 * row has a power of two of its own in the place of the tensor's scale, so that its largest block's scale is
 * 128 to 256; an element times its block's scale has 6 bits, which BF16 holds exactly.
 *
 * A block is one row, read twice; bytes moved: 6 * cols.
 */
#include "cuda/gpu/any/kernel.cuh"

enum { THREADS = 256, BLOCK = 16 };

/* |V| to the nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6; of two as near the even code; NaN stays. */
__device__ __forceinline__ float round_e2m1(float v) {
    const float step = v < 2 ? 0.5f : v < 4 ? 1.0f : 2.0f;
    return v > 6 ? 6 : step * rintf(v / step);
}

static __global__ void __launch_bounds__(THREADS) round_rows(act_view x, size_t cols) {
    __shared__ float room[33];
    pdl_wait();
    pdl_go();
    __nv_bfloat16 *row = (__nv_bfloat16 *)act_row(x, blockIdx.x);
    float most = 0;
    for (size_t i = threadIdx.x; i < cols; i += THREADS)
        most = fmaxf(most, fabsf(__bfloat162float(row[i])));
    most = block_reduce<true>(most, room);
    if (!(most >= 0x1p-100f) || most > 3e38f) /* nothing that a product would notice; or no number */
        return;
    int power;
    frexpf(most / 6, &power); /* most / 6 < 2^power */
    power -= 8;               /* so scales end below 256, or at it when they are rounded */
    for (size_t b = threadIdx.x; b < cols / BLOCK; b += THREADS) {
        float v[BLOCK], amax = 0;
#pragma unroll
        for (int i = 0; i < BLOCK; i++) {
            v[i] = __bfloat162float(row[BLOCK * b + i]);
            amax = fmaxf(amax, fabsf(v[i]));
        }
        const float code = fmaxf(from_e4m3(to_e4m3(ldexpf(amax / 6, -power))), 0x1p-9f);
        const float scale = ldexpf(code, power);
#pragma unroll
        for (int i = 0; i < BLOCK; i++)
            row[BLOCK * b + i] =
                __float2bfloat16_rn(copysignf(scale * round_e2m1(fabsf(v[i]) / scale), v[i]));
    }
}

extern "C" int emulate_nvfp4_launch(const cuda_lane *lane, act_view x, int n_rows, size_t cols) {
    if (x.format != ACT_BF16 || cols % BLOCK != 0 || x.stride < cols || n_rows < 0)
        return cudaErrorInvalidValue;
    return launch_kernel(lane, round_rows, dim3((unsigned)n_rows), THREADS, 0, x, cols);
}
