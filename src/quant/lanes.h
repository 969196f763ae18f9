/* SPDX-License-Identifier: Apache-2.0
 *
 * Lanes: rows of a matrix side by side, LANES of them transposed into [cols, LANES], so that every step of
 * choosing codes is done to all of them at once, which compilers vectorize; and the choice for one block: of
 * 16 columns (NVFP4) or 32 (Q5_0). Callers: gptq.c, refine.c, aim.c.
 */
#ifndef QUANT_LANES_H
#define QUANT_LANES_H

#include "num/nvfp4.h"
#include "quant/gptq.h"

enum { LANES = 32, STRETCH = 128, LANES_COLUMNS = 32 /* of a block, at most */ };

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
/* W += TIMES (1 or -1) the values that codes and scales stand for, of N rows from the I-th on. */
void lanes_add(lanes_worker *k, size_t cols, size_t i, size_t n, double times, gptq_codes from);

/* U of a block's columns, H^-1 = U^T U. */
typedef struct lanes_block {
    double u[LANES_COLUMNS][LANES_COLUMNS];
    double inverse[LANES_COLUMNS]; /* 1 / U_jj */
    size_t n;                      /* columns */
} lanes_block;

size_t lanes_columns(gptq_grid grid); /* of a block */
/* U's rows are ROW elements apart. */
void lanes_block_load(lanes_block *b, size_t n, const double *u, size_t row);

typedef double lanes_values[LANES_COLUMNS][LANES];

/* What was chosen for a block. */
typedef struct lanes_choice {
    uint16_t scale[LANES];           /* E4M3, or the step as F16 */
    double step[LANES], loss[LANES]; /* what 1 stands for; the sum of e^2 */
    lanes_values q, e;               /* values in steps; errors over U_jj */
} lanes_choice;

/* Scale and codes of block columns V [n, LANES], which are left made good. */
void lanes_choose(const lanes_block *b, lanes_values v, gptq_scales by, lanes_choice *out);
/* LANE's choice into row ROW, at column COL. */
void lanes_store(const lanes_choice *c, size_t lane, gptq_codes to, size_t cols, size_t row, size_t col);

#endif
