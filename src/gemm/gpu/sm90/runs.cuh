/* SPDX-License-Identifier: Apache-2.0
 *
 * Who computes which stages of which tile in wgmma.cuh, and how the sums of a tile that several blocks share meet.
 *
 * A cluster of blocks takes one tile, each block a part of K; their sums meet in shared memory. Otherwise whole waves of
 * tiles go round the blocks, and what is left with one more wave is cut into equal runs of stages (stream-K): a block that
 * does not end its tile leaves its sums in the workspace and raises its flag; the one that ends it lowers the flags and adds
 * the others' sums in the blocks' order. A block waits for lower ones only, which were started before it.
 */
#ifndef GEMM_RUNS_CUH
#define GEMM_RUNS_CUH

#include "gemm/gpu/device.cuh"

#define TOKEN_GROUP 8 /* token tiles that share weights in L2 */

struct wgmma_args {
    int m, n;
    int groups;         /* of the weights: K's position is taken modulo these (terms) */
    int first, stages;  /* of K, that this launch sums */
    int row_tiles, token_tiles;
    int ranks;          /* blocks of a cluster, which share a tile; 1: none */
    int cut_tiles;      /* without clusters, the first CUT_TILES tiles are cut into runs */
    float *partial;     /* [blocks][TOKENS / 2 * consumers], see sums_of */
    uint32_t *flags;    /* [blocks], zero */
    gemm_out out;
    bool gelu; /* of gated products */
};

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
        if (a.ranks > 1) {
            const int cluster = (int)blockIdx.x / a.ranks, rank = (int)blockIdx.x % a.ranks;
            at = cluster * a.stages + rank * a.stages / a.ranks;
            end = cluster * a.stages + (rank + 1) * a.stages / a.ranks;
            tile = a.row_tiles * a.token_tiles;
            return;
        }
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

template <int THREADS> GEMM_DEV void consumers_barrier() { /* of those that hold a tile's sums */
    asm volatile("bar.sync 10,%0;" ::"n"(THREADS) : "memory");
}

/* Two sums of E4M3 products on their way to another block: FP16, times 2^-18, so that those of 114,000 k stay finite (336 * 448 each).
 * It rounds to 2^-12, where quantizing the activations has rounded to 2^-4, and halves what is moved. */
GEMM_DEV float pack_sums(float a, float b) {
    const __half2 v = __floats2half2_rn(a * 0x1p-18f, b * 0x1p-18f);
    return __uint_as_float(*(const uint32_t *)&v);
}

GEMM_DEV float2 unpack_sums(float v) {
    const uint32_t bits = __float_as_uint(v);
    const float2 f = __half22float2(*(const __half2 *)&bits);
    return make_float2(f.x * 0x1p18f, f.y * 0x1p18f);
}

/* 16 bytes of a thread's at a time: [block][REGISTERS / (HALVES ? 8 : 4)][THREADS] */
template <bool HALVES, int THREADS, int REGISTERS> GEMM_DEV float4 *sums_of(const wgmma_args &a, int block) {
    return (float4 *)(a.partial + (size_t)block * REGISTERS * THREADS) + threadIdx.x;
}

template <bool HALVES, int THREADS, int REGISTERS> GEMM_DEV void leave_sums(const wgmma_args &a, const float (&d)[REGISTERS]) {
    const int each = HALVES ? 8 : 4;
    float4 *to = sums_of<HALVES, THREADS, REGISTERS>(a, blockIdx.x);
#pragma unroll
    for (int i = 0; i < REGISTERS; i += each)
        to[i / each * THREADS] = HALVES ? make_float4(pack_sums(d[i], d[i + 1]), pack_sums(d[i + 2], d[i + 3]),
                                                      pack_sums(d[i + each - 4], d[i + each - 3]), pack_sums(d[i + each - 2], d[i + each - 1]))
                                        : make_float4(d[i], d[i + 1], d[i + 2], d[i + 3]);
    consumers_barrier<THREADS>(); /* the release of one thread then holds for all: a fence of each would take a microsecond more */
    if (threadIdx.x == 0)
        asm volatile("st.release.gpu.global.u32 [%0],1;" ::"l"(a.flags + blockIdx.x) : "memory");
}

/* d += the sums that the blocks before left of tile R. A warp looks at all their flags at once. */
template <bool HALVES, int THREADS, int REGISTERS> GEMM_DEV void collect_sums(const wgmma_args &a, const run &r, float (&d)[REGISTERS]) {
    const int first = block_of_unit(a, r.tile * a.stages), end = (int)blockIdx.x, each = HALVES ? 8 : 4;
    for (int block = first + (threadIdx.x & 31); block < end; block += 32) {
        uint32_t raised;
        do
            asm volatile("ld.relaxed.gpu.global.u32 %0,[%1];" : "=r"(raised) : "l"(a.flags + block) : "memory");
        while (!raised);
    }
    asm volatile("fence.acq_rel.gpu;" ::: "memory"); /* once: an acquire in the loop would empty L1 at every look */
    __syncwarp();
    consumers_barrier<THREADS>(); /* all have seen them: as they were before */
    for (int block = first + (int)threadIdx.x; block < end; block += THREADS)
        asm volatile("st.relaxed.gpu.global.u32 [%0],0;" ::"l"(a.flags + block) : "memory");
    for (int block = first; block < end; block++) {
        const float4 *from = sums_of<HALVES, THREADS, REGISTERS>(a, block);
#pragma unroll
        for (int i = 0; i < REGISTERS; i += each) {
            const float4 v = __ldcg(from + i / each * THREADS);
            const float w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
            for (int e = 0; e < 4; e++) {
                if (HALVES) {
                    const float2 two = unpack_sums(w[e]);
                    d[i + 2 * e] += two.x, d[i + 2 * e + 1] += two.y;
                } else {
                    d[i + e] += w[e];
                }
            }
        }
    }
}

#endif
