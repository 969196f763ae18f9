/* SPDX-License-Identifier: Apache-2.0
 *
 * What a block of persistent.cu has of its own: its shape, its shared memory, and what each of its warps
 * knows from op to op. For its products (persistent_products.cuh) and its attention
 * (persistent_attention.cuh).
 */
#ifndef CUDA_PERSISTENT_BLOCK_CUH
#define CUDA_PERSISTENT_BLOCK_CUH

#include "cuda/gpu/any/decode.cuh"
#include "cuda/pass.h"
#include "gemm/gpu/gemv.cuh"
#include "gemm/gpu/ring.cuh"

enum { WARPS = 16, THREADS = 32 * WARPS, FLUSH_TILES = 8, SPLIT_KEYS = 256, MOST_TURNS = 128 };
enum {
    SUMS_ROW = WARPS + 4, /* 16-byte loads that hit different banks */
    FLUSH_ROWS = FLUSH_TILES * 16,
    SUMS_SET = FLUSH_ROWS * SUMS_ROW /* of one token */
};

/* What attention knows of a view and of this block's part in it. */
struct site {
    attn_view p;
    const int32_t *pages;
    span sp;
    ptrdiff_t v, v_scales;            /* pass_view's */
    int position, kv_head, split;     /* split < sp.used: this block has keys */
    uint32_t number;                  /* of the last split attention of passes before this one */
    int first_page[WARPS], last_page; /* of a warp's first tile; of the position */
};

/* Of several rows: which one is this block's, and of how many splits what it merges comes. */
template <int ROWS> struct site_of : site {
    int row, used_of[ROWS];
    int plain_stride; /* pass's */
};
template <> struct site_of<1> : site {};

/* Shared memory, in bytes from its start. Attention's parts lie where sums and x do. */
template <int ROWS> struct room {
    static constexpr int stages =
                             ROWS == 1 ? 4 : 3, /* of a warp's ring: x of more rows leaves room for fewer */
        all_sums = 2 * ROWS * (int)SUMS_SET;
    static constexpr int bars = WARPS * stages * UNIT_BYTES, zeros = bars + WARPS * stages * 8,
                         here = zeros + 256,
                         feeds = here + (int)sizeof(site_of<ROWS>) / 16 * 16 + 16, /* [WARPS] feed::plan */
        memos = feeds + WARPS * 32,                                                /* [WARPS] memo */
        stream = memos + WARPS * 16,                               /* [ROWS][FLUSH_TILES][16] */
        squares = stream + ROWS * FLUSH_ROWS * (int)sizeof(float), /* [ROWS][WARPS] of the stream */
        branch = squares + ROWS * WARPS * (int)sizeof(float),      /* [WARPS] of a branch */
        parked = branch + WARPS * (int)sizeof(float),              /* [WARPS] what products keep */
        trig = parked + WARPS * 32,                                /* [2][n_freq] */
        sums = (trig + 2 * MOST_TURNS * (int)sizeof(float) + 127) / 128 *
               128,                               /* [2][ROWS][FLUSH_TILES][16][SUMS_ROW] */
        x = sums + all_sums * (int)sizeof(float); /* [ROWS][x_bytes] BF16 [max_k] */

    /* Two rows' loads hit different banks. */
    __host__ __device__ static __forceinline__ int x_bytes(int max_k) {
        return (max_k + GEMM_GROUP_K - 1) / GEMM_GROUP_K * GEMM_GROUP_K * 2 + (ROWS > 1 ? 64 : 0);
    }
};

template <int ROWS> static int shared_bytes(int max_k, int group, int head_dim) {
    const int x = room<ROWS>::x + ROWS * room<ROWS>::x_bytes(max_k);
    /* parts of each warp, or sums; queries, and the key that turns; what keys are stored less; errors of the
     * key */
    const int attention = max(WARPS * group * (head_dim + 12), room<ROWS>::all_sums) +
                          (group + 1) * (head_dim + 16) + 2 * head_dim;
    return max(x, room<ROWS>::sums + attention * (int)sizeof(float));
}

/* What a warp knows from op to op. In shared memory: across a call it would be in local memory, far away. */
struct memo {
    uint32_t tags; /* of each place's last use, a bit each */
    int parity;    /* of sums */
    int view, op;  /* the last attention's; the next */
};

template <int ROWS> __device__ __forceinline__ memo *memo_of(uint8_t *shared, int warp) {
    return (memo *)(shared + room<ROWS>::memos + warp * sizeof(memo));
}

/* The tags, with TO's turned; all lanes call. */
__device__ __forceinline__ uint32_t turn_tag(memo *m, int to, int lane) {
    const uint32_t tags = m->tags ^ (to < PASS_NOWHERE ? 1u << to : 0);
    __syncwarp();
    if (lane == 0)
        m->tags = tags;
    return tags;
}

#endif
