/* SPDX-License-Identifier: Apache-2.0
 *
 * Family: what the networks of one architecture have in common, as one row of a table. Who adds a family adds
 * a row (docs/adding-a-model.md). Readers: store (config, names), the writers. The model reads hparams only:
 * they begin as a copy of the row's defaults.
 */
#ifndef NOUNS_FAMILY_H
#define NOUNS_FAMILY_H

#include "nouns/hparams.h"

#define FAMILY_MAX_TYPES 4

/* Which layers see a sliding window, where neither layer_types nor a list says it. */
typedef enum family_windows {
    WINDOWS_NONE = 0, /* none, whatever a file says: transformers does not look */
    WINDOWS_ALL,      /* every layer, where sliding_window is given (Mistral) */
    WINDOWS_LAST,     /* where use_sliding_window is true: from layer max_window_layers on (Qwen) */
    WINDOWS_PERIOD    /* all but every Nth (sliding_window_pattern), counted from 1 (Gemma 3) */
} family_windows;

/* A tensor that the family's files name in their own way: patterns as in store/names.c, NULL: no such one. */
typedef struct family_name_row {
    slot slot;
    const char *gguf, *hf;
} family_name_row;

typedef struct family_facts {
    const char *name;                          /* as nibble writes it */
    const char *gguf_arch;                     /* general.architecture of a GGUF file */
    const char *model_types[FAMILY_MAX_TYPES]; /* model_type of config.json; the first is written */
    const char *hf_class;                      /* "architectures" of config.json */
    const char *act_key;                       /* config.json's field of the MLP's activation ... */
    const char *act;                           /* ... and what it must say */
    const family_name_row *names;              /* ends with SLOT_NONE; NULL: none */

    family_windows windows;
    int32_t window, window_period, window_first; /* the classes' defaults */

    bool gguf_interleaved; /* GGUF permutes rows of q and k: pairs (2i, 2i+1) */
    bool rope_freqs;       /* GGUF files may hold divisors of the RoPE frequencies */
    bool embed_sqrt_dim;   /* embed_scale is sqrt(dim), rounded to the weights' dtype */
    int32_t query_scalar;  /* attn_scale is query_pre_attn_scalar^-1/2, this its default; 0: head_dim^-1/2 */
    int32_t gguf_wide_layers; /* see family_gguf_attn_scale; 0: no model */
    bool attention_bias;      /* config.json's attention_bias puts biases on q, k, v and o */
    bool multipliers;         /* Granite: config.json has one each for embeddings, q.k, branches and logits */
    int32_t no_rope_interval; /* every Nth layer, counted from 1, does not turn q and k; 0: every one does */
    bool global_no_rope;      /* layers that see everything do not turn them where others see a window */
    bool partial_rope;        /* config.json may turn a part of each head only */
    bool mlp_bias_key;        /* config.json has a field mlp_bias, which is false */
    bool soft_caps;           /* scores and logits are capped, as config.json or GGUF may say */
    bool query_log;           /* queries grow with their position (llama_4_scaling_beta), YaRN by mscale */
    bool local_rope;          /* local layers have a RoPE of their own */
    bool local_unscaled;      /* local layers turn by the same base, never scaled */
    bool nested;              /* multimodal files hold the text network in text_config */
    bool gate_scales_unread; /* llama.cpp computes gate and up without the tensor scales that it has loaded */

    hparams defaults; /* what omitted fields of config.json mean; n_kv_heads 0: n_heads; head_dim 0: dim /
                         n_heads */
} family_facts;

/* The row of F, which is below FAMILY_COUNT; FAMILY_NONE has an empty one of the name "none". */
const family_facts *family_get(family f);
const char *family_name(family f);

family family_from_model_type(const char *type); /* FAMILY_NONE: not known */
/* WINDOWED: of two families of the name, the one some of whose layers see a window. */
family family_from_architecture(const char *name, size_t n, bool windowed);

/* attn_scale of a GGUF model, whose format has no key for it: llama.cpp takes head_dim^-1/2, and for the
 * model of gguf_wide_layers layers (dim / n_heads)^-1/2 (Gemma 2 and 3 27B). */
float family_gguf_attn_scale(const hparams *hp);

/* "llama, mistral, ... and phi3", for sentences. OUT takes FAMILY_LIST_MAX bytes. */
#define FAMILY_LIST_MAX 512
const char *family_list(char out[FAMILY_LIST_MAX]);

#endif
