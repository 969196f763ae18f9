/* SPDX-License-Identifier: Apache-2.0
 *
 * The two products of a low-rank branch beside BF16 activations: mid = down x, then out += scale up mid.
 * mma.sync m16n8k16 with FP32 sums. A lane's two words of K in a multiplication, and those of the next, are 8
 * that lie together in memory; both operands deal K out so.
 *
 *   down   a block is 16 tokens and 8 T ranks (T 1: few tokens, so that there are blocks; 4). Its 16 warps
 * take K in steps of 32 in turn, and their sums meet in shared memory (16 x 16 x (8 T + 1) x 4 bytes). up a
 * warp is 16 tokens and 32 rows, a block 4 warps of 128 rows; one launch for all parts. mid, FP32, is two
 *          BF16 operands, itself and its rest.
 *
 * Bytes moved: both matrices once per 16 tokens (from L2 but for the first), 8 a result.
 */
#include "cuda/gpu/any/kernel.cuh"

enum { TOKENS = 16, STEP = 32, DOWN_WARPS = 16, UP_WARPS = 4, UP_ROWS = 32 * UP_WARPS };

/* Tokens lane / 4 and 8 more: X; rows lane / 4 of T tiles: W. */
template <int T>
static __device__ __forceinline__ void multiply_step(float (*c)[4], const uint4 *x, const uint4 *w) {
#pragma unroll
    for (int t = 0; t < T; t++) {
        mma_bf16(c[t], x[0].x, x[1].x, x[0].y, x[1].y, w[t].x, w[t].y);
        mma_bf16(c[t], x[0].z, x[1].z, x[0].w, x[1].w, w[t].z, w[t].w);
    }
}

typedef struct down_job {
    float *mid; /* [n_rows, rank] */
    act_view a;
    const __nv_bfloat16 *w; /* [rank, cols] */
    size_t rank, cols;      /* cols: padded to whole steps */
    int n_rows;
} down_job;

template <int T> static __global__ void __launch_bounds__(DOWN_WARPS * 32) multiply_down(down_job job) {
    __shared__ float sums[DOWN_WARPS][TOKENS][8 * T + 1];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane / 4, q = lane % 4;
    const int token0 = blockIdx.x * TOKENS;
    const size_t rank0 = blockIdx.y * (size_t)(8 * T);
    const __nv_bfloat16 *x[2], *w = job.w + (rank0 + g) * job.cols + 8 * q;
#pragma unroll
    for (int half = 0; half < 2; half++)
        x[half] = (const __nv_bfloat16 *)act_row(job.a, min(token0 + g + 8 * half, job.n_rows - 1)) + 8 * q;
    float c[T][4] = {};
    pdl_wait();
    pdl_go();
#pragma unroll 4
    for (size_t k = STEP * warp; k < job.cols; k += STEP * DOWN_WARPS) {
        uint4 xs[2], ws[T];
#pragma unroll
        for (int half = 0; half < 2; half++)
            xs[half] = *(const uint4 *)(x[half] + k);
#pragma unroll
        for (int t = 0; t < T; t++)
            ws[t] = *(const uint4 *)(w + 8 * t * job.cols + k);
        multiply_step<T>(c, xs, ws);
    }
#pragma unroll
    for (int t = 0; t < T; t++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            sums[warp][g + 8 * (i / 2)][8 * t + 2 * q + i % 2] = c[t][i];
    __syncthreads();
    for (int i = threadIdx.x; i < TOKENS * 8 * T; i += DOWN_WARPS * 32) {
        const int token = i / (8 * T), r = i % (8 * T);
        float sum = 0;
        for (int other = 0; other < DOWN_WARPS; other++)
            sum += sums[other][token][r];
        if (token0 + token < job.n_rows)
            job.mid[(size_t)(token0 + token) * job.rank + rank0 + r] = sum;
    }
}

extern "C" int thin_products_down(const cuda_lane *lane, float *mid, act_view a, const weight_view *down,
                                  int n_rows) {
    const size_t cols = down->parts[0].row_bytes / sizeof(__nv_bfloat16), rank = down->rows;
    if (a.format != ACT_BF16 || cols % STEP != 0 || rank % 32 != 0 || a.stride < cols || a.stride % 8 != 0 ||
        n_rows < 0)
        return cudaErrorInvalidValue;
    const down_job job = {mid, a, (const __nv_bfloat16 *)down->parts[0].data, rank, cols, n_rows};
    const unsigned tokens = (unsigned)(n_rows + TOKENS - 1) / TOKENS;
    return n_rows <= 4 * TOKENS ? launch_kernel(lane, multiply_down<1>, dim3(tokens, (unsigned)rank / 8),
                                                DOWN_WARPS * 32, 0, job)
                                : launch_kernel(lane, multiply_down<4>, dim3(tokens, (unsigned)rank / 32),
                                                DOWN_WARPS * 32, 0, job);
}

/* ---- up ---- */

typedef struct up_part {
    const __nv_bfloat16 *w; /* [rows, cols] */
    size_t rows, cols, row0;
    int first, n; /* row tiles: before the part, and its own */
    size_t at;    /* columns of mid before its own */
    float scale;
} up_part;

typedef struct up_job {
    float *out;
    size_t stride;
    const float *mid; /* [n_rows, rank] */
    size_t rank;
    int n_rows;
    up_part parts[MAX_PARTS];
} up_job;

/* Eight numbers as BF16, and what that lacks. */
static __device__ __forceinline__ void halve(const float *from, uint4 *near, uint4 *rest) {
    const float4 v[2] = {((const float4 *)from)[0], ((const float4 *)from)[1]};
    const float *x = (const float *)v;
    __nv_bfloat162 a[4], b[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        a[i] = __floats2bfloat162_rn(x[2 * i], x[2 * i + 1]);
        b[i] = __floats2bfloat162_rn(x[2 * i] - __low2float(a[i]), x[2 * i + 1] - __high2float(a[i]));
    }
    *near = *(uint4 *)a;
    *rest = *(uint4 *)b;
}

static __global__ void __launch_bounds__(UP_WARPS * 32) multiply_up(up_job job) {
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane / 4, q = lane % 4;
    const int token0 = blockIdx.y * TOKENS, tile = blockIdx.x;
    int i_part = 0;
    while (tile >= job.parts[i_part].first + job.parts[i_part].n)
        i_part++;
    const up_part &part = job.parts[i_part];
    const size_t row0 = (size_t)(tile - part.first) * UP_ROWS + 32 * warp;
    const float *mid[2];
    const __nv_bfloat16 *w[4];
#pragma unroll
    for (int half = 0; half < 2; half++)
        mid[half] = job.mid + min(token0 + g + 8 * half, job.n_rows - 1) * job.rank + part.at + 8 * q;
#pragma unroll
    for (int t = 0; t < 4; t++)
        w[t] = part.w + min(row0 + 8 * t + g, part.rows - 1) * part.cols + 8 * q;
    float c[4][4] = {};
    for (size_t k = 0; k < part.cols; k += STEP) {
        uint4 near[2], rest[2], ws[4];
#pragma unroll
        for (int t = 0; t < 4; t++)
            ws[t] = *(const uint4 *)(w[t] + k);
        if (k == 0)
            pdl_wait();
#pragma unroll
        for (int half = 0; half < 2; half++)
            halve(mid[half] + k, &near[half], &rest[half]);
        multiply_step<4>(c, near, ws);
        multiply_step<4>(c, rest, ws);
    }
    pdl_go();
#pragma unroll
    for (int t = 0; t < 4; t++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int token = token0 + g + 8 * (i / 2);
            const size_t row = row0 + 8 * t + 2 * q + i % 2;
            if (token < job.n_rows && row < part.rows)
                job.out[token * job.stride + part.row0 + row] += part.scale * c[t][i];
        }
}

extern "C" int thin_products_up(const cuda_lane *lane, float *out, size_t stride, const float *mid,
                                size_t rank, const weight_view *up, int n_parts, int n_rows) {
    up_job job = {out, stride, mid, rank, n_rows, {}};
    size_t row0 = 0, at = 0;
    int tiles = 0, n = 0;
    for (int i = 0; i < n_parts; i++) {
        const part_view &part = up[i].parts[0];
        if (up[i].cols % STEP != 0 || part.row_bytes != up[i].cols * sizeof(__nv_bfloat16))
            return cudaErrorInvalidValue;
        if (up[i].cols > 0) {
            const int own = (int)((up[i].rows + UP_ROWS - 1) / UP_ROWS);
            job.parts[n++] = {(const __nv_bfloat16 *)part.data,
                              up[i].rows,
                              up[i].cols,
                              row0,
                              tiles,
                              own,
                              at,
                              part.tensor_scale};
            tiles += own;
        }
        row0 += up[i].rows;
        at += up[i].cols;
    }
    if (at != rank || stride < row0 || n_rows < 0)
        return cudaErrorInvalidValue;
    const dim3 grid((unsigned)tiles, (unsigned)(n_rows + TOKENS - 1) / TOKENS);
    return launch_kernel(lane, multiply_up, grid, UP_WARPS * 32, 0, job);
}
