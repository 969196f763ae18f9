/* SPDX-License-Identifier: Apache-2.0
 *
 * How a product of persistent.cu comes to its x: what other blocks hand over, normed or not, into shared
 * memory as BF16 times 2^64, each warp its slice of K (persistent_products.cuh).
 */
#ifndef CUDA_PERSISTENT_INPUT_CUH
#define CUDA_PERSISTENT_INPUT_CUH

#include "cuda/gpu/sm90/handover.cuh"
#include "cuda/gpu/sm90/persistent_block.cuh"

/* ---- a warp's slice of x, BF16 * 2^64, into shared memory ---- */

__device__ __forceinline__ uint32_t lifted_pair(float a, float b) {
    const __nv_bfloat162 v = __floats2bfloat162_rn(a, b);
    return mul_bf16x2(*(const uint32_t *)&v, 0x5f805f80u);
}

/* Not kept in L1, which is small here and holds what registers do not. */
__device__ __forceinline__ float4 load_once(const float *p) {
    float4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.f32 {%0,%1,%2,%3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "l"(p));
    return v;
}

/* Whether a lane misses something; then the warp leaves the others some room. */
__device__ __forceinline__ bool again(uint32_t missing) {
    const bool yes = __any_sync(~0u, missing);
    if (yes)
        __nanosleep(20);
    return yes;
}

/* COUNT elements from FIRST of ROWS rows of X, STRIDE apart, tagged or (PLAIN) not, times the norm's weights
 * W, to rows TO_STRIDE bytes apart; SQUARES: a lane's sums of the squares of x. */
template <int ROWS>
static __device__ __forceinline__ void collect_normed(const float *w, const uint32_t *x, int stride,
                                                      bool plain, uint32_t tag, uint8_t *to, int to_stride,
                                                      int first, int count, int k, float (&squares)[ROWS]) {
    const int lane = threadIdx.x & 31;
    for (int at = 0; at < count; at += 256) {
        const int i = at + lane * 8;
        const bool there = i < count && first + i < k;
        float4 v[2] = {};
        uint4 u[ROWS][2] = {};
        if (there) {
            v[0] = load_once(w + first + i);
            v[1] = load_once(w + first + i + 4);
        }
        uint32_t missing = 0;
        do {
            if (there) {
#pragma unroll
                for (int r = 0; r < ROWS; r++) {
                    u[r][0] = ask(x + r * stride + first + i);
                    u[r][1] = ask(x + r * stride + first + i + 4);
                }
                missing = 0;
#pragma unroll
                for (int r = 0; r < ROWS; r++)
                    missing |= plain ? 0 : (floats_missing(u[r][0], tag) | floats_missing(u[r][1], tag)) & 1;
            }
        } while (again(missing));
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            uint32_t pairs[4];
#pragma unroll
            for (int h = 0; h < 2; h++) {
                const uint4 &q = u[r][h];
                const float a = handed(q.x), b = handed(q.y), c = handed(q.z), d = handed(q.w);
                squares[r] = fmaf(a, a, fmaf(b, b, fmaf(c, c, fmaf(d, d, squares[r]))));
                pairs[2 * h] = lifted_pair(a * v[h].x, b * v[h].y);
                pairs[2 * h + 1] = lifted_pair(c * v[h].z, d * v[h].w);
            }
            if (i < count)
                *(uint4 *)(to + r * to_stride + 2 * i) = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
        }
    }
}

/* The same of BF16 that was handed over, rows K apart; up to LOADS of a lane and row are on their way. */
template <int LOADS, int ROWS>
static __device__ __forceinline__ void collect_pairs(const uint16_t *x, uint32_t tags, uint8_t *to,
                                                     int to_stride, int first, int count, int k) {
    const int lane = threadIdx.x & 31;
    for (int at = 0; at < count; at += 256 * LOADS) {
        uint4 u[ROWS * LOADS];
        uint32_t missing;
        do {
            missing = 0;
#pragma unroll
            for (int j = 0; j < ROWS * LOADS; j++) {
                const int i = at + j % LOADS * 256 + lane * 8;
                if (i < count && first + i < k) {
                    u[j] = ask(x + j / LOADS * k + first + i);
                    missing |= bf16_missing(u[j], tags);
                } else {
                    u[j] = make_uint4(0, 0, 0, 0);
                }
            }
        } while (again(missing));
#pragma unroll
        for (int j = 0; j < ROWS * LOADS; j++) {
            const int i = at + j % LOADS * 256 + lane * 8;
            if (i < count)
                *(uint4 *)(to + j / LOADS * to_stride + 2 * i) = make_uint4(
                    handed_pair(u[j].x), handed_pair(u[j].y), handed_pair(u[j].z), handed_pair(u[j].w));
        }
    }
}

/* ---- branches ----
 *
 * A branch's norm wants all of the branch, and what reads the stream all of the stream: so every block adds
 * them up for itself, in the same order, and nobody waits once more. */

/* The sum of what each warp left AT. */
__device__ __forceinline__ float all_warps(const uint8_t *at) {
    const float4 *sums = (const float4 *)at;
    float all = 0.0f;
#pragma unroll
    for (int w = 0; w < WARPS / 4; w++)
        all += (sums[w].x + sums[w].y) + (sums[w].z + sums[w].w);
    return all;
}

/* One over the root mean square of N elements. */
__device__ __forceinline__ float over_rms(float squares, int n, float eps) {
    const float mean = squares / (float)n + eps;
    const float over = rsqrtf(mean);
    return over * (1.5f - 0.5f * mean * over * over); /* Newton: the last bits */
}

enum { HELD = 3, MOST_STREAM = WARPS * HELD * 128 }; /* lots of 128 elements that a warp holds */

/* Four elements of a lane: of the branch, of the stream before it, of the branch's norm and of the op's. */
struct joint {
    uint4 y, x;
    float4 behind, before;
};

__device__ __forceinline__ float4 handed_four(const uint4 &v) {
    return make_float4(handed(v.x), handed(v.y), handed(v.z), handed(v.w));
}

__device__ __forceinline__ float dot(const float4 &a, const float4 &b, float sum) {
    return fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, sum))));
}

__device__ __forceinline__ float4 add_normed(const float4 &x, const float4 &y, float factor,
                                             const float4 &w) {
    return make_float4(fmaf(y.x * factor, w.x, x.x), fmaf(y.y * factor, w.y, x.y),
                       fmaf(y.z * factor, w.z, x.z), fmaf(y.w * factor, w.w, x.w));
}

/* A lane's lots, of which LEFT elements from E on are the warp's, as soon as they are there. */
static __device__ __forceinline__ void await_branch(joint (&v)[HELD], const pass &a, int i, uint32_t tags,
                                                    int e, int left) {
    const pass_op &op = a.ops[i];
    const bool plain = i == 3; /* the first op that reads a branch */
    const float *behind = a.ops[i - 1].product.norm + e, *before = op.product.norm + e;
    const uint32_t *branch = a.places[op.from] + e,
                   *stream = (plain ? (const uint32_t *)a.stream : a.places[op.from ^ 1] + a.hidden) + e;
    const uint32_t tag = tags >> op.from & 1, before_tag = tags >> (op.from ^ 1) & 1;
    uint32_t missing;
#pragma unroll
    for (int h = 0; h < HELD; h++) {
        v[h] = {};
        if (128 * h < left) {
            v[h].behind = load_once(behind + 128 * h);
            v[h].before = load_once(before + 128 * h);
            v[h].x = ask(stream + 128 * h);
        }
    }
    do {
#pragma unroll
        for (int h = 0; h < HELD; h++) /* all on their way before one is looked at */
            if (128 * h < left)
                v[h].y = ask(branch + 128 * h);
        missing = 0;
#pragma unroll
        for (int h = 0; h < HELD; h++)
            missing |= 128 * h < left ? floats_missing(v[h].y, tag) : 0;
    } while (again(missing & 1));
    while (!plain) { /* the stream came long before */
        missing = 0;
#pragma unroll
        for (int h = 0; h < HELD; h++)
            missing |= 128 * h < left ? floats_missing(v[h].x, before_tag) : 0;
        if (!again(missing & 1))
            break;
#pragma unroll
        for (int h = 0; h < HELD; h++)
            if (128 * h < left)
                v[h].x = ask(stream + 128 * h);
    }
}

/* COUNT elements from FIRST of the stream, to which the norm of the branch before op I is added here, times
 * the norm's weights; a lane's sum of the stream's squares. Each element is handed on by one block. */
static __device__ __forceinline__ float collect_joined(const pass &a, int i, uint32_t tags, uint8_t *shared,
                                                       uint8_t *to, int first, int count) {
    const pass_op &op = a.ops[i], &branch = a.ops[i - 1];
    const int lane = threadIdx.x & 31, share = (a.hidden / 4 + (int)gridDim.x - 1) / (int)gridDim.x * 4;
    joint v[HELD];
    await_branch(v, a, i, tags, first + lane * 4, min(count, a.hidden - first) - lane * 4);
    float squares = 0.0f;
#pragma unroll
    for (int h = 0; h < HELD; h++)
        squares = dot(handed_four(v[h].y), handed_four(v[h].y), squares);
    squares = warp_sum(squares);
    if (lane == 0)
        ((float *)(shared + room<1>::branch))[threadIdx.x >> 5] = squares;
    __syncthreads();
    const float factor = over_rms(all_warps(shared + room<1>::branch), a.hidden, branch.product.eps);
    squares = 0.0f;
#pragma unroll
    for (int h = 0; h < HELD; h++) {
        const int at = h * 128 + lane * 4, e = first + at;
        const float4 s = add_normed(handed_four(v[h].x), handed_four(v[h].y), factor, v[h].behind);
        const float4 w = v[h].before;
        squares = dot(s, s, squares);
        if (at < count)
            *(uint2 *)(to + 2 * at) =
                make_uint2(lifted_pair(s.x * w.x, s.y * w.y), lifted_pair(s.z * w.z, s.w * w.w));
        if (at >= count || e >= a.hidden || (unsigned)(e - (int)blockIdx.x * share) >= (unsigned)share)
            continue;
        hand_four(a.places[op.from] + a.hidden + e, s, tags >> op.from & 1);
        if (branch.plain)
            ((float4 *)branch.plain)[e / 4] = s;
    }
    return squares;
}

#endif
