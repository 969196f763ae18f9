/* SPDX-License-Identifier: Apache-2.0
 *
 * The search and the steering for any machine, and the weights. See kvscale.h.
 */
#include "cpu/kvscale.h"

#include <string.h>

#include "cpu/kvscale_fit.h"
#include "ops/kv_fp8.h"

float kvscale_fit(const float *x, const float *weights, size_t n) {
    return weights ? search(x, weights, n) : search(x, NULL, n);
}

void kvscale_steer(float *x, float scale, const float *weights, const float *along, size_t n) {
    steer(x, scale, weights, along, n);
}

void kvscale_weigh(float *weights, float *along, const float *queries, size_t n_queries, size_t n) {
    const float part = sqrtf(KV_FP8_SUM_SHARE / (float)n_queries);
    float sum = 0;
    memset(weights, 0, n * sizeof *weights);
    memset(along, 0, n * sizeof *along);
    for (size_t h = 0; h < n_queries; h++)
        for (size_t i = 0; i < n; i++) {
            float square = queries[h * n + i] * queries[h * n + i];
            weights[i] += square;
            along[i] += queries[h * n + i];
            sum += square;
        }
    for (size_t i = 0; i < n; i++) {
        weights[i] += KV_FP8_MEAN_SHARE * sum / (float)n;
        along[i] *= part;
    }
}
