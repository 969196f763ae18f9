/* SPDX-License-Identifier: Apache-2.0
 *
 * Network: what a family's forward works on. Private to the room: model.c makes it, llama.c, qwen3.c and
 * gemma3.c read like the papers over it.
 *
 * Shapes: rows = rows of the batch, H = n_heads, G = n_kv_heads, D = head_dim, F = ffn_dim.
 */
#ifndef MODEL_NETWORK_H
#define MODEL_NETWORK_H

#include "model/model.h"
#include "model/weights.h"

/* A family: what its layers compute. Each half queues its ops on x, the residual stream. One file per family.
 */
typedef struct network_layer {
    void (*attention_half)(model *m, const layer_weights *l, int layer);
    void (*mlp_half)(model *m, const layer_weights *l, int layer);
} network_layer;

struct model {
    backend *be;
    const hparams *hp;
    const network_layer *layer;
    model_limits limits;
    weights w;
    kv_cache *kv;
    double *const *observed; /* see layerwise.h; NULL: off */

    buf *x;      /* F32 [rows, dim]            the residual stream */
    buf *h;      /* ACT [rows, dim]            its norm, what a matmul reads */
    buf *qkv;    /* F32 [rows, (H + 2G) * D] */
    buf *q;      /* F32 [rows, H * D]          normed and rotated */
    buf *a;      /* ACT [rows, H * D]          what attention gathered */
    buf *g;      /* ACT [rows, F] */
    buf *y;      /* F32 [rows, dim]            a branch before its post-norm; Gemma only */
    buf *h_out;  /* ACT [n_out, dim] */
    buf *logits; /* F32 [n_out, vocab] */
};

/* Calibration looks at what the linear layer in SLOT reads. */
static inline void network_observe(model *m, int layer, slot s, const buf *input) {
    double *sums = m->observed ? m->observed[layer * SLOT_COUNT + s] : NULL;
    if (sums)
        m->be->sum_squares(m->be, sums, input);
}

/* What the head reads: h_out [n_out, dim]. */
static inline void network_final_norm(model *m) {
    m->be->rmsnorm_out(m->be, m->h_out, m->x, m->w.final_norm, m->hp->norm_eps);
    network_observe(m, 0, SLOT_HEAD, m->h_out);
}

/* Everything but weights, KV pages, x and the logits. On failure network_close frees what is there. */
nib_status network_open(model **out, const model_file *file, backend *be, const model_limits *limits,
                        nib_error *err);
nib_status network_kv(model *m, int n_layers, nib_error *err);
void network_close(model *m); /* and all else that it has */

extern const network_layer llama_layer, qwen3_layer, gemma3_layer;

#endif
