/* SPDX-License-Identifier: Apache-2.0
 *
 * Statistics of one row of logits. Exponentials in FP32 (relative error below 2e-7), sums in FP64 over short
 * FP32 runs: a vocabulary of 262,144 takes a fraction of what computing the row took.
 */
#ifndef EVAL_SOFTMAX_H
#define EVAL_SOFTMAX_H

#include <stddef.h>
#include <stdint.h>

typedef struct softmax_row {
    float max;
    int32_t argmax; /* the first */
    double log_sum; /* ln(sum exp(x - max)); not finite when a logit is not */
} softmax_row;

softmax_row softmax_of(const float *x, size_t n);

/* ln p of one token. */
double softmax_log_prob(const float *x, const softmax_row *row, int32_t token);

/* sum_v p(v) (ln p(v) - ln q(v)), p from X and q from Y. */
double softmax_kl(const float *x, const softmax_row *p, const float *y, const softmax_row *q, size_t n);

/* e^x for x <= 0, 0 below about -87: the exponential of the sums above. */
float softmax_exp(float x);

#endif
