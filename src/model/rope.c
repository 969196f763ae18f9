/* SPDX-License-Identifier: Apache-2.0
 *
 * Angles of the rotary position embedding: theta^(-2i/D), and the two ways to stretch it over more context.
 */
#include "model/rope.h"

#include <math.h>

/* Llama 3: long wavelengths are stretched by the factor, short ones kept, those between mixed. */
static double llama3_scale(double freq, const hparams *hp) {
    double pi = 3.14159265358979323846;
    double wavelength = 2 * pi / freq; /* in positions */
    double original = hp->rope_original_context;
    if (wavelength < original / hp->rope_high_freq)
        return freq;
    if (wavelength > original / hp->rope_low_freq)
        return freq / hp->rope_factor;
    double mix = (original / wavelength - hp->rope_low_freq) / (hp->rope_high_freq - hp->rope_low_freq);
    return (1 - mix) * freq / hp->rope_factor + mix * freq;
}

void rope_inv_freq(float *inv_freq, const hparams *hp, bool local, const float *divisors) {
    int n = hp->head_dim / 2;
    double theta = local ? hp->rope_theta_local : hp->rope_theta;
    for (int i = 0; i < n; i++) {
        double freq = pow(theta, -(double)i / n);
        if (!local) {
            if (hp->rope_scaling == ROPE_LINEAR)
                freq /= hp->rope_factor;
            else if (hp->rope_scaling == ROPE_LLAMA3)
                freq = llama3_scale(freq, hp);
            if (divisors)
                freq /= divisors[i];
        }
        inv_freq[i] = (float)freq;
    }
}
