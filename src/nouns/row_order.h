/* SPDX-License-Identifier: Apache-2.0
 *
 * Row order: where a row of q or k stands in the other container. GGUF files of some families hold the rows
 * of a head in pairs (2i, 2i + 1), directories in halves (i, i + n / 2). Callers: eval/survey, tune/outputs.
 */
#ifndef NOUNS_ROW_ORDER_H
#define NOUNS_ROW_ORDER_H

#include <stdbool.h>
#include <stddef.h>

typedef struct row_order {
    size_t heads; /* 0: both have one order */
    bool pairs;   /* rows are asked for in pairs, and found in halves; else the other way */
} row_order;

/* The other's row that is row R of N_ROWS. */
static inline size_t row_order_find(row_order o, size_t n_rows, size_t r) {
    if (!o.heads)
        return r;
    const size_t d = n_rows / o.heads, head = r / d, i = r % d;
    return head * d + (o.pairs ? i % 2 * (d / 2) + i / 2 : i % (d / 2) * 2 + i / (d / 2));
}

#endif
