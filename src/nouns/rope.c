/* SPDX-License-Identifier: Apache-2.0
 *
 * Angles of the rotary position embedding: theta^(-2i/D), and the ways to stretch it over more context.
 */
#include "nouns/rope.h"

#include <assert.h>
#include <math.h>

static const double two_pi = 6.28318530717958647692;

const char *rope_kind_name(rope_kind k) {
    static const char *const names[] = {
        [ROPE_PLAIN] = "default", [ROPE_LINEAR] = "linear",   [ROPE_LLAMA3] = "llama3",
        [ROPE_YARN] = "yarn",     [ROPE_DYNAMIC] = "dynamic", [ROPE_LONGROPE] = "longrope"};
    return names[k];
}

/* Long wavelengths are stretched by the factor, short ones kept, those between mixed. */
static double llama3(const rope_params *r, double freq) {
    double wavelength = two_pi / freq; /* in positions */
    double original = r->original_context;
    if (wavelength < original / r->high_freq)
        return freq;
    if (wavelength > original / r->low_freq)
        return freq / r->factor;
    double mix = (original / wavelength - r->low_freq) / (r->high_freq - r->low_freq);
    return (1 - mix) * freq / r->factor + mix * freq;
}

/* The dimension, of head_dim, whose pair makes TURNS turns over the original context. */
static double yarn_dim(const rope_params *r, int head_dim, double turns) {
    return head_dim * log(r->original_context / (turns * two_pi)) / (2 * log(r->theta));
}

/* As it is up to the pair LOW, stretched from HIGH on, mixed between. */
static double yarn(const rope_params *r, double freq, int pair, int head_dim) {
    double low = yarn_dim(r, head_dim, r->beta_fast), high = yarn_dim(r, head_dim, r->beta_slow);
    if (!r->no_truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, head_dim - 1);
    if (low == high)
        high += 0.001;
    double ramp = fmin(fmax((pair - low) / (high - low), 0), 1);
    return freq / r->factor * ramp + freq * (1 - ramp);
}

/* NTK: the larger base that makes the slowest pair cover CONTEXT as it did the original one. */
static double dynamic_theta(const rope_params *r, int head_dim, int32_t context) {
    double original = r->original_context, length = fmax(context, original);
    return r->theta * pow(r->factor * length / original - (r->factor - 1), head_dim / (head_dim - 2.0));
}

static double scaled(const rope_params *r, double freq, int pair, int head_dim, int32_t context) {
    switch (r->kind) {
    case ROPE_LINEAR:
        return freq / r->factor;
    case ROPE_LLAMA3:
        return llama3(r, freq);
    case ROPE_YARN:
        return yarn(r, freq, pair, head_dim);
    case ROPE_LONGROPE:
        return freq / (context > r->original_context ? r->long_divisors : r->short_divisors)[pair];
    case ROPE_PLAIN:
    case ROPE_DYNAMIC:
        break;
    }
    return freq;
}

void rope_inv_freq(float *inv_freq, const rope_params *r, int head_dim, int32_t context,
                   const float *divisors) {
    int n = head_dim / 2;
    assert(r->kind != ROPE_LONGROPE || n <= ROPE_MAX_PAIRS);
    double theta = r->kind == ROPE_DYNAMIC && n > 1 ? dynamic_theta(r, head_dim, context) : r->theta;
    for (int i = 0; i < n; i++) {
        double freq = scaled(r, pow(theta, -(double)i / n), i, head_dim, context);
        inv_freq[i] = (float)(divisors ? freq / divisors[i] : freq);
    }
}

double rope_llama3_divisor(const rope_params *r, int head_dim, int pair) {
    double freq = pow(r->theta, -2.0 * pair / head_dim);
    return freq / llama3(r, freq);
}

float rope_attention_factor(const rope_params *r) {
    return r->kind == ROPE_YARN || r->kind == ROPE_LONGROPE ? r->attention_factor : 1.0f;
}
