/* SPDX-License-Identifier: Apache-2.0
 *
 * Backend memory: what `struct buf` is on a CPU.
 *
 * FP32 values are always there. A BUF_ACT in int8 mode also holds the same values as 8-bit integers, written
 * once by the op that produces the activation: weights stored in 4 or 8 bits multiply the integers, all
 * others (BF16, F16, F32, K-quants) the FP32 values.
 *
 *   value[r, c] ~ codes[r, c] * scales[r, c / ACT_BLOCK]       codes in -127..127
 *   sums[r, c / ACT_SUM] = sum of the codes of those ACT_SUM columns: takes back the offset of kernels that
 *   make their weights unsigned
 *
 * A BUF_ACT row is padded to a whole number of ACT_PAD columns; values, codes, scales and sums of the padding
 * are zero and stay zero. A BUF_F32 row has no padding (stride == cols). Every array is 64-byte aligned.
 */
#ifndef CPU_ACT_H
#define CPU_ACT_H

#include "ops/ops.h"

#define ACT_BLOCK 32 /* columns that share a scale */
#define ACT_SUM   16 /* columns that share a sum */
#define ACT_PAD   64 /* a BUF_ACT row is a whole number of these */

struct buf {
    buf_kind kind;
    size_t max_rows, cols;
    size_t stride; /* columns from one row to the next */
    size_t rows;   /* set by the op that writes it */
    float *f32;    /* [max_rows, stride] */
    int8_t *codes; /* [max_rows, stride], NULL unless BUF_ACT in int8 mode */
    float *scales; /* [max_rows, stride / ACT_BLOCK] */
    int16_t *sums; /* [max_rows, stride / ACT_SUM] */
};

nib_status act_new(buf **out, buf_kind kind, size_t max_rows, size_t cols, bool int8, nib_error *err);
void act_free(buf *b);

static inline float *act_row(const buf *b, size_t row) {
    return b->f32 + row * b->stride;
}

#endif
