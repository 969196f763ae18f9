/* SPDX-License-Identifier: Apache-2.0
 *
 * Embedding, norms, sums of squares. Whoever writes an activation quantizes it while it
 * is in the cache.
 */
#include "cpu/rowops.h"

#include <assert.h>

enum { SUM_COLS = 64 }; /* of one unit of sum_squares */

static size_t padded(size_t n) {
    return (n + ACT_BLOCK - 1) / ACT_BLOCK * ACT_BLOCK;
}

void rowops_quantize(const cpu_backend *cb, buf *out, size_t row, size_t col, size_t n) {
    if (!out->blocks)
        return;
    assert(col % ACT_BLOCK == 0 && (n % ACT_BLOCK == 0 || col + n == out->cols));
    cb->k.matmul.quantize_act(act_blocks(out, row) + col / ACT_BLOCK, act_row(out, row) + col, padded(n));
}

static void run_quantize(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end, void *scratch) {
    (void)scratch;
    for (size_t r = begin; r < end; r++)
        rowops_quantize(cb, op->out, r, 0, op->out->cols);
}

void rowops_push_quantize(cpu_backend *cb, buf *out) {
    if (!out->blocks)
        return;
    queue_push(cb, &(cpu_op){.run = run_quantize,
                             .kind = CPU_OP_QUANTIZE,
                             .by_row = true,
                             .units = out->rows,
                             .bytes = out->rows * out->cols * 5,
                             .out = out});
}

static void run_embed(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end, void *scratch) {
    (void)scratch;
    for (size_t r = begin; r < end; r++) {
        pack_unpack_row(op->weight, (size_t)cb->batch->tokens[r], act_row(op->out, r));
        if (op->value != 1.0f)
            cb->k.scale(act_row(op->out, r), op->value, op->out->cols);
    }
}

void rowops_embed(backend *be, buf *x, const weight *table, float scale) {
    cpu_backend *cb = queue_backend(be);
    size_t rows = (size_t)cb->batch->n_rows;
    assert(x->kind == BUF_F32 && x->cols == pack_cols(table) && rows <= x->max_rows);
    for (size_t r = 0; r < rows; r++)
        assert(cb->batch->tokens[r] >= 0 && (size_t)cb->batch->tokens[r] < pack_rows(table));
    x->rows = rows;
    queue_push(cb, &(cpu_op){.run = run_embed,
                             .kind = CPU_OP_EMBED,
                             .by_row = true,
                             .units = rows,
                             .bytes = rows * (x->cols * 4 + pack_bytes(table) / pack_rows(table)),
                             .out = x,
                             .weight = table,
                             .value = scale});
}

static void run_rmsnorm(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end, void *scratch) {
    (void)scratch;
    for (size_t r = begin; r < end; r++) {
        size_t from = op->kind == CPU_OP_RMSNORM_OUT ? (size_t)cb->batch->out_rows[r] : r;
        cb->k.rmsnorm(act_row(op->out, r), act_row(op->in, from), op->w, op->value, op->in->cols);
        rowops_quantize(cb, op->out, r, 0, op->out->cols);
    }
}

static void push_rmsnorm(cpu_backend *cb, cpu_op_kind kind, size_t rows, buf *out, const buf *x,
                         const float *w, float eps) {
    assert(x->kind == BUF_F32 && x->cols == out->cols && rows <= out->max_rows && out != x);
    out->rows = rows;
    queue_push(cb, &(cpu_op){.run = run_rmsnorm,
                             .kind = kind,
                             .by_row = kind == CPU_OP_RMSNORM,
                             .units = rows,
                             .bytes = rows * x->cols * 9,
                             .out = out,
                             .in = x,
                             .w = w,
                             .value = eps});
}

void rowops_rmsnorm(backend *be, buf *out, const buf *x, const float *w, float eps) {
    push_rmsnorm(queue_backend(be), CPU_OP_RMSNORM, x->rows, out, x, w, eps);
}

void rowops_rmsnorm_out(backend *be, buf *out, const buf *x, const float *w, float eps) {
    cpu_backend *cb = queue_backend(be);
    for (int32_t i = 0; i < cb->batch->n_out; i++)
        assert(cb->batch->out_rows[i] >= 0 && (size_t)cb->batch->out_rows[i] < x->rows);
    push_rmsnorm(cb, CPU_OP_RMSNORM_OUT, (size_t)cb->batch->n_out, out, x, w, eps);
}

static void run_rmsnorm_add(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end,
                            void *scratch) {
    (void)scratch;
    for (size_t r = begin; r < end; r++)
        cb->k.rmsnorm_add(act_row(op->out, r), act_row(op->in, r), op->w, op->value, op->in->cols);
}

void rowops_rmsnorm_add(backend *be, buf *x, const buf *y, const float *w, float eps) {
    assert(x->kind == BUF_F32 && y->kind == BUF_F32 && x->cols == y->cols && x->rows == y->rows && x != y);
    queue_push(queue_backend(be), &(cpu_op){.run = run_rmsnorm_add,
                                            .kind = CPU_OP_RMSNORM_ADD,
                                            .by_row = true,
                                            .units = x->rows,
                                            .bytes = x->rows * x->cols * 12,
                                            .out = x,
                                            .in = y,
                                            .w = w,
                                            .value = eps});
}

/* A unit is SUM_COLS columns over all rows, so that rows are added up in order. */
static void run_sum_squares(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end,
                            void *scratch) {
    (void)scratch;
    for (size_t u = begin; u < end; u++) {
        size_t col = u * SUM_COLS, rest = op->in->cols - col;
        for (size_t r = 0; r < op->rows; r++)
            cb->k.sum_squares(op->sums + col, act_row(op->in, r) + col, rest < SUM_COLS ? rest : SUM_COLS);
    }
}

void rowops_sum_squares(backend *be, double *sums, const buf *a) {
    queue_push(queue_backend(be), &(cpu_op){.run = run_sum_squares,
                                            .kind = CPU_OP_SUM_SQUARES,
                                            .units = a->rows ? (a->cols + SUM_COLS - 1) / SUM_COLS : 0,
                                            .bytes = a->rows * a->cols * 4,
                                            .in = a,
                                            .rows = a->rows,
                                            .sums = sums});
}
