/* SPDX-License-Identifier: Apache-2.0
 *
 * Branches: the tensors that low-rank branches are in a file, appended to a recipe once they are chosen. They
 * stand beside their matrix under its name, ending as store/names.h has it. Caller: convert.
 */
#ifndef CONVERT_BRANCHES_H
#define CONVERT_BRANCHES_H

#include "convert/recipe.h"

/* Two items more for each with a branch; items move. */
nib_status branches_add(recipe *r, nib_error *err);

#endif
