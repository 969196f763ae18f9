/* SPDX-License-Identifier: Apache-2.0
 *
 * A batch of random tokens, layer by layer; keys are rotated as if they were queries, which a backend gives
 * back, as at other positions too, so that what turns has no mean; these lie the denser the nearer they are
 * to the start, where more keys are. See key_means.h.
 */
#include "model/key_means.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "num/rounded.h"

enum { TOKENS = KEY_MEANS_TOKENS, FURTHEST = 4096, PLACES = 16, PAGES = FURTHEST / KV_PAGE_TOKENS };
#define LEAST 1e-8 /* of a head's largest: what a channel counts for at least */

/* Sums over tokens and places; of queries, over those of a group as well. */
typedef struct channel {
    double keys, key_squares, query_squares;
} channel;

typedef struct finder {
    model *m;
    int32_t tokens[TOKENS], pages[PAGES];
    batch_seq seq;
    batch b;
    size_t width;      /* n_kv_heads * head_dim */
    buf *in, *out;     /* [TOKENS, 3 * width] keys as queries, keys, values; [TOKENS, width] rotated keys */
    float *qkv, *rows; /* [TOKENS, (H + 2G) * D], [TOKENS, 3 * width] */
    cache *aside;      /* of one layer: what a rotation as queries stores, and nobody reads */
    channel *channels; /* [n_layers, width] */
    int n_tokens;
    bool has_means; /* else keys are only balanced */
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

/* The queries of IN, rotated as at positions from POS on, in OUT and f->qkv. */
static nib_status rotate_at(finder *f, buf *out, const buf *in, const attn_params *p, int pos,
                            nib_error *err) {
    backend *be = f->m->be;
    place_batch(f, pos);
    step_begin(be, &f->b, 0);
    op_qk_norm_rope_store(be, out, in, p, f->aside);
    NIB_TRY(step_finish(be, err));
    be->buf_read(be, out, f->qkv);
    return NIB_OK;
}

/* Keys of the layer just computed; the FIRST of all tokens' is no key like others. */
static nib_status add_keys(finder *f, const attn_params *as_queries, int pos, size_t first, channel *to,
                           nib_error *err) {
    NIB_TRY(rotate_at(f, f->out, f->in, as_queries, pos, err));
    for (size_t r = first; r < (size_t)f->b.n_rows; r++)
        for (size_t i = 0; i < f->width; i++) {
            const double k = (double)f->qkv[r * f->width + i];
            to[i].keys += k;
            to[i].key_squares += k * k;
        }
    return NIB_OK;
}

static nib_status add_queries(finder *f, const attn_params *p, int pos, size_t first, channel *to,
                              nib_error *err) {
    const size_t d = (size_t)p->head_dim, cols = f->m->q->cols, group = cols / f->width;
    attn_params own = *p;
    own.group = own.layer = 0;
    if (attn_norms_rows(p)) /* done where the values lie, so not again; keys' below likewise */
        own.q_norm = own.k_norm = NULL;
    NIB_TRY(rotate_at(f, f->m->q, f->m->qkv, &own, pos, err));
    for (size_t r = first; r < (size_t)f->b.n_rows; r++)
        for (size_t i = 0; i < cols; i++) {
            const double q = (double)f->qkv[r * cols + i];
            to[i / d / group * d + i % d].query_squares += q * q;
        }
    return NIB_OK;
}

static nib_status add_layer(finder *f, const layer_weights *l, channel *to, nib_error *err) {
    model *m = f->m;
    const size_t n = (size_t)f->b.n_rows, w = f->width, all = m->qkv->cols;
    const int at = f->seq.pos, reach = m->hp->context_len < FURTHEST ? m->hp->context_len : FURTHEST;
    attn_params as_queries = l->attn;
    as_queries.n_heads = as_queries.n_kv_heads;
    if (attn_norms_rows(&as_queries))
        as_queries.k_norm = NULL;
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
    for (int i = 0; i < PLACES && status == NIB_OK; i++) {
        const int pos = at + i * i * (reach - f->n_tokens) / ((PLACES - 1) * (PLACES - 1));
        status = add_keys(f, &as_queries, pos, at == 0, to, err);
        if (status == NIB_OK && m->be->qk_rotation)
            status = add_queries(f, &l->attn, pos, at == 0, to, err);
    }
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
        NIB_TRY(add_layer(f, l, f->channels + (size_t)layer * f->width, err));
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
    f->channels = mem_array((size_t)m->hp->n_layers * f->width, sizeof *f->channels);
    if (!f->qkv || !f->rows || !f->channels)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for the means of keys");
    NIB_TRY(be->buf_new(be, &f->in, BUF_F32, SPLIT_HEADS, TOKENS, 3 * f->width, err));
    return be->buf_new(be, &f->out, BUF_F32, SPLIT_HEADS, TOKENS, f->width, err);
}

static double per_token(const finder *f, double sum) {
    return sum / (PLACES * (double)(f->n_tokens - 1));
}

/* E[(k - mean)^2], or E[k^2] where no mean is taken off. */
static double spread(const finder *f, const channel *c) {
    const double mean = f->has_means ? per_token(f, c->keys) : 0;
    return per_token(f, c->key_squares) - mean * mean;
}

/* balance [d] of the head of channels c: (E[(k - mean)^2] / E[q^2])^(1/4) over its geometric mean. What
 * rounding loses of a turned key is alike in all channels: a share of the mean of its squares; a score gets
 * that times the sum of the query's. This makes the product least. */
static void find_balance(const finder *f, const channel *c, size_t d, float *balance) {
    double most_k = 0, most_q = 0, logs = 0;
    for (size_t i = 0; i < d; i++) {
        most_k = fmax(most_k, spread(f, &c[i]));
        most_q = fmax(most_q, per_token(f, c[i].query_squares));
    }
    const bool lives = most_k > 0 && most_q > 0 && isfinite(most_k) && isfinite(most_q);
    for (size_t i = 0; i < d; i++) {
        const double k = fmax(spread(f, &c[i]), LEAST * most_k),
                     q = fmax(per_token(f, c[i].query_squares), LEAST * most_q);
        balance[i] = lives ? (float)(0.25 * log(k / q)) : 0;
        logs += (double)balance[i];
    }
    for (size_t i = 0; i < d; i++)
        balance[i] = expf(balance[i] - (float)(logs / (double)d));
}

static nib_status keep_balance(finder *f, layer_weights *l, const channel *c, float *means, float *balance,
                               nib_error *err) {
    const size_t d = (size_t)l->attn.head_dim;
    for (size_t at = 0; at < f->width; at += d) {
        find_balance(f, c + at, d, balance + at);
        for (size_t i = at; i < at + d; i++)
            means[i] /= balance[i];
        rounded_hadamard(means + at, d, (size_t)f->m->be->qk_rotation);
    }
    NIB_TRY(f->m->be->vec_new(f->m->be, &l->qk_balance, VEC_F32, f->width, balance, err));
    l->attn.qk_balance = l->qk_balance;
    return NIB_OK;
}

/* Nothing where the keys are no finite numbers. */
static nib_status keep_layer(finder *f, layer_weights *l, const channel *c, nib_error *err) {
    backend *be = f->m->be;
    float *means = f->rows, *balance = f->rows + f->width;
    bool finite = true;
    for (size_t i = 0; i < f->width; i++) {
        means[i] = (float)per_token(f, c[i].keys);
        finite = finite && isfinite(means[i]);
    }
    if (finite && be->qk_rotation)
        NIB_TRY(keep_balance(f, l, c, means, balance, err));
    if (!finite || !f->has_means)
        return NIB_OK;
    NIB_TRY(be->vec_new(be, &l->k_mean, VEC_F32, f->width, means, err));
    l->attn.k_mean = l->k_mean;
    return NIB_OK;
}

static nib_status keep(finder *f, nib_error *err) {
    for (int i = 0; i < f->m->hp->n_layers; i++)
        NIB_TRY(keep_layer(f, &f->m->w.layers[i], f->channels + (size_t)i * f->width, err));
    return NIB_OK;
}

nib_status key_means_find(model *m, const progress *watch, nib_error *err) {
    backend *be = m->be;
    finder f = {.m = m, .has_means = be->key_means && m->hp->attn_cap == 0};
    const bool is_short = m->limits.kv_dtype == NIB_KV_FP8 || be->rounds_keys;
    if (!is_short || !(f.has_means || be->qk_rotation) || m->hp->context_len < 2)
        return NIB_OK;
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
    mem_free(f.channels);
    return status;
}
