/* SPDX-License-Identifier: Apache-2.0
 *
 * Outputs: how far what the linear layers of a quantized network give is from what the source's give, on a
 * text that passes through both, each matrix on the inputs of its own network. What a method that looks at
 * inputs makes small, and the error of weights does not show. Caller: cli report.
 */
#ifndef TUNE_OUTPUTS_H
#define TUNE_OUTPUTS_H

#include "nouns/row_order.h"
#include "tune/tune.h"

typedef struct outputs_pair {
    const tensor *t, *of; /* of: the source's, or NULL: nothing is computed */
    row_order order;      /* of t's rows in it */
    double norm,
        error; /* filled: sums of (w x)^2 and (w x - w^ x^)^2 over rows and some inputs; 0: not seen */
} outputs_pair;

/* PAIRS [n] of FILE and SOURCE, which have a network of one shape; BE computes exactly. Of OPTIONS: the text,
 * threads, progress, interrupted. */
nib_status outputs_compare(outputs_pair *pairs, size_t n, const model_file *file, const model_file *source,
                           backend *be, const tune_options *options, nib_error *err);

#endif
