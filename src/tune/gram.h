/* SPDX-License-Identifier: Apache-2.0
 *
 * Gram: E[y x^T] of the inputs x of a layer, added up as they come; y is x itself, or something else of the
 * same row. The products are the backend's matrix products (of the transposed values, 1,024 rows at a time,
 * FP32), their sums FP64: whatever computes the network computes this too, and the result does not depend on
 * the number of threads.
 */
#ifndef TUNE_GRAM_H
#define TUNE_GRAM_H

#include "ops/ops.h"

#define GRAM_ROWS 1024

typedef struct gram {
    backend *be;
    size_t rows, cols; /* of h: of y, of x */
    size_t n;          /* rows seen */
    size_t panel;      /* columns computed at a time */
    double *h;         /* [rows, cols] */
    float *held;       /* [cols, up to whole panels, GRAM_ROWS] inputs not added yet, transposed */
    float *left;       /* [rows, GRAM_ROWS] y likewise; NULL: y is x */
    size_t n_held;
    buf *in, *out;
} gram;

/* Y_COLS: of y; 0: y is x, and h symmetric. */
nib_status gram_open(gram *g, backend *be, size_t y_cols, size_t cols, nib_error *err);
/* x [rows, cols], y [rows, y_cols] or NULL; between the backend's steps. */
nib_status gram_add(gram *g, const float *y, const float *x, size_t rows, nib_error *err);
/* h becomes the mean; nothing is added after. What else was held is freed. */
nib_status gram_finish(gram *g, nib_error *err);
void gram_close(gram *g); /* safe on a zeroed gram */

#endif
