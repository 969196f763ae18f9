/* SPDX-License-Identifier: Apache-2.0
 *
 * Lanes: rows of a matrix side by side, LANES of them transposed into [cols, LANES], so that every step of
 * choosing codes is done to all of them at once, which compilers vectorize; and the choice for one block of
 * 16 columns. Callers: gptq.c, refine.c.
 */
#ifndef QUANT_LANES_H
#define QUANT_LANES_H

#include "num/nvfp4.h"
#include "quant/gptq.h"

enum { LANES = 32, STRETCH = 128 };

/* What a thread works with. */
typedef struct lanes_worker {
    double *w;  /* [cols, LANES] */
    double *g;  /* [cols, LANES] */
    double *e;  /* [STRETCH, LANES] */
    float *row; /* [cols] */
    bool bad;   /* a row held a NaN or an infinity */
} lanes_worker;

typedef struct lanes_crew {
    lanes_worker *workers;
    int n;
} lanes_crew;

nib_status lanes_open(lanes_crew *c, size_t cols, pool *team, nib_error *err);
void lanes_close(lanes_crew *c);
/* NIB_BAD_FILE when a worker saw a row that is no finite numbers. */
nib_status lanes_check(const lanes_crew *c, const tensor *t, nib_error *err);

/* N rows from the I-th on, transposed into W; lanes past them are zeros. */
void lanes_read(lanes_worker *k, const gptq_rows *rows, size_t i, size_t n);
/* The values that codes and scales (of the first lane's row on) stand for, taken from W
 * [cols, LANES]. */
void lanes_subtract(double *w, size_t cols, size_t n, float tensor_scale, const uint8_t *codes,
                    const uint8_t *scales);

/* U of a block's columns, H^-1 = U^T U. */
typedef struct lanes_block {
    double u[NVFP4_BLOCK][NVFP4_BLOCK];
    double inverse[NVFP4_BLOCK]; /* 1 / U_jj */
} lanes_block;

void lanes_block_load(lanes_block *b, const double *u, size_t row); /* u's rows are ROW elements apart */

typedef double lanes_16[NVFP4_BLOCK][LANES];

/* What was chosen for a block. */
typedef struct lanes_choice {
    uint8_t scale[LANES];
    double step[LANES], loss[LANES]; /* what 1 stands for; the sum of e^2 */
    lanes_16 q, e;                   /* values in steps; errors over U_jj */
} lanes_choice;

/* Scale and codes of block columns V [16, LANES], which are left made good. */
void lanes_choose(const lanes_block *b, lanes_16 v, gptq_scales by, lanes_choice *out);
void lanes_store(const lanes_choice *c, size_t lane, uint8_t *codes, uint8_t *scale); /* packed [8], [1] */

#endif
