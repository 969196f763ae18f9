/* SPDX-License-Identifier: Apache-2.0
 *
 * Joints: matrices of a layer that other engines join into one, q, k and v, or gate and up. These want one
 * tensor scale and one format for all of them. Caller: recipe.
 */
#ifndef CONVERT_JOINTS_H
#define CONVERT_JOINTS_H

#include "convert/recipe.h"

typedef struct joints {
    int group[HPARAMS_MAX_LAYERS][2]; /* of items with one tensor scale; -1: none yet */
} joints;

void joints_open(joints *j);
/* ITEM's group, which may be a new one. */
int joints_group(joints *j, recipe *r, const recipe_item *item);

/* Counts in n_split where not all of a joint end in one quantized format, or all in none. */
void joints_count_split(recipe *r);

#endif
