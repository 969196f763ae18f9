/* SPDX-License-Identifier: Apache-2.0
 *
 * Windows: the one loop under perplexity, KL divergence and the base's file: runs every window of a text
 * through one or two models and hands out the scored rows in order.
 */
#ifndef EVAL_WINDOWS_H
#define EVAL_WINDOWS_H

#include "base/pool.h"
#include "eval/eval.h"

#define WINDOWS_MAX_ROWS 256 /* rows of one batch */
#define WINDOWS_MAX_OUT  64  /* scored rows handed out at a time: bounds the memory of the logits */

/* Scored rows, the first being scored row FIRST of the whole run. */
typedef struct windows_rows {
    void *context;
    const float *const *logits; /* logits[i]: of model i, FP32 [n, vocab] */
    const int32_t *targets;     /* [n] the ids that the rows predict */
    size_t first;
    int n;
    pool *pool; /* to score them with */
} windows_rows;

typedef nib_status (*windows_rows_fn)(windows_rows *rows, nib_error *err);

static inline size_t windows_scored(const eval_text *t) {
    return (size_t)t->n_chunks * (size_t)(t->n_ctx - 1 - t->n_ctx / 2);
}

nib_status windows_run(model *const *models, int n_models, const eval_text *text, const eval_options *options,
                       const char *what, windows_rows_fn rows, void *context, nib_error *err);

#endif
