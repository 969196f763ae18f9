/* SPDX-License-Identifier: Apache-2.0
 *
 * Hopper, from 17 tokens on (W4A8: from 1): weights are the register operand of wgmma, decoded while the wgmma of
 * the stage before run. A tile is ROWS x TOKENS, token tiles in groups of 8; who computes what is in runs.cuh.
 *
 * A block: two consumer warpgroups, 64 rows each, and a producer warp. Up to 128 tokens it leaves a quarter of the registers
 * free: there the next product's preparation has its place while this one ends, and this block's successor starts at once.
 * Of 64 or 128 tokens there are tiles of 192 rows, too, by three warpgroups: fewer bytes of tokens, more warps, other numbers of tiles.
 * In a cluster that shares K, up to 64 tokens, there are two such pairs, which take the stages in turn and merge their sums.
 * A stage is 128 k: 72 B of packed weights a row by one tensor copy (a map over 8-byte elements, box 144 x 8 or 12 row
 * tiles) and the tokens by one (E4M3) or two (BF16), with the 128-byte swizzle. What a loop needs is uniform over a
 * warp and known to be (__shfl_sync), so that addresses and descriptors stay in uniform registers.
 *
 * W4A8: each byte is rn_e4m3(magnitude * scale / 8) from a table of 127 x 8 B; sums * 8. W4A16: w * s * 2^-17.
 * Stores: a lane owns 4 consecutive rows of a token (the tile's rows are permuted for it): full sectors.
 * GATED: a tile is half of it rows of the gate and half their twins of up; one warp's sums go to the other's, and what the unit
 * makes of both is stored as the next product reads it.
 * Measured, and what lost: docs/gpu/wgmma.md.
 */
#ifndef GEMM_WGMMA_CUH
#define GEMM_WGMMA_CUH

#include "gemm/gpu/fold.cuh"
#include "gemm/gpu/gated.cuh"
#include "gemm/gpu/sm90/cluster.cuh"
#include "gemm/gpu/sm90/operand.cuh"
#include "gemm/gpu/sm90/runs.cuh"
#include "gemm/gpu/sm90/store.cuh"
#include "gemm/gpu/sm90/tensor_map.cuh"

#define MIN_STAGES  4   /* of a block's run */
#define MOST_HALVES 891 /* stages whose sums, of 336 * 448 each at most, are finite as halves (pack_sums) */

/* CLUSTERS: blocks of a cluster share a tile, and what they send needs room */
template <bool E4M3, int TOKENS, int ROWS, bool CLUSTERS, bool GATED> struct wgmma_plan {
    static const int token_bytes = TOKENS * 128 * (E4M3 ? 1 : 2);
    static const int row_tiles = ROWS / GEMM_ROW_TILE, weight_bytes = row_tiles * GEMM_GROUP_BYTES;
    static const int weight_room = (weight_bytes + 1023) / 1024 * 1024; /* where tokens begin: the swizzle wants it */
    static const int stage = weight_room + token_bytes;
    static const int pairs = CLUSTERS && TOKENS <= 64 && ROWS == 128 ? 2 : 1; /* of warpgroups: each takes every PAIRS-th stage */
    static const int warpgroups = ROWS / 64 * pairs;            /* that consume */
    static const int mine = TOKENS / pairs;                     /* tokens whose sums a pair ends up with */
    static const int most_ranks = TOKENS == 64 || ROWS == 192 ? 4 : TOKENS <= 128 ? 2 : 1; /* of a cluster */
    static const int tile_bytes = ROWS * TOKENS * 4;
    /* from the other blocks; of three that share four units a warp the last one adds nothing, and the first two half each */
    static const int received = !CLUSTERS ? 0 : ROWS == 192 ? tile_bytes / 4 * 3 : most_ranks == 4 ? tile_bytes : tile_bytes / 2;
    static const int merged = pairs > 1 ? tile_bytes : 0; /* what the pairs hand to each other */
    static const int exchanged = GATED ? 128 * warpgroups * 16 : 0; /* gate's sums for up's, 16 bytes a thread at a time */
    static const int extra = 1024 /* table */ + 256 /* barriers */ + 2 * TOKENS * 4 /* token scales */ + received + merged + exchanged;
    static const int fit = (227 * 1024 - extra) / stage;
    static const int stages = fit > 8 ? 8 : fit;
    /* else both pairs would wait at a stage's barrier, and who is two uses ahead takes the parity of the one before for its own */
    static_assert(stages % pairs == 0, "a stage belongs to one pair");
    static const int shared = stages * stage + extra;
    static const int consumers = 128 * warpgroups, threads = consumers + 128;
    /* a thread's registers: of the launch, by the bound that the compiler is given, and as setmaxnreg deals them out */
    static const int bound = warpgroups == 4 || TOKENS == 256 ? threads : 512;
    static const int launch_registers = warpgroups == 4 ? 96 : TOKENS == 256 ? 168 : 128;
    static const int consumer_registers = warpgroups == 4 ? 112 : warpgroups == 3 ? 160 : TOKENS == 256 ? 232 : 168;
    static const int producer_registers = warpgroups > 2 ? 32 : 40;
    static_assert(warpgroups * consumer_registers + producer_registers <= (warpgroups + 1) * launch_registers,
                  "setmaxnreg would wait for ever");
};

/* The sums D of 16 rows x TOKENS, 8 tokens (a unit) after another: d[4 j ..] = (row r0: tokens 8 j + 2 t, + 1), (row r1: the
 * same). Token scales are in shared memory. Of a cluster's RANKS blocks (1: no cluster) each stores its share of the units and adds what
 * the others sent of them, in the order of ranks. What is here is executed once a tile, by all warps at a time: constants, no branches. */
template <bool E4M3, int TOKENS, int WARPS, int RANKS> struct tile_store {
    static const int units = TOKENS / 8, share = (units + RANKS - 1) / RANKS;
    static const int batch = share % 4 == 0 ? 4 : share % 3 == 0 ? 3 : share;
    int rank, warp;             /* of the cluster; of the block */
    uint32_t received, arrived; /* [other ranks][WARPS][share] of 512 bytes, and their barrier */

    GEMM_DEV void send_others(const float (&d)[TOKENS / 2]) const {
#pragma unroll
        for (int to = 0; to < RANKS; to++) {
            if (to == rank)
                continue;
            const int slot = rank - (rank > to);
            const uint32_t at = in_block(received + (slot * WARPS + warp) * share * 512 + (threadIdx.x & 31) * 16, to);
            const uint32_t bar = in_block(arrived, to);
#pragma unroll
            for (int j = 0; j < share && to * share + j < units; j++)
                send(at + j * 512, bar, d + 4 * (to * share + j));
        }
    }

    GEMM_DEV void take_own(const float (&d)[TOKENS / 2], float (&own)[4 * share]) const {
#pragma unroll
        for (int i = 0; i < 4 * share; i++) {
            own[i] = d[i];
#pragma unroll
            for (int r = 1; r < RANKS; r++)
                if (4 * share * r + i < TOKENS / 2)
                    own[i] = rank == r ? d[4 * share * r + i] : own[i];
        }
    }

    GEMM_DEV float4 sum(int j, const float *own) const {
        if (RANKS == 1)
            return make_float4(own[0], own[1], own[2], own[3]);
        const uint32_t at = received + (warp * share + j) * 512 + (threadIdx.x & 31) * 16;
        float4 all = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        uint4 w[RANKS];
#pragma unroll
        for (int r = 0; r < RANKS - 1; r++)
            w[r] = lds128(at + r * WARPS * share * 512);
#pragma unroll
        for (int r = 0; r < RANKS; r++) {
            if (r == rank)
                all.x += own[0], all.y += own[1], all.z += own[2], all.w += own[3];
            if (r < RANKS - 1)
                all.x += __uint_as_float(w[r].x), all.y += __uint_as_float(w[r].y), all.z += __uint_as_float(w[r].z),
                    all.w += __uint_as_float(w[r].w);
        }
        return all;
    }

    template <bool PLAIN>
    GEMM_DEV void store_share(const gemm_out &o, int m, int token, int row, const float (&own)[4 * share], uint32_t scales,
                              float factor) const {
#pragma unroll
        for (int jb = 0; jb < share; jb += batch) {
            float4 v[batch];
#pragma unroll
            for (int j = 0; j < batch; j++) {
                float x = factor, y = factor;
                if (E4M3) {
                    const uint2 s = lds64(scales + ((jb + j) * 8 + 2 * (threadIdx.x & 3)) * 4);
                    x *= __uint_as_float(s.x), y *= __uint_as_float(s.y);
                }
                v[j] = sum(jb + j, own + 4 * (jb + j));
                v[j].x *= x, v[j].y *= y, v[j].z *= x, v[j].w *= y;
            }
            if (PLAIN)
                store_plain_bf16(o, m, token + jb * 8, row, v);
            else
                store_fragments(o, m, token + jb * 8, row, v);
        }
    }

    /* Of tokens below M. */
    GEMM_DEV void store(const gemm_out &o, int m, int token, int row, const float (&d)[TOKENS / 2], uint32_t scales, float factor) const {
        float own[4 * share];
        take_own(d, own);
        m = min(m, token + TOKENS); /* the last rank's share may be less */
        token += rank * share * 8, scales += rank * share * 32;
        if (o.type == NIB_GEMM_BF16 && !o.c && !o.bias)
            store_share<true>(o, m, token, row, own, scales, factor);
        else
            store_share<false>(o, m, token, row, own, scales, factor);
    }
};

/* F of the number of a cluster's blocks, as a constant. */
template <int RANKS> struct constant_ranks {
    static const int n = RANKS;
};
template <int MOST, class F> GEMM_DEV void with_ranks(int ranks, const F &f) {
    if (MOST >= 4 && ranks == 4)
        f(constant_ranks<4>());
    else if (MOST >= 4 && ranks == 3)
        f(constant_ranks<3>());
    else
        f(constant_ranks<2>());
}

/* barrier_wait by a whole warp. The vote tells the compiler that all lanes leave together: behind a branch of each lane's own it would
 * keep the descriptors in vector registers, two instructions to move each. */
GEMM_DEV void warp_waits(uint32_t bar, uint32_t phase) {
    uint32_t over;
    do
        asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p,[%1],%2;\nselp.b32 %0,1,0,p;\n}"
                     : "=r"(over)
                     : "r"(bar), "r"(phase)
                     : "memory");
    while (!__all_sync(~0u, over));
}

/* The sums of one tile over COUNT stages. STAGE and PHASE: of the next one. */
template <bool E4M3, int TOKENS, int ROWS, bool CLUSTERS, bool GATED> struct consumer {
    using plan = wgmma_plan<E4M3, TOKENS, ROWS, CLUSTERS, GATED>;
    uint32_t lane16, scales;    /* this lane's of the first stage */
    uint32_t tokens;            /* descriptor_low of the first stage's */
    uint32_t full, empty;
    const uint2 *lut;
    int stage, phase;

    GEMM_DEV int advance() { /* returns the stage that is left */
        const int s = stage;
        stage += plan::pairs;
        if (stage >= plan::stages) {
            stage -= plan::stages;
            phase ^= 1;
        }
        return s;
    }

    GEMM_DEV void free_stage(int s) { /* a warp each */
        if ((threadIdx.x & 31) == 0)
            barrier_arrive(empty + 8 * s);
    }

    GEMM_DEV void issue(float (&d)[TOKENS / 2], const uint32_t *a, int chunk) { /* four wgmma of the stage; CHUNK: of BF16's two */
        const uint32_t b = tokens + stage * (plan::stage >> 4) + chunk * (TOKENS * 128 >> 4);
        wgmma_fence();
#pragma unroll
        for (int j = 0; j < 4; j++)
            if (E4M3)
                wgmma_e4m3(d, a + 4 * j, descriptor_at(b + 2 * j));
            else
                wgmma_bf16(d, a + 4 * j, descriptor_at(b + 2 * j));
        wgmma_commit();
    }

    GEMM_DEV void convert_e4m3(uint32_t *a) {
        raw_e4m3 raw;
        raw.load(lane16 + stage * plan::stage, scales + stage * plan::stage, lut);
#pragma unroll
        for (int j = 0; j < 4; j++)
            raw.step(j, a + 4 * j);
    }

    /* The operands of a run's first stage, when its weights are there (BAR); its tokens may still be on their way. */
    GEMM_DEV void begin(uint32_t *a, uint32_t bar) {
        warp_waits(bar, phase);
        if (E4M3)
            convert_e4m3(a);
        else
            convert_half(a, 0);
    }

    /* A stage is converted while the wgmma of the one before run: so two sets of operands, used in turn. */
    GEMM_DEV void sum_e4m3(float (&d)[TOKENS / 2], uint32_t (&a0)[16], int count) {
        uint32_t a1[16];
        int last = 0, before = 0;
        warp_waits(full + 8 * stage, phase);
#pragma unroll 1
        for (int k = 0;; k += 2) {
            issue(d, a0, 0);
            last = advance();
            wgmma_wait<1>();
            if (k > 0)
                free_stage(before);
            if (k + 1 == count)
                break;
            warp_waits(full + 8 * stage, phase);
            convert_e4m3(a1);
            issue(d, a1, 0);
            before = advance();
            wgmma_wait<1>();
            free_stage(last);
            last = before;
            if (k + 2 == count)
                break;
            warp_waits(full + 8 * stage, phase);
            convert_e4m3(a0);
        }
        wgmma_wait<0>();
        free_stage(last);
    }

    /* A0: what begin made. */
    GEMM_DEV void sum(float (&d)[TOKENS / 2], uint32_t (&a0)[16], int count) {
        stage = __reduce_max_sync(~0u, stage), count = __reduce_max_sync(~0u, count); /* as they are, in uniform registers */
        if (E4M3)
            sum_e4m3(d, a0, count);
        else
            sum_bf16(d, a0, count);
    }

    GEMM_DEV void convert_half(uint32_t *a, int h) {
        convert_bf16(lds128(lane16 + stage * plan::stage + h * 512), lds32(scales + stage * plan::stage), h, a);
    }

    GEMM_DEV void sum_bf16(float (&d)[TOKENS / 2], uint32_t (&a0)[16], int count) {
        uint32_t a1[16];
        int before = -1;
        warp_waits(full + 8 * stage, phase);
#pragma unroll 1
        for (int k = 0; k < count; k++) {
            issue(d, a0, 0);
            wgmma_wait<1>();
            if (before >= 0)
                free_stage(before);
            convert_half(a1, 1);
            issue(d, a1, 1);
            wgmma_wait<1>();
            before = advance();
            if (k + 1 < count) {
                warp_waits(full + 8 * stage, phase);
                convert_half(a0, 0);
            }
        }
        wgmma_wait<0>();
        free_stage(before);
    }
};

/* What the pairs summed, D of 16 rows x TOKENS a warp, becomes V of TOKENS / PAIRS each: pair 0 has the first ones. AT: this thread's
 * 16 bytes in shared memory, those of all pairs' threads once for each four registers of V. Once a block. */
template <int TOKENS, int PAIRS>
GEMM_DEV void merge_pairs(uint32_t at, int pair, const float (&d)[TOKENS / 2], float (&v)[TOKENS / 2 / PAIRS]) {
    const int n = TOKENS / 2 / PAIRS, step = PAIRS * 4096;
    static_assert(PAIRS <= 2, "each hands over one half");
    if (PAIRS > 1) {
#pragma unroll
        for (int i = 0; i < n; i += 4) {
            const float *first = d + i, *second = d + TOKENS / 2 - n + i;
            sts128(at + i / 4 * step, pair ? make_float4(first[0], first[1], first[2], first[3])
                                           : make_float4(second[0], second[1], second[2], second[3]));
        }
        consumers_barrier<256 * PAIRS>();
    }
#pragma unroll
    for (int i = 0; i < n; i += 4) {
        const uint4 w = PAIRS > 1 ? lds128(at + (pair ? -4096 : 4096) + i / 4 * step) : make_uint4(0, 0, 0, 0);
        const float other[4] = {__uint_as_float(w.x), __uint_as_float(w.y), __uint_as_float(w.z), __uint_as_float(w.w)};
#pragma unroll
        for (int e = 0; e < 4; e++)
            v[i + e] = PAIRS == 1 ? d[i + e] : (pair ? d[TOKENS / 2 - n + i + e] : d[i + e]) + other[e];
    }
}

/* The sums D of a tile whose first WARPS / 2 warps have rows of the gate, from ROW on, and the others their twins of up: either
 * stores half of the tokens, from TOKEN on. AT: this thread's 16 bytes in shared memory, the warps' one after another. */
template <bool E4M3, int WARPS, int REGISTERS>
GEMM_DEV void store_gated(const wgmma_args &a, int token, int row, int warp, uint32_t at, const float (&d)[REGISTERS], uint32_t scales,
                          float factor) {
    const int half = REGISTERS / 8, twin = WARPS / 2 * 512; /* units of 8 tokens; bytes to the other warp's place */
    const bool gate = warp < WARPS / 2;
    row += warp % (WARPS / 2) * 16;
#pragma unroll
    for (int j = 0; j < half; j++) {
        const float *first = d + 4 * j, *second = d + 4 * (half + j);
        sts128(at, gate ? make_float4(second[0], second[1], second[2], second[3]) : make_float4(first[0], first[1], first[2], first[3]));
        consumers_barrier<WARPS * 32>();
        const uint4 w = lds128(gate ? at + twin : at - twin);
        const float other[4] = {__uint_as_float(w.x), __uint_as_float(w.y), __uint_as_float(w.z), __uint_as_float(w.w)};
        const int tokens = (gate ? j : half + j) * 8;
        float v[4], f[2] = {factor, factor};
        if (E4M3) {
            const uint2 s = lds64(scales + (tokens + 2 * (threadIdx.x & 3)) * 4);
            f[0] *= __uint_as_float(s.x), f[1] *= __uint_as_float(s.y);
        }
#pragma unroll
        for (int e = 0; e < 4; e++) {
            const float x = gate ? first[e] : other[e], up = gate ? other[e] : second[e];
            v[e] = gated_unit(x * f[e % 2], up * f[e % 2], a.gelu);
        }
        if (row < a.n / 2)
            store_prepared(a.out, a.m, token + tokens, row, make_float4(v[0], v[1], v[2], v[3]));
        consumers_barrier<WARPS * 32>(); /* read, before it is written again */
    }
}

/* The warp that feeds the ring: all of it walks the runs, so that what it computes is uniform, and one lane copies. */
template <bool E4M3, int TOKENS, int ROWS, bool CLUSTERS, bool GATED> struct producer {
    using plan = wgmma_plan<E4M3, TOKENS, ROWS, CLUSTERS, GATED>;
    const CUtensorMap *tokens_map, *weights_map;
    uint32_t base, full, empty;
    uint32_t first; /* barriers of the weights of each pair's first stage, which it decodes before its tokens are there */
    bool copies;    /* this lane */
    int k; /* the weights' next group */

    GEMM_DEV void copy_weights(const wgmma_args &a, const run &r, int to, bool apart) {
        if (copies) {
            const uint32_t bar = (apart ? first : full) + 8 * to, at = base + to * plan::stage;
            barrier_expect(full + 8 * to, plan::token_bytes + (apart ? 0 : plan::weight_bytes));
            if (apart)
                barrier_expect(bar, plan::weight_bytes);
            const int box = plan::row_tiles / (GATED ? 2 : 1);
            tensor_copy(at, weights_map, 0, k, r.row_tile * box, bar, a.token_tiles == 1);
            if (GATED)
                tensor_copy(at + plan::weight_bytes / 2, weights_map, 0, k, a.n / 32 + r.row_tile * box, bar,
                            a.token_tiles == 1);
        }
        k = k + 1 == a.groups ? 0 : k + 1;
    }

    GEMM_DEV void copy_tokens(const wgmma_args &a, const run &r, int i, int at) {
        const uint32_t to = base + at * plan::stage + plan::weight_room;
        const int first = (a.first + r.first + i) * GEMM_GROUP_K;
        if (copies) {
            tensor_copy(to, tokens_map, first, r.token_tile * TOKENS, full + 8 * at);
            if (!E4M3)
                tensor_copy(to + TOKENS * 128, tokens_map, first + 64, r.token_tile * TOKENS, full + 8 * at);
        }
    }

    GEMM_DEV void feed(const wgmma_args &a) {
        runs work(a);
        run r;
        work.next(a, r); /* a block has one run at least */
        k = (a.first + r.first) % a.groups;
        const int early = min(plan::stages, r.last - r.first);
        for (int i = 0; i < early; i++) /* weights do not depend on the kernel before: the ring fills while it ends */
            copy_weights(a, r, i, i < plan::pairs);
        dependency_wait();
        for (int i = 0; i < early; i++)
            copy_tokens(a, r, i, i);
        int i = early, s = early == plan::stages ? 0 : early, phase = early == plan::stages ? 0 : 1;
        while (true) {
            const int count = r.last - r.first;
#pragma unroll 1
            for (; i < count; i++) {
                barrier_wait(empty + 8 * s, phase);
                copy_weights(a, r, s, false);
                copy_tokens(a, r, i, s);
                if (++s == plan::stages) {
                    s = 0;
                    phase ^= 1;
                }
            }
            if (!work.next(a, r))
                break;
            k = (a.first + r.first) % a.groups;
            i = 0;
        }
    }
};

/* Where things stand in a block's shared memory: the ring, the table of folded scales, barriers, two sets of token scales, sums from
 * other blocks, then from other warps. */
template <class PLAN, int TOKENS> struct shared_places {
    uint32_t base, full, empty, arrived, first, token_scales;
    const uint2 *lut;

    GEMM_DEV explicit shared_places(uint8_t *shared) {
        lut = (const uint2 *)(shared + PLAN::stages * PLAN::stage);
        base = __shfl_sync(~0u, shared_address(shared), 0), full = base + PLAN::stages * PLAN::stage + 1024;
        empty = full + 8 * PLAN::stages, arrived = empty + 8 * PLAN::stages, first = arrived + 8, token_scales = full + 256;
    }

    GEMM_DEV uint32_t received() const {
        return token_scales + 2 * TOKENS * 4;
    }

    GEMM_DEV uint32_t merge() const { /* this thread's 16 bytes */
        return received() + PLAN::received + threadIdx.x * 16;
    }

    /* By one lane. RANKS: blocks of the cluster, 0: none. */
    GEMM_DEV void open_barriers(int ranks) const {
        for (int s = 0; s < PLAN::stages; s++) {
            barrier_init(full + 8 * s, 1);
            barrier_init(empty + 8 * s, PLAN::row_tiles);
        }
        barrier_init(arrived, 1);
        for (int i = 0; i < PLAN::pairs; i++)
            barrier_init(first + 8 * i, 1);
        barrier_fence();
        if (ranks) {
            cluster_barrier_fence();
            const int units = PLAN::mine / 8, share = (units + ranks - 1) / ranks, rank = (int)blockIdx.x % ranks;
            barrier_expect(arrived, max(0, min(share, units - rank * share)) * (ranks - 1) * PLAN::consumers * 16);
        }
    }
};

/* The warpgroup of which one warp feeds the ring. */
template <bool E4M3, int TOKENS, int ROWS, bool CLUSTERS, bool GATED>
GEMM_DEV void produce(const CUtensorMap &tokens_map, const CUtensorMap &weights_map, const wgmma_args &a,
                      const shared_places<wgmma_plan<E4M3, TOKENS, ROWS, CLUSTERS, GATED>, TOKENS> &at) {
    using plan = wgmma_plan<E4M3, TOKENS, ROWS, CLUSTERS, GATED>;
    const bool feeds = __shfl_sync(~0u, (int)threadIdx.x >> 5, 0) == plan::consumers / 32;
    const int lane = threadIdx.x & 31;
    if (feeds && lane == 0) {
        prefetch_map(&weights_map);
        prefetch_map(&tokens_map);
        at.open_barriers(CLUSTERS ? a.ranks : 0);
    }
    __syncwarp();
    asm volatile("bar.arrive 11,%0;" ::"n"(plan::threads) : "memory"); /* the barriers stand */
    if (CLUSTERS)
        cluster_arrive(); /* the others may send */
    if (feeds) {
        producer<E4M3, TOKENS, ROWS, CLUSTERS, GATED> p = {&tokens_map, &weights_map, at.base, at.full, at.empty, at.first, lane == 0};
        p.feed(a);
        dependents_go(); /* not before: the next kernel's blocks would crowd on the multiprocessors that end first */
    }
    if (CLUSTERS)
        cluster_wait();
}

/* The end of a tile: the sums V of this warp's ROW on and the tokens from TOKEN on, whose scales are at SCALES, meet those of other
 * blocks and are stored. */
template <bool E4M3, int TOKENS, int ROWS, bool CLUSTERS, bool GATED, int REGISTERS>
GEMM_DEV void end_run(const wgmma_args &a, const run &r, const shared_places<wgmma_plan<E4M3, TOKENS, ROWS, CLUSTERS, GATED>, TOKENS> &at,
                      int rank, int token, int row, float (&v)[REGISTERS], uint32_t scales, float factor) {
    using plan = wgmma_plan<E4M3, TOKENS, ROWS, CLUSTERS, GATED>;
    const int all = (int)threadIdx.x >> 5, warp = all % plan::row_tiles;
    if constexpr (CLUSTERS) {
        cluster_wait();
        with_ranks<plan::most_ranks>(a.ranks, [&](auto ranks) {
            tile_store<E4M3, plan::mine, plan::consumers / 32, ranks.n>{rank, all, at.received(), at.arrived}.send_others(v);
        });
        consumers_barrier<plan::consumers>();
        barrier_wait(at.arrived, 0);
        with_ranks<plan::most_ranks>(a.ranks, [&](auto ranks) {
            if (row < a.n)
                tile_store<E4M3, plan::mine, plan::consumers / 32, ranks.n>{rank, all, at.received(), at.arrived}.store(
                    a.out, a.m, token, row, v, scales, factor);
        });
        return;
    }
    if (r.last < a.stages) {
        leave_sums<E4M3, plan::consumers>(a, v);
        return;
    }
    if (r.first > 0)
        collect_sums<E4M3, plan::consumers>(a, r, v);
    else if (E4M3)
        consumers_barrier<plan::consumers>();
    if constexpr (GATED)
        store_gated<E4M3, plan::row_tiles>(a, token, r.row_tile * (ROWS / 2), warp, at.merge(), v, scales, factor);
    else if (row < a.n)
        tile_store<E4M3, plan::mine, plan::consumers / 32, 1>{}.store(a.out, a.m, token, row, v, scales, factor);
}

/* A warpgroup that multiplies. */
template <bool E4M3, int TOKENS, int ROWS, bool CLUSTERS, bool GATED>
GEMM_DEV void consume(const wgmma_args &a, int warpgroup, float tensor_scale,
                      const shared_places<wgmma_plan<E4M3, TOKENS, ROWS, CLUSTERS, GATED>, TOKENS> &at) {
    using plan = wgmma_plan<E4M3, TOKENS, ROWS, CLUSTERS, GATED>;
    const int lane = threadIdx.x & 31, pair = plan::pairs > 1 ? warpgroup >> 1 : 0;
    const int warp = ((int)threadIdx.x >> 5) % plan::row_tiles; /* row tile of 16 */
    consumer<E4M3, TOKENS, ROWS, CLUSTERS, GATED> c;
    c.lane16 = at.base + warp * GEMM_GROUP_BYTES + lane * 16, c.scales = at.base + warp * GEMM_GROUP_BYTES + 1024 + lane * 4;
    c.tokens = descriptor_low(at.base + plan::weight_room), c.full = at.full, c.empty = at.empty, c.lut = at.lut;
    const int rank = CLUSTERS ? (int)blockIdx.x % a.ranks : 0;
    runs work(a);
    run r;
    int set = 0; /* of token scales: two, so that one barrier a run is enough */
    c.stage = pair, c.phase = 0;
    for (bool early = true; __any_sync(~0u, work.next(a, r)); early = false) { /* a vote: see warp_waits */
        const int count = r.last - r.first, token = r.token_tile * TOKENS + pair * plan::mine, row = r.row_tile * ROWS + warp * 16;
        uint32_t a0[16];
        if (plan::pairs == 1 || count > pair)
            c.begin(a0, early ? at.first + 8 * pair : at.full + 8 * c.stage);
        dependency_wait();
        float token_scale = 0.0f, d[TOKENS / 2];
        if (E4M3 && threadIdx.x < TOKENS)
            token_scale = __ldcg(a.out.token_scale + r.token_tile * TOKENS + threadIdx.x);
#pragma unroll
        for (int i = 0; i < TOKENS / 2; i++) /* so that ptxas sees no use of the run before's (C7514) */
            d[i] = 0.0f;
        const int each = plan::pairs == 1 ? count : (count + (pair == 0)) / 2; /* of the stages */
        if (plan::pairs == 1 || each > 0)
            c.sum(d, a0, each);
        float v[plan::mine / 2];
        merge_pairs<TOKENS, plan::pairs>(at.merge(), pair, d, v);
        const uint32_t scales = at.token_scales + (set++ & 1) * TOKENS * 4;
        if (E4M3 && threadIdx.x < TOKENS)
            asm volatile("st.shared.f32 [%0],%1;" ::"r"(scales + threadIdx.x * 4), "f"(token_scale) : "memory");
        end_run<E4M3, TOKENS, ROWS, CLUSTERS, GATED>(a, r, at, rank, token, row, v, scales + pair * plan::mine * 4,
                                                     (E4M3 ? 8.0f : 0x1p17f) * (a.out.alpha * tensor_scale));
    }
}

template <bool E4M3, int TOKENS, int ROWS, bool CLUSTERS, bool GATED>
__global__ void __launch_bounds__(wgmma_plan<E4M3, TOKENS, ROWS, CLUSTERS, GATED>::bound, 1)
    wgmma_gemm(const __grid_constant__ CUtensorMap tokens_map, const __grid_constant__ CUtensorMap weights_map,
               const __grid_constant__ wgmma_args a) {
    using plan = wgmma_plan<E4M3, TOKENS, ROWS, CLUSTERS, GATED>;
    extern __shared__ __align__(1024) uint8_t shared[];
    const shared_places<plan, TOKENS> at(shared);
    const int warpgroup = __shfl_sync(~0u, (int)threadIdx.x >> 7, 0);
    if (warpgroup == plan::warpgroups) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(plan::producer_registers));
        produce<E4M3, TOKENS, ROWS, CLUSTERS, GATED>(tokens_map, weights_map, a, at);
        return;
    }
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(plan::consumer_registers));
    const float tensor_scale = load_scale(a.out.tensor_scale); /* used after the sums: it may come late */
    if (E4M3)
        build_lut((uint2 *)at.lut);
    asm volatile("bar.sync 11,%0;" ::"n"(plan::threads) : "memory");
    if (CLUSTERS)
        cluster_arrive(); /* waited for before the first sum is sent */
    consume<E4M3, TOKENS, ROWS, CLUSTERS, GATED>(a, warpgroup, tensor_scale, at);
}

/* Tiles that are cut: all of fewer than a wave; else what stands over whole waves, with one wave, if that is much. */
static int tiles_to_cut(int tiles, int blocks) {
    const int over = tiles % blocks;
    return tiles < blocks ? tiles : over == 0 || over * 10 >= blocks * 9 ? 0 : blocks + over;
}

template <bool E4M3, int TOKENS, int ROWS>
static int launch_clusters(const gemm_task *t, const CUtensorMap &tokens, const CUtensorMap &weights, const wgmma_args &a) {
    using plan = wgmma_plan<E4M3, TOKENS, ROWS, true, false>;
    if (a.ranks > plan::most_ranks || a.stages < a.ranks) /* the choice keeps to this */
        return cudaErrorInvalidValue;
    cudaLaunchAttribute attributes[2];
    cudaLaunchConfig_t config =
        cluster_config(attributes, a.ranks, a.row_tiles * a.token_tiles * a.ranks, plan::threads, plan::shared, true);
    config.stream = (cudaStream_t)t->stream;
    const auto kernel = wgmma_gemm<E4M3, TOKENS, ROWS, true, false>;
    const cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, plan::shared);
    return e != cudaSuccess ? e : cudaLaunchKernelEx(&config, kernel, tokens, weights, a);
}

template <bool E4M3, int TOKENS, int ROWS = 128, bool GATED = false> static int launch_wgmma(const gemm_task *t) {
    using plan = wgmma_plan<E4M3, TOKENS, ROWS, false, GATED>;
    wgmma_args a = {t->m, t->n, t->groups, 0, t->groups * t->terms, (t->n + ROWS - 1) / ROWS,
                    (t->m + TOKENS - 1) / TOKENS, t->slices, 0, t->partial, t->flags, t->out, t->unit == GEMM_UNIT_GELU};
    CUtensorMap tokens, weights;
    const cuuint64_t size[2] = {(cuuint64_t)t->groups * GEMM_GROUP_K * t->terms, (cuuint64_t)t->m}, stride = size[0] * (E4M3 ? 1 : 2);
    const cuuint32_t box[2] = {E4M3 ? 128 : 64, TOKENS};
    if (!make_map(t, &tokens, E4M3 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, t->a, 2, size, &stride, box,
                  CU_TENSOR_MAP_SWIZZLE_128B) ||
        !map_weights(t, &weights, 1, plan::row_tiles / (GATED ? 2 : 1)))
        return cudaErrorInvalidValue;
    /* Tensor cores cut their sums: exact FP32 results take 1,024 k at a time and add up in FP32. */
    const int all = a.stages, step = !E4M3 && t->out.type == NIB_GEMM_F32 ? GEMM_EXACT_GROUPS : all, tiles = a.row_tiles * a.token_tiles;
    if (a.ranks > 1 && all <= a.ranks * step) {
        if constexpr (plan::most_ranks > 1 && !GATED)
            return launch_clusters<E4M3, TOKENS, ROWS>(t, tokens, weights, a);
        return cudaErrorInvalidValue;
    }
    a.ranks = 1;
    for (; a.first < all; a.first += step) {
        a.stages = min(step, all - a.first);
        if (a.first > 0)
            a.out.c = a.out.d, a.out.beta = 1.0f, a.out.bias = nullptr;
        const bool cut = t->cut && all <= step && (!E4M3 || all <= MOST_HALVES);
        const int blocks = min(tiles * (cut ? max(1, a.stages / MIN_STAGES) : 1), t->n_sms);
        a.cut_tiles = cut ? tiles_to_cut(tiles, blocks) : 0;
        const int e = launch_kernel(t, wgmma_gemm<E4M3, TOKENS, ROWS, false, GATED>, blocks, plan::threads, plan::shared, tokens, weights, a);
        if (e)
            return e;
    }
    return cudaSuccess;
}

#endif
