/* SPDX-License-Identifier: Apache-2.0
 *
 * Hparams: the shape of a network, every default filled in, every number within its bound. Integers and
 * floats only.
 */
#ifndef NOUNS_HPARAMS_H
#define NOUNS_HPARAMS_H

#include <stdbool.h>
#include <stdint.h>

#define HPARAMS_MAX_LAYERS 256

typedef enum family { FAMILY_NONE = 0, FAMILY_LLAMA, FAMILY_QWEN3, FAMILY_GEMMA3 } family;

const char *family_name(family f);

typedef enum rope_scaling { ROPE_PLAIN = 0, ROPE_LINEAR, ROPE_LLAMA3 } rope_scaling;

typedef struct hparams {
    family family;
    int32_t n_layers, dim, ffn_dim;
    int32_t n_heads, n_kv_heads, head_dim;
    int32_t vocab; /* rows of the embedding */
    int32_t context_len;
    float norm_eps;
    bool norm_plus_one; /* stored norm weights are w of (1 + w): Gemma safetensors; false for GGUF */
    bool tied;          /* the head is the embedding */
    float embed_scale;  /* 1; Gemma: sqrt(dim) rounded to the dtype config.json names, to BF16 in GGUF */
    float attn_scale;   /* multiplies q.k */

    float rope_theta;
    float rope_theta_local;              /* sliding-window layers; equals rope_theta where there are none */
    rope_scaling rope_scaling;           /* of the layers that are not local */
    float rope_factor;                   /* positions are divided by it (ROPE_LINEAR) */
    float rope_low_freq, rope_high_freq; /* ROPE_LLAMA3 */
    int32_t rope_original_context;
    bool rope_interleaved; /* pairs (2i, 2i+1): Llama rows as GGUF permutes them; else halves (i, i + D/2) */

    int32_t sliding_window; /* a local layer's query sees keys with q - k < window; 0: no local layers */
    bool local[HPARAMS_MAX_LAYERS];
} hparams;

/* FREQ, radians per position, as ROPE_LLAMA3 scales it. */
double rope_scaling_llama3(const hparams *hp, double freq);

#endif
