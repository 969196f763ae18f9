/* SPDX-License-Identifier: Apache-2.0
 *
 * Matrix products: a packed weight times the rows of an activation. cpu.c queues a matmul_job; the threads of
 * the pool take ranges of its units. A unit is a fixed part of the weight's rows times a fixed part of the
 * activation's rows: how units are shared out never changes a bit of the result.
 */
#ifndef CPU_MATMUL_H
#define CPU_MATMUL_H

#include "cpu/act.h"
#include "cpu/pack.h"

struct cpu_kernels;

typedef struct matmul_job {
    const struct cpu_kernels *k;
    const packed *w;
    const act *a;
    float *out; /* FP32 [n_rows, out_stride] */
    size_t out_stride;
    size_t n_rows;
    bool add;           /* out += a W^T */
    const float *bias;  /* [weight rows] or NULL */
    const float *start; /* [n_rows, weight rows] added to the sums of parts with a branch, or NULL */

    /* Not NULL: instead of out, BUF_ACT [n_rows, F] = f(gate) * up; W has two parts of F rows, gate and up */
    act *gated;
    glu_kind glu;
} matmul_job;

size_t matmul_units(const matmul_job *job);
/* Computes units [begin, end). SCRATCH belongs to the calling thread: pack_scratch_bytes, 64-byte aligned. */
void matmul_run(const matmul_job *job, size_t begin, size_t end, void *scratch);

#define MATMUL_TILE     32   /* rows of a tile: two groups of pack.h */
#define MATMUL_TOKENS   128  /* rows of the activation that a unit takes at most */
#define MATMUL_IN_TURN  3    /* rows of the activation that meet rows of a file one after the other */
#define MATMUL_BLOCKS8  32   /* blocks of 16 columns in an int8 tile: its 16 KiB stay in L1 */
#define MATMUL_BLOCKS32 16   /* in an FP32 tile */
#define MATMUL_ROWS     16   /* rows of a tile of a PACK_ROWS part */
#define MATMUL_FEW      4    /* the same where there is one row of activations */
#define MATMUL_AHEAD    4608 /* bytes of packed weights asked for ahead of one row of activations */
#define MATMUL_SOON     1152 /* and again, from the cache that they are in by then */

/* Where to ask for lines while computing at AT: MATMUL_AHEAD bytes on, but not past STOP, where another
 * thread reads. Lines are asked for a few at a time between the arithmetic: a burst of them waits for fill
 * buffers. */
static inline const uint8_t *matmul_ahead(const uint8_t *at, const uint8_t *stop) {
    return (size_t)(stop - at) > MATMUL_AHEAD ? at + MATMUL_AHEAD : at;
}

/* Lines are asked for into L2, which waits for several times as many as L1, and soon before their use into
 * L1. Macros: gcc takes a function that only prefetches for one that does nothing, and drops its calls. */
#define MATMUL_ASK(line)      __builtin_prefetch((line), 0, 2)
#define MATMUL_ASK_SOON(line) __builtin_prefetch((line), 0, 3)

/* Blocks [block, block + n_blocks) of 16 columns of groups [group, group + n_groups), n_groups 1 or 2. */
typedef struct matmul_cut {
    const pack_part *part;
    size_t group, n_groups, block, n_blocks;
} matmul_cut;

/* What the rungs override for matrix products. ref/matmul_ref.c says what each computes; every rung gives the
 * same bits. acc is FP32 [n_tokens, MATMUL_TILE]: kernels add to it. What a tile looks like between tile_*
 * and mul_* is the rung's own business, within MATMUL_TILE8_* and MATMUL_TILE32_* bytes. */
typedef struct matmul_kernels {
    /* x [n], n a whole number of ACT_BLOCK: blocks [n / ACT_BLOCK] */
    void (*quantize_act)(act_block *blocks, const float *x, size_t n);

    /* 8-bit activations: unpack a tile, then multiply it by any number of rows (STRIDE blocks from one to the
     * next); by pack_codes */
    void (*tile8[PACK_KINDS])(uint8_t *codes, float *scales, const matmul_cut *cut);
    void (*mul8[PACK_CODES])(float *acc, const uint8_t *codes, const float *scales, size_t n_groups,
                             size_t n_blocks, const act_block *x, size_t stride, size_t n_tokens);
    /* Up to direct_rows rows of activations, groups [group, group + n_groups), all blocks: row t of acc,
     * ACC_STRIDE numbers on, is set to [n_groups, 16] sums. NULL: the tiles do it. */
    size_t direct_rows;
    void (*direct8[PACK_KINDS])(float *acc, size_t acc_stride, const pack_part *p, size_t group,
                                size_t n_groups, const act_block *x, size_t stride, size_t n_tokens);

    /* the same with FP32 activations; gemv: one row of them, up to MATMUL_GROUPS groups */
    void (*tile32[PACK_KINDS])(float *values, float *scales, const matmul_cut *cut);
    void (*mul32)(float *acc, const float *values, const float *scales, size_t n_groups, size_t n_blocks,
                  const float *x, size_t stride, size_t n_tokens);
    void (*gemv32[PACK_KINDS])(float *acc, const pack_part *p, size_t group, size_t n_groups, const float *x);

    /* Row-major weights. decode: by dtype, NULL: dtype_decode. mul_rows: acc[t, i] = w[i] . x[t] over N
     * columns, a whole number of 16. gemv_rows: by dtype, one row of activations straight from the stored
     * weights (N columns, any number; x is padded with zeros), NULL: decode and mul_rows. */
    void (*decode[DT_COUNT])(const void *src, float *dst, size_t n);
    void (*mul_rows)(float *acc, const float *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride,
                     size_t n_tokens, size_t n);
    void (*gemv_rows[DT_COUNT])(float *acc, const void *w, size_t row_bytes, size_t n_w, const float *x,
                                size_t n);
} matmul_kernels;

#define MATMUL_GROUPS        128 /* times 16 rows, of one row of activations: what an acc holds twice */
#define MATMUL_ACC_BYTES     (MATMUL_TOKENS * MATMUL_TILE * sizeof(float))
#define MATMUL_TILE8_CODES   (MATMUL_BLOCKS8 * 16 * MATMUL_TILE)
#define MATMUL_TILE8_SCALES  (MATMUL_BLOCKS8 * 3 * MATMUL_TILE * sizeof(float))
#define MATMUL_TILE32_VALUES (MATMUL_BLOCKS32 * 16 * MATMUL_TILE * sizeof(float))
#define MATMUL_TILE32_SCALES (MATMUL_BLOCKS32 * MATMUL_TILE * sizeof(float))

/* Each rung starts from the table of the one below. */
void matmul_ref_init(matmul_kernels *m);
void matmul_avx2_init(matmul_kernels *m, uint32_t features);
void matmul_avx512_init(matmul_kernels *m, uint32_t features);

#endif
