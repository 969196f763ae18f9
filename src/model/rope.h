/* SPDX-License-Identifier: Apache-2.0
 *
 * RoPE: the table of angles per position. A position p turns pair i of a head by p * inv_freq[i] radians.
 *
 * Caller: weights.c, once per model. Sources: transformers modeling_rope_utils.py (linear, llama3); GGUF
 * stores Llama 3's scaling as a tensor of divisors instead.
 */
#ifndef MODEL_ROPE_H
#define MODEL_ROPE_H

#include "nouns/hparams.h"

/* inv_freq [head_dim / 2] of a local (sliding-window) or a global layer. DIVISORS [head_dim / 2] or NULL:
 * GGUF rope_freqs, of global layers. */
void rope_inv_freq(float *inv_freq, const hparams *hp, bool local, const float *divisors);

#endif
