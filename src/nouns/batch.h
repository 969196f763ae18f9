/* SPDX-License-Identifier: Apache-2.0
 *
 * Batch: what one step computes. Integers only; made by sched (or by a test), read by ops. Owned by its
 * maker.
 */
#ifndef NOUNS_BATCH_H
#define NOUNS_BATCH_H

#include <stdint.h>

#define KV_PAGE_TOKENS 64 /* token positions of one KV page */

/* Rows [row, row + n_rows) of the batch are positions [pos, pos + n_rows) of one sequence; keys and values of
 * positions below pos are in its pages already. Position p lives in page pages[p / KV_PAGE_TOKENS]. */
typedef struct batch_seq {
    const int32_t *pages;
    int32_t n_pages;
    int32_t row, n_rows;
    int32_t pos;
} batch_seq;

typedef struct batch {
    const int32_t *tokens; /* [n_rows] */
    int32_t n_rows;
    const batch_seq *seqs; /* in row order, covering all rows */
    int32_t n_seqs;
    const int32_t *out_rows; /* [n_out] rows whose logits are wanted, ascending */
    int32_t n_out;
} batch;

#endif
