/* SPDX-License-Identifier: Apache-2.0
 *
 * Pages: the account of one cache group's pages (or slots). It knows page numbers, how many sequences refer
 * to each, and the prefix block that names what lies in it; nothing else.
 *
 * A page that nobody refers to is free. If a block names it, it is kept: taken again only when no other is
 * free, the one kept longest first.
 *
 * Callers: sched.c, prefix.c. Invariant (pages_check): a page with no reference stands exactly once, on the
 * free list or, named, among the kept.
 */
#ifndef SCHED_PAGES_H
#define SCHED_PAGES_H

#include "base/status.h"

#define PAGES_NONE (-1) /* no page, no block */

typedef struct pages {
    int32_t n_pages, n_free, n_kept;
    int32_t *free;          /* [n_free] a stack of page numbers */
    int32_t *refs;          /* [n_pages] */
    int32_t *block;         /* [n_pages] the block that names the page, or PAGES_NONE */
    int32_t *older, *newer; /* [n_pages] neighbours of a kept page */
    int32_t oldest, newest; /* kept pages */
} pages;

nib_status pages_open(pages *p, int n_pages, nib_error *err);
void pages_close(pages *p); /* safe on a zeroed struct */

static inline int32_t pages_available(const pages *p) {
    return p->n_free + p->n_kept;
}

/* A page with one reference; asserts that one is available. *lost: the block that named it until now. */
int32_t pages_take(pages *p, int32_t *lost);
void pages_share(pages *p, int32_t page); /* one reference more */
void pages_give(pages *p, int32_t page);  /* one less */

void pages_name(pages *p, int32_t page, int32_t block);
void pages_unname(pages *p, int32_t page);

void pages_check(const pages *p); /* asserts the invariant */

#endif
