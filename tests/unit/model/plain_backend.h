/* SPDX-License-Identifier: Apache-2.0
 *
 * A backend written to be checked by eye: every op in a double loop, sums in FP64, activations and KV in
 * FP32, weights expanded. It shares no line with src/cpu, so that a mistake in one is not a mistake in both.
 *
 * Ops compute at once. Included by one test program; everything is static.
 */
#ifndef PLAIN_BACKEND_H
#define PLAIN_BACKEND_H

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ops/ops.h"

struct buf {
    float *v; /* [max_rows, cols] */
    size_t rows, cols, max_rows;
};

struct weight {
    float *v; /* [rows, cols] */
    size_t rows, cols;
};

struct kv_cache {
    float *k, *v; /* [n_pages * KV_PAGE_TOKENS, n_layers, G * D] */
    kv_shape shape;
};

static const batch *plain_batch; /* of the step */

/* ---- resources ---- */

static nib_status plain_buf_new(backend *be, buf **out, buf_kind kind, size_t max_rows, size_t cols,
                                nib_error *err) {
    (void)be, (void)kind, (void)err;
    *out = calloc(1, sizeof **out);
    **out = (buf){.v = malloc(max_rows * cols * sizeof(float)), .max_rows = max_rows, .cols = cols};
    return NIB_OK;
}

static void plain_buf_free(backend *be, buf *b) {
    (void)be;
    free(b->v);
    free(b);
}

static const float *plain_buf_read(backend *be, const buf *b) {
    (void)be;
    return b->v;
}

static nib_status plain_weight_pack(backend *be, weight **out, const tensor *const *parts, size_t n_parts,
                                    nib_error *err) {
    (void)be, (void)err;
    weight *w = calloc(1, sizeof *w);
    w->cols = parts[0]->cols;
    for (size_t i = 0; i < n_parts; i++)
        w->rows += parts[i]->rows;
    w->v = malloc(w->rows * w->cols * sizeof *w->v);
    float *row = w->v;
    for (size_t i = 0; i < n_parts; i++)
        for (size_t r = 0; r < parts[i]->rows; r++, row += w->cols)
            tensor_decode_row(parts[i], r, row);
    *out = w;
    return NIB_OK;
}

static void plain_weight_free(backend *be, weight *w) {
    (void)be;
    free(w->v);
    free(w);
}

static size_t plain_weight_bytes(const weight *w) {
    return w->rows * w->cols * sizeof *w->v;
}

static void plain_weight_unpack_row(backend *be, const weight *w, size_t row, float *dst) {
    (void)be;
    memcpy(dst, w->v + row * w->cols, w->cols * sizeof *dst);
}

static nib_status plain_kv_new(backend *be, kv_cache **out, const kv_shape *shape, nib_error *err) {
    (void)be, (void)err;
    kv_cache *kv = calloc(1, sizeof *kv);
    kv->shape = *shape;
    size_t n = (size_t)shape->n_pages * KV_PAGE_TOKENS * (size_t)shape->n_layers;
    n *= (size_t)(shape->n_kv_heads * shape->head_dim);
    kv->k = malloc(n * sizeof *kv->k);
    kv->v = malloc(n * sizeof *kv->v);
    memset(kv->k, 0xff, n * sizeof *kv->k); /* NaN: what was never stored must not be read */
    memset(kv->v, 0xff, n * sizeof *kv->v);
    *out = kv;
    return NIB_OK;
}

static void plain_kv_free(backend *be, kv_cache *kv) {
    (void)be;
    free(kv->k);
    free(kv->v);
    free(kv);
}

static size_t plain_kv_bytes(const kv_cache *kv) {
    const kv_shape *s = &kv->shape;
    return (size_t)s->n_pages * KV_PAGE_TOKENS * (size_t)(s->n_layers * s->n_kv_heads * s->head_dim) * 8;
}

static void plain_step_begin(backend *be, const batch *b) {
    (void)be;
    plain_batch = b;
}

static nib_status plain_step_finish(backend *be, nib_error *err) {
    (void)be, (void)err;
    return NIB_OK;
}

static void plain_close(backend *be) {
    (void)be;
}

/* ---- ops ---- */

static void plain_embed(backend *be, buf *x, const weight *table, float scale) {
    (void)be;
    x->rows = (size_t)plain_batch->n_rows;
    assert(x->rows <= x->max_rows && x->cols == table->cols);
    for (size_t r = 0; r < x->rows; r++)
        for (size_t c = 0; c < x->cols; c++)
            x->v[r * x->cols + c] = table->v[(size_t)plain_batch->tokens[r] * x->cols + c] * scale;
}

static void plain_norm_row(float *out, const float *x, const float *w, size_t n, float eps) {
    double sum = 0;
    for (size_t c = 0; c < n; c++)
        sum += (double)x[c] * x[c];
    double factor = 1 / sqrt(sum / (double)n + eps);
    for (size_t c = 0; c < n; c++)
        out[c] = (float)(x[c] * factor * w[c]);
}

static void plain_rmsnorm(backend *be, buf *out, const buf *x, const float *w, float eps) {
    (void)be;
    assert(out->cols == x->cols && x->rows <= out->max_rows);
    out->rows = x->rows;
    for (size_t r = 0; r < x->rows; r++)
        plain_norm_row(out->v + r * x->cols, x->v + r * x->cols, w, x->cols, eps);
}

static void plain_rmsnorm_out(backend *be, buf *out, const buf *x, const float *w, float eps) {
    (void)be;
    out->rows = (size_t)plain_batch->n_out;
    assert(out->cols == x->cols && out->rows <= out->max_rows);
    for (size_t r = 0; r < out->rows; r++)
        plain_norm_row(out->v + r * x->cols, x->v + (size_t)plain_batch->out_rows[r] * x->cols, w, x->cols,
                       eps);
}

static void plain_rmsnorm_add(backend *be, buf *x, const buf *y, const float *w, float eps) {
    (void)be;
    assert(x->cols == y->cols && x->rows == y->rows);
    float *normed = malloc(x->cols * sizeof *normed);
    for (size_t r = 0; r < x->rows; r++) {
        plain_norm_row(normed, y->v + r * x->cols, w, x->cols, eps);
        for (size_t c = 0; c < x->cols; c++)
            x->v[r * x->cols + c] += normed[c];
    }
    free(normed);
}

static float plain_dot(const float *a, const float *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return (float)sum;
}

static void plain_matmul(backend *be, buf *out, const buf *a, const weight *w) {
    (void)be;
    assert(a->cols == w->cols && out->cols == w->rows && a->rows <= out->max_rows);
    out->rows = a->rows;
    for (size_t r = 0; r < a->rows; r++)
        for (size_t c = 0; c < w->rows; c++)
            out->v[r * out->cols + c] = plain_dot(a->v + r * a->cols, w->v + c * w->cols, a->cols);
}

static void plain_matmul_add(backend *be, buf *x, const buf *a, const weight *w) {
    (void)be;
    assert(a->cols == w->cols && x->cols == w->rows && x->rows == a->rows);
    for (size_t r = 0; r < a->rows; r++)
        for (size_t c = 0; c < w->rows; c++)
            x->v[r * x->cols + c] += plain_dot(a->v + r * a->cols, w->v + c * w->cols, a->cols);
}

static void plain_rotate(float *head, const attn_params *p, int pos) {
    int half = p->head_dim / 2;
    for (int i = 0; i < half; i++) {
        int i0 = p->interleaved ? 2 * i : i, i1 = p->interleaved ? 2 * i + 1 : i + half;
        double angle = (double)pos * p->inv_freq[i], c = cos(angle), s = sin(angle);
        double a = head[i0], b = head[i1];
        head[i0] = (float)(a * c - b * s);
        head[i1] = (float)(b * c + a * s);
    }
}

/* Where position POS of a sequence keeps its K and V of P's layer: an offset into kv->k and kv->v. */
static size_t plain_place(const kv_cache *kv, const batch_seq *q, const attn_params *p, int pos) {
    assert(pos / KV_PAGE_TOKENS < q->n_pages);
    int page = q->pages[pos / KV_PAGE_TOKENS];
    assert(page >= 0 && page < kv->shape.n_pages);
    size_t at = (size_t)page * KV_PAGE_TOKENS + (size_t)(pos % KV_PAGE_TOKENS);
    size_t width = (size_t)(p->n_kv_heads * p->head_dim);
    return (at * (size_t)kv->shape.n_layers + (size_t)p->layer) * width;
}

static void plain_qk_norm_rope_store(backend *be, buf *q, const buf *qkv, const attn_params *p,
                                     kv_cache *kv) {
    (void)be;
    size_t d = (size_t)p->head_dim, n_q = (size_t)p->n_heads * d, n_kv = (size_t)p->n_kv_heads * d;
    assert(q->cols == n_q && qkv->cols == n_q + 2 * n_kv);
    q->rows = qkv->rows;
    for (int i = 0; i < plain_batch->n_seqs; i++) {
        const batch_seq *s = &plain_batch->seqs[i];
        for (int j = 0; j < s->n_rows; j++) {
            const float *row = qkv->v + (size_t)(s->row + j) * qkv->cols;
            size_t at = plain_place(kv, s, p, s->pos + j);
            float *q_row = q->v + (size_t)(s->row + j) * n_q, *k_row = kv->k + at;
            memcpy(q_row, row, n_q * sizeof *row);
            memcpy(k_row, row + n_q, n_kv * sizeof *row);
            memcpy(kv->v + at, row + n_q + n_kv, n_kv * sizeof *row);
            for (int h = 0; h < p->n_heads + p->n_kv_heads; h++) {
                bool is_q = h < p->n_heads;
                float *head = is_q ? q_row + (size_t)h * d : k_row + (size_t)(h - p->n_heads) * d;
                const float *norm = is_q ? p->q_norm : p->k_norm;
                if (norm)
                    plain_norm_row(head, head, norm, d, p->norm_eps);
                plain_rotate(head, p, s->pos + j);
            }
        }
    }
}

static void plain_attend(float *out, const float *q, const batch_seq *s, int pos, int kv_head,
                         const attn_params *p, const kv_cache *kv) {
    size_t d = (size_t)p->head_dim, head = (size_t)kv_head * d;
    int first = p->window > 0 && pos - p->window + 1 > 0 ? pos - p->window + 1 : 0;
    double sum = 0, *acc = calloc(d, sizeof *acc), *score = malloc((size_t)(pos + 1) * sizeof *score);
    double max = -INFINITY;
    for (int k = first; k <= pos; k++) {
        score[k] = (double)p->scale * plain_dot(q, kv->k + plain_place(kv, s, p, k) + head, d);
        max = score[k] > max ? score[k] : max;
    }
    for (int k = first; k <= pos; k++) {
        double e = exp(score[k] - max);
        const float *v = kv->v + plain_place(kv, s, p, k) + head;
        sum += e;
        for (size_t c = 0; c < d; c++)
            acc[c] += e * v[c];
    }
    for (size_t c = 0; c < d; c++)
        out[c] = (float)(acc[c] / sum);
    free(acc);
    free(score);
}

static void plain_attention(backend *be, buf *out, const buf *q, const attn_params *p, kv_cache *kv) {
    (void)be;
    size_t d = (size_t)p->head_dim;
    out->rows = q->rows;
    for (int i = 0; i < plain_batch->n_seqs; i++) {
        const batch_seq *s = &plain_batch->seqs[i];
        for (int j = 0; j < s->n_rows; j++)
            for (int h = 0; h < p->n_heads; h++) {
                size_t at = (size_t)(s->row + j) * q->cols + (size_t)h * d;
                plain_attend(out->v + at, q->v + at, s, s->pos + j, h / (p->n_heads / p->n_kv_heads), p, kv);
            }
    }
}

static void plain_matmul_glu(backend *be, buf *out, const buf *a, const weight *w, glu_kind kind) {
    (void)be;
    size_t f = out->cols;
    assert(a->cols == w->cols && w->rows == 2 * f && a->rows <= out->max_rows);
    out->rows = a->rows;
    for (size_t r = 0; r < out->rows; r++)
        for (size_t c = 0; c < f; c++) {
            double g = plain_dot(a->v + r * a->cols, w->v + c * w->cols, a->cols);
            double up = plain_dot(a->v + r * a->cols, w->v + (f + c) * w->cols, a->cols);
            double tanh_part = tanh(0.79788456080286535588 * (g + 0.044715 * g * g * g));
            double activated = kind == GLU_SILU ? g / (1 + exp(-g)) : 0.5 * g * (1 + tanh_part);
            out->v[r * f + c] = (float)(activated * up);
        }
}

static void plain_sum_squares(backend *be, double *sums, const buf *a) {
    (void)be;
    for (size_t r = 0; r < a->rows; r++)
        for (size_t c = 0; c < a->cols; c++)
            sums[c] += (double)a->v[r * a->cols + c] * a->v[r * a->cols + c];
}

static backend plain_backend = {
    .name = "plain",
    .path = "plain loops, FP64 sums",
    .buf_new = plain_buf_new,
    .buf_free = plain_buf_free,
    .buf_read = plain_buf_read,
    .weight_pack = plain_weight_pack,
    .weight_free = plain_weight_free,
    .weight_bytes = plain_weight_bytes,
    .weight_unpack_row = plain_weight_unpack_row,
    .kv_new = plain_kv_new,
    .kv_free = plain_kv_free,
    .kv_bytes = plain_kv_bytes,
    .step_begin = plain_step_begin,
    .step_finish = plain_step_finish,
    .close = plain_close,
    .embed = plain_embed,
    .rmsnorm = plain_rmsnorm,
    .rmsnorm_out = plain_rmsnorm_out,
    .rmsnorm_add = plain_rmsnorm_add,
    .matmul = plain_matmul,
    .matmul_add = plain_matmul_add,
    .qk_norm_rope_store = plain_qk_norm_rope_store,
    .attention = plain_attention,
    .matmul_glu = plain_matmul_glu,
    .sum_squares = plain_sum_squares,
};

#endif
