/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention's ops as launches: queries, keys and values of a step, and which attention kernel a row takes.
 */
#include "cuda/gpu/state.h"

attn_view attend_view(const attn_params *p) {
    const bool per_head = !attn_norms_rows(p);
    return (attn_view){.n_heads = p->n_heads,
                       .n_kv_heads = p->n_kv_heads,
                       .head_dim = p->head_dim,
                       .q_norm = per_head ? f32(p->q_norm) : NULL,
                       .k_norm = per_head ? f32(p->k_norm) : NULL,
                       .norm_eps = p->norm_eps,
                       .inv_freq = f32(p->inv_freq),
                       .n_freq = p->inv_freq ? (int)p->inv_freq->n : 0,
                       .rope_scale = p->rope_scale,
                       .interleaved = p->interleaved,
                       .scale = p->scale,
                       .window = p->window,
                       .cap = p->cap,
                       .k_scale = p->k_scale,
                       .v_scale = p->v_scale,
                       .k_mean = p->k_scale == 0 ? f32(p->k_mean) : NULL,
                       .query_log = p->query_log,
                       .query_log_len = p->query_log_len};
}

static kv_view layer_of(const cuda_cache *c, const attn_params *p) {
    const cuda_group *g = &c->groups[p->group];
    const cache_shape *s = &c->head.shapes[p->group];
    size_t page = (size_t)p->layer * (size_t)s->group.n_pages,
           at = page * g->page_elements * g->element_bytes;
    return (kv_view){.format = s->dtype == NIB_KV_FP32  ? KV_F32
                               : s->dtype == NIB_KV_FP8 ? KV_FP8
                                                        : KV_BF16,
                     .k = g->k + at,
                     .v = g->v + at,
                     .k_scales = g->k_scales ? g->k_scales + page * g->page_cells : NULL,
                     .v_scales = g->v_scales ? g->v_scales + page * g->page_cells : NULL};
}

static void make_queries(cuda_backend *cb, cuda_buf *q, const cuda_buf *qkv, const attn_params *p,
                         const cuda_cache *c) {
    attn_view view = attend_view(p);
    kv_view kv = layer_of(c, p);
    step_view step = step_view_of(cb, p->group);
    const int n_rows = (int)q->head.rows;
    int code = cudaSuccess;
    step_op(cb, CALL_QKV);
    if (attn_norms_rows(p))
        code = qk_norm_launch(&cb->lane, opcalls_view(qkv), f32(p->q_norm), f32(p->k_norm), p->q_norm->n,
                              p->k_norm->n, p->norm_eps, n_rows);
    if (code == cudaSuccess)
        code = qkv_launch(&cb->lane, q->data, q->stride, opcalls_view(qkv), &view, &kv, &step, n_rows);
    step_end(cb, CALL_QKV, code, row_bytes(&qkv->head) + row_bytes(&q->head));
}

/* Decode attention of few rows makes its queries itself (decode_make_launch): they wait for it. */
void attend_settle(cuda_backend *cb) {
    cuda_buf *q = cb->unmade.q;
    cb->unmade.q = NULL;
    if (q)
        make_queries(cb, q, cb->unmade.qkv, cb->unmade.params, cb->unmade.cache);
}

static void qk_norm_rope_store(backend *be, buf *q, const buf *qkv, const attn_params *p, cache *c) {
    cuda_backend *cb = cuda_of(be);
    cuda_buf *to = (cuda_buf *)q;
    cuda_buf *from = (cuda_buf *)(uintptr_t)qkv;
    const cuda_cache *pages = (const cuda_cache *)c;
    attn_view view = attend_view(p);
    if (cb->waiting.out || cb->unmade.q || cb->lacking || cb->unadded.x)
        opcalls_settle(cb);
    to->gone = false;
    if (cb->be.mode == COMPUTE_EXACT || cb->table.n_alone != (int)q->rows || attn_norms_rows(p) ||
        !decode_makes(&cb->lane, &view, layer_of(pages, p).format, (int)q->rows)) {
        opcalls_settle(cb);
        make_queries(cb, to, from, p, pages);
        return;
    }
    cb->unmade.q = to;
    cb->unmade.qkv = from;
    cb->unmade.params = p;
    cb->unmade.cache = pages;
}

static uint64_t attended_bytes(const cuda_backend *cb, const cuda_cache *c, const attn_params *p) {
    const cuda_group *g = &c->groups[p->group];
    uint64_t keys = 0, row = (uint64_t)p->n_kv_heads * 2 *
                             ((uint64_t)p->head_dim * g->element_bytes + (g->k_scales ? 4 : 0));
    for (int i = 0; i < cb->table.n_rows; i++) {
        int key = cb->table.host[cb->table.n_rows + i] + 1; /* positions */
        keys += (uint64_t)(p->window > 0 && key > p->window ? p->window : key);
    }
    return keys * row;
}

static void attention(backend *be, buf *out, const buf *q, const attn_params *p, cache *c,
                      const weight *reader) {
    cuda_backend *cb = cuda_of(be);
    const cuda_buf *from = (const cuda_buf *)q;
    attn_view view = attend_view(p);
    kv_view kv = layer_of((const cuda_cache *)c, p);
    step_view step = step_view_of(cb, p->group);
    const bool makes = cb->unmade.q == from && cb->unmade.params == p;
    if (makes) {
        cb->unmade.q->gone = true;
        cb->unmade.q = NULL;
        if (gather_attend(cb, (cuda_buf *)out, cb->unmade.qkv, &view, &kv, &step)) {
            opcalls_destination(cb, out, reader);
            return;
        }
    }
    opcalls_begin(cb, CALL_ATTENTION);
    act_view last = opcalls_destination(cb, out, reader);
    if (opcalls_stay_bf16(cb, out, reader))
        last = opcalls_view((cuda_buf *)out);
    act_view to = last;
    int code = cudaSuccess, n_rows = (int)out->rows, n_alone = cb->table.n_alone;
    if (last.format == ACT_FP8) /* a scale needs the whole row: BF16 first */
        to = (act_view){ACT_BF16, ((cuda_buf *)out)->data, NULL, last.stride};
    if (makes) {
        code = decode_make_launch(&cb->lane, to, opcalls_view(cb->unmade.qkv), &view, &kv, &step, n_alone);
    } else if (cb->be.mode == COMPUTE_EXACT || !prefill_supports(&view, kv.format)) {
        code = attention_exact_launch(&cb->lane, to, from->data, from->stride, &view, &kv, &step, n_rows);
    } else {
        if (n_alone < n_rows)
            code = prefill_launch(&cb->lane, to, from->data, from->stride, &view, &kv, &step, n_rows);
        if (code == cudaSuccess)
            code = decode_launch(&cb->lane, to, from->data, from->stride, &view, &kv, &step, n_alone,
                                 cb->partial);
    }
    if (code == cudaSuccess && last.format == ACT_FP8)
        code = convert_launch(&cb->lane, last, to, n_rows, out->cols);
    step_end(cb, CALL_ATTENTION, code, cb->profiling ? attended_bytes(cb, (const cuda_cache *)c, p) : 0);
}

void attend_set(backend *be) {
    be->op.qk_norm_rope_store = qk_norm_rope_store;
    be->op.attention = attention;
}
