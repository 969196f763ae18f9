/* SPDX-License-Identifier: Apache-2.0
 *
 * What `nibble quantize --bits` measures before it chooses: the model is loaded, the calibration cut into
 * windows, and each part's sensitivity found (eval/sensitivity.h); for `--size` how much of it is left when
 * all is NVFP4, by writing that. Caller: plan.
 */
#ifndef CLI_PLAN_MEASURE_H
#define CLI_PLAN_MEASURE_H

#include "cli/plan.h"

/* Fills OUT's found, with matrices of FILE, spare_bits, text and n_tokens. */
nib_status plan_measure(plan *out, const model_file *file, const plan_options *options, nib_error *err);

#endif
