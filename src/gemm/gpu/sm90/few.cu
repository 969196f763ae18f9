/* SPDX-License-Identifier: Apache-2.0
 *
 * Hopper, 2 to 32 tokens: exact. Weights are the register operand of wgmma, tokens its N; one launch, nothing prepared.
 *
 * K is cut into slices, one for each of PARTS warpgroups of each block of a cluster; PARTS warpgroups together take 64 rows
 * at a time, a warp 16 of them. One warp feeds a ring of weights for each warpgroup (bulk copies, a unit of K a stage),
 * the others decode them to BF16 with their scales while the wgmma of the 64 k before run. The sums of a tile meet in the
 * shared memory of the cluster (st.async): every block adds the slices of its share in their order and stores it while the
 * next tile's products run.
 *
 * Tokens come by cp.async, 4 bytes a lane, straight into the order of k that the weights have, two units ahead of their
 * use. They stay in shared memory for all tiles where a slice's fit; else they stream, again for each tile.
 *
 * A norm between two products (gemm_spread): BEFORE's store adds to the residual stream, fetched while sums are waited for, and
 * writes x * w and each token's sum of squares of 16 rows; AFTER's blocks add up the squares while their first tokens come
 * (m * k / 4 bytes each, from L2), and 1 / rms multiplies the sums.
 *
 * What a loop needs is uniform over a warp and known to be (__shfl_sync); slices and blocks are powers of two.
 * Bytes moved: the weights once; the tokens once a cluster. Measured: docs/gpu/few.md.
 */
#include "gemm/gpu/device.cuh"
#include "gemm/gpu/sm90/cluster.cuh"
#include "gemm/gpu/sm90/operand.cuh"
#include "gemm/gpu/sm90/store.cuh"
#include "gemm/gpu/sm90/tensor_map.cuh"

#define WARPGROUPS 4
#define AHEAD 2 /* units that tokens come before their use */

struct few_args {
    const __nv_bfloat16 *x;
    int m, k, lda, groups, row_tiles;
    int log_parts;  /* of K in a block */
    int log_slices; /* of K */
    int slots;      /* units of tokens of a slice that stand in shared memory at a time */
    bool stream;    /* fewer than a slice has */
    gemm_unit unit;
    gemm_out out;
    gemm_spread after, before;
};

/* GROUPS: of 128 k, a unit */
template <int TOKENS, int GROUPS, int STAGES> struct few_plan {
    static const int log_units = TOKENS == 8 ? 2 : TOKENS == 16 ? 3 : 4, units = 1 << log_units; /* of a tile's sums: 16 rows x 8 tokens of a warp, 512 bytes */
    static const int row_bytes = GROUPS * GEMM_GROUP_BYTES; /* of weights: 16 rows of a unit */
    static const int stage = 4 * row_bytes;                 /* of weights: 64 rows */
    static const int unit_bytes = TOKENS * GROUPS * GEMM_GROUP_K * 2; /* of tokens */
    static const int ring = WARPGROUPS * STAGES * stage;
    static const int exchange = units * 512 * WARPGROUPS; /* what a block receives of one tile of each group of warpgroups */
    static const int ring_barriers = WARPGROUPS * STAGES; /* full; as many empty; then the exchange's; then the tokens' */
    static const int threads = 128 * WARPGROUPS + 32;
    static int shared(int token_units) {
        return token_units * (unit_bytes + 8) + ring + exchange + (2 * ring_barriers + 2 * WARPGROUPS) * 8 + TOKENS * 4;
    }
};

GEMM_DEV void copy_word(uint32_t to, const void *from, bool there) { /* 4 bytes, zeros where nothing is THERE */
    asm volatile("cp.async.ca.shared.global [%0],[%1],4,%2;" ::"r"(to), "l"(from), "r"(there ? 4 : 0) : "memory");
}

GEMM_DEV void arrive_copied(uint32_t bar) { /* when this thread's copies so far are there */
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(bar) : "memory");
}

/* What a warpgroup takes of K and of the tiles. */
template <int GROUPS> struct few_slice {
    int first, units; /* of K */
    int tile, step, tiles;

    GEMM_DEV few_slice(const few_args &a, int warpgroup) {
        const int log_ranks = a.log_slices - a.log_parts, part = warpgroup & ((1 << a.log_parts) - 1);
        const int slice = ((int)cluster_rank() << a.log_parts) + part, all = (a.groups + GROUPS - 1) / GROUPS;
        first = slice * all >> a.log_slices;
        units = ((slice + 1) * all >> a.log_slices) - first;
        tile = ((int)blockIdx.x >> log_ranks) * (WARPGROUPS >> a.log_parts) + (warpgroup >> a.log_parts);
        step = ((int)gridDim.x >> log_ranks) * (WARPGROUPS >> a.log_parts);
        tiles = (a.row_tiles + 3) / 4; /* gated: 2 row tiles of the gate and 2 of up */
    }
};

/* The warp that feeds the rings of all warpgroups: all of it walks, so that what it computes is uniform, and one lane copies.
 * Tile by tile: a warpgroup with fewer units would else be fed ahead of others, whose sums it waits for. */
template <int GROUPS, int STAGES, bool GATED> struct few_feeder {
    const CUtensorMap *map;
    uint32_t ring, full, empty;
    bool copies; /* this lane */
    int half, tiles, step, unit, most_units;
    int first[WARPGROUPS], units[WARPGROUPS], tile[WARPGROUPS], stage[WARPGROUPS], parity[WARPGROUPS];

    GEMM_DEV few_feeder(const few_args &a, const CUtensorMap *map_, uint32_t ring_, uint32_t bars, bool copies_)
        : map(map_), ring(ring_), full(bars), empty(bars + 8 * WARPGROUPS * STAGES), copies(copies_), half(a.row_tiles / 2), unit(0),
          most_units(0) {
#pragma unroll
        for (int w = 0; w < WARPGROUPS; w++) {
            const few_slice<GROUPS> k(a, w);
            first[w] = k.first, units[w] = k.units, tile[w] = k.tile, tiles = k.tiles, step = k.step;
            stage[w] = 0, parity[w] = -1; /* -1: the ring is filled for the first time */
            most_units = max(most_units, k.units);
        }
    }

    GEMM_DEV void copy(int w) { /* past the end of the weights: zeros */
        constexpr int BYTES = 4 * GROUPS * GEMM_GROUP_BYTES;
        const uint32_t at = w * STAGES + stage[w], to = ring + at * BYTES, bar = full + 8 * at;
        const int group = (first[w] + unit) * GROUPS, row_tile = tile[w] * (GATED ? 2 : 4);
        if (parity[w] >= 0)
            barrier_wait(empty + 8 * at, parity[w]);
        if (copies) {
            barrier_expect(bar, BYTES);
            tensor_copy(to, map, 0, group, row_tile, bar, true);
            if (GATED)
                tensor_copy(to + BYTES / 2, map, 0, group, half + row_tile, bar, true);
        }
        if (++stage[w] == STAGES) {
            stage[w] = 0;
            parity[w] = parity[w] < 0 ? 0 : parity[w] ^ 1;
        }
    }

    /* The next unit of each warpgroup. False: none has one. */
    GEMM_DEV bool fill() {
        bool more = false;
#pragma unroll
        for (int w = 0; w < WARPGROUPS; w++) {
            more |= tile[w] < tiles;
            if (tile[w] < tiles && unit < units[w])
                copy(w);
        }
        if (++unit == most_units) {
            unit = 0;
#pragma unroll
            for (int w = 0; w < WARPGROUPS; w++)
                tile[w] += step;
        }
        return more;
    }
};

template <int TOKENS, int GROUPS, int STAGES, bool GATED>
static __global__ void __launch_bounds__(128 * WARPGROUPS + 32, 1)
    few(const __grid_constant__ CUtensorMap weights_map, const __grid_constant__ few_args a) {
    using plan = few_plan<TOKENS, GROUPS, STAGES>;
    extern __shared__ __align__(1024) uint8_t shared[];
    const uint32_t base = __shfl_sync(~0u, shared_address(shared), 0);
    const int warpgroup = __shfl_sync(~0u, (int)threadIdx.x >> 7, 0), lane = threadIdx.x & 31;
    const int parts = 1 << a.log_parts, part = warpgroup & (parts - 1), n_groups = WARPGROUPS >> a.log_parts, group = warpgroup >> a.log_parts;
    const int log_ranks = a.log_slices - a.log_parts, ranks = 1 << log_ranks, rank = (int)cluster_rank();
    const uint32_t ring = base + parts * a.slots * plan::unit_bytes, exchange0 = ring + plan::ring, bars = exchange0 + plan::exchange;
    const uint32_t meet = bars + 16 * plan::ring_barriers, token_bars0 = meet + 16 * WARPGROUPS; /* [parts][slots] */
    const uint32_t factors = token_bars0 + parts * a.slots * 8; /* of tokens, after a norm */

    dependents_go();
    if (warpgroup == WARPGROUPS) {
        few_feeder<GROUPS, STAGES, GATED> feeder(a, &weights_map, ring, bars, lane == 0);
        if (lane == 0) {
            for (int i = 0; i < plan::ring_barriers; i++)
                barrier_init(bars + 8 * i, 1);
            cluster_barrier_fence();
        }
        __syncwarp();
        asm volatile("bar.arrive 1,%0;" ::"n"(plan::threads) : "memory");
        feeder.fill(); /* weights do not depend on the kernel before */
        cluster_arrive();
        asm volatile("bar.sync 2,%0;" ::"n"(plan::threads) : "memory"); /* the first tokens are asked for: they go before more weights */
        while (feeder.fill())
            ;
        cluster_wait();
        return;
    }

    const int member = __shfl_sync(~0u, (int)threadIdx.x >> 5, 0) & 3;
    const few_slice<GROUPS> k(a, warpgroup);
    const uint32_t my_tokens = base + part * a.slots * plan::unit_bytes, token_bars = token_bars0 + part * a.slots * 8;
    const uint32_t my_ring = ring + warpgroup * STAGES * plan::stage, full = bars + warpgroup * STAGES * 8;
    const uint32_t empty = full + 8 * plan::ring_barriers, received = meet + 16 * group, read = received + 8;
    const uint32_t exchange = exchange0 + group * parts * plan::units * 512;
    const int slices = 1 << a.log_slices, slice = (rank << a.log_parts) + part, log_share = plan::log_units - log_ranks, share = 1 << log_share;
    const float tensor_scale = load_scale(a.out.tensor_scale);

    /* Tokens of unit U to slot SLOT, by the warps of this part of K: 64 k x 8 tokens an item. As wgmma's B: rows of 128 bytes
     * with the 128-byte swizzle; position 16 s + 8 p + 2 t + j holds k = 16 t + 4 s + 2 p + j, and lane 8 t + 2 s + p a pair. */
    const int word = (lane >> 1 & 3) * 8 + (lane & 1) * 4 + (lane >> 3);
    auto ask = [&](int u, int slot) {
        const int k0 = (k.first + u) * GROUPS * GEMM_GROUP_K + 2 * lane;
        const uint32_t to0 = my_tokens + slot * plan::unit_bytes + word * 4;
#pragma unroll 1
        for (int i = group * 4 + member; i < 2 * GROUPS * TOKENS / 8; i += 4 * n_groups) {
            const int chunk = i / (TOKENS / 8), token0 = i % (TOKENS / 8) * 8, at = k0 + 64 * chunk;
            const __nv_bfloat16 *from = a.x + (size_t)token0 * a.lda + at;
            const uint32_t to = to0 + (chunk * TOKENS + token0) * 128;
            const bool inside = at < a.k;
#pragma unroll
            for (int j = 0; j < 8; j++) {
                const bool there = inside && token0 + j < a.m;
                copy_word((to ^ j << 4) + j * 128, there ? from + (size_t)j * a.lda : a.x, there);
            }
        }
        arrive_copied(token_bars + 8 * slot);
    };

    if (threadIdx.x % 128 == 0) {
        for (int s = 0; s < STAGES; s++)
            barrier_init(empty + 8 * s, 4);
        for (int i = 0; i < a.slots && group == 0; i++)
            barrier_init(token_bars + 8 * i, n_groups * 128);
        if (part == 0) {
            barrier_init(received, 1);
            barrier_init(read, ranks * 4 * parts);
            cluster_barrier_fence();
            barrier_expect(received, parts * plan::units * 512);
        }
    }
    asm volatile("bar.sync 1,%0;" ::"n"(plan::threads) : "memory"); /* the barriers stand */
    cluster_arrive(); /* the others may send when all barriers stand: waited for before the first sum */
    dependency_wait();
    for (int u = 0; u < AHEAD && u < k.units; u++)
        ask(u, u);
    asm volatile("bar.arrive 2,%0;" ::"n"(plan::threads) : "memory");
    const bool normed = a.after.squares;
    if (normed) {
        const int warp = warpgroup * 4 + member, n_squares = a.k / 16;
        for (int token = warp; token < a.m; token += 4 * WARPGROUPS) {
            float sum = 0.0f;
#pragma unroll 8
            for (int i = lane; i < n_squares; i += 32)
                sum += __ldcg(a.after.squares + (size_t)token * n_squares + i);
#pragma unroll
            for (int i = 16; i; i >>= 1)
                sum += __shfl_xor_sync(~0u, sum, i);
            const float mean = sum / (float)a.k + a.after.eps, over = rsqrtf(mean);
            if (lane == 0)
                sts32(factors + token * 4, __float_as_uint(over * (1.5f - 0.5f * mean * over * over))); /* Newton: the last bits */
        }
        asm volatile("bar.sync 7,%0;" ::"n"(128 * WARPGROUPS) : "memory");
    }

    const float factor = 0x1p17f * (a.out.alpha * tensor_scale);
    const uint32_t tokens0 = descriptor_low(my_tokens);
    int consumed = 0;
    /* Adds the slices of this block's share of a tile and stores it. */
    auto consume = [&](int tile, bool last) {
        constexpr int EACH = GATED ? 2 : 1; /* units at a time: of the gate, and its twin of up */
        const auto unit_of = [&](int i) { return ((rank << log_share) + i) / EACH; };
        const auto row_of = [&](int at) { return tile * (64 / EACH) + at / (TOKENS / 8) * 16; };
        spread_store spread;
        const auto fetch = [&](int i) { /* on its way while sums are waited for */
            const int at = unit_of(i);
            if (!GATED && a.before.squares && i < share && row_of(at) < a.row_tiles * 16)
                spread.fetch(a.out, a.before, a.m, at % (TOKENS / 8) * 8, row_of(at));
        };
        fetch(part * 4 + member);
        barrier_wait(received, consumed & 1);
        if (part == 0 && threadIdx.x % 128 == 0)
            barrier_expect(received, parts * plan::units * 512);
        consumed++;
#pragma unroll 1
        for (int i = (part * 4 + member) * EACH; i < share; i += 4 * parts * EACH) {
            float4 v[EACH];
#pragma unroll
            for (int e = 0; e < EACH; e++) {
                v[e] = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 4
                for (int r = 0; r < slices; r++) {
                    const uint4 u = lds128(exchange + ((r << log_share) + i + e) * 512 + lane * 16);
                    v[e].x += __uint_as_float(u.x), v[e].y += __uint_as_float(u.y);
                    v[e].z += __uint_as_float(u.z), v[e].w += __uint_as_float(u.w);
                }
                v[e].x *= factor, v[e].y *= factor, v[e].z *= factor, v[e].w *= factor;
                if (normed) {
                    const uint2 two = lds64(factors + (unit_of(i) % (TOKENS / 8) * 8 + 2 * (lane & 3)) * 4);
                    const float x = __uint_as_float(two.x), y = __uint_as_float(two.y);
                    v[e].x *= x, v[e].y *= y, v[e].z *= x, v[e].w *= y;
                }
            }
            if (GATED) {
                const bool gelu = a.unit == GEMM_UNIT_GELU;
                v[0].x = gated_unit(v[0].x, v[EACH - 1].x, gelu), v[0].y = gated_unit(v[0].y, v[EACH - 1].y, gelu);
                v[0].z = gated_unit(v[0].z, v[EACH - 1].z, gelu), v[0].w = gated_unit(v[0].w, v[EACH - 1].w, gelu);
            }
            const int at = unit_of(i), row = row_of(at);
            const float4 result[1] = {v[0]};
            if (row >= a.row_tiles * (16 / EACH))
                continue;
            if (!GATED && a.before.squares)
                spread.store(a.before, a.row_tiles, a.m, v[0]);
            else
                store_fragments(a.out, a.m, at % (TOKENS / 8) * 8, row, result);
            fetch(i + 4 * parts);
        }
        __syncwarp();
        if (lane < ranks && !last) /* after the last nobody sends, and others may be gone */
            arrive_at(in_block(read, lane));
    };

    int stage = 0, round = 0, slot = 0, next_slot = AHEAD, next_unit = AHEAD < k.units ? AHEAD : AHEAD - k.units;
    uint32_t phase = 0, token_phase = 0;
    int tile = k.tile;
#pragma unroll 1
    for (; tile < k.tiles; tile += k.step, round++) {
        float d[TOKENS / 2];
#pragma unroll
        for (int i = 0; i < TOKENS / 2; i++)
            d[i] = 0.0f;
#pragma unroll 1
        for (int u = 0; u < k.units; u++) {
            uint32_t f[2][16];
            const uint32_t lane16 = my_ring + stage * plan::stage + member * plan::row_bytes + lane * 16;
            const uint32_t scales = my_ring + stage * plan::stage + member * plan::row_bytes + 1024 + lane * 4;
            const uint32_t b = tokens0 + (a.stream ? slot : u) * (plan::unit_bytes >> 4);
            barrier_wait(full + 8 * stage, phase);
#pragma unroll
            for (int i = 0; i < 2 * GROUPS; i++) { /* 64 k each */
                convert_bf16(lds128(lane16 + i / 2 * GEMM_GROUP_BYTES + i % 2 * 512), lds32(scales + i / 2 * GEMM_GROUP_BYTES), i % 2, f[i % 2]);
                if (i == 0 && (round == 0 || a.stream)) {
                    barrier_wait(token_bars + 8 * (a.stream ? slot : u), token_phase);
                    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
                }
                wgmma_fence();
#pragma unroll
                for (int j = 0; j < 4; j++)
                    wgmma_bf16(d, f[i % 2] + 4 * j, descriptor_at(b + ((i * TOKENS * 128 + 32 * j) >> 4)));
                wgmma_commit();
                wgmma_wait<1>();
            }
            __syncwarp();
            if (lane == 0)
                barrier_arrive(empty + 8 * stage);
            if (++stage == STAGES) {
                stage = 0;
                phase ^= 1;
            }
            if (a.stream && ++slot == a.slots) {
                slot = 0;
                token_phase ^= 1;
            }
            /* tokens AHEAD units on, where they stream in the place of the unit before, which all have read */
            if (a.stream ? tile + (u + AHEAD >= k.units ? k.step : 0) < k.tiles : round == 0 && u + AHEAD < k.units) {
                if (a.stream)
                    asm volatile("bar.sync %0,128;" ::"r"(3 + warpgroup) : "memory");
                ask(next_unit, next_slot);
                next_slot = next_slot + 1 == a.slots ? 0 : next_slot + 1;
                next_unit = next_unit + 1 == k.units ? 0 : next_unit + 1;
            }
            if (u == 0 && round > 0)
                consume(tile - k.step, false);
        }
        wgmma_wait<0>();
        if (round == 0)
            cluster_wait();
        else
            barrier_wait(read, (round - 1) & 1);
#pragma unroll
        for (int j = 0; j < TOKENS / 8; j++) {
            /* of the tile's: gated, the gate's and its twin's side by side */
            const int unit = GATED ? ((member & 1) * (TOKENS / 8) + j) * 2 + (member >> 1) : member * (TOKENS / 8) + j;
            const int to = unit >> log_share;
            send(in_block(exchange + (slice * share + unit - (to << log_share)) * 512 + lane * 16, to), in_block(received, to), d + 4 * j);
        }
    }
    if (round > 0) {
        consume(tile - k.step, true);
    } else { /* no tile: only this warpgroup's share of the tokens */
        for (int u = AHEAD; u < k.units && !a.stream; u++)
            ask(u, u);
        asm volatile("cp.async.wait_all;" ::: "memory");
        cluster_wait();
    }
}

template <int TOKENS, int GROUPS, int STAGES, bool GATED> static int launch_few(const gemm_task *t) {
    using plan = few_plan<TOKENS, GROUPS, STAGES>;
    const int ranks = t->slices / t->parts, units = (t->groups + GROUPS - 1) / GROUPS, slice = (units + t->slices - 1) / t->slices;
    const int fit = (t->max_shared - plan::shared(0)) / ((plan::unit_bytes + 8) * t->parts), slots = fit < slice ? AHEAD + 1 : slice;
    const few_args a = {(const __nv_bfloat16 *)t->a, t->m, t->k, t->lda, t->groups, t->n / 16, __builtin_ctz(t->parts),
                        __builtin_ctz(t->slices), slots, slots < slice, t->unit, t->out, t->after, t->before};
    CUtensorMap weights;
    if (units < t->slices || ranks * (GATED ? 2 : 1) > plan::units || (a.stream && (t->parts < WARPGROUPS || slots > fit)) ||
        !map_weights(t, &weights, GROUPS, GATED ? 2 : 4))
        return cudaErrorInvalidValue; /* the choice keeps to this */
    const int shared = plan::shared(t->parts * slots), tiles = (t->n + 63) / 64, wanted = (tiles * t->parts + WARPGROUPS - 1) / WARPGROUPS;
    cudaLaunchAttribute attributes[2];
    cudaLaunchConfig_t config = cluster_config(attributes, ranks, ranks * min(t->clusters, wanted), plan::threads, shared, true);
    config.stream = (cudaStream_t)t->stream;
    const auto kernel = few<TOKENS, GROUPS, STAGES, GATED>;
    const cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                               t->max_shared); /* one number: other threads launch it too */
    return e != cudaSuccess ? e : cudaLaunchKernelEx(&config, kernel, weights, a);
}

template <bool GATED> static int launch_tokens(const gemm_task *t) {
    switch (t->tile_tokens) {
    case 8:
        return launch_few<8, 2, 3, GATED>(t);
    case 16:
        return launch_few<16, 2, 3, GATED>(t);
    default:
        return launch_few<32, 1, 4, GATED>(t);
    }
}

extern "C" int gemm_few(const gemm_task *t) {
    return t->unit == GEMM_UNIT_NONE ? launch_tokens<false>(t) : launch_tokens<true>(t);
}

extern "C" int gemm_few_clusters(int ranks, int *clusters) {
    const auto kernel = few<16, 2, 3, false>;
    using plan = few_plan<16, 2, 3>;
    const int shared = plan::shared(0); /* one block a multiprocessor, whatever the tokens */
    cudaLaunchAttribute attributes[2];
    cudaLaunchConfig_t config = cluster_config(attributes, ranks, ranks, plan::threads, shared, false);
    int device, most;
    cudaError_t e = cudaGetDevice(&device);
    if (e == cudaSuccess)
        e = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (e == cudaSuccess)
        e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most); /* as launch_few does */
    return e != cudaSuccess ? e : cudaOccupancyMaxActiveClusters(clusters, kernel, &config);
}
