/* SPDX-License-Identifier: Apache-2.0
 *
 * The plain backend's sampling: the probabilities of the whole vocabulary in FP64, sorted, and who of it is
 * left. Part of plain_backend.h; everything is static.
 */
#ifndef PLAIN_SAMPLE_H
#define PLAIN_SAMPLE_H

#include <math.h>
#include <stdlib.h>

#include "nouns/sampling.h"

typedef struct plain_choice {
    int32_t id;
    double logit, p;
} plain_choice;

static int plain_by_logit(const void *a, const void *b) {
    const plain_choice *x = a, *y = b;
    return x->logit != y->logit ? (x->logit < y->logit ? 1 : -1) : x->id - y->id;
}

static int plain_by_id(const void *a, const void *b) {
    return ((const plain_choice *)a)->id - ((const plain_choice *)b)->id;
}

static void plain_punish(double *x, const sample_row *how) {
    for (int32_t i = 0; i < how->n_tokens; i++) {
        int32_t t = how->tokens[i], before = 0, window = how->n_tokens - how->penalty_window;
        for (int32_t j = window > 0 ? window : 0; j < i; j++)
            before += how->tokens[j] == t;
        if (how->repeat_penalty > 0 && i >= window && !before)
            x[t] = x[t] > 0 ? x[t] / (double)how->repeat_penalty : x[t] * (double)how->repeat_penalty;
    }
    for (int32_t i = how->n_prompt; i < how->n_tokens; i++) {
        int32_t before = 0;
        for (int32_t j = how->n_prompt; j < i; j++)
            before += how->tokens[j] == how->tokens[i];
        x[how->tokens[i]] -= (before ? 0 : (double)how->presence_penalty) + (double)how->frequency_penalty;
    }
}

/* Softmax at temperature T of ALL [n], sorted by logit. */
static void plain_softmax(plain_choice *all, size_t n, double t) {
    double sum = 0;
    qsort(all, n, sizeof *all, plain_by_logit);
    for (size_t i = 0; i < n; i++)
        sum += all[i].p = exp((all[i].logit - all[0].logit) / t);
    for (size_t i = 0; i < n; i++)
        all[i].p /= sum;
}

static int32_t plain_draw(plain_choice *all, size_t n, const sample_row *how) {
    size_t k = how->top_k > 0 && (size_t)how->top_k < n ? (size_t)how->top_k : n, kept = 0;
    double sum = 0, of_k = 0, left = 0;
    if (!(all[0].logit > -INFINITY && all[0].logit < INFINITY) || how->temperature == 0)
        return all[0].logit > -INFINITY && all[0].logit < INFINITY ? all[0].id : -1;
    for (size_t i = 0; i < k; i++)
        of_k += all[i].p;
    do
        sum += all[kept++].p;
    while (kept < k && !(how->top_p > 0 && how->top_p < 1 && sum >= (double)how->top_p * of_k));
    while (kept > 1 && all[kept - 1].p < (double)how->min_p * all[0].p)
        kept--;
    for (size_t i = 0; i < kept; i++)
        left += all[i].p;
    if ((how->top_k <= 0 || (size_t)how->top_k >= n) && !(how->top_p > 0 && how->top_p < 1))
        qsort(all, kept, sizeof *all, plain_by_id);
    double u = sample_uniform(how->seed, how->position) * left;
    for (size_t i = 0; i + 1 < kept; i++)
        if ((u -= all[i].p) < 0)
            return all[i].id;
    return all[kept - 1].id;
}

/* LOGITS [n_rows, n]. */
static void plain_pick(sampled *out, const float *logits, size_t n_rows, size_t n, const sample_row *rows) {
    plain_choice *all = malloc(n * sizeof *all);
    double *x = malloc(n * sizeof *x);
    for (size_t r = 0; r < n_rows; r++, out++, rows++) {
        const float *row = logits + r * n;
        for (size_t i = 0; i < n; i++)
            all[i] = (plain_choice){(int32_t)i, x[i] = row[i], 0};
        plain_softmax(all, n, 1);
        *out = (sampled){.n_top = rows->n_top < 0 ? 0 : rows->n_top};
        double best = log(all[0].p) - all[0].logit; /* log p - logit is the same for all */
        for (int32_t i = 0; i < out->n_top; i++)
            out->top[i] = (token_logprob){all[i].id, (float)(all[i].logit + best)};
        for (int32_t i = 0; i < rows->n_bias; i++)
            x[rows->bias[i].token] += (double)rows->bias[i].bias;
        for (size_t i = 0; rows->mask && i < n; i++)
            x[i] = rows->mask[i / 32] >> i % 32 & 1 ? x[i] : -INFINITY;
        plain_punish(x, rows);
        for (size_t i = 0; i < n; i++)
            all[i] = (plain_choice){(int32_t)i, x[i], 0};
        plain_softmax(all, n, rows->temperature > 0 ? (double)rows->temperature : 1);
        out->token = plain_draw(all, n, rows);
        out->logprob = rows->n_top < 0 || out->token < 0 ? 0 : (float)((double)row[out->token] + best);
    }
    free(all);
    free(x);
}

#endif
