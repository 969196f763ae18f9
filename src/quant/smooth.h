/* SPDX-License-Identifier: Apache-2.0
 *
 * Smoothing: factors s per channel that matrices W [rows, cols] take from their inputs x: W s reads x / s.
 * What they are by three rules, from what the inputs and the matrices look like:
 *
 *   moments      E[x_j^2]^(strength / 2)
 *   awq          E|x_j|^strength / share_j^(1 - strength), share_j the mean over the rows of |w_j| over the
 *                largest |w| of its block of 16 (AWQ, Lin et al. 2023, as ModelOpt's awq_lite has it)
 *   smoothquant  max|x_j|^strength / max|w_j|^(1 - strength) (SmoothQuant, Xiao et al. 2022)
 *
 * A channel that no input or no weight fills keeps 1, where ModelOpt's reach the end of their range, 1e4 or
 * 1e-4; in that range all factors stay. Caller: tune.
 */
#ifndef QUANT_SMOOTH_H
#define QUANT_SMOOTH_H

#include <stddef.h>

typedef enum smooth_rule { SMOOTH_MOMENTS = 0, SMOOTH_AWQ, SMOOTH_SMOOTHQUANT, SMOOTH_RULES } smooth_rule;
extern const char *const smooth_rules[SMOOTH_RULES]; /* their names */

/* What is known of a channel: sums over what was added, and how much that was. */
typedef struct smooth_channel {
    double squares, magnitudes, peak; /* of the inputs: x^2, |x|, max |x| */
    double shares, weight_peak;       /* of the matrices: |w| over its block's largest, max |w| */
} smooth_channel;

typedef struct smooth_stats {
    smooth_channel *channels; /* [cols]; the caller's */
    size_t cols;              /* a multiple of 16 */
    size_t n_inputs, n_rows;
} smooth_stats;

void smooth_clear(smooth_stats *s);
void smooth_add_input(smooth_stats *s, const float *x);   /* [cols] */
void smooth_add_weights(smooth_stats *s, const float *w); /* [cols], a row */

/* FACTORS [cols] by RULE and STRENGTH in [0, 1]; their geometric mean is 1. */
void smooth_factors(const smooth_stats *s, smooth_rule rule, double strength, double *factors);

#endif
