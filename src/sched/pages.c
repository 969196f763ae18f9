/* SPDX-License-Identifier: Apache-2.0
 *
 * The free list is a stack: the page given back last is taken first, while it is still in a processor's
 * cache.
 */
#include "sched/pages.h"

#undef NDEBUG /* integers are cheap to check, and a page taken twice is the worst of mistakes */
#include <assert.h>

#include "base/mem.h"

nib_status pages_open(pages *p, int n_pages, nib_error *err) {
    assert(n_pages > 0);
    size_t n = (size_t)n_pages;
    *p = (pages){.n_pages = n_pages, .oldest = PAGES_NONE, .newest = PAGES_NONE};
    p->free = mem_array(n, sizeof *p->free);
    p->refs = mem_array(n, sizeof *p->refs);
    p->block = mem_array(n, sizeof *p->block);
    p->older = mem_array(n, sizeof *p->older);
    p->newer = mem_array(n, sizeof *p->newer);
    if (!p->free || !p->refs || !p->block || !p->older || !p->newer) {
        pages_close(p);
        return nib_fail(err, NIB_NO_MEMORY, "no memory to keep account of %d KV pages", n_pages);
    }
    for (int32_t i = 0; i < n_pages; i++) {
        p->free[i] = n_pages - 1 - i;
        p->block[i] = PAGES_NONE;
    }
    p->n_free = n_pages;
    return NIB_OK;
}

void pages_close(pages *p) {
    mem_free(p->free);
    mem_free(p->refs);
    mem_free(p->block);
    mem_free(p->older);
    mem_free(p->newer);
    *p = (pages){0};
}

/* ---- the kept ---- */

static void keep(pages *p, int32_t page) {
    p->older[page] = p->newest;
    p->newer[page] = PAGES_NONE;
    *(p->newest == PAGES_NONE ? &p->oldest : &p->newer[p->newest]) = page;
    p->newest = page;
    p->n_kept++;
}

static void unkeep(pages *p, int32_t page) {
    int32_t older = p->older[page], newer = p->newer[page];
    *(older == PAGES_NONE ? &p->oldest : &p->newer[older]) = newer;
    *(newer == PAGES_NONE ? &p->newest : &p->older[newer]) = older;
    p->n_kept--;
}

/* ---- references and names ---- */

int32_t pages_take(pages *p, int32_t *lost) {
    assert(pages_available(p) > 0);
    int32_t page = p->n_free > 0 ? p->free[--p->n_free] : p->oldest;
    assert(p->refs[page] == 0);
    *lost = p->block[page];
    if (*lost != PAGES_NONE)
        unkeep(p, page);
    p->block[page] = PAGES_NONE;
    p->refs[page] = 1;
    return page;
}

void pages_share(pages *p, int32_t page) {
    assert(page >= 0 && page < p->n_pages && (p->refs[page] > 0 || p->block[page] != PAGES_NONE));
    if (p->refs[page]++ == 0)
        unkeep(p, page);
}

void pages_give(pages *p, int32_t page) {
    assert(page >= 0 && page < p->n_pages && p->refs[page] > 0);
    if (--p->refs[page] > 0)
        return;
    if (p->block[page] != PAGES_NONE)
        keep(p, page);
    else
        p->free[p->n_free++] = page;
}

void pages_name(pages *p, int32_t page, int32_t block) {
    assert(page >= 0 && page < p->n_pages && p->refs[page] > 0 && p->block[page] == PAGES_NONE);
    p->block[page] = block;
}

void pages_unname(pages *p, int32_t page) {
    assert(page >= 0 && page < p->n_pages && p->block[page] != PAGES_NONE);
    p->block[page] = PAGES_NONE;
    if (p->refs[page] == 0) {
        unkeep(p, page);
        p->free[p->n_free++] = page;
    }
}

void pages_check(const pages *p) {
    int32_t n_unheld = 0, n_kept = 0, before = PAGES_NONE;
    for (int32_t i = 0; i < p->n_pages; i++) {
        assert(p->refs[i] >= 0);
        n_unheld += p->refs[i] == 0;
    }
    assert(n_unheld == p->n_free + p->n_kept);
    for (int32_t page = p->oldest; page != PAGES_NONE; page = p->newer[page], n_kept++) {
        assert(p->refs[page] == 0 && p->block[page] != PAGES_NONE && p->older[page] == before);
        before = page;
    }
    assert(n_kept == p->n_kept && p->newest == before);
    /* Free pages are unheld, unnamed, and differ (each is marked once). */
    for (int32_t i = 0; i < p->n_free; i++) {
        int32_t page = p->free[i];
        assert(page >= 0 && page < p->n_pages && p->refs[page] == 0 && p->block[page] == PAGES_NONE);
        p->refs[page] = -1;
    }
    for (int32_t i = 0; i < p->n_free; i++)
        p->refs[p->free[i]] = 0;
}
