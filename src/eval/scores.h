/* SPDX-License-Identifier: Apache-2.0
 *
 * Scores: what was found for each scored token, and the statistics over them (llama-perplexity's formulas).
 */
#ifndef EVAL_SCORES_H
#define EVAL_SCORES_H

#include "eval/eval.h"

typedef struct scores {
    size_t n;
    double *nll, *nll_base, *kld, *p_diff; /* [n] */
    unsigned char *same_top;               /* [n] 0 or 1 */
} scores;

nib_status scores_open(scores *s, size_t n, nib_error *err);
void scores_close(scores *s);

/* A value that is not finite means that the model computed no probabilities: said, not averaged. */
nib_status scores_check(const double *values, size_t n, size_t row, nib_error *err);

void scores_ppl(const double *nll, eval_ppl_result *out); /* out->n_scored values */
void scores_summarize(scores *s, eval_kld_result *out);   /* sorts kld and p_diff */

eval_mean scores_mean(const double *values, size_t n);
/* SORTED ascending; linear between neighbours. */
double scores_percentile(const double *sorted, size_t n, double fraction);

#endif
