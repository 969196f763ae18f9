/* SPDX-License-Identifier: Apache-2.0
 *
 * Hopper, from 17 tokens on (W4A8: from 1): weights are the register operand of wgmma, decoded while the wgmma of
 * the stage before run. A tile is 128 rows x TOKENS; blocks are persistent over tiles, token tiles in groups of 8.
 * Whole waves of tiles go round the blocks. What is left with one more wave is cut into equal runs of stages (stream-K):
 * a block that does not end its tile leaves its sums in the workspace and raises its flag; the one that ends it adds the
 * others' sums in the blocks' order. A block waits for lower ones only, which were started before it.
 *
 * A block: 2 * PAIRS consumer warpgroups and a producer warp. A pair of warpgroups has 64 rows each; with PAIRS 2
 * the pairs take the stages of a tile in turn and the second hands its sums to the first through shared memory.
 * A stage is 128 k: 9,216 B of packed weights by one tensor copy (a map over 8-byte elements, box 144 x 8 row
 * tiles) and the tokens by one (E4M3) or two (BF16), with the 128-byte swizzle. The two warpgroups of a pair take
 * turns to issue.
 *
 * W4A8: each byte is rn_e4m3(magnitude * scale / 8) from a table of 127 x 8 B; sums * 8. W4A16: w * s * 2^-17.
 * Stores: a lane owns 4 consecutive rows of a token (the tile's rows are permuted for it): full sectors.
 * Measured, and what lost: docs/gpu/wgmma.md.
 */
#ifndef GEMM_WGMMA_CUH
#define GEMM_WGMMA_CUH

#include <cuda.h>

#include "gemm/gpu/fold.cuh"
#include "gemm/gpu/sm90/operand.cuh"
#include "gemm/gpu/sm90/store.cuh"

#define TILE_ROWS    128
#define WEIGHT_BYTES (8 * GEMM_GROUP_BYTES)
#define TOKEN_GROUP  8 /* token tiles that share weights in L2 */
#define MIN_STAGES   4 /* of a block's run */

struct wgmma_args {
    int m, n;
    int groups;         /* of the weights: K's position is taken modulo these (terms) */
    int first, stages;  /* of K, that this launch sums */
    int row_tiles, token_tiles, cut_tiles; /* the first CUT_TILES tiles are cut into runs */
    float *partial;     /* [blocks][TOKENS / 2][256] */
    uint32_t *flags;    /* [blocks], zero */
    gemm_out out;
};

template <bool E4M3, int TOKENS, int PAIRS> struct wgmma_plan {
    static const int token_bytes = TOKENS * 128 * (E4M3 ? 1 : 2);
    static const int stage = WEIGHT_BYTES + token_bytes;
    static const int exchange = PAIRS > 1 ? TILE_ROWS * TOKENS * 4 : 0;
    static const int extra = 1024 /* table */ + 256 /* barriers */ + exchange;
    static const int fit = (227 * 1024 - extra) / stage;
    static const int stages = fit > 8 ? 8 : fit;
    static const int shared = stages * stage + extra;
    static const int threads = (2 * PAIRS + 1) * 128;
    /* what setmaxnreg deals out of the registers of the launch: 384 threads of 168, 640 of 96 */
    static const int consumer_registers = PAIRS == 1 ? 232 : 112, producer_registers = PAIRS == 1 ? 40 : 24;
    static const int launch_registers = PAIRS == 1 ? 168 : 96;
    static_assert(2 * PAIRS * consumer_registers + producer_registers <= (2 * PAIRS + 1) * launch_registers,
                  "setmaxnreg would wait for ever");
};

GEMM_DEV void tensor_copy(uint32_t to, const CUtensorMap *map, int x, int y, uint32_t bar) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0],[%1,{%2,%3}],[%4];" ::"r"(to),
                 "l"(map), "r"(x), "r"(y), "r"(bar)
                 : "memory");
}

GEMM_DEV void prefetch_map(const CUtensorMap *map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* A run of stages of one tile. */
struct run {
    int tile, row_tile, token_tile;
    int first, last; /* stages of the launch's */
};

/* The runs of a block, in order. Everybody in the block walks them. Of the cut tiles it takes the last one first, which
 * others wait for, and the first one last, for which it waits: so nobody waits for long. */
struct runs {
    int at, end; /* units (tile * stages + stage) of the cut tiles */
    int tile;    /* next whole one */

    GEMM_DEV explicit runs(const wgmma_args &a) {
        const int units = a.cut_tiles * a.stages, each = units / (int)gridDim.x, more = units % (int)gridDim.x;
        at = blockIdx.x * each + min((int)blockIdx.x, more);
        end = at + each + ((int)blockIdx.x < more);
        tile = a.cut_tiles + blockIdx.x;
    }

    GEMM_DEV bool next(const wgmma_args &a, run &r) {
        if (at < end) {
            r.tile = (end - 1) / a.stages;
            r.first = max(0, at - r.tile * a.stages);
            r.last = end - r.tile * a.stages;
            end = r.tile * a.stages + r.first;
        } else if (tile < a.row_tiles * a.token_tiles) {
            r.tile = tile;
            r.first = 0;
            r.last = a.stages;
            tile += gridDim.x;
        } else {
            return false;
        }
        const int per_group = TOKEN_GROUP * a.row_tiles, group = r.tile / per_group, rest = r.tile % per_group;
        const int height = min(TOKEN_GROUP, a.token_tiles - group * TOKEN_GROUP);
        r.token_tile = group * TOKEN_GROUP + rest % height;
        r.row_tile = rest / height;
        return true;
    }
};

/* The block whose run holds UNIT. */
GEMM_DEV int block_of_unit(const wgmma_args &a, int unit) {
    const int units = a.cut_tiles * a.stages, each = units / (int)gridDim.x, more = units % (int)gridDim.x;
    return unit < more * (each + 1) ? unit / (each + 1) : more + (unit - more * (each + 1)) / each;
}

GEMM_DEV void consumers_barrier() { /* of the 256 threads that hold a tile's sums */
    asm volatile("bar.sync 10,256;" ::: "memory");
}

template <int REGISTERS> GEMM_DEV void leave_sums(const wgmma_args &a, const float (&d)[REGISTERS]) {
    float *to = a.partial + (size_t)blockIdx.x * REGISTERS * 256 + threadIdx.x;
#pragma unroll
    for (int i = 0; i < REGISTERS; i++)
        to[i * 256] = d[i];
    consumers_barrier(); /* the release of one thread then holds for all: a fence of each would take a microsecond more */
    if (threadIdx.x == 0)
        asm volatile("st.release.gpu.global.u32 [%0],1;" ::"l"(a.flags + blockIdx.x) : "memory");
}

/* d += the sums that the blocks before left of tile R, SHARE of SHARES of them. A warp looks at all their flags at once. */
template <int REGISTERS>
GEMM_DEV void collect_sums(const wgmma_args &a, const run &r, int share, int shares, float (&d)[REGISTERS]) {
    const int all_first = block_of_unit(a, r.tile * a.stages), count = (int)blockIdx.x - all_first;
    const int first = all_first + share * count / shares, end = all_first + (share + 1) * count / shares;
    for (int block = first + (threadIdx.x & 31); block < end; block += 32) {
        uint32_t raised;
        do
            asm volatile("ld.acquire.gpu.global.u32 %0,[%1];" : "=r"(raised) : "l"(a.flags + block) : "memory");
        while (!raised);
    }
    __syncwarp();
    for (int block = first; block < end; block++) {
        const float *from = a.partial + (size_t)block * REGISTERS * 256 + (threadIdx.x & 255);
#pragma unroll
        for (int i = 0; i < REGISTERS; i++)
            d[i] += __ldcg(from + i * 256);
    }
}

GEMM_DEV void turn_wait(int pair, int half) {
    asm volatile("bar.sync %0,256;" ::"r"(1 + 2 * pair + half) : "memory");
}

GEMM_DEV void turn_pass(int pair, int half) { /* to the other warpgroup */
    asm volatile("bar.arrive %0,256;" ::"r"(2 + 2 * pair - half) : "memory");
}

/* Sums of 16 rows x TOKENS: v[4 j ..] = (row r0: tokens 8 j + 2 t, + 1), (row r1: the same). */
template <bool E4M3, int TOKENS>
GEMM_DEV void store_tile(const wgmma_args &a, int first, int row, const float (&d)[TOKENS / 2], float factor) {
    const int t = threadIdx.x & 3;
    if (row >= a.n)
        return;
    constexpr int BATCH = 4;
#pragma unroll
    for (int jb = 0; jb < TOKENS / 8; jb += BATCH) {
        float2 s[BATCH]; /* loads in one batch: left to itself the compiler waits for each */
        float4 v[BATCH];
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
            s[j] = make_float2(1.0f, 1.0f);
            if (E4M3)
                asm volatile("ld.global.nc.v2.f32 {%0,%1},[%2];"
                             : "=f"(s[j].x), "=f"(s[j].y)
                             : "l"(a.out.token_scale + first + (jb + j) * 8 + 2 * t));
        }
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
            const float *u = d + 4 * (jb + j);
            const float x = factor * s[j].x, y = factor * s[j].y;
            v[j] = make_float4(u[0] * x, u[1] * y, u[2] * x, u[3] * y);
        }
        store_fragments(a.out, a.m, first + jb * 8, row, v);
    }
}

/* The sums of one tile over the stages FIRST, FIRST + PAIRS, ... of COUNT. STAGE and PHASE: of the first one. */
template <bool E4M3, int TOKENS, int PAIRS> struct consumer {
    using plan = wgmma_plan<E4M3, TOKENS, PAIRS>;
    uint32_t base, full, empty, lut, lane16, scales;
    int pair, half, stage, phase;

    GEMM_DEV void advance() {
        stage += PAIRS;
        if (stage >= plan::stages) {
            stage -= plan::stages;
            phase ^= 1;
        }
    }

    GEMM_DEV void free_stage(int s) {
        if ((threadIdx.x & 127) == 0)
            barrier_arrive(empty + 8 * s);
    }

    GEMM_DEV void sum_e4m3(float (&d)[TOKENS / 2], int count) {
        uint32_t a[2][16];
        raw_e4m3 raw;
        int before = -1;
        auto load = [&]() {
            barrier_wait(full + 8 * stage, phase);
            raw.load(base + stage * plan::stage + lane16, base + stage * plan::stage + scales, lut);
        };
        load();
#pragma unroll
        for (int j = 0; j < 4; j++)
            raw.step(j, a[0] + 4 * j);
#pragma unroll 1
        for (int k = 0; k < count; k += 2)
#pragma unroll
            for (int z = 0; z < 2; z++)
                if (k + z < count) {
                    const int now = stage;
                    const uint32_t tokens = descriptor_low(base + now * plan::stage + WEIGHT_BYTES);
                    advance();
                    if (k + z + 1 < count)
                        load();
                    turn_wait(pair, half);
                    wgmma_wait<0>();
                    if (before >= 0)
                        free_stage(before);
                    before = now;
                    wgmma_fence();
                    /* the next stage is converted between the wgmma of this one */
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        wgmma_e4m3(d, a[z] + 4 * j, descriptor_at(tokens + 2 * j));
                        if (j == 3) {
                            wgmma_commit();
                            turn_pass(pair, half);
                        }
                        if (k + z + 1 < count) /* unconditional, ptxas would serialize the wgmma (C7520) */
                            raw.step(j, a[z ^ 1] + 4 * j);
                    }
                }
        wgmma_wait<0>();
        free_stage(before);
    }

    GEMM_DEV void sum_bf16(float (&d)[TOKENS / 2], int count) {
        uint32_t a[2][16];
        auto convert = [&](int s, int h) {
            convert_bf16(base + s * plan::stage + lane16, base + s * plan::stage + scales, h, a[h]);
        };
        auto issue = [&](int s, int h) {
            const uint32_t tokens = descriptor_low(base + s * plan::stage + WEIGHT_BYTES + h * TOKENS * 128);
            turn_wait(pair, half);
            wgmma_fence();
#pragma unroll
            for (int j = 0; j < 4; j++)
                wgmma_bf16(d, a[h] + 4 * j, descriptor_at(tokens + 2 * j));
            wgmma_commit();
            turn_pass(pair, half);
        };
        int before = -1;
        barrier_wait(full + 8 * stage, phase);
        convert(stage, 0);
#pragma unroll 1
        for (int k = 0; k < count; k++) {
            const int now = stage;
            issue(now, 0);
            wgmma_wait<1>();
            if (before >= 0)
                free_stage(before);
            before = now;
            convert(now, 1);
            issue(now, 1);
            wgmma_wait<1>();
            advance();
            if (k + 1 < count) {
                barrier_wait(full + 8 * stage, phase);
                convert(stage, 0);
            }
        }
        wgmma_wait<0>();
        free_stage(before);
    }
};

template <bool E4M3, int TOKENS, int PAIRS>
__global__ void __launch_bounds__((2 * PAIRS + 1) * 128, 1)
    wgmma_gemm(const __grid_constant__ CUtensorMap tokens_map, const __grid_constant__ CUtensorMap weights_map,
               const __grid_constant__ wgmma_args a) {
    using plan = wgmma_plan<E4M3, TOKENS, PAIRS>;
    extern __shared__ __align__(1024) uint8_t shared[];
    uint8_t *extra = shared + plan::stages * plan::stage;
    float *exchange = (float *)(extra + 1024 + 256);
    const uint32_t base = shared_address(shared), full = shared_address(extra) + 1024, empty = full + 8 * plan::stages;
    const int warpgroup = threadIdx.x >> 7, lane = threadIdx.x & 31;
    if (E4M3)
        build_lut((uint2 *)extra);
    if (threadIdx.x == 0) {
        prefetch_map(&tokens_map);
        prefetch_map(&weights_map);
        for (int s = 0; s < plan::stages; s++) {
            barrier_init(full + 8 * s, 1);
            barrier_init(empty + 8 * s, 2);
        }
        barrier_fence();
    }
    __syncthreads();

    runs work(a);
    run r = {};
    if (warpgroup == 2 * PAIRS) { /* the producer */
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(plan::producer_registers));
        if (threadIdx.x != 2 * PAIRS * 128)
            return;
        int s = 0, phase = 1;
        bool waited = false;
        auto padded = [&]() { return (r.last - r.first + PAIRS - 1) / PAIRS * PAIRS; }; /* as many for each pair */
        auto copy_weights = [&](int i, int to) { /* stage I of the run; past its end out of the map: zeros */
            const int k = r.first + i < r.last ? (a.first + r.first + i) % a.groups : a.groups;
            barrier_expect(full + 8 * to, plan::stage);
            tensor_copy(base + to * plan::stage, &weights_map, k * (GEMM_GROUP_BYTES / 8), r.row_tile * 8, full + 8 * to);
        };
        auto copy_tokens = [&](int i, int at) {
            const uint32_t to = base + at * plan::stage + WEIGHT_BYTES;
            const int k = (a.first + r.first + i) * GEMM_GROUP_K;
            tensor_copy(to, &tokens_map, k, r.token_tile * TOKENS, full + 8 * at);
            if (!E4M3)
                tensor_copy(to + TOKENS * 128, &tokens_map, k + 64, r.token_tile * TOKENS, full + 8 * at);
        };
        while (work.next(a, r)) {
            const int count = padded();
            int i = 0;
            if (!waited) { /* weights do not depend on the kernel before: the ring fills while it ends */
                const int early = min(plan::stages, count);
                for (; i < early; i++)
                    copy_weights(i, i);
                dependency_wait();
                waited = true;
                for (int j = 0; j < early; j++)
                    copy_tokens(j, j);
                s = early % plan::stages;
                phase = early == plan::stages ? 0 : 1;
            }
            for (; i < count; i++) {
                barrier_wait(empty + 8 * s, phase);
                copy_weights(i, s);
                copy_tokens(i, s);
                if (++s == plan::stages) {
                    s = 0;
                    phase ^= 1;
                }
            }
        }
        dependents_go(); /* not before: the next kernel's blocks would crowd on the multiprocessors that end first */
        return;
    }

    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(plan::consumer_registers));
    const float tensor_scale = load_scale(a.out.tensor_scale);
    dependency_wait();
    const int warp = (threadIdx.x >> 5) & 7; /* of the pair: row tile of 16 */
    consumer<E4M3, TOKENS, PAIRS> c;
    c.base = base, c.full = full, c.empty = empty, c.lut = shared_address(extra);
    c.lane16 = warp * GEMM_GROUP_BYTES + lane * 16, c.scales = warp * GEMM_GROUP_BYTES + 1024 + lane * 4;
    c.pair = warpgroup >> 1, c.half = warpgroup & 1;
    const float factor = (E4M3 ? 8.0f : 0x1p17f) * (a.out.alpha * tensor_scale);
    if (c.half == 1)
        turn_pass(c.pair, 1);
    int position = 0; /* stages of the runs before */
    bool first_run = true;
    while (work.next(a, r)) {
        const int count = (r.last - r.first + PAIRS - 1) / PAIRS; /* of this pair: ptxas overlaps uniform loops only */
        float d[TOKENS / 2];
#pragma unroll
        for (int i = 0; i < TOKENS / 2; i++) /* so that ptxas sees no use of the run before's (C7514) */
            d[i] = 0.0f;
        c.stage = (position + c.pair) % plan::stages;
        c.phase = (position + c.pair) / plan::stages & 1;
        position += count * PAIRS;
        if (E4M3)
            c.sum_e4m3(d, count);
        else
            c.sum_bf16(d, count);
        const bool ends = r.last == a.stages && r.first > 0;
        if (PAIRS > 1 && ends)
            collect_sums(a, r, c.pair, PAIRS, d);
        if (PAIRS > 1) { /* named barriers 8 (sums are there) and 9 (sums were read) */
            float *mine = exchange + (threadIdx.x & 255);
            if (c.pair == 1) {
                if (!first_run)
                    asm volatile("bar.sync 9,512;" ::: "memory");
#pragma unroll
                for (int i = 0; i < TOKENS / 2; i++)
                    mine[i * 256] = d[i];
                asm volatile("bar.arrive 8,512;" ::: "memory");
            } else {
                asm volatile("bar.sync 8,512;" ::: "memory");
#pragma unroll
                for (int i = 0; i < TOKENS / 2; i++)
                    d[i] += mine[i * 256];
                asm volatile("bar.arrive 9,512;" ::: "memory");
            }
            first_run = false;
        }
        if (PAIRS == 1 || c.pair == 0) {
            if (r.last < a.stages) {
                leave_sums(a, d);
            } else {
                if (PAIRS == 1 && ends)
                    collect_sums(a, r, 0, 1, d);
                store_tile<E4M3, TOKENS>(a, r.token_tile * TOKENS, r.row_tile * TILE_ROWS + warp * 16, d, factor);
            }
        }
    }
}

typedef CUresult (*map_encoder)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                                const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave,
                                CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

static bool make_map(const gemm_task *t, CUtensorMap *map, CUtensorMapDataType type, const void *data, uint64_t width,
                     uint64_t height, uint64_t stride, uint32_t box_width, uint32_t box_height, CUtensorMapSwizzle swizzle) {
    const cuuint64_t size[2] = {width, height}, strides[1] = {stride};
    const cuuint32_t box[2] = {box_width, box_height}, steps[2] = {1, 1};
    return ((map_encoder)t->tensor_map)(map, type, 2, (void *)data, size, strides, box, steps,
                                        CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

/* Tiles that are cut: all of fewer than a wave; else what stands over whole waves, with one wave, if that is much. */
static int tiles_to_cut(int tiles, int blocks) {
    const int over = tiles % blocks;
    return tiles < blocks ? tiles : over == 0 || over * 10 >= blocks * 9 ? 0 : blocks + over;
}

template <bool E4M3, int TOKENS, int PAIRS> static int launch_wgmma(const gemm_task *t) {
    using plan = wgmma_plan<E4M3, TOKENS, PAIRS>;
    wgmma_args a = {t->m, t->n, t->groups, 0, t->groups * t->terms, (t->n + TILE_ROWS - 1) / TILE_ROWS,
                    (t->m + TOKENS - 1) / TOKENS, 0, t->partial, t->flags, t->out};
    CUtensorMap tokens, weights;
    const uint64_t width = (uint64_t)t->groups * GEMM_GROUP_K * t->terms, row_bytes = (uint64_t)t->groups * GEMM_GROUP_BYTES;
    if (!make_map(t, &tokens, E4M3 ? CU_TENSOR_MAP_DATA_TYPE_UINT8 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, t->a, width, t->m,
                  width * (E4M3 ? 1 : 2), E4M3 ? 128 : 64, TOKENS, CU_TENSOR_MAP_SWIZZLE_128B) ||
        !make_map(t, &weights, CU_TENSOR_MAP_DATA_TYPE_FLOAT64, t->w, row_bytes / 8, t->n / 16, row_bytes,
                  GEMM_GROUP_BYTES / 8, 8, CU_TENSOR_MAP_SWIZZLE_NONE))
        return cudaErrorInvalidValue;
    /* Tensor cores cut their sums: exact FP32 results take 1,024 k at a time and add up in FP32. */
    const int all = a.stages, step = !E4M3 && t->out.type == NIB_GEMM_F32 ? 8 : all, tiles = a.row_tiles * a.token_tiles;
    for (; a.first < all; a.first += step) {
        a.stages = min(step, all - a.first);
        if (a.first > 0)
            a.out.c = a.out.d, a.out.beta = 1.0f, a.out.bias = nullptr;
        const int blocks = step < all ? min(tiles, t->n_sms) : min(tiles * max(1, a.stages / MIN_STAGES), t->n_sms);
        a.cut_tiles = step < all ? 0 : tiles_to_cut(tiles, blocks);
        const int e = launch_kernel(t, wgmma_gemm<E4M3, TOKENS, PAIRS>, blocks, plan::threads, plan::shared, tokens, weights, a);
        if (e)
            return e;
    }
    return cudaSuccess;
}

#endif
