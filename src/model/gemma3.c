/* SPDX-License-Identifier: Apache-2.0
 *
 * Gemma 3, text: embeddings times sqrt(dim), four norms per layer (each branch is normed again before it
 * joins the residual stream), RMS norms per head on q and k, GELU-gated MLP; five layers of six see a sliding
 * window and turn by a RoPE base of their own. transformers models/gemma3/modeling_gemma3.py.
 *
 * Its norms multiply by 1 + w: weights.c adds the 1 where the file has not.
 */
#include "model/network.h"

/* Attention half: x += post_norm(attention(norm(x))). Local layers differ in attn_params only. */
static void attention_half(model *m, const layer_weights *l, int layer) {
    backend *be = m->be;
    be->rmsnorm(be, m->h, m->x, l->attn_norm, m->hp->norm_eps); /* h   [rows, dim]          */
    network_observe(m, layer, SLOT_Q, m->h);
    be->matmul(be, m->qkv, m->h, l->qkv);                      /* qkv [rows, (H + 2G) * D] */
    be->qk_norm_rope_store(be, m->q, m->qkv, &l->attn, m->kv); /* q, k normed per head     */
    be->attention(be, m->a, m->q, &l->attn, m->kv);            /* a   [rows, H * D]        */
    network_observe(m, layer, SLOT_O, m->a);
    be->matmul(be, m->y, m->a, l->attn_out); /* y   [rows, dim]          */
    be->rmsnorm_add(be, m->x, m->y, l->post_attn_norm, m->hp->norm_eps);
}

/* MLP half: x += post_norm((gelu(h Wg^T) * h Wu^T) Wd^T) */
static void mlp_half(model *m, const layer_weights *l, int layer) {
    backend *be = m->be;
    be->rmsnorm(be, m->h, m->x, l->ffn_norm, m->hp->norm_eps);
    network_observe(m, layer, SLOT_GATE, m->h);
    be->matmul_glu(be, m->g, m->h, l->gate_up, GLU_GELU_TANH); /* g [rows, F] */
    network_observe(m, layer, SLOT_DOWN, m->g);
    be->matmul(be, m->y, m->g, l->down);
    be->rmsnorm_add(be, m->x, m->y, l->post_ffn_norm, m->hp->norm_eps);
}

const network_layer gemma3_layer = {attention_half, mlp_half};
