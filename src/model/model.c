/* SPDX-License-Identifier: Apache-2.0
 *
 * A model is opened: weights bound, buffers and caches sized by its limits; after that a forward allocates
 * nothing.
 */
#include "model/model.h"

#include <assert.h>

#include "base/mem.h"
#include "model/key_means.h"
#include "model/network.h"
#include "nouns/family.h"

/* ---- memory ---- */

static nib_status new_buffers(model *m, nib_error *err) {
    const hparams *hp = m->hp;
    size_t rows = (size_t)m->limits.max_rows, outs = (size_t)m->limits.max_out;
    size_t dim = (size_t)hp->dim, ffn_dim = (size_t)hp->ffn_dim, d = (size_t)hp->head_dim;
    size_t heads = (size_t)hp->n_heads, kv_heads = (size_t)hp->n_kv_heads;
    const struct {
        buf **out;
        buf_kind kind;
        split_kind split;
        size_t rows, cols;
    } list[] = {
        {&m->h, BUF_ACT, SPLIT_NONE, rows, dim},
        {&m->qkv, BUF_F32, SPLIT_HEADS, rows, (heads + 2 * kv_heads) * d},
        {&m->q, BUF_F32, SPLIT_HEADS, rows, heads * d},
        {&m->a, BUF_ACT, SPLIT_HEADS, rows, heads * d},
        {&m->g, BUF_ACT, SPLIT_COLS, rows, ffn_dim},
        {hp->norms != NORM_BEFORE ? &m->y : NULL, BUF_F32, SPLIT_NONE, rows, dim},
        {&m->h_out, BUF_ACT, SPLIT_NONE, outs, dim},
    };
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (list[i].out)
            NIB_TRY(m->be->buf_new(m->be, list[i].out, list[i].kind, list[i].split, list[i].rows,
                                   list[i].cols, err));
    return NIB_OK;
}

int model_groups(const hparams *hp, nib_kv_dtype kv_dtype, cache_shape groups[CACHE_MAX_GROUPS]) {
    int n_local = 0, n = 0;
    for (int i = 0; i < hp->n_layers; i++)
        n_local += hp->local[i];
    const struct {
        cache_group group;
        int n_layers;
    } kinds[] = {{{.kind = CACHE_FULL}, hp->n_layers - n_local},
                 {{.kind = CACHE_WINDOW, .window = hp->sliding_window}, n_local}};
    for (int i = 0; i < 2; i++)
        if (kinds[i].n_layers > 0)
            groups[n++] = (cache_shape){.group = kinds[i].group,
                                        .n_layers = kinds[i].n_layers,
                                        .n_kv_heads = hp->n_kv_heads,
                                        .head_dim = hp->head_dim,
                                        .dtype = kv_dtype == NIB_KV_AUTO ? NIB_KV_BF16 : kv_dtype};
    return n;
}

nib_status model_open_cache(model *m, const int n_pages[CACHE_MAX_GROUPS], const progress *watch,
                            nib_error *err) {
    cache_shape groups[CACHE_MAX_GROUPS];
    int n = model_groups(m->hp, m->limits.kv_dtype, groups);
    assert(!m->cache);
    for (int i = 0; i < n; i++) {
        m->limits.n_pages[i] = groups[i].group.n_pages = n_pages[i];
        if (n_pages[i] < 1)
            return nib_fail(err, NIB_BAD_ARGUMENT, "%d KV pages of cache group %d; expected 1 at least",
                            n_pages[i], i);
    }
    NIB_TRY(key_means_find(m, watch, err));
    return m->be->cache_new(m->be, &m->cache, groups, n, err);
}

nib_status network_open_layer_cache(model *m, nib_error *err) {
    for (int i = 0; i < m->hp->n_layers; i++)
        m->w.layers[i].attn.group = m->w.layers[i].attn.layer = 0;
    cache_shape one = {.group = {.kind = CACHE_FULL, .n_pages = m->limits.n_pages[0]},
                       .n_layers = 1,
                       .n_kv_heads = m->hp->n_kv_heads,
                       .head_dim = m->hp->head_dim,
                       .dtype = m->limits.kv_dtype};
    return m->be->cache_new(m->be, &m->cache, &one, 1, err);
}

const model_defaults *model_defaults_of(bool on_gpu) {
    static const model_defaults on_host = {4096, 16, 512, NIB_KV_BF16, 1};
    static const model_defaults on_device = {4096, 16, 2048, NIB_KV_FP8, 0.9};
    return on_gpu ? &on_device : &on_host;
}

/* ---- opening and closing ---- */

nib_status network_open(model **out, const model_file *file, backend *be, const model_limits *limits,
                        nib_error *err) {
    *out = NULL;
    char families[FAMILY_LIST_MAX];
    if (!file->has_network || file->hp.family == FAMILY_NONE)
        return nib_fail(err, NIB_UNSUPPORTED, "%s: no network that nibble can compute (%s)", file->path,
                        family_list(families));
    if (!be->caps && (file->hp.attn_cap != 0 || file->hp.logit_cap != 0))
        return nib_fail(err, NIB_UNSUPPORTED,
                        "%s: %s caps scores and logits, which the %s backend does not compute", file->path,
                        family_name(file->hp.family), be->name);
    if (!be->query_log && file->hp.query_log != 0)
        return nib_fail(err, NIB_UNSUPPORTED,
                        "%s: queries of %s grow with their position, which the %s backend does not compute",
                        file->path, family_name(file->hp.family), be->name);
    for (size_t i = 0; i < file->n_tensors; i++) {
        if (file->tensors[i].branch.rank && file->tensors[i].place.slot == SLOT_EMBED)
            return nib_fail(err, NIB_UNSUPPORTED,
                            "%s: the token embedding %s has a low-rank branch, which nibble does not compute",
                            file->path, file->tensors[i].name);
        if (file->tensors[i].branch.rank && !be->branches)
            return nib_fail(err, NIB_UNSUPPORTED,
                            "%s: tensor %s has a low-rank branch, which the %s backend does not compute",
                            file->path, file->tensors[i].name, be->name);
    }
    if (limits->max_rows < 1 || limits->max_out < 1)
        return nib_fail(err, NIB_BAD_ARGUMENT, "%d rows and %d outputs; each must be at least 1",
                        limits->max_rows, limits->max_out);
    model *m = mem_array(1, sizeof *m);
    if (!m)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for the model", file->path);
    m->be = be;
    m->hp = &file->hp;
    m->limits = *limits;
    int64_t held = (int64_t)limits->n_pages[0] * KV_PAGE_TOKENS;
    int64_t longest = limits->max_len > 0 ? limits->max_len : held > 0 ? held : INT32_MAX;
    m->limits.max_len = longest < m->hp->context_len ? (int)longest : m->hp->context_len;
    *out = m;
    return new_buffers(m, err);
}

void network_close(model *m) {
    if (!m)
        return;
    buf *const bufs[] = {m->x, m->h, m->qkv, m->q, m->a, m->g, m->y, m->h_out, m->logits, m->hidden};
    for (size_t i = 0; i < sizeof bufs / sizeof *bufs; i++)
        if (bufs[i])
            m->be->buf_free(m->be, bufs[i]);
    if (m->cache)
        m->be->cache_free(m->be, m->cache);
    weights_free(&m->w, m->hp, m->be);
    mem_free(m);
}

static nib_status open_rest(model *m, const model_file *file, const progress *watch, nib_error *err) {
    const hparams *hp = m->hp;
    backend *be = m->be;
    size_t rows = (size_t)m->limits.max_rows, outs = (size_t)m->limits.max_out;
    NIB_TRY(weights_bind(&m->w, m->limits.max_len, file, be, watch, err));
    NIB_TRY(be->buf_new(be, &m->x, BUF_F32, SPLIT_NONE, rows, (size_t)hp->dim, err));
    NIB_TRY(be->buf_new(be, &m->logits, BUF_F32, SPLIT_ROWS, outs, (size_t)hp->vocab, err));
    return m->limits.n_pages[0] != 0 ? model_open_cache(m, m->limits.n_pages, watch, err) : NIB_OK;
}

nib_status model_open(model **out, const model_file *file, backend *be, const model_limits *limits,
                      const progress *watch, nib_error *err) {
    model *m;
    nib_status status = network_open(&m, file, be, limits, err);
    if (status == NIB_OK)
        status = open_rest(m, file, watch, err);
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

nib_status model_rebind(model *m, const model_file *file, int layer, bool mlp, nib_error *err) {
    const weights_part part = mlp ? WEIGHTS_MLP : WEIGHTS_ATTENTION;
    weights_unbind_part(&m->w, file, m->be, part, layer);
    return weights_bind_part(&m->w, file, m->be, part, layer, err);
}

/* ---- a forward ---- */

static void forward(model *m, bool wants_logits) {
    op_embed(m->be, m->x, m->w.embed, m->hp->embed_scale); /* x [rows, dim] */
    for (int layer = 0; layer < m->hp->n_layers; layer++) {
        attention_half(m, &m->w.layers[layer]);
        mlp_half(m, &m->w.layers[layer]);
    }
    if (m->wants_hidden)
        op_rmsnorm(m->be, m->hidden, m->x, m->w.final_norm, m->hp->norm_eps, NULL);
    if (!wants_logits)
        return;
    network_final_norm(m);
    op_matmul(m->be, m->logits, m->h_out, m->w.head, NULL); /* logits [n_out, vocab] */
    if (m->hp->logit_cap != 0)
        op_softcap(m->be, m->logits, m->hp->logit_cap);
}

void model_begin(model *m, const batch *b, const sample_row *rows, sampled *out) {
    enum { KEY_LAYERS = 1, KEY_LOGITS = 2, KEY_HIDDEN = 4 };
    assert(b->n_rows <= m->limits.max_rows && b->n_out <= m->limits.max_out);
    bool wants_logits = b->n_out > 0;
    const uint64_t key = (wants_logits ? KEY_LOGITS : KEY_LAYERS) | (m->wants_hidden ? KEY_HIDDEN : 0);
    if (!step_begin(m->be, b, key))
        forward(m, wants_logits);
    if (wants_logits && rows)
        op_sample(m->be, out, m->logits, rows);
    step_submit(m->be);
    m->wants_hidden = false;
}

nib_status model_wait(model *m, const float **logits, nib_error *err) {
    bool wants_logits = m->be->batch->n_out > 0;
    if (logits)
        *logits = NULL;
    NIB_TRY(step_wait(m->be, err));
    if (logits && wants_logits)
        *logits = m->be->buf_view(m->be, m->logits);
    return NIB_OK;
}

nib_status model_forward(model *m, const batch *b, const float **logits, nib_error *err) {
    model_begin(m, b, NULL, NULL);
    return model_wait(m, logits, err);
}

nib_status model_open_hidden(model *m, nib_error *err) {
    return m->hidden ? NIB_OK
                     : m->be->buf_new(m->be, &m->hidden, BUF_F32, SPLIT_NONE, (size_t)m->limits.max_rows,
                                      (size_t)m->hp->dim, err);
}

void model_want_hidden(model *m) {
    assert(m->hidden);
    m->wants_hidden = true;
}

const float *model_hidden(model *m) {
    return m->be->buf_view(m->be, m->hidden);
}

void model_copy_page(model *m, int group, int32_t to, int32_t from) {
    m->be->cache_copy(m->be, m->cache, group, to, from);
}

/* ---- views ---- */

const hparams *model_hparams(const model *m) {
    return m->hp;
}

size_t model_weight_bytes(const model *m) {
    return weights_bytes(&m->w, m->hp);
}

size_t model_bytes_per_token(const model *m) {
    return weights_bytes_per_token(&m->w, m->hp);
}

double model_flops(const model *m, int n_rows, int n_out) {
    const weight *head = m->w.head;
    return 2.0 * n_rows * (double)weights_products(&m->w, m->hp) +
           2.0 * n_out * (double)head->rows * (double)head->cols;
}

size_t model_kv_bytes(const model *m) {
    return m->cache->bytes;
}
