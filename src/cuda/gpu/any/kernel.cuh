/* SPDX-License-Identifier: Apache-2.0
 *
 * Small device helpers that the kernels of this room share: launching with programmatic dependent launch,
 * warp sums, FP8 conversion, stores in an activation format.
 */
#ifndef CUDA_KERNEL_CUH
#define CUDA_KERNEL_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include "cuda/launchers.h"

static_assert(KV_PAGE == 64, "shifts and masks below");

/* ---- launching ---- */

/* Blocks of a grid's row in clusters of CLUSTER (sm_90 and up; 1: none). */
template <class... Params, class... Args>
static int launch_clusters(const cuda_lane *lane, void (*kernel)(Params...), dim3 grid, unsigned cluster,
                           unsigned threads, size_t shared, Args... args) {
    if (lane->off || grid.x == 0 || grid.y == 0 || grid.z == 0)
        return cudaSuccess;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(threads);
    config.dynamicSmemBytes = shared;
    config.stream = (cudaStream_t)lane->stream;
    cudaLaunchAttribute attributes[2] = {};
    config.attrs = attributes;
    if (lane->pdl) {
        attributes[config.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attributes[config.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
    }
    if (cluster > 1) {
        attributes[config.numAttrs].id = cudaLaunchAttributeClusterDimension;
        attributes[config.numAttrs].val.clusterDim.x = cluster;
        attributes[config.numAttrs].val.clusterDim.y = 1;
        attributes[config.numAttrs++].val.clusterDim.z = 1;
    }
    return (int)cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
}

template <class... Params, class... Args>
static int launch_kernel(const cuda_lane *lane, void (*kernel)(Params...), dim3 grid, unsigned threads,
                         size_t shared, Args... args) {
    return launch_clusters(lane, kernel, grid, 1, threads, shared, args...);
}

/* Every kernel waits before it touches what another one writes or reads, and lets the next one start. */
__device__ __forceinline__ void pdl_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void pdl_go() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/* ---- reductions in a fixed order ---- */

__device__ __forceinline__ float warp_sum(float v) {
#pragma unroll
    for (int i = 16; i; i >>= 1)
        v += __shfl_xor_sync(~0u, v, i);
    return v;
}

__device__ __forceinline__ float warp_max(float v) {
#pragma unroll
    for (int i = 16; i; i >>= 1)
        v = fmaxf(v, __shfl_xor_sync(~0u, v, i));
    return v;
}

/* All threads of the block (whole warps) get the result. ROOM: 33 floats of shared memory; two barriers. */
template <bool MAX> __device__ __forceinline__ float block_reduce(float v, float *room) {
    int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, n_warps = blockDim.x >> 5;
    v = MAX ? warp_max(v) : warp_sum(v);
    if (lane == 0)
        room[warp] = v;
    __syncthreads();
    float all = lane < n_warps ? room[lane] : 0;
    all = MAX ? warp_max(all) : warp_sum(all);
    __syncthreads();
    return all;
}

/* ---- FP8 ---- */

__device__ __forceinline__ uint8_t to_e4m3(float v) {
    return (uint8_t)__nv_cvt_float_to_fp8(v, __NV_SATFINITE, __NV_E4M3);
}

__device__ __forceinline__ float from_e4m3(uint8_t code) {
    __half_raw h = __nv_cvt_fp8_to_halfraw(code, __NV_E4M3);
    return __half2float(__half(h));
}

/* Two E4M3 codes (the low 16 bits) as a pair of halves; exact. */
__device__ __forceinline__ uint32_t e4m3x2_to_half2(uint32_t codes) {
#if __CUDA_ARCH__ >= 890
    uint32_t h;
    asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(h) : "h"((uint16_t)codes));
    return h;
#else
    __half2_raw h = __nv_cvt_fp8x2_to_halfraw2((__nv_fp8x2_storage_t)codes, __NV_E4M3);
    return (uint32_t)h.x | (uint32_t)h.y << 16;
#endif
}

/* The scale of an activation row whose largest |x| is MOST; zeros have 0, what is not finite has NaN. */
__device__ __forceinline__ float fp8_row_scale(float most) {
    return most >= 0x1p-100f || most != most ? most / 448.0f : 0.0f;
}

/* ---- activations ---- */

/* Where column COL of an ACT_FP8 row lies: within 64, element e of block t at 32 (e / 8) + 16 r + 4 t + b
 * with (r, b) of e % 8 = 0..7: (0,1) (1,1) (1,2) (0,2) (1,3) (0,3) (0,0) (1,0). */
__device__ __forceinline__ size_t fp8_position(size_t col) {
    uint32_t k = (uint32_t)(col & 63), e = k & 15, i = e & 7;
    return (col & ~(size_t)63) + 32 * (e >> 3) + 16 * (0x96u >> i & 1) + 4 * (k >> 4) +
           (0x0fa5u >> 2 * i & 3);
}

/* The same in an ACT_BF16_MMA row: within 64, k = 16 t + 4 s + j at 16 s + 2 t + j % 2 + 8 (j / 2). */
__device__ __forceinline__ size_t bf16_position(size_t col) {
    uint32_t k = (uint32_t)(col & 63), j = k & 3;
    return (col & ~(size_t)63) + 16 * (k >> 2 & 3) + 2 * (k >> 4) + (j & 1) + 8 * (j >> 1);
}

__device__ __forceinline__ uint32_t to_bf16x2(float a, float b) {
    __nv_bfloat162 pair = __floats2bfloat162_rn(a, b);
    return *(uint32_t *)&pair;
}

__device__ __forceinline__ uint32_t to_e4m3x4(float a, float b, float c, float d) {
    uint32_t lo = __nv_cvt_float2_to_fp8x2(make_float2(a, b), __NV_SATFINITE, __NV_E4M3);
    uint32_t hi = __nv_cvt_float2_to_fp8x2(make_float2(c, d), __NV_SATFINITE, __NV_E4M3);
    return lo | hi << 16;
}

/* Eight neighbours from column COL, a multiple of 8, on. */
template <act_format F>
__device__ __forceinline__ void act_put8(void *row, size_t col, const float *v, float factor) {
    if (F == ACT_F32) {
        ((float4 *)row)[col / 4] = make_float4(v[0], v[1], v[2], v[3]);
        ((float4 *)row)[col / 4 + 1] = make_float4(v[4], v[5], v[6], v[7]);
    } else if (F == ACT_BF16) {
        uint32_t w[4];
#pragma unroll
        for (int i = 0; i < 4; i++)
            w[i] = to_bf16x2(v[2 * i], v[2 * i + 1]);
        ((uint4 *)row)[col / 8] = make_uint4(w[0], w[1], w[2], w[3]);
    } else if (F == ACT_BF16_MMA) {
        uint32_t *to = (uint32_t *)row + bf16_position(col) / 2;
#pragma unroll
        for (int i = 0; i < 4; i++)
            to[i % 2 * 4 + i / 2 * 8] = to_bf16x2(v[2 * i], v[2 * i + 1]);
    } else {
        float x[8];
#pragma unroll
        for (int i = 0; i < 8; i++)
            x[i] = v[i] * factor;
        uint32_t k = (uint32_t)(col & 63);
        uint32_t *to = (uint32_t *)((uint8_t *)row + (col & ~(size_t)63) + 32 * (k >> 3 & 1) + 4 * (k >> 4));
        to[0] = to_e4m3x4(x[6], x[0], x[3], x[5]);
        to[4] = to_e4m3x4(x[7], x[1], x[2], x[4]);
    }
}

template <act_format F>
__device__ __forceinline__ void act_put(void *row, size_t col, float v, float factor) {
    if (F == ACT_F32)
        ((float *)row)[col] = v;
    else if (F == ACT_BF16 || F == ACT_BF16_MMA)
        ((__nv_bfloat16 *)row)[F == ACT_BF16 ? col : bf16_position(col)] = __float2bfloat16_rn(v);
    else
        ((uint8_t *)row)[fp8_position(col)] = to_e4m3(v * factor);
}

__device__ __forceinline__ size_t act_bytes(act_format f) {
    return f == ACT_F32 ? 4 : f == ACT_FP8 ? 1 : 2;
}

__device__ __forceinline__ void *act_row(const act_view &a, size_t row) {
    return (uint8_t *)a.data + row * a.stride * act_bytes(a.format);
}

__device__ __forceinline__ float act_get(const act_view &a, size_t row, size_t col) {
    const void *p = act_row(a, row);
    if (a.format == ACT_F32)
        return ((const float *)p)[col];
    if (a.format != ACT_FP8)
        return __bfloat162float(((const __nv_bfloat16 *)p)[a.format == ACT_BF16 ? col : bf16_position(col)]);
    return from_e4m3(((const uint8_t *)p)[fp8_position(col)]) * a.scales[row];
}

/* ---- tensor cores: D[16, 8] += A[16, 16] B[16, 8] ---- */

__device__ __forceinline__ void mma_f16(float *c, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                        uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

__device__ __forceinline__ void mma_bf16(float *c, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                         uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

#endif
