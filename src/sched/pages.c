/* SPDX-License-Identifier: Apache-2.0
 *
 * The free list of KV pages. A stack: the page given back last is taken first, while it is still in a cache.
 */
#include "sched/pages.h"

#undef NDEBUG /* integers are cheap to check, and a page with two holders is the worst of mistakes */
#include <assert.h>

#include "base/mem.h"

nib_status pages_open(pages *p, int n_pages, nib_error *err) {
    assert(n_pages > 0);
    *p = (pages){.n_pages = n_pages};
    p->free = mem_array((size_t)n_pages, sizeof *p->free);
    p->holder = mem_array((size_t)n_pages, sizeof *p->holder);
    if (!p->free || !p->holder) {
        pages_close(p);
        return nib_fail(err, NIB_NO_MEMORY, "no memory to keep account of %d KV pages", n_pages);
    }
    for (int32_t i = 0; i < n_pages; i++) {
        p->free[i] = n_pages - 1 - i;
        p->holder[i] = PAGES_NOBODY;
    }
    p->n_free = n_pages;
    return NIB_OK;
}

void pages_close(pages *p) {
    mem_free(p->free);
    mem_free(p->holder);
    *p = (pages){0};
}

int32_t pages_take(pages *p, int holder) {
    assert(p->n_free > 0 && holder >= 0);
    int32_t page = p->free[--p->n_free];
    assert(p->holder[page] == PAGES_NOBODY);
    p->holder[page] = holder;
    return page;
}

void pages_give(pages *p, int32_t page, int holder) {
    assert(page >= 0 && page < p->n_pages && p->holder[page] == holder);
    p->holder[page] = PAGES_NOBODY;
    p->free[p->n_free++] = page;
}

void pages_check(const pages *p) {
    int32_t n_unheld = 0;
    for (int32_t i = 0; i < p->n_pages; i++)
        n_unheld += p->holder[i] == PAGES_NOBODY;
    assert(n_unheld == p->n_free);
    /* Free pages are unheld, as many as there are unheld ones, and differ (each is marked once). */
    for (int32_t i = 0; i < p->n_free; i++) {
        int32_t page = p->free[i];
        assert(page >= 0 && page < p->n_pages && p->holder[page] == PAGES_NOBODY);
        p->holder[page] = -2;
    }
    for (int32_t i = 0; i < p->n_free; i++)
        p->holder[p->free[i]] = PAGES_NOBODY;
}
