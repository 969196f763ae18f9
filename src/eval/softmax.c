/* SPDX-License-Identifier: Apache-2.0
 *
 * Softmax statistics. The inner loops run over LANES independent values so that the compiler turns them into
 * vector instructions without being allowed to reorder sums. See softmax.h.
 */
#include "eval/softmax.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#define LANES 16
#define RUN   512 /* elements summed in FP32 before they go to FP64 */

/* e^x for x <= 0. Cephes' split: x = n ln 2 + r, |r| <= ln 2 / 2; e^r by its Taylor polynomial of degree 7
 * (error 3e-8). The clamp compares bit patterns: a float comparison may trap, which keeps gcc from using
 * vectors. It swallows NaN, which softmax_of looks for itself. */
static inline float exp_negative(float x) {
    const float round = 12582912.f; /* 1.5 * 2^23: adding it leaves the nearest integer in the low bits */
    int32_t magnitude;
    memcpy(&magnitude, &x, sizeof magnitude);
    magnitude &= INT32_MAX;
    magnitude = magnitude < 0x42AE0000 ? magnitude : 0x42AE0000; /* 87 */
    memcpy(&x, &magnitude, sizeof x);
    x = -x;
    float shifted = x * 1.44269504f + round;
    float n = shifted - round;
    float r = x - n * 0.693359375f;
    r = r - n * -2.12194440e-4f;
    float p = 1.98412698e-4f;
    p = p * r + 1.38888889e-3f;
    p = p * r + 8.33333333e-3f;
    p = p * r + 4.16666667e-2f;
    p = p * r + 1.66666667e-1f;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    uint32_t power = (bits + 127) << 23; /* 2^n: the high bits of the rounding constant fall out */
    float scale;
    memcpy(&scale, &power, sizeof scale);
    return p * scale;
}

float softmax_exp(float x) {
    return x > -87.0f ? exp_negative(x) : 0;
}

static float maximum(const float *x, size_t n) {
    float lane[LANES];
    for (int j = 0; j < LANES; j++)
        lane[j] = -INFINITY;
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++)
            lane[j] = x[i + j] > lane[j] ? x[i + j] : lane[j];
    float max = -INFINITY;
    for (int j = 0; j < LANES; j++)
        max = lane[j] > max ? lane[j] : max;
    for (; i < n; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

static bool has_nan(const float *x, size_t n) {
    int32_t found = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        found |= (bits & INT32_MAX) > 0x7F800000;
    }
    return found != 0;
}

/* Sum of one run, LANES at a time. */
static double run_sum(const float *e, size_t n) {
    float lane[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES; j++)
            lane[j] += e[i + j];
    double sum = 0;
    for (int j = 0; j < LANES; j++)
        sum += lane[j];
    for (; i < n; i++)
        sum += e[i];
    return sum;
}

softmax_row softmax_of(const float *x, size_t n) {
    softmax_row row = {.max = maximum(x, n)};
    while ((size_t)row.argmax + 1 < n && x[row.argmax] != row.max)
        row.argmax++;
    row.log_sum = NAN;
    if (!isfinite(row.max) || has_nan(x, n))
        return row;
    double sum = 0;
    for (size_t start = 0; start < n; start += RUN) {
        size_t run = n - start < RUN ? n - start : RUN;
        float e[RUN];
        for (size_t i = 0; i < run; i++)
            e[i] = exp_negative(x[start + i] - row.max);
        sum += run_sum(e, run);
    }
    row.log_sum = log(sum);
    return row;
}

double softmax_log_prob(const float *x, const softmax_row *row, int32_t token) {
    return (double)x[token] - row->max - row->log_sum;
}

/* With d(v) = (x(v) - max x) - (y(v) - max y), small where both models agree:
 * KL = sum p(v) d(v) - ln Zx + ln Zy. */
double softmax_kl(const float *x, const softmax_row *p, const float *y, const softmax_row *q, size_t n) {
    double sum = 0;
    for (size_t start = 0; start < n; start += RUN) {
        size_t run = n - start < RUN ? n - start : RUN;
        float e[RUN];
        for (size_t i = 0; i < run; i++) {
            float a = x[start + i] - p->max;
            e[i] = exp_negative(a) * (a - (y[start + i] - q->max));
        }
        sum += run_sum(e, run);
    }
    return sum * exp(-p->log_sum) - p->log_sum + q->log_sum;
}
