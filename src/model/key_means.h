/* SPDX-License-Identifier: Apache-2.0
 *
 * Key means: what the rotated keys of a head have in common, which an FP8 cache need not hold (attn_params):
 * half of its loss, and softmax does not see it (docs/notes/kv-fp8.md). No file says it: a model that is
 * opened with such a cache reads KEY_MEANS_TOKENS tokens drawn at random once, in pages of its own, and keeps
 * the mean of their keys; where the backend turns keys, also what balances them with their queries. They do
 * not depend on M's limits. Caller: model.c.
 */
#ifndef MODEL_KEY_MEANS_H
#define MODEL_KEY_MEANS_H

#include "model/network.h"

#define KEY_MEANS_TOKENS 32

/* For M's weights, where its cache is to hold keys in few bits and its backend knows means; M has no cache
 * yet. */
nib_status key_means_find(model *m, const progress *watch, nib_error *err);

#endif
