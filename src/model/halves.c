/* SPDX-License-Identifier: Apache-2.0
 *
 * One network, whose buffers serve every batch: values go in from the host, a step runs, values come back.
 */
#include "model/halves.h"

#include "base/mem.h"
#include "model/network.h"

struct halves {
    const model_file *file;
    model *m;
};

static nib_status open_all(halves *h, backend *be, const model_limits *limits, nib_error *err) {
    NIB_TRY(network_open(&h->m, h->file, be, limits, err));
    NIB_TRY(weights_bind_vectors(&h->m->w, h->m->limits.max_len, h->file, be, err));
    NIB_TRY(
        be->buf_new(be, &h->m->x, BUF_F32, SPLIT_NONE, (size_t)limits->max_rows, (size_t)h->m->hp->dim, err));
    return network_open_layer_cache(h->m, err);
}

nib_status halves_open(halves **out, const model_file *file, backend *be, const model_limits *limits,
                       nib_error *err) {
    halves *h = mem_array(1, sizeof *h);
    *out = NULL;
    if (!h)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for the model", file->path);
    h->file = file;
    nib_status status = open_all(h, be, limits, err);
    if (status != NIB_OK) {
        halves_close(h);
        return status;
    }
    *out = h;
    return NIB_OK;
}

void halves_close(halves *h) {
    if (!h)
        return;
    network_close(h->m);
    mem_free(h);
}

size_t halves_inner_cols(const halves *h, half_kind kind) {
    const hparams *hp = h->m->hp;
    return kind == HALF_MLP ? (size_t)hp->ffn_dim : (size_t)hp->n_heads * (size_t)hp->head_dim;
}

nib_status halves_embed_begin(halves *h, nib_error *err) {
    return weights_bind_part(&h->m->w, h->file, h->m->be, WEIGHTS_EMBED, PLACE_NO_LAYER, err);
}

void halves_embed_end(halves *h) {
    weights_unbind_part(&h->m->w, h->file, h->m->be, WEIGHTS_EMBED, PLACE_NO_LAYER);
}

static weights_part part_of(half_kind kind) {
    return kind == HALF_ATTENTION ? WEIGHTS_ATTENTION : WEIGHTS_MLP;
}

nib_status halves_bind(halves *h, half_kind kind, int layer, nib_error *err) {
    return weights_bind_part(&h->m->w, h->file, h->m->be, part_of(kind), layer, err);
}

void halves_unbind(halves *h, half_kind kind, int layer) {
    weights_unbind_part(&h->m->w, h->file, h->m->be, part_of(kind), layer);
}

/* Ends a step; OUT is read from B. */
static nib_status finish(model *m, const buf *b, float *out, nib_error *err) {
    NIB_TRY(step_finish(m->be, err));
    m->be->buf_read(m->be, b, out);
    return NIB_OK;
}

nib_status halves_embed(halves *h, const batch *b, float *x, nib_error *err) {
    model *m = h->m;
    step_begin(m->be, b, 0);
    op_embed(m->be, m->x, m->w.embed, m->hp->embed_scale);
    return finish(m, m->x, x, err);
}

nib_status halves_input(halves *h, half_kind kind, int layer, const batch *b, const float *x, float *out,
                        nib_error *err) {
    model *m = h->m;
    const layer_weights *l = &m->w.layers[layer];
    m->be->buf_write(m->be, m->x, x, (size_t)b->n_rows, NULL);
    step_begin(m->be, b, 0);
    if (kind == HALF_ATTENTION)
        attention_input(m, l);
    else
        mlp_input(m, l);
    return finish(m, m->h, out, err);
}

nib_status halves_inner(halves *h, half_kind kind, int layer, const batch *b, const float *x, float *inner,
                        nib_error *err) {
    model *m = h->m;
    const layer_weights *l = &m->w.layers[layer];
    m->be->buf_write(m->be, m->x, x, (size_t)b->n_rows, NULL);
    step_begin(m->be, b, 0);
    if (kind == HALF_ATTENTION) {
        attention_input(m, l);
        attention_inner(m, l);
    } else {
        mlp_input(m, l);
        mlp_inner(m, l);
    }
    return finish(m, kind == HALF_ATTENTION ? m->a : m->g, inner, err);
}

nib_status halves_add(halves *h, half_kind kind, int layer, const batch *b, const float *inner, float *x,
                      nib_error *err) {
    model *m = h->m;
    const layer_weights *l = &m->w.layers[layer];
    bool attention = kind == HALF_ATTENTION;
    m->be->buf_write(m->be, m->x, x, (size_t)b->n_rows, NULL);
    m->be->buf_write(m->be, attention ? m->a : m->g, inner, (size_t)b->n_rows,
                     attention ? l->attn_out : l->down);
    step_begin(m->be, b, 0);
    if (attention)
        attention_add(m, l);
    else
        mlp_add(m, l);
    return finish(m, m->x, x, err);
}

nib_status halves_final(halves *h, const batch *b, const float *x, float *out, nib_error *err) {
    model *m = h->m;
    m->be->buf_write(m->be, m->x, x, (size_t)b->n_rows, NULL);
    step_begin(m->be, b, 0);
    op_rmsnorm(m->be, m->h, m->x, m->w.final_norm, m->hp->norm_eps, NULL);
    return finish(m, m->h, out, err);
}
