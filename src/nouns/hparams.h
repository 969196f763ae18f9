/* SPDX-License-Identifier: Apache-2.0
 *
 * Hparams: the shape of a network and what its layers do, every default filled in, every number within its
 * bound. A plain value: integers and floats only. The store fills it from a file and from the family's row
 * (nouns/family.h); model computes by it and asks the family nothing.
 *
 * Shapes: H = n_heads, G = n_kv_heads, D = head_dim.
 */
#ifndef NOUNS_HPARAMS_H
#define NOUNS_HPARAMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nouns/place.h"
#include "nouns/rope.h"

#define HPARAMS_MAX_LAYERS 256

typedef enum family {
    FAMILY_NONE = 0,
    FAMILY_LLAMA,
    FAMILY_MISTRAL,
    FAMILY_QWEN2,
    FAMILY_QWEN3,
    FAMILY_GEMMA2,
    FAMILY_GEMMA3,
    FAMILY_GRANITE,
    FAMILY_SMOLLM3,
    FAMILY_PHI3,
    FAMILY_OLMO2,
    FAMILY_OLMO3,
    FAMILY_EXAONE4,
    FAMILY_MINISTRAL3,
    FAMILY_COUNT
} family;

/* A layer is attention of grouped queries over a KV cache, then (act(h Wg^T) * h Wu^T) Wd^T. */
typedef enum glu_kind { GLU_SILU, GLU_GELU_TANH } glu_kind;

/* Where a half norms; f is its work. */
typedef enum norm_place {
    NORM_BEFORE = 0, /* x += f(norm(x)) */
    NORM_AROUND,     /* x += post_norm(f(norm(x))) */
    NORM_AFTER       /* x += post_norm(f(x)) */
} norm_place;

typedef enum qk_norm {
    QK_NORM_NONE = 0,
    QK_NORM_HEAD, /* an RMS norm per head, one weight vector [D] for all */
    QK_NORM_ROW   /* one RMS norm over all heads, weights [H * D] and [G * D] */
} qk_norm;

typedef struct hparams {
    family family;
    int32_t n_layers, dim, ffn_dim;
    int32_t n_heads, n_kv_heads, head_dim;
    int32_t rope_dim; /* of head_dim, the first: what RoPE turns */
    int32_t vocab;    /* rows of the embedding */
    int32_t context_len;

    glu_kind glu;
    norm_place norms;
    qk_norm qk_norm;
    bool qkv_bias, o_bias; /* added to what the projection gives */
    bool joined;           /* q, k and v are one tensor of the file, and so are gate and up */
    bool tied;             /* the head is the embedding */

    float norm_eps;
    bool norm_plus_one;   /* stored norm weights are w of (1 + w): Gemma safetensors; false for GGUF */
    float embed_scale;    /* multiplies embeddings */
    float attn_scale;     /* multiplies q.k, before what rope_attention_factor adds */
    float residual_scale; /* multiplies what each half adds to the residual stream */
    float logit_scale;    /* multiplies logits */
    float attn_cap;       /* scores become cap * tanh(score / cap) before the softmax; 0: they stay */
    float logit_cap;      /* logits likewise */
    float query_log;      /* multiplies queries at position p by 1 + query_log * log(1 + floor(p /
                             rope.original_context)); 0: they stay */

    rope_params rope;       /* of layers that see everything */
    rope_params rope_local; /* of sliding-window layers; equals rope where there are none */
    bool rope_interleaved;  /* pairs (2i, 2i+1): rows as GGUF permutes them; else halves (i, i + D/2) */
    bool no_rope[HPARAMS_MAX_LAYERS]; /* layers that do not turn q and k */

    int32_t sliding_window; /* a local layer's query sees keys with q - k < window; 0: no local layers */
    bool local[HPARAMS_MAX_LAYERS];
} hparams;

/* Does the network have a tensor in SLOT, and of which shape? A vector has one row. What may be left out in a
 * file is not told here (a RoPE table of GGUF). */
bool hparams_has(const hparams *hp, slot s, size_t *rows, size_t *cols);

#endif
