/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention written to be read: any head_dim up to 256, any cache format, FP32 throughout. It computes the
 * exact mode and the shapes that the tensor-core kernels lack.
 *
 * A block of 4 warps is one row and one query head; each warp takes every fourth key, lanes hold dimensions
 * lane, lane + 32, .. The warps' running maxima and sums are joined in a fixed order. Bytes moved: the row's
 * keys and values, once per query head.
 */
#include "cuda/gpu/any/attn.cuh"

enum { WARPS = 4, MAX_DIM = 256, LANE_ITEMS = MAX_DIM / 32 };

static __device__ float element(const kv_view &kv, bool is_k, size_t at) {
    const void *p = is_k ? kv.k : kv.v;
    return kv.format == KV_F32    ? ((const float *)p)[at]
           : kv.format == KV_BF16 ? __bfloat162float(((const __nv_bfloat16 *)p)[at])
                                  : from_e4m3(((const uint8_t *)p)[at]);
}

typedef struct running {
    float acc[LANE_ITEMS], max, sum;
} running;

/* MEAN: what the score lacks a product of (position 0), or NULL. */
static __device__ void take_key(const attn_job &job, running *r, const float *q, size_t cell,
                                const float *mean, int lane) {
    const int d = job.p.head_dim;
    const float scale = job.kv.format == KV_FP8 ? job.kv.k_scales[cell] : 1.0f;
    float s = 0;
#pragma unroll
    for (int i = 0; i < LANE_ITEMS; i++)
        if (lane + 32 * i < d)
            s += q[i] * (element(job.kv, true, cell * d + lane + 32 * i) * scale -
                         (mean ? mean[lane + 32 * i] : 0.0f));
    s = warp_sum(s) * job.p.scale;
    if (job.p.cap != 0)
        s = job.p.cap * tanhf(s / job.p.cap);
    float both = fmaxf(r->max, s), keep = expf(r->max - both), weight = expf(s - both);
    r->max = both;
    r->sum = r->sum * keep + weight;
    weight *= job.kv.format == KV_FP8 ? job.kv.v_scales[cell] : 1.0f;
#pragma unroll
    for (int i = 0; i < LANE_ITEMS; i++)
        if (lane + 32 * i < d)
            r->acc[i] = r->acc[i] * keep + weight * element(job.kv, false, cell * d + lane + 32 * i);
}

static __global__ void __launch_bounds__(WARPS * 32) attend_exact(attn_job job) {
    __shared__ float accs[WARPS][MAX_DIM], maxima[WARPS], sums[WARPS];
    const int d = job.p.head_dim, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const size_t row = blockIdx.x, head = blockIdx.y;
    const int position = job.step.positions[row], kv_head = (int)head / (job.p.n_heads / job.p.n_kv_heads);
    const int32_t *pages = job.step.page_table + job.step.first_page[row];
    const float *mean = job.p.k_mean ? job.p.k_mean + (size_t)kv_head * d : nullptr;
    pdl_wait();
    pdl_go();
    running r = {{}, NO_SCORE, 0};
    float q[LANE_ITEMS] = {};
#pragma unroll
    for (int i = 0; i < LANE_ITEMS; i++)
        if (lane + 32 * i < d)
            q[i] = job.q[row * job.q_stride + head * d + lane + 32 * i];
    for (int k = first_key(job.p, position) + warp; k <= position; k += WARPS)
        take_key(job, &r, q, cell_of(job, pages, kv_head, k), k == 0 ? mean : nullptr, lane);
#pragma unroll
    for (int i = 0; i < LANE_ITEMS; i++)
        accs[warp][lane + 32 * i] = r.acc[i];
    maxima[warp] = r.max;
    sums[warp] = r.sum;
    __syncthreads();
    for (int i = threadIdx.x; i < d; i += WARPS * 32) {
        float max = NO_SCORE, acc = 0, sum = 0;
        for (int w = 0; w < WARPS; w++)
            max = fmaxf(max, maxima[w]);
        for (int w = 0; w < WARPS; w++) {
            float f = expf(maxima[w] - max);
            acc += f * accs[w][i];
            sum += f * sums[w];
        }
        put_out(job.out, row, head * d + i, acc / sum);
    }
}

extern "C" int attention_exact_launch(const cuda_lane *lane, act_view out, const float *q, size_t q_stride,
                                      const attn_view *p, const kv_view *kv, const step_view *step,
                                      int n_rows) {
    if (p->head_dim > MAX_DIM || p->n_heads % p->n_kv_heads != 0 || out.format == ACT_FP8 ||
        out.stride < (size_t)p->n_heads * p->head_dim)
        return cudaErrorInvalidValue;
    attn_job job = {out, q, q_stride, *p, *kv, *step, n_rows, NULL, 1, {}};
    return launch_kernel(lane, attend_exact, dim3((unsigned)n_rows, (unsigned)p->n_heads), WARPS * 32, 0,
                         job);
}
