/* SPDX-License-Identifier: Apache-2.0
 *
 * Llama 3's RoPE scaling: the model turns by it, GGUF stores it as divisors and config.json as words, so the
 * writers of both compute it too.
 */
#include "nouns/hparams.h"

/* Long wavelengths are stretched by the factor, short ones kept, those between mixed. */
double rope_scaling_llama3(const hparams *hp, double freq) {
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
