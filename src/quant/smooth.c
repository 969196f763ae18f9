/* SPDX-License-Identifier: Apache-2.0
 *
 * Factors between inputs and the columns that read them; see smooth.h.
 */
#include "quant/smooth.h"

#include <math.h>
#include <string.h>

#include "num/nvfp4.h"

const char *const smooth_rules[SMOOTH_RULES] = {"moments", "awq", "smoothquant"};

void smooth_clear(smooth_stats *s) {
    memset(s->channels, 0, s->cols * sizeof *s->channels);
    s->n_inputs = s->n_rows = 0;
}

void smooth_add_input(smooth_stats *s, const float *x) {
    for (size_t j = 0; j < s->cols; j++) {
        const double magnitude = fabs((double)x[j]);
        smooth_channel *c = &s->channels[j];
        c->squares += magnitude * magnitude;
        c->magnitudes += magnitude;
        c->peak = fmax(c->peak, magnitude);
    }
    s->n_inputs++;
}

void smooth_add_weights(smooth_stats *s, const float *w) {
    double most = 0;
    for (size_t j = 0; j < s->cols; j++) {
        if (j % NVFP4_BLOCK == 0)
            most = (double)nvfp4_amax(w + j, NVFP4_BLOCK);
        const double magnitude = fabs((double)w[j]);
        smooth_channel *c = &s->channels[j];
        c->shares += most > 0 ? magnitude / most : 0;
        c->weight_peak = fmax(c->weight_peak, magnitude);
    }
    s->n_rows++;
}

/* What a channel's inputs, and its weights, are worth by RULE. */
static void sizes_of(const smooth_stats *s, smooth_rule rule, size_t j, double *input, double *weight) {
    const smooth_channel *c = &s->channels[j];
    const double n = (double)s->n_inputs;
    *input = rule == SMOOTH_MOMENTS ? sqrt(c->squares / n) : rule == SMOOTH_AWQ ? c->magnitudes / n : c->peak;
    *weight = rule == SMOOTH_MOMENTS ? 1
              : rule == SMOOTH_AWQ   ? c->shares / (double)s->n_rows
                                     : c->weight_peak;
}

void smooth_factors(const smooth_stats *s, smooth_rule rule, double strength, double *factors) {
    double logs = 0;
    size_t n = 0;
    for (size_t j = 0; j < s->cols; j++) {
        double input, weight;
        sizes_of(s, rule, j, &input, &weight);
        factors[j] = 0;
        if (!(input > 0 && weight > 0))
            continue;
        factors[j] = fmin(1e4, fmax(1e-4, pow(input, strength) / pow(weight, 1 - strength)));
        logs += log(factors[j]);
        n++;
    }
    const double middle = n ? exp(logs / (double)n) : 1;
    for (size_t j = 0; j < s->cols; j++)
        factors[j] = factors[j] > 0 ? factors[j] / middle : 1;
}
