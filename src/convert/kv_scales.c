/* SPDX-License-Identifier: Apache-2.0
 *
 * See kv_scales.h.
 */
#include "convert/kv_scales.h"

#include <math.h>
#include <string.h>

static bool is_scale(const recipe_item *item) {
    return item->e.t->place.slot == SLOT_K_SCALE || item->e.t->place.slot == SLOT_V_SCALE;
}

static bool has_scale(const recipe_item *item) {
    return item->e.slot == SLOT_K || item->e.slot == SLOT_V;
}

/* Beside OWNER, k or v: as ModelOpt names them, "...k_proj.k_scale". */
static bool fill(recipe *r, recipe_item *item, const recipe_item *owner, const float *reach) {
    const bool keys = owner->e.slot == SLOT_K;
    const slot s = keys ? SLOT_K_SCALE : SLOT_V_SCALE;
    const int layer = owner->e.t->place.layer;
    size_t n = strlen(owner->name);
    if (n > 7 && strcmp(owner->name + n - 7, ".weight") == 0)
        n -= 7;
    float *value = arena_alloc(&r->arena, 1, sizeof *value);
    tensor *t = arena_alloc(&r->arena, 1, sizeof *t);
    const char *name = arena_format(&r->arena, "%.*s.%s", (int)n, owner->name, keys ? "k_scale" : "v_scale");
    if (!value || !t || !name)
        return false;
    const float reached = reach[(size_t)layer * SLOT_COUNT + s];
    *value = reached > 0 ? fminf(fmaxf(reached / 448.0f, CACHE_SCALE_LEAST), CACHE_SCALE_MOST) : 1;
    *t = tensor_beside(owner->e.t, DT_F32, value, 1, 1);
    t->n_dims = 1;
    t->name = name;
    t->place = place_of(s, layer);
    *item = (recipe_item){
        .e = {.t = t, .slot = s, .action = ENCODE_CARRY, .to = DT_F32}, .name = name, .group = -1};
    return true;
}

static size_t count_owners(const recipe *r) {
    size_t n = 0;
    for (size_t i = 0; i < r->n; i++)
        n += has_scale(&r->items[i]);
    return n;
}

nib_status kv_scales_check(const recipe *r, nib_error *err) {
    return count_owners(r) ? NIB_OK
                           : nib_fail(err, NIB_UNSUPPORTED,
                                      "expected layers with a k and a v of their own, to put the scales of "
                                      "a cache beside; q, k and v are one matrix here");
}

nib_status kv_scales_add(recipe *r, const float *reach, nib_error *err) {
    const size_t n = count_owners(r);
    size_t at = 0;
    NIB_TRY(kv_scales_check(r, err));
    recipe_item *items = arena_alloc(&r->arena, r->n + n, sizeof *items);
    bool whole = items != NULL;
    for (size_t i = 0; whole && i < r->n; i++)
        if (!is_scale(&r->items[i]))
            items[at++] = r->items[i];
    for (size_t i = 0, stood = at; whole && i < stood; i++)
        if (has_scale(&items[i]))
            whole = fill(r, &items[at++], &items[i], reach);
    if (!whole)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for the scales of %zu caches", n);
    r->items = items;
    r->n = at;
    return NIB_OK;
}
