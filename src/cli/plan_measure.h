/* SPDX-License-Identifier: Apache-2.0
 *
 * What `nibble quantize --bits` measures before it chooses: the model is loaded, the calibration cut into
 * windows, and each part's sensitivity found (eval/sensitivity.h); for `--size` how much of it is left when
 * all is NVFP4, by writing that. Caller: plan.
 */
#ifndef CLI_PLAN_MEASURE_H
#define CLI_PLAN_MEASURE_H

#include "cli/plan.h"

/* The bits that OPTIONS' size leaves when all linear layers are NVFP4, found by writing that beside the
 * output and removing it; NIB_BAD_ARGUMENT: it leaves none. To be asked before anything is measured. */
nib_status plan_measure_spare(double *bits, const model_file *file, const plan_options *options,
                              nib_error *err);

/* Fills OUT's found, with matrices of FILE, text and n_tokens. */
nib_status plan_measure(plan *out, const model_file *file, const plan_options *options, nib_error *err);

#endif
