/* SPDX-License-Identifier: Apache-2.0
 *
 * Place: where a tensor stands in a network. Store names it when a file is opened (store/names.h has the
 * names of files), model binds by it, the writers name it again. A value of three integers; owns nothing.
 */
#ifndef NOUNS_PLACE_H
#define NOUNS_PLACE_H

#include <stdbool.h>

/* What a tensor is in the network. One list for every family; a family uses what it has. */
typedef enum slot {
    SLOT_NONE = 0, /* carried along, not part of the network */
    SLOT_EMBED,    /* [vocab, dim] */
    SLOT_HEAD,     /* [vocab, dim]; absent when tied */
    SLOT_FINAL_NORM,
    SLOT_ROPE_FREQS, /* [head_dim / 2] divisors of the RoPE frequencies (GGUF, Llama 3) */
    SLOT_ROPE_LONG,  /* the same, of a context past the original one (GGUF, longrope) */
    SLOT_ROPE_SHORT, /* and of one up to it */
    SLOT_ATTN_NORM,  /* per layer from here */
    SLOT_Q,          /* [n_heads * head_dim, dim] */
    SLOT_K,          /* [n_kv_heads * head_dim, dim] */
    SLOT_V,
    SLOT_QKV, /* the three in one, rows joined */
    SLOT_O,   /* [dim, n_heads * head_dim] */
    SLOT_Q_BIAS,
    SLOT_K_BIAS,
    SLOT_V_BIAS,
    SLOT_O_BIAS,
    SLOT_Q_NORM, /* [head_dim], or of all heads together [n_heads * head_dim] */
    SLOT_K_NORM,
    SLOT_POST_ATTN_NORM, /* after attention, before its sum with the residual stream */
    SLOT_FFN_NORM,       /* before the MLP */
    SLOT_GATE,           /* [ffn_dim, dim] */
    SLOT_UP,
    SLOT_GATE_UP, /* the two in one, rows joined, gate first */
    SLOT_DOWN,    /* [dim, ffn_dim] */
    SLOT_POST_FFN_NORM,
    SLOT_K_SCALE, /* one number: what an FP8 cache of keys is multiplied with when read */
    SLOT_V_SCALE,
    SLOT_ROUTER, /* [n_experts, dim] */
    SLOT_COUNT
} slot;

/* What the latter two may be: kernels have them in FP16, times 4. */
#define CACHE_SCALE_LEAST 6e-8f
#define CACHE_SCALE_MOST  16000.0f

const char *slot_name(slot s); /* "attn_q", ... for reports */

/* A matrix of a layer that activations are multiplied with, alone or joined. */
static inline bool place_is_linear(slot s) {
    return s == SLOT_Q || s == SLOT_K || s == SLOT_V || s == SLOT_QKV || s == SLOT_O || s == SLOT_GATE ||
           s == SLOT_UP || s == SLOT_GATE_UP || s == SLOT_DOWN;
}

#define PLACE_NO_LAYER    (-1) /* beside the layers: embedding, head */
#define PLACE_NO_EXPERT   (-1)
#define PLACE_ALL_EXPERTS (-2) /* one tensor that stacks every expert's: [n_experts, rows, cols] */

typedef struct place {
    slot slot;
    int layer;  /* 0-based, or PLACE_NO_LAYER */
    int expert; /* 0-based, or one of the two above */
} place;

/* The place of a tensor outside any mixture of experts. */
static inline place place_of(slot s, int layer) {
    return (place){s, layer, PLACE_NO_EXPERT};
}

static inline bool place_equal(place a, place b) {
    return a.slot == b.slot && a.layer == b.layer && a.expert == b.expert;
}

/* Is SLOT one of a layer's? */
static inline bool place_is_in_layer(slot s) {
    return s >= SLOT_ATTN_NORM && s < SLOT_COUNT;
}

#endif
