/* SPDX-License-Identifier: Apache-2.0
 *
 * Partial sums of the slices of K, [slices, m, n] FP32, added in the slices' order. Four columns a thread.
 */
#include "gemm/gpu/device.cuh"

struct reduce_args {
    const float *partial;
    int m, n, slices;
    float factor;
    gemm_out out;
};

static __global__ void __launch_bounds__(256) reduce(const __grid_constant__ reduce_args a) {
    const size_t size = (size_t)a.m * a.n, i = (blockIdx.x * (size_t)blockDim.x + threadIdx.x) * 4;
    const float tensor_scale = load_scale(a.out.tensor_scale);
    dependents_go();
    dependency_wait();
    if (i >= size)
        return;
    float4 v = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    for (int s = 0; s < a.slices; s++) {
        const float4 p = __ldcs((const float4 *)(a.partial + s * size + i));
        v.x += p.x, v.y += p.y, v.z += p.z, v.w += p.w;
    }
    const int token = (int)(i / a.n), row = (int)(i % a.n);
    const float f = a.factor * (a.out.alpha * tensor_scale) * (a.out.token_scale ? a.out.token_scale[token] : 1.0f);
    if (a.out.type == NIB_GEMM_BF16 && !a.out.c && !a.out.bias) {
        __nv_bfloat162 lo = __floats2bfloat162_rn(v.x * f, v.y * f), hi = __floats2bfloat162_rn(v.z * f, v.w * f);
        *(uint2 *)((__nv_bfloat16 *)a.out.d + (size_t)token * a.out.ldd + row) =
            make_uint2(*(uint32_t *)&lo, *(uint32_t *)&hi);
        return;
    }
    store_result(a.out, token, row, v.x * f);
    store_result(a.out, token, row + 1, v.y * f);
    store_result(a.out, token, row + 2, v.z * f);
    store_result(a.out, token, row + 3, v.w * f);
}

extern "C" int gemm_reduce(const gemm_task *t, float factor) {
    const reduce_args a = {t->partial, t->m, t->n, t->slices, factor, t->out};
    const size_t threads = (size_t)t->m * t->n / 4;
    return launch_kernel(t, reduce, (unsigned)((threads + 255) / 256), 256, 0, a);
}
