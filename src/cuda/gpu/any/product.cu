/* SPDX-License-Identifier: Apache-2.0
 *
 * Matrix products on weights as the file stores them: every format that the FP4 library does not take, and
 * every format in the exact mode. Weights are decoded on the way to the multiplier; a factor of a whole row
 * (tensor and row scales) is multiplied to its sum.
 *
 *   few     up to FEW rows of activations. A warp is a weight row; a lane decodes every 32nd group of 16
 *           elements and multiplies it to each token in FP32. Bound by the weights' bytes.
 *   exact   FP32 activations, many rows: 64 weight rows x 64 tokens a block of 256 threads, FP32 throughout.
 *   tensor  BF16 activations, many rows: 128 x 128 a block of 8 warps of 64 x 32, mma.sync BF16. What BF16
 *           cannot hold of a decoded weight (F32, F16, Q and K formats) is a second operand, its rest: 16
 * bits of mantissa together. Shared bytes: 2 stages of 128 x 40 x 2 for tokens, weights and rests.
 *
 * Bytes moved: the weights as stored once per FEW (64, 128) rows, activations, 4 a result.
 */
#include "cuda/gpu/any/codec.cuh"

enum { FEW = 8, FEW_WARPS = 4 };

typedef struct product_job {
    float *out; /* of this part's first column */
    size_t out_stride;
    act_view a;
    part_view w;
    size_t cols;
    int n_rows;
    bool add;
} product_job;

__device__ __forceinline__ void put_product(const product_job &job, int r, size_t j, float v) {
    float *to = job.out + r * job.out_stride + j;
    *to = job.add ? *to + v : v;
}

/* ---- few ---- */

/* Sixteen activations of a row, from column 16 g on; what lies past the end is zero there. */
__device__ __forceinline__ void load16(float *x, const act_view &a, size_t row, size_t g) {
    if (a.format == ACT_F32) {
        const float4 *p = (const float4 *)act_row(a, row) + 4 * g;
#pragma unroll
        for (int i = 0; i < 4; i++)
            *(float4 *)(x + 4 * i) = p[i];
    } else {
        const uint4 *p = (const uint4 *)act_row(a, row) + 2 * g;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            uint4 v = p[i];
            const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int k = 0; k < 4; k++) {
                x[8 * i + 2 * k] = __uint_as_float(words[k] << 16);
                x[8 * i + 2 * k + 1] = __uint_as_float(words[k] & 0xffff0000u);
            }
        }
    }
}

template <int T, int N>
static __global__ void __launch_bounds__(FEW_WARPS * 32) multiply_few(product_job job) {
    const int lane = threadIdx.x & 31, first = blockIdx.y * N;
    const size_t row = blockIdx.x * (size_t)FEW_WARPS + (threadIdx.x >> 5), groups = (job.cols + 15) / 16;
    pdl_wait();
    pdl_go();
    if (row >= job.w.rows)
        return;
    float sums[N] = {};
    for (size_t g = lane; g < groups; g += 32) {
        float w[16];
        decode_blocks<T>(job.w, row, g, job.cols, w);
#pragma unroll
        for (int n = 0; n < N; n++) {
            float x[16];
            load16(x, job.a, min(first + n, job.n_rows - 1), g);
#pragma unroll
            for (int i = 0; i < 16; i++)
                sums[n] += w[i] * x[i];
        }
    }
    float factor = row_factor(job.w, row);
#pragma unroll
    for (int n = 0; n < N; n++) {
        float sum = warp_sum(sums[n]);
        if (lane == 0 && first + n < job.n_rows)
            put_product(job, first + n, row, sum * factor);
    }
}

/* ---- exact ---- */

enum { SIDE = 64, EXACT_K = 32, EXACT_THREADS = 256, EXACT_STRIDE = SIDE + 4 };

template <int T> static __global__ void __launch_bounds__(EXACT_THREADS) multiply_exact(product_job job) {
    __shared__ float w[EXACT_K][EXACT_STRIDE], x[EXACT_K][EXACT_STRIDE]; /* [k][row or token] */
    const size_t row0 = blockIdx.x * (size_t)SIDE, token0 = blockIdx.y * (size_t)SIDE;
    const int ty = threadIdx.x / 16, tx = threadIdx.x % 16; /* rows 4 ty.., tokens 4 tx.. */
    float sums[4][4] = {};
    pdl_wait();
    pdl_go();
    for (size_t k0 = 0; k0 < job.cols; k0 += EXACT_K) {
        __syncthreads();
        if (threadIdx.x < SIDE * EXACT_K / 16) {
            int r = threadIdx.x % SIDE, g = threadIdx.x / SIDE;
            float v[16] = {};
            if (row0 + r < job.w.rows)
                decode_blocks<T>(job.w, row0 + r, k0 / 16 + g, job.cols, v);
#pragma unroll
            for (int i = 0; i < 16; i++)
                w[16 * g + i][r] = v[i];
        } else {
            int i = threadIdx.x - SIDE * EXACT_K / 16, token = i % SIDE, g = i / SIDE;
            for (int k = 0; k < 16; k++) {
                bool there = token0 + token < (size_t)job.n_rows && k0 + 16 * g + k < job.cols;
                x[16 * g + k][token] = there ? act_get(job.a, token0 + token, k0 + 16 * g + k) : 0;
            }
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < EXACT_K; k++) {
            float4 a = *(float4 *)&w[k][4 * ty], b = *(float4 *)&x[k][4 * tx];
            const float wa[4] = {a.x, a.y, a.z, a.w}, xb[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    sums[i][j] += wa[i] * xb[j];
        }
    }
    for (int i = 0; i < 4; i++) {
        size_t row = row0 + 4 * ty + i;
        if (row >= job.w.rows)
            break;
        float factor = row_factor(job.w, row);
        for (int j = 0; j < 4; j++)
            if (token0 + 4 * tx + j < (size_t)job.n_rows)
                put_product(job, (int)token0 + 4 * tx + j, row, sums[i][j] * factor);
    }
}

/* ---- tensor ---- */

enum { BLOCK = 128, STEP_K = 32, STRIDE = STEP_K + 8, TENSOR_THREADS = 256 };

/* Decoded elements times their block scale that BF16 holds exactly. */
template <int T>
constexpr bool fits_bf16 = T == DT_BF16 || T == DT_F8_E4M3 || T == DT_F8_E5M2 || T == DT_NVFP4 ||
                           T == DT_MXFP4 || T == DT_GGUF_NVFP4 || T == DT_GGUF_MXFP4;

typedef struct stage {
    __nv_bfloat16 x[BLOCK][STRIDE], w[BLOCK][STRIDE], rest[BLOCK][STRIDE];
} stage;

/* Groups of 16 weights, a thread each, and 32 bytes of tokens. */
template <int T>
static __device__ void fill_stage(stage *s, const product_job &job, size_t row0, size_t token0, size_t k0) {
    const int r = threadIdx.x / 2, g = threadIdx.x % 2;
    float v[16] = {};
    if (row0 + r < job.w.rows)
        decode_blocks<T>(job.w, row0 + r, k0 / 16 + g, job.cols, v);
    uint4 near[2], far[2], zero = make_uint4(0, 0, 0, 0);
    __nv_bfloat162 *a = (__nv_bfloat162 *)near, *b = (__nv_bfloat162 *)far;
#pragma unroll
    for (int i = 0; i < 8; i++) {
        a[i] = __floats2bfloat162_rn(v[2 * i], v[2 * i + 1]);
        if (!fits_bf16<T>)
            b[i] = __floats2bfloat162_rn(v[2 * i] - __low2float(a[i]), v[2 * i + 1] - __high2float(a[i]));
    }
    const uint4 *from = (const uint4 *)((const __nv_bfloat16 *)act_row(job.a, token0 + r) + k0 + 16 * g);
    const bool there = token0 + r < (size_t)job.n_rows;
#pragma unroll
    for (int i = 0; i < 2; i++) {
        *(uint4 *)&s->w[r][16 * g + 8 * i] = near[i];
        if (!fits_bf16<T>)
            *(uint4 *)&s->rest[r][16 * g + 8 * i] = far[i];
        *(uint4 *)&s->x[r][16 * g + 8 * i] = there ? from[i] : zero;
    }
}

__device__ __forceinline__ void load_fragment(uint32_t *r, const void *p) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(p);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
}

template <int T>
static __device__ void multiply_stage(float (*c)[4][4], const stage *s, int wr, int wt, int lane) {
#pragma unroll
    for (int k = 0; k < STEP_K; k += 16) {
        uint32_t x[2][4];
#pragma unroll
        for (int n = 0; n < 2; n++)
            load_fragment(x[n], &s->x[wt + 16 * n + lane % 8 + 8 * (lane / 16)][k + 8 * (lane / 8 % 2)]);
#pragma unroll
        for (int m = 0; m < 4; m++)
#pragma unroll
            for (int part = 0; part < (fits_bf16<T> ? 1 : 2); part++) {
                uint32_t a[4];
                const __nv_bfloat16(*from)[STRIDE] = part ? s->rest : s->w;
                load_fragment(a, &from[wr + 16 * m + lane % 16][k + 8 * (lane / 16)]);
#pragma unroll
                for (int n = 0; n < 4; n++)
                    mma_bf16(c[m][n], a[0], a[1], a[2], a[3], x[n / 2][2 * (n % 2)],
                             x[n / 2][2 * (n % 2) + 1]);
            }
    }
}

template <int T> static __global__ void __launch_bounds__(TENSOR_THREADS) multiply_tensor(product_job job) {
    extern __shared__ uint4 shared[];
    stage *s = (stage *)shared;
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, wr = warp % 2 * 64, wt = warp / 2 * 32;
    const size_t row0 = blockIdx.y * (size_t)BLOCK, token0 = blockIdx.x * (size_t)BLOCK;
    float c[4][4][4] = {}; /* [16 rows][8 tokens][fragment] */
    pdl_wait();
    pdl_go();
    fill_stage<T>(&s[0], job, row0, token0, 0);
    __syncthreads();
    int now = 0;
    for (size_t k0 = 0; k0 < job.cols; k0 += STEP_K, now ^= 1) {
        if (k0 + STEP_K < job.cols)
            fill_stage<T>(&s[now ^ 1], job, row0, token0, k0 + STEP_K);
        multiply_stage<T>(c, &s[now], wr, wt, lane);
        __syncthreads();
    }
#pragma unroll
    for (int m = 0; m < 4; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            size_t row = row0 + wr + 16 * m + lane / 4 + 8 * half;
            float factor = row < job.w.rows ? row_factor(job.w, row) : 0;
#pragma unroll
            for (int n = 0; n < 4; n++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    size_t token = token0 + wt + 8 * n + 2 * (lane & 3) + i;
                    if (row < job.w.rows && token < (size_t)job.n_rows)
                        put_product(job, (int)token, row, c[m][n][2 * half + i] * factor);
                }
        }
}

/* ---- launching ---- */

template <int T> static int run_few(const cuda_lane *lane, const product_job &job) {
    dim3 grid((unsigned)((job.w.rows + FEW_WARPS - 1) / FEW_WARPS), (unsigned)((job.n_rows + FEW - 1) / FEW));
    const unsigned threads = FEW_WARPS * 32;
    return job.n_rows == 1   ? launch_kernel(lane, multiply_few<T, 1>, grid, threads, 0, job)
           : job.n_rows == 2 ? launch_kernel(lane, multiply_few<T, 2>, grid, threads, 0, job)
           : job.n_rows <= 4 ? launch_kernel(lane, multiply_few<T, 4>, grid, threads, 0, job)
                             : launch_kernel(lane, multiply_few<T, FEW>, grid, threads, 0, job);
}

template <int T> static int run(const cuda_lane *lane, const product_job &job) {
    if (job.n_rows <= 2 * FEW)
        return run_few<T>(lane, job);
    if (job.a.format == ACT_F32) {
        dim3 grid((unsigned)((job.w.rows + SIDE - 1) / SIDE), (unsigned)((job.n_rows + SIDE - 1) / SIDE));
        return launch_kernel(lane, multiply_exact<T>, grid, EXACT_THREADS, 0, job);
    }
    cudaError_t status = cudaFuncSetAttribute(multiply_tensor<T>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                              (int)(2 * sizeof(stage)));
    if (status != cudaSuccess)
        return status;
    dim3 grid((unsigned)((job.n_rows + BLOCK - 1) / BLOCK), (unsigned)((job.w.rows + BLOCK - 1) / BLOCK));
    return launch_kernel(lane, multiply_tensor<T>, grid, TENSOR_THREADS, 2 * sizeof(stage), job);
}

static int run_part(const cuda_lane *lane, const product_job &job) {
#define PRODUCT(T) return run<T>(lane, job)
    CODEC_SWITCH(job.w.type, PRODUCT)
}

extern "C" int product_launch(const cuda_lane *lane, float *out, size_t out_stride, act_view a,
                              const weight_view *w, int n_rows, bool add) {
    if (n_rows == 0)
        return cudaSuccess;
    if ((a.format != ACT_F32 && a.format != ACT_BF16) || out_stride < w->rows || a.stride % 32 != 0 ||
        a.stride < w->cols)
        return cudaErrorInvalidValue;
    size_t first = 0;
    for (int i = 0; i < w->n_parts; i++) {
        product_job job = {out + first, out_stride, a, w->parts[i], w->cols, n_rows, add};
        int status = run_part(lane, job);
        if (status != cudaSuccess)
            return status;
        first += w->parts[i].rows;
    }
    return cudaSuccess;
}

static int is_known(dtype type) {
#define KNOWN(T) return cudaSuccess
    CODEC_SWITCH(type, KNOWN)
}

extern "C" bool product_knows(dtype type) {
    return is_known(type) == cudaSuccess;
}
