/* SPDX-License-Identifier: Apache-2.0
 *
 * The MLP half of a layer: x += (f(h Wg^T) * h Wu^T) Wd^T with h = norm(x); Gemma norms the branch before it
 * joins the residual stream.
 */
#include "model/network.h"

void mlp_half(model *m, const layer_weights *l) {
    backend *be = m->be;
    float eps = m->hp->norm_eps;
    op_rmsnorm(be, m->h, m->x, l->ffn_norm, eps, l->gate_up); /* h [rows, dim] */
    network_observe(m, l, SLOT_GATE, m->h);
    op_matmul_glu(be, m->g, m->h, l->gate_up, m->hp->glu, l->down); /* g [rows, F]   */
    network_observe(m, l, SLOT_DOWN, m->g);
    if (l->post_ffn_norm) {
        op_matmul(be, m->y, m->g, l->down, NULL);              /* y [rows, dim] */
        op_rmsnorm_add(be, m->x, m->y, l->post_ffn_norm, eps); /* x += norm(y)  */
    } else {
        op_matmul_add(be, m->x, m->g, l->down, NULL); /* x += g Wd^T   */
    }
}
