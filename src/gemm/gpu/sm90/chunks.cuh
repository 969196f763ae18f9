/* SPDX-License-Identifier: Apache-2.0
 *
 * Which experts have tokens, found out on the device: a chunk is up to TOKENS tokens of one expert, an item some rows x a chunk. The
 * items of all chunks stand in a row, and each block takes an equal run of them. Used by experts.cu and pairs.cu.
 */
#ifndef GEMM_CHUNKS_CUH
#define GEMM_CHUNKS_CUH

#include "gemm/gpu/device.cuh"

#define MOST_ITEMS (1 << 20) /* of a launch */

struct chunk {
    const uint8_t *packed;
    int row;                     /* of x and d */
    unsigned short rows, expert; /* how many; whose */
};

/* A block's items: how many, the first one's place in its chunk, and how many chunks they are of. */
struct run {
    int items, first, chunks;
};

/* What a run is found from. */
struct chunk_source {
    const int *offsets;
    const uint8_t *const *packed;
    int experts, chunk_items;
    bool early;                    /* the offsets stand before the kernel before has ended */
    float over_blocks, over_items; /* 1 / the launch's blocks, 1 / chunk_items */
};

/* For BLOCKS blocks and CHUNK_ITEMS items a chunk. */
static inline chunk_source make_source(const nib_gemm_group *p, int blocks, int chunk_items) {
    return {p->offsets,       (const uint8_t *const *)p->packed, (int)p->n_experts,          chunk_items,
            p->offsets_stand, 1.0f / (float)blocks,              1.0f / (float)chunk_items};
}

GEMM_DEV int uniform(int v) {
    return __shfl_sync(~0u, v, 0);
}

GEMM_DEV uint64_t uniform(uint64_t v) {
    return (uint64_t)(uint32_t)uniform((int)(v >> 32)) << 32 | (uint32_t)uniform((int)v);
}

/* X / n, OVER = 1.0f / n: exact to MOST_ITEMS. */
GEMM_DEV int divided(int x, float over) {
    return (int)(((float)x + 0.5f) * over);
}

/* A lane's four experts of the 128 from BASE on: how many chunks stand before them, and of all. */
template <int TOKENS> struct four_experts {
    const uint8_t *packed[4];
    int edge[5], before, all;

    GEMM_DEV void find(const chunk_source &a, int base) {
#pragma unroll
        for (int i = 0; i < 4; i++)
            packed[i] = a.packed[min(base + 4 * (int)(threadIdx.x & 31) + i, a.experts - 1)];
    }

    GEMM_DEV int chunks(int i) const {
        return (edge[i + 1] - edge[i] + TOKENS - 1) / TOKENS;
    }

    GEMM_DEV void count(const chunk_source &a, int base) {
        const int lane = threadIdx.x & 31;
#pragma unroll
        for (int i = 0; i < 5; i++)
            edge[i] = a.offsets[min(base + 4 * lane + i, a.experts)];
        const int mine = chunks(0) + chunks(1) + chunks(2) + chunks(3);
        before = mine;
#pragma unroll
        for (int d = 1; d < 32; d *= 2) {
            const int v = __shfl_up_sync(~0u, before, d);
            before += lane >= d ? v : 0;
        }
        all = __shfl_sync(~0u, before, 31);
        before -= mine;
    }

    /* Those of COUNT chunks from the FIRST on that are the lane's. BASE: as counted. */
    GEMM_DEV void write(int base, int first, int count, chunk *to) const {
        const int expert = base + 4 * (int)(threadIdx.x & 31);
        int at = before - first;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int n = chunks(i), tokens = edge[i + 1] - edge[i];
#pragma unroll 1
            for (int c = max(0, -at); c < min(n, count - at); c++)
                to[at + c] = {packed[i], edge[i] + c * TOKENS, (unsigned short)min(TOKENS, tokens - c * TOKENS),
                              (unsigned short)(expert + i)};
            at += n;
        }
    }
};

/* This block's run and its chunks, by one warp. */
template <int TOKENS> GEMM_DEV void make_run(const chunk_source &a, run *r, chunk *chunks) {
    const int block = blockIdx.x;
    four_experts<TOKENS> e, more;
    e.find(a, 0); /* where weights are does not depend on the kernel before */
    if (!a.early) {
        for (int i = 32 * (threadIdx.x & 31); i <= a.experts; i += 1024) /* nor does which lines the offsets stand in */
            asm volatile("prefetch.global.L2 [%0];" ::"l"(a.offsets + i));
        dependency_wait();
    }
    e.count(a, 0);
    int items = e.all;
#pragma unroll 1
    for (int base = 128; base < a.experts; base += 128) {
        more.count(a, base);
        items += more.all;
    }
    items *= a.chunk_items;
    const int each = divided(items, a.over_blocks), rest = items - each * (int)gridDim.x;
    const int first = block * each + min(block, rest), last = first + each + (block < rest);
    const int first_chunk = divided(first, a.over_items), count = last > first ? divided(last - 1, a.over_items) - first_chunk + 1 : 0;
    e.write(0, first_chunk, count, chunks);
    int before = e.all;
#pragma unroll 1
    for (int base = 128; base < a.experts && before < first_chunk + count; base += 128) {
        more.find(a, base);
        more.count(a, base);
        more.write(base, first_chunk - before, count, chunks);
        before += more.all;
    }
    if ((threadIdx.x & 31) == 0)
        *r = {last - first, first - first_chunk * a.chunk_items, count};
}

#endif
