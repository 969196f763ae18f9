/* SPDX-License-Identifier: Apache-2.0
 *
 * The search for any machine, and the weights. See kvscale.h.
 */
#include "cpu/kvscale.h"

#include <string.h>

#include "cpu/kvscale_fit.h"

/* How much of the queries' mean square a dimension weighs beside its own; docs/notes/kv-fp8.md. */
static const float mean_share = 0.1f;

float kvscale_fit(const float *x, const float *weights, size_t n) {
    return weights ? search(x, weights, n) : search(x, NULL, n);
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
        weights[i] += mean_share * sum / (float)n;
}
