/* SPDX-License-Identifier: Apache-2.0
 *
 * Plain C; the search for a scale is of the kind that compilers vectorize: eight running sums, no branches.
 * avx2/kvscale_avx2.c gives the same bits, so a cache holds the same codes whatever the rung.
 */
#include "cpu/kvscale.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "cpu/kv.h"
#include "num/bf16.h"

enum { LANES = 8 };

const float kvscale_factors[KVSCALE_STEPS] = {
    1.0f,        1.04427378f, 1.09050773f, 1.13878863f, 1.18920712f, 1.24185781f, 1.29683955f, 1.35425555f,
    1.41421356f, 1.47682615f, 1.54221083f, 1.61049033f, 1.68179283f, 1.75625216f, 1.83400809f, 1.91520656f};

/* The power of two below |v|, no less than that of the smallest normal number: 8 steps of E4M3. */
static inline float power_of(float v) {
    float power = f32_of_bits(f32_bits(v) & 0x7f800000u);
    return power > 0x1p-6f ? power : 0x1p-6f;
}

/* v, |v| <= 448, rounded to E4M3: adding 1.5 * 2^20 times its power of two leaves 3 bits of fraction. */
static inline float round_e4m3(float v) {
    float magic = power_of(v) * 0x1.8p20f;
    return (v + magic) - magic;
}

static inline float clamp(float v, float most) {
    return v < -most ? -most : v > most ? most : v;
}

/* Sum of w (x - x^)^2 in units of the square of the scale 1 / FACTOR. */
static float squared_error(const float *x, const float *weights, size_t n, float factor) {
    float sums[LANES] = {0};
    for (size_t i = 0; i + LANES <= n; i += LANES)
        for (size_t l = 0; l < LANES; l++) {
            float v = x[i + l] * factor, e = round_e4m3(v) - v;
            sums[l] += (weights ? weights[i + l] : 1.0f) * (e * e);
        }
    for (size_t i = n - n % LANES; i < n; i++) {
        float v = x[i] * factor, e = round_e4m3(v) - v;
        sums[i % LANES] += (weights ? weights[i] : 1.0f) * (e * e);
    }
    float sum = 0;
    for (size_t l = 0; l < LANES; l++)
        sum += sums[l];
    return sum;
}

float kvscale_fit(const float *x, const float *weights, size_t n) {
    uint32_t bits =
        0; /* of the largest |x|: their order is that of the values, with infinity and NaN on top */
    for (size_t i = 0; i < n; i++) {
        uint32_t magnitude = f32_bits(x[i]) & 0x7fffffffu;
        bits = magnitude > bits ? magnitude : bits;
    }
    float most = f32_of_bits(bits);
    if (!(most < INFINITY))
        return NAN;
    if (most < KV_FP8_TINY)
        return 0;
    float best = most / 448.0f, best_error = INFINITY;
    for (int i = 0; i < KVSCALE_STEPS; i++) {
        float factor = 448.0f / most / kvscale_factors[i];
        float error = squared_error(x, weights, n, factor) * (kvscale_factors[i] * kvscale_factors[i]);
        if (error < best_error) {
            best_error = error;
            best = most / 448.0f * kvscale_factors[i];
        }
    }
    return best;
}

void kvscale_weigh(float *weights, const float *queries, size_t n_queries, size_t n) {
    float sum = 0;
    memset(weights, 0, n * sizeof *weights);
    for (size_t h = 0; h < n_queries; h++)
        for (size_t i = 0; i < n; i++) {
            float square = queries[h * n + i] * queries[h * n + i];
            weights[i] += square;
            sum += square;
        }
    for (size_t i = 0; i < n; i++)
        weights[i] += KVSCALE_MEAN_SHARE * sum / (float)n;
}

/* Every element takes one of its two E4M3 neighbours. What the mistakes so far add to each query's score is
 * known, and wanted is the mistake e that makes w e^2 + KVSCALE_STEER * (the sum of (score + q e)^2)
 * smallest. */
void kvscale_round(float *x, float scale, const float *weights, const float *queries, size_t n_queries,
                   size_t n, bool interleaved) {
    assert(n_queries <= KVSCALE_QUERIES);
    float factor = scale > 0 ? 1.0f / scale : 0, scores[KVSCALE_QUERIES] = {0};
    for (size_t j = 0; j < n; j++) {
        size_t i = interleaved ? j : j % 2 * (n / 2) + j / 2;
        const float *q = queries + i;
        float v = clamp(x[i] * factor, 448.0f), near = round_e4m3(v), step = copysignf(power_of(v) / 8, v);
        float far = clamp(fabsf(near) > fabsf(v) ? near - step : near + step, 448.0f);
        float up = near > far ? near : far, down = near > far ? far : near;
        float slope = 0, energy = 0;
        for (size_t h = 0; h < n_queries; h++) {
            slope += scores[h] * q[h * n];
            energy += q[h * n] * q[h * n];
        }
        float stiffness = weights[i] + KVSCALE_STEER * energy;
        float wanted = stiffness > 0 ? slope * (-KVSCALE_STEER / stiffness) : 0,
              middle = (up - v + (down - v)) / 2;
        x[i] = wanted > middle ? up : wanted < middle ? down : near;
        for (size_t h = 0; h < n_queries; h++)
            scores[h] += q[h * n] * (x[i] - v);
    }
}

void kvscale_keys(const kvscale_job *job) {
    for (size_t t = 0; t < job->n_tokens; t++) {
        float *k = job->k + t * job->n, *weights = job->room;
        const float *queries = job->queries + t * job->q_stride;
        kvscale_weigh(weights, queries, job->n_queries, job->n);
        job->scales[t] = kvscale_fit(k, weights, job->n);
        kvscale_round(k, job->scales[t], weights, queries,
                      job->n_queries < KVSCALE_QUERIES ? job->n_queries : KVSCALE_QUERIES, job->n,
                      job->interleaved);
    }
}

void kvscale_scales(float *scales, const float *x, size_t x_stride, size_t n_tokens, size_t n, float *room) {
    (void)room;
    for (size_t t = 0; t < n_tokens; t++)
        scales[t] = kvscale_fit(x + t * x_stride, NULL, n);
}
