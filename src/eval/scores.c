/* SPDX-License-Identifier: Apache-2.0
 *
 * Statistics over scored tokens. See scores.h.
 */
#include "eval/scores.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

const int eval_permille[EVAL_N_PERCENTILES] = {1000, 999, 990, 950, 900, 500, 100, 50, 10, 1, 0};

nib_status scores_open(scores *s, size_t n, nib_error *err) {
    s->n = n;
    s->nll = mem_array(n, sizeof(double));
    s->nll_base = mem_array(n, sizeof(double));
    s->kld = mem_array(n, sizeof(double));
    s->p_diff = mem_array(n, sizeof(double));
    s->same_top = mem_array(n, 1);
    if (s->nll && s->nll_base && s->kld && s->p_diff && s->same_top)
        return NIB_OK;
    scores_close(s);
    return nib_fail(err, NIB_NO_MEMORY, "out of memory for the scores of %zu tokens", n);
}

void scores_close(scores *s) {
    mem_free(s->nll);
    mem_free(s->nll_base);
    mem_free(s->kld);
    mem_free(s->p_diff);
    mem_free(s->same_top);
    memset(s, 0, sizeof *s);
}

nib_status scores_check(const double *values, size_t n, size_t row, nib_error *err) {
    for (size_t i = 0; i < n; i++)
        if (!isfinite(values[i]))
            return nib_fail(err, NIB_BAD_FILE,
                            "the model gave a logit that is not a finite number (scored token %zu); expected "
                            "finite weights",
                            row + i);
    return NIB_OK;
}

/* Variance over n, error over n - 1, as llama-perplexity has it; two passes for exactness. */
static double variance(const double *a, double mean_a, const double *b, double mean_b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (a[i] - mean_a) * (b[i] - mean_b);
    return sum / (double)n;
}

static double mean_of(const double *values, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += values[i];
    return sum / (double)n;
}

eval_mean scores_mean(const double *values, size_t n) {
    eval_mean m = {.value = mean_of(values, n)};
    if (n > 1)
        m.error = sqrt(variance(values, m.value, values, m.value, n) / (double)(n - 1));
    return m;
}

static eval_mean exponential(eval_mean m) {
    eval_mean e = {exp(m.value), exp(m.value) * m.error};
    return e;
}

void scores_ppl(const double *nll, eval_ppl_result *out) {
    out->nll = scores_mean(nll, out->n_scored);
    out->ppl = exponential(out->nll);
}

double scores_percentile(const double *sorted, size_t n, double fraction) {
    double p = fraction * (double)(n - 1);
    size_t i = (size_t)p;
    if (i + 1 >= n)
        return sorted[n - 1];
    double part = p - (double)i;
    return (1 - part) * sorted[i] + part * sorted[i + 1];
}

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Error of sqrt(mean of squares) from the error of the mean of squares. */
static eval_mean root_mean_square(const double *values, size_t n, double *squares) {
    for (size_t i = 0; i < n; i++)
        squares[i] = values[i] * values[i];
    eval_mean mse = scores_mean(squares, n);
    eval_mean m = {.value = sqrt(mse.value)};
    m.error = m.value > 0 ? 0.5 / m.value * mse.error : 0;
    return m;
}

void scores_summarize(scores *s, eval_kld_result *out) {
    size_t n = out->n_scored = s->n;
    eval_mean nll = scores_mean(s->nll, n), base = scores_mean(s->nll_base, n);
    out->ppl = exponential(nll);
    out->ppl_base = exponential(base);
    double covariance = variance(s->nll, nll.value, s->nll_base, base.value, n) / (double)(n > 1 ? n - 1 : 1);
    double spread = nll.error * base.error;
    out->correlation = spread > 0 ? covariance / spread : 1;
    double var = nll.error * nll.error + base.error * base.error - 2 * covariance;
    out->log_ratio.value = nll.value - base.value;
    out->log_ratio.error = var > 0 ? sqrt(var) : 0;
    out->ppl_ratio = exponential(out->log_ratio);
    out->kld = scores_mean(s->kld, n);
    out->p_diff = scores_mean(s->p_diff, n);
    out->p_diff_rms = root_mean_square(s->p_diff, n, s->nll); /* the likelihoods are used up */
    double same = 0;
    for (size_t i = 0; i < n; i++)
        same += s->same_top[i];
    out->same_top.value = same / (double)n;
    out->same_top.error = n > 1 ? sqrt(out->same_top.value * (1 - out->same_top.value) / (double)(n - 1)) : 0;
    qsort(s->kld, n, sizeof *s->kld, ascending);
    qsort(s->p_diff, n, sizeof *s->p_diff, ascending);
    for (int i = 0; i < EVAL_N_PERCENTILES; i++) {
        out->kld_at[i] = scores_percentile(s->kld, n, eval_permille[i] / 1000.0);
        out->p_diff_at[i] = scores_percentile(s->p_diff, n, eval_permille[i] / 1000.0);
    }
}
