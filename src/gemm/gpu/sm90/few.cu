/* SPDX-License-Identifier: Apache-2.0
 *
 * Hopper, 9 to 32 tokens: exact. Weights are the register operand of wgmma, tokens its N; one launch, nothing prepared.
 *
 * K is cut into slices, one for each of PARTS warpgroups of each block of a cluster; a warpgroup keeps its slice's tokens in
 * shared memory, in the order of k that the weights have, so that weights alone stream. PARTS warpgroups together take 64
 * rows at a time, a warp 16 of them: its own ring of weights (bulk copies), decoded to BF16 with their scales while the
 * wgmma of the 64 k before run. No barrier stands in the loop. The sums of a tile meet in the shared memory of the
 * cluster (st.async): every block adds the slices of its share in their order and stores it after the next tile's products.
 *
 * Where a slice's tokens do not fit, they come in phases, again for each tile.
 *
 * Bytes moved: the weights once; the tokens once a cluster. Measured: docs/gpu/few.md.
 */
#include "gemm/gpu/ring.cuh"
#include "gemm/gpu/sm90/cluster.cuh"
#include "gemm/gpu/sm90/operand.cuh"
#include "gemm/gpu/sm90/store.cuh"

#define WARPGROUPS 4
#define UNIT_BYTES  (2 * GEMM_GROUP_BYTES) /* of weights, a warp's stage: 16 rows x 256 k */

struct few_args {
    const uint8_t *w;
    const __nv_bfloat16 *x;
    int m, k, lda, groups, row_tiles;
    int parts;    /* of K in a block: 1, 2 or 4 */
    int phases;   /* of a slice */
    int resident; /* units of tokens of a slice that stand in shared memory at a time */
    gemm_out out;
};

template <int TOKENS, int STAGES> struct few_plan {
    static const int units = TOKENS / 2;                      /* of a tile's sums: 16 rows x 8 tokens of a warp, 512 bytes */
    static const int unit_bytes = TOKENS * 2 * GEMM_GROUP_K * 2; /* of tokens, 256 k */
    static const int ring = 4 * WARPGROUPS * STAGES * UNIT_BYTES;
    static const int exchange = units * 512 * WARPGROUPS; /* what a block receives of one tile of each group of warpgroups */
    static const int barriers = 4 * WARPGROUPS * STAGES * 8 + 2 * WARPGROUPS * 8;
    static const int fixed = ring + exchange + barriers;
};

/* ---- tokens ---- */

/* COUNT units of tokens from unit FIRST, as wgmma's B: chunks of 64 k, rows of 128 bytes with the 128-byte swizzle. A
 * thread takes 4 x 16 bytes of a token, which are 4 x 16 bytes of its row: position 16 s + 8 p + 2 t + j of a chunk holds
 * k = 16 t + 4 s + 2 p + j. */
template <int TOKENS>
GEMM_DEV void load_tokens(const few_args &a, uint8_t *to, int first, int count, int thread, int threads) {
    constexpr int FLIGHT = 2; /* items of four loads each */
    const int end = TOKENS * count * 8;
    for (int i0 = thread; i0 < end; i0 += FLIGHT * threads) {
        uint4 v[FLIGHT][4];
#pragma unroll
        for (int q = 0; q < FLIGHT; q++) {
            const int i = i0 + q * threads, h = i & 1, token = (i >> 1) % TOKENS, chunk = (i >> 1) / TOKENS;
            const int k = first * 2 * GEMM_GROUP_K + chunk * 64 + 8 * h;
#pragma unroll
            for (int t = 0; t < 4; t++)
                v[q][t] = i < end && token < a.m && k + 16 * t < a.k
                              ? __ldcg((const uint4 *)(a.x + (size_t)token * a.lda + k + 16 * t))
                              : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int q = 0; q < FLIGHT; q++) {
            const int i = i0 + q * threads, h = i & 1, token = (i >> 1) % TOKENS, chunk = (i >> 1) / TOKENS;
            uint8_t *row = to + (chunk * TOKENS + token) * 128;
            const int swizzle = token & 7;
            if (i < end) {
                *(uint4 *)(row + (((4 * h) ^ swizzle) << 4)) = make_uint4(v[q][0].x, v[q][1].x, v[q][2].x, v[q][3].x);
                *(uint4 *)(row + (((4 * h + 1) ^ swizzle) << 4)) = make_uint4(v[q][0].y, v[q][1].y, v[q][2].y, v[q][3].y);
                *(uint4 *)(row + (((4 * h + 2) ^ swizzle) << 4)) = make_uint4(v[q][0].z, v[q][1].z, v[q][2].z, v[q][3].z);
                *(uint4 *)(row + (((4 * h + 3) ^ swizzle) << 4)) = make_uint4(v[q][0].w, v[q][1].w, v[q][2].w, v[q][3].w);
            }
        }
    }
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

template <int TOKENS, int STAGES>
static __global__ void __launch_bounds__(128 * WARPGROUPS, 1) few(const __grid_constant__ few_args a) {
    using plan = few_plan<TOKENS, STAGES>;
    extern __shared__ __align__(1024) uint8_t shared[];
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, member = warp & 3;
    const int part = (warp >> 2) % a.parts, group = (warp >> 2) / a.parts, n_groups = WARPGROUPS / a.parts;
    const int ranks = (int)cluster_size(), rank = (int)cluster_rank(), slices = ranks * a.parts, slice = rank * a.parts + part;
    const int cluster = blockIdx.x / ranks, clusters = gridDim.x / ranks;
    uint8_t *rings = shared + a.parts * a.resident * plan::unit_bytes, *my_tokens = shared + part * a.resident * plan::unit_bytes;
    const uint32_t exchange = shared_address(rings) + plan::ring + group * a.parts * plan::units * 512;
    const uint32_t bars = shared_address(rings) + plan::ring + plan::exchange;
    const uint32_t full = bars + 4 * WARPGROUPS * STAGES * 8 + group * 8, empty = full + WARPGROUPS * 8;
    const bool first_of_group = part == 0 && threadIdx.x % 128 == 0;

    dependents_go();
    if (first_of_group) {
        barrier_init(full, 1);
        barrier_init(empty, ranks * 4 * a.parts);
        cluster_barrier_fence();
    }
    warp_ring<STAGES, UNIT_BYTES> ring;
    ring.open(shared_address(rings) + warp * STAGES * UNIT_BYTES, bars + warp * STAGES * 8);
    const int all_units = (a.groups + 1) / 2, slice_first = slice * all_units / slices;
    const int units = (slice + 1) * all_units / slices - slice_first;
    const bool odd = a.groups % 2 && slice == slices - 1; /* the last unit is one group of 128 k */
    const int tiles = (a.row_tiles + 3) / 4, tile0 = cluster * n_groups + group, tile_step = clusters * n_groups;
    const int rounds = (tiles - tile0 + tile_step - 1) / tile_step;
    const uint8_t *src;
    int put_tile = tile0, put_unit = 0;
    auto put_row = [&]() { /* past the end: read, and stored nowhere */
        const int row_tile = min(put_tile * 4 + member, a.row_tiles - 1);
        src = a.w + ((size_t)row_tile * a.groups + 2 * slice_first) * GEMM_GROUP_BYTES;
    };
    auto put = [&](int s) {
        const int bytes = odd && put_unit == units - 1 ? GEMM_GROUP_BYTES : UNIT_BYTES;
        ring.put(s, src, nullptr, put_tile < tiles ? bytes : 0, 0);
        src += UNIT_BYTES;
        if (++put_unit == units) {
            put_unit = 0;
            put_tile += tile_step;
            put_row();
        }
    };
    put_row();
    for (int s = 0; s < STAGES; s++)
        put(s);
    const float tensor_scale = load_scale(a.out.tensor_scale);
    if (first_of_group)
        barrier_expect(full, a.parts * plan::units * 512);
    cluster_arrive(); /* the others may send when all barriers stand: waited for before the first sum */
    dependency_wait();

    const float factor = 0x1p17f * (a.out.alpha * tensor_scale);
    const uint32_t token_chunks = __reduce_max_sync(~0u, descriptor_low(shared_address(my_tokens)));
    auto load_phase = [&](int first, int count) { /* by all warpgroups of this part of K, that share the tokens */
        load_tokens<TOKENS>(a, my_tokens, slice_first + first, count, group * 128 + threadIdx.x % 128, n_groups * 128);
        asm volatile("bar.sync %0,%1;" ::"r"(1 + part), "r"(n_groups * 128) : "memory");
    };
    const int share = plan::units / ranks;
    int consumed = 0;

    /* Adds the slices of this block's share of a tile and stores it. */
    auto consume = [&](int tile, bool last) {
        barrier_wait(full, consumed & 1);
        if (first_of_group)
            barrier_expect(full, a.parts * plan::units * 512);
        consumed++;
        for (int i = part * 4 + member; i < share; i += 4 * a.parts) {
            float4 v[1] = {make_float4(0.0f, 0.0f, 0.0f, 0.0f)};
            for (int r = 0; r < slices; r++) {
                const uint4 u = lds128(exchange + (r * share + i) * 512 + lane * 16);
                v[0].x += __uint_as_float(u.x), v[0].y += __uint_as_float(u.y);
                v[0].z += __uint_as_float(u.z), v[0].w += __uint_as_float(u.w);
            }
            v[0].x *= factor, v[0].y *= factor, v[0].z *= factor, v[0].w *= factor;
            const int unit = rank * share + i, row = tile * 64 + unit / (TOKENS / 8) * 16;
            if (row < a.row_tiles * 16)
                store_fragments(a.out, a.m, unit % (TOKENS / 8) * 8, row, v);
        }
        __syncwarp();
        if (lane < ranks && !last) /* after the last nobody sends, and others may be gone */
            arrive_at(in_block(empty, lane));
    };

    if (a.phases == 1)
        load_phase(0, units);
    cluster_wait();
    for (int round = 0; round < rounds; round++) {
        const int tile = tile0 + round * tile_step;
        float d[TOKENS / 2];
#pragma unroll
        for (int i = 0; i < TOKENS / 2; i++)
            d[i] = 0.0f;
        for (int phase = 0; phase < a.phases; phase++) {
            const int first = phase * units / a.phases, end = (phase + 1) * units / a.phases;
            if (a.phases > 1) {
                asm volatile("bar.sync %0,%1;" ::"r"(1 + part), "r"(n_groups * 128) : "memory"); /* the phase before is read */
                load_phase(first, end - first);
            }
            uint32_t f[2][16];
            uint32_t b = token_chunks;
            auto half = [&](uint32_t lane16, uint32_t scales, int h, int chunk) { /* 64 k */
                convert_bf16(lane16, scales, h, f[h]);
                wgmma_fence();
#pragma unroll
                for (int j = 0; j < 4; j++)
                    wgmma_bf16(d, f[h] + 4 * j, descriptor_at(b + ((chunk * TOKENS * 128 + 32 * j) >> 4)));
                wgmma_commit();
                wgmma_wait<1>();
            };
            auto unit = [&](int u) {
                const uint32_t stage = ring.wait(), lane16 = stage + lane * 16, scales = stage + 1024 + lane * 4;
                half(lane16, scales, 0, 0);
                half(lane16, scales, 1, 1);
                if (!odd || u < units - 1) {
                    half(lane16 + GEMM_GROUP_BYTES, scales + GEMM_GROUP_BYTES, 0, 2);
                    half(lane16 + GEMM_GROUP_BYTES, scales + GEMM_GROUP_BYTES, 1, 3);
                }
                put(ring.release());
                b += plan::unit_bytes >> 4;
            };
            unit(first);
            if (round > 0 && phase == 0)
                consume(tile - tile_step, false);
#pragma unroll 1
            for (int u = first + 1; u < end; u++)
                unit(u);
            wgmma_wait<0>();
        }
        if (round > 0)
            barrier_wait(empty, (round - 1) & 1);
#pragma unroll
        for (int j = 0; j < TOKENS / 8; j++) {
            const int unit = member * (TOKENS / 8) + j, to = unit / share;
            send(in_block(exchange + (slice * share + unit - to * share) * 512 + lane * 16, to), in_block(full, to), d + 4 * j);
        }
    }
    if (rounds > 0)
        consume(tile0 + (rounds - 1) * tile_step, true);
}

template <int TOKENS, int STAGES> static int launch_few(const gemm_task *t) {
    using plan = few_plan<TOKENS, STAGES>;
    few_args a = {(const uint8_t *)t->w, (const __nv_bfloat16 *)t->a, t->m, t->k, t->lda, t->groups, t->n / 16, t->parts, 1, 0, t->out};
    const int ranks = t->slices / t->parts, units = (t->groups + 1) / 2, slice = (units + t->slices - 1) / t->slices;
    const int fit = (t->max_shared - plan::fixed) / (plan::unit_bytes * t->parts);
    a.phases = (slice + fit - 1) / fit;
    a.resident = (slice + a.phases - 1) / a.phases;
    if (units < t->slices || (a.phases > 1 && t->parts < WARPGROUPS)) /* the choice keeps to this */
        return cudaErrorInvalidValue;
    const int shared = t->parts * a.resident * plan::unit_bytes + plan::fixed;
    const int tiles = (t->n + 63) / 64, wanted = (tiles * t->parts + WARPGROUPS - 1) / WARPGROUPS;
    cudaLaunchAttribute attributes[2];
    cudaLaunchConfig_t config = cluster_config(attributes, ranks, ranks * min(t->clusters, wanted), 128 * WARPGROUPS, shared, true);
    config.stream = (cudaStream_t)t->stream;
    const cudaError_t e = cudaFuncSetAttribute(few<TOKENS, STAGES>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
    return e != cudaSuccess ? e : cudaLaunchKernelEx(&config, few<TOKENS, STAGES>, a);
}

extern "C" int gemm_few(const gemm_task *t) {
    return t->tile_tokens == 16 ? launch_few<16, 3>(t) : launch_few<32, 2>(t);
}

extern "C" int gemm_few_clusters(int ranks, int *clusters) {
    const int shared = few_plan<16, 3>::fixed; /* one block a multiprocessor, whatever the tokens */
    cudaLaunchAttribute attributes[2];
    cudaLaunchConfig_t config = cluster_config(attributes, ranks, ranks, 128 * WARPGROUPS, shared, false);
    const cudaError_t e = cudaFuncSetAttribute(few<16, 3>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
    return e != cudaSuccess ? e : cudaOccupancyMaxActiveClusters(clusters, few<16, 3>, &config);
}
