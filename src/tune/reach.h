/* SPDX-License-Identifier: Apache-2.0
 *
 * Reach: the largest magnitude among what each linear layer reads on a text, and among keys and values, for
 * static scales of activations and caches. One walk of the network, half a layer in memory at a time. Caller:
 * cli quantize.
 */
#ifndef TUNE_REACH_H
#define TUNE_REACH_H

#include "tune/tune.h"

/* REACH [n_layers * SLOT_COUNT], filled for the slots of linear layers, [layer * SLOT_COUNT + slot], and for
 * SLOT_K_SCALE and SLOT_V_SCALE with that of keys as they are stored and of values. FILE has a network, BE
 * computes exactly. Of OPTIONS: the text, memory_bytes, journal (what spills is beside it), progress,
 * interrupted. */
nib_status reach_find(float *reach, const model_file *file, backend *be, const tune_options *options,
                      nib_error *err);

#endif
