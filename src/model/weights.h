/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights: a file's tensors bound to the places where a network uses them, checked and packed.
 *
 * Owned by the model. Vectors and matrices are the backend's; norms have Gemma's +1 applied. Q, K and V are
 * one weight, and so are gate and up: rows joined in that order.
 */
#ifndef MODEL_WEIGHTS_H
#define MODEL_WEIGHTS_H

#include "base/progress.h"
#include "ops/ops.h"
#include "store/model_file.h"

typedef struct layer_weights {
    vec *attn_norm;       /* [dim] or NULL: the half reads the residual stream as it is */
    vec *post_attn_norm;  /* [dim] of the branch, before it joins the residual stream; NULL: none */
    vec *ffn_norm;        /* [dim] or NULL */
    vec *post_ffn_norm;   /* [dim] or NULL */
    vec *q_norm, *k_norm; /* [D] per head, [H * D] and [G * D] over all of them, or NULL */
    vec *qkv_bias;        /* [(H + 2G) * D] or NULL */
    vec *attn_out_bias;   /* [dim] or NULL */
    vec *k_mean;          /* [G * D] or NULL: see key_means.h */
    vec *qk_balance;      /* likewise */
    weight *qkv;          /* [(H + 2G) * D, dim] */
    weight *attn_out;     /* [dim, H * D] */
    weight *gate_up;      /* [2 * ffn_dim, dim] */
    weight *down;         /* [dim, ffn_dim] */
    attn_params attn;
} layer_weights;

typedef struct weights {
    weight *embed; /* [vocab, dim] */
    weight *head;  /* [vocab, dim]; the embedding itself when tied */
    vec *final_norm;
    vec *inv_freq, *inv_freq_local; /* [D / 2] each */
    layer_weights *layers;          /* [n_layers] */
    uint64_t bound_bytes;           /* as stored, of the matrices bound so far */
    int32_t max_len;                /* positions that the frequencies are for */
} weights;

/* For sequences of up to MAX_LEN positions. FILE and BE outlive the weights. On failure nothing is left.
 * WATCH may be NULL. */
nib_status weights_bind(weights *w, int32_t max_len, const model_file *file, backend *be,
                        const progress *watch, nib_error *err);

/* The same in pieces, for who wants few matrices in memory at a time: all vectors first, then the matrices of
 * a part, which weights_unbind_part frees again. */
typedef enum weights_part { WEIGHTS_EMBED, WEIGHTS_ATTENTION, WEIGHTS_MLP } weights_part;
nib_status weights_bind_vectors(weights *w, int32_t max_len, const model_file *file, backend *be,
                                nib_error *err);
nib_status weights_bind_part(weights *w, const model_file *file, backend *be, weights_part part, int layer,
                             nib_error *err);
void weights_unbind_part(weights *w, const model_file *file, backend *be, weights_part part, int layer);
void weights_free(weights *w, const hparams *hp, backend *be); /* safe on a zeroed or half-bound struct */

/* Bytes packed, all of them; and those that computing one token reads: every matrix and one embedding row. */
size_t weights_bytes(const weights *w, const hparams *hp);
size_t weights_bytes_per_token(const weights *w, const hparams *hp);
/* Elements of all layers' matrices: what one row is multiplied with, less the head. */
size_t weights_products(const weights *w, const hparams *hp);

#endif
