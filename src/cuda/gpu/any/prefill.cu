/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention of prompts: many rows of a sequence at once, on tensor cores through mma.sync, for every
 * architecture. Causal, with windows, keys and values from their pages.
 *
 * A block takes TILE (row, query head) pairs of one KV head: TILE / group consecutive rows of the batch with
 * all heads of the group, so that a page is read and converted once for the group. Rows that stand alone are
 * decode's (step.prompt tells); rows of one sequence are a run, and a tile that holds the end of one
 * prompt and the start of another takes its runs one after another. A page of 64 keys and values goes through
 * registers (loaded while the page before it is computed) into shared memory as FP16 or BF16; in two halves
 * of 32 keys
 *   S = Q K^T, masked, times the keys' scales; the usual running maximum; O += P V
 * Warps: 4 of 32 pairs each (head_dim <= 128: the operands read from shared memory serve twice), 8 of 16 at
 * head_dim 256. Shared bytes: (TILE + 2 * 64) * (D + 8) * 2. Late tiles, which are the long ones, go first.
 * Bytes moved: per tile its keys and values, from L2 mostly; bound by the tensor cores.
 */
#include "cuda/gpu/any/attn.cuh"

enum { TILE = 128, HALF = 32 };

template <int D, kv_format F> struct shape {
    static constexpr int m_tiles = D <= 128 ? 2 : 1; /* of 16 pairs, a warp */
    static constexpr int warps = TILE / 16 / m_tiles, threads = 32 * warps;
    static constexpr int stride = D + 8; /* elements between rows in shared memory: no bank conflicts */
    static constexpr int units = KV_PAGE * D / 8 / threads; /* of 8 elements, a thread loads of keys */
    static constexpr int words = 2 * operand<F>::bytes;     /* of a unit */
    static constexpr bool ahead = 2 * units * words <= 32;  /* registers for the next page */
    static constexpr size_t shared = (TILE + 2 * KV_PAGE) * stride * 2 + 2 * KV_PAGE * sizeof(float);
};

template <int D, kv_format F> struct page_words {
    uint32_t k[shape<D, F>::units][shape<D, F>::words], v[shape<D, F>::units][shape<D, F>::words];
    float k_scale, v_scale; /* of key threadIdx.x, in the first 64 threads */
};

__device__ __forceinline__ void ldmatrix(uint32_t *r, const void *p) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(p);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
}

__device__ __forceinline__ void ldmatrix_trans(uint32_t *r, const void *p) {
    uint32_t at = (uint32_t)__cvta_generic_to_shared(p);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(at));
}

template <int D, kv_format F>
__device__ __forceinline__ void load_page(page_words<D, F> *w, const kv_view &kv, size_t cell) {
    constexpr int bytes = 8 * operand<F>::bytes;
#pragma unroll
    for (int i = 0; i < shape<D, F>::units; i++) {
        size_t at = (cell * (D / 8) + threadIdx.x + i * shape<D, F>::threads) * bytes;
        if (F == KV_FP8) {
            *(uint2 *)w->k[i] = *(const uint2 *)((const uint8_t *)kv.k + at);
            *(uint2 *)w->v[i] = *(const uint2 *)((const uint8_t *)kv.v + at);
        } else {
            *(uint4 *)w->k[i] = *(const uint4 *)((const uint8_t *)kv.k + at);
            *(uint4 *)w->v[i] = *(const uint4 *)((const uint8_t *)kv.v + at);
        }
    }
    if (F == KV_FP8 && threadIdx.x < KV_PAGE) {
        w->k_scale = kv.k_scales[cell + threadIdx.x];
        w->v_scale = kv.v_scales[cell + threadIdx.x] * WEIGHT_LIFT;
    }
}

template <kv_format F> __device__ __forceinline__ uint4 unit_of(const uint32_t *w) {
    if (F == KV_FP8)
        return make_uint4(e4m3x2_to_half2(w[0]), e4m3x2_to_half2(w[0] >> 16), e4m3x2_to_half2(w[1]),
                          e4m3x2_to_half2(w[1] >> 16));
    return make_uint4(w[0], w[1], w[2], w[3]);
}

/* K and V: [KV_PAGE][stride]; SCALES: keys' [64], values' [64]. */
template <int D, kv_format F>
__device__ __forceinline__ void put_page(const page_words<D, F> &w, uint16_t *k, uint16_t *v, float *scales) {
    using s = shape<D, F>;
#pragma unroll
    for (int i = 0; i < s::units; i++) {
        int unit = threadIdx.x + i * s::threads, at = unit / (D / 8) * s::stride + unit % (D / 8) * 8;
        *(uint4 *)(k + at) = unit_of<F>(w.k[i]);
        *(uint4 *)(v + at) = unit_of<F>(w.v[i]);
    }
    if (F == KV_FP8 && threadIdx.x < KV_PAGE) {
        scales[threadIdx.x] = w.k_scale;
        scales[KV_PAGE + threadIdx.x] = w.v_scale;
    }
}

/* A warp's pairs: positions of a lane's rows (-1: not of this run), running maxima and sums, O. */
template <int D, kv_format F> struct pairs {
    int position[2 * shape<D, F>::m_tiles];
    float max[2 * shape<D, F>::m_tiles], sum[2 * shape<D, F>::m_tiles];
    float o[shape<D, F>::m_tiles][D / 8][4];
};

template <int D, kv_format F> using score_tile = float[shape<D, F>::m_tiles][HALF / 8][4];

/* S of a warp's pairs under the HALF keys at K. */
template <int D, kv_format F>
__device__ __forceinline__ void score_half(score_tile<D, F> s, const uint16_t *q, const uint16_t *k,
                                           int lane) {
    constexpr int stride = shape<D, F>::stride;
#pragma unroll
    for (int m = 0; m < shape<D, F>::m_tiles; m++)
#pragma unroll
        for (int n = 0; n < HALF / 8; n++)
            s[m][n][0] = s[m][n][1] = s[m][n][2] = s[m][n][3] = 0;
#pragma unroll
    for (int d = 0; d < D / 16; d++) {
        uint32_t a[shape<D, F>::m_tiles][4];
#pragma unroll
        for (int m = 0; m < shape<D, F>::m_tiles; m++)
            ldmatrix(a[m], q + (16 * m + lane % 16) * stride + 16 * d + 8 * (lane / 16));
#pragma unroll
        for (int n = 0; n < HALF / 16; n++) {
            uint32_t b[4];
            ldmatrix(b, k + (16 * n + lane % 8 + 8 * (lane / 16)) * stride + 16 * d + 8 * (lane / 8 % 2));
#pragma unroll
            for (int m = 0; m < shape<D, F>::m_tiles; m++) {
                operand<F>::mma(s[m][2 * n], a[m][0], a[m][1], a[m][2], a[m][3], b[0], b[1]);
                operand<F>::mma(s[m][2 * n + 1], a[m][0], a[m][1], a[m][2], a[m][3], b[2], b[3]);
            }
        }
    }
}

/* Scales S, masks it (MASKED: some pair of the warp does not see some key of the half), moves maxima; S
 * becomes the weights (times the values' scales). KEY0: of the half. */
template <int D, kv_format F, bool MASKED>
__device__ __forceinline__ void weigh_half(score_tile<D, F> s, pairs<D, F> *x, const attn_view &p, int key0,
                                           const float *k_scales, int lane) {
    const int t = lane & 3;
    bool moved = false;
    float keep[2 * shape<D, F>::m_tiles], scale[HALF / 8][2];
#pragma unroll
    for (int n = 0; n < HALF / 8; n++)
#pragma unroll
        for (int c = 0; c < 2; c++)
            scale[n][c] = F == KV_FP8 ? k_scales[8 * n + 2 * t + c] : 1.0f;
#pragma unroll
    for (int r = 0; r < 2 * shape<D, F>::m_tiles; r++) {
        float most = x->max[r];
        const int first = MASKED ? first_key(p, x->position[r]) : 0;
#pragma unroll
        for (int n = 0; n < HALF / 8; n++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
                float *v = &s[r / 2][n][2 * (r % 2) + c];
                *v = F == KV_FP8 ? *v * scale[n][c] : *v;
                if (p.cap != 0)
                    *v = capped(*v, p.cap);
                if (MASKED) {
                    int key = key0 + 8 * n + 2 * t + c;
                    *v = key <= x->position[r] && key >= first ? *v : NO_SCORE;
                }
                most = fmaxf(most, *v);
            }
        most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
        most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
        keep[r] = exp2_fast(x->max[r] - most);
        moved |= most > x->max[r];
        x->max[r] = most;
    }
#pragma unroll
    for (int n = 0; n < HALF / 8; n++)
#pragma unroll
        for (int c = 0; c < 2; c++)
            scale[n][c] = F == KV_FP8 ? k_scales[KV_PAGE + 8 * n + 2 * t + c] : 1.0f;
#pragma unroll
    for (int r = 0; r < 2 * shape<D, F>::m_tiles; r++) {
        float sum = 0;
#pragma unroll
        for (int n = 0; n < HALF / 8; n++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
                float *v = &s[r / 2][n][2 * (r % 2) + c];
                float w = MASKED && *v == NO_SCORE ? 0 : exp2_fast(*v - x->max[r]);
                sum += w;
                *v = F != KV_FP8 ? w : MASKED && w == 0 ? 0 : w * scale[n][c];
            }
        x->sum[r] = x->sum[r] * keep[r] + sum;
    }
    if (__any_sync(~0u, moved)) {
#pragma unroll
        for (int r = 0; r < 2 * shape<D, F>::m_tiles; r++)
#pragma unroll
            for (int n = 0; n < D / 8; n++) {
                x->o[r / 2][n][2 * (r % 2)] *= keep[r];
                x->o[r / 2][n][2 * (r % 2) + 1] *= keep[r];
            }
    }
}

/* O += weights times the HALF values at V. */
template <int D, kv_format F>
__device__ __forceinline__ void gather_half(pairs<D, F> *x, score_tile<D, F> w, const uint16_t *v, int lane) {
    constexpr int stride = shape<D, F>::stride;
#pragma unroll
    for (int k = 0; k < HALF / 16; k++) {
        uint32_t a[shape<D, F>::m_tiles][4];
#pragma unroll
        for (int m = 0; m < shape<D, F>::m_tiles; m++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                a[m][i] =
                    operand<F>::pack(w[m][2 * k + i / 2][2 * (i % 2)], w[m][2 * k + i / 2][2 * (i % 2) + 1]);
#pragma unroll
        for (int n = 0; n < D / 16; n++) {
            uint32_t b[4];
            ldmatrix_trans(b, v + (16 * k + lane % 16) * stride + 16 * n + 8 * (lane / 16));
#pragma unroll
            for (int m = 0; m < shape<D, F>::m_tiles; m++) {
                operand<F>::mma(x->o[m][2 * n], a[m][0], a[m][1], a[m][2], a[m][3], b[0], b[1]);
                operand<F>::mma(x->o[m][2 * n + 1], a[m][0], a[m][1], a[m][2], a[m][3], b[2], b[3]);
            }
        }
    }
}

/* Rows [first, end) of the batch under KV head HEAD, pair i = (row first + i / group, head i % group). */
typedef struct block_rows {
    int first, end, group, head;
} block_rows;

template <int D, kv_format F>
static __device__ void load_queries(uint16_t *q, const attn_job &job, const block_rows &rows) {
    const float factor = job.p.scale * LOG2E;
    for (int i = threadIdx.x; i < TILE * D / 8; i += shape<D, F>::threads) {
        int pair = i / (D / 8), row = rows.first + pair / rows.group, at = i % (D / 8) * 8;
        float v[8] = {};
        if (row < rows.end) {
            const float *from =
                job.q + row * job.q_stride + ((size_t)rows.head * rows.group + pair % rows.group) * D + at;
            *(float4 *)v = *(const float4 *)from;
            *(float4 *)(v + 4) = *(const float4 *)(from + 4);
        }
        uint4 packed;
        packed.x = operand<F>::pack(v[0] * factor, v[1] * factor);
        packed.y = operand<F>::pack(v[2] * factor, v[3] * factor);
        packed.z = operand<F>::pack(v[4] * factor, v[5] * factor);
        packed.w = operand<F>::pack(v[6] * factor, v[7] * factor);
        *(uint4 *)(q + pair * shape<D, F>::stride + at) = packed;
    }
}

/* Rows [first, end) are of one sequence: all their pages. */
template <int D, kv_format F>
static __device__ void take_run(pairs<D, F> *x, const attn_job &job, const block_rows &rows, int first,
                                int end, uint16_t *q, uint16_t *k, uint16_t *v, float *scales) {
    using s = shape<D, F>;
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, pair0 = warp * 16 * s::m_tiles;
    const int position = job.step.positions[first], last_position = position + end - first - 1;
    const int32_t *pages = job.step.page_table + job.step.first_page[first];
    int most = -1,
        least = 0x7fffffff; /* positions of the warp's pairs; -1 for one that is no part of the run */
#pragma unroll
    for (int r = 0; r < 2 * s::m_tiles; r++) {
        int row = rows.first + (pair0 + lane / 4 + 8 * r) / rows.group;
        x->position[r] = row >= first && row < end ? position + row - first : -1;
        most = max(most, x->position[r]);
        least = min(least, x->position[r]);
    }
    most = __reduce_max_sync(~0u, most);
    least = __reduce_min_sync(~0u, least);
    page_words<D, F> words;
    int page = first_key(job.p, position) / KV_PAGE, last_page = last_position / KV_PAGE;
    if (s::ahead)
        load_page(&words, job.kv, cell_of(job, pages, rows.head, page * KV_PAGE));
    for (; page <= last_page; page++) {
        if (!s::ahead)
            load_page(&words, job.kv, cell_of(job, pages, rows.head, page * KV_PAGE));
        __syncthreads();
        put_page(words, k, v, scales);
        if (F == KV_FP8 && job.p.k_mean && page == 0 && warp == 0) {
            __syncwarp(); /* which has put the key */
            take_mean<D>((uint8_t *)k, 128, scales, job.p.k_mean + (size_t)rows.head * D, lane);
        }
        __syncthreads();
        if (s::ahead && page < last_page)
            load_page(&words, job.kv, cell_of(job, pages, rows.head, (page + 1) * KV_PAGE));
        for (int half = 0; half < KV_PAGE / HALF; half++) {
            int key0 = page * KV_PAGE + half * HALF;
            if (key0 > most)
                break;
            float w[s::m_tiles][HALF / 8][4];
            score_half<D, F>(w, q + pair0 * s::stride, k + half * HALF * s::stride, lane);
            if (key0 + HALF - 1 <= least && key0 >= first_key(job.p, most))
                weigh_half<D, F, false>(w, x, job.p, key0, scales + half * HALF, lane);
            else
                weigh_half<D, F, true>(w, x, job.p, key0, scales + half * HALF, lane);
            gather_half<D, F>(x, w, v + half * HALF * s::stride, lane);
        }
    }
}

template <int D, kv_format F>
static __global__ void __launch_bounds__(shape<D, F>::threads) attend_prompts(attn_job job) {
    using s = shape<D, F>;
    extern __shared__ uint16_t shared[];
    uint16_t *q = shared, *k = q + TILE * s::stride, *v = k + KV_PAGE * s::stride;
    float *scales = (float *)(v + KV_PAGE * s::stride);
    const int group = job.p.n_heads / job.p.n_kv_heads, per_tile = TILE / group;
    const int tile = gridDim.x - 1 - blockIdx.x, warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
    const block_rows rows = {tile * per_tile, min(job.n_rows, (tile + 1) * per_tile), group, (int)blockIdx.y};
    pdl_wait();
    pdl_go();
    load_queries<D, F>(q, job, rows);
    pairs<D, F> x = {};
#pragma unroll
    for (int r = 0; r < 2 * s::m_tiles; r++)
        x.max[r] = NO_SCORE;
    for (int first = rows.first, end; first < rows.end; first = end) {
        int seq = job.step.prompt[first];
        for (end = first + 1; end < rows.end && job.step.prompt[end] == seq;)
            end++;
        if (seq >= 0)
            take_run<D, F>(&x, job, rows, first, end, q, k, v, scales);
    }
#pragma unroll
    for (int r = 0; r < 2 * s::m_tiles; r++) {
        int pair = warp * 16 * s::m_tiles + lane / 4 + 8 * r, row = rows.first + pair / group;
        float sum = x.sum[r] + __shfl_xor_sync(~0u, x.sum[r], 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        if (row >= rows.end || pair >= per_tile * group || job.step.prompt[row] < 0)
            continue;
        float inverse = 1.0f / (F == KV_FP8 ? sum * WEIGHT_LIFT : sum);
        size_t at = ((size_t)rows.head * group + pair % group) * D + 2 * (lane & 3);
#pragma unroll
        for (int n = 0; n < D / 8; n++)
            put_pair(job.out, row, at + 8 * n, x.o[r / 2][n][2 * (r % 2)] * inverse,
                     x.o[r / 2][n][2 * (r % 2) + 1] * inverse);
    }
}

/* ---- launching ---- */

template <int D, kv_format F> static int run(const cuda_lane *lane, const attn_job &job) {
    const int per_tile = TILE / (job.p.n_heads / job.p.n_kv_heads);
    cudaError_t status = cudaFuncSetAttribute(
        attend_prompts<D, F>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shape<D, F>::shared);
    if (status != cudaSuccess)
        return status;
    dim3 grid((unsigned)((job.n_rows + per_tile - 1) / per_tile), (unsigned)job.p.n_kv_heads);
    return launch_kernel(lane, attend_prompts<D, F>, grid, shape<D, F>::threads, shape<D, F>::shared, job);
}

template <int D> static int run_format(const cuda_lane *lane, const attn_job &job) {
    return job.kv.format == KV_FP8 ? run<D, KV_FP8>(lane, job) : run<D, KV_BF16>(lane, job);
}

extern "C" bool prefill_supports(const attn_view *p, kv_format format) {
    return decode_supports(p, format) && p->n_heads / p->n_kv_heads <= TILE;
}

extern "C" int prefill_launch(const cuda_lane *lane, act_view out, const float *q, size_t q_stride,
                              const attn_view *p, const kv_view *kv, const step_view *step, int n_rows) {
    if (!prefill_supports(p, kv->format) || out.format == ACT_FP8 || q_stride % 4 != 0)
        return cudaErrorInvalidValue;
    if (prefill_wgmma_supports(lane, p, kv->format))
        return prefill_wgmma_launch(lane, out, q, q_stride, p, kv, step, n_rows);
    attn_job job = {out, q, q_stride, *p, *kv, *step, n_rows, NULL, 1, {}};
    return p->head_dim == 64    ? run_format<64>(lane, job)
           : p->head_dim == 96  ? run_format<96>(lane, job)
           : p->head_dim == 128 ? run_format<128>(lane, job)
                                : run_format<256>(lane, job);
}
