/* SPDX-License-Identifier: Apache-2.0
 *
 * Smoothing: a factor per channel moved from the inputs of q, k and v, and of gate and up, into these
 * matrices: the norm before them gives x / s, and their columns are multiplied with s. Channels that are
 * larger than others then take less of a block's scale in activations of few bits, and more of it in the
 * weights. Factors are those of quant/smooth.h as powers of two, so that every value of a BF16 model stays
 * what it was and the network computes the same numbers.
 *
 * Rule and strength are found for each norm: of none and some strengths of each rule what has the least
 * squared error of the outputs on held-out text, where the weights are NVFP4 by the weighted sweep and the
 * inputs NVFP4 by the largest magnitude. Caller: cli quantize.
 */
#ifndef TUNE_SMOOTHING_H
#define TUNE_SMOOTHING_H

#include "quant/smooth.h"
#include "tune/tune.h"

typedef struct smoothing_norm {
    int8_t *powers;  /* [dim] s = 2^powers */
    double strength; /* 0: none */
    smooth_rule rule;
    double error, before; /* of the outputs: as chosen, and with strength 0 */
} smoothing_norm;

typedef struct smoothing {
    smoothing_norm *norms; /* [2 * n_layers] before attention, before the MLP, of each layer */
    int n_layers;
} smoothing;

/* FILE's network has a norm before each half and no experts (else NIB_UNSUPPORTED); BE computes exactly.
 * OPTIONS as tune_run's, of which method and journal's content do not count: what spills lies beside it. */
nib_status smoothing_find(smoothing *out, const model_file *file, backend *be, const tune_options *options,
                          nib_error *err);
void smoothing_free(smoothing *s); /* safe on a zeroed smoothing */

#endif
