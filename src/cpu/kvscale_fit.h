/* SPDX-License-Identifier: Apache-2.0
 *
 * The search for a scale of kvscale.h, and the steering of a key, eight running sums in vectors of the
 * compiler's. kvscale.c compiles it for any machine, avx2/kvscale_avx2.c for AVX2: the same operations in the
 * same order, so a cache holds the same codes whatever the rung.
 */
#ifndef CPU_KVSCALE_FIT_H
#define CPU_KVSCALE_FIT_H

#include <math.h>
#include <string.h>

#include "cpu/kv.h"
#include "cpu/kvscale.h"
#include "num/bf16.h"
#include "ops/kv_fp8.h"

enum { LANES = 8 };

/* Eight numbers to which the compiler gives whatever registers there are. */
typedef float floats __attribute__((vector_size(LANES * sizeof(float))));
typedef int32_t words __attribute__((vector_size(LANES * sizeof(float))));

/* v^, v rounded to E4M3, |v| <= 448: adding 1.5 * 2^20 times the power of two below it (no less than that of
 * the smallest normal number) leaves 3 bits of fraction. POWER: that power. */
static inline void rounded(floats *to, const floats *from, floats *power) {
    floats v = *from;
    words bits = (words)v & 0x7f800000, least = (words){0} + (int32_t)f32_bits(0x1p-6f), above = bits > least;
    bits = (bits & above) | (least & ~above);
    memcpy(power, &bits, sizeof *power);
    floats magic = *power * 0x1.8p20f;
    *to = (v + magic) - magic;
}

/* sums += w (v^ - v)^2. */
static inline void add_mistakes(floats *sums, const float *x, const float *weights, float factor) {
    floats v, w, power, e;
    memcpy(&v, x, sizeof v);
    v *= factor;
    rounded(&e, &v, &power);
    e -= v;
    if (weights) {
        memcpy(&w, weights, sizeof w);
        *sums += w * (e * e);
    } else {
        *sums += e * e;
    }
}

/* The sums of w (x - x^)^2 for two scales 1 / FACTORS, in units of their squares: two at a time, so that one
 * sum need not wait for itself. */
static inline void squared_errors(float errors[2], const float *x, const float *weights, size_t n,
                                  const float factors[2]) {
    floats sums[2] = {{0}, {0}};
    float last[LANES] = {0}, last_weights[LANES] = {0}; /* zeros make no mistakes */
    size_t whole = n - n % LANES;
    memcpy(last, x + whole, (n - whole) * sizeof *last);
    if (weights)
        memcpy(last_weights, weights + whole, (n - whole) * sizeof *last);
    for (size_t i = 0; i < n; i += LANES)
        for (int j = 0; j < 2; j++)
            if (i < whole)
                add_mistakes(&sums[j], x + i, weights ? weights + i : NULL, factors[j]);
            else
                add_mistakes(&sums[j], last, weights ? last_weights : NULL, factors[j]);
    for (int j = 0; j < 2; j++) {
        errors[j] = 0;
        for (size_t l = 0; l < LANES; l++)
            errors[j] += sums[j][l];
    }
}

static inline float search(const float *x, const float *weights, size_t n) {
    uint32_t bits = 0; /* of the largest |x|: their order is that of the values, infinity and NaN on top */
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
    for (int i = 0; i < KVSCALE_STEPS; i += 2) {
        float steps[2], factors[2], errors[2];
        for (int j = 0; j < 2; j++) {
            steps[j] = 1.0f + (float)(i + j) / KVSCALE_STEPS;
            factors[j] = 448.0f / most / steps[j];
        }
        squared_errors(errors, x, weights, n, factors);
        for (int j = 0; j < 2; j++) {
            float error = errors[j] * (steps[j] * steps[j]);
            if (error < best_error) {
                best_error = error;
                best = most / 448.0f * steps[j];
            }
        }
    }
    return best;
}

/* ---- the other side ---- */

/* What lies at X, and zeros behind the N that there are. */
static inline void up_to(floats *to, const float *x, size_t n) {
    *to = (floats){0};
    if (n >= LANES)
        memcpy(to, x, sizeof *to);
    else
        memcpy(to, x, n * sizeof *x);
}

/* In units of the scale, for LANES elements: their codes' other neighbour, what taking it adds to s, and to
 * the rest of kvscale.h's sum. */
typedef struct way {
    floats to, turn, cost;
} way;

/* The sum of along * e for codes that are the nearest. */
static inline float find_ways(way *ways, const float *x, float factor, const float *weights,
                              const float *along, size_t n) {
    floats sums = {0};
    for (size_t i = 0; i < n; i += LANES, ways++) {
        floats v, u, w, near, power;
        up_to(&v, x + i, n - i);
        up_to(&u, along + i, n - i);
        up_to(&w, weights + i, n - i);
        v *= factor;
        rounded(&near, &v, &power);
        floats e = near - v, step = power * 0.125f;
        words above = e > 0;
        step = (floats)(((words)step) ^ (above & INT32_MIN));
        ways->to = near + step;
        floats other = ways->to - v;
        ways->turn = u * step;
        ways->cost = w * (other * other - e * e) + ways->turn * ways->turn;
        sums += u * e;
        words out = ((words)ways->to & 0x7fffffff) > (int32_t)f32_bits(448);
        ways->cost = (floats)(((words)ways->cost & ~out) | (out & (int32_t)f32_bits(INFINITY)));
    }
    float s = 0;
    for (size_t l = 0; l < LANES; l++)
        s += sums[l];
    return s;
}

/* The element whose other neighbour makes the sum smallest, or N where none makes it smaller. */
static inline size_t best_way(const way *ways, float s, size_t n) {
    floats least = {0};
    words at = {0};
    for (size_t i = 0; i < n; i += LANES) {
        const way *w = ways + i / LANES;
        floats change = w->cost + (2 * s) * w->turn;
        words better = change < least;
        least = (floats)(((words)change & better) | ((words)least & ~better));
        at = ((int32_t)i & better) | (at & ~better);
    }
    float change = 0;
    size_t found = n;
    for (size_t l = 0; l < LANES; l++)
        if (least[l] < change) {
            change = least[l];
            found = (size_t)at[l] + l;
        }
    return found;
}

static inline void steer(float *x, float scale, const float *weights, const float *along, size_t n) {
    way ways[KVSCALE_MAX_DIM / LANES];
    if (!(scale > 0) || n > KVSCALE_MAX_DIM)
        return;
    float s = find_ways(ways, x, 1.0f / scale, weights, along, n);
    for (int i = 0; i < KV_FP8_TURNS; i++) {
        const size_t found = best_way(ways, s, n), l = found % LANES;
        if (found == n)
            return;
        way *w = &ways[found / LANES];
        x[found] = w->to[l] * scale;
        s += w->turn[l];
        w->cost[l] = INFINITY;
    }
}

#endif
