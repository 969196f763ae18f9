/* SPDX-License-Identifier: Apache-2.0
 *
 * Hopper, experts with few tokens each: exact. Weights are the register operand of wgmma, 8 tokens its N.
 *
 * A chunk is up to 8 tokens of one expert, an item 64 rows x a chunk. Each block makes a table of all chunks from the offsets;
 * a chunk's items follow one another, and teams of PARTS warpgroups take the items in turn, so that together they read one
 * stretch of weights after another. The parts of a team share K. Each warp has 16 of the rows and a ring of its own, STAGES
 * deep, GROUPS of 128 k by one bulk copy a stage, decoded to BF16 with their scales while the wgmma of the 64 k before run.
 * The next item's tokens are on their way while this one's are used, where both fit. FP32 takes over the sums every SPAN groups.
 *
 * Bytes moved: the weights of experts with tokens, once a chunk; a chunk's tokens once an item. Measured: docs/gpu/gemv.md.
 */
#include "gemm/gpu/device.cuh"
#include "gemm/gpu/ring.cuh"
#include "gemm/gpu/sm90/operand.cuh"
#include "gemm/gpu/sm90/store.cuh"

#define WARPGROUPS   4
#define THREADS      (128 * WARPGROUPS)
#define WARPS        (THREADS / 32)
#define TOKENS       8
#define ITEM_TILES   4    /* row tiles */
#define SPAN         8    /* groups */
#define EACH         2    /* experts of a thread: 1,024 at most */
#define STATIC_BYTES 1024 /* of shared memory, which make_chunks takes, up to the alignment of what follows */

struct experts_args {
    const int *offsets;
    const uint8_t *const *packed;
    const __nv_bfloat16 *x;
    int experts, k, lda, groups, row_tiles;
    int buffers; /* of tokens: 1 or 2 */
    size_t scale_offset;
    gemm_out out;
};

struct chunk {
    const uint8_t *packed;
    int row, rows; /* of x and d */
};

template <int PARTS, int GROUPS, int STAGES> struct experts_plan {
    static const int stage = GROUPS * GEMM_GROUP_BYTES, group_tokens = TOKENS * GEMM_GROUP_K * 2, teams = WARPGROUPS / PARTS;
    static const int sums = (PARTS - 1) * ITEM_TILES * 16 * TOKENS * 4; /* of a team */
    static const int fixed = WARPS * STAGES * (stage + 8) + teams * sums;
    static size_t shared(const gemm_task *t, size_t experts, int buffers) {
        return (size_t)teams * buffers * t->groups * group_tokens + fixed + (experts + t->m / TOKENS) * sizeof(chunk);
    }
};

/* All chunks in order; returns how many. */
GEMM_DEV int make_chunks(const experts_args &a, chunk *chunks) {
    __shared__ int sums[WARPS];
    const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, first = threadIdx.x * EACH;
    int edge[EACH + 1], mine = 0, all = 0;
    const uint8_t *packed[EACH];
    for (int i = 0; i <= EACH; i++)
        edge[i] = a.offsets[min(first + i, a.experts)];
    for (int i = 0; i < EACH; i++)
        packed[i] = a.packed[min(first + i, a.experts - 1)];
    for (int i = 0; i < EACH; i++)
        mine += (edge[i + 1] - edge[i] + TOKENS - 1) / TOKENS;
    int at = mine;
    for (int d = 1; d < 32; d *= 2) {
        const int v = __shfl_up_sync(~0u, at, d);
        at += lane >= d ? v : 0;
    }
    if (lane == 31)
        sums[warp] = at;
    __syncthreads();
    at -= mine;
    for (int w = 0; w < WARPS; w++) {
        at += w < warp ? sums[w] : 0;
        all += sums[w];
    }
    for (int i = 0; i < EACH; i++)
        for (int row = edge[i]; row < edge[i + 1]; row += TOKENS)
            chunks[at++] = {packed[i], row, min(TOKENS, edge[i + 1] - row)};
    __syncthreads();
    return all;
}

/* A team's items: which chunk, and the item's first row tile. STEP items on: so many chunks and tiles. */
struct item {
    int at, tile;

    GEMM_DEV void next(int step_chunks, int step_tiles, int chunk_tiles) {
        at += step_chunks;
        tile += step_tiles;
        if (tile >= chunk_tiles) {
            at++;
            tile -= chunk_tiles;
        }
    }
};

/* Tokens as wgmma's B, in the order of k that the weights have: 64 k of 8 tokens are 1,024 bytes, rows of 128 with the 128-byte
 * swizzle; position 16 s + 8 p + 2 t + j of a row holds k = 16 t + 4 s + 2 p + j. Lane 8 t + 2 s + p copies a pair, 4 bytes, so
 * that a warp reads 128 contiguous bytes of a token. */
GEMM_DEV int token_place(int lane) { /* before the swizzle */
    return ((lane >> 1 & 3) * 8 + (lane & 1) * 4 + (lane >> 3)) * 4;
}

/* ROWS of 8 tokens, LDA apart: to TO (with token_place), from FROM (with 2 lane); zeros past the end of k (not INSIDE, where
 * VALID is any address). What stands in the other rows meets no result. */
GEMM_DEV void copy_tokens(uint32_t to, const __nv_bfloat16 *from, int lda, int rows, bool inside, const void *valid) {
#pragma unroll
    for (int j = 0; j < TOKENS; j++)
        if (j < rows)
            asm volatile("cp.async.ca.shared.global [%0],[%1],4,%2;" ::"r"((to ^ j << 4) + j * 128),
                         "l"(inside ? from + (size_t)j * lda : valid), "r"(inside ? 4 : 0)
                         : "memory");
}

GEMM_DEV void named_barrier(int id, int threads) {
    asm volatile("bar.sync %0,%1;" ::"r"(id), "r"(threads) : "memory");
}

/* The sums of a team's other parts go to its first, whose threads add them in order. FIRST: nothing was handed over before. */
template <int PARTS> GEMM_DEV void meet_parts(float4 *exchange, int bar, int part, bool first, float (&d)[4]) {
    const int thread = threadIdx.x & 127, there = bar, read = bar + 1;
    if (part > 0) {
        if (!first)
            named_barrier(read, PARTS * 128);
        exchange[(part - 1) * 128 + thread] = make_float4(d[0], d[1], d[2], d[3]);
        asm volatile("bar.arrive %0,%1;" ::"r"(there), "n"(PARTS * 128) : "memory");
    } else {
        named_barrier(there, PARTS * 128);
#pragma unroll
        for (int p = 0; p < PARTS - 1; p++) {
            const float4 v = exchange[p * 128 + thread];
            d[0] += v.x, d[1] += v.y, d[2] += v.z, d[3] += v.w;
        }
        asm volatile("bar.arrive %0,%1;" ::"r"(read), "n"(PARTS * 128) : "memory");
    }
}

template <int PARTS, int GROUPS, int STAGES>
static __global__ void __launch_bounds__(THREADS, 1) experts(const __grid_constant__ experts_args a) {
    using plan = experts_plan<PARTS, GROUPS, STAGES>;
    extern __shared__ __align__(1024) uint8_t shared[];
    const int warp = __shfl_sync(~0u, (int)threadIdx.x >> 5, 0), lane = threadIdx.x & 31, member = warp & 3;
    const int team = (warp >> 2) / PARTS, part = (warp >> 2) % PARTS, bar = 1 + 3 * team; /* three barriers of a team */
    const uint32_t token_bytes = a.groups * plan::group_tokens;
    const uint32_t tokens0 = __shfl_sync(~0u, shared_address(shared), 0) + team * a.buffers * token_bytes;
    uint8_t *rings = shared + plan::teams * a.buffers * token_bytes, *after = rings + WARPS * STAGES * plan::stage;
    float4 *exchange = (float4 *)(after + team * plan::sums);
    const uint32_t bars = shared_address(after) + plan::teams * plan::sums;
    chunk *chunks = (chunk *)(after + plan::teams * plan::sums + WARPS * STAGES * 8);

    dependents_go();
    warp_ring<STAGES, plan::stage> ring;
    ring.open(shared_address(rings) + warp * STAGES * plan::stage, bars + warp * STAGES * 8);
    dependency_wait();
    const int count = make_chunks(a, chunks);
    const int chunk_items = (a.row_tiles + ITEM_TILES - 1) / ITEM_TILES, chunk_tiles = chunk_items * ITEM_TILES;
    const int step = gridDim.x * plan::teams, step_chunks = step / chunk_items, step_tiles = step % chunk_items * ITEM_TILES;
    const int first_item = gridDim.x * team + blockIdx.x;
    item now = {first_item / chunk_items, first_item % chunk_items * ITEM_TILES}, ahead = now;

    const int units = a.groups / GROUPS, my_first = part * units / PARTS * GROUPS, my_end = (part + 1) * units / PARTS * GROUPS;
    int next_group = my_first;
    const uint8_t *next_row = nullptr; /* of the item that is copied: this warp's row tile */
    auto put = [&](int s) {
        const bool more = ahead.at < count;
        if (more && next_group == my_first)
            next_row = chunks[ahead.at].packed + (size_t)min(ahead.tile + member, a.row_tiles - 1) * a.groups * GEMM_GROUP_BYTES;
        ring.put(s, next_row + next_group * GEMM_GROUP_BYTES, nullptr, more ? plan::stage : 0, 0);
        next_group += GROUPS;
        if (next_group == my_end) {
            next_group = my_first;
            ahead.next(step_chunks, step_tiles, chunk_tiles);
        }
    };
    for (int s = 0; s < STAGES; s++)
        put(s);

    auto ask = [&](const chunk &c, uint32_t to) { /* tokens, by the warps of the team */
        for (int i = part * 4 + member; i < 2 * a.groups; i += 4 * PARTS)
            copy_tokens(to + i * 1024 + token_place(lane), a.x + (size_t)c.row * a.lda + i * 64 + 2 * lane, a.lda, c.rows,
                        i * 64 + 2 * lane < a.k, a.x);
    };
    if (now.at < count)
        ask(chunks[now.at], tokens0);
#pragma unroll 1
    for (int n = 0; now.at < count; n++) {
        const uint32_t low = descriptor_low(tokens0 + (a.buffers > 1 ? (n & 1) * token_bytes : 0));
        const chunk c = chunks[now.at];
        const float tensor_scale = *(const float *)(c.packed + a.scale_offset); /* used with the result */
        const int tile = now.tile + member;
        now.next(step_chunks, step_tiles, chunk_tiles);
        asm volatile("cp.async.wait_all;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        named_barrier(bar + 2, PARTS * 128); /* these tokens are there, and all have read those before */
        if (a.buffers > 1 && now.at < count)
            ask(chunks[now.at], tokens0 + (~n & 1) * token_bytes);
        float sum[4] = {};
#pragma unroll 1
        for (int g0 = my_first; g0 < my_end; g0 += SPAN) {
            const int g1 = min(g0 + SPAN, my_end);
            float d[4] = {};
#pragma unroll 1
            for (int g = g0; g < g1; g += GROUPS) {
                uint32_t f[2][16];
                const uint32_t stage = ring.wait(), b = low + (g * plan::group_tokens >> 4);
#pragma unroll
                for (int i = 0; i < 2 * GROUPS; i++) { /* 64 k each */
                    const uint32_t from = stage + i / 2 * GEMM_GROUP_BYTES;
                    convert_bf16(lds128(from + i % 2 * 512 + lane * 16), lds32(from + 1024 + lane * 4), i % 2, f[i % 2]);
                    wgmma_fence();
#pragma unroll
                    for (int j = 0; j < 4; j++)
                        wgmma_bf16(d, f[i % 2] + 4 * j, descriptor_at(b + ((i * 1024 + 32 * j) >> 4)));
                    wgmma_commit();
                    wgmma_wait<1>();
                }
                put(ring.release());
            }
            wgmma_wait<0>();
#pragma unroll
            for (int i = 0; i < 4; i++)
                sum[i] += d[i];
        }
        if (PARTS > 1)
            meet_parts<PARTS>(exchange, bar, part, n == 0, sum);
        if (part == 0 && tile < a.row_tiles) {
            const float factor = 0x1p17f * (a.out.alpha * tensor_scale);
            const float4 v[1] = {make_float4(sum[0] * factor, sum[1] * factor, sum[2] * factor, sum[3] * factor)};
            store_fragments(a.out, c.row + c.rows, c.row, tile * 16, v);
        }
        if (a.buffers == 1 && now.at < count) {
            named_barrier(bar + 2, PARTS * 128); /* all have read the tokens before */
            ask(chunks[now.at], tokens0);
        }
    }
}

template <int PARTS, int GROUPS, int STAGES> static bool fits(const gemm_task *t, size_t experts, int buffers) {
    return experts_plan<PARTS, GROUPS, STAGES>::shared(t, experts, buffers) + STATIC_BYTES <= (size_t)t->max_shared;
}

template <int PARTS, int GROUPS, int STAGES> static int launch(const gemm_task *t, const nib_gemm_group *p, int buffers) {
    const experts_args a = {p->offsets, (const uint8_t *const *)p->packed, (const __nv_bfloat16 *)t->a, (int)p->n_experts,
                            t->k,       t->lda,                            t->groups,                   t->n / 16,
                            buffers,    gemm_scale_offset((size_t)t->n, (size_t)t->k), t->out};
    return launch_kernel(t, experts<PARTS, GROUPS, STAGES>, t->n_sms, THREADS,
                         experts_plan<PARTS, GROUPS, STAGES>::shared(t, p->n_experts, buffers), a);
}

/* Two buffers of tokens where they fit, then four stages where they fit. */
template <int PARTS, int GROUPS> static int launch_fitting(const gemm_task *t, const nib_gemm_group *p) {
    const int buffers = fits<PARTS, GROUPS, 3>(t, p->n_experts, 2) ? 2 : 1;
    return fits<PARTS, GROUPS, 4>(t, p->n_experts, buffers) ? launch<PARTS, GROUPS, 4>(t, p, buffers)
                                                            : launch<PARTS, GROUPS, 3>(t, p, buffers);
}

/* Up to four items a team: beyond that a warp's own work between two items (its ring, its tokens) outweighs what it saves, and
 * grouped.cu, which keeps to a chunk, is faster (docs/notes/gemm-hopper.md). */
extern "C" bool gemm_experts_serves(const gemm_task *t, const nib_gemm_group *p) {
    const long long items = min((long long)t->m, (long long)p->n_experts) * ((t->n + ITEM_TILES * 16 - 1) / (ITEM_TILES * 16));
    const int teams = t->n_sms * (t->groups >= 8 ? 1 : t->groups >= 4 ? 2 : 4);
    return items <= 4LL * teams && (size_t)t->m <= p->n_experts * 6 && fits<4, 2, 3>(t, p->n_experts, 1);
}

extern "C" int gemm_experts(const gemm_task *t, const nib_gemm_group *p) {
    if (t->groups >= 8)
        return t->groups % 8 ? launch_fitting<4, 1>(t, p) : launch_fitting<4, 2>(t, p);
    if (t->groups >= 4)
        return t->groups == 6 ? launch_fitting<2, 3>(t, p) : launch_fitting<2, 1>(t, p);
    return launch_fitting<1, 1>(t, p);
}
