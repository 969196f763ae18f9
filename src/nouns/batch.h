/* SPDX-License-Identifier: Apache-2.0
 *
 * Batch: what one step computes, and where its sequences keep what they remember. Integers only; made by
 * sched (or by a test), read by ops. Owned by its maker, who keeps it until the step was waited for.
 *
 * Layers that remember alike form a cache group. A sequence has one page table per group; which pages stand
 * in it is sched's business, what lies in them the backend's.
 */
#ifndef NOUNS_BATCH_H
#define NOUNS_BATCH_H

#include <stdint.h>

#define KV_PAGE_TOKENS   64 /* token positions of one KV page */
#define CACHE_MAX_GROUPS 4

/* An initializer: the same for every group. */
#define CACHE_EVERY_GROUP(x)                                                                                 \
    { (x), (x), (x), (x) }

typedef enum cache_kind {
    CACHE_FULL = 0, /* keys and values of every position */
    CACHE_WINDOW,   /* of the last window positions: pages before them are freed */
    CACHE_STATE     /* one slot per sequence, whatever its length: recurrent layers */
} cache_kind;

/* What sched knows of a group. */
typedef struct cache_group {
    cache_kind kind;
    int32_t window;  /* CACHE_WINDOW: a query sees keys with q - k < window */
    int32_t n_pages; /* in all; of CACHE_STATE: slots */
} cache_group;

/* Rows [row, row + n_rows) of the batch are positions [pos, pos + n_rows) of one sequence; what positions
 * below pos left behind is in its pages already. Position p of group g lies in page
 * pages[g][p / KV_PAGE_TOKENS]; -1 where the window has left it. The slot of a CACHE_STATE group is
 * pages[g][0]. */
typedef struct batch_seq {
    const int32_t *pages[CACHE_MAX_GROUPS];
    int32_t n_pages; /* entries of each table of pages: positions below n_pages * KV_PAGE_TOKENS have one */
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
