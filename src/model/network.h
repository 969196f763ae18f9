/* SPDX-License-Identifier: Apache-2.0
 *
 * Network: what a forward works on. Private to the room: model.c makes it; attention_half.c and mlp_half.c,
 * the halves of a layer, read like the papers over it.
 *
 * Shapes: rows = rows of the batch, H = n_heads, G = n_kv_heads, D = head_dim, F = ffn_dim.
 */
#ifndef MODEL_NETWORK_H
#define MODEL_NETWORK_H

#include "model/model.h"
#include "model/weights.h"

struct model {
    backend *be;
    const hparams *hp;
    model_limits limits;
    weights w;
    cache *cache;
    vec **observed; /* [n_layers * SLOT_COUNT] see layerwise.h; NULL, all or some: not wanted */

    buf *x;      /* F32 [rows, dim]            the residual stream */
    buf *h;      /* ACT [rows, dim]            its norm, what a matmul reads */
    buf *qkv;    /* F32 [rows, (H + 2G) * D] */
    buf *q;      /* F32 [rows, H * D]          normed and rotated */
    buf *a;      /* ACT [rows, H * D]          what attention gathered */
    buf *g;      /* ACT [rows, F] */
    buf *y;      /* F32 [rows, dim]            a branch before its post-norm; NULL where there is none */
    buf *h_out;  /* ACT [n_out, dim] */
    buf *logits; /* F32 [n_out, vocab] */
    buf *hidden; /* F32 [rows, dim]            see model_want_hidden; NULL until a place is asked for */
    bool wants_hidden;
};

/* Calibration looks at what the linear layer in SLOT of L reads; the head's stands at layer 0. */
static inline void network_observe(model *m, const layer_weights *l, slot s, const buf *input) {
    vec *sums = m->observed ? m->observed[(l - m->w.layers) * SLOT_COUNT + s] : NULL;
    if (sums)
        op_sum_squares(m->be, sums, input);
}

/* The halves of a layer. Each queues its ops on x. */
void attention_half(model *m, const layer_weights *l);
void mlp_half(model *m, const layer_weights *l);
/* The three steps that a half is made of: x -> h; h -> a, or g; x += its product. See halves.h. */
void attention_input(model *m, const layer_weights *l);
void attention_inner(model *m, const layer_weights *l);
void attention_add(model *m, const layer_weights *l);
void mlp_input(model *m, const layer_weights *l);
void mlp_inner(model *m, const layer_weights *l);
void mlp_add(model *m, const layer_weights *l);

/* What the head reads: h_out [n_out, dim]. */
static inline void network_final_norm(model *m) {
    op_rmsnorm_out(m->be, m->h_out, m->x, m->w.final_norm, m->hp->norm_eps, m->w.head);
    network_observe(m, m->w.layers, SLOT_HEAD, m->h_out);
}

/* Everything but weights, cache, x and the logits. On failure network_close frees what is there. */
nib_status network_open(model **out, const model_file *file, backend *be, const model_limits *limits,
                        nib_error *err);
/* Pages of one layer, which serve every layer in turn: for who computes layer by layer. */
nib_status network_open_layer_cache(model *m, nib_error *err);
void network_close(model *m); /* and all else that it has */

#endif
