/* SPDX-License-Identifier: Apache-2.0
 *
 * See branches.h.
 */
#include "convert/branches.h"

#include <string.h>

#include "store/names.h"

/* STEM of NAME, which is STEM.weight or STEM, then SUFFIX. */
static const char *name_beside(arena *a, const char *name, const char *suffix) {
    size_t n = strlen(name);
    if (n > 7 && strcmp(name + n - 7, ".weight") == 0)
        n -= 7;
    return arena_format(a, "%.*s%s", (int)n, name, suffix);
}

static tensor *make_tensor(arena *a, const tensor *of, const uint16_t *values, size_t rows, size_t cols) {
    tensor *t = arena_alloc(a, 1, sizeof *t);
    if (t)
        *t = tensor_beside(of, DT_BF16, values, rows, cols);
    return t;
}

/* ITEM [2] beside OWNER. */
static bool fill(arena *a, recipe_item *item, recipe_item *owner) {
    const tensor_branch *b = &owner->e.branch;
    const tensor *t = owner->e.t;
    for (int i = 0; i < 2; i++)
        item[i] = (recipe_item){.e = {.t = i ? make_tensor(a, t, b->up, t->rows, b->rank)
                                             : make_tensor(a, t, b->down, b->rank, t->cols),
                                      .slot = owner->e.slot,
                                      .action = ENCODE_CAST,
                                      .to = DT_BF16},
                                .name = name_beside(a, owner->name, i ? NAMES_BRANCH_UP : NAMES_BRANCH_DOWN),
                                .group = -1,
                                .beside = owner};
    item[1].e.heads = owner->e.heads; /* its rows are the matrix's */
    item[1].e.interleave = owner->e.interleave;
    return item[0].e.t && item[1].e.t && item[0].name && item[1].name;
}

nib_status branches_add(recipe *r, nib_error *err) {
    size_t n = 0, at = r->n;
    for (size_t i = 0; i < r->n; i++)
        n += r->items[i].e.branch.rank ? 2 : 0;
    recipe_item *items = n ? arena_alloc(&r->arena, r->n + n, sizeof *items) : r->items;
    bool whole = items != NULL;
    if (whole && n)
        memcpy(items, r->items, r->n * sizeof *items);
    for (size_t i = 0; whole && n && i < r->n; i++)
        if (items[i].e.branch.rank) {
            whole = fill(&r->arena, items + at, &items[i]);
            at += 2;
        }
    if (!whole)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for %zu low-rank branches", n / 2);
    r->items = items;
    r->n = at;
    return NIB_OK;
}
