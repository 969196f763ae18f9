/* SPDX-License-Identifier: Apache-2.0
 *
 * The MLP half of a layer: x += (f(h Wg^T) * h Wu^T) Wd^T with h = norm(x); Gemma norms the branch before it
 * joins the residual stream.
 */
#include "model/network.h"

void mlp_input(model *m, const layer_weights *l) {
    op_rmsnorm(m->be, m->h, m->x, l->ffn_norm, m->hp->norm_eps, l->gate_up); /* h [rows, dim] */
}

void mlp_inner(model *m, const layer_weights *l) {
    op_matmul_glu(m->be, m->g, m->h, l->gate_up, m->hp->glu, l->down); /* g [rows, F] */
}

void mlp_add(model *m, const layer_weights *l) {
    backend *be = m->be;
    if (l->post_ffn_norm) {
        op_matmul(be, m->y, m->g, l->down, NULL);                          /* y [rows, dim] */
        op_rmsnorm_add(be, m->x, m->y, l->post_ffn_norm, m->hp->norm_eps); /* x += norm(y)  */
    } else {
        op_matmul_add(be, m->x, m->g, l->down, NULL); /* x += g Wd^T */
    }
}

void mlp_half(model *m, const layer_weights *l) {
    mlp_input(m, l);
    network_observe(m, l, SLOT_GATE, m->h);
    mlp_inner(m, l);
    network_observe(m, l, SLOT_DOWN, m->g);
    mlp_add(m, l);
}
