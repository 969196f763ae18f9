/* SPDX-License-Identifier: Apache-2.0
 *
 * Gram: E[x x^T] of the inputs x of a layer, added up as they come. The products are the backend's matrix
 * products (of the transposed inputs with themselves, 1,024 rows at a time, FP32), their sums FP64: whatever
 * computes the network computes this too, and the result does not depend on the number of threads.
 */
#ifndef TUNE_GRAM_H
#define TUNE_GRAM_H

#include "ops/ops.h"

#define GRAM_ROWS 1024

typedef struct gram {
    backend *be;
    size_t cols, n; /* n: rows seen */
    size_t panel;   /* columns computed at a time */
    double *h;      /* [cols, cols] */
    float *held;    /* [cols, up to whole panels, GRAM_ROWS] inputs not added yet, transposed */
    size_t n_held;
    buf *in, *out;
} gram;

nib_status gram_open(gram *g, backend *be, size_t cols, nib_error *err);
/* a [rows, cols]; between the backend's steps. */
nib_status gram_add(gram *g, const float *a, size_t rows, nib_error *err);
/* h becomes the mean, symmetric; nothing is added after. What else was held is freed. */
nib_status gram_finish(gram *g, nib_error *err);
void gram_close(gram *g); /* safe on a zeroed gram */

#endif
