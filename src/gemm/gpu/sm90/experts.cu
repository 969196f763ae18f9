/* SPDX-License-Identifier: Apache-2.0
 *
 * Hopper, experts: exact. Weights are the register operand of wgmma, 8, 16 or 32 tokens its N, by how many the experts have.
 *
 * A chunk is up to so many tokens of one expert, an item 64 rows x a chunk. The items of all chunks stand in a row, and each block
 * takes an equal run of them; teams of PARTS warpgroups take a run's items in turn, the parts of a team share K. These do
 * nothing but decode and multiply. What they need is done by warps of their own, each as far ahead as there is room:
 *   feeders      one a warpgroup: its ring of weights, GROUPS of 128 k of 64 rows a stage, over the ends of items
 *   token warps  the tokens of the next chunk, while those of this one are used
 *   storers      add the parts' sums of an item in their order, and store them
 * One of them, while all others wait, finds out from the offsets which run is the block's.
 *
 * Bytes moved: the weights of experts with tokens, once a chunk; a chunk's tokens once a block that has items of it.
 * Measured: docs/gpu/gemv.md.
 */
#include "gemm/gpu/sm90/chunks.cuh"
#include "gemm/gpu/sm90/cluster.cuh"
#include "gemm/gpu/sm90/operand.cuh"
#include "gemm/gpu/sm90/store.cuh"

#define WARPGROUPS      4 /* that multiply */
#define MATH_WARPS      (4 * WARPGROUPS)
#define FEEDERS         WARPGROUPS
#define TOKEN_WARPS     2
#define STORERS         2
#define WARPS           (MATH_WARPS + FEEDERS + TOKEN_WARPS + STORERS)
#define THREADS         (32 * WARPS)
#define MATH_REGISTERS  96 /* of the 80 x 24 warps of the launch */
#define OTHER_REGISTERS 48
#define ITEM_TILES      4 /* row tiles */
#define SPAN            8 /* groups that tensor cores sum before FP32 takes over */

struct experts_args {
    chunk_source source;
    const __nv_bfloat16 *x;
    int k, lda, groups, row_tiles;
    int buffers; /* of tokens: 1 or 2 */
    size_t scale_offset;
    gemm_out out;
};

/* Shared memory: tokens, rings, sums, then what this names: barriers, 8 bytes each, the run, and its chunks. */
template <int TOKENS, int PARTS, int GROUPS, int STAGES> struct experts_plan {
    static const int eights = TOKENS / 8, slots = TOKENS == 32 ? 1 : 2; /* of sums, a team */
    static const int sums = eights * 2048;         /* bytes, of a part: 64 rows x TOKENS */
    static const int group_tokens = eights * 2048; /* bytes: 128 k of a chunk */
    static const int teams = WARPGROUPS / PARTS, stage = ITEM_TILES * GROUPS * GEMM_GROUP_BYTES, ring = STAGES * stage;
    static const int full = 0, empty = full + 8 * WARPGROUPS * STAGES; /* of the rings */
    static const int summed = empty + 8 * WARPGROUPS * STAGES, taken = summed + 8 * slots * teams * STORERS;
    static const int come = taken + 8 * slots * teams * STORERS, gone = come + 16; /* tokens of two buffers */
    static const int asked = gone + 16;                                            /* the first chunk's tokens are on their way */
    static const int the_run = asked + 8, chunks = the_run + 16;

    GEMM_DEV static int arrivals(int barrier) {
        return barrier < empty    ? 1
               : barrier < summed ? 4
               : barrier < taken  ? 2 * PARTS
               : barrier < come   ? 1
               : barrier < gone   ? 32 * TOKEN_WARPS
               : barrier < asked  ? MATH_WARPS
                                  : TOKEN_WARPS;
    }

    static int shared(const gemm_task *t, size_t experts, int buffers) {
        const size_t chunks_of_all = min((size_t)t->m, experts + t->m / TOKENS);
        return buffers * t->groups * group_tokens + WARPGROUPS * (ring + slots * sums) + chunks +
               (int)((chunks_of_all / t->n_sms + 3) * sizeof(chunk));
    }
};

/* What a warp has of the block. */
struct experts_block {
    run items;
    const chunk *chunks;
    uint32_t tokens, rings, sums, bars; /* shared memory */
};

/* A place in a ring of COUNT barriers, and the parity of its next phase. */
struct place {
    int at, parity;

    GEMM_DEV void next(int count) {
        if (++at == count) {
            at = 0;
            parity ^= 1;
        }
    }
};

static __host__ __device__ int items_of(int row_tiles) {
    return (row_tiles + ITEM_TILES - 1) / ITEM_TILES;
}

/* Every STEP'th item of the run. */
struct walk {
    int left, chunk, tile, step, chunk_tiles;

    GEMM_DEV walk(const run &r, int row_tiles, int first, int step_)
        : left(r.items - first), chunk(0), tile((r.first + first) * ITEM_TILES), step(step_), chunk_tiles(items_of(row_tiles) * ITEM_TILES) {
        settle();
    }

    GEMM_DEV void settle() {
        while (tile >= chunk_tiles) {
            tile -= chunk_tiles;
            chunk++;
        }
    }

    GEMM_DEV void next() {
        left -= step;
        tile += step * ITEM_TILES;
        settle();
    }
};

/* ---- feeders ---- */

/* A stage: TILES rows of BYTES, ROW_BYTES apart. By one lane. */
template <int BYTES> GEMM_DEV void copy_stage(uint32_t to, uint64_t from, uint32_t row_bytes, int tiles, uint32_t bar) {
    barrier_expect(bar, tiles * BYTES);
    if (tiles == ITEM_TILES) {
#pragma unroll
        for (int i = 0; i < ITEM_TILES; i++, from += row_bytes)
            bulk_copy(to + i * BYTES, (const void *)from, BYTES, bar);
    } else {
#pragma unroll 1
        for (int i = 0; i < tiles; i++, from += row_bytes)
            bulk_copy(to + i * BYTES, (const void *)from, BYTES, bar);
    }
}

/* The weights of one warpgroup. */
template <int TOKENS, int PARTS, int GROUPS, int STAGES>
GEMM_DEV void feed(const experts_args &a, const experts_block &b, int warpgroup) {
    using plan = experts_plan<TOKENS, PARTS, GROUPS, STAGES>;
    const int part = warpgroup % PARTS, units = a.groups / GROUPS;
    const int begin = part * units / PARTS, end = (part + 1) * units / PARTS;
    const uint32_t ring = b.rings + warpgroup * plan::ring, bars = b.bars + 8 * warpgroup * STAGES, row_bytes = a.groups * GEMM_GROUP_BYTES;
    place p = {0, 1};
    int n = 0;
    for (walk w(b.items, a.row_tiles, warpgroup / PARTS, plan::teams); w.left > 0; w.next()) {
        const int tiles = min(ITEM_TILES, a.row_tiles - w.tile);
        uint64_t from = uniform((uint64_t)b.chunks[w.chunk].packed) + (uint64_t)w.tile * row_bytes + begin * GROUPS * GEMM_GROUP_BYTES;
#pragma unroll 1
        for (int u = begin; u < end; u++, from += GROUPS * GEMM_GROUP_BYTES, p.next(STAGES)) {
            if (n++ == 1) /* the first tokens go before more weights */
                barrier_wait(b.bars + plan::asked, 0);
            barrier_wait(bars + plan::empty + 8 * p.at, p.parity);
            if (elected())
                copy_stage<GROUPS * GEMM_GROUP_BYTES>(ring + p.at * plan::stage, from, row_bytes, tiles, bars + plan::full + 8 * p.at);
            __syncwarp();
        }
    }
}

/* ---- token warps ---- */

GEMM_DEV void copy_pair(uint32_t to, const __nv_bfloat16 *from, int bytes) { /* zeros from BYTES to 4 */
    asm volatile("cp.async.ca.shared.global [%0],[%1],4,%2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}

/* 8 x 64 k of a token, BYTES apart, from the FIRST 64 on, of COLUMNS; zeros past K. A lane's TO and FROM are those of the token. */
template <int BYTES> GEMM_DEV void copy_eight(uint32_t to, const __nv_bfloat16 *from, int first, int columns, int k) {
    if (first * 64 + 512 <= k) {
#pragma unroll
        for (int i = 0; i < 8; i++)
            copy_pair(to + first * BYTES + i * BYTES, from + first * 64 + i * 64, 4);
    } else {
#pragma unroll 1
        for (int i = first; i < min(first + 8, columns); i++) {
            const bool inside = i * 64 + 2 * (int)(threadIdx.x & 31) < k;
            copy_pair(to + i * BYTES, from + (inside ? i * 64 : -2 * (int)(threadIdx.x & 31)), inside ? 4 : 0);
        }
    }
}

/* Tokens as wgmma's B, in the order of k that the weights have: 64 k of 8 tokens are 1,024 bytes, rows of 128 with the 128-byte
 * swizzle; position 16 s + 8 p + 2 t + j of a row holds k = 16 t + 4 s + 2 p + j. Lane 8 t + 2 s + p copies a pair, 4 bytes, so
 * that a warp reads 128 contiguous bytes of a token. What stands in rows without a token meets no result. */
template <class PLAN> GEMM_DEV void bring_tokens(const experts_args &a, const experts_block &b, int warp) {
    const int lane = threadIdx.x & 31, columns = 2 * a.groups;
    const uint32_t word = ((lane >> 1 & 3) * 8 + (lane & 1) * 4 + (lane >> 3)) * 4;
    place p = {0, 1};
    for (int c = 0; c < b.items.chunks; c++, p.next(a.buffers)) {
        const chunk now = b.chunks[c];
        const __nv_bfloat16 *from = a.x + (size_t)now.row * a.lda + 2 * lane;
        barrier_wait(b.bars + PLAN::gone + 8 * p.at, p.parity);
        for (int j = 0; j < now.rows; j++, from += a.lda)
            for (int first = 8 * warp; first < columns; first += 8 * TOKEN_WARPS)
                copy_eight<PLAN::group_tokens / 2>(b.tokens + p.at * a.groups * PLAN::group_tokens + (word ^ (j & 7) << 4) + j * 128,
                                                   from, first, columns, a.k);
        asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(b.bars + PLAN::come + 8 * p.at) : "memory");
        __syncwarp();
        if (c == 0 && lane == 0)
            barrier_arrive(b.bars + PLAN::asked);
    }
}

/* ---- storers ---- */

/* Two of an item's row tiles, WHICH of two pairs. */
template <int PARTS, class PLAN> GEMM_DEV void store_items(const experts_args &a, const experts_block &b, int which) {
    const int lane = threadIdx.x & 31;
    int team = 0;
    place p = {0, 0};
    for (walk w(b.items, a.row_tiles, 0, 1); w.left > 0; w.next()) {
        const chunk c = b.chunks[w.chunk];
        const float tensor_scale = *(const float *)(c.packed + a.scale_offset); /* on its way while the sums are waited for */
        const int set = p.at * PLAN::teams + team, bar = 8 * (set * STORERS + which);
        float bias[2][2] = {}; /* of rows r0, r1: likewise */
        if (a.out.bias) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int row = (w.tile + 2 * which + i / 2) * 16 + gemm_tile_row(lane >> 2, i % 2);
                if (row < 16 * a.row_tiles)
                    bias[i / 2][i % 2] = expert_bias(a.out, 16 * a.row_tiles, c.expert, row);
            }
        }
        constexpr int together = PLAN::eights < 4 ? 2 : 1; /* row tiles whose sums registers hold */
        barrier_wait(b.bars + PLAN::summed + bar, p.parity);
        const float factor = 0x1p17f * (a.out.alpha * tensor_scale);
#pragma unroll
        for (int i0 = 0; i0 < 2; i0 += together) {
            float4 v[together][PLAN::eights] = {};
#pragma unroll
            for (int i = 0; i < together; i++)
#pragma unroll
                for (int part = 0; part < PARTS; part++)
#pragma unroll
                    for (int n = 0; n < PLAN::eights; n++) {
                        const int at = (set * PARTS + part) * PLAN::sums + ((2 * which + i0 + i) * PLAN::eights + n) * 512;
                        const uint4 u = lds128(b.sums + at + lane * 16);
                        v[i][n].x += __uint_as_float(u.x), v[i][n].y += __uint_as_float(u.y);
                        v[i][n].z += __uint_as_float(u.z), v[i][n].w += __uint_as_float(u.w);
                    }
            __syncwarp();
            if (i0 + together == 2 && lane == 0)
                barrier_arrive(b.bars + PLAN::taken + bar);
#pragma unroll
            for (int i = 0; i < together; i++) {
                const int tile = w.tile + 2 * which + i0 + i;
                const float b0 = bias[i0 + i][0], b1 = bias[i0 + i][1];
#pragma unroll
                for (int n = 0; n < PLAN::eights; n++)
                    v[i][n] = make_float4(fmaf(v[i][n].x, factor, b0), fmaf(v[i][n].y, factor, b0), fmaf(v[i][n].z, factor, b1),
                                          fmaf(v[i][n].w, factor, b1));
                if (tile < a.row_tiles)
                    store_fragments(without_bias(a.out), c.row + c.rows, c.row, tile * 16, v[i]);
            }
        }
        if (++team == PLAN::teams) {
            team = 0;
            p.next(PLAN::slots);
        }
    }
}

/* ---- the warpgroups ---- */

/* The chunk whose tokens a warp has: it holds them from when they have come until it lets them go. */
template <class PLAN> struct held_tokens {
    const experts_block &b;
    int buffers, chunk;
    place p;

    GEMM_DEV held_tokens(const experts_block &b_, int buffers_) : b(b_), buffers(buffers_), chunk(-1), p({0, 0}) {}

    GEMM_DEV void hold(int next) { /* every chunk to NEXT passes through, so that no phase is missed */
#pragma unroll 1
        while (chunk < next) {
            if (chunk >= 0) {
                __syncwarp();
                if ((threadIdx.x & 31) == 0)
                    barrier_arrive(b.bars + PLAN::gone + 8 * p.at);
                p.next(buffers);
            }
            if (++chunk < b.items.chunks)
                barrier_wait(b.bars + PLAN::come + 8 * p.at, p.parity);
        }
    }
};

template <int TOKENS, int PARTS, int GROUPS, int STAGES>
GEMM_DEV void multiply(const experts_args &a, const experts_block &b, int warpgroup, int member) {
    using plan = experts_plan<TOKENS, PARTS, GROUPS, STAGES>;
    const int team = warpgroup / PARTS, part = warpgroup % PARTS, units = a.groups / GROUPS, lane = threadIdx.x & 31;
    const int begin = part * units / PARTS * GROUPS, end = (part + 1) * units / PARTS * GROUPS;
    static_assert(SPAN % GROUPS == 0, "a span is whole stages, or warps would wait for one that nobody fills");
    const uint32_t ring = b.rings + warpgroup * plan::ring, bars = b.bars + 8 * warpgroup * STAGES;
    held_tokens<plan> held(b, a.buffers);
    place s = {0, 0}, slot = {0, 1};
#pragma unroll 1
    for (walk w(b.items, a.row_tiles, team, plan::teams); w.left > 0; w.next()) {
        if (held.chunk < w.chunk) {
            held.hold(w.chunk);
            asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        }
        const uint32_t low = descriptor_low(b.tokens + held.p.at * a.groups * plan::group_tokens);
        float sum[TOKENS / 2] = {};
#pragma unroll 1
        for (int g0 = begin; g0 < end; g0 += SPAN) {
            const int g1 = min(g0 + SPAN, end);
            float d[TOKENS / 2] = {};
#pragma unroll 1
            for (int g = g0; g < g1; g += GROUPS) {
                uint32_t f[2][16];
                const uint32_t weights = ring + s.at * plan::stage + member * GROUPS * GEMM_GROUP_BYTES;
                const uint32_t codes = weights + lane * 16, scales = weights + 1024 + lane * 4, x = low + (g * plan::group_tokens >> 4);
                barrier_wait(bars + plan::full + 8 * s.at, s.parity);
#pragma unroll
                for (int i = 0; i < 2 * GROUPS; i++) { /* 64 k each */
                    convert_bf16(lds128(codes + i / 2 * GEMM_GROUP_BYTES + i % 2 * 512), lds32(scales + i / 2 * GEMM_GROUP_BYTES), i % 2,
                                 f[i % 2]);
                    wgmma_fence();
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        wgmma_bf16(d, f[i % 2] + 4 * j, descriptor_at(x + ((i * plan::group_tokens / 2 + 32 * j) >> 4)));
                    wgmma_commit();
                    wgmma_wait<1>();
                }
                __syncwarp();
                if (lane == 0)
                    barrier_arrive(bars + plan::empty + 8 * s.at);
                s.next(STAGES);
            }
            wgmma_wait<0>();
#pragma unroll
            for (int i = 0; i < TOKENS / 2; i++)
                sum[i] += d[i];
        }
        const int set = slot.at * plan::teams + team, bar = 8 * (set * STORERS + (member >> 1));
        barrier_wait(b.bars + plan::taken + bar, slot.parity);
#pragma unroll
        for (int n = 0; n < plan::eights; n++)
            sts128(b.sums + (set * PARTS + part) * plan::sums + (member * plan::eights + n) * 512 + lane * 16,
                   make_float4(sum[4 * n], sum[4 * n + 1], sum[4 * n + 2], sum[4 * n + 3]));
        __syncwarp();
        if (lane == 0)
            barrier_arrive(b.bars + plan::summed + bar);
        slot.next(plan::slots);
    }
    held.hold(b.items.chunks); /* others may need the room */
}

template <int TOKENS, int PARTS, int GROUPS, int STAGES>
static __global__ void __launch_bounds__(THREADS, 1) experts(const __grid_constant__ experts_args a) {
    using plan = experts_plan<TOKENS, PARTS, GROUPS, STAGES>;
    extern __shared__ __align__(1024) uint8_t shared[];
    const int warp = uniform((int)threadIdx.x >> 5), other = warp - MATH_WARPS;
    experts_block b;
    b.tokens = uniform((int)shared_address(shared));
    b.rings = b.tokens + a.buffers * a.groups * plan::group_tokens;
    b.sums = b.rings + WARPGROUPS * plan::ring;
    b.bars = b.sums + WARPGROUPS * plan::slots * plan::sums;
    run *r = (run *)(shared + (b.bars - b.tokens) + plan::the_run);
    chunk *chunks = (chunk *)(shared + (b.bars - b.tokens) + plan::chunks);
    b.chunks = chunks;

    if (a.source.early)
        dependents_go();
    for (int at = 8 * warp; at < plan::the_run; at += 8 * WARPS)
        if (elected())
            barrier_init(b.bars + at, plan::arrivals(at));
    cluster_barrier_fence();
    auto wait_for_run = [&] { /* the barriers stand then too */
        __syncthreads();
        b.items = {uniform(r->items), uniform(r->first), uniform(r->chunks)};
    };
    if (warp < MATH_WARPS) {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(MATH_REGISTERS));
        wait_for_run();
        multiply<TOKENS, PARTS, GROUPS, STAGES>(a, b, warp >> 2, warp & 3);
        return;
    }
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(OTHER_REGISTERS));
    if (other == 0)
        make_run<TOKENS>(a.source, r, chunks);
    wait_for_run();
    if (!a.source.early)
        dependents_go(); /* whose offsets may be the same */
    if (other >= FEEDERS)
        dependency_wait();
    if (other < FEEDERS)
        feed<TOKENS, PARTS, GROUPS, STAGES>(a, b, other);
    else if (other < FEEDERS + TOKEN_WARPS)
        bring_tokens<plan>(a, b, other - FEEDERS);
    else
        store_items<PARTS, plan>(a, b, other - FEEDERS - TOKEN_WARPS);
}

template <int TOKENS, int PARTS, int GROUPS, int STAGES> static bool fits(const gemm_task *t, const nib_gemm_group *p, int buffers) {
    return experts_plan<TOKENS, PARTS, GROUPS, STAGES>::shared(t, p->n_experts, buffers) <= t->max_shared;
}

template <int TOKENS, int PARTS, int GROUPS, int STAGES> static int launch(const gemm_task *t, const nib_gemm_group *p, int buffers) {
    const experts_args a = {make_source(p, t->n_sms, items_of(t->n / 16)),
                            (const __nv_bfloat16 *)t->a,
                            t->k,
                            t->lda,
                            t->groups,
                            t->n / 16,
                            buffers,
                            gemm_scale_offset((size_t)t->n, (size_t)t->k),
                            t->out};
    return launch_kernel(t, experts<TOKENS, PARTS, GROUPS, STAGES>, t->n_sms, THREADS,
                         experts_plan<TOKENS, PARTS, GROUPS, STAGES>::shared(t, p->n_experts, buffers), a);
}

template <int TOKENS, int PARTS, int GROUPS, int STAGES> static int launch_buffers(const gemm_task *t, const nib_gemm_group *p) {
    return launch<TOKENS, PARTS, GROUPS, STAGES>(t, p, fits<TOKENS, PARTS, GROUPS, STAGES>(t, p, 2) ? 2 : 1);
}

/* Rings of 4 groups a warpgroup (of 3, if 32 tokens fit so alone); the next tokens beside these where they have room. As many
 * tokens a chunk as most experts have, if they fit. */
template <int PARTS, int GROUPS> static int launch_fitting(const gemm_task *t, const nib_gemm_group *p) {
    constexpr int STAGES = 4 / GROUPS;
    const size_t rows = (size_t)t->m, experts = p->n_experts;
    if (rows > experts * 20 && fits<32, PARTS, GROUPS, STAGES>(t, p, 1))
        return launch_buffers<32, PARTS, GROUPS, STAGES>(t, p);
    if (rows > experts * 20 && fits<32, PARTS, 1, 3>(t, p, 1))
        return launch_buffers<32, PARTS, 1, 3>(t, p);
    if (rows > experts * 6 && fits<16, PARTS, GROUPS, STAGES>(t, p, 1))
        return launch_buffers<16, PARTS, GROUPS, STAGES>(t, p);
    return launch_buffers<8, PARTS, GROUPS, STAGES>(t, p);
}

extern "C" bool gemm_experts_serves(const gemm_task *t, const nib_gemm_group *p) {
    const size_t items = min((size_t)t->m, p->n_experts + t->m / 8) * ((t->n + 16 * ITEM_TILES - 1) / (16 * ITEM_TILES));
    return items <= MOST_ITEMS && fits<8, 4, 1, 4>(t, p, 1); /* the form of the most barriers */
}

/* K is shared by no more warpgroups than have two stages each. */
extern "C" int gemm_experts(const gemm_task *t, const nib_gemm_group *p) {
    const int g = t->groups;
    if (g < 8)
        return g % 2 ? launch_fitting<1, 1>(t, p) : launch_fitting<1, 2>(t, p);
    return g % 8 == 0 ? launch_fitting<4, 2>(t, p) : g % 4 == 0 ? launch_fitting<2, 2>(t, p) : launch_fitting<4, 1>(t, p);
}
