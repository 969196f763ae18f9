/* SPDX-License-Identifier: Apache-2.0
 *
 * RMS norms: into what a matrix product reads (BF16, or FP8 with a scale per row), into FP32, or added to the
 * residual stream; after a product's BF16 result joined the stream, where the product did not add it itself.
 * A block a row; the row stays in registers between its sum, its largest element and its store.
 *
 * Threads: an eighth of the columns (few rows: they do not fill the chip, so latency counts), or a sixteenth.
 * Up to ITEMS groups of eight a thread, so 16,384 columns in 1,024 threads. Rows that are no whole number of
 * eights, or longer, take the plain kernel. Bytes moved: 4 * cols in, 1 to 4 * cols out.
 */
#include "cuda/gpu/any/kernel.cuh"

enum { ITEMS = 2, MAX_THREADS = 1024 };

/* How a normed row leaves. */
typedef enum norm_to {
    TO_F32 = ACT_F32,
    TO_BF16 = ACT_BF16,
    TO_FP8 = ACT_FP8,
    TO_BF16_MMA = ACT_BF16_MMA,
    TO_ADD
} norm_to;

typedef struct norm_job {
    act_view out; /* TO_ADD: the residual stream, FP32 */
    float *x;     /* NULL: only Y is normed */
    size_t x_stride;
    const float *w;
    float eps;
    size_t cols;
    const int32_t *gather;
    act_view y; /* BF16, added to x first; NULL: nothing is, and x stays */
} norm_job;

/* Eight neighbours, from FP32. */
__device__ __forceinline__ void load8(float *v, const float *row, size_t i) {
    *(float4 *)v = ((const float4 *)row)[2 * i];
    *(float4 *)(v + 4) = ((const float4 *)row)[2 * i + 1];
}

/* v += eighth I of Y's row. */
__device__ __forceinline__ void add8(float *v, const void *y, size_t i) {
    const uint4 w = ((const uint4 *)y)[i];
    const uint32_t words[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
    for (int k = 0; k < 4; k++) {
        v[2 * k] += __uint_as_float(words[k] << 16);
        v[2 * k + 1] += __uint_as_float(words[k] & 0xffff0000u);
    }
}

template <int TO> __device__ __forceinline__ void put8(void *row, size_t i, float *v, float factor) {
    if (TO == TO_ADD) {
        float x[8];
        load8(x, (const float *)row, i);
#pragma unroll
        for (int k = 0; k < 8; k++)
            v[k] += x[k];
    }
    act_put8<TO == TO_ADD ? ACT_F32 : (act_format)TO>(row, 8 * i, v, factor);
}

template <int TO> static __global__ void __launch_bounds__(MAX_THREADS) norm_rows(norm_job job) {
    __shared__ float room[33];
    const size_t n8 = job.cols / 8, row = blockIdx.x;
    float v[ITEMS][8] = {}, w[ITEMS][8] = {}, squares = 0, most = 0;
    float *x = job.x + (job.gather ? (size_t)job.gather[row] : row) * job.x_stride;
    auto load_x = [&] {
#pragma unroll
        for (int i = 0; i < ITEMS; i++) {
            size_t at = threadIdx.x + i * (size_t)blockDim.x;
            if (at < n8 && job.x) { /* past L1: nothing but the wait empties that */
                *(float4 *)v[i] = __ldcg((const float4 *)x + 2 * at);
                *(float4 *)(v[i] + 4) = __ldcg((const float4 *)x + 2 * at + 1);
            }
        }
    };
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
        size_t at = threadIdx.x + i * (size_t)blockDim.x;
        if (at < n8)
            load8(w[i], job.w, at);
    }
    if (job.y.data) /* X's last writer is done: products of so many rows and what stands between two of them
                       let the next kernel go after their own wait (state.h) */
        load_x();
    pdl_wait();
    pdl_go();
    if (!job.y.data)
        load_x();
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
        size_t at = threadIdx.x + i * (size_t)blockDim.x;
        if (at < n8 && job.y.data)
            add8(v[i], act_row(job.y, row), at);
        if (at < n8 && job.y.data && job.x)
            act_put8<ACT_F32>(x, 8 * at, v[i], 1);
#pragma unroll
        for (int k = 0; k < 8; k++)
            squares += v[i][k] * v[i][k];
    }
    float factor = 1.0f / sqrtf(block_reduce<false>(squares, room) / (float)job.cols + job.eps);
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
#pragma unroll
        for (int k = 0; k < 8; k++) {
            v[i][k] = v[i][k] * factor * w[i][k];
            most = fmaxf(most, fabsf(v[i][k]));
        }
    }
    float scale = 0, inverse = 0;
    if (TO == TO_FP8) {
        scale = fp8_row_scale(block_reduce<true>(most, room));
        inverse = scale > 0 ? 1.0f / scale : 0;
        if (threadIdx.x == 0)
            job.out.scales[row] = scale;
    }
    void *to = act_row(job.out, row);
#pragma unroll
    for (int i = 0; i < ITEMS; i++) {
        size_t at = threadIdx.x + i * (size_t)blockDim.x;
        if (at < n8)
            put8<TO>(to, at, v[i], inverse);
    }
}

/* Any number of columns, element by element. */
template <int TO> static __global__ void norm_rows_plain(norm_job job) {
    __shared__ float room[33];
    pdl_wait();
    pdl_go();
    const size_t row = blockIdx.x, n = job.cols;
    float *x = job.x + (job.gather ? (size_t)job.gather[row] : row) * job.x_stride;
    float squares = 0, most = 0;
    auto value = [&](size_t i) { return job.x ? x[i] : act_get(job.y, row, i); };
    for (size_t i = threadIdx.x; i < n; i += blockDim.x) {
        if (job.y.data && job.x)
            x[i] += act_get(job.y, row, i);
        squares += value(i) * value(i);
    }
    float factor = 1.0f / sqrtf(block_reduce<false>(squares, room) / (float)n + job.eps), inverse = 0;
    if (TO == TO_FP8) {
        for (size_t i = threadIdx.x; i < n; i += blockDim.x)
            most = fmaxf(most, fabsf(value(i) * factor * job.w[i]));
        float scale = fp8_row_scale(block_reduce<true>(most, room));
        inverse = scale > 0 ? 1.0f / scale : 0;
        if (threadIdx.x == 0)
            job.out.scales[row] = scale;
    }
    void *to = act_row(job.out, row);
    for (size_t i = threadIdx.x; i < n; i += blockDim.x) {
        float v = value(i) * factor * job.w[i];
        if (TO == TO_ADD)
            ((float *)to)[i] += v;
        else
            act_put<TO == TO_ADD ? ACT_F32 : (act_format)TO>(to, i, v, inverse);
    }
}

template <int TO> static int run(const cuda_lane *lane, const norm_job *job, int n_rows) {
    const size_t n8 = job->cols / 8, wanted = n_rows <= 2 * lane->n_sms ? n8 : (n8 + ITEMS - 1) / ITEMS;
    size_t threads = (wanted + 31) / 32 * 32;
    threads = threads < 128 ? 128 : threads > MAX_THREADS ? MAX_THREADS : threads;
    bool whole =
        job->cols % 8 == 0 && job->x_stride % 8 == 0 && job->out.stride % 8 == 0 && n8 <= threads * ITEMS;
    return launch_kernel(lane, whole ? norm_rows<TO> : norm_rows_plain<TO>, dim3((unsigned)n_rows),
                         whole ? (unsigned)threads : 256u, 0, *job);
}

static int run_norm(const cuda_lane *lane, const norm_job *job, int n_rows) {
    const act_view *out = &job->out;
    if (job->cols == 0 || job->x_stride < job->cols || out->stride < job->cols || n_rows < 0 ||
        (out->format == ACT_FP8 && !out->scales))
        return cudaErrorInvalidValue;
    return out->format == ACT_F32        ? run<TO_F32>(lane, job, n_rows)
           : out->format == ACT_BF16     ? run<TO_BF16>(lane, job, n_rows)
           : out->format == ACT_BF16_MMA ? run<TO_BF16_MMA>(lane, job, n_rows)
                                         : run<TO_FP8>(lane, job, n_rows);
}

extern "C" int rmsnorm_launch(const cuda_lane *lane, act_view out, const float *x, size_t x_stride,
                              const float *w, float eps, int n_rows, size_t cols, const int32_t *gather) {
    norm_job job = {out, (float *)x, x_stride, w, eps, cols, gather, {}};
    return run_norm(lane, &job, n_rows);
}

extern "C" int rmsnorm_after_launch(const cuda_lane *lane, act_view out, float *x, size_t x_stride,
                                    act_view y, const float *w, float eps, int n_rows, size_t cols) {
    norm_job job = {out, x, x_stride, w, eps, cols, NULL, y};
    if (y.format != ACT_BF16 || y.stride % 8 != 0 || y.stride < cols)
        return cudaErrorInvalidValue;
    return run_norm(lane, &job, n_rows);
}

extern "C" int rmsnorm_add_launch(const cuda_lane *lane, float *x, size_t x_stride, act_view y,
                                  const float *w, float eps, int n_rows, size_t cols) {
    const bool half = y.format == ACT_BF16;
    norm_job job = {
        {ACT_F32, x, NULL, x_stride}, half ? NULL : (float *)y.data, y.stride, w, eps, cols, NULL, {}};
    if (half)
        job.y = y;
    if (cols == 0 || x_stride < cols || y.stride < cols || y.stride % 8 != 0 || n_rows < 0 ||
        (y.format != ACT_F32 && !half))
        return cudaErrorInvalidValue;
    return run<TO_ADD>(lane, &job, n_rows);
}
