/* SPDX-License-Identifier: Apache-2.0
 *
 * Llama (SmolLM2, Llama 2 and 3): pre-norm attention and SwiGLU, nothing else. transformers
 * models/llama/modeling_llama.py. RoPE scaling and the Q/K row order of GGUF are in attn_params.
 */
#include "model/network.h"

/* Attention half of a layer. x [rows, dim] is the residual stream, updated in place. */
static void attention_half(model *m, const layer_weights *l, int layer) {
    backend *be = m->be;
    be->rmsnorm(be, m->h, m->x, l->attn_norm, m->hp->norm_eps); /* h   [rows, dim]          */
    network_observe(m, layer, SLOT_Q, m->h);
    be->matmul(be, m->qkv, m->h, l->qkv);                      /* qkv [rows, (H + 2G) * D] */
    be->qk_norm_rope_store(be, m->q, m->qkv, &l->attn, m->kv); /* q; K, V into the pages   */
    be->attention(be, m->a, m->q, &l->attn, m->kv);            /* a   [rows, H * D]        */
    network_observe(m, layer, SLOT_O, m->a);
    be->matmul_add(be, m->x, m->a, l->attn_out); /* x += a Wo^T              */
}

/* MLP half: x += (silu(h Wg^T) * h Wu^T) Wd^T */
static void mlp_half(model *m, const layer_weights *l, int layer) {
    backend *be = m->be;
    be->rmsnorm(be, m->h, m->x, l->ffn_norm, m->hp->norm_eps);
    network_observe(m, layer, SLOT_GATE, m->h);
    be->matmul_glu(be, m->g, m->h, l->gate_up, GLU_SILU); /* g [rows, F] */
    network_observe(m, layer, SLOT_DOWN, m->g);
    be->matmul_add(be, m->x, m->g, l->down);
}

const network_layer llama_layer = {attention_half, mlp_half};
