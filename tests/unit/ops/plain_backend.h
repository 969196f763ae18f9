/* SPDX-License-Identifier: Apache-2.0
 *
 * A backend written to be checked by eye: every op in a double loop, sums in FP64, activations and KV in
 * FP32, weights expanded. It shares no line with src/cpu, so that a mistake in one is not a mistake in both.
 *
 * Ops compute at once. Included by test programs; everything is static.
 */
#ifndef PLAIN_BACKEND_H
#define PLAIN_BACKEND_H

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ops/cases/sample_oracle.h"
#include "ops/ops.h"

typedef struct plain_buf {
    buf head;
    float v[]; /* [max_rows, cols] */
} plain_buf;

typedef struct plain_vec {
    vec head;
    double v[]; /* [n], or floats */
} plain_vec;

typedef struct plain_weight {
    weight head;
    float v[]; /* [rows, cols] */
} plain_weight;

typedef struct plain_cache {
    cache head;
    float *k[CACHE_MAX_GROUPS], *v[CACHE_MAX_GROUPS]; /* [n_pages * KV_PAGE_TOKENS, n_layers, G * D] */
} plain_cache;

static float *plain_row(const buf *b, size_t row) {
    return ((plain_buf *)b)->v + row * b->cols;
}

static const float *plain_numbers(const vec *v) {
    return (const float *)((const plain_vec *)v)->v;
}

static const float *plain_weight_row(const weight *w, size_t row) {
    return ((const plain_weight *)w)->v + row * w->cols;
}

/* ---- resources ---- */

static nib_status plain_buf_new(backend *be, buf **out, buf_kind kind, split_kind split, size_t max_rows,
                                size_t cols, nib_error *err) {
    (void)be, (void)split, (void)err;
    *out = malloc(sizeof(plain_buf) + max_rows * cols * sizeof(float));
    **out = (buf){.kind = kind, .cols = cols, .max_rows = max_rows};
    return NIB_OK;
}

static void plain_buf_free(backend *be, buf *b) {
    (void)be;
    free(b);
}

static void plain_buf_write(backend *be, buf *b, const float *values, size_t rows, const weight *reader) {
    (void)be, (void)reader;
    assert(rows <= b->max_rows);
    b->rows = rows;
    memcpy(plain_row(b, 0), values, rows * b->cols * sizeof *values);
}

static const float *plain_buf_view(backend *be, const buf *b) {
    (void)be;
    return plain_row(b, 0);
}

static void plain_buf_read(backend *be, const buf *b, float *dst) {
    memcpy(dst, plain_buf_view(be, b), b->rows * b->cols * sizeof *dst);
}

static size_t plain_vec_bytes(const vec *v) {
    return v->n * (v->kind == VEC_F32 ? sizeof(float) : sizeof(double));
}

static nib_status plain_vec_new(backend *be, vec **out, vec_kind kind, size_t n, const void *values,
                                nib_error *err) {
    (void)be, (void)err;
    plain_vec *v = calloc(1, sizeof *v + n * sizeof *v->v);
    v->head = (vec){.kind = kind, .n = n};
    if (values)
        memcpy(v->v, values, plain_vec_bytes(&v->head));
    *out = &v->head;
    return NIB_OK;
}

static void plain_vec_read(backend *be, const vec *v, void *dst) {
    (void)be;
    memcpy(dst, ((const plain_vec *)v)->v, plain_vec_bytes(v));
}

static void plain_vec_free(backend *be, vec *v) {
    (void)be;
    free(v);
}

static nib_status plain_weight_pack(backend *be, weight **out, const tensor *const *parts, size_t n_parts,
                                    split_kind split, nib_error *err) {
    (void)be, (void)err;
    weight head = {.cols = parts[0]->cols, .n_parts = n_parts, .split = split};
    for (size_t i = 0; i < n_parts; i++)
        head.rows += head.part_rows[i] = parts[i]->rows;
    head.bytes = head.rows * head.cols * sizeof(float);
    plain_weight *w = malloc(sizeof *w + head.bytes);
    float *row = w->v;
    for (size_t i = 0; i < n_parts; i++)
        for (size_t r = 0; r < parts[i]->rows; r++, row += head.cols)
            tensor_decode_row(parts[i], r, row);
    w->head = head;
    *out = &w->head;
    return NIB_OK;
}

static void plain_weight_free(backend *be, weight *w) {
    (void)be;
    free(w);
}

static void plain_weight_unpack_row(backend *be, const weight *w, size_t row, float *dst) {
    (void)be;
    memcpy(dst, plain_weight_row(w, row), w->cols * sizeof *dst);
}

static size_t plain_cache_page_bytes(backend *be, const cache_shape *s) {
    (void)be;
    return (size_t)(KV_PAGE_TOKENS * s->n_layers * s->n_kv_heads * s->head_dim) * 2 * sizeof(float);
}

static nib_status plain_cache_new(backend *be, cache **out, const cache_shape *shapes, int n_groups,
                                  nib_error *err) {
    (void)err;
    plain_cache *c = calloc(1, sizeof *c);
    c->head.n_groups = n_groups;
    for (int i = 0; i < n_groups; i++) {
        size_t bytes = plain_cache_page_bytes(be, &shapes[i]) * (size_t)shapes[i].group.n_pages;
        c->head.shapes[i] = shapes[i];
        c->head.bytes += bytes;
        c->k[i] = malloc(bytes);
        c->v[i] = c->k[i] + bytes / 2 / sizeof(float);
        memset(c->k[i], 0xff, bytes); /* NaN: what was never stored must not be read */
    }
    *out = &c->head;
    return NIB_OK;
}

static void plain_cache_free(backend *be, cache *c) {
    (void)be;
    for (int i = 0; i < c->n_groups; i++)
        free(((plain_cache *)c)->k[i]);
    free(c);
}

static void plain_cache_copy(backend *be, cache *head, int group, int32_t to, int32_t from) {
    plain_cache *c = (plain_cache *)head;
    size_t n = plain_cache_page_bytes(be, &head->shapes[group]) / 2 / sizeof(float);
    memcpy(c->k[group] + (size_t)to * n, c->k[group] + (size_t)from * n, n * sizeof(float));
    memcpy(c->v[group] + (size_t)to * n, c->v[group] + (size_t)from * n, n * sizeof(float));
}

static void plain_close(backend *be) {
    (void)be;
}

/* ---- ops ---- */

static void plain_embed(backend *be, buf *x, const weight *table, float scale) {
    for (size_t r = 0; r < x->rows; r++)
        for (size_t c = 0; c < x->cols; c++)
            plain_row(x, r)[c] = plain_weight_row(table, (size_t)be->batch->tokens[r])[c] * scale;
}

/* OUT = X normed, OUT may be X; or OUT += it. */
static void plain_norm(float *out, const float *x, const vec *w, float eps, bool add) {
    double sum = 0;
    for (size_t c = 0; c < w->n; c++)
        sum += (double)x[c] * x[c];
    double factor = 1 / sqrt(sum / (double)w->n + eps);
    for (size_t c = 0; c < w->n; c++)
        out[c] = (float)(x[c] * factor * plain_numbers(w)[c]) + (add ? out[c] : 0);
}

static void plain_rmsnorm(backend *be, buf *out, const buf *x, const vec *w, float eps,
                          const weight *reader) {
    (void)be, (void)reader;
    for (size_t r = 0; r < x->rows; r++)
        if (w)
            plain_norm(plain_row(out, r), plain_row(x, r), w, eps, false);
        else
            memcpy(plain_row(out, r), plain_row(x, r), x->cols * sizeof(float));
}

static void plain_rmsnorm_out(backend *be, buf *out, const buf *x, const vec *w, float eps,
                              const weight *reader) {
    (void)reader;
    for (size_t r = 0; r < out->rows; r++)
        plain_norm(plain_row(out, r), plain_row(x, (size_t)be->batch->out_rows[r]), w, eps, false);
}

static void plain_rmsnorm_add(backend *be, buf *x, const buf *y, const vec *w, float eps) {
    (void)be;
    for (size_t r = 0; r < x->rows; r++)
        plain_norm(plain_row(x, r), plain_row(y, r), w, eps, true);
}

static double plain_dot(const float *a, const float *b, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)a[i] * b[i];
    return sum;
}

static void plain_multiply(buf *out, const buf *a, const weight *w, const vec *bias, bool add) {
    for (size_t r = 0; r < a->rows; r++)
        for (size_t c = 0; c < w->rows; c++) {
            float *to = plain_row(out, r) + c;
            double sum = plain_dot(plain_row(a, r), plain_weight_row(w, c), w->cols);
            *to = (float)(sum + (bias ? (double)plain_numbers(bias)[c] : 0)) + (add ? *to : 0);
        }
}

static void plain_matmul(backend *be, buf *out, const buf *a, const weight *w, const vec *bias) {
    (void)be;
    plain_multiply(out, a, w, bias, false);
}

static void plain_matmul_add(backend *be, buf *x, const buf *a, const weight *w, const vec *bias) {
    (void)be;
    plain_multiply(x, a, w, bias, true);
}

static void plain_matmul_glu(backend *be, buf *out, const buf *a, const weight *w, glu_kind kind,
                             const weight *reader) {
    (void)be, (void)reader;
    for (size_t r = 0; r < out->rows; r++)
        for (size_t c = 0; c < out->cols; c++) {
            double g = plain_dot(plain_row(a, r), plain_weight_row(w, c), w->cols);
            double up = plain_dot(plain_row(a, r), plain_weight_row(w, out->cols + c), w->cols);
            double tanh_part = tanh(0.79788456080286535588 * (g + 0.044715 * g * g * g));
            double activated = kind == GLU_SILU ? g / (1 + exp(-g)) : 0.5 * g * (1 + tanh_part);
            plain_row(out, r)[c] = (float)(activated * up);
        }
}

static void plain_rotate(float *head, const attn_params *p, int pos) {
    int n = p->inv_freq ? (int)p->inv_freq->n : 0;
    for (int i = 0; i < n; i++) {
        int i0 = p->interleaved ? 2 * i : i, i1 = p->interleaved ? 2 * i + 1 : i + n;
        double angle = (float)pos * plain_numbers(p->inv_freq)[i];
        double c = p->rope_scale * cos(angle), s = p->rope_scale * sin(angle);
        double a = head[i0], b = head[i1];
        head[i0] = (float)(a * c - b * s);
        head[i1] = (float)(b * c + a * s);
    }
}

/* Where position POS of a sequence keeps its K and V of P's layer: an offset into the group's k and v. */
static size_t plain_place(const cache *kv, const batch_seq *q, const attn_params *p, int pos) {
    const cache_shape *s = &kv->shapes[p->group];
    int page = q->pages[p->group][pos / KV_PAGE_TOKENS];
    assert(page >= 0 && page < s->group.n_pages);
    size_t at = (size_t)page * KV_PAGE_TOKENS + (size_t)(pos % KV_PAGE_TOKENS);
    return (at * (size_t)s->n_layers + (size_t)p->layer) * (size_t)(p->n_kv_heads * p->head_dim);
}

static void plain_qk_norm_rope_store(backend *be, buf *q, const buf *qkv, const attn_params *p, cache *kv) {
    size_t d = (size_t)p->head_dim, n_q = (size_t)p->n_heads * d, n_kv = (size_t)p->n_kv_heads * d;
    plain_cache *c = (plain_cache *)kv;
    for (int i = 0; i < be->batch->n_seqs; i++) {
        const batch_seq *s = &be->batch->seqs[i];
        for (int j = 0; j < s->n_rows; j++) {
            const float *row = plain_row(qkv, (size_t)(s->row + j));
            size_t at = plain_place(kv, s, p, s->pos + j);
            float *q_row = plain_row(q, (size_t)(s->row + j)), *k_row = c->k[p->group] + at;
            memcpy(q_row, row, n_q * sizeof *row);
            memcpy(k_row, row + n_q, n_kv * sizeof *row);
            memcpy(c->v[p->group] + at, row + n_q + n_kv, n_kv * sizeof *row);
            bool whole = p->q_norm && p->q_norm->n != d;
            if (whole) {
                plain_norm(q_row, q_row, p->q_norm, p->norm_eps, false);
                plain_norm(k_row, k_row, p->k_norm, p->norm_eps, false);
            }
            for (int h = 0; h < p->n_heads + p->n_kv_heads; h++) {
                bool is_q = h < p->n_heads;
                float *head = is_q ? q_row + (size_t)h * d : k_row + (size_t)(h - p->n_heads) * d;
                const vec *norm = is_q ? p->q_norm : p->k_norm;
                if (norm && !whole)
                    plain_norm(head, head, norm, p->norm_eps, false);
                plain_rotate(head, p, s->pos + j);
                double grown = 1 + p->query_log * log(1 + floor((double)(s->pos + j) / p->query_log_len));
                for (size_t k = 0; is_q && p->query_log != 0 && k < d; k++)
                    head[k] = (float)(head[k] * grown);
            }
        }
    }
}

/* OUT and Q [D] of one head, of the row at POS. */
static void plain_attend(float *out, const float *q, const batch_seq *s, int pos, int kv_head,
                         const attn_params *p, const plain_cache *c) {
    size_t d = (size_t)p->head_dim, head = (size_t)kv_head * d;
    int first = p->window > 0 && pos - p->window + 1 > 0 ? pos - p->window + 1 : 0;
    double sum = 0, max = -INFINITY;
    double *acc = calloc(d, sizeof *acc), *score = malloc((size_t)(pos + 1) * sizeof *score);
    for (int k = first; k <= pos; k++) {
        size_t at = plain_place(&c->head, s, p, k) + head;
        score[k] = (double)p->scale * plain_dot(q, c->k[p->group] + at, d);
        if (p->cap != 0)
            score[k] = (double)p->cap * tanh(score[k] / (double)p->cap);
        max = score[k] > max ? score[k] : max;
    }
    for (int k = first; k <= pos; k++) {
        double e = exp(score[k] - max);
        const float *v = c->v[p->group] + plain_place(&c->head, s, p, k) + head;
        sum += e;
        for (size_t i = 0; i < d; i++)
            acc[i] += e * v[i];
    }
    for (size_t i = 0; i < d; i++)
        out[i] = (float)(acc[i] / sum);
    free(acc);
    free(score);
}

static void plain_attention(backend *be, buf *out, const buf *q, const attn_params *p, cache *kv,
                            const weight *reader) {
    (void)reader;
    for (int i = 0; i < be->batch->n_seqs; i++) {
        const batch_seq *s = &be->batch->seqs[i];
        for (int j = 0; j < s->n_rows; j++)
            for (int h = 0; h < p->n_heads; h++) {
                size_t row = (size_t)(s->row + j), col = (size_t)(h * p->head_dim);
                plain_attend(plain_row(out, row) + col, plain_row(q, row) + col, s, s->pos + j,
                             h / (p->n_heads / p->n_kv_heads), p, (const plain_cache *)kv);
            }
    }
}

static void plain_softcap(backend *be, buf *x, float cap) {
    (void)be;
    for (size_t r = 0; r < x->rows; r++)
        for (size_t c = 0; c < x->cols; c++)
            plain_row(x, r)[c] = (float)((double)cap * tanh((double)plain_row(x, r)[c] / (double)cap));
}

static void plain_sum_squares(backend *be, vec *sums, const buf *a) {
    (void)be;
    for (size_t r = 0; r < a->rows; r++)
        for (size_t c = 0; c < a->cols; c++)
            ((plain_vec *)sums)->v[c] += (double)plain_row(a, r)[c] * plain_row(a, r)[c];
}

static void plain_sample(backend *be, sampled *out, const buf *logits, const sample_row *rows) {
    (void)be;
    for (size_t r = 0; r < logits->rows; r++)
        sample_oracle(&out[r], plain_row(logits, r), logits->cols, &rows[r]);
}

static backend plain_backend = {
    .name = "plain",
    .path = "plain loops, FP64 sums",
    .row_bits_fixed = true,
    .caps = true,
    .query_log = true,
    .mode = COMPUTE_EXACT,
    .n_ranks = 1,
    .buf_new = plain_buf_new,
    .buf_free = plain_buf_free,
    .buf_write = plain_buf_write,
    .buf_read = plain_buf_read,
    .buf_view = plain_buf_view,
    .vec_new = plain_vec_new,
    .vec_read = plain_vec_read,
    .vec_free = plain_vec_free,
    .weight_pack = plain_weight_pack,
    .weight_free = plain_weight_free,
    .weight_unpack_row = plain_weight_unpack_row,
    .cache_page_bytes = plain_cache_page_bytes,
    .cache_new = plain_cache_new,
    .cache_free = plain_cache_free,
    .cache_copy = plain_cache_copy,
    .close = plain_close,
    .op = {.embed = plain_embed,
           .rmsnorm = plain_rmsnorm,
           .rmsnorm_out = plain_rmsnorm_out,
           .rmsnorm_add = plain_rmsnorm_add,
           .matmul = plain_matmul,
           .matmul_add = plain_matmul_add,
           .matmul_glu = plain_matmul_glu,
           .qk_norm_rope_store = plain_qk_norm_rope_store,
           .attention = plain_attention,
           .softcap = plain_softcap,
           .sum_squares = plain_sum_squares,
           .sample = plain_sample},
};

#endif
