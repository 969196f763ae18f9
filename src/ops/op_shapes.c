/* SPDX-License-Identifier: Apache-2.0
 *
 * The shapes that every op asks of its operands, asserted once for all backends; rows of destinations are set
 * here too. A wrong shape is our own mistake, never bad input: weights.c has checked the file's.
 */
#include "ops/ops.h"

#undef NDEBUG /* a few comparisons per op; a wrong shape would write past a buffer */
#include <assert.h>

#include "ops/op_list.h"

_Static_assert(sizeof(op_table) == OP_COUNT * sizeof(void (*)(void)), "op_list.h lists every op");

/* ---- rows ---- */

/* OUT gets ROWS rows and is written for READER, which must be able to read it. */
static void destination(buf *out, size_t rows, size_t cols, const weight *reader) {
    assert(rows <= out->max_rows && out->cols == cols);
    assert(!reader || (out->kind == BUF_ACT && reader->cols == cols));
    out->rows = rows;
}

void op_embed(backend *be, buf *x, const weight *table, float scale) {
    assert(x->kind == BUF_F32);
    for (int32_t r = 0; r < be->batch->n_rows; r++)
        assert(be->batch->tokens[r] >= 0 && (size_t)be->batch->tokens[r] < table->rows);
    destination(x, (size_t)be->batch->n_rows, table->cols, NULL);
    be->op.embed(be, x, table, scale);
}

static void check_norm(const buf *out, const buf *x, const vec *w) {
    assert(x->kind == BUF_F32 && out != x && (!w || (w->kind == VEC_F32 && w->n == x->cols)));
}

void op_rmsnorm(backend *be, buf *out, const buf *x, const vec *w, float eps, const weight *reader) {
    check_norm(out, x, w);
    destination(out, x->rows, x->cols, reader);
    be->op.rmsnorm(be, out, x, w, eps, reader);
}

void op_rmsnorm_out(backend *be, buf *out, const buf *x, const vec *w, float eps, const weight *reader) {
    check_norm(out, x, w);
    assert(w && x->rows == (size_t)be->batch->n_rows);
    destination(out, (size_t)be->batch->n_out, x->cols, reader);
    be->op.rmsnorm_out(be, out, x, w, eps, reader);
}

void op_rmsnorm_add(backend *be, buf *x, const buf *y, const vec *w, float eps) {
    check_norm(x, y, w);
    assert(w && x->kind == BUF_F32 && x->cols == y->cols && x->rows == y->rows);
    be->op.rmsnorm_add(be, x, y, w, eps);
}

/* ---- products ---- */

static void check_product(const buf *a, const weight *w, const vec *bias) {
    assert(a->kind == BUF_ACT && a->cols == w->cols);
    assert(!bias || (bias->kind == VEC_F32 && bias->n == w->rows));
}

void op_matmul(backend *be, buf *out, const buf *a, const weight *w, const vec *bias) {
    check_product(a, w, bias);
    assert(out->kind == BUF_F32);
    destination(out, a->rows, w->rows, NULL);
    be->op.matmul(be, out, a, w, bias);
}

void op_matmul_add(backend *be, buf *x, const buf *a, const weight *w, const vec *bias) {
    check_product(a, w, bias);
    assert(x->kind == BUF_F32 && x->cols == w->rows && x->rows == a->rows);
    be->op.matmul_add(be, x, a, w, bias);
}

void op_matmul_glu(backend *be, buf *out, const buf *a, const weight *w, glu_kind kind,
                   const weight *reader) {
    check_product(a, w, NULL);
    assert(out->kind == BUF_ACT && out != a);
    assert(w->n_parts == 2 && w->part_rows[0] == w->part_rows[1]);
    destination(out, a->rows, w->part_rows[0], reader);
    be->op.matmul_glu(be, out, a, w, kind, reader);
}

/* ---- attention ---- */

static void check_attention(const attn_params *p, const cache *c) {
    assert(p->group >= 0 && p->group < c->n_groups);
    const cache_shape *s = &c->shapes[p->group];
    assert(s->group.kind != CACHE_STATE && p->layer >= 0 && p->layer < s->n_layers);
    assert(p->n_kv_heads == s->n_kv_heads && p->head_dim == s->head_dim && p->n_heads % p->n_kv_heads == 0);
    assert(s->group.kind == CACHE_FULL || (p->window > 0 && p->window <= s->group.window));
    size_t d = (size_t)p->head_dim, q = (size_t)p->n_heads * d, k = (size_t)p->n_kv_heads * d;
    bool per_head = p->q_norm && p->q_norm->n == d && p->k_norm->n == d;
    assert(!p->q_norm || per_head || (p->q_norm->n == q && p->k_norm->n == k));
    assert(!p->inv_freq || 2 * p->inv_freq->n <= (size_t)p->head_dim);
    assert(!p->k_mean || p->k_mean->n == k);
    assert(!p->qk_balance || p->qk_balance->n == k);
}

void op_qk_norm_rope_store(backend *be, buf *q, const buf *qkv, const attn_params *p, cache *c) {
    size_t d = (size_t)p->head_dim, h = (size_t)p->n_heads, g = (size_t)p->n_kv_heads;
    check_attention(p, c);
    assert(q->kind == BUF_F32 && qkv->kind == BUF_F32 && qkv->cols == (h + 2 * g) * d);
    assert(qkv->rows == (size_t)be->batch->n_rows);
    assert(p->query_log == 0 || (be->query_log && p->query_log_len > 0));
    assert(!p->k_mean || (be->key_means && p->cap == 0));
    assert(!p->qk_balance || be->qk_rotation > 0);
    destination(q, qkv->rows, h * d, NULL);
    be->op.qk_norm_rope_store(be, q, qkv, p, c);
}

void op_attention(backend *be, buf *out, const buf *q, const attn_params *p, cache *c, const weight *reader) {
    check_attention(p, c);
    assert(q->kind == BUF_F32 && q->cols == (size_t)p->n_heads * (size_t)p->head_dim);
    assert(q->rows == (size_t)be->batch->n_rows && out->kind == BUF_ACT);
    assert(p->cap == 0 || (be->caps && p->cap > 0));
    destination(out, q->rows, q->cols, reader);
    be->op.attention(be, out, q, p, c, reader);
}

/* ---- what leaves the network ---- */

void op_softcap(backend *be, buf *x, float cap) {
    assert(x->kind == BUF_F32 && cap > 0 && be->caps);
    be->op.softcap(be, x, cap);
}

void op_sum_squares(backend *be, vec *sums, const buf *a) {
    assert(sums->kind == VEC_F64 && sums->n == a->cols);
    be->op.sum_squares(be, sums, a);
}

void op_sample(backend *be, sampled *out, const buf *logits, const sample_row *rows) {
    assert(logits->kind == BUF_F32);
    be->op.sample(be, out, logits, rows);
}
