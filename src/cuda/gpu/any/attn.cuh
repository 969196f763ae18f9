/* SPDX-License-Identifier: Apache-2.0
 *
 * What the attention kernels share: where a row's keys lie, FP8 and BF16 as operands of tensor cores.
 */
#ifndef CUDA_ATTN_CUH
#define CUDA_ATTN_CUH

#include "cuda/gpu/any/kernel.cuh"

#define LOG2E    1.44269504f
#define NO_SCORE (-1e30f) /* of a key that a query does not see: far below any score, and finite */
/* Weights times FP8 value scales leave FP16's normal range without it; exact, and taken out at the end. */
#define WEIGHT_LIFT 256.0f

typedef struct attn_job {
    act_view out;
    const float *q;
    size_t q_stride;
    attn_view p;
    kv_view kv;
    step_view step;
    int n_rows;
    float *partial; /* decode: see there */
    int n_splits;
    act_view qkv; /* decode that makes its own queries: what they come from */
} attn_job;

/* Keys [first, end) that the query at POSITION sees. */
__device__ __forceinline__ int first_key(const attn_view &p, int position) {
    return p.window > 0 ? max(0, position - p.window + 1) : 0;
}

/* Cell of keys and values at POSITION under KV head HEAD. */
__device__ __forceinline__ size_t cell_of(const attn_job &job, const int32_t *pages, int head, int position) {
    return ((size_t)pages[position / KV_PAGE] * job.p.n_kv_heads + head) * KV_PAGE + position % KV_PAGE;
}

/* Operand pairs: FP8 keys and values become FP16, exactly; BF16 stay. */
template <kv_format F> struct operand {
    static constexpr int bytes = F == KV_FP8 ? 1 : 2;
    __device__ static __forceinline__ uint32_t pack(float a, float b) {
        if (F == KV_FP8) {
            __half2 h = __floats2half2_rn(a, b);
            return *(uint32_t *)&h;
        }
        __nv_bfloat162 h = __floats2bfloat162_rn(a, b);
        return *(uint32_t *)&h;
    }
    __device__ static __forceinline__ void mma(float *c, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                                               uint32_t b0, uint32_t b1) {
        if (F == KV_FP8)
            mma_f16(c, a0, a1, a2, a3, b0, b1);
        else
            mma_bf16(c, a0, a1, a2, a3, b0, b1);
    }
};

/* The key at AT in shared memory, FP16 [D], 64 dimensions PART bytes from the next, its scale at SCALE_AT:
 * less MEAN [D], by a warp. A sequence's first key is stored as it is, all others less their head's mean; its
 * new scale is its largest magnitude. */
template <int D>
__device__ __forceinline__ void take_mean(uint8_t *at, int part, float *scale_at, const float *mean,
                                          int lane) {
    float x[D / 32], most = 0;
    const float scale = *scale_at;
#pragma unroll
    for (int j = 0; j < D / 32; j++) {
        const int i = lane + 32 * j;
        x[j] = __half2float(((const __half *)(at + i / 64 * part))[i % 64]) * scale - mean[i];
        most = fmaxf(most, fabsf(x[j])); /* of a key that is not finite NaN stay */
    }
    most = warp_max(most);
    const float factor = most >= 0x1p-100f ? 1.0f / most : 0;
#pragma unroll
    for (int j = 0; j < D / 32; j++) {
        const int i = lane + 32 * j;
        ((__half *)(at + i / 64 * part))[i % 64] = __float2half_rn(x[j] * factor);
    }
    if (lane == 0)
        *scale_at = scale == scale ? most : scale;
}

__device__ __forceinline__ float exp2_fast(float v) {
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
    return r;
}

/* A score in powers of two, S = score * log2(e), as cap * tanh(score / cap) has it. */
__device__ __forceinline__ float capped(float s, float cap) {
    const float x = 2.0f * s / cap; /* no fminf, which makes a number of NaN */
    return cap * LOG2E * (1.0f - __fdividef(2.0f, 1.0f + exp2_fast(x > 80.0f ? 80.0f : x)));
}

__device__ __forceinline__ uint32_t transpose8x8(uint32_t v) {
    uint32_t d;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(d) : "r"(v));
    return d;
}

/* Element I of an output row, BF16 or FP32. */
__device__ __forceinline__ void put_out(const act_view &out, size_t row, size_t i, float v) {
    if (out.format == ACT_F32)
        ((float *)act_row(out, row))[i] = v;
    else
        ((__nv_bfloat16 *)act_row(out, row))[out.format == ACT_BF16 ? i : bf16_position(i)] =
            __float2bfloat16_rn(v);
}

/* Elements I, which is even, and I + 1. */
__device__ __forceinline__ void put_pair(const act_view &out, size_t row, size_t i, float a, float b) {
    if (out.format == ACT_F32)
        *(float2 *)((float *)act_row(out, row) + i) = make_float2(a, b);
    else
        *(uint32_t *)((__nv_bfloat16 *)act_row(out, row) + (out.format == ACT_BF16 ? i : bf16_position(i))) =
            to_bf16x2(a, b);
}

#endif
