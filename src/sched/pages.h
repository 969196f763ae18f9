/* SPDX-License-Identifier: Apache-2.0
 *
 * Pages: the free list of KV pages. It knows page numbers and their holders, nothing else.
 *
 * Caller: sched.c. Invariant: every page is either on the free list or held by exactly one sequence.
 */
#ifndef SCHED_PAGES_H
#define SCHED_PAGES_H

#include "base/status.h"

#define PAGES_NOBODY (-1)

typedef struct pages {
    int32_t *free;   /* [n_free] a stack of page numbers */
    int32_t *holder; /* [n_pages] the sequence that holds the page, or PAGES_NOBODY */
    int32_t n_pages, n_free;
} pages;

nib_status pages_open(pages *p, int n_pages, nib_error *err);
void pages_close(pages *p); /* safe on a zeroed struct */

int32_t pages_take(pages *p, int holder); /* asserts that one is free */
void pages_give(pages *p, int32_t page, int holder);

void pages_check(const pages *p); /* asserts the free list and the holders agree */

#endif
