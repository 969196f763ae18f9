/* SPDX-License-Identifier: Apache-2.0
 *
 * KV scales: the numbers beside k and v that an FP8 cache's codes are multiplied with, which engines of
 * directories read. Caller: convert.
 */
#ifndef CONVERT_KV_SCALES_H
#define CONVERT_KV_SCALES_H

#include "convert/recipe.h"

/* Has R layers to put them beside? */
nib_status kv_scales_check(const recipe *r, nib_error *err);
/* Appends k_scale and v_scale of every layer of R, a directory's: REACH [layer * SLOT_COUNT + SLOT_K_SCALE
 * and SLOT_V_SCALE] / 448, within CACHE_SCALE_LEAST and CACHE_SCALE_MOST. The source's go. Items change
 * places: nothing points at them yet. */
nib_status kv_scales_add(recipe *r, const float *reach, nib_error *err);

#endif
