/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention of prompts on Hopper: prefill.cu's work through wgmma, for FP8 pages and head_dim 64 and 128.
 *
 * A block takes 128 (row, query head) pairs of one KV head, as prefill.cu does. Two consumer warpgroups have
 * 64 pairs each: queries (FP16, scaled) and weights are register operands, scores, maxima, sums and O stay in
 * registers. A producer warpgroup brings pages of 64 keys and values: FP8 through registers, two pages ahead,
 * FP16 (exact) into a ring of shared memory, as rows of 128 bytes with the 128-byte swizzle: keys as an
 * operand whose k (the dimension) is contiguous, values as one whose n (the dimension) is, so both are stored
 * alike.
 *
 *   S [64, 64] = Q K^T   D / 16 wgmma m64n64k16;  times the keys' scales, masked; the usual running maximum
 *   O [64, D] += P V     4 wgmma m64nDk16;        P times the values' scales
 *
 * The scores of a page and the weighted sum of the page before it are queued together, and weights are made
 * of the scores while that sum is still on its way. Shared bytes: STAGES (256 D + 512). A page that a
 * warpgroup does not see is passed on unread; only pages on an edge are masked.
 */
#include "cuda/gpu/any/attn.cuh"
#include "gemm/gpu/sm90/wgmma_ops.cuh"

constexpr int TILE = 128, STAGES = 4, PART = KV_PAGE * 128; /* bytes of 64 dimensions of a page */
constexpr int CONSUMERS = 2, THREADS = (CONSUMERS + 1) * 128, CONSUMER_REGISTERS = 200,
              PRODUCER_REGISTERS = 104;
static_assert(CONSUMERS * CONSUMER_REGISTERS + PRODUCER_REGISTERS <= (CONSUMERS + 1) * 168,
              "setmaxnreg deals in what the launch reserved");

/* S = A B^T (+ S), k contiguous in both; O += A B, n contiguous in B. */
template <int ADD> __device__ __forceinline__ void wgmma_keys(float (&d)[32], const uint32_t *a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" GEMM_NUMBERS_64
                 "},{%32,%33,%34,%35},%36,%37,1,1,0;"
                 : GEMM_SUMS_64(d)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(ADD));
}
GEMM_WGMMA(wgmma_values, 64, "k16.f32.f16.f16", ",1", "{%32,%33,%34,%35},%36")
GEMM_WGMMA(wgmma_values, 128, "k16.f32.f16.f16", ",1", "{%64,%65,%66,%67},%68")

/* descriptor_low of values: PART bytes between 64 dimensions and the next. */
__device__ __forceinline__ uint32_t values_low(uint32_t address) {
    return (address & 0x3ffff) >> 4 | (uint32_t)(PART >> 4) << 16;
}

/* Until all but PENDING groups are done: nothing that reads the sums D moves up before the wait. */
template <int PENDING, int N> __device__ __forceinline__ void wait_for(float (&d)[N]) {
    wgmma_wait<PENDING>();
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

template <int D> struct ring {
    static constexpr int page = 2 * (D / 64) * PART; /* bytes: keys, then values */
    static constexpr int scales = STAGES * page, barriers = scales + STAGES * 2 * KV_PAGE * 4;
    static constexpr int shared = barriers + 2 * STAGES * 8;
    uint32_t base;
    int stage, phase;

    __device__ __forceinline__ uint32_t keys() const {
        return base + stage * page;
    }
    __device__ __forceinline__ uint32_t values() const {
        return keys() + page / 2;
    }
    __device__ __forceinline__ uint32_t full() const {
        return base + barriers + 8 * stage;
    }
    __device__ __forceinline__ uint32_t empty() const {
        return full() + 8 * STAGES;
    }
    __device__ __forceinline__ uint32_t scale_at() const {
        return base + scales + stage * 2 * KV_PAGE * 4;
    }
    __device__ __forceinline__ void advance() {
        if (++stage == STAGES) {
            stage = 0;
            phase ^= 1;
        }
    }
};

/* Rows of the batch: the block's [first, end), and of them those of one sequence. */
typedef struct run {
    int first, end, position, page, last_page;
} run;

/* The run at or after row FIRST; false: none before END. Rows that stand alone are decode's. */
__device__ __forceinline__ bool find_run(const attn_job &job, int first, int end, run *r) {
    while (first < end) {
        const int seq = job.step.prompt[first];
        for (r->first = first; first < end && job.step.prompt[first] == seq;)
            first++;
        r->end = first;
        if (seq >= 0) {
            r->position = job.step.positions[r->first];
            r->page = first_key(job.p, r->position) / KV_PAGE;
            r->last_page = (r->position + r->end - r->first - 1) / KV_PAGE;
            return true;
        }
    }
    return false;
}

/* ---- the producer ---- */

__device__ __forceinline__ uint8_t *from_shared(uint32_t address) {
    return (uint8_t *)__cvta_shared_to_generic(address);
}

/* A thread's share of a page: 16-byte units, D / 16 a key. */
template <int D> struct page_share {
    static constexpr int units = KV_PAGE * D / 16 / 128;
    uint4 k[units], v[units];
    float scale; /* of key T, or of value T - 64 */
};

template <int D>
__device__ __forceinline__ void load_share(page_share<D> *x, const attn_job &job, const int32_t *pages,
                                           int page, int head, int t) {
    const size_t cell = cell_of(job, pages, head, page * KV_PAGE);
    const uint4 *k = (const uint4 *)((const uint8_t *)job.kv.k + cell * D);
    const uint4 *v = (const uint4 *)((const uint8_t *)job.kv.v + cell * D);
#pragma unroll
    for (int i = 0; i < page_share<D>::units; i++) {
        x->k[i] = k[t + 128 * i];
        x->v[i] = v[t + 128 * i];
    }
    x->scale = t < KV_PAGE ? job.kv.k_scales[cell + t] : job.kv.v_scales[cell + t - KV_PAGE] * WEIGHT_LIFT;
}

__device__ __forceinline__ void put_eight(uint32_t to, uint32_t lo, uint32_t hi) {
    asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(e4m3x2_to_half2(lo)),
                 "r"(e4m3x2_to_half2(lo >> 16)), "r"(e4m3x2_to_half2(hi)), "r"(e4m3x2_to_half2(hi >> 16))
                 : "memory");
}

/* Unit UNIT of a page at TO: sixteen FP16, two chunks of its row. Eight lanes write eight different chunks.
 */
template <int D> __device__ __forceinline__ void put_unit(uint32_t to, uint4 x, int unit) {
    const int key = unit / (D / 16), m = unit % (D / 16), swap = m >> 2 & 1;
    const uint32_t row = to + m / 4 * PART + key * 128;
    const int first = 2 * (m & 3) + swap;
    put_eight(row + ((first ^ (key & 7)) << 4), swap ? x.z : x.x, swap ? x.w : x.y);
    put_eight(row + ((first ^ 1 ^ (key & 7)) << 4), swap ? x.x : x.z, swap ? x.y : x.w);
}

/* The share X of a page into the ring. */
template <int D> __device__ __forceinline__ void put_share(const page_share<D> &x, ring<D> &at, int t) {
    barrier_wait(at.empty(), at.phase);
#pragma unroll
    for (int i = 0; i < page_share<D>::units; i++) {
        put_unit<D>(at.keys(), x.k[i], t + 128 * i);
        put_unit<D>(at.values(), x.v[i], t + 128 * i);
    }
    asm volatile("st.shared.f32 [%0], %1;" ::"r"(at.scale_at() + 4 * t), "f"(x.scale) : "memory");
}

/* Page 0 of a sequence, which its first warp has put: key 0 loses what the others lack. Its row is not
 * swizzled. */
template <int D>
__device__ __forceinline__ void take_first_mean(const attn_job &job, const ring<D> &at, int head, int t) {
    if (!job.p.k_mean || t >= 32)
        return;
    __syncwarp();
    take_mean<D>(from_shared(at.keys()), PART, (float *)from_shared(at.scale_at()),
                 job.p.k_mean + (size_t)head * D, t);
}

template <int D> __device__ __forceinline__ void pass_on(ring<D> &at) {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
    barrier_arrive(at.full());
    at.advance();
}

/* Two pages are on their way while one is converted. */
template <int D>
static __device__ void produce(const attn_job &job, int first, int end, int head, ring<D> at) {
    const int t = threadIdx.x & 127;
    page_share<D> x[2];
    at.phase = 1; /* the ring is empty */
    for (run r = {}; find_run(job, first, end, &r); first = r.end) {
        const int32_t *pages = job.step.page_table + job.step.first_page[r.first];
        load_share<D>(&x[0], job, pages, r.page, head, t);
        if (r.page < r.last_page)
            load_share<D>(&x[1], job, pages, r.page + 1, head, t);
        for (int page = r.page; page <= r.last_page; page += 2)
#pragma unroll
            for (int i = 0; i < 2; i++)
                if (page + i <= r.last_page) {
                    put_share<D>(x[i], at, t);
                    if (page + i == 0)
                        take_first_mean<D>(job, at, head, t);
                    if (page + i + 2 <= r.last_page)
                        load_share<D>(&x[i], job, pages, page + i + 2, head, t);
                    pass_on<D>(at);
                }
    }
}

/* ---- consumers ---- */

/* A lane's two pairs: g and g + 8 of its warp's sixteen. */
template <int D> struct pair_sums {
    int position[2];                /* -1: not of this run */
    float max[2], sum[2], o[D / 2]; /* o[4 n + 2 r + c]: dimension 8 n + 2 t + c of pair r */
};

/* Queries as A fragments, sixteen dimensions each. */
template <int D>
__device__ __forceinline__ void load_queries(uint32_t *q, const attn_job &job, int first, int end, int head,
                                             int pair, int group, int t) {
    const float factor = job.p.scale * LOG2E;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int row = first + (pair + 8 * r) / group;
        const float *from =
            job.q + (size_t)row * job.q_stride + ((size_t)head * group + (pair + 8 * r) % group) * D + 2 * t;
#pragma unroll
        for (int i = 0; i < D / 8; i++) {
            const float2 v = row < end ? *(const float2 *)(from + 8 * i) : make_float2(0, 0);
            q[i / 2 * 4 + i % 2 * 2 + r] = operand<KV_FP8>::pack(v.x * factor, v.y * factor);
        }
    }
}

/* Scales of columns 8 n + 2 t and the next. */
__device__ __forceinline__ float2 scale_pair(uint32_t at, int n, int t) {
    const uint2 v = lds64(at + 32 * n + 8 * t);
    return make_float2(__uint_as_float(v.x), __uint_as_float(v.y));
}

/* S [2 pairs, 64 keys] becomes weights; maxima and sums follow. KEEP: the factors of what was summed before.
 */
template <int D, bool MASKED>
__device__ __forceinline__ void weigh_page(float (&s)[32], float (&keep)[2], pair_sums<D> *x,
                                           const attn_view &view, int key0, uint32_t scales, int t) {
    float most[2] = {x->max[0], x->max[1]};
#pragma unroll
    for (int n = 0; n < 8; n++) {
        const float2 f = scale_pair(scales, n, t);
#pragma unroll
        for (int r = 0; r < 2; r++)
#pragma unroll
            for (int c = 0; c < 2; c++) {
                float *v = &s[4 * n + 2 * r + c];
                *v *= c ? f.y : f.x;
                if (MASKED) {
                    const int key = key0 + 8 * n + 2 * t + c;
                    *v = key <= x->position[r] && key >= first_key(view, x->position[r]) ? *v : NO_SCORE;
                }
                most[r] = fmaxf(most[r], *v);
            }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        most[r] = fmaxf(most[r], __shfl_xor_sync(~0u, most[r], 1));
        most[r] = fmaxf(most[r], __shfl_xor_sync(~0u, most[r], 2));
        keep[r] = exp2_fast(x->max[r] - most[r]);
        x->max[r] = most[r];
        x->sum[r] *= keep[r];
    }
#pragma unroll
    for (int n = 0; n < 8; n++) {
        const float2 f = scale_pair(scales + KV_PAGE * 4, n, t);
#pragma unroll
        for (int r = 0; r < 2; r++) {
#pragma unroll
            for (int c = 0; c < 2; c++) {
                float *v = &s[4 * n + 2 * r + c];
                const float w = MASKED && *v == NO_SCORE ? 0 : exp2_fast(*v - x->max[r]);
                x->sum[r] += w;
                *v = MASKED && w == 0 ? 0 : w * (c ? f.y : f.x); /* what lies past the end may be anything */
            }
        }
    }
}

/* What a warpgroup needs to know of a run: the positions of its first and last row in it. */
typedef struct seen {
    int least, most; /* least -1: some of the pairs are not of the run; most -1: none is */
} seen;

__device__ __forceinline__ seen what_is_seen(const run &r, int first, int pair, int group) {
    const int from = first + pair / group, to = first + (pair + 63) / group;
    const int lo = max(from, r.first), hi = min(to, r.end - 1);
    if (hi < lo)
        return {-1, -1};
    return {lo == from && hi == to ? r.position + lo - r.first : -1, r.position + hi - r.first};
}

/* A consumer warpgroup between two pages. */
template <int D> struct consumer {
    uint32_t q[D / 4], p[16];
    pair_sums<D> x;
    ring<D> at, before; /* the page whose scores come next; the one whose weights P holds */

    __device__ __forceinline__ void queue_scores(float (&s)[32]) {
        const uint32_t low = descriptor_low(at.keys());
        wgmma_keys<0>(s, q, descriptor_at(low));
#pragma unroll
        for (int i = 1; i < D / 16; i++)
            wgmma_keys<1>(s, q + 4 * i, descriptor_at(low + (i / 4 * PART + i % 4 * 32) / 16));
        wgmma_commit();
    }

    __device__ __forceinline__ void queue_sums() {
        const uint32_t low = values_low(before.values());
#pragma unroll
        for (int i = 0; i < KV_PAGE / 16; i++)
            wgmma_values(x.o, p + 4 * i, descriptor_at(low + i * 16 * 128 / 16));
        wgmma_commit();
    }

    __device__ __forceinline__ void weigh(float (&s)[32], float (&keep)[2], const attn_view &view,
                                          const seen &see, int key0, int t) {
        if (key0 + KV_PAGE - 1 <= see.least && key0 >= first_key(view, see.most))
            weigh_page<D, false>(s, keep, &x, view, key0, at.scale_at(), t);
        else
            weigh_page<D, true>(s, keep, &x, view, key0, at.scale_at(), t);
    }

    /* No group is under way: an operand may not be written before. */
    __device__ __forceinline__ void take_weights(const float (&s)[32], const float (&keep)[2]) {
#pragma unroll
        for (int i = 0; i < 16; i++)
            p[i] = operand<KV_FP8>::pack(s[2 * i], s[2 * i + 1]);
        if (__any_sync(~0u, keep[0] != 1 || keep[1] != 1)) { /* seldom, after the first pages */
#pragma unroll
            for (int i = 0; i < D / 2; i++)
                x.o[i] *= keep[i / 2 % 2];
        }
    }

    __device__ __forceinline__ void leave(const ring<D> &page) {
        if ((threadIdx.x & 31) == 0)
            barrier_arrive(page.empty());
    }

    /* N pages from position KEY0 on, the first of which is there to be waited for. */
    __device__ __forceinline__ void take_pages(const attn_view &view, const seen &see, int key0, int n,
                                               int t) {
        float s[32], keep[2];
        barrier_wait(at.full(), at.phase);
        wgmma_fence();
        queue_scores(s);
        wait_for<0>(s);
        weigh(s, keep, view, see, key0, t);
        take_weights(s, keep);
#pragma unroll 1
        for (int i = 1; i < n; i++) {
            before = at;
            at.advance();
            barrier_wait(at.full(), at.phase);
            wgmma_fence();
            queue_scores(s);
            queue_sums();
            wait_for<1>(s);
            weigh(s, keep, view, see, key0 + i * KV_PAGE, t);
            wait_for<0>(x.o);
            leave(before);
            take_weights(s, keep);
        }
        before = at;
        at.advance();
        wgmma_fence();
        queue_sums();
        wait_for<0>(x.o);
        leave(before);
    }
};

template <int D>
static __device__ void consume(const attn_job &job, int first, int end, int head, int group, int per_tile,
                               ring<D> at) {
    const int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3, of_group = (threadIdx.x >> 7) * 64;
    const int pair = of_group + (threadIdx.x >> 5 & 3) * 16 + g;
    consumer<D> c;
    c.at = at;
    load_queries<D>(c.q, job, first, end, head, pair, group, t);
    pair_sums<D> &x = c.x;
#pragma unroll
    for (int i = 0; i < D / 2; i++)
        x.o[i] = 0;
    x.max[0] = x.max[1] = NO_SCORE;
    x.sum[0] = x.sum[1] = 0;
    int next = first;
    for (run r = {}; find_run(job, next, end, &r); next = r.end) {
        const seen see = what_is_seen(r, first, of_group, group);
        const int n = see.most < 0 ? 0 : min(r.last_page, see.most / KV_PAGE) - r.page + 1;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int row = first + (pair + 8 * i) / group;
            x.position[i] = row >= r.first && row < r.end ? r.position + row - r.first : -1;
        }
        if (n > 0)
            c.take_pages(job.p, see, r.page * KV_PAGE, n, t);
        for (int page = r.page + n; page <= r.last_page; page++) { /* not seen by this warpgroup */
            barrier_wait(c.at.full(), c.at.phase);
            c.leave(c.at);
            c.at.advance();
        }
    }
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const int of_pair = pair + 8 * r, row = first + of_pair / group;
        float sum = x.sum[r] + __shfl_xor_sync(~0u, x.sum[r], 1);
        sum += __shfl_xor_sync(~0u, sum, 2);
        if (row >= end || of_pair >= per_tile * group || job.step.prompt[row] < 0)
            continue;
        const float inverse = 1.0f / (sum * WEIGHT_LIFT);
        const size_t to = ((size_t)head * group + of_pair % group) * D + 2 * t;
#pragma unroll
        for (int n = 0; n < D / 8; n++)
            put_pair(job.out, row, to + 8 * n, x.o[4 * n + 2 * r] * inverse,
                     x.o[4 * n + 2 * r + 1] * inverse);
    }
}

template <int D> static __global__ void __launch_bounds__(THREADS, 1) attend_prompts_wgmma(attn_job job) {
    extern __shared__ __align__(1024) uint8_t shared[];
    const int group = job.p.n_heads / job.p.n_kv_heads, per_tile = TILE / group;
    const int tile = gridDim.x - 1 - blockIdx.x,
              head = blockIdx.y; /* late tiles, which are the long ones, first */
    const int first = tile * per_tile, end = min(job.n_rows, first + per_tile);
    ring<D> at = {shared_address(shared), 0, 0};
    if (threadIdx.x == 0) {
        for (at.stage = 0; at.stage < STAGES; at.stage++) {
            barrier_init(at.full(), 128);
            barrier_init(at.empty(), 4 * CONSUMERS);
        }
        barrier_fence();
        at.stage = 0;
    }
    __syncthreads();
    pdl_wait();
    pdl_go();
    if (threadIdx.x >= CONSUMERS * 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(PRODUCER_REGISTERS));
        produce<D>(job, first, end, head, at);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(CONSUMER_REGISTERS));
        consume<D>(job, first, end, head, group, per_tile, at);
    }
}

template <int D> static int launch(const cuda_lane *lane, const attn_job &job) {
    const int per_tile = TILE / (job.p.n_heads / job.p.n_kv_heads);
    cudaError_t status = cudaFuncSetAttribute(attend_prompts_wgmma<D>,
                                              cudaFuncAttributeMaxDynamicSharedMemorySize, ring<D>::shared);
    if (status != cudaSuccess)
        return status;
    dim3 grid((unsigned)((job.n_rows + per_tile - 1) / per_tile), (unsigned)job.p.n_kv_heads);
    return launch_kernel(lane, attend_prompts_wgmma<D>, grid, THREADS, ring<D>::shared, job);
}

extern "C" bool prefill_wgmma_supports(const cuda_lane *lane, const attn_view *p, kv_format format) {
    return lane->wgmma && format == KV_FP8 && p->cap == 0 && (p->head_dim == 64 || p->head_dim == 128) &&
           p->n_heads % p->n_kv_heads == 0 && p->n_heads / p->n_kv_heads <= TILE;
}

extern "C" int prefill_wgmma_launch(const cuda_lane *lane, act_view out, const float *q, size_t q_stride,
                                    const attn_view *p, const kv_view *kv, const step_view *step,
                                    int n_rows) {
    attn_job job = {out, q, q_stride, *p, *kv, *step, n_rows, NULL, 1, {}};
    return p->head_dim == 64 ? launch<64>(lane, job) : launch<128>(lane, job);
}
