/* SPDX-License-Identifier: Apache-2.0
 *
 * Prompt attention on Hopper, the half that brings keys and values (prefill_wgmma.cu has the other): the ring
 * in shared memory, and the producer warpgroup.
 *
 * A step is 128 keys of a sequence, two pages. FP8 pages are copied into one of STAGED entries by the copy
 * engine, three ahead, and converted to FP16 (exact) by 128 threads into one of SLOTS: rows of 128 bytes with
 * the 128-byte swizzle, keys as an operand whose k (the dimension) is contiguous, values as one whose n (the
 * dimension) is, so both are stored alike. Not loaded through registers: loads on their way share a
 * scoreboard, so a page that was to come early was waited for at once.
 */
#ifndef CUDA_PREFILL_PAGES_CUH
#define CUDA_PREFILL_PAGES_CUH

#include "cuda/gpu/any/attn.cuh"
#include "gemm/gpu/device.cuh"

constexpr int TILE = 128, STEP = 128, PART = STEP * 128; /* bytes of 64 dimensions of a step */
constexpr int SLOTS = 4, STAGED = 3, SCALES = 4;         /* of keys or values; the same in FP8; steps */
constexpr int CONSUMERS = 2, THREADS = (CONSUMERS + 1) * 128, CONSUMER_REGISTERS = 224,
              PRODUCER_REGISTERS = 56;
static_assert(CONSUMERS * CONSUMER_REGISTERS + PRODUCER_REGISTERS <= (CONSUMERS + 1) * 168,
              "setmaxnreg deals in what the launch reserved");
/* What a lane's weights of a step and pair may sum up to; LIFT in WEIGHT_LIFT's place: a weight times a
 * value's scale stays finite in FP16 where values are below 28,000. */
constexpr float LIMIT = 64, LIFT = 16;
/* Named barriers; 0 is the block's. */
enum { TURN = 1, QUERIES = TURN + CONSUMERS, CONVERTED = QUERIES + CONSUMERS };

__device__ __forceinline__ void sync_threads(int barrier, int n) {
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(n) : "memory");
}

/* Shared memory: queries [64 dimensions][TILE], slots, staged entries, scales, barriers. Slots are filled and
 * left in order: a step's keys, its values, the next step's keys. */
template <int D> struct ring {
    static constexpr int slot_bytes = D / 64 * PART, staged_bytes = STEP * D, scale_bytes = 2 * STEP * 4;
    static constexpr int slots = TILE * D * 2, staged = slots + SLOTS * slot_bytes,
                         scales = staged + STAGED * staged_bytes, barriers = scales + SCALES * scale_bytes,
                         shared = barriers + (2 * SLOTS + STAGED) * 8;
    uint32_t base;
    int slot, phase;

    __device__ __forceinline__ uint32_t data() const {
        return base + slots + slot * slot_bytes;
    }
    __device__ __forceinline__ uint32_t full() const {
        return base + barriers + 8 * slot;
    }
    __device__ __forceinline__ uint32_t empty() const {
        return full() + 8 * SLOTS;
    }
    __device__ __forceinline__ uint32_t staged_at(int entry) const {
        return base + staged + entry * staged_bytes;
    }
    __device__ __forceinline__ uint32_t came(int entry) const {
        return base + barriers + 8 * (2 * SLOTS + entry);
    }
    /* Of a step, counted from the block's first: for each two keys their scales, then their values'. A step's
     * lie there until its weights are made: keys four steps on need a slot that was left after that. */
    __device__ __forceinline__ uint32_t scales_of(int step) const {
        return base + scales + step % SCALES * scale_bytes;
    }
    __device__ __forceinline__ void advance() {
        if (++slot == SLOTS) {
            slot = 0;
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

/* The two pages of a step; past the last one that one again. */
typedef struct page_pair {
    int32_t id[2];
} page_pair;

__device__ __forceinline__ page_pair pages_at(const int32_t *pages, int page, int last_page) {
    return {pages[min(page, last_page)], pages[min(page + 1, last_page)]};
}

__device__ __forceinline__ uint8_t *from_shared(uint32_t address) {
    return (uint8_t *)__cvta_shared_to_generic(address);
}

/* Eight E4M3 as FP16. In PTX, for C's shifts would stay shifts. */
__device__ __forceinline__ void put_eight(uint32_t to, uint32_t lo, uint32_t hi) {
    asm volatile("{.reg .b16 a, b, c, d;\n.reg .b32 x, y, z, w;\n"
                 "mov.b32 {a, b}, %1;\nmov.b32 {c, d}, %2;\n"
                 "cvt.rn.f16x2.e4m3x2 x, a;\ncvt.rn.f16x2.e4m3x2 y, b;\n"
                 "cvt.rn.f16x2.e4m3x2 z, c;\ncvt.rn.f16x2.e4m3x2 w, d;\n"
                 "st.shared.v4.b32 [%0], {x, y, z, w};}" ::"r"(to),
                 "r"(lo), "r"(hi)
                 : "memory");
}

template <int D> struct producer {
    ring<D> at;
    int entry, entry_phase; /* staged, to be converted next */
    int asked;              /* to be asked for next */
    int step;
    float k_scale, v_scale; /* of key T of the next step */

    /* Keys or values of two pages into a staged entry. A warp calls. */
    __device__ __forceinline__ void ask(const attn_job &job, const page_pair &pages, int head, bool keys) {
        const int id0 = __shfl_sync(~0u, pages.id[0], 0), id1 = __shfl_sync(~0u, pages.id[1], 0);
        const size_t bytes = KV_PAGE * D, stride = job.p.n_kv_heads * bytes;
        const uint8_t *from = (const uint8_t *)(keys ? job.kv.k : job.kv.v) + head * bytes;
        if (elected()) {
            barrier_expect(at.came(asked), ring<D>::staged_bytes);
            bulk_copy(at.staged_at(asked), from + id0 * stride, bytes, at.came(asked));
            bulk_copy(at.staged_at(asked) + bytes, from + id1 * stride, bytes, at.came(asked));
        }
        asked = asked + 1 == STAGED ? 0 : asked + 1;
    }

    __device__ __forceinline__ void load_scales(const attn_job &job, const page_pair &pages, int head,
                                                int t) {
        const int page = t < KV_PAGE ? pages.id[0] : pages.id[1];
        const size_t cell = ((size_t)page * job.p.n_kv_heads + head) * KV_PAGE + t % KV_PAGE;
        k_scale = job.kv.k_scales[cell];
        v_scale = job.kv.v_scales[cell];
    }

    /* The next entry into the next slot, 16 bytes a unit. Of eight lanes four take half of a key, four the
     * other half of the next: they read all banks, and write eight different chunks of 16 bytes. */
    __device__ __forceinline__ void convert(int t) {
        constexpr int units = STEP * D / 16 / 128;
        const int m = t & 3, other = t >> 2 & 1;
        auto key = [&](int i) { return (t >> 2) + 32 * (D == 64 ? i : i / 2); };
        auto part = [&](int i) { return D == 64 ? 0 : other ^ (i & 1); };
        barrier_wait(at.came(entry), entry_phase);
        barrier_wait(at.empty(), at.phase);
        uint4 x[units];
#pragma unroll
        for (int i = 0; i < units; i++)
            x[i] = lds128(at.staged_at(entry) + key(i) * D + part(i) * 64 + m * 16);
#pragma unroll
        for (int i = 0; i < units; i++) {
            const uint32_t row = at.data() + part(i) * PART + key(i) * 128;
            put_eight(row + ((2 * m ^ (key(i) & 7)) << 4), x[i].x, x[i].y);
            put_eight(row + (((2 * m + 1) ^ (key(i) & 7)) << 4), x[i].z, x[i].w);
        }
    }

    __device__ __forceinline__ void put_scales(int t) {
        const uint32_t to = at.scales_of(step) + t / 2 * 16 + t % 2 * 4;
        sts32(to, __float_as_uint(k_scale));
        sts32(to + 8, __float_as_uint(v_scale * LIFT));
    }

    /* A sequence's key 0, just put by this warp, loses what the others lack. Its row is not swizzled. */
    __device__ __forceinline__ void take_first_mean(const attn_job &job, int head, int t) {
        if (!job.p.k_mean || t >= 32)
            return;
        __syncwarp();
        take_mean<D>(from_shared(at.data()), PART, (float *)from_shared(at.scales_of(step)),
                     job.p.k_mean + (size_t)head * D, t);
    }

    __device__ __forceinline__ void pass_on() {
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        barrier_arrive(at.full());
        at.advance();
        entry_phase ^= entry + 1 == STAGED;
        entry = entry + 1 == STAGED ? 0 : entry + 1;
        sync_threads(CONVERTED, 128); /* all have read the entry */
    }
};

/* A step's keys, then its values; three such are on their way. */
template <int D>
static __device__ void produce(const attn_job &job, int first, int end, int head, ring<D> at) {
    const int t = threadIdx.x & 127;
    const bool asks = __shfl_sync(~0u, t >> 5, 0) == 0;
    producer<D> p = {at, 0, 0, 0, 0};
    p.at.phase = 1; /* the ring is empty */
    for (run r = {}; find_run(job, first, end, &r); first = r.end) {
        const int32_t *pages = job.step.page_table + job.step.first_page[r.first];
        page_pair now = pages_at(pages, r.page, r.last_page), next = pages_at(pages, r.page + 2, r.last_page);
        p.load_scales(job, now, head, t);
        if (asks) {
            p.ask(job, now, head, true);
            p.ask(job, now, head, false);
            if (r.page + 2 <= r.last_page)
                p.ask(job, next, head, true);
        }
#pragma unroll 1
        for (int page = r.page; page <= r.last_page; page += 2) {
            now = next; /* of the step behind this one */
            next = pages_at(pages, page + 4, r.last_page);
            p.convert(t);
            p.put_scales(t);
            if (page == 0)
                p.take_first_mean(job, head, t);
            p.step++;
            p.load_scales(job, now, head, t);
            p.pass_on();
            if (asks && page + 2 <= r.last_page)
                p.ask(job, now, head, false);
            p.convert(t);
            p.pass_on();
            if (asks && page + 4 <= r.last_page)
                p.ask(job, next, head, true);
        }
    }
}

#endif
