/* SPDX-License-Identifier: Apache-2.0
 *
 * A batch of random tokens, layer by layer; keys are rotated as if they were queries, which a backend gives
 * back, as at other positions too, so that what turns has no mean. See key_means.h.
 */
#include "model/key_means.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

enum { TOKENS = KEY_MEANS_TOKENS, FURTHEST = 4096, PLACES = 16, PAGES = FURTHEST / KV_PAGE_TOKENS };

typedef struct finder {
    model *m;
    int32_t tokens[TOKENS], pages[PAGES];
    batch_seq seq;
    batch b;
    size_t width;      /* n_kv_heads * head_dim */
    buf *in, *out;     /* [TOKENS, 3 * width] keys as queries, keys, values; [TOKENS, width] rotated keys */
    float *qkv, *rows; /* [TOKENS, (H + 2G) * D], [TOKENS, 3 * width] */
    cache *aside;      /* of one layer: what a rotation as queries stores, and nobody reads */
    double *sums;      /* [n_layers, width] */
    int n_tokens;
} finder;

static int32_t random_token(size_t i, int32_t vocab) {
    uint64_t h = ((uint64_t)i + 1) * UINT64_C(0x9E3779B97F4A7C15);
    h = (h ^ h >> 29) * UINT64_C(0xBF58476D1CE4E5B9);
    return (int32_t)((h ^ h >> 32) % (uint64_t)vocab);
}

/* The batch begins at POS. */
static void place_batch(finder *f, int pos) {
    f->seq.pos = pos;
    f->seq.n_pages = (pos + f->b.n_rows + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
}

/* The keys of the layer just computed, rotated as at positions from POS on; the FIRST of all tokens' is no
 * key like others. */
static nib_status add_keys(finder *f, const attn_params *as_queries, int pos, size_t first, double *sums,
                           nib_error *err) {
    backend *be = f->m->be;
    place_batch(f, pos);
    step_begin(be, &f->b, 0);
    op_qk_norm_rope_store(be, f->out, f->in, as_queries, f->aside);
    NIB_TRY(step_finish(be, err));
    be->buf_read(be, f->out, f->rows);
    for (size_t r = first; r < (size_t)f->b.n_rows; r++)
        for (size_t i = 0; i < f->width; i++)
            sums[i] += (double)f->rows[r * f->width + i];
    return NIB_OK;
}

static nib_status add_layer(finder *f, const layer_weights *l, double *sums, nib_error *err) {
    model *m = f->m;
    const size_t n = (size_t)f->b.n_rows, w = f->width, all = m->qkv->cols;
    const int at = f->seq.pos, reach = m->hp->context_len < FURTHEST ? m->hp->context_len : FURTHEST;
    attn_params as_queries = l->attn;
    as_queries.n_heads = as_queries.n_kv_heads;
    as_queries.q_norm = as_queries.k_norm;
    as_queries.query_log = 0;
    as_queries.group = as_queries.layer = 0;
    m->be->buf_read(m->be, m->qkv, f->qkv);
    for (size_t r = 0; r < n; r++) {
        const float *keys = f->qkv + r * all + all - 2 * w;
        memcpy(f->rows + r * 3 * w, keys, w * sizeof *keys);
        memcpy(f->rows + r * 3 * w + w, keys, 2 * w * sizeof *keys);
    }
    m->be->buf_write(m->be, f->in, f->rows, n, NULL);
    nib_status status = NIB_OK;
    for (int i = 0; i < PLACES && status == NIB_OK; i++)
        status = add_keys(f, &as_queries, at + i * (reach - f->n_tokens) / (PLACES - 1), at == 0, sums, err);
    place_batch(f, at);
    return status;
}

static nib_status run_batch(finder *f, const progress *watch, nib_error *err) {
    model *m = f->m;
    step_begin(m->be, &f->b, 0);
    op_embed(m->be, m->x, m->w.embed, m->hp->embed_scale);
    NIB_TRY(step_finish(m->be, err));
    for (int layer = 0; layer < m->hp->n_layers; layer++) {
        const layer_weights *l = &m->w.layers[layer];
        if (progress_stopped(watch))
            return nib_fail(err, NIB_CANCELLED, "loading was cancelled");
        step_begin(m->be, &f->b, 0);
        attention_half(m, l);
        NIB_TRY(step_finish(m->be, err));
        NIB_TRY(add_layer(f, l, f->sums + (size_t)layer * f->width, err));
        step_begin(m->be, &f->b, 0);
        mlp_half(m, l);
        NIB_TRY(step_finish(m->be, err));
    }
    return NIB_OK;
}

/* As many tokens whatever the limits, so that these do not change the means. */
static nib_status run_all(finder *f, const progress *watch, nib_error *err) {
    const model *m = f->m;
    for (int pos = 0; pos < f->n_tokens; pos += f->b.n_rows) {
        const int left = f->n_tokens - pos, rows = left < m->limits.max_rows ? left : m->limits.max_rows;
        f->seq = (batch_seq){.pages = CACHE_EVERY_GROUP(f->pages), .n_rows = rows};
        f->b = (batch){.tokens = f->tokens + pos, .n_rows = rows, .seqs = &f->seq, .n_seqs = 1};
        place_batch(f, pos);
        NIB_TRY(run_batch(f, watch, err));
    }
    return NIB_OK;
}

static nib_status open_all(finder *f, nib_error *err) {
    model *m = f->m;
    backend *be = m->be;
    f->n_tokens = m->hp->context_len < TOKENS ? m->hp->context_len : TOKENS;
    for (int i = 0; i < f->n_tokens; i++)
        f->tokens[i] = random_token((size_t)i, m->hp->vocab);
    for (int i = 0; i < PAGES; i++)
        f->pages[i] = i;
    cache_shape groups[CACHE_MAX_GROUPS];
    const int n_groups = model_groups(m->hp, m->limits.kv_dtype, groups);
    for (int i = 0; i < n_groups; i++)
        groups[i].group.n_pages = (TOKENS + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    NIB_TRY(be->cache_new(be, &m->cache, groups, n_groups, err));
    groups[0].group.kind = CACHE_FULL;
    groups[0].n_layers = 1;
    groups[0].group.n_pages = PAGES;
    NIB_TRY(be->cache_new(be, &f->aside, groups, 1, err));
    f->width = (size_t)m->hp->n_kv_heads * (size_t)m->hp->head_dim;
    f->qkv = mem_array(TOKENS, m->qkv->cols * sizeof *f->qkv);
    f->rows = mem_array(TOKENS, 3 * f->width * sizeof *f->rows);
    f->sums = mem_array((size_t)m->hp->n_layers * f->width, sizeof *f->sums);
    if (!f->qkv || !f->rows || !f->sums)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for the means of keys");
    NIB_TRY(be->buf_new(be, &f->in, BUF_F32, SPLIT_HEADS, TOKENS, 3 * f->width, err));
    return be->buf_new(be, &f->out, BUF_F32, SPLIT_HEADS, TOKENS, f->width, err);
}

/* None where the keys are no finite numbers. */
static nib_status keep(finder *f, nib_error *err) {
    for (int layer = 0; layer < f->m->hp->n_layers; layer++) {
        layer_weights *l = &f->m->w.layers[layer];
        const double *sums = f->sums + (size_t)layer * f->width;
        bool finite = true;
        for (size_t i = 0; i < f->width; i++) {
            f->rows[i] = (float)(sums[i] / (PLACES * (double)(f->n_tokens - 1)));
            finite = finite && isfinite(f->rows[i]);
        }
        if (!finite)
            continue;
        NIB_TRY(f->m->be->vec_new(f->m->be, &l->k_mean, VEC_F32, f->width, f->rows, err));
        l->attn.k_mean = l->k_mean;
    }
    return NIB_OK;
}

nib_status key_means_find(model *m, const progress *watch, nib_error *err) {
    backend *be = m->be;
    if (!be->key_means || m->limits.kv_dtype != NIB_KV_FP8 || m->hp->attn_cap != 0 || m->hp->context_len < 2)
        return NIB_OK;
    finder f = {.m = m};
    nib_status status = open_all(&f, err);
    if (status == NIB_OK)
        status = run_all(&f, watch, err);
    if (status == NIB_OK)
        status = keep(&f, err);
    if (f.in)
        be->buf_free(be, f.in);
    if (f.out)
        be->buf_free(be, f.out);
    if (f.aside)
        be->cache_free(be, f.aside);
    if (m->cache)
        be->cache_free(be, m->cache);
    m->cache = NULL;
    mem_free(f.qkv);
    mem_free(f.rows);
    mem_free(f.sums);
    return status;
}
