/* SPDX-License-Identifier: Apache-2.0
 *
 * Operands of the cases, running and comparing. See op_cases.h.
 */
#include "ops/cases/op_cases.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "num/bf16.h"
#include "ops/cases/op_rig.h"

static const op_fns *fns_of(op_id op) {
    static const op_fns *const all[OP_COUNT] = {
#define OP_FNS(name, error, tolerance) &op_fns_##name,
        OP_LIST(OP_FNS)
#undef OP_FNS
    };
    assert(op >= 0 && op < OP_COUNT);
    return all[op];
}

int op_case_variants(op_id op) {
    return fns_of(op)->n_variants;
}

const char *op_case_variant_name(op_id op, int variant) {
    return fns_of(op)->names[variant];
}

bool op_case_fits(const backend *be, const op_setting *s) {
    const op_fns *f = fns_of(s->op);
    bool capped = s->op == OP_attention && s->variant == RIG_CAPPED;
    if (!be->query_log && s->op == OP_qk_norm_rope_store && s->variant == RIG_QUERY_LOG)
        return false;
    if ((!be->caps && (s->op == OP_softcap || capped)) || (capped && s->shape->dim > 100))
        return false; /* wide shapes say nothing more of a cap */
    if (s->op == OP_attention && s->variant == RIG_KEY_MEAN && !be->key_means)
        return false;
    if (s->variant == RIG_BRANCHES && !be->branches) /* a product's: others have fewer variants */
        return false;
    size_t bytes, inputs = (size_t)(s->op == OP_matmul_add ? s->shape->ffn_dim : s->shape->dim);
    return !f->format || dtype_bytes(f->format(s->variant), inputs, &bytes);
}

/* ---- random numbers ---- */

static uint64_t next_word(op_case *c) {
    uint64_t x = c->random;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return c->random = x;
}

static uint32_t next_random(op_case *c) {
    return (uint32_t)(next_word(c) >> 32);
}

/* About normal: the sum of four uniform numbers, a quarter of a word each. */
static float next_normal(op_case *c) {
    const uint64_t x = next_word(c);
    const uint32_t sum = (x & 0xffff) + (x >> 16 & 0xffff) + (x >> 32 & 0xffff) + (x >> 48);
    return ((float)sum * 0x1p-16f - 2) * 1.7320508f;
}

void *op_rig_memory(op_case *c, size_t n, size_t size) {
    assert(c->n_owned < RIG_MAX_OWNED);
    void *memory = mem_array(n ? n : 1, size);
    if (memory)
        c->owned[c->n_owned++] = memory;
    else
        nib_fail(c->err, NIB_NO_MEMORY, "no memory for a case of %zu numbers", n);
    return memory;
}

float *op_rig_random(op_case *c, size_t n, op_pattern pattern, float largest) {
    float *x = op_rig_memory(c, n, sizeof *x);
    for (size_t i = 0; x && i < n; i++) {
        float v = next_normal(c);
        x[i] = pattern == OP_PATTERN_ZEROS      ? 0
               : pattern == OP_PATTERN_OUTLIERS ? (i % 16 == 5 ? 100 * v : 0.01f * v)
               : pattern == OP_PATTERN_MAX      ? (i % 3 ? largest : -largest)
                                                : v;
    }
    return x;
}

nib_status op_rig_buf(op_case *c, buf **out, buf_kind kind, size_t cols) {
    return c->be->buf_new(c->be, out, kind, SPLIT_NONE, c->s.rows, cols, c->err);
}

nib_status op_rig_vec(op_case *c, int i, size_t n, float spread) {
    float *v = c->v_values[i] = op_rig_random(c, n, OP_PATTERN_NORMAL, 0);
    if (!v)
        return NIB_NO_MEMORY;
    for (size_t j = 0; j < n; j++)
        v[j] = 1 + spread * v[j];
    return c->be->vec_new(c->be, &c->v[i], VEC_F32, n, v, c->err);
}

/* ---- weights ---- */

/* Any bytes are a tensor of these formats, once scales are finite and of one size. */
static void fill_weight(op_case *c, tensor *t, uint8_t *data, uint8_t *scales) {
    size_t n = t->rows * t->cols;
    for (size_t i = 0, piece; i < t->bytes && t->dtype != DT_F32 && t->dtype != DT_BF16; i += piece) {
        const uint64_t word = next_word(c);
        piece = t->bytes - i < sizeof word ? t->bytes - i : sizeof word;
        memcpy(data + i, &word, piece);
    }
    for (size_t i = 0; t->dtype == DT_F32 && i < n; i++)
        ((float *)data)[i] = next_normal(c);
    for (size_t i = 0; t->dtype == DT_BF16 && i < n; i++)
        ((uint16_t *)data)[i] = bf16_from_f32(next_normal(c));
    for (size_t i = 0; t->dtype == DT_Q8_0 && i < t->bytes; i += 34) {
        uint16_t half = f16_from_f32(0.005f + 0.001f * (float)(next_random(c) % 8));
        memcpy(data + i, &half, 2);
    }
    for (size_t i = 0; scales && i < n / 16; i++)
        scales[i] = (uint8_t)(0x28 + next_random(c) % 16);
}

static nib_status make_tensor(op_case *c, tensor *t, dtype type, size_t rows, size_t cols) {
    size_t row_bytes;
    bool whole = dtype_bytes(type, cols, &row_bytes);
    assert(whole);
    (void)whole;
    *t = (tensor){.name = "w",
                  .dtype = type,
                  .rows = rows,
                  .cols = cols,
                  .n_dims = 2,
                  .dims = {rows, cols},
                  .bytes = rows * row_bytes,
                  .tensor_scale = 1};
    uint8_t *data = op_rig_memory(c, t->bytes, 1);
    uint8_t *scales = type == DT_NVFP4 ? op_rig_memory(c, rows * cols / 16, 1) : NULL;
    if (!data || (type == DT_NVFP4 && !scales))
        return NIB_NO_MEMORY;
    fill_weight(c, t, data, scales);
    t->data = data;
    t->block_scales = scales;
    return NIB_OK;
}

/* Beside T; no step of a product's kernels divides the rank. */
static nib_status make_branch(op_case *c, tensor *t, size_t rank) {
    uint16_t *down = op_rig_memory(c, rank * t->cols, sizeof *down),
             *up = op_rig_memory(c, t->rows * rank, sizeof *up);
    if (!down || !up)
        return NIB_NO_MEMORY;
    for (size_t i = 0; i < rank * t->cols; i++)
        down[i] = bf16_from_f32(next_normal(c));
    for (size_t i = 0; i < t->rows * rank; i++)
        up[i] = bf16_from_f32(next_normal(c));
    t->branch = (tensor_branch){rank, down, up, 0.07f};
    return NIB_OK;
}

nib_status op_rig_weight(op_case *c, dtype type, const size_t *rows, size_t n_parts, size_t cols) {
    tensor parts[WEIGHT_MAX_PARTS];
    const tensor *list[WEIGHT_MAX_PARTS];
    size_t all = 0;
    for (size_t i = 0; i < n_parts; i++) {
        NIB_TRY(make_tensor(c, &parts[i], type, rows[i], cols));
        if (type == DT_NVFP4)
            parts[i].tensor_scale = i && c->s.variant != RIG_BRANCHES ? 0.11f : 0.37f;
        if (c->s.variant == RIG_BRANCHES && (i == 0 || i + 1 == n_parts))
            NIB_TRY(make_branch(c, &parts[i], i ? 5 : 33));
        list[i] = &parts[i];
        all += rows[i];
    }
    c->values = op_rig_memory(c, all * cols, sizeof *c->values);
    if (!c->values)
        return NIB_NO_MEMORY;
    float *row = c->values;
    for (size_t i = 0; i < n_parts; i++)
        for (size_t r = 0; r < rows[i]; r++, row += cols)
            tensor_decode_row(&parts[i], r, row);
    return c->be->weight_pack(c->be, &c->w, list, n_parts, SPLIT_NONE, c->err);
}

/* ---- sequences ---- */

static int32_t pages_of(int32_t positions) {
    return (positions + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
}

/* RIG_SEQS sequences share the rows; their pages are scattered over the cache. */
static nib_status cut_batch(op_case *c) {
    int32_t rows = (int32_t)c->s.rows, n_seqs = rows < RIG_SEQS ? 1 : RIG_SEQS, row = 0;
    int32_t n_pages = pages_of(c->s.depth + rows);
    c->tokens = op_rig_memory(c, c->s.rows, sizeof *c->tokens);
    c->out_rows = op_rig_memory(c, c->s.rows, sizeof *c->out_rows);
    c->pages = op_rig_memory(c, (size_t)(RIG_SEQS * n_pages), sizeof *c->pages);
    if (!c->tokens || !c->out_rows || !c->pages)
        return NIB_NO_MEMORY;
    for (int32_t i = 0; i < RIG_SEQS * n_pages; i++)
        c->pages[i] = i % n_pages * RIG_SEQS + (i / n_pages + i % n_pages) % RIG_SEQS;
    c->b = (batch){.tokens = c->tokens, .n_rows = rows, .seqs = c->seqs, .out_rows = c->out_rows};
    for (int32_t i = 0; i < n_seqs; i++) {
        int32_t n = i + 1 < n_seqs ? rows / n_seqs : rows - row;
        c->seqs[i] = (batch_seq){.pages = CACHE_EVERY_GROUP(c->pages + i * n_pages),
                                 .n_pages = n_pages,
                                 .row = row,
                                 .n_rows = n,
                                 .pos = c->s.depth};
        row += n;
    }
    c->b.n_seqs = n_seqs;
    for (int32_t r = 0; r < rows; r++) {
        c->tokens[r] = (int32_t)(next_random(c) % RIG_VOCAB);
        if (r % 3 == 1 || r + 1 == rows)
            c->out_rows[c->b.n_out++] = r;
    }
    return NIB_OK;
}

/* What every sequence has stored before the case's own rows. */
static nib_status store_depth(op_case *c, size_t width) {
    buf *qkv, *q;
    size_t chunk = c->s.rows;
    NIB_TRY(op_rig_buf(c, &qkv, BUF_F32, width));
    nib_status status = op_rig_buf(c, &q, BUF_F32, c->h * c->d);
    for (int32_t i = 0; i < c->b.n_seqs && status == NIB_OK; i++)
        for (size_t pos = 0; pos < (size_t)c->s.depth && status == NIB_OK; pos += chunk) {
            size_t n = (size_t)c->s.depth - pos < chunk ? (size_t)c->s.depth - pos : chunk;
            batch_seq one = c->seqs[i];
            one.row = 0;
            one.n_rows = (int32_t)n;
            one.pos = (int32_t)pos;
            batch b = {.tokens = c->tokens, .n_rows = (int32_t)n, .seqs = &one, .n_seqs = 1};
            const float *rows = c->kv_rows + ((size_t)i * (size_t)c->s.depth + pos) * width;
            c->be->buf_write(c->be, qkv, rows, n, NULL);
            step_begin(c->be, &b, 0);
            op_qk_norm_rope_store(c->be, q, qkv, &c->attn, c->cache);
            status = step_finish(c->be, c->err);
        }
    if (status == NIB_OK)
        c->be->buf_free(c->be, q);
    c->be->buf_free(c->be, qkv);
    return status;
}

nib_status op_rig_attention(op_case *c, nib_kv_dtype type, bool windowed) {
    const op_shape *s = c->s.shape;
    size_t width = (c->h + 2 * c->g) * c->d, pairs = c->d / 2;
    int window = windowed ? s->window : 0;
    cache_shape shape = {.group = {.kind = window ? CACHE_WINDOW : CACHE_FULL,
                                   .window = window,
                                   .n_pages = RIG_SEQS * pages_of(c->s.depth + (int32_t)c->s.rows)},
                         .n_layers = 2,
                         .n_kv_heads = s->n_kv_heads,
                         .head_dim = s->head_dim,
                         .dtype = type};
    NIB_TRY(c->be->cache_new(c->be, &c->cache, &shape, 1, c->err));
    NIB_TRY(op_rig_vec(c, 0, c->d, 0.3f));
    NIB_TRY(op_rig_vec(c, 1, c->d, 0.3f));
    NIB_TRY(op_rig_vec(c, 2, pairs, 0));
    for (size_t i = 0; i < pairs; i++)
        c->v_values[2][i] = (float)pow(10000, -2.0 * (double)i / (double)c->d);
    c->be->vec_free(c->be, c->v[2]);
    c->v[2] = NULL;
    NIB_TRY(c->be->vec_new(c->be, &c->v[2], VEC_F32, pairs, c->v_values[2], c->err));
    c->attn = (attn_params){.layer = 1,
                            .n_heads = s->n_heads,
                            .n_kv_heads = s->n_kv_heads,
                            .head_dim = s->head_dim,
                            .q_norm = s->qk_norm ? c->v[0] : NULL,
                            .k_norm = s->qk_norm ? c->v[1] : NULL,
                            .norm_eps = 1e-6f,
                            .inv_freq = c->v[2],
                            .rope_scale = 1,
                            .interleaved = s->interleaved,
                            .scale = 1 / sqrtf((float)c->d),
                            .window = window};
    if (c->s.op == OP_attention && c->s.variant == RIG_KEY_MEAN) {
        NIB_TRY(op_rig_vec(c, 3, c->g * c->d, 0.3f));
        c->attn.k_mean = c->v[3];
    }
    size_t before = (size_t)c->b.n_seqs * (size_t)c->s.depth;
    c->kv_rows = op_rig_random(c, (before + c->s.rows) * width, c->s.pattern, 4);
    if (!c->kv_rows)
        return NIB_NO_MEMORY;
    c->x = c->kv_rows + before * width;
    NIB_TRY(op_rig_buf(c, &c->in, BUF_F32, width));
    return store_depth(c, width);
}

/* ---- a case ---- */

nib_status op_case_open(op_case **out, backend *be, const op_setting *s, nib_error *err) {
    *out = NULL;
    assert(op_case_fits(be, s) && s->rows > 0);
    op_case *c = mem_array(1, sizeof *c);
    if (!c)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a case");
    *c = (op_case){.be = be,
                   .s = *s,
                   .err = err,
                   .dim = (size_t)s->shape->dim,
                   .ffn = (size_t)s->shape->ffn_dim,
                   .h = (size_t)s->shape->n_heads,
                   .g = (size_t)s->shape->n_kv_heads,
                   .d = (size_t)s->shape->head_dim,
                   .random = 88172645463325252u + (uint64_t)s->op * 977 + (uint64_t)s->variant};
    nib_status status = cut_batch(c);
    if (status == NIB_OK)
        status = fns_of(s->op)->open(c);
    if (status != NIB_OK) {
        op_case_close(c);
        return status;
    }
    *out = c;
    return NIB_OK;
}

void op_case_close(op_case *c) {
    if (!c)
        return;
    buf *const bufs[] = {c->in, c->out, c->q};
    for (size_t i = 0; i < sizeof bufs / sizeof *bufs; i++)
        if (bufs[i])
            c->be->buf_free(c->be, bufs[i]);
    for (size_t i = 0; i < sizeof c->v / sizeof *c->v; i++)
        if (c->v[i])
            c->be->vec_free(c->be, c->v[i]);
    if (c->w)
        c->be->weight_free(c->be, c->w);
    if (c->cache)
        c->be->cache_free(c->be, c->cache);
    for (int i = 0; i < c->n_owned; i++)
        mem_free(c->owned[i]);
    mem_free(c);
}

const batch *op_case_batch(const op_case *c) {
    return &c->b;
}

void op_case_queue(op_case *c) {
    fns_of(c->s.op)->queue(c);
}

/* ---- comparing ---- */

static double row_error(op_error kind, const double *got, const double *want, size_t n) {
    double worst = 0, diff2 = 0, want2 = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs(got[i] - want[i]);
        if (isnan(d))
            return INFINITY;
        diff2 += d * d;
        want2 += want[i] * want[i];
        if (d > 1e-37 && d > worst * fabs(want[i]))
            worst = want[i] == 0 ? INFINITY : d / fabs(want[i]);
    }
    if (kind == OP_ERROR_ELEMENT)
        return worst;
    return diff2 == 0 ? 0 : want2 == 0 ? INFINITY : sqrt(diff2 / want2);
}

/* The result [n], n = rows times columns. */
static nib_status read_result(op_case *c, double *got, size_t n, nib_error *err) {
    if (fns_of(c->s.op)->read) {
        fns_of(c->s.op)->read(c, got);
        return NIB_OK;
    }
    float *values = mem_array(n, sizeof *values);
    if (!values)
        return nib_fail(err, NIB_NO_MEMORY, "no memory to compare a case");
    c->be->buf_read(c->be, c->out, values);
    for (size_t i = 0; i < n; i++)
        got[i] = values[i];
    mem_free(values);
    return NIB_OK;
}

static nib_status run(op_case *c, nib_error *err) {
    c->be->buf_write(c->be, c->in, c->x, c->s.rows, c->w);
    if (c->y)
        c->be->buf_write(c->be, c->out, c->y, c->s.rows, NULL);
    step_begin(c->be, &c->b, 0);
    op_case_queue(c);
    return step_finish(c->be, err);
}

nib_status op_case_check(op_case *c, double *error, nib_error *err) {
    const op_fns *f = fns_of(c->s.op);
    size_t cols = f->cols ? f->cols(c) : c->out->cols, rows = op_rig_result_rows(c);
    double *got = mem_array(rows * cols, sizeof *got), *want = mem_array(cols, sizeof *want);
    nib_status status = got && want ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "no memory to compare a case");
    *error = 0;
    if (status == NIB_OK)
        status = run(c, err);
    if (status == NIB_OK)
        status = read_result(c, got, rows * cols, err);
    for (size_t r = 0; r < rows && status == NIB_OK; r++) {
        f->want(c, r, want);
        double e = row_error(op_infos[c->s.op].error, got + r * cols, want, cols);
        if (f->condition && isfinite(e) && e > op_case_tolerance(c))
            e /= fmax(1, f->condition(c, r, want) / 2);
        *error = e > *error ? e : *error;
    }
    mem_free(got);
    mem_free(want);
    return status;
}

size_t op_case_bytes(const op_case *c) {
    size_t rows = c->s.rows, bytes = rows * c->in->cols * sizeof(float);
    if (c->out)
        bytes += op_rig_result_rows(c) * c->out->cols * sizeof(float);
    if (c->w)
        bytes += c->s.op == OP_embed ? c->w->bytes / c->w->rows * rows : c->w->bytes;
    if (c->s.op == OP_attention) {
        size_t seen = (size_t)c->s.depth + rows / (size_t)c->b.n_seqs;
        if (c->attn.window && seen > (size_t)c->attn.window)
            seen = (size_t)c->attn.window;
        size_t page = c->be->cache_page_bytes(c->be, &c->cache->shapes[0]) / 2; /* of one layer of two */
        bytes += (size_t)c->b.n_seqs * seen * page / KV_PAGE_TOKENS;
    }
    return bytes;
}
