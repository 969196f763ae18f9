/* SPDX-License-Identifier: Apache-2.0
 *
 * Embedding, norms, sums of squares. Whoever writes an activation quantizes it while it
 * is in the cache.
 */
#include "cpu/rowops.h"

#include <assert.h>
#include <string.h>

#include "num/rounded.h"

enum { SUM_COLS = 64, CAP_COLS = 4096 }; /* of one unit of sum_squares, and of softcap */

static size_t padded(size_t n) {
    return (n + ACT_BLOCK - 1) / ACT_BLOCK * ACT_BLOCK;
}

void rowops_quantize(const cpu_backend *cb, act *out, size_t row, size_t col, size_t n) {
    if (!out->blocks)
        return;
    assert(col % ACT_BLOCK == 0 && (n % ACT_BLOCK == 0 || col + n == out->head.cols));
    cb->k.matmul.quantize_act(act_blocks(out, row) + col / ACT_BLOCK, act_row(out, row) + col, padded(n));
}

static void run_quantize(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end, void *scratch) {
    (void)scratch;
    for (size_t r = begin; r < end; r++)
        rowops_quantize(cb, op->out, r, 0, op->out->head.cols);
}

void rowops_push_quantize(cpu_backend *cb, act *out) {
    if (!out->blocks)
        return;
    queue_push(cb, &(cpu_op){.run = run_quantize,
                             .kind = CPU_OP_QUANTIZE,
                             .by_row = true,
                             .units = out->head.rows,
                             .bytes = out->head.rows * out->head.cols * 5,
                             .out = out});
}

/* ---- emulated formats (cpu.h) ---- */

typedef enum stored { STORED_WIDE, STORED_FP8, STORED_FP4 } stored;

static stored stored_as(const tensor *t) {
    if (dtype_is_nvfp4(t->dtype) || dtype_is_mxfp4(t->dtype))
        return STORED_FP4;
    return t->dtype == DT_F8_E4M3 || t->dtype == DT_F8_E5M2 ? STORED_FP8 : STORED_WIDE;
}

/* An engine multiplies what it stores in FP8 with FP8, and what it keeps in 16 bits with 16 bits; of a file
 * that holds neither FP4 nor FP8 every layer is taken for FP4, to see what activations cost alone. */
static cpu_rounding rounding_of(const cpu_backend *cb, const tensor *t) {
    switch (stored_as(t)) {
    case STORED_FP4:
        return cb->rounding;
    case STORED_FP8:
        return CPU_ROUND_FP8;
    case STORED_WIDE:
        break;
    }
    return place_is_in_layer(t->place.slot) && !cb->has_short ? cb->rounding : CPU_ROUND_NONE;
}

nib_status rowops_note_weight(cpu_backend *cb, const tensor *const *parts, size_t n, nib_error *err) {
    static const char *const names[] = {"16 bits or blocks", "FP8", "FP4"};
    for (size_t i = 0; i < n && cb->rounding; i++) {
        cb->has_short |= stored_as(parts[i]) != STORED_WIDE;
        if (stored_as(parts[i]) != stored_as(parts[0]))
            return nib_fail(
                err, NIB_UNSUPPORTED,
                "%s is stored in %s and %s in %s; they are multiplied with the same activations, which "
                "cannot be emulated in two formats",
                parts[0]->name, names[stored_as(parts[0])], parts[i]->name, names[stored_as(parts[i])]);
    }
    return NIB_OK;
}

static void run_fp8(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end, void *scratch) {
    (void)cb, (void)scratch;
    for (size_t r = begin; r < end; r++)
        rounded_fp8(act_row(op->out, r), op->out->head.cols, op->value);
}

static void run_nvfp4(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end, void *scratch) {
    (void)cb, (void)scratch;
    for (size_t r = begin; r < end; r++)
        rounded_nvfp4(act_row(op->out, r), op->out->head.cols, op->value);
}

static void run_4over6(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end, void *scratch) {
    (void)cb, (void)scratch;
    for (size_t r = begin; r < end; r++)
        rounded_nvfp4_4over6(act_row(op->out, r), op->out->head.cols);
}

static void run_clamp(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end, void *scratch) {
    (void)cb, (void)scratch;
    for (size_t r = begin; r < end; r++)
        rounded_nvfp4_clamp(act_row(op->out, r), op->out->head.cols);
}

static void run_mxfp4(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end, void *scratch) {
    (void)cb, (void)scratch;
    for (size_t r = begin; r < end; r++)
        rounded_mxfp4(act_row(op->out, r), op->out->head.cols);
}

/* The parts' static scale of format R, 0 where none has one: engines that join them take the largest. */
static float input_scale(const packed *w, cpu_rounding r) {
    float scale = 0;
    for (size_t i = 0; i < w->head.n_parts; i++) {
        const tensor *t = &w->parts[i].source;
        const bool of_format = (r == CPU_ROUND_NVFP4 && dtype_is_nvfp4(t->dtype)) ||
                               (r == CPU_ROUND_FP8 && stored_as(t) == STORED_FP8);
        scale = of_format && t->input_scale > scale ? t->input_scale : scale;
    }
    return scale;
}

/* A network's activation is read by one product each time that it is written, so it is rounded in place. */
void rowops_push_rounding(cpu_backend *cb, const buf *a, const weight *w) {
    static const cpu_op_fn runs[] = {[CPU_ROUND_FP8] = run_fp8,
                                     [CPU_ROUND_NVFP4] = run_nvfp4,
                                     [CPU_ROUND_4OVER6] = run_4over6,
                                     [CPU_ROUND_CLAMP] = run_clamp,
                                     [CPU_ROUND_MXFP4] = run_mxfp4};
    const packed *weights = pack_of(w);
    const cpu_rounding r = cb->rounding ? rounding_of(cb, &weights->parts[0].source) : CPU_ROUND_NONE;
    if (!r)
        return;
    queue_push(cb, &(cpu_op){.run = runs[r],
                             .kind = CPU_OP_QUANTIZE,
                             .by_row = true,
                             .units = a->rows,
                             .bytes = a->rows * a->cols * 8,
                             .out = (act *)(uintptr_t)a,
                             .value = input_scale(weights, r)});
}

static void run_embed(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end, void *scratch) {
    (void)scratch;
    for (size_t r = begin; r < end; r++) {
        pack_unpack_row(op->weight, (size_t)queue_batch(cb)->tokens[r], act_row(op->out, r));
        if (op->value != 1.0f)
            cb->k.scale(act_row(op->out, r), op->value, op->out->head.cols);
    }
}

void rowops_embed(backend *be, buf *x, const weight *table, float scale) {
    queue_push(queue_backend(be), &(cpu_op){.run = run_embed,
                                            .kind = CPU_OP_EMBED,
                                            .by_row = true,
                                            .units = x->rows,
                                            .bytes = x->rows * (x->cols * 4 + table->bytes / table->rows),
                                            .out = (act *)x,
                                            .weight = pack_of(table),
                                            .value = scale});
}

static void run_rmsnorm(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end, void *scratch) {
    (void)scratch;
    for (size_t r = begin; r < end; r++) {
        size_t from = op->kind == CPU_OP_RMSNORM_OUT ? (size_t)queue_batch(cb)->out_rows[r] : r;
        if (op->w)
            cb->k.rmsnorm(act_row(op->out, r), act_row(op->in, from), op->w, op->value, op->in->head.cols);
        else
            memcpy(act_row(op->out, r), act_row(op->in, from), op->in->head.cols * sizeof(float));
        rowops_quantize(cb, op->out, r, 0, op->out->head.cols);
    }
}

static void push_rmsnorm(backend *be, cpu_op_kind kind, buf *out, const buf *x, const vec *w, float eps) {
    queue_push(queue_backend(be), &(cpu_op){.run = run_rmsnorm,
                                            .kind = kind,
                                            .by_row = kind == CPU_OP_RMSNORM,
                                            .units = out->rows,
                                            .bytes = out->rows * x->cols * 9,
                                            .out = (act *)out,
                                            .in = (const act *)x,
                                            .w = w ? vec_f32(w) : NULL,
                                            .value = eps});
}

void rowops_rmsnorm(backend *be, buf *out, const buf *x, const vec *w, float eps, const weight *reader) {
    (void)reader; /* one activation format for all */
    push_rmsnorm(be, CPU_OP_RMSNORM, out, x, w, eps);
}

void rowops_rmsnorm_out(backend *be, buf *out, const buf *x, const vec *w, float eps, const weight *reader) {
    (void)reader;
    push_rmsnorm(be, CPU_OP_RMSNORM_OUT, out, x, w, eps);
}

static void run_rmsnorm_add(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end,
                            void *scratch) {
    (void)scratch;
    for (size_t r = begin; r < end; r++)
        cb->k.rmsnorm_add(act_row(op->out, r), act_row(op->in, r), op->w, op->value, op->in->head.cols);
}

void rowops_rmsnorm_add(backend *be, buf *x, const buf *y, const vec *w, float eps) {
    queue_push(queue_backend(be), &(cpu_op){.run = run_rmsnorm_add,
                                            .kind = CPU_OP_RMSNORM_ADD,
                                            .by_row = true,
                                            .units = x->rows,
                                            .bytes = x->rows * x->cols * 12,
                                            .out = (act *)x,
                                            .in = (const act *)y,
                                            .w = vec_f32(w),
                                            .value = eps});
}

/* A unit is CAP_COLS columns of one row: logits are wide and few. */
static void run_softcap(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end, void *scratch) {
    size_t cols = op->out->head.cols, pieces = (cols + CAP_COLS - 1) / CAP_COLS;
    (void)scratch;
    for (size_t u = begin; u < end; u++) {
        size_t col = u % pieces * CAP_COLS, rest = cols - col;
        cb->k.softcap(act_row(op->out, u / pieces) + col, op->value, rest < CAP_COLS ? rest : CAP_COLS);
    }
}

void rowops_softcap(backend *be, buf *x, float cap) {
    queue_push(queue_backend(be), &(cpu_op){.run = run_softcap,
                                            .kind = CPU_OP_SOFTCAP,
                                            .units = x->rows * ((x->cols + CAP_COLS - 1) / CAP_COLS),
                                            .bytes = x->rows * x->cols * 8,
                                            .out = (act *)x,
                                            .value = cap});
}

/* A unit is SUM_COLS columns over all rows, so that rows are added up in order. */
static void run_sum_squares(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end,
                            void *scratch) {
    (void)scratch;
    for (size_t u = begin; u < end; u++) {
        size_t col = u * SUM_COLS, rest = op->in->head.cols - col;
        for (size_t r = 0; r < op->rows; r++)
            cb->k.sum_squares(op->sums + col, act_row(op->in, r) + col, rest < SUM_COLS ? rest : SUM_COLS);
    }
}

void rowops_sum_squares(backend *be, vec *sums, const buf *a) {
    queue_push(queue_backend(be), &(cpu_op){.run = run_sum_squares,
                                            .kind = CPU_OP_SUM_SQUARES,
                                            .units = a->rows ? (a->cols + SUM_COLS - 1) / SUM_COLS : 0,
                                            .bytes = a->rows * a->cols * 4,
                                            .in = (const act *)a,
                                            .rows = a->rows,
                                            .sums = ((cpu_vec *)sums)->values});
}
