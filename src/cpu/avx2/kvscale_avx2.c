/* SPDX-License-Identifier: Apache-2.0
 *
 * The search for an FP8 scale, and the steering of a key, built for AVX2.
 */
#include "cpu/kernels.h"
#include "cpu/kvscale_fit.h"

static float fit(const float *x, const float *weights, size_t n) {
    return weights ? search(x, weights, n) : search(x, NULL, n);
}

static void steer_key(float *x, float scale, const float *weights, const float *along, size_t n) {
    steer(x, scale, weights, along, n);
}

void kvscale_avx2_init(cpu_kernels *k) {
    k->fp8_scale = fit;
    k->fp8_steer = steer_key;
}
