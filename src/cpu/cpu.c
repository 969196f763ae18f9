/* SPDX-License-Identifier: Apache-2.0
 *
 * The backend: opens, closes, hands out memory, begins and finishes steps. What computes is in the op files
 * (rowops, kvstore, attention, matmul) and, below them, in the kernel table.
 */
#include "cpu/cpu.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/threads.h"
#include "cpu/attention.h"
#include "cpu/features.h"
#include "cpu/kvstore.h"
#include "cpu/rowops.h"

enum { MAX_THREADS = 1024, PARTIAL_FLOATS = 1 << 21 };

/* ---- memory that grows with what the model asks for; never inside a step ---- */

static nib_status grow_rows(cpu_backend *cb, size_t rows, nib_error *err) {
    if (rows <= cb->max_rows)
        return NIB_OK;
    int32_t *positions = mem_resize(cb->positions, rows, sizeof *positions);
    if (positions)
        cb->positions = positions;
    page_run *runs = mem_resize(cb->runs, rows, sizeof *runs);
    if (runs)
        cb->runs = runs;
    if (!positions || !runs)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for steps of %zu rows", rows);
    cb->max_rows = rows;
    return NIB_OK;
}

/* Cosines and sines of max_rows rows and max_half angles, ROPE_TABLES times. */
static nib_status grow_rope(cpu_backend *cb, nib_error *err) {
    size_t table = cb->max_rows * cb->max_half;
    if (table <= cb->rope_floats)
        return NIB_OK;
    float *memory = mem_array(table * 2 * ROPE_TABLES, sizeof *memory);
    if (!memory)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for the rotary tables of %zu rows", cb->max_rows);
    mem_free(cb->rope_memory);
    cb->rope_memory = memory;
    cb->rope_floats = table;
    for (size_t i = 0; i < ROPE_TABLES; i++)
        cb->rope[i] = (rope_table){.cosines = memory + 2 * i * table, .sines = memory + (2 * i + 1) * table};
    return NIB_OK;
}

static nib_status cpu_buf_new(backend *be, buf **out, buf_kind kind, size_t max_rows, size_t cols,
                              nib_error *err) {
    cpu_backend *cb = queue_backend(be);
    NIB_TRY(grow_rows(cb, max_rows, err));
    NIB_TRY(grow_rope(cb, err));
    return act_new(out, kind, max_rows, cols, cb->int8, err);
}

static void cpu_buf_free(backend *be, buf *b) {
    (void)be;
    act_free(b);
}

static const float *cpu_buf_read(backend *be, const buf *b) {
    (void)be;
    assert(b->kind == BUF_F32);
    return b->f32;
}

static nib_status cpu_weight_pack(backend *be, weight **out, const tensor *const *parts, size_t n_parts,
                                  nib_error *err) {
    cpu_backend *cb = queue_backend(be);
    weight *w;
    NIB_TRY(pack_weight(&w, parts, n_parts, cb->int8, cb->team.threads, err));
    nib_status status = queue_reserve(cb, pack_scratch_bytes(w), err);
    if (status != NIB_OK) {
        pack_free(w);
        return status;
    }
    *out = w;
    return NIB_OK;
}

static void cpu_weight_free(backend *be, weight *w) {
    (void)be;
    pack_free(w);
}

static void cpu_weight_unpack_row(backend *be, const weight *w, size_t row, float *dst) {
    (void)be;
    pack_unpack_row(w, row, dst);
}

static nib_status cpu_kv_new(backend *be, kv_cache **out, const kv_shape *shape, nib_error *err) {
    cpu_backend *cb = queue_backend(be);
    size_t d = (size_t)shape->head_dim;
    if (d / 2 > cb->max_half) {
        cb->max_half = d / 2;
        NIB_TRY(grow_rope(cb, err));
    }
    NIB_TRY(queue_reserve(cb, attention_scratch_bytes(d), err));
    NIB_TRY(queue_reserve(cb, kvstore_scratch_bytes(d), err));
    if (!cb->partial && cb->team.threads > 1) {
        cb->partial = mem_aligned(PARTIAL_FLOATS * sizeof(float));
        if (!cb->partial)
            return nib_fail(err, NIB_NO_MEMORY, "no memory for partial attention results");
        cb->partial_floats = PARTIAL_FLOATS;
    }
    bool steps = cb->int8 && cb->k.attn_quantize && d % 64 == 0 && d <= ATTN_INT_MAX_DIM;
    return kv_cache_new(out, shape, steps, err);
}

static void cpu_kv_free(backend *be, kv_cache *kv) {
    (void)be;
    kv_cache_free(kv);
}

/* ---- steps ---- */

/* Cuts the batch into runs of rows within one KV page. */
static void cut_runs(cpu_backend *cb, const batch *b) {
    int32_t row = 0;
    cb->n_runs = 0;
    for (int32_t s = 0; s < b->n_seqs; s++) {
        const batch_seq *seq = &b->seqs[s];
        assert(seq->row == row && seq->n_rows > 0 && seq->pos >= 0);
        assert((seq->pos + seq->n_rows - 1) / KV_PAGE_TOKENS < seq->n_pages);
        for (int32_t i = 0; i < seq->n_rows;) {
            int32_t pos = seq->pos + i, slot_in_page = pos % KV_PAGE_TOKENS;
            int32_t n = KV_PAGE_TOKENS - slot_in_page;
            n = n < seq->n_rows - i ? n : seq->n_rows - i;
            cb->runs[cb->n_runs++] = (page_run){
                .row = row + i, .n = n, .page = seq->pages[pos / KV_PAGE_TOKENS], .slot = slot_in_page};
            for (int32_t j = 0; j < n; j++)
                cb->positions[row + i + j] = pos + j;
            i += n;
        }
        row += seq->n_rows;
    }
    assert(row == b->n_rows);
}

static void cpu_step_begin(backend *be, const batch *b) {
    cpu_backend *cb = queue_backend(be);
    assert(b->n_rows > 0 && (size_t)b->n_rows <= cb->max_rows && cb->n_ops == 0);
    cb->batch = b;
    cut_runs(cb, b);
    for (int i = 0; i < ROPE_TABLES; i++)
        cb->rope[i].inv_freq = NULL;
    cb->next_rope = 0;
}

/* No op on a CPU can fail; the threads for it can. */
static nib_status cpu_step_finish(backend *be, nib_error *err) {
    cpu_backend *cb = queue_backend(be);
    queue_run(cb);
    cb->batch = NULL;
    nib_status status = cb->failed;
    cb->failed = NIB_OK;
    return status == NIB_OK ? NIB_OK : nib_fail(err, status, "%s", cb->failure.text);
}

/* ---- matrix products ---- */

static void run_matmul(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end, void *scratch) {
    (void)cb;
    matmul_run(&op->matmul, begin, end, scratch);
}

static void push_matmul(backend *be, buf *out, const buf *a, const weight *w, bool add) {
    cpu_backend *cb = queue_backend(be);
    assert(out->kind == BUF_F32 && a->kind == BUF_ACT && out->cols == pack_rows(w) &&
           a->cols == pack_cols(w));
    assert(a->rows <= out->max_rows && (!add || out->rows == a->rows));
    out->rows = a->rows;
    matmul_job job = {.k = &cb->k,
                      .w = w,
                      .a = a,
                      .out = out->f32,
                      .out_stride = out->stride,
                      .n_rows = a->rows,
                      .add = add};
    queue_push(cb, &(cpu_op){.run = run_matmul,
                             .kind = add ? CPU_OP_MATMUL_ADD : CPU_OP_MATMUL,
                             .units = a->rows ? matmul_units(&job) : 0,
                             .bytes = pack_bytes(w) + a->rows * (a->cols + out->cols) * 4,
                             .out = out,
                             .in = a,
                             .weight = w,
                             .matmul = job});
}

static void cpu_matmul(backend *be, buf *out, const buf *a, const weight *w) {
    push_matmul(be, out, a, w, false);
}

static void cpu_matmul_add(backend *be, buf *x, const buf *a, const weight *w) {
    push_matmul(be, x, a, w, true);
}

static void cpu_matmul_glu(backend *be, buf *out, const buf *a, const weight *w, glu_kind kind) {
    cpu_backend *cb = queue_backend(be);
    assert(out->kind == BUF_ACT && a->kind == BUF_ACT && a->cols == pack_cols(w) && a != out);
    assert(w->n_parts == 2 && w->parts[0].rows == out->cols && w->parts[1].rows == out->cols);
    assert(a->rows <= out->max_rows);
    out->rows = a->rows;
    matmul_job job = {.k = &cb->k, .w = w, .a = a, .n_rows = a->rows, .gated = out, .glu = kind};
    queue_push(cb, &(cpu_op){.run = run_matmul,
                             .kind = CPU_OP_MATMUL_GLU,
                             .units = a->rows ? matmul_units(&job) : 0,
                             .bytes = pack_bytes(w) + a->rows * (a->cols * 4 + out->cols * 5),
                             .out = out,
                             .in = a,
                             .weight = w,
                             .matmul = job});
}

/* ---- opening and closing ---- */

static void cpu_close(backend *be) {
    if (!be)
        return;
    cpu_backend *cb = queue_backend(be);
    if (cb->scratch)
        for (int i = 0; i < cb->team.threads; i++)
            mem_free(cb->scratch[i]);
    mem_free(cb->scratch);
    team_free(&cb->team);
    mem_free(cb->ops);
    mem_free(cb->positions);
    mem_free(cb->runs);
    mem_free(cb->rope_memory);
    mem_free(cb->partial);
    mem_free(cb);
}

static void set_table(backend *be) {
    *be = (backend){
        .name = "cpu",
        .buf_new = cpu_buf_new,
        .buf_free = cpu_buf_free,
        .buf_read = cpu_buf_read,
        .weight_pack = cpu_weight_pack,
        .weight_free = cpu_weight_free,
        .weight_bytes = pack_bytes,
        .weight_unpack_row = cpu_weight_unpack_row,
        .kv_new = cpu_kv_new,
        .kv_free = cpu_kv_free,
        .kv_bytes = kv_cache_bytes,
        .step_begin = cpu_step_begin,
        .step_finish = cpu_step_finish,
        .close = cpu_close,
        .embed = rowops_embed,
        .rmsnorm = rowops_rmsnorm,
        .rmsnorm_out = rowops_rmsnorm_out,
        .rmsnorm_add = rowops_rmsnorm_add,
        .matmul = cpu_matmul,
        .matmul_add = cpu_matmul_add,
        .qk_norm_rope_store = kvstore_qk_norm_rope_store,
        .attention = attention_attend,
        .matmul_glu = cpu_matmul_glu,
        .sum_squares = rowops_sum_squares,
    };
}

nib_status cpu_open(backend **out, const cpu_options *options, nib_error *err) {
    int threads = options->threads ? options->threads : cpu_physical_cores();
    if (threads < 1 || threads > MAX_THREADS)
        return nib_fail(err, NIB_BAD_ARGUMENT, "%d threads: expected 1 to %d", threads, MAX_THREADS);
    cpu_backend *cb = mem_aligned(sizeof *cb);
    if (!cb)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for the CPU backend");
    memset(cb, 0, sizeof *cb);
    set_table(&cb->be);
    nib_status status = team_init(&cb->team, threads, features_cpus(), err);
    if (status == NIB_OK)
        status = threads_ready(threads, err); /* a step would tell too, but late */
    cb->ops = mem_array(QUEUE_OPS, sizeof *cb->ops);
    cb->scratch = mem_array((size_t)threads, sizeof *cb->scratch);
    if (status == NIB_OK && (!cb->ops || !cb->scratch))
        status = nib_fail(err, NIB_NO_MEMORY, "no memory for the CPU backend");
    if (status != NIB_OK) {
        cpu_close(&cb->be);
        return status;
    }
    kernels_init(&cb->k, features_lowered(options->features));
    cb->int8 = options->activations != NIB_ACTIVATIONS_F32;
    const char *how = !cb->int8             ? "activations f32 (exact)"
                      : cb->k.attn_quantize ? "activations int8 (a scale per 16), attention in integers"
                                            : "activations int8 (a scale per 16)";
    snprintf(cb->be.path, sizeof cb->be.path, "cpu %s, %s", cb->k.rung, how);
    *out = &cb->be;
    return NIB_OK;
}

int cpu_threads(const backend *be) {
    return ((const cpu_backend *)be)->team.threads;
}

void cpu_profile_start(backend *be) {
    static const char *const names[CPU_OP_KINDS] = {
        [CPU_OP_EMBED] = "embed",
        [CPU_OP_RMSNORM] = "rmsnorm",
        [CPU_OP_RMSNORM_OUT] = "rmsnorm_out",
        [CPU_OP_RMSNORM_ADD] = "rmsnorm_add",
        [CPU_OP_MATMUL] = "matmul",
        [CPU_OP_MATMUL_ADD] = "matmul_add",
        [CPU_OP_MATMUL_GLU] = "matmul_glu",
        [CPU_OP_ROPE_TABLE] = "rope_table",
        [CPU_OP_QK_NORM_ROPE_STORE] = "qk_norm_rope_store",
        [CPU_OP_ATTENTION] = "attention",
        [CPU_OP_ATTENTION_JOIN] = "attention_join",
        [CPU_OP_QUANTIZE] = "quantize",
        [CPU_OP_SUM_SQUARES] = "sum_squares",
    };
    cpu_backend *cb = queue_backend(be);
    cb->profiling = true;
    for (int i = 0; i < CPU_OP_KINDS; i++)
        cb->profile[i] = (cpu_profile_row){.name = names[i]};
}

void cpu_profile_stop(backend *be) {
    queue_backend(be)->profiling = false;
}

const cpu_profile_row *cpu_profile(const backend *be) {
    return ((const cpu_backend *)be)->profile;
}
