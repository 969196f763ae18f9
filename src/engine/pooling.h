/* SPDX-License-Identifier: Apache-2.0
 *
 * Pooling: the hidden states of a prompt's tokens, which come step by step, become one vector.
 */
#ifndef ENGINE_POOLING_H
#define ENGINE_POOLING_H

#include "store/model_file.h"

typedef struct pooling {
    nib_pooling how;
    size_t dim;
    int n_rows;    /* tokens seen so far, from the first on */
    double *sums;  /* [dim], of MEAN */
    float *vector; /* [dim] complete after pooling_end */
} pooling;         /* zero-initialize */

nib_status pooling_open(pooling *p, nib_pooling how, size_t dim, nib_error *err);
void pooling_close(pooling *p); /* safe on a zeroed struct */

/* ROWS [n_rows, dim] are those of positions POS on. Rows that were seen before are passed over: a sequence
 * that was put back to wait is computed again. Of LAST, the first may be missing. */
void pooling_add(pooling *p, const float *rows, int pos, int n_rows);
/* Nothing follows. False: what came is not a number. */
bool pooling_end(pooling *p);

/* What F's files say of it; LAST where they say nothing, NONE where it is a way that is not here. In
 * pooling_files.c. */
nib_pooling pooling_of_files(const model_file *f);

#endif
