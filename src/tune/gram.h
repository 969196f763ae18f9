/* SPDX-License-Identifier: Apache-2.0
 *
 * Gram: E[y x^T] of the inputs x of a layer, added up as they come; y is x itself, or something else of the
 * same row. Products of GRAM_ROWS rows at a time are FP32, their sums FP64; every element is summed up in one
 * order, so that the result does not depend on the number of threads. Caller: moments.c.
 */
#ifndef TUNE_GRAM_H
#define TUNE_GRAM_H

#include "base/pool.h"
#include "base/status.h"

#define GRAM_ROWS 512

typedef struct gram {
    pool *team;
    size_t rows, cols; /* of h: of y, of x */
    size_t n;          /* rows seen */
    double *h;         /* [rows, cols] */
    float *held;       /* [panels of 16 columns, GRAM_ROWS, 16] inputs not added yet */
    float *left;       /* y likewise; NULL: y is x */
    size_t n_held;
} gram;

/* Y_COLS: of y; 0: y is x, and h symmetric. */
nib_status gram_open(gram *g, pool *team, size_t y_cols, size_t cols, nib_error *err);
/* x [rows, cols], y [rows, y_cols] or NULL. */
void gram_add(gram *g, const float *y, const float *x, size_t rows);
/* h becomes the mean; nothing is added after. What else was held is freed. */
void gram_finish(gram *g);
void gram_close(gram *g); /* safe on a zeroed gram */

#endif
