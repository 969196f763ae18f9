/* SPDX-License-Identifier: Apache-2.0
 *
 * Angles of the rotary position embedding: theta^(-2i/D), and the two ways to stretch it over more context.
 */
#include "model/rope.h"

#include <math.h>

void rope_inv_freq(float *inv_freq, const hparams *hp, bool local, const float *divisors) {
    int n = hp->head_dim / 2;
    double theta = local ? hp->rope_theta_local : hp->rope_theta;
    for (int i = 0; i < n; i++) {
        double freq = pow(theta, -(double)i / n);
        if (!local) {
            if (hp->rope_scaling == ROPE_LINEAR)
                freq /= hp->rope_factor;
            else if (hp->rope_scaling == ROPE_LLAMA3)
                freq = rope_scaling_llama3(hp, freq);
            if (divisors)
                freq /= divisors[i];
        }
        inv_freq[i] = (float)freq;
    }
}
