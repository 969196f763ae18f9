/* SPDX-License-Identifier: Apache-2.0
 *
 * The contract's ops as launches. Formats are decided here: which activations a product reads, whether FP4's
 * library or the product on stored weights computes it; attend.c has attention's.
 */
#include <assert.h>

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
    [CALL_LAYERS] = "layers",
    [CALL_SOFTCAP] = "softcap",
};

/* ---- formats ---- */

act_format opcalls_format(const cuda_backend *cb, const weight *reader, size_t rows) {
    if (cb->be.mode == COMPUTE_EXACT || !reader)
        return ACT_F32;
    if (rows <= CUDA_FEW_ROWS || !cuda_is_bare((const cuda_weight *)reader) || cb->be.mode == COMPUTE_W4A4)
        return ACT_BF16;
    return cb->be.mode == COMPUTE_W4A8_FP8 ? ACT_FP8
           : cb->lane.wgmma && reader->cols % GEMM_GROUP_K == 0
               ? ACT_BF16_MMA /* rows end where a group does */
               : ACT_BF16;
}

act_view opcalls_view(const cuda_buf *b) {
    assert(!b->gone);
    return (act_view){b->format, b->format == ACT_FP8 ? b->fp8 : b->data, b->scales, b->stride};
}

/* OUT as READER wants it. */
act_view opcalls_destination(cuda_backend *cb, buf *out, const weight *reader) {
    cuda_buf *b = (cuda_buf *)out;
    b->format = out->kind == BUF_F32 ? ACT_F32 : opcalls_format(cb, reader, out->rows);
    b->gone = b->rounded = false;
    return opcalls_view(b);
}

bool opcalls_stay_bf16(const cuda_backend *cb, buf *out, const weight *reader) {
    cuda_buf *b = (cuda_buf *)out;
    if (b->format != ACT_FP8 || out->rows > CUDA_SHORT_ROWS || !cb->lane.wgmma ||
        reader->cols % GEMM_GROUP_K != 0)
        return false;
    b->format = ACT_BF16_MMA;
    return true;
}

/* ---- a residual stream that still lacks a product's result ----
 *
 * A product of many rows writes BF16 fastest. matmul_add leaves its result beside the stream; the norm that
 * reads that next adds it, whatever else comes next adds it first (opcalls_settle). */

static void settle_sum(cuda_backend *cb) {
    cuda_buf *x = cb->lacking;
    if (!x)
        return;
    cb->lacking = NULL;
    step_op(cb, CALL_MATMUL_ADD);
    step_end(cb, CALL_MATMUL_ADD,
             add_launch(&cb->lane, x->data, x->stride, cb->addend, (int)x->head.rows, x->head.cols),
             row_bytes(&x->head) * 5 / 2);
}

/* ---- a norm that waits for its reader's product ----
 *
 * With one row the product norms its input as it loads it (gemm_chain), and so does a pass, of two rows too.
 * With a few the product before it, whose sum waits too, leaves what it needs (gemm_spread). All are launched
 * by themselves after all where anything but that product comes next. */

/* Whether sums of ROWS rows can leave a norm to the product with W behind it. */
static bool spreads(const cuda_backend *cb, const cuda_weight *w, size_t rows, bool before) {
    const gemm_spread some = {.w = NULL};
    bool serves = cuda_is_bare(w) && (!before || w->n_fp4 == 1);
    for (int i = 0; i < w->n_fp4 && serves; i++)
        serves = gemm_chain_serves(cb->gemm, &(gemm_chain){.weight = w->fp4[i],
                                                           .m = rows,
                                                           .after = before ? NULL : &some,
                                                           .before = before ? &some : NULL,
                                                           .d_type = NIB_GEMM_F32});
    return serves;
}

/* Whether the norm of X, of several rows, waits for a pass. GATHERS: X's out rows. */
static bool passes_norm(const cuda_backend *cb, const buf *x, const weight *reader, bool gathers) {
    return x->rows > 1 && !cb->unadded.x && (!gathers || cb->table.all_out) &&
           gather_awaits(cb, (const cuda_buf *)x, reader);
}

static bool norm_can_wait(const cuda_backend *cb, const buf *out, const buf *x, const vec *w,
                          const weight *reader, bool gathers) {
    const cuda_weight *next = (const cuda_weight *)reader;
    if (!cuda_fuses(cb) || out->kind != BUF_ACT || out->rows != x->rows || !w || !reader ||
        !cuda_is_bare(next) || cb->lacking)
        return false;
    return x->rows == 1 || passes_norm(cb, x, reader, gathers) ||
           (!gathers && cb->unadded.x == (const cuda_buf *)x && cb->unadded.a != (const cuda_buf *)out &&
            spreads(cb, next, x->rows, false));
}

static void fp4_product(cuda_backend *cb, act_view out, const cuda_buf *a, const cuda_weight *w, bool add);
static void keep_words(cuda_backend *cb, nib_status status, const nib_error *why);

static void settle_add(cuda_backend *cb) {
    cuda_buf *x = cb->unadded.x;
    if (!x)
        return;
    cb->unadded.x = NULL;
    step_op(cb, CALL_MATMUL_ADD);
    fp4_product(cb, (act_view){ACT_F32, x->data, NULL, x->stride}, cb->unadded.a, cb->unadded.w, true);
    step_end(cb, CALL_MATMUL_ADD, cudaSuccess, cb->unadded.w->head.bytes + row_bytes(&x->head));
}

/* What the norm that waits leaves in TO. */
static gemm_spread spread_of(const cuda_backend *cb, const buf *to) {
    const cuda_buf *b = (const cuda_buf *)to;
    return (gemm_spread){cb->waiting.norm.w, cb->waiting.norm.eps, b->data, b->stride, cb->squares};
}

/* The sum that waits, and what the norm of OUT needs. */
static void add_and_leave(cuda_backend *cb, const buf *out) {
    nib_error why;
    cuda_buf *x = cb->unadded.x;
    const act_view a = opcalls_view(cb->unadded.a);
    const gemm_spread left = spread_of(cb, out);
    const gemm_chain c = {.weight = cb->unadded.w->fp4[0],
                          .m = x->head.rows,
                          .a = a.data,
                          .lda = a.stride,
                          .ldd = x->stride,
                          .before = &left,
                          .d = x->data,
                          .d_type = NIB_GEMM_F32};
    cb->unadded.x = NULL;
    step_op(cb, CALL_MATMUL_ADD);
    if (!cb->lane.off)
        keep_words(cb, gemm_chain_launch(cb->gemm, &c, cb->stream, &why), &why);
    step_end(cb, CALL_MATMUL_ADD, cudaSuccess, cb->unadded.w->head.bytes + row_bytes(&x->head));
}

static void settle_norm(cuda_backend *cb) {
    cuda_buf *to = cb->waiting.out;
    if (!to)
        return;
    cb->waiting.out = NULL;
    gather_launch(cb);
    settle_add(cb);
    step_op(cb, CALL_RMSNORM);
    int code =
        rmsnorm_launch(&cb->lane, opcalls_view(to), cb->waiting.norm.x, cb->waiting.x_stride,
                       cb->waiting.norm.w, cb->waiting.norm.eps, (int)to->head.rows, to->head.cols, NULL);
    step_end(cb, CALL_RMSNORM, code, row_bytes(&to->head) * 2);
}

/* Whether the norm of A waits for W's product, which now computes it: A's values are nowhere from here on. */
static bool takes_norm(cuda_backend *cb, const buf *a, const weight *w) {
    if (!a || cb->waiting.out != (const cuda_buf *)a || cb->waiting.reader != w ||
        (a->rows > 1 && !cb->unadded.x && !cb->waiting.gathers))
        return false;
    cb->waiting.out->gone = true;
    cb->waiting.out = NULL;
    if (cb->unadded.x)
        add_and_leave(cb, a);
    return true;
}

/* No pass took the product behind the norm of A after all: true where others can; else it waits again. */
static bool keeps_norm(cuda_backend *cb, const buf *a) {
    if (!cb->waiting.gathers)
        return true;
    cb->waiting.out = (cuda_buf *)(uintptr_t)a;
    cb->waiting.out->gone = false;
    return false;
}

void opcalls_settle(cuda_backend *cb) {
    gather_launch(cb);
    settle_sum(cb);
    settle_norm(cb);
    settle_add(cb);
    attend_settle(cb);
}

void opcalls_begin(cuda_backend *cb, int op) {
    opcalls_settle(cb);
    step_op(cb, op);
}

/* ---- rows ---- */

static void embed(backend *be, buf *x, const weight *table, float scale) {
    cuda_backend *cb = cuda_of(be);
    cuda_buf *b = (cuda_buf *)x;
    const cuda_weight *w = (const cuda_weight *)table;
    opcalls_begin(cb, CALL_EMBED);
    int code = embed_launch(&cb->lane, b->data, b->stride, &w->view, scale, step_view_of(cb, 0).tokens,
                            (int)x->rows);
    step_end(cb, CALL_EMBED, code, row_bytes(x));
}

static void norm(backend *be, int call, buf *out, const buf *x, const vec *w, float eps, const weight *reader,
                 const int32_t *gather) {
    cuda_backend *cb = cuda_of(be);
    const cuda_buf *from = (const cuda_buf *)x;
    const bool adds = cb->lacking == from && !gather;
    if (norm_can_wait(cb, out, x, w, reader, gather)) {
        settle_norm(cb);
        cb->waiting.gathers = passes_norm(cb, x, reader, gather);
        opcalls_destination(cb, out, reader);
        cb->waiting.out = (cuda_buf *)out;
        cb->waiting.reader = reader;
        cb->waiting.norm = (gemm_norm){from->data, f32(w), eps};
        cb->waiting.x_stride = from->stride;
        return;
    }
    settle_norm(cb);
    act_view to = opcalls_destination(cb, out, reader);
    int code;
    if (adds) {
        cb->lacking = NULL;
        step_op(cb, call);
        code = rmsnorm_after_launch(&cb->lane, to, from->data, from->stride, cb->addend, f32(w), eps,
                                    (int)out->rows, x->cols);
    } else {
        opcalls_begin(cb, call);
        code = rmsnorm_launch(&cb->lane, to, from->data, from->stride, f32(w), eps, (int)out->rows, x->cols,
                              gather);
    }
    step_end(cb, call, code, row_bytes(out) * (adds ? 4 : 2));
}

static void rmsnorm(backend *be, buf *out, const buf *x, const vec *w, float eps, const weight *reader) {
    cuda_backend *cb = cuda_of(be);
    const cuda_buf *from = (const cuda_buf *)x;
    if (!w) { /* only the format changes */
        opcalls_begin(cb, CALL_RMSNORM);
        act_view to = opcalls_destination(cb, out, reader);
        step_end(cb, CALL_RMSNORM, convert_launch(&cb->lane, to, opcalls_view(from), (int)out->rows, x->cols),
                 row_bytes(out) * 2);
        return;
    }
    norm(be, CALL_RMSNORM, out, x, w, eps, reader, NULL);
}

static void rmsnorm_out(backend *be, buf *out, const buf *x, const vec *w, float eps, const weight *reader) {
    cuda_of(be)->head = reader; /* whose product gives logits, in FP32 */
    norm(be, CALL_RMSNORM_OUT, out, x, w, eps, reader, step_view_of(cuda_of(be), 0).out_rows);
}

static void rmsnorm_add(backend *be, buf *x, const buf *y, const vec *w, float eps) {
    cuda_backend *cb = cuda_of(be);
    cuda_buf *to = (cuda_buf *)x;
    const cuda_buf *from = (const cuda_buf *)y;
    if (gather_join(cb, to, (cuda_buf *)(uintptr_t)y, f32(w), eps))
        return;
    opcalls_begin(cb, CALL_RMSNORM_ADD);
    int code = rmsnorm_add_launch(&cb->lane, to->data, to->stride, opcalls_view(from), f32(w), eps,
                                  (int)x->rows, x->cols);
    step_end(cb, CALL_RMSNORM_ADD, code, row_bytes(x) * 3);
}

static void softcap(backend *be, buf *x, float cap) {
    cuda_backend *cb = cuda_of(be);
    cuda_buf *b = (cuda_buf *)x;
    opcalls_begin(cb, CALL_SOFTCAP);
    step_end(cb, CALL_SOFTCAP, softcap_launch(&cb->lane, b->data, b->stride, cap, (int)x->rows, x->cols),
             row_bytes(x) * 2);
}

static void sum_squares(backend *be, vec *sums, const buf *a) {
    cuda_backend *cb = cuda_of(be);
    opcalls_begin(cb, CALL_SUM_SQUARES);
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
                              .a_type = v.format == ACT_FP8        ? GEMM_A_E4M3_MMA
                                        : v.format == ACT_BF16_MMA ? GEMM_A_BF16_MMA
                                                                   : NIB_GEMM_BF16,
                              .lda = v.stride,
                              .a_scale = v.format == ACT_FP8 ? v.scales : NULL,
                              .d = d,
                              .d_type = out.format == ACT_BF16 ? NIB_GEMM_BF16 : NIB_GEMM_F32,
                              .ldd = out.stride,
                              .flags = cb->flags,
                              .c = add ? d : NULL,
                              .beta = add ? 1.0f : 0.0f};
        nib_status status =
            nib_gemm_matmul(cb->gemm, &p, cb->workspace, cb->workspace_bytes, cb->stream, &why);
        keep_words(cb, status, &why);
        first += w->fp4[i]->n;
    }
}

/* OUT [rows, w rows], F32 or BF16 = norm(x) W^T of the norm that waited, whose result would be A. */
static void fp4_normed(cuda_backend *cb, act_view out, const buf *a, const cuda_weight *w) {
    size_t first = 0, each = out.format == ACT_BF16 ? 2 : 4;
    const gemm_spread left = spread_of(cb, a);
    for (int i = 0; i < w->n_fp4 && !cb->lane.off; i++) {
        nib_error why;
        gemm_chain c = {.weight = w->fp4[i],
                        .m = a->rows,
                        .ldd = out.stride,
                        .norm = a->rows == 1 ? &cb->waiting.norm : NULL,
                        .after = a->rows == 1 ? NULL : &left,
                        .d = (uint8_t *)out.data + first * each,
                        .d_type = out.format == ACT_BF16 ? NIB_GEMM_BF16 : NIB_GEMM_F32};
        keep_words(cb, gemm_chain_launch(cb->gemm, &c, cb->stream, &why), &why);
        first += w->fp4[i]->n;
    }
}

/* Without branches. */
static int bare_product(cuda_backend *cb, act_view out, const buf *a, const cuda_weight *w, bool add) {
    const cuda_buf *from = (const cuda_buf *)a;
    if (!w->is_fp4)
        return product_launch(&cb->lane, out.data, out.stride, opcalls_view(from), &w->view, (int)a->rows,
                              add);
    const int code = cuda_rounds(cb, a)
                         ? emulate_nvfp4_launch(&cb->lane, opcalls_view(from), (int)a->rows, a->cols)
                         : cudaSuccess;
    if (code == cudaSuccess)
        fp4_product(cb, out, from, w, add);
    return code;
}

/* OUT is F32 where W has branches. These read A before W4A4 rounds it. */
static int product(cuda_backend *cb, act_view out, const buf *a, const weight *weight_head, bool add) {
    const cuda_weight *w = (const cuda_weight *)weight_head;
    if (w->thin.rank == 0)
        return bare_product(cb, out, a, w, add);
    int code = thin_begin(cb, (const cuda_buf *)a, w);
    if (code == cudaSuccess)
        code = bare_product(cb, out, a, w, add);
    return code == cudaSuccess ? thin_add(cb, out.data, out.stride, (int)a->rows, w) : code;
}

/* Products that may write BF16: of many rows and without a bias. */
static bool writes_bf16(const cuda_backend *cb, const buf *a, const weight *w, const vec *bias) {
    return cb->be.mode != COMPUTE_EXACT && a->rows > CUDA_FEW_ROWS && cuda_is_bare((const cuda_weight *)w) &&
           !bias;
}

static void matmul_into(backend *be, int call, buf *out, const buf *a, const weight *w, const vec *bias) {
    cuda_backend *cb = cuda_of(be);
    cuda_buf *to = (cuda_buf *)out;
    bool add = call == CALL_MATMUL_ADD;
    cuda_buf *from = (cuda_buf *)(uintptr_t)a;
    bool chained = !add && takes_norm(cb, a, w);
    if (chained ? gather_normed(cb, to, w, bias)
        : add   ? gather_add(cb, to, from, w, bias)
                : gather_branch(cb, to, from, w, bias))
        return;
    chained = chained && keeps_norm(cb, a);
    opcalls_settle(cb);
    if (add && !bias && cuda_fuses(cb) && spreads(cb, (const cuda_weight *)w, a->rows, true)) {
        cb->unadded.x = to;
        cb->unadded.a = (const cuda_buf *)a;
        cb->unadded.w = (const cuda_weight *)w;
        return;
    }
    step_op(cb, call);
    act_view d = {ACT_F32, to->data, NULL, to->stride};
    int code = cudaSuccess;
    if (!add && w != cb->head &&
        writes_bf16(cb, a, w, bias)) /* qk_norm_rope_store and rmsnorm_add read either */
        d.format = ACT_BF16;
    if (!add) {
        to->format = d.format;
        to->gone = false;
    }
    if (add && writes_bf16(cb, a, w, bias) && out->rows * to->stride * 2 <= cb->wide_bytes) {
        d = cb->addend = (act_view){ACT_BF16, cb->wide, NULL, to->stride};
        cb->lacking = to;
        add = false;
    }
    if (chained)
        fp4_normed(cb, d, a, (const cuda_weight *)w);
    else
        code = product(cb, d, a, w, add);
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

/* Product and unit, and with few rows the norm that waited, in one launch. */
static bool glu_chain(cuda_backend *cb, act_view out, const buf *a, const cuda_weight *w, glu_kind kind,
                      bool normed) {
    nib_error why;
    const gemm_spread left = spread_of(cb, a);
    const act_view in = normed ? (act_view){ACT_F32} : opcalls_view((const cuda_buf *)a);
    const bool many = out.format == ACT_BF16_MMA;
    gemm_chain c = {.weight = w->fp4[0],
                    .m = a->rows,
                    .a = in.data,
                    .a_scale = in.format == ACT_FP8 ? in.scales : NULL,
                    .lda = in.stride,
                    .ldd = out.stride,
                    .norm = normed && a->rows == 1 ? &cb->waiting.norm : NULL,
                    .after = normed && a->rows > 1 ? &left : NULL,
                    .unit = kind == GLU_GELU_TANH ? GEMM_UNIT_GELU : GEMM_UNIT_SILU,
                    .d = out.data,
                    .d_type = out.format == ACT_BF16       ? NIB_GEMM_BF16
                              : out.format == ACT_BF16_MMA ? GEMM_A_BF16_MMA
                                                           : NIB_GEMM_F32,
                    .flags = cb->flags,
                    .workspace = cb->workspace,
                    .workspace_bytes = cb->workspace_bytes};
    if (!cuda_fuses(cb) || !cuda_is_bare(w) || w->n_fp4 != 1 || out.format == ACT_FP8 || cb->lane.off ||
        (many && in.format != ACT_BF16_MMA && in.format != ACT_FP8) || !gemm_chain_serves(cb->gemm, &c))
        return false;
    keep_words(cb, gemm_chain_launch(cb->gemm, &c, cb->stream, &why), &why);
    return true;
}

/* Gate and up in BF16 where rows are many: half the bytes. */
static void matmul_glu(backend *be, buf *out, const buf *a, const weight *w, glu_kind kind,
                       const weight *reader) {
    cuda_backend *cb = cuda_of(be);
    const cuda_weight *both = (const cuda_weight *)w;
    bool normed = takes_norm(cb, a, w);
    if (normed && gather_gated(cb, (cuda_buf *)out, w, kind == GLU_GELU_TANH))
        return;
    normed = normed && keeps_norm(cb, a);
    opcalls_begin(cb, CALL_MATMUL_GLU);
    const act_view to = opcalls_destination(cb, out, reader);
    int code = cudaSuccess;
    opcalls_stay_bf16(cb, out, reader);
    if (!glu_chain(cb, opcalls_view((cuda_buf *)out), a, both, kind, normed)) {
        ((cuda_buf *)out)->format = to.format;
        const bool half = to.format != ACT_F32 && writes_bf16(cb, a, w, NULL);
        act_view wide = {half ? ACT_BF16 : ACT_F32, cb->wide, NULL, (w->rows + 127) / 128 * 128};
        if (normed)
            fp4_normed(cb, wide, a, both);
        else
            code = product(cb, wide, a, w, false);
        if (code == cudaSuccess)
            code = glu_launch(&cb->lane, to, wide, (int)out->rows, out->cols, kind == GLU_GELU_TANH);
    }
    step_end(cb, CALL_MATMUL_GLU, code, w->bytes + row_bytes(a) / 2 + row_bytes(out) / 2);
}

void opcalls_set(backend *be) {
    be->op.embed = embed;
    be->op.rmsnorm = rmsnorm;
    be->op.rmsnorm_out = rmsnorm_out;
    be->op.rmsnorm_add = rmsnorm_add;
    be->op.matmul = matmul;
    be->op.matmul_add = matmul_add;
    be->op.matmul_glu = matmul_glu;
    attend_set(be);
    be->op.sum_squares = sum_squares;
    be->op.softcap = softcap;
}
