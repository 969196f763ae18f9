/* SPDX-License-Identifier: Apache-2.0
 *
 * Prompt attention on Hopper, the half that brings keys and values (prefill_wgmma.cu has the other): the ring
 * in shared memory, and the producer warpgroup.
 *
 * A step is a page, 64 keys of a sequence. FP8 pages are copied into a staged entry by the copy
 * engine, one or two steps ahead, and converted by 128 threads into a slot: FP16, times their scales, rows of
 * 128 bytes with the 128-byte swizzle, keys as an operand whose k (the dimension) is contiguous, values as
 * one whose n (the dimension) is, so both are stored alike. Not loaded through registers: loads on their way
 * share a scoreboard, so a page that was to come early was waited for at once.
 *
 * Scales are FP16 here: a key's was stored with as many bits as that has (heads.cuh), for an error of it is
 * one of its whole score; what FP16 leaves of a checkpoint's own one is multiplied into the queries.
 */
#ifndef CUDA_PREFILL_PAGES_CUH
#define CUDA_PREFILL_PAGES_CUH

#include "cuda/gpu/any/attn.cuh"
#include "gemm/gpu/device.cuh"

constexpr int STEP = KV_PAGE, PART = STEP * 128; /* bytes of 64 dimensions of a step */
constexpr int CONSUMERS = 2, THREADS = (CONSUMERS + 1) * 128, CONSUMER_REGISTERS = 224,
              PRODUCER_REGISTERS = 56;
static_assert(CONSUMERS * CONSUMER_REGISTERS + PRODUCER_REGISTERS <= (CONSUMERS + 1) * 168,
              "setmaxnreg deals in what the launch reserved");
/* Weights are made against references BELOW the largest score, in powers of two, and stand in FP16:
 * references move where a lane's weights of a step and pair sum up to more than LIMIT. Values are LIFT times
 * as large as they are; below 16,000 they are finite. */
constexpr float BELOW = 4, LIMIT = 1024, LIFT = 4;
/* Named barriers; 0 is the block's. */
enum { QUERIES = 1, CONVERTED = QUERIES + CONSUMERS };

__device__ __forceinline__ void sync_threads(int barrier, int n) {
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(n) : "memory");
}

/* Shared memory: slots, staged entries, barriers; queries behind. Slots are filled and left in order: a
 * step's keys, its values, the next step's keys. */
template <int D> struct ring {
    static constexpr int slots = D <= 128 ? 6 : 4, /* of keys (the even ones) or values */
        entries = D <= 128 ? 4 : 2;                /* the same in FP8 */
    static constexpr int slot_bytes = D / 64 * PART, staged_bytes = STEP * D;
    static constexpr int staged = slots * slot_bytes, barriers = staged + entries * staged_bytes,
                         queries = barriers + 1024;
    static_assert((2 * slots + entries) * 8 <= 1024 && barriers % 1024 == 0, "queries are swizzled");
    uint32_t base;
    int slot, phase;

    __device__ __forceinline__ uint32_t data() const {
        return base + slot * slot_bytes;
    }
    __device__ __forceinline__ uint32_t full() const {
        return base + barriers + 8 * slot;
    }
    __device__ __forceinline__ uint32_t empty() const {
        return full() + 8 * slots;
    }
    __device__ __forceinline__ uint32_t staged_at(int entry) const {
        return base + staged + entry * staged_bytes;
    }
    __device__ __forceinline__ uint32_t came(int entry) const {
        return base + barriers + 8 * (2 * slots + entry);
    }
    __device__ __forceinline__ ring values() const { /* of these keys */
        return {base, slot + 1, phase};
    }
    __device__ __forceinline__ void advance() {
        if (++slot == slots) {
            slot = 0;
            phase ^= 1;
        }
    }
};

/* Rows of the batch: the block's [first, end), and of them those of one sequence. */
typedef struct run {
    int first, end, position, last, page, last_page;
} run;

/* A block's tiles: late ones, which are the long ones, first, of all heads; there and back again, so that all
 * blocks have about as much. PAIRS: of a tile. */
typedef struct tile {
    int first, end, head;
} tile;

__device__ __forceinline__ bool find_tile(const attn_job &job, int pairs, int round, tile *of) {
    const int per_tile = pairs / (job.p.n_heads / job.p.n_kv_heads), heads = job.p.n_kv_heads,
              n_tiles = (job.n_rows + per_tile - 1) / per_tile;
    const int i = round * gridDim.x + (round & 1 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
    if (i >= n_tiles * heads)
        return false;
    of->head = i % heads;
    of->first = (n_tiles - 1 - i / heads) * per_tile;
    of->end = min(job.n_rows, of->first + per_tile);
    return true;
}

/* The run at or after row FIRST; false: none before END. Rows that stand alone are decode's. */
__device__ __forceinline__ bool find_run(const attn_job &job, int first, int end, run *r) {
    while (first < end) {
        const int seq = job.step.prompt[first];
        r->first = first;
        if (seq >= 0 && job.step.prompt[end - 1] == seq) /* a sequence's rows are neighbours */
            first = end;
        while (first < end && job.step.prompt[first] == seq)
            first++;
        r->end = first;
        if (seq >= 0) {
            r->position = job.step.positions[r->first];
            r->page = first_key(job.p, r->position) / KV_PAGE;
            r->last = r->position + r->end - r->first - 1;
            r->last_page = r->last / KV_PAGE;
            return true;
        }
    }
    return false;
}

__device__ __forceinline__ uint8_t *from_shared(uint32_t address) {
    return (uint8_t *)__cvta_shared_to_generic(address);
}

/* Two E4M3 times a scale (FP16, twice) as FP16. */
__device__ __forceinline__ uint32_t scaled(uint16_t codes, uint32_t scale) {
    uint32_t x;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(x) : "r"(e4m3x2_to_half2(codes)), "r"(scale));
    return x;
}

__device__ __forceinline__ void put_eight(uint32_t to, uint32_t lo, uint32_t hi, uint32_t scale) {
    uint16_t c[4]; /* in PTX, for C's shifts would stay shifts */
    asm("mov.b32 {%0, %1}, %2;" : "=h"(c[0]), "=h"(c[1]) : "r"(lo));
    asm("mov.b32 {%0, %1}, %2;" : "=h"(c[2]), "=h"(c[3]) : "r"(hi));
    asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(scaled(c[0], scale)),
                 "r"(scaled(c[1], scale)), "r"(scaled(c[2], scale)), "r"(scaled(c[3], scale))
                 : "memory");
}

template <int D> struct producer {
    static constexpr int entries = ring<D>::entries;
    ring<D> at;
    int entry, entry_phase;                       /* staged, to be converted next */
    int asked;                                    /* to be asked for next: keys, and values behind */
    float k_scale[STEP / 32], v_scale[STEP / 32]; /* of keys t / 4 + 32 i of the next step */

    /* Half (0: keys, 1: values) of a page into the next staged entry, which all have read, by a WARP of its
     * own: it waits behind a copy. */
    __device__ __forceinline__ void ask(const attn_job &job, int half, int page, int head, int warp) {
        const uint32_t bytes = KV_PAGE * D;
        const uint8_t *from = (const uint8_t *)(half ? job.kv.v : job.kv.k);
        page = __shfl_sync(~0u, page, 0);
        if (warp == half && elected()) {
            barrier_expect(at.came(asked), bytes);
            bulk_copy(at.staged_at(asked), from + ((size_t)page * job.p.n_kv_heads + head) * bytes, bytes,
                      at.came(asked));
        }
        asked = asked + 1 == entries ? 0 : asked + 1;
    }

    __device__ __forceinline__ void load_scales(const attn_job &job, int page, int head, int t) {
        const size_t cell = ((size_t)page * job.p.n_kv_heads + head) * KV_PAGE + t / 4;
#pragma unroll
        for (int i = 0; i < STEP / 32; i++) {
            k_scale[i] = job.kv.k_scales[cell + 32 * i];
            v_scale[i] = job.kv.v_scales[cell + 32 * i];
        }
    }

    /* What lies past the LAST position may be anything; a value that is no number is told by its key, for all
     * weights meet all values, and only scores are masked. KEY0: of the step. */
    __device__ __forceinline__ void make_scales(uint32_t (&k)[STEP / 32], uint32_t (&v)[STEP / 32], int key0,
                                                int last, int t) const {
#pragma unroll
        for (int i = 0; i < STEP / 32; i++) {
            const bool there = key0 + t / 4 + 32 * i <= last, sound = v_scale[i] == v_scale[i];
            const float ks = there ? (sound ? k_scale[i] : v_scale[i]) : 0,
                        vs = there && sound ? v_scale[i] * LIFT : 0;
            k[i] = operand<KV_FP8>::pack(ks, ks);
            v[i] = operand<KV_FP8>::pack(vs, vs);
        }
    }

    /* The next entry into the next slot, 16 bytes a unit. Of eight lanes four take half of a key, four the
     * other half of the next: they read all banks, and write eight different chunks of 16 bytes. */
    __device__ __forceinline__ void convert(const uint32_t (&scales)[STEP / 32], int t) {
        constexpr int parts = D / 64, units = STEP * D / 16 / 128, at_once = units < 4 ? units : 4;
        const int key = t >> 2, m = t & 3;
        const uint32_t from = at.staged_at(entry) + key * D + m * 16,
                       to = at.data() + key * 128 + ((2 * m ^ (key & 7)) << 4);
        barrier_wait(at.came(entry), entry_phase);
        barrier_wait(at.empty(), at.phase);
#pragma unroll
        for (int first = 0; first < units; first += at_once) {
            uint4 x[at_once];
#pragma unroll
            for (int i = 0; i < at_once; i++)
                x[i] = lds128(from + (key ^ (first + i)) % parts * 64 + (first + i) / parts * 32 * D);
#pragma unroll
            for (int i = 0; i < at_once; i++) {
                const int unit = first + i, on = (key ^ unit) % parts * PART + unit / parts * 32 * 128;
                put_eight(to + on, x[i].x, x[i].y, scales[unit / parts]);
                put_eight((to ^ 16) + on, x[i].z, x[i].w, scales[unit / parts]);
            }
        }
    }

    /* A sequence's key 0, just put by this warp, loses what the others lack. Its row is not swizzled. */
    __device__ __forceinline__ void take_first_mean(const attn_job &job, int head, int t) {
        if (!job.p.k_mean || t >= 32)
            return;
        __syncwarp();
        for (int i = t; i < D; i += 32) {
            __half *x = (__half *)from_shared(at.data() + i / 64 * PART) + i % 64;
            *x = __float2half_rn(__half2float(*x) - job.p.k_mean[head * D + i]);
        }
    }

    __device__ __forceinline__ void pass_on() {
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        barrier_arrive(at.full());
        at.advance();
        entry_phase ^= entry + 1 == entries;
        entry = entry + 1 == entries ? 0 : entry + 1;
        sync_threads(CONVERTED, 128); /* all have read the entry */
    }
};

/* A step's keys, then its values; those of the step behind it are on their way. */
template <int D>
static __device__ __forceinline__ void produce_run(producer<D> &p, const attn_job &job, const run &r,
                                                   int head, int t, int warp) {
    const int32_t *pages = job.step.page_table + job.step.first_page[r.first];
    constexpr int ahead = ring<D>::entries / 2; /* pages */
    int ids[ahead + 1];                         /* of PAGE and those behind it */
#pragma unroll
    for (int i = 0; i <= ahead; i++)
        ids[i] = pages[min(r.page + i, r.last_page)];
    p.load_scales(job, ids[0], head, t);
#pragma unroll
    for (int i = 0; i < ahead; i++)
        for (int half = 0; half < 2 && r.page + i <= r.last_page; half++)
            p.ask(job, half, ids[i], head, warp);
#pragma unroll 1
    for (int page = r.page; page <= r.last_page; page++) {
        uint32_t k[STEP / 32], v[STEP / 32];
        p.make_scales(k, v, page * KV_PAGE, r.last, t);
        p.load_scales(job, ids[1], head, t);
        const int behind = pages[min(page + ahead + 1, r.last_page)];
        const bool more = page + ahead <= r.last_page;
        p.convert(k, t);
        if (page == 0)
            p.take_first_mean(job, head, t);
        p.pass_on();
        if (more)
            p.ask(job, 0, ids[ahead], head, warp);
        p.convert(v, t);
        p.pass_on();
        if (more)
            p.ask(job, 1, ids[ahead], head, warp);
#pragma unroll
        for (int i = 0; i < ahead; i++)
            ids[i] = ids[i + 1];
        ids[ahead] = behind;
    }
}

template <int D> static __device__ void produce(const attn_job &job, ring<D> at, int pairs) {
    const int t = threadIdx.x & 127, warp = __shfl_sync(~0u, t >> 5, 0);
    producer<D> p = {at, 0, 0, 0};
    p.at.phase = 1; /* the ring is empty */
    tile of;
    for (int round = 0; find_tile(job, pairs, round, &of); round++)
        for (run r = {}; find_run(job, of.first, of.end, &r); of.first = r.end)
            produce_run(p, job, r, of.head, t, warp);
}

#endif
