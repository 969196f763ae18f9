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

struct model {
    backend *be;
    const hparams *hp;
    model_forward_fn forward;
    model_limits limits;
    weights w;
    kv_cache *kv;
    double *const *observed; /* see model_observe; NULL: off */

    buf *x;       /* F32 [rows, dim]            the residual stream */
    buf *h;       /* ACT [rows, dim]            its norm, what a matmul reads */
    buf *qkv;     /* F32 [rows, (H + 2G) * D] */
    buf *q;       /* F32 [rows, H * D]          normed and rotated */
    buf *a;       /* ACT [rows, H * D]          what attention gathered */
    buf *gate_up; /* F32 [rows, 2F] */
    buf *g;       /* ACT [rows, F] */
    buf *y;       /* F32 [rows, dim]            a branch before its post-norm; Gemma only */
    buf *h_out;   /* ACT [n_out, dim] */
    buf *logits;  /* F32 [n_out, vocab] */
};

/* Calibration looks at what the linear layer in SLOT reads. */
static inline void network_observe(model *m, int layer, slot s, const buf *input) {
    double *sums = m->observed ? m->observed[layer * SLOT_COUNT + s] : NULL;
    if (sums)
        m->be->sum_squares(m->be, sums, input);
}

void llama_forward(model *m, const batch *b);
void qwen3_forward(model *m, const batch *b);
void gemma3_forward(model *m, const batch *b);

#endif
