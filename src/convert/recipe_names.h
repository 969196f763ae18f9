/* SPDX-License-Identifier: Apache-2.0
 *
 * What tensors are called in the output, and which of them --keep's globs name: by the name in the source or
 * in the output, with or without ".weight". Caller: recipe.
 */
#ifndef CONVERT_RECIPE_NAMES_H
#define CONVERT_RECIPE_NAMES_H

#include "convert/recipe.h"

/* The name of T, which becomes S, in the recipe's arena; NULL in *NAME when the output's container has no
 * place for the tensor. */
nib_status recipe_names_make(recipe *r, const model_file *in, const tensor *t, slot s, const char **name,
                             nib_error *err);

bool recipe_names_kept(const convert_options *o, const recipe_item *item);
/* A glob that names nothing is a slip: what was to be kept would be quantized. */
nib_status recipe_names_check(const recipe *r, const model_file *in, const convert_options *o,
                              nib_error *err);

#endif
