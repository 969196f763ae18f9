/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention of prompts on Hopper: prefill.cu's work through wgmma, for FP8 pages and head_dim 64 and 128.
 *
 * A tile is 128 (row, query head) pairs of one KV head, as in prefill.cu, a step 128 keys, two pages; a block
 * takes several tiles. Two consumer warpgroups have 64 pairs each: queries lie in shared memory (FP16,
 * scaled), weights are register operands, scores, sums and O stay in registers. A producer warpgroup brings
 * keys and values as FP16, times their scales.
 *
 *   S [64, 128] = Q K^T   D / 16 wgmma m64n128k16
 *   O [64, D] += P V      8 wgmma m64nDk16;  P = 2^(S - reference)
 *
 * The scores of a step are queued with the weighted sum of the step before it. FP32 arithmetic takes the
 * tensor cores' time, a cycle an instruction (docs/notes/prefill-attention.md), so a score has two such
 * instructions and its conversion: no maximum is taken where the sum of a lane's weights shows that they are
 * small enough against an old reference, which serves as well as the maximum does. Steps on an edge are
 * masked. 2,048 rows behind 14,336 others of Qwen3-8B's shape: 940 us, 550 TFLOP/s (H200, 2026-12-01).
 */
#include "cuda/gpu/sm90/prefill_pages.cuh"
#include "gemm/gpu/sm90/wgmma_ops.cuh"

/* S = A B^T (+ S), k contiguous in both; O += A B, n contiguous in B. */
template <int ADD> __device__ __forceinline__ void wgmma_keys(float (&d)[64], uint64_t a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 {" GEMM_NUMBERS_128
                 "},%64,%65,%66,1,1,0,0;"
                 : GEMM_SUMS_128(d)
                 : "l"(a), "l"(b), "n"(ADD));
}
GEMM_WGMMA(wgmma_values, 64, "k16.f32.f16.f16", ",1", "{%32,%33,%34,%35},%36")
GEMM_WGMMA(wgmma_values, 128, "k16.f32.f16.f16", ",1", "{%64,%65,%66,%67},%68")

/* descriptor_low of values: PART bytes between 64 dimensions and the next. */
__device__ __forceinline__ uint32_t values_low(uint32_t address) {
    return (address & 0x3ffff) >> 4 | (uint32_t)(PART >> 4) << 16;
}

/* Nothing that reads the sums D moves up before the wait above. */
template <int N> __device__ __forceinline__ void hold(float (&d)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

/* A lane's two pairs: g and g + 8 of its warp's sixteen. */
template <int D> struct pair_sums {
    int position[2];                      /* -1: not of this run */
    float reference[2], sum[2], o[D / 2]; /* o[4 n + 2 r + c]: dimension 8 n + 2 t + c of pair r */
};

/* Queries of a warpgroup's 64 pairs as rows of 128 bytes with the swizzle, like keys: eight at a time. */
template <int D>
__device__ __forceinline__ void put_queries(uint32_t to, const attn_job &job, int first, int end, int head,
                                            int pair0, int group) {
    constexpr int eights = D / 8, units = 64 * eights / 128;
    const float factor = job.p.scale * LOG2E;
    const int t = threadIdx.x & 127, at = t % eights;
    float4 v[units][2];
#pragma unroll
    for (int i = 0; i < units; i++) {
        const int pair = pair0 + t / eights + i * (128 / eights), row = min(first + pair / group, end - 1);
        const float4 *from = (const float4 *)(job.q + (size_t)row * job.q_stride +
                                              ((size_t)head * group + pair % group) * D + 8 * at);
        v[i][0] = from[0];
        v[i][1] = from[1];
    }
#pragma unroll
    for (int i = 0; i < units; i++) {
        const int pair = pair0 + t / eights + i * (128 / eights);
        const float4 a = v[i][0], b = v[i][1];
        const uint32_t chunk = to + at / 8 * PART + pair * 128 + (((at & 7) ^ (pair & 7)) << 4);
        asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(chunk),
                     "r"(operand<KV_FP8>::pack(a.x * factor, a.y * factor)),
                     "r"(operand<KV_FP8>::pack(a.z * factor, a.w * factor)),
                     "r"(operand<KV_FP8>::pack(b.x * factor, b.y * factor)),
                     "r"(operand<KV_FP8>::pack(b.z * factor, b.w * factor))
                     : "memory");
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* Where a lane's columns, 8 n + 2 t and the next, stand in a step, and which of them its pairs do not see. */
template <bool MASKED> struct columns {
    const attn_view &view;
    int key0, t;

    __device__ __forceinline__ bool hidden(int n, int c, int position) const {
        const int key = key0 + 8 * n + 2 * t + c;
        return MASKED && (key > position || key < first_key(view, position));
    }
};

/* Weights of S [2 pairs, STEP keys] against the references, and their sums. */
template <int D, bool MASKED>
__device__ __forceinline__ void weigh(uint32_t (&p)[STEP / 4], float (&sum)[2], const float (&s)[64],
                                      const pair_sums<D> &x, const columns<MASKED> &of) {
    float sums[2][2] = {};
#pragma unroll
    for (int n = 0; n < STEP / 8; n++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float w[2];
#pragma unroll
            for (int c = 0; c < 2; c++) {
                w[c] = exp2_fast(s[4 * n + 2 * r + c] - x.reference[r]);
                w[c] = of.hidden(n, c, x.position[r]) ? 0 : w[c];
                sums[r][c] += w[c];
            }
            p[2 * n + r] = operand<KV_FP8>::pack(w[0], w[1]);
        }
    sum[0] = sums[0][0] + sums[0][1];
    sum[1] = sums[1][0] + sums[1][1];
}

/* References move to BELOW the largest score, and what was summed follows. */
template <int D, bool MASKED>
__device__ __forceinline__ void move_references(pair_sums<D> *x, const float (&s)[64],
                                                const columns<MASKED> &of) {
    float most[2] = {x->reference[0] + BELOW, x->reference[1] + BELOW};
#pragma unroll
    for (int n = 0; n < STEP / 8; n++)
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int c = 0; c < 2; c++)
                most[r] = of.hidden(n, c, x->position[r]) ? most[r] : fmaxf(most[r], s[4 * n + 2 * r + c]);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        most[r] = fmaxf(most[r], __shfl_xor_sync(~0u, most[r], 1));
        most[r] = fmaxf(most[r], __shfl_xor_sync(~0u, most[r], 2));
        const float keep = exp2_fast(x->reference[r] - (most[r] - BELOW));
        x->reference[r] = most[r] - BELOW;
        x->sum[r] *= keep;
#pragma unroll
        for (int i = 0; i < D / 4; i++)
            x->o[4 * (i / 2) + 2 * r + i % 2] *= keep;
    }
}

/* What a warpgroup needs to know of a run: the positions of its first and last row in it. */
typedef struct seen {
    int least, most; /* least -1: some of the pairs are not of the run */
} seen;

__device__ __forceinline__ seen what_is_seen(const run &r, int first, int pair, int group) {
    const int from = first + pair / group, to = first + (pair + 63) / group;
    const bool whole = from >= r.first && to < r.end;
    return {whole ? r.position + from - r.first : -1, r.position + min(to, r.end - 1) - r.first};
}

/* A consumer warpgroup between two steps. */
template <int D> struct consumer {
    uint32_t queries, p[STEP / 4]; /* P: weights of the step before */
    pair_sums<D> x;
    ring<D> at; /* the keys whose scores come next, or the last ones that came */

    __device__ __forceinline__ void queue_scores(float (&s)[64]) {
        const uint32_t a = descriptor_low(queries), b = descriptor_low(at.data());
        wgmma_keys<0>(s, descriptor_at(a), descriptor_at(b));
#pragma unroll
        for (int i = 1; i < D / 16; i++) {
            const int on = (i / 4 * PART + i % 4 * 32) / 16;
            wgmma_keys<1>(s, descriptor_at(a + on), descriptor_at(b + on));
        }
    }

    __device__ __forceinline__ void queue_sums(const ring<D> &values) {
        const uint32_t b = values_low(values.data());
#pragma unroll
        for (int i = 0; i < STEP / 16; i++)
            wgmma_values(x.o, p + 4 * i, descriptor_at(b + i * 16 * 128 / 16));
    }

    __device__ __forceinline__ void await(const ring<D> &slot) {
        barrier_wait(slot.full(), slot.phase);
    }

    __device__ __forceinline__ void leave(const ring<D> &slot) {
        if ((threadIdx.x & 31) == 0)
            barrier_arrive(slot.empty());
    }

    template <bool MASKED>
    __device__ __forceinline__ void take_weights(const float (&s)[64], const columns<MASKED> &of) {
        float sum[2];
#pragma unroll 1
        for (bool moved = false;; moved = true) {
            weigh<D>(p, sum, s, x, of);
            if (moved || __all_sync(~0u, sum[0] <= LIMIT && sum[1] <= LIMIT))
                break;
            move_references<D>(&x, s, of);
        }
        x.sum[0] += sum[0];
        x.sum[1] += sum[1];
    }

    /* No product is on its way. */
    __device__ __forceinline__ void take_step(const float (&s)[64], const attn_view &view, const seen &see,
                                              int key0, int t) {
        if (key0 + STEP - 1 <= see.least && key0 >= first_key(view, see.most))
            take_weights(s, columns<false>{view, key0, t});
        else
            take_weights(s, columns<true>{view, key0, t});
    }

    /* N steps from position KEY0 on. */
    __device__ __forceinline__ void take_steps(const attn_view &view, const seen &see, int key0, int n,
                                               int t) {
        float s[64];
        await(at);
        wgmma_fence();
        queue_scores(s);
        wgmma_commit();
        wgmma_wait<0>();
        hold(s);
        leave(at);
        take_step(s, view, see, key0, t);
#pragma unroll 1
        for (int i = 1; i < n; i++) {
            at.advance();
            const ring<D> values = at;
            await(values);
            at.advance();
            await(at);
            wgmma_fence();
            queue_scores(s);
            queue_sums(values);
            wgmma_commit();
            wgmma_wait<0>();
            hold(s);
            hold(x.o);
            leave(values);
            leave(at);
            take_step(s, view, see, key0 + i * STEP, t);
        }
        at.advance();
        await(at);
        wgmma_fence();
        queue_sums(at);
        wgmma_commit();
        wgmma_wait<0>();
        hold(x.o);
        leave(at);
        at.advance();
    }
};

template <int D>
static __device__ __forceinline__ void put_results(const attn_job &job, const pair_sums<D> &x, int first,
                                                   int end, int head, int group, int pair0, int t) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int pair = pair0 + 8 * r, row = first + pair / group;
        float sum = x.sum[r] + __shfl_xor_sync(~0u, x.sum[r], 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        if (row >= end || pair >= TILE / group * group || job.step.prompt[row] < 0)
            continue;
        const float inverse = 1.0f / (sum * LIFT);
        const size_t to = ((size_t)head * group + pair % group) * D + 2 * t;
#pragma unroll
        for (int n = 0; n < D / 8; n++)
            put_pair(job.out, row, to + 8 * n, x.o[4 * n + 2 * r] * inverse,
                     x.o[4 * n + 2 * r + 1] * inverse);
    }
}

template <int D>
static __device__ __forceinline__ void take_tile(consumer<D> &c, const attn_job &job, const tile &of,
                                                 int group, int who, int pair, int t) {
    sync_threads(QUERIES + who, 128); /* the tile before is done */
    put_queries<D>(c.at.base, job, of.first, of.end, of.head, who * 64, group);
    sync_threads(QUERIES + who, 128);
    pair_sums<D> &x = c.x;
#pragma unroll
    for (int i = 0; i < D / 2; i++)
        x.o[i] = 0;
    x.reference[0] = x.reference[1] = NO_SCORE;
    x.sum[0] = x.sum[1] = 0;
    int next = of.first;
    for (run r = {}; find_run(job, next, of.end, &r); next = r.end) {
        const seen see = what_is_seen(r, of.first, who * 64, group);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int row = of.first + (pair + 8 * i) / group;
            x.position[i] = row >= r.first && row < r.end ? r.position + row - r.first : -1;
        }
        c.take_steps(job.p, see, r.page * KV_PAGE, (r.last_page - r.page) / 2 + 1, t);
    }
    put_results<D>(job, x, of.first, of.end, of.head, group, pair, t);
}

template <int D> static __device__ void consume(const attn_job &job, ring<D> at) {
    const int who = __shfl_sync(~0u, threadIdx.x >> 7, 0); /* so the compiler knows that a warp has one */
    const int lane = threadIdx.x & 31, pair = who * 64 + (threadIdx.x >> 5 & 3) * 16 + (lane >> 2);
    const int group = job.p.n_heads / job.p.n_kv_heads;
    consumer<D> c;
    c.at = at;
    c.queries = at.base + who * 64 * 128;
    tile of;
    for (int round = 0; find_tile(job, round, &of); round++)
        take_tile(c, job, of, group, who, pair, lane & 3);
}

template <int D> static __global__ void __launch_bounds__(THREADS, 1) attend_prompts_wgmma(attn_job job) {
    extern __shared__ __align__(1024) uint8_t shared[];
    ring<D> at = {shared_address(shared), 0, 0};
    if (threadIdx.x == 0) {
        for (int i = 0; i < SLOTS; i++) {
            barrier_init(at.full() + 8 * i, 128);
            barrier_init(at.empty() + 8 * i, 4 * CONSUMERS);
        }
        for (int i = 0; i < STAGED; i++)
            barrier_init(at.came(i), 2);
        barrier_fence();
    }
    __syncthreads();
    pdl_wait();
    pdl_go();
    if (threadIdx.x >= CONSUMERS * 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(PRODUCER_REGISTERS));
        produce<D>(job, at);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(CONSUMER_REGISTERS));
        consume<D>(job, at);
    }
}

template <int D> static int launch(const cuda_lane *lane, const attn_job &job) {
    const int per_tile = TILE / (job.p.n_heads / job.p.n_kv_heads);
    cudaError_t status = cudaFuncSetAttribute(attend_prompts_wgmma<D>,
                                              cudaFuncAttributeMaxDynamicSharedMemorySize, ring<D>::shared);
    if (status != cudaSuccess)
        return status;
    const int tiles = (job.n_rows + per_tile - 1) / per_tile * job.p.n_kv_heads;
    const int blocks = lane->n_sms > 0 && lane->n_sms < tiles ? lane->n_sms : tiles;
    return launch_kernel(lane, attend_prompts_wgmma<D>, dim3((unsigned)blocks), THREADS, ring<D>::shared,
                         job);
}

extern "C" bool prefill_wgmma_supports(const cuda_lane *lane, const attn_view *p, kv_format format) {
    return lane->wgmma && format == KV_FP8 && p->cap == 0 && (p->head_dim == 64 || p->head_dim == 128) &&
           p->n_heads % p->n_kv_heads == 0 && p->n_heads / p->n_kv_heads <= TILE;
}

/* What FP16 leaves of a checkpoint's scale of keys, as a factor. */
static float left_by_fp16(float scale) {
    const float stored = __half2float(__float2half_rn(scale));
    return stored > 0 ? scale / stored : 1.0f;
}

extern "C" int prefill_wgmma_launch(const cuda_lane *lane, act_view out, const float *q, size_t q_stride,
                                    const attn_view *p, const kv_view *kv, const step_view *step,
                                    int n_rows) {
    attn_job job = {out, q, q_stride, *p, *kv, *step, n_rows, NULL, 1, {}};
    job.p.scale *= left_by_fp16(p->k_scale); /* of queries */
    return p->head_dim == 64 ? launch<64>(lane, job) : launch<128>(lane, job);
}
