/* SPDX-License-Identifier: Apache-2.0
 *
 * One network, whose buffers serve every batch: values go in from the host, a step runs, values come back.
 */
#include "model/halves.h"

#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "model/network.h"

struct halves {
    const model_file *file;
    model *m;
    buf *in, *turned; /* [max_rows, 3 * width], [max_rows, width] for halves_keys; NULL: not asked yet */
    float *rows;      /* [max_rows, the wider of the joined q, k, v and 3 * width] */
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
    if (h->in)
        h->m->be->buf_free(h->m->be, h->in);
    if (h->turned)
        h->m->be->buf_free(h->m->be, h->turned);
    mem_free(h->rows);
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

static nib_status open_keys(halves *h, size_t width, nib_error *err) {
    model *m = h->m;
    const size_t n = (size_t)m->limits.max_rows, all = m->qkv->cols > 3 * width ? m->qkv->cols : 3 * width;
    if (h->rows)
        return NIB_OK;
    NIB_TRY(m->be->buf_new(m->be, &h->in, BUF_F32, SPLIT_HEADS, n, 3 * width, err));
    NIB_TRY(m->be->buf_new(m->be, &h->turned, BUF_F32, SPLIT_HEADS, n, width, err));
    h->rows = mem_array(n, all * sizeof *h->rows);
    return h->rows ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "%s: no memory for keys", h->file->path);
}

/* A backend gives queries back, so keys are turned as if they were queries, and are stored once more as they
 * were. */
nib_status halves_keys(halves *h, int layer, const batch *b, float *keys, float *values, nib_error *err) {
    model *m = h->m;
    attn_params as_queries = m->w.layers[layer].attn;
    const size_t n = (size_t)b->n_rows, w = (size_t)m->hp->n_kv_heads * (size_t)m->hp->head_dim;
    const size_t all = m->qkv->cols;
    NIB_TRY(open_keys(h, w, err));
    as_queries.n_heads = as_queries.n_kv_heads;
    if (attn_norms_rows(&as_queries)) /* done where the values lie, so not again */
        as_queries.k_norm = NULL;
    as_queries.q_norm = as_queries.k_norm;
    as_queries.query_log = 0;
    m->be->buf_read(m->be, m->qkv, h->rows);
    for (size_t r = 0; r < n; r++) {
        memcpy(keys + r * w, h->rows + r * all + all - 2 * w, w * sizeof *keys);
        memcpy(values + r * w, h->rows + r * all + all - w, w * sizeof *values);
    }
    for (size_t r = 0; r < n; r++) {
        memcpy(h->rows + r * 3 * w, keys + r * w, w * sizeof *keys);
        memcpy(h->rows + r * 3 * w + w, keys + r * w, w * sizeof *keys);
        memcpy(h->rows + r * 3 * w + 2 * w, values + r * w, w * sizeof *values);
    }
    m->be->buf_write(m->be, h->in, h->rows, n, NULL);
    step_begin(m->be, b, 0);
    op_qk_norm_rope_store(m->be, h->turned, h->in, &as_queries, m->cache);
    return finish(m, h->turned, keys, err);
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
