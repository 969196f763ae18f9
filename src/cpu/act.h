/* SPDX-License-Identifier: Apache-2.0
 *
 * Backend memory: what a buf and a vec are on a CPU.
 *
 * FP32 values are always there. A BUF_ACT in int8 mode also holds the same values as 8-bit integers, written
 * once by the op that produces the activation: weights that pack.h has a form for multiply the integers, all
 * others (BF16, F16, F32, FP8, rarer blocks) the FP32 values.
 *
 *   value[r, c] ~ code * scale of the act_block it lies in        codes in -127..127
 *
 * Codes lie in the order in which 4-bit weights are unpacked: of every 8 columns first the even, then the odd
 * ones (act_column). Kernels make their weights unsigned by an offset and add up a block in int32; the sum
 * begins at one of starts[], which takes the offset back and adds the bits of 1.5 * 2^23, so that the sum's
 * bits, read as FP32, are 1.5 * 2^23 + dot exactly. What a kernel reads of a row lies in one stream.
 *
 * A BUF_ACT row is padded to a whole number of ACT_PAD columns; values and codes of the padding are zero
 * and stay zero. A BUF_F32 row has no padding (stride == cols). Every array is 64-byte aligned.
 */
#ifndef CPU_ACT_H
#define CPU_ACT_H

#include "ops/ops.h"

#define ACT_BLOCK 16         /* columns that share a scale */
#define ACT_PAD   64         /* a BUF_ACT row is a whole number of these */
#define ACT_MAGIC 0x4b400000 /* bits of 1.5 * 2^23 */

/* ACT_BLOCK columns of an activation. */
typedef struct act_block {
    int8_t codes[ACT_BLOCK];
    float scale;
    int32_t starts[2]; /* ACT_MAGIC minus 16 (narrow codes), minus 128 (wide) times the sum of the codes */
    float sum;         /* of the codes, times scale: what a weight's least value is multiplied by */
} act_block;

typedef struct act {
    buf head;          /* first: a buf * is an act * */
    size_t stride;     /* columns from one row to the next */
    float *f32;        /* [max_rows, stride] */
    act_block *blocks; /* [max_rows, stride / ACT_BLOCK], NULL unless BUF_ACT in int8 mode */
} act;

typedef struct cpu_vec {
    vec head;     /* first */
    void *values; /* [n] float or double, by head.kind */
} cpu_vec;

static inline const float *vec_f32(const vec *v) {
    return v ? ((const cpu_vec *)v)->values : NULL;
}

nib_status act_new(act **out, buf_kind kind, size_t max_rows, size_t cols, bool int8, nib_error *err);
void act_free(act *b);
nib_status act_vec_new(cpu_vec **out, vec_kind kind, size_t n, const void *values, nib_error *err);
void act_vec_free(cpu_vec *v);

static inline act_block *act_blocks(const act *b, size_t row) {
    return b->blocks + row * (b->stride / ACT_BLOCK);
}

/* The column whose code lies at place I of a row. */
static inline size_t act_column(size_t i) {
    return (i & ~(size_t)7) | (i & 3) << 1 | (i >> 2 & 1);
}

static inline float *act_row(const act *b, size_t row) {
    return b->f32 + row * b->stride;
}

#endif
