/* SPDX-License-Identifier: Apache-2.0
 *
 * The attention half of a layer: x += attention(norm(x)). Families differ in what their weights hold: biases,
 * norms on q and k, a norm of the branch before it joins the residual stream (Gemma) and none before it
 * begins (OLMo 2), a sliding window and RoPE of their own for some layers (attn_params).
 */
#include "model/network.h"

void attention_input(model *m, const layer_weights *l) {
    op_rmsnorm(m->be, m->h, m->x, l->attn_norm, m->hp->norm_eps, l->qkv); /* h   [rows, dim]          */
}

void attention_inner(model *m, const layer_weights *l) {
    backend *be = m->be;
    op_matmul(be, m->qkv, m->h, l->qkv, l->qkv_bias);              /* qkv [rows, (H + 2G) * D] */
    op_qk_norm_rope_store(be, m->q, m->qkv, &l->attn, m->cache);   /* q; K, V into the pages   */
    op_attention(be, m->a, m->q, &l->attn, m->cache, l->attn_out); /* a   [rows, H * D]        */
}

void attention_add(model *m, const layer_weights *l) {
    backend *be = m->be;
    if (l->post_attn_norm) {
        op_matmul(be, m->y, m->a, l->attn_out, l->attn_out_bias);           /* y [rows, dim] */
        op_rmsnorm_add(be, m->x, m->y, l->post_attn_norm, m->hp->norm_eps); /* x += norm(y)  */
    } else {
        op_matmul_add(be, m->x, m->a, l->attn_out, l->attn_out_bias); /* x += a Wo^T + bo */
    }
}

void attention_half(model *m, const layer_weights *l) {
    attention_input(m, l);
    network_observe(m, l, SLOT_Q, m->h);
    attention_inner(m, l);
    network_observe(m, l, SLOT_O, m->a);
    attention_add(m, l);
}
