/* SPDX-License-Identifier: Apache-2.0
 *
 * A backend gives queries back, not keys, so keys are turned as if they were queries, and are stored once
 * more as they were. See key_rows.h.
 */
#include "model/key_rows.h"

#include <string.h>

#include "base/mem.h"

nib_status key_rows_open(key_rows *k, model *m, nib_error *err) {
    const size_t n = (size_t)m->limits.max_rows, w = (size_t)m->hp->n_kv_heads * (size_t)m->hp->head_dim;
    const size_t all = m->qkv->cols > 3 * w ? m->qkv->cols : 3 * w;
    *k = (key_rows){.m = m};
    NIB_TRY(m->be->buf_new(m->be, &k->in, BUF_F32, SPLIT_HEADS, n, 3 * w, err));
    NIB_TRY(m->be->buf_new(m->be, &k->turned, BUF_F32, SPLIT_HEADS, n, w, err));
    k->rows = mem_array(n, all * sizeof *k->rows);
    k->keys = mem_array(n, w * sizeof *k->keys);
    k->values = mem_array(n, w * sizeof *k->values);
    return k->rows && k->keys && k->values ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "no memory for keys");
}

void key_rows_close(key_rows *k) {
    if (k->in)
        k->m->be->buf_free(k->m->be, k->in);
    if (k->turned)
        k->m->be->buf_free(k->m->be, k->turned);
    mem_free(k->rows);
    mem_free(k->keys);
    mem_free(k->values);
    *k = (key_rows){0};
}

nib_status key_rows_read(key_rows *k, int layer, const batch *b, nib_error *err) {
    model *m = k->m;
    attn_params as_queries = m->w.layers[layer].attn;
    const size_t n = (size_t)b->n_rows, w = k->turned->cols, all = m->qkv->cols;
    as_queries.n_heads = as_queries.n_kv_heads;
    if (attn_norms_rows(&as_queries)) /* done where the values lie, so not again */
        as_queries.k_norm = NULL;
    as_queries.q_norm = as_queries.k_norm;
    as_queries.query_log = 0;
    m->be->buf_read(m->be, m->qkv, k->rows);
    for (size_t r = 0; r < n; r++) {
        memcpy(k->keys + r * w, k->rows + r * all + all - 2 * w, w * sizeof *k->keys);
        memcpy(k->values + r * w, k->rows + r * all + all - w, w * sizeof *k->values);
    }
    for (size_t r = 0; r < n; r++) {
        memcpy(k->rows + r * 3 * w, k->keys + r * w, w * sizeof *k->keys);
        memcpy(k->rows + r * 3 * w + w, k->keys + r * w, w * sizeof *k->keys);
        memcpy(k->rows + r * 3 * w + 2 * w, k->values + r * w, w * sizeof *k->values);
    }
    m->be->buf_write(m->be, k->in, k->rows, n, NULL);
    step_begin(m->be, b, 0);
    op_qk_norm_rope_store(m->be, k->turned, k->in, &as_queries, m->cache);
    NIB_TRY(step_finish(m->be, err));
    m->be->buf_read(m->be, k->turned, k->keys);
    return NIB_OK;
}
