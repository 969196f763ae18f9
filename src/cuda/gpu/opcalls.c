/* SPDX-License-Identifier: Apache-2.0
 *
 * The contract's ops as launches. Formats are decided here: which activations a product reads, whether FP4's
 * library or the product on stored weights computes it, which attention kernel a row takes.
 */
#include "cuda/gpu/state.h"

const char *const opcalls_names[CALL_COUNT] = {
    [CALL_EMBED] = "embed",
    [CALL_RMSNORM] = "rmsnorm",
    [CALL_RMSNORM_OUT] = "rmsnorm_out",
    [CALL_RMSNORM_ADD] = "rmsnorm_add",
    [CALL_MATMUL] = "matmul",
    [CALL_MATMUL_ADD] = "matmul_add",
    [CALL_MATMUL_GLU] = "matmul_glu",
    [CALL_QKV] = "qk_norm_rope_store",
    [CALL_ATTENTION] = "attention",
    [CALL_SUM_SQUARES] = "sum_squares",
    [CALL_SAMPLE] = "sample",
};

/* ---- formats ---- */

act_format opcalls_format(const cuda_backend *cb, const weight *reader, size_t rows) {
    if (cb->be.mode == COMPUTE_EXACT || !reader)
        return ACT_F32;
    bool fp8 = cb->be.mode == COMPUTE_W4A8_FP8 && ((const cuda_weight *)reader)->is_fp4;
    return fp8 && rows > CUDA_FEW_ROWS ? ACT_FP8 : ACT_BF16;
}

act_view opcalls_view(const cuda_buf *b) {
    return (act_view){b->format, b->format == ACT_FP8 ? b->fp8 : b->data, b->scales, b->stride};
}

/* OUT as READER wants it. */
static act_view destination(cuda_backend *cb, buf *out, const weight *reader) {
    cuda_buf *b = (cuda_buf *)out;
    b->format = out->kind == BUF_F32 ? ACT_F32 : opcalls_format(cb, reader, out->rows);
    return opcalls_view(b);
}

static size_t row_bytes(const buf *b) {
    return b->rows * b->cols * 4;
}

static const float *f32(const vec *v) {
    return v ? ((const cuda_vec *)v)->data : NULL;
}

/* ---- a residual stream that still lacks a product's result ----
 *
 * With FP8 activations a product writes BF16 fastest. matmul_add leaves its result beside the stream, and the
 * norm that reads the stream next adds it; whatever else comes next adds it first (opcalls_settle). */

void opcalls_settle(cuda_backend *cb) {
    cuda_buf *x = cb->lacking;
    if (!x)
        return;
    cb->lacking = NULL;
    step_op(cb, CALL_MATMUL_ADD);
    step_end(cb, CALL_MATMUL_ADD,
             add_launch(&cb->lane, x->data, x->stride, cb->addend, (int)x->head.rows, x->head.cols),
             row_bytes(&x->head) * 5 / 2);
}

static void begin_op(cuda_backend *cb, int op) {
    opcalls_settle(cb);
    step_op(cb, op);
}

/* ---- rows ---- */

static void embed(backend *be, buf *x, const weight *table, float scale) {
    cuda_backend *cb = cuda_of(be);
    cuda_buf *b = (cuda_buf *)x;
    const cuda_weight *w = (const cuda_weight *)table;
    begin_op(cb, CALL_EMBED);
    int code = embed_launch(&cb->lane, b->data, b->stride, &w->view, scale, step_view_of(cb, 0).tokens,
                            (int)x->rows);
    step_end(cb, CALL_EMBED, code, row_bytes(x));
}

static void norm(backend *be, int call, buf *out, const buf *x, const vec *w, float eps, const weight *reader,
                 const int32_t *gather) {
    cuda_backend *cb = cuda_of(be);
    const cuda_buf *from = (const cuda_buf *)x;
    const bool adds = cb->lacking == from && !gather;
    act_view to = destination(cb, out, reader);
    int code;
    if (adds) {
        cb->lacking = NULL;
        step_op(cb, call);
        code = rmsnorm_after_launch(&cb->lane, to, from->data, from->stride, cb->addend, f32(w), eps,
                                    (int)out->rows, x->cols);
    } else {
        begin_op(cb, call);
        code = rmsnorm_launch(&cb->lane, to, from->data, from->stride, f32(w), eps, (int)out->rows, x->cols,
                              gather);
    }
    step_end(cb, call, code, row_bytes(out) * (adds ? 4 : 2));
}

static void rmsnorm(backend *be, buf *out, const buf *x, const vec *w, float eps, const weight *reader) {
    norm(be, CALL_RMSNORM, out, x, w, eps, reader, NULL);
}

static void rmsnorm_out(backend *be, buf *out, const buf *x, const vec *w, float eps, const weight *reader) {
    norm(be, CALL_RMSNORM_OUT, out, x, w, eps, reader, step_view_of(cuda_of(be), 0).out_rows);
}

static void rmsnorm_add(backend *be, buf *x, const buf *y, const vec *w, float eps) {
    cuda_backend *cb = cuda_of(be);
    cuda_buf *to = (cuda_buf *)x;
    const cuda_buf *from = (const cuda_buf *)y;
    begin_op(cb, CALL_RMSNORM_ADD);
    int code = rmsnorm_add_launch(&cb->lane, to->data, to->stride, from->data, from->stride, f32(w), eps,
                                  (int)x->rows, x->cols);
    step_end(cb, CALL_RMSNORM_ADD, code, row_bytes(x) * 3);
}

static void sum_squares(backend *be, vec *sums, const buf *a) {
    cuda_backend *cb = cuda_of(be);
    begin_op(cb, CALL_SUM_SQUARES);
    int code = sum_squares_launch(&cb->lane, ((cuda_vec *)sums)->data, opcalls_view((const cuda_buf *)a),
                                  (int)a->rows, a->cols);
    step_end(cb, CALL_SUM_SQUARES, code, row_bytes(a));
}

/* ---- products ---- */

static void keep_words(cuda_backend *cb, nib_status status, const nib_error *why) {
    if (status == NIB_OK || cb->failed_status != NIB_OK)
        return;
    cb->failed_status = status;
    cb->failed_words = *why;
}

/* OUT [rows, w rows], F32 or BF16, (+)= a W^T on packed FP4 parts. */
static void fp4_product(cuda_backend *cb, act_view out, const cuda_buf *a, const cuda_weight *w, bool add) {
    act_view v = opcalls_view(a);
    if (cb->lane.off)
        return;
    size_t first = 0, each = out.format == ACT_BF16 ? 2 : 4;
    for (int i = 0; i < w->n_fp4; i++) {
        nib_error why;
        void *d = (uint8_t *)out.data + first * each;
        nib_gemm_product p = {.weight = w->fp4[i],
                              .mode = v.format == ACT_FP8 ? NIB_GEMM_W4A8 : NIB_GEMM_W4A16,
                              .m = a->head.rows,
                              .a = v.data,
                              .a_type = v.format == ACT_FP8 ? GEMM_A_E4M3_MMA : NIB_GEMM_BF16,
                              .lda = v.stride,
                              .a_scale = v.format == ACT_FP8 ? v.scales : NULL,
                              .d = d,
                              .d_type = out.format == ACT_BF16 ? NIB_GEMM_BF16 : NIB_GEMM_F32,
                              .ldd = out.stride,
                              .c = add ? d : NULL,
                              .beta = add ? 1.0f : 0.0f};
        nib_status status =
            nib_gemm_matmul(cb->gemm, &p, cb->workspace, cb->workspace_bytes, cb->stream, &why);
        keep_words(cb, status, &why);
        first += w->fp4[i]->n;
    }
}

static int product(cuda_backend *cb, act_view out, const buf *a, const weight *weight_head, bool add) {
    const cuda_weight *w = (const cuda_weight *)weight_head;
    const cuda_buf *from = (const cuda_buf *)a;
    if (!w->is_fp4)
        return product_launch(&cb->lane, out.data, out.stride, opcalls_view(from), &w->view, (int)a->rows,
                              add);
    fp4_product(cb, out, from, w, add);
    return cudaSuccess;
}

/* Products that may write BF16: of FP8 activations and without a bias. */
static bool writes_bf16(const buf *a, const weight *w, const vec *bias) {
    return ((const cuda_buf *)a)->format == ACT_FP8 && ((const cuda_weight *)w)->is_fp4 && !bias;
}

static void matmul_into(backend *be, int call, buf *out, const buf *a, const weight *w, const vec *bias) {
    cuda_backend *cb = cuda_of(be);
    cuda_buf *to = (cuda_buf *)out;
    begin_op(cb, call);
    act_view d = {ACT_F32, to->data, NULL, to->stride};
    bool add = call == CALL_MATMUL_ADD;
    if (!add && w->n_parts == 3 && writes_bf16(a, w, bias)) /* q, k and v: qk_norm_rope_store reads either */
        d.format = ACT_BF16;
    if (!add)
        to->format = d.format;
    if (add && writes_bf16(a, w, bias) && out->rows * to->stride * 2 <= cb->wide_bytes) {
        d = cb->addend = (act_view){ACT_BF16, cb->wide, NULL, to->stride};
        cb->lacking = to;
        add = false;
    }
    int code = product(cb, d, a, w, add);
    if (code == cudaSuccess && bias)
        code = bias_launch(&cb->lane, to->data, to->stride, f32(bias), (int)out->rows, out->cols);
    step_end(cb, call, code, w->bytes + row_bytes(out) + row_bytes(a) / 2);
}

static void matmul(backend *be, buf *out, const buf *a, const weight *w, const vec *bias) {
    matmul_into(be, CALL_MATMUL, out, a, w, bias);
}

static void matmul_add(backend *be, buf *x, const buf *a, const weight *w, const vec *bias) {
    matmul_into(be, CALL_MATMUL_ADD, x, a, w, bias);
}

/* Gate and up in BF16 where the unit's result becomes FP8: half the bytes, and a rounding far below FP8's. */
static void matmul_glu(backend *be, buf *out, const buf *a, const weight *w, glu_kind kind,
                       const weight *reader) {
    cuda_backend *cb = cuda_of(be);
    act_view to = destination(cb, out, reader);
    bool half = to.format == ACT_FP8 && ((const cuda_weight *)w)->is_fp4;
    act_view wide = {half ? ACT_BF16 : ACT_F32, cb->wide, NULL, (w->rows + 127) / 128 * 128};
    begin_op(cb, CALL_MATMUL_GLU);
    int code = product(cb, wide, a, w, false);
    if (code == cudaSuccess)
        code = glu_launch(&cb->lane, to, wide, (int)out->rows, out->cols, kind == GLU_GELU_TANH);
    step_end(cb, CALL_MATMUL_GLU, code, w->bytes + row_bytes(a) / 2 + row_bytes(out) / 2);
}

/* ---- attention ---- */

static attn_view view_of(const attn_params *p) {
    return (attn_view){.n_heads = p->n_heads,
                       .n_kv_heads = p->n_kv_heads,
                       .head_dim = p->head_dim,
                       .q_norm = f32(p->q_norm),
                       .k_norm = f32(p->k_norm),
                       .norm_eps = p->norm_eps,
                       .inv_freq = f32(p->inv_freq),
                       .n_freq = p->inv_freq ? (int)p->inv_freq->n : 0,
                       .rope_scale = p->rope_scale,
                       .interleaved = p->interleaved,
                       .scale = p->scale,
                       .window = p->window};
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

static void qk_norm_rope_store(backend *be, buf *q, const buf *qkv, const attn_params *p, cache *c) {
    cuda_backend *cb = cuda_of(be);
    cuda_buf *to = (cuda_buf *)q;
    const cuda_buf *from = (const cuda_buf *)qkv;
    attn_view view = view_of(p);
    kv_view kv = layer_of((const cuda_cache *)c, p);
    step_view step = step_view_of(cb, p->group);
    begin_op(cb, CALL_QKV);
    int code =
        qkv_launch(&cb->lane, to->data, to->stride, opcalls_view(from), &view, &kv, &step, (int)q->rows);
    step_end(cb, CALL_QKV, code, row_bytes(qkv) + row_bytes(q));
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
    attn_view view = view_of(p);
    kv_view kv = layer_of((const cuda_cache *)c, p);
    step_view step = step_view_of(cb, p->group);
    act_view last = destination(cb, out, reader), to = last;
    int code = cudaSuccess, n_rows = (int)out->rows, n_alone = cb->table.n_alone;
    if (last.format == ACT_FP8) /* a scale needs the whole row: BF16 first */
        to = (act_view){ACT_BF16, ((cuda_buf *)out)->data, NULL, last.stride};
    begin_op(cb, CALL_ATTENTION);
    if (cb->be.mode == COMPUTE_EXACT || !prefill_supports(&view, kv.format)) {
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

void opcalls_set(backend *be) {
    be->op.embed = embed;
    be->op.rmsnorm = rmsnorm;
    be->op.rmsnorm_out = rmsnorm_out;
    be->op.rmsnorm_add = rmsnorm_add;
    be->op.matmul = matmul;
    be->op.matmul_add = matmul_add;
    be->op.matmul_glu = matmul_glu;
    be->op.qk_norm_rope_store = qk_norm_rope_store;
    be->op.attention = attention;
    be->op.sum_squares = sum_squares;
}
