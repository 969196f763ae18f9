/* SPDX-License-Identifier: Apache-2.0
 *
 * See joints.h.
 */
#include "convert/joints.h"

#include <string.h>

void joints_open(joints *j) {
    memset(j->group, -1, sizeof j->group);
}

/* 0: of q, k and v, 1: of gate and up, -1: of none. */
static int joint_of(const recipe_item *item) {
    switch (item->e.slot) {
    case SLOT_Q:
    case SLOT_K:
    case SLOT_V:
        return 0;
    case SLOT_GATE:
    case SLOT_UP:
        return 1;
    default:
        return -1;
    }
}

void joints_count_split(recipe *r) {
    bool seen[HPARAMS_MAX_LAYERS][2] = {{false}}, split[HPARAMS_MAX_LAYERS][2] = {{false}};
    dtype first[HPARAMS_MAX_LAYERS][2];
    for (size_t i = 0; i < r->n; i++) {
        const recipe_item *item = &r->items[i];
        const int joint = joint_of(item), layer = item->e.t->place.layer;
        if (joint < 0 || layer < 0 || item->e.t->place.expert != PLACE_NO_EXPERT)
            continue;
        const dtype to = item->e.to;
        const bool quantized =
            dtype_is_nvfp4(to) || dtype_is_mxfp4(to) || to == DT_F8_E4M3 || to == DT_Q5_0 || to == DT_Q8_0;
        const dtype format = quantized ? to : DT_NONE;
        if (seen[layer][joint] && first[layer][joint] != format && !split[layer][joint]) {
            split[layer][joint] = true;
            r->n_split++;
        }
        seen[layer][joint] = true;
        first[layer][joint] = format;
    }
}

int joints_group(joints *j, recipe *r, const recipe_item *item) {
    const int joint = joint_of(item), layer = item->e.t->place.layer;
    if (joint < 0 || layer < 0)
        return r->n_groups++;
    int *group = &j->group[layer][joint];
    if (*group < 0)
        *group = r->n_groups++;
    return *group;
}
