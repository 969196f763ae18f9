/* SPDX-License-Identifier: Apache-2.0
 *
 * One function per step of the order in nouns/sampling.h. See sample_oracle.h.
 */
#include "ops/cases/sample_oracle.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

typedef struct choice {
    int32_t id;
    double logit, p;
} choice;

static int by_logit(const void *a, const void *b) {
    const choice *x = a, *y = b;
    return x->logit != y->logit ? (x->logit < y->logit ? 1 : -1) : x->id - y->id;
}

static double largest(const double *x, size_t n) {
    double max = -INFINITY;
    for (size_t i = 0; i < n; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

/* ln of what the exponentials of X [n] sum to */
static double log_sum(const double *x, size_t n) {
    double max = largest(x, n), sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += exp(x[i] - max);
    return max + log(sum);
}

/* How often TOKEN stands in the sequence from FIRST on. */
static int count(const sample_row *how, int32_t first, int32_t token) {
    int n = 0;
    for (int32_t i = first > 0 ? first : 0; i < how->n_tokens; i++)
        n += how->tokens[i] == token;
    return n;
}

/* Bias, mask, penalties. */
static void change(double *x, size_t n, const sample_row *how) {
    double repeat = how->repeat_penalty > 0 ? (double)how->repeat_penalty : 1;
    for (int32_t i = 0; i < how->n_bias; i++)
        x[how->bias[i].token] += (double)how->bias[i].bias;
    for (size_t i = 0; how->mask && i < n; i++)
        x[i] = how->mask[i / 32] >> i % 32 & 1 ? x[i] : -INFINITY;
    for (int32_t i = 0; i < how->n_tokens; i++) { /* each token where it stands last */
        int32_t t = how->tokens[i];
        if (count(how, i + 1, t) > 0)
            continue;
        if (count(how, how->n_tokens - how->penalty_window, t) > 0)
            x[t] = x[t] > 0 ? x[t] / repeat : x[t] * repeat;
        int generated = count(how, how->n_prompt, t);
        if (generated > 0)
            x[t] -= (double)how->presence_penalty + (double)how->frequency_penalty * generated;
    }
}

static bool cuts_k(const sample_row *how, size_t n) {
    return how->top_k > 0 && (size_t)how->top_k < n;
}

static bool cuts_p(const sample_row *how) {
    return how->top_p > 0 && how->top_p < 1;
}

/* How many of ALL [n], sorted where anything cuts, top-k and top-p leave. */
static size_t cut(const choice *all, size_t n, const sample_row *how) {
    size_t k = cuts_k(how, n) ? (size_t)how->top_k : n, kept = 0;
    double of_k = 0, sum = 0;
    if (!cuts_p(how))
        return k;
    for (size_t i = 0; i < k; i++)
        of_k += all[i].p;
    while (kept < k && sum < (double)how->top_p * of_k)
        sum += all[kept++].p;
    return kept;
}

/* From X [n]; ALL is room for as many. Probabilities are relative to the largest. */
static int32_t draw(choice *all, const double *x, size_t n, const sample_row *how) {
    double max = largest(x, n), left = 0;
    size_t kept = 0;
    if (max == -INFINITY)
        return -1; /* nothing is allowed */
    for (size_t i = 0; how->temperature == 0; i++)
        if (x[i] == max)
            return (int32_t)i;
    for (size_t i = 0; i < n; i++)
        all[i] = (choice){(int32_t)i, x[i], exp((x[i] - max) / (double)how->temperature)};
    if (cuts_k(how, n) || cuts_p(how))
        qsort(all, n, sizeof *all, by_logit);
    n = cut(all, n, how);
    for (size_t i = 0; i < n; i++)
        if (all[i].p >= (double)how->min_p) {
            left += all[i].p;
            all[kept++] = all[i];
        }
    double u = sample_uniform(how->seed, how->position) * left;
    for (size_t i = 0; i + 1 < kept; i++)
        if ((u -= all[i].p) < 0)
            return all[i].id;
    return all[kept - 1].id;
}

/* The N_TOP most probable of X [n]. */
static void list_top(sampled *out, choice *all, const double *x, size_t n, double log_z) {
    for (size_t i = 0; i < n; i++)
        all[i] = (choice){.id = (int32_t)i, .logit = x[i]};
    qsort(all, n, sizeof *all, by_logit);
    for (int32_t i = 0; i < out->n_top; i++)
        out->top[i] = (token_logprob){all[i].id, (float)(all[i].logit - log_z)};
}

/* ALL and X are room for [n]. */
static void choose(sampled *out, choice *all, double *x, const float *logits, size_t n,
                   const sample_row *how) {
    for (size_t i = 0; i < n; i++)
        x[i] = (double)logits[i];
    double log_z = log_sum(x, n);
    out->n_top = how->n_top < 0 ? 0 : how->n_top;
    if (out->n_top > 0)
        list_top(out, all, x, n, log_z);
    change(x, n, how);
    out->token = draw(all, x, n, how);
    if (how->n_top >= 0 && out->token >= 0)
        out->logprob = (float)((double)logits[out->token] - log_z);
}

void sample_oracle(sampled *out, const float *logits, size_t n, const sample_row *how) {
    choice *all = malloc(n * sizeof *all);
    double *x = malloc(n * sizeof *x);
    bool sound = true;
    if (!all || !x)
        abort();
    for (size_t i = 0; i < n; i++)
        sound = sound && logits[i] < INFINITY; /* false for NaN */
    *out = (sampled){.token = -1};
    if (sound)
        choose(out, all, x, logits, n, how);
    free(all);
    free(x);
}
