/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention of prompts on Hopper: prefill.cu's work through wgmma, for FP8 pages and head_dim 64, 128 and
 * 256.
 *
 * A tile is 256 (row, query head) pairs of one KV head, or 128 where those would leave multiprocessors
 * without one and at head_dim 256, in bands of 64; a step is a page, 64 keys; a block takes several tiles.
 * Two consumer warpgroups have one or two bands each: queries lie in shared memory (FP16, scaled), weights
 * are register operands, scores, sums and O stay in registers. A producer warpgroup brings keys and values as
 * FP16, times their scales, once for all bands. Shared bytes: at most 225 KB (ring, queries).
 *
 *   S [64, 64] = Q K^T   D / 16 wgmma m64n64k16
 *   O [64, D] += P V     4 wgmma m64nDk16;  P = 2^(S - reference)
 *
 * While one band is weighed the sums of the other are made; one band's sums are queued with its next scores.
 * No maximum is taken where the sum of a lane's weights shows that they are small enough against an old
 * reference, which serves as well as the maximum does: a score has two FP32 instructions and its conversion
 * (docs/notes/prefill-attention.md). Steps on an edge are masked.
 * 2,048 rows behind 14,336 others of Qwen3-8B's shape: 880 us, 585 TFLOP/s (H200, 2026-12-01).
 */
#include "cuda/gpu/sm90/prefill_pages.cuh"
#include "gemm/gpu/sm90/wgmma_ops.cuh"

/* S = A B^T (+ S), k contiguous in both; O += A B, n contiguous in B. */
template <int ADD> __device__ __forceinline__ void wgmma_keys(float (&d)[STEP / 2], uint64_t a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" GEMM_NUMBERS_64
                 "},%32,%33,%34,1,1,0,0;"
                 : GEMM_SUMS_64(d)
                 : "l"(a), "l"(b), "n"(ADD));
}
GEMM_WGMMA(wgmma_values, 64, "k16.f32.f16.f16", ",1", "{%32,%33,%34,%35},%36")
GEMM_WGMMA(wgmma_values, 128, "k16.f32.f16.f16", ",1", "{%64,%65,%66,%67},%68")
GEMM_WGMMA(wgmma_values, 256, "k16.f32.f16.f16", ",1", "{%128,%129,%130,%131},%132")

/* descriptor_low of values: PART bytes between 64 dimensions and the next. */
__device__ __forceinline__ uint32_t values_low(uint32_t address) {
    return (address & 0x3ffff) >> 4 | (uint32_t)(PART >> 4) << 16;
}

/* Pairs of a tile. */
constexpr __host__ __device__ int pairs_of(int bands) {
    return CONSUMERS * bands * 64;
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

/* Queries of a band, [D / 64][64] rows of 128 bytes with the swizzle, like keys: eight at a time. */
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
        const int pair = t / eights + i * (128 / eights);
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
__device__ __forceinline__ void weigh(uint32_t (&p)[STEP / 4], float (&sum)[2], const float (&s)[STEP / 2],
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
__device__ __forceinline__ void move_references(pair_sums<D> *x, const float (&s)[STEP / 2],
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

/* 64 pairs of a consumer warpgroup. */
template <int D> struct band {
    pair_sums<D> x;
    uint32_t p[STEP / 4]; /* P: weights of the step before */
    seen see;             /* of the run */

    template <bool MASKED>
    __device__ __forceinline__ void take_weights(const float (&s)[STEP / 2], const columns<MASKED> &of) {
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

    /* No product of this band is on its way. */
    __device__ __forceinline__ void take_step(const float (&s)[STEP / 2], const attn_view &view, int key0,
                                              int t) {
        if (key0 + STEP - 1 <= see.least && key0 >= first_key(view, see.most))
            take_weights(s, columns<false>{view, key0, t});
        else
            take_weights(s, columns<true>{view, key0, t});
    }
};

/* A consumer warpgroup: its bands, and the keys whose scores come next or came last. */
template <int D, int BANDS> struct consumer {
    band<D> bands[BANDS];
    uint32_t queries;
    ring<D> at;

    __device__ __forceinline__ void queue_scores(float (&s)[STEP / 2], int i) {
        uint32_t a = descriptor_low(queries + i * (D / 64) * PART);
        const uint32_t b = descriptor_low(at.data());
        asm volatile("" : "+r"(a)); /* else all that is added to it below would stay in registers */
        wgmma_fence();
        wgmma_keys<0>(s, descriptor_at(a), descriptor_at(b));
#pragma unroll
        for (int k = 1; k < D / 16; k++) {
            const int on = (k / 4 * PART + k % 4 * 32) / 16;
            wgmma_keys<1>(s, descriptor_at(a + on), descriptor_at(b + on));
        }
        wgmma_commit();
    }

    __device__ __forceinline__ void queue_sums(int i, const ring<D> &values) {
        const uint32_t b = values_low(values.data());
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < STEP / 16; k++)
            wgmma_values(bands[i].x.o, bands[i].p + 4 * k, descriptor_at(b + k * 16 * 128 / 16));
        wgmma_commit();
    }

    __device__ __forceinline__ void await(const ring<D> &slot) {
        barrier_wait(slot.full(), slot.phase);
    }

    __device__ __forceinline__ void leave(const ring<D> &slot) {
        if ((threadIdx.x & 31) == 0)
            barrier_arrive(slot.empty());
    }

    __device__ __forceinline__ void next_keys() {
        at.advance();
        at.advance();
        await(at);
    }

    /* Sums of the last step, then the ring is at the keys of the next run. */
    __device__ __forceinline__ void end_steps() {
        await(at.values());
        queue_sums(BANDS - 1, at.values());
        wgmma_wait<0>();
        hold(bands[BANDS - 1].x.o);
        leave(at.values());
        at.advance();
        at.advance();
    }

    /* Of two bands the one I, whose scores are on their way; OTHER: there are sums of the other to be made,
     * those of the step before if I is 0; MORE: scores come behind. */
    template <bool OTHER, bool MORE>
    __device__ __forceinline__ void take_band(int i, float (&s)[STEP / 2], const attn_view &view, int key0,
                                              int t) {
        ring<D> values = at.values();
        wgmma_wait<0>();
        hold(s);
        if (i == 1) {
            leave(at);
            await(values);
        } else
            values.slot = values.slot > 1 ? values.slot - 2 : ring<D>::slots - 1;
        if (OTHER)
            queue_sums(i ^ 1, values);
        bands[i].take_step(s, view, key0, t);
        if (i == 0) {
            queue_scores(s, 1);
        } else if (MORE) {
            next_keys();
            queue_scores(s, 0);
        }
        if (!OTHER)
            return;
        wgmma_wait<MORE ? 1 : 0>(); /* but for the scores */
        hold(bands[i ^ 1].x.o);
        if (i == 0)
            leave(values);
    }

    /* N steps from position KEY0 on. */
    __device__ __forceinline__ void take_steps(const attn_view &view, int key0, int n, int t) {
        float s[STEP / 2];
        await(at);
        queue_scores(s, 0);
        if constexpr (BANDS == 1) {
            take_single(s, view, key0, n, t);
        } else {
            take_band<false, true>(0, s, view, key0, t);
#pragma unroll 1
            for (int i = 1; i < n; i++, key0 += STEP) {
                take_band<true, true>(1, s, view, key0, t);
                take_band<true, true>(0, s, view, key0 + STEP, t);
            }
            take_band<true, false>(1, s, view, key0, t);
        }
        end_steps();
    }

    /* The same of one band, whose first scores are on their way. */
    __device__ __forceinline__ void take_single(float (&s)[STEP / 2], const attn_view &view, int key0, int n,
                                                int t) {
        wgmma_wait<0>();
        hold(s);
        leave(at);
        bands[0].take_step(s, view, key0, t);
#pragma unroll 1
        for (int i = 1; i < n; i++) {
            const ring<D> values = at.values();
            await(values);
            next_keys();
            queue_scores(s, 0);
            queue_sums(0, values);
            wgmma_wait<0>();
            hold(s);
            hold(bands[0].x.o);
            leave(values);
            leave(at);
            bands[0].take_step(s, view, key0 + i * STEP, t);
        }
    }
};

template <int D>
static __device__ __forceinline__ void put_results(const attn_job &job, const pair_sums<D> &x, const tile &of,
                                                   int group, int most, int pair0, int t) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int pair = pair0 + 8 * r, row = of.first + pair / group;
        float sum = x.sum[r] + __shfl_xor_sync(~0u, x.sum[r], 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        if (row >= of.end || pair >= most || job.step.prompt[row] < 0)
            continue;
        const float inverse = 1.0f / (sum * LIFT);
        const size_t to = ((size_t)of.head * group + pair % group) * D + 2 * t;
#pragma unroll
        for (int n = 0; n < D / 8; n++)
            put_pair(job.out, row, to + 8 * n, x.o[4 * n + 2 * r] * inverse,
                     x.o[4 * n + 2 * r + 1] * inverse);
    }
}

/* WHO: of the consumers; PAIR: a lane's first one in a band. */
template <int D, int BANDS>
static __device__ __forceinline__ void take_tile(consumer<D, BANDS> &c, const attn_job &job, const tile &of,
                                                 int group, int who, int pair, int t) {
    const int pair0 = who * BANDS * 64;
    sync_threads(QUERIES + who, 128); /* the tile before is done */
#pragma unroll
    for (int k = 0; k < BANDS; k++) {
        put_queries<D>(c.queries + k * (D / 64) * PART, job, of.first, of.end, of.head, pair0 + k * 64,
                       group);
        pair_sums<D> &x = c.bands[k].x;
        x.reference[0] = x.reference[1] = NO_SCORE;
        x.sum[0] = x.sum[1] = 0;
#pragma unroll
        for (int i = 0; i < D / 2; i++)
            x.o[i] = 0;
    }
    sync_threads(QUERIES + who, 128);
    int next = of.first;
    for (run r = {}; find_run(job, next, of.end, &r); next = r.end) {
#pragma unroll
        for (int k = 0; k < BANDS; k++) {
            c.bands[k].see = what_is_seen(r, of.first, pair0 + k * 64, group);
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int row = of.first + (pair0 + k * 64 + pair + 8 * i) / group;
                const bool in = row >= r.first && row < r.end;
                c.bands[k].x.position[i] = in ? r.position + row - r.first : -1;
            }
        }
        c.take_steps(job.p, r.page * KV_PAGE, r.last_page - r.page + 1, t);
    }
#pragma unroll
    for (int k = 0; k < BANDS; k++)
        put_results<D>(job, c.bands[k].x, of, group, pairs_of(BANDS) / group * group, pair0 + k * 64 + pair,
                       t);
}

template <int D, int BANDS> static __device__ void consume(const attn_job &job, ring<D> at) {
    const int who = __shfl_sync(~0u, threadIdx.x >> 7, 0); /* so the compiler knows that a warp has one */
    const int lane = threadIdx.x & 31, pair = (threadIdx.x >> 5 & 3) * 16 + (lane >> 2);
    const int group = job.p.n_heads / job.p.n_kv_heads;
    consumer<D, BANDS> c;
    c.at = at;
    c.queries = at.base + ring<D>::queries + who * BANDS * (D / 64) * PART;
    tile of;
    for (int round = 0; find_tile(job, pairs_of(BANDS), round, &of); round++)
        take_tile(c, job, of, group, who, pair, lane & 3);
}

template <int D, int BANDS>
static __global__ void __launch_bounds__(THREADS, 1) attend_prompts_wgmma(attn_job job) {
    extern __shared__ __align__(1024) uint8_t shared[];
    ring<D> at = {shared_address(shared), 0, 0};
    if (threadIdx.x == 0) {
        for (int i = 0; i < ring<D>::slots; i++) {
            barrier_init(at.full() + 8 * i, 128);
            barrier_init(at.empty() + 8 * i, 4 * CONSUMERS);
        }
        for (int i = 0; i < ring<D>::entries; i++)
            barrier_init(at.came(i), 1);
        barrier_fence();
    }
    __syncthreads();
    pdl_wait();
    pdl_go();
    if (threadIdx.x >= CONSUMERS * 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(PRODUCER_REGISTERS));
        produce<D>(job, at, pairs_of(BANDS));
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(CONSUMER_REGISTERS));
        consume<D, BANDS>(job, at);
    }
}

static int tiles_of(const attn_job &job, int bands) {
    const int per_tile = pairs_of(bands) / (job.p.n_heads / job.p.n_kv_heads);
    return (job.n_rows + per_tile - 1) / per_tile * job.p.n_kv_heads;
}

template <int D, int BANDS> static int launch(const cuda_lane *lane, const attn_job &job) {
    const int shared = ring<D>::queries + CONSUMERS * BANDS * (D / 64) * PART;
    cudaError_t status = cudaFuncSetAttribute(attend_prompts_wgmma<D, BANDS>,
                                              cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
    if (status != cudaSuccess)
        return status;
    const int tiles = tiles_of(job, BANDS),
              blocks = lane->n_sms > 0 && lane->n_sms < tiles ? lane->n_sms : tiles;
    return launch_kernel(lane, attend_prompts_wgmma<D, BANDS>, dim3((unsigned)blocks), THREADS, shared, job);
}

/* Two bands a warpgroup, or one: what ends first, where tiles are as long as each other. Two take 1.6 times
 * as long. */
template <int D> static int launch_best(const cuda_lane *lane, const attn_job &job) {
    const int n = lane->n_sms > 0 ? lane->n_sms : 1;
    const int one = (tiles_of(job, 1) + n - 1) / n, two = (tiles_of(job, 2) + n - 1) / n;
    return 8 * two <= 5 * one ? launch<D, 2>(lane, job) : launch<D, 1>(lane, job);
}

extern "C" bool prefill_wgmma_supports(const cuda_lane *lane, const attn_view *p, kv_format format) {
    return lane->wgmma && format == KV_FP8 && p->cap == 0 &&
           (p->head_dim == 64 || p->head_dim == 128 || p->head_dim == 256) &&
           p->n_heads % p->n_kv_heads == 0 && p->n_heads / p->n_kv_heads <= pairs_of(1);
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
    return p->head_dim == 64    ? launch_best<64>(lane, job)
           : p->head_dim == 128 ? launch_best<128>(lane, job)
                                : launch<256, 1>(lane, job);
}
