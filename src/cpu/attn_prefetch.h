/* SPDX-License-Identifier: Apache-2.0
 *
 * Calling a page's memory before it is needed: a cache fits no level that a decoder's weights leave alone,
 * and hardware prefetch ends at every 4 KiB. Values are called while keys are multiplied, the next page's
 * keys while values are, be it the first page of the next sequence.
 */
#ifndef CPU_ATTN_PREFETCH_H
#define CPU_ATTN_PREFETCH_H

#include "cpu/kernels.h"

enum { ATTN_PREFETCH_AHEAD = 1024, ATTN_PREFETCH_ROWS = 16 };

static inline __attribute__((always_inline)) void attn_prefetch(const void *block, size_t at, size_t n) {
    for (size_t i = 0; i < n; i += 64)
        __builtin_prefetch((const char *)block + at + i, 0, 2);
}

/* Many rows use a page for so long that calling ahead is not worth its instructions. */
static inline bool attn_prefetch_wanted(const attn_page_job *job) {
    return job->n_rows <= ATTN_PREFETCH_ROWS;
}

#endif
