/* SPDX-License-Identifier: Apache-2.0
 *
 * See branch.h. The results of one weight's branches are in memory at a time: a step computes one product
 * after the other.
 */
#include "cpu/branch.h"

#include <string.h>

#include "base/mem.h"

nib_status branch_pack(packed *w, const tensor *const *parts, pool *team, nib_error *err) {
    for (size_t i = 0; i < w->head.n_parts; i++) {
        const tensor_branch *b = &parts[i]->branch;
        if (!b->rank)
            continue;
        const tensor down = tensor_beside(parts[i], DT_BF16, b->down, b->rank, w->head.cols);
        tensor up = tensor_beside(parts[i], DT_BF16, b->up, parts[i]->rows, b->rank);
        up.tensor_scale = b->scale;
        NIB_TRY(pack_weight(&w->down[i], (const tensor *const[]){&down}, 1, false, team, err));
        NIB_TRY(pack_weight(&w->up[i], (const tensor *const[]){&up}, 1, false, team, err));
        w->has_branches = true;
        w->head.bytes += w->down[i]->head.bytes + w->up[i]->head.bytes;
    }
    return NIB_OK;
}

/* ---- room ---- */

nib_status branch_reserve(cpu_backend *cb, const packed *w, nib_error *err) {
    size_t cols = cb->branch_cols, rank = cb->branch_rank;
    if (w && w->head.rows > cols)
        cols = w->head.rows;
    for (size_t i = 0; w && i < w->head.n_parts; i++)
        if (w->up[i] && w->up[i]->head.cols > rank)
            rank = (w->up[i]->head.cols + ACT_PAD - 1) / ACT_PAD * ACT_PAD;
    if ((w && !w->has_branches) || rank == 0)
        return NIB_OK;
    const size_t floats = cb->max_rows * (cols + WEIGHT_MAX_PARTS * rank);
    if (floats > cb->branch_floats) {
        float *memory = mem_aligned(floats * sizeof *memory);
        if (!memory)
            return nib_fail(err, NIB_NO_MEMORY, "no memory for low-rank branches of %zu rows", cb->max_rows);
        mem_free(cb->branch);
        memset(memory, 0, floats * sizeof *memory);
        cb->branch = memory;
        cb->branch_floats = floats;
    }
    cb->branch_cols = cols;
    cb->branch_rank = rank;
    return NIB_OK;
}

void branch_close(cpu_backend *cb) {
    mem_free(cb->branch);
}

/* [max_rows, branch_rank] of part I; behind those of all parts, what is added to the product. */
static float *mid_of(const cpu_backend *cb, size_t i) {
    return cb->branch + i * cb->max_rows * cb->branch_rank;
}

/* ---- a step ---- */

static void run_down(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end, void *scratch) {
    (void)cb;
    matmul_run(&op->matmul, begin, end, scratch);
}

static void run_up(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end, void *scratch) {
    matmul_job job = op->matmul;
    const act mid = {
        .head = {.kind = BUF_ACT, .rows = job.n_rows, .cols = job.w->head.cols, .max_rows = cb->max_rows},
        .stride = cb->branch_rank,
        .f32 = mid_of(cb, op->branch_part)};
    job.a = &mid;
    matmul_run(&job, begin, end, scratch);
}

static void push(cpu_backend *cb, cpu_op_fn run, size_t part, const matmul_job *job) {
    queue_push(
        cb, &(cpu_op){.run = run,
                      .kind = CPU_OP_BRANCH,
                      .units = job->n_rows ? matmul_units(job) : 0,
                      .bytes = job->w->head.bytes + job->n_rows * (job->w->head.cols + job->w->head.rows) * 4,
                      .branch_part = part,
                      .matmul = *job});
}

void branch_push(cpu_backend *cb, const buf *a, matmul_job *job) {
    const packed *w = job->w;
    if (!w->has_branches)
        return;
    float *start = mid_of(cb, WEIGHT_MAX_PARTS);
    for (size_t i = 0; i < w->head.n_parts; i++) {
        matmul_job down = {
            .k = &cb->k, .a = (const act *)a, .n_rows = a->rows, .out_stride = cb->branch_rank};
        matmul_job up = {.k = &cb->k, .n_rows = a->rows, .out_stride = w->head.rows};
        if (!w->down[i])
            continue;
        down.w = w->down[i];
        down.out = mid_of(cb, i);
        up.w = w->up[i];
        up.out = start + w->parts[i].row0;
        push(cb, run_down, i, &down);
        push(cb, run_up, i, &up);
    }
    job->start = start;
}
