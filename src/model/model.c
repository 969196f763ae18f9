/* SPDX-License-Identifier: Apache-2.0
 *
 * A model is opened: weights bound, buffers and KV pages sized by its limits; after that a forward allocates
 * nothing.
 */
#include "model/model.h"

#include <assert.h>

#include "base/mem.h"
#include "model/network.h"

static const network_layer *layer_of(family f) {
    switch (f) {
    case FAMILY_LLAMA:
        return &llama_layer;
    case FAMILY_QWEN3:
        return &qwen3_layer;
    case FAMILY_GEMMA3:
        return &gemma3_layer;
    case FAMILY_NONE:
    case FAMILY_COUNT:
        break;
    }
    return NULL;
}

static nib_status new_buffers(model *m, nib_error *err) {
    const hparams *hp = m->hp;
    size_t rows = (size_t)m->limits.max_rows, outs = (size_t)m->limits.max_out;
    size_t dim = (size_t)hp->dim, ffn_dim = (size_t)hp->ffn_dim, d = (size_t)hp->head_dim;
    size_t heads = (size_t)hp->n_heads, kv_heads = (size_t)hp->n_kv_heads;
    const struct {
        buf **out;
        buf_kind kind;
        size_t rows, cols;
    } list[] = {
        {&m->h, BUF_ACT, rows, dim},       {&m->qkv, BUF_F32, rows, (heads + 2 * kv_heads) * d},
        {&m->q, BUF_F32, rows, heads * d}, {&m->a, BUF_ACT, rows, heads * d},
        {&m->g, BUF_ACT, rows, ffn_dim},   {hp->family == FAMILY_GEMMA3 ? &m->y : NULL, BUF_F32, rows, dim},
        {&m->h_out, BUF_ACT, outs, dim},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (list[i].out)
            NIB_TRY(m->be->buf_new(m->be, list[i].out, list[i].kind, list[i].rows, list[i].cols, err));
    return NIB_OK;
}

nib_status network_kv(model *m, int n_layers, nib_error *err) {
    kv_shape shape = {.n_layers = n_layers,
                      .n_kv_heads = m->hp->n_kv_heads,
                      .head_dim = m->hp->head_dim,
                      .n_pages = m->limits.n_kv_pages,
                      .dtype = m->limits.kv_dtype};
    return m->be->kv_new(m->be, &m->kv, &shape, err);
}

nib_status network_open(model **out, const model_file *file, backend *be, const model_limits *limits,
                        nib_error *err) {
    *out = NULL;
    const network_layer *layer = file->has_network ? layer_of(file->hp.family) : NULL;
    if (!layer)
        return nib_fail(err, NIB_UNSUPPORTED, "%s: no network that nibble can compute (llama, qwen3, gemma3)",
                        file->path);
    if (limits->max_rows < 1 || limits->max_out < 1 || limits->n_kv_pages < 1)
        return nib_fail(err, NIB_BAD_ARGUMENT, "%d rows, %d outputs and %d KV pages; each must be at least 1",
                        limits->max_rows, limits->max_out, limits->n_kv_pages);
    model *m = mem_array(1, sizeof *m);
    if (!m)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for the model", file->path);
    m->be = be;
    m->hp = &file->hp;
    m->layer = layer;
    m->limits = *limits;
    if (m->limits.kv_dtype == NIB_KV_AUTO)
        m->limits.kv_dtype = NIB_KV_BF16;
    *out = m;
    return new_buffers(m, err);
}

void network_close(model *m) {
    if (!m)
        return;
    buf *const bufs[] = {m->x, m->h, m->qkv, m->q, m->a, m->g, m->y, m->h_out, m->logits};
    for (size_t i = 0; i < sizeof bufs / sizeof *bufs; i++)
        if (bufs[i])
            m->be->buf_free(m->be, bufs[i]);
    if (m->kv)
        m->be->kv_free(m->be, m->kv);
    weights_free(&m->w, m->hp, m->be);
    mem_free(m);
}

static nib_status open_rest(model *m, const model_file *file, nib_error *err) {
    const hparams *hp = m->hp;
    NIB_TRY(weights_bind(&m->w, file, m->be, err));
    NIB_TRY(m->be->buf_new(m->be, &m->x, BUF_F32, (size_t)m->limits.max_rows, (size_t)hp->dim, err));
    NIB_TRY(m->be->buf_new(m->be, &m->logits, BUF_F32, (size_t)m->limits.max_out, (size_t)hp->vocab, err));
    return network_kv(m, hp->n_layers, err);
}

nib_status model_open(model **out, const model_file *file, backend *be, const model_limits *limits,
                      nib_error *err) {
    model *m;
    nib_status status = network_open(&m, file, be, limits, err);
    if (status == NIB_OK)
        status = open_rest(m, file, err);
    if (status != NIB_OK) {
        network_close(m);
        m = NULL;
    }
    *out = m;
    return status;
}

void model_close(model *m) {
    network_close(m);
}

static void forward(model *m, const batch *b) {
    backend *be = m->be;
    be->embed(be, m->x, m->w.embed, m->hp->embed_scale); /* x [rows, dim] */
    for (int layer = 0; layer < m->hp->n_layers; layer++) {
        m->layer->attention_half(m, &m->w.layers[layer], layer);
        m->layer->mlp_half(m, &m->w.layers[layer], layer);
    }
    if (b->n_out == 0)
        return;
    network_final_norm(m);
    be->matmul(be, m->logits, m->h_out, m->w.head); /* logits [n_out, vocab] */
}

nib_status model_forward(model *m, const batch *b, const float **logits, nib_error *err) {
    assert(b->n_rows > 0 && b->n_rows <= m->limits.max_rows && b->n_out <= m->limits.max_out);
    m->be->step_begin(m->be, b);
    forward(m, b);
    NIB_TRY(m->be->step_finish(m->be, err));
    *logits = b->n_out > 0 ? m->be->buf_read(m->be, m->logits) : NULL;
    return NIB_OK;
}

const hparams *model_hparams(const model *m) {
    return m->hp;
}

size_t model_weight_bytes(const model *m) {
    return weights_bytes(&m->w, m->hp, m->be);
}

size_t model_bytes_per_token(const model *m) {
    return weights_bytes_per_token(&m->w, m->hp, m->be);
}

size_t model_kv_bytes(const model *m) {
    return m->be->kv_bytes(m->kv);
}
