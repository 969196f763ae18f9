/* SPDX-License-Identifier: Apache-2.0
 *
 * The backend: opens, closes, hands out memory, begins and finishes steps. What computes is in the op files
 * (rowops, kvstore, attention, matmul) and, below them, in the kernel table.
 */
#include "cpu/cpu.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/cores.h"
#include "base/mem.h"
#include "cpu/attention.h"
#include "cpu/branch.h"
#include "cpu/features.h"
#include "cpu/kvstore.h"
#include "cpu/rowops.h"
#include "cpu/sample.h"

enum { MAX_THREADS = 1024, PARTIAL_FLOATS = 1 << 24 /* of memory that is not there before it is used */ };

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
    const size_t before = cb->max_rows;
    cb->max_rows = rows;
    const nib_status status = branch_reserve(cb, NULL, err);
    if (status != NIB_OK)
        cb->max_rows = before; /* as many as there is room for */
    return status;
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

/* One rank: every split is whole. */
static nib_status cpu_buf_new(backend *be, buf **out, buf_kind kind, split_kind split, size_t max_rows,
                              size_t cols, nib_error *err) {
    cpu_backend *cb = queue_backend(be);
    act *b;
    (void)split;
    NIB_TRY(grow_rows(cb, max_rows, err));
    NIB_TRY(grow_rope(cb, err));
    if (kind == BUF_F32) /* any may be sampled from */
        NIB_TRY(queue_reserve(cb, sample_scratch_bytes(cols), err));
    NIB_TRY(act_new(&b, kind, max_rows, cols, cb->int8, err));
    *out = &b->head;
    return NIB_OK;
}

static void cpu_buf_free(backend *be, buf *b) {
    (void)be;
    act_free((act *)b);
}

/* Rows on their way between the host and a buffer. */
typedef struct copying {
    const cpu_backend *cb;
    act *a;
    const float *from; /* into A; NULL: TO gets them */
    float *to;
} copying;

enum { COPIED_ROWS = 32 }; /* by a thread at a time */

static void copy_rows(void *arg, int thread, size_t begin, size_t end) {
    const copying *c = arg;
    const size_t cols = c->a->head.cols;
    (void)thread;
    for (size_t r = begin; r < end; r++) {
        if (c->to) {
            memcpy(c->to + r * cols, act_row(c->a, r), cols * sizeof *c->to);
            continue;
        }
        memcpy(act_row(c->a, r), c->from + r * cols, cols * sizeof *c->from);
        rowops_quantize(c->cb, c->a, r, 0, cols);
    }
}

static void cpu_buf_write(backend *be, buf *b, const float *values, size_t rows, const weight *reader) {
    cpu_backend *cb = queue_backend(be);
    copying c = {.cb = cb, .a = (act *)b, .from = values};
    (void)reader;
    assert(rows <= b->max_rows);
    b->rows = rows;
    pool_for(cb->pool, rows, COPIED_ROWS, copy_rows, &c);
}

static void cpu_buf_read(backend *be, const buf *b, float *dst) {
    cpu_backend *cb = queue_backend(be);
    copying c = {.cb = cb, .a = (act *)b, .to = dst};
    pool_for(cb->pool, b->rows, COPIED_ROWS, copy_rows, &c);
}

static const float *cpu_buf_view(backend *be, const buf *b) {
    (void)be;
    assert(b->kind == BUF_F32);
    return ((const act *)b)->f32;
}

static nib_status cpu_vec_new(backend *be, vec **out, vec_kind kind, size_t n, const void *values,
                              nib_error *err) {
    cpu_vec *v;
    (void)be;
    NIB_TRY(act_vec_new(&v, kind, n, values, err));
    *out = &v->head;
    return NIB_OK;
}

static void cpu_vec_read(backend *be, const vec *v, void *dst) {
    (void)be;
    memcpy(dst, ((const cpu_vec *)v)->values, v->n * (v->kind == VEC_F32 ? sizeof(float) : sizeof(double)));
}

static void cpu_vec_free(backend *be, vec *v) {
    (void)be;
    act_vec_free((cpu_vec *)v);
}

/* Scratch for the products with W and with its branches' matrices. */
static nib_status reserve_scratch(cpu_backend *cb, const packed *w, nib_error *err) {
    size_t bytes = pack_scratch_bytes(w);
    for (size_t i = 0; i < w->head.n_parts; i++) {
        const size_t up = w->up[i] ? pack_scratch_bytes(w->up[i]) : 0; /* down has W's columns */
        bytes = up > bytes ? up : bytes;
    }
    return queue_reserve(cb, bytes, err);
}

static nib_status cpu_weight_pack(backend *be, weight **out, const tensor *const *parts, size_t n_parts,
                                  split_kind split, nib_error *err) {
    cpu_backend *cb = queue_backend(be);
    packed *w;
    NIB_TRY(rowops_note_weight(cb, parts, n_parts, err));
    NIB_TRY(pack_weight(&w, parts, n_parts, cb->int8, cb->pool, err));
    nib_status status = branch_pack(w, parts, cb->pool, err);
    if (status == NIB_OK && be->owns_weights)
        status = pack_own(w, err);
    if (status == NIB_OK)
        status = branch_reserve(cb, w, err);
    if (status == NIB_OK)
        status = reserve_scratch(cb, w, err);
    if (status != NIB_OK) {
        pack_free(w);
        return status;
    }
    w->head.split = split;
    *out = &w->head;
    return NIB_OK;
}

static void cpu_weight_free(backend *be, weight *w) {
    (void)be;
    pack_free((packed *)w);
}

static void cpu_weight_unpack_row(backend *be, const weight *w, size_t row, float *dst) {
    (void)be;
    pack_unpack_row(pack_of(w), row, dst);
}

/* ---- caches ---- */

static bool keeps_steps(const cpu_backend *cb, const cache_shape *shape) {
    size_t d = (size_t)shape->head_dim;
    return cb->int8 && cb->k.attn_quantize && d % 64 == 0 && d <= ATTN_INT_MAX_DIM;
}

static size_t cpu_cache_page_bytes(backend *be, const cache_shape *shape) {
    return kv_page_bytes(shape, keeps_steps(queue_backend(be), shape));
}

/* What attention over heads of D dimensions needs beside the pages. */
static nib_status reserve_attention(cpu_backend *cb, size_t d, nib_error *err) {
    if (d / 2 > cb->max_half) {
        cb->max_half = d / 2;
        NIB_TRY(grow_rope(cb, err));
    }
    NIB_TRY(queue_reserve(cb, attention_scratch_bytes(d), err));
    NIB_TRY(queue_reserve(cb, kvstore_scratch_bytes(d), err));
    if (cb->partial || cb->threads == 1)
        return NIB_OK;
    cb->partial = mem_aligned(PARTIAL_FLOATS * sizeof(float));
    if (!cb->partial)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for partial attention results");
    cb->partial_floats = PARTIAL_FLOATS;
    return NIB_OK;
}

static void cpu_cache_free(backend *be, cache *c) {
    (void)be;
    for (int i = 0; c && i < c->n_groups; i++)
        kv_close(kv_group(c, i));
    mem_free(c);
}

static nib_status cpu_cache_new(backend *be, cache **out, const cache_shape *shapes, int n_groups,
                                nib_error *err) {
    cpu_backend *cb = queue_backend(be);
    assert(n_groups > 0 && n_groups <= CACHE_MAX_GROUPS);
    cpu_cache *c = mem_array(1, sizeof *c);
    if (!c)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a cache");
    nib_status status = NIB_OK;
    for (int i = 0; i < n_groups && status == NIB_OK; i++) {
        const cache_shape *s = &shapes[i];
        c->head.shapes[c->head.n_groups++] = *s;
        c->head.bytes += cpu_cache_page_bytes(be, s) * (size_t)s->group.n_pages;
        status = reserve_attention(cb, (size_t)s->head_dim, err);
        if (status == NIB_OK)
            status = kv_open(&c->groups[i], s, keeps_steps(cb, s), err);
    }
    if (status != NIB_OK) {
        cpu_cache_free(be, &c->head);
        return status;
    }
    *out = &c->head;
    return NIB_OK;
}

static void cpu_cache_copy(backend *be, cache *c, int group, int32_t to, int32_t from) {
    (void)be;
    kv_copy_page(kv_group(c, group), to, from);
}

/* ---- steps ---- */

/* Cuts the batch into runs of rows within one KV page. */
static void cut_runs(cpu_backend *cb, const batch *b) {
    cb->n_runs = 0;
    for (int32_t s = 0; s < b->n_seqs; s++) {
        const batch_seq *seq = &b->seqs[s];
        for (int32_t i = 0; i < seq->n_rows;) {
            int32_t row = seq->row + i, pos = seq->pos + i, slot_in_page = pos % KV_PAGE_TOKENS;
            int32_t n = KV_PAGE_TOKENS - slot_in_page;
            n = n < seq->n_rows - i ? n : seq->n_rows - i;
            cb->runs[cb->n_runs++] =
                (page_run){.row = row, .n = n, .seq = s, .page = pos / KV_PAGE_TOKENS, .slot = slot_in_page};
            for (int32_t j = 0; j < n; j++)
                cb->positions[row + j] = pos + j;
            i += n;
        }
    }
}

/* Nothing is replayed: queueing costs microseconds. */
static bool cpu_step_begin(backend *be, const batch *b, uint64_t key) {
    cpu_backend *cb = queue_backend(be);
    (void)key;
    assert((size_t)b->n_rows <= cb->max_rows && cb->n_ops == 0);
    cut_runs(cb, b);
    for (int i = 0; i < ROPE_TABLES; i++)
        cb->rope[i].inv_freq = NULL;
    cb->next_rope = 0;
    return false;
}

/* The caller's thread is one of those that compute, so nothing is done before. No op on a CPU can fail. */
static nib_status cpu_step_wait(backend *be, nib_error *err) {
    cpu_backend *cb = queue_backend(be);
    (void)err;
    queue_run(cb);
    return NIB_OK;
}

/* ---- matrix products ---- */

static void run_matmul(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end, void *scratch) {
    (void)cb;
    matmul_run(&op->matmul, begin, end, scratch);
}

static void push_matmul(backend *be, buf *out, const buf *a, const weight *w, const vec *bias, bool add) {
    cpu_backend *cb = queue_backend(be);
    matmul_job job = {.k = &cb->k,
                      .w = pack_of(w),
                      .a = (const act *)a,
                      .out = ((act *)out)->f32,
                      .out_stride = ((act *)out)->stride,
                      .n_rows = a->rows,
                      .add = add,
                      .bias = vec_f32(bias)};
    branch_push(cb, a, &job);
    rowops_push_rounding(cb, a, w);
    queue_push(cb, &(cpu_op){.run = run_matmul,
                             .kind = add ? CPU_OP_MATMUL_ADD : CPU_OP_MATMUL,
                             .units = a->rows ? matmul_units(&job) : 0,
                             .bytes = w->bytes + a->rows * (a->cols + out->cols) * 4,
                             .matmul = job});
}

static void cpu_matmul(backend *be, buf *out, const buf *a, const weight *w, const vec *bias) {
    push_matmul(be, out, a, w, bias, false);
}

static void cpu_matmul_add(backend *be, buf *x, const buf *a, const weight *w, const vec *bias) {
    push_matmul(be, x, a, w, bias, true);
}

static void cpu_matmul_glu(backend *be, buf *out, const buf *a, const weight *w, glu_kind kind,
                           const weight *reader) {
    cpu_backend *cb = queue_backend(be);
    (void)reader; /* one activation format for all */
    matmul_job job = {.k = &cb->k,
                      .w = pack_of(w),
                      .a = (const act *)a,
                      .n_rows = a->rows,
                      .gated = (act *)out,
                      .glu = kind};
    branch_push(cb, a, &job);
    rowops_push_rounding(cb, a, w);
    queue_push(cb, &(cpu_op){.run = run_matmul,
                             .kind = CPU_OP_MATMUL_GLU,
                             .units = a->rows ? matmul_units(&job) : 0,
                             .bytes = w->bytes + a->rows * (a->cols * 4 + out->cols * 5),
                             .matmul = job});
}

/* ---- opening and closing ---- */

static void cpu_close(backend *be) {
    if (!be)
        return;
    cpu_backend *cb = queue_backend(be);
    if (cb->scratch)
        for (int i = 0; i < cb->threads; i++)
            mem_free(cb->scratch[i]);
    mem_free(cb->scratch);
    pool_free(cb->pool);
    mem_free(cb->ops);
    mem_free(cb->positions);
    mem_free(cb->runs);
    mem_free(cb->rope_memory);
    mem_free(cb->partial);
    branch_close(cb);
    mem_free(cb);
}

static void set_table(backend *be) {
    *be = (backend){
        .name = "cpu",
        .row_bits_fixed = true,
        .caps = true,
        .query_log = true,
        .key_means = true,
        .branches = true,
        .n_ranks = 1,
        .buf_new = cpu_buf_new,
        .buf_free = cpu_buf_free,
        .buf_write = cpu_buf_write,
        .buf_read = cpu_buf_read,
        .buf_view = cpu_buf_view,
        .vec_new = cpu_vec_new,
        .vec_read = cpu_vec_read,
        .vec_free = cpu_vec_free,
        .weight_pack = cpu_weight_pack,
        .weight_free = cpu_weight_free,
        .weight_unpack_row = cpu_weight_unpack_row,
        .cache_page_bytes = cpu_cache_page_bytes,
        .cache_new = cpu_cache_new,
        .cache_free = cpu_cache_free,
        .cache_copy = cpu_cache_copy,
        .step_begin = cpu_step_begin,
        .step_wait = cpu_step_wait,
        .profile_start = queue_profile_start,
        .profile_stop = queue_profile_stop,
        .close = cpu_close,
        .op = {.embed = rowops_embed,
               .rmsnorm = rowops_rmsnorm,
               .rmsnorm_out = rowops_rmsnorm_out,
               .rmsnorm_add = rowops_rmsnorm_add,
               .matmul = cpu_matmul,
               .matmul_add = cpu_matmul_add,
               .matmul_glu = cpu_matmul_glu,
               .qk_norm_rope_store = kvstore_qk_norm_rope_store,
               .attention = attention_attend,
               .softcap = rowops_softcap,
               .sum_squares = rowops_sum_squares,
               .sample = sample_tokens},
    };
}

nib_status cpu_open(backend **out, const cpu_options *options, nib_error *err) {
    int threads = options->threads ? options->threads : cores_physical();
    if (threads < 1 || threads > MAX_THREADS)
        return nib_fail(err, NIB_BAD_ARGUMENT, "%d threads: expected 1 to %d", threads, MAX_THREADS);
    cpu_backend *cb = mem_aligned(sizeof *cb);
    if (!cb)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for the CPU backend");
    memset(cb, 0, sizeof *cb);
    set_table(&cb->be);
    cb->threads = threads;
    nib_status status = pool_new(&cb->pool, threads, err);
    cb->ops = mem_array(QUEUE_OPS, sizeof *cb->ops);
    cb->scratch = mem_array((size_t)threads, sizeof *cb->scratch);
    if (status == NIB_OK && (!cb->ops || !cb->scratch))
        status = nib_fail(err, NIB_NO_MEMORY, "no memory for the CPU backend");
    if (status != NIB_OK) {
        cpu_close(&cb->be);
        return status;
    }
    static const char *const rounded[] = {
        [CPU_ROUND_NONE] = "activations f32 (exact)",
        [CPU_ROUND_FP8] = "activations rounded to fp8 (a scale per row)",
        [CPU_ROUND_NVFP4] = "activations rounded to nvfp4 (a tensor scale per row)",
        [CPU_ROUND_4OVER6] = "activations rounded to nvfp4 (4over6, a tensor scale per row)",
        [CPU_ROUND_CLAMP] = "activations rounded to nvfp4, a row's largest hundredth beyond a clamp exact",
        [CPU_ROUND_MXFP4] = "activations rounded to mxfp4"};
    kernels_init(&cb->k, features_lowered(options->features));
    cb->int8 = options->activations != NIB_ACTIVATIONS_F32;
    cb->rounding = options->rounding;
    cb->round_kv = options->round_kv;
    cb->be.rounds_keys = options->round_kv;
    cb->be.qk_rotation = options->qk_rotation;
    assert(!cb->int8 || (!cb->rounding && !cb->round_kv && !options->qk_rotation));
    const char *how = !cb->int8             ? rounded[cb->rounding]
                      : cb->k.attn_quantize ? "activations int8 (a scale per 16), attention in integers"
                                            : "activations int8 (a scale per 16)";
    cb->be.mode = cb->int8 ? COMPUTE_W4A8_INT8 : COMPUTE_EXACT;
    snprintf(cb->be.path, sizeof cb->be.path, "cpu %s, %s", cb->k.rung, how);
    *out = &cb->be;
    return NIB_OK;
}

int cpu_threads(const backend *be) {
    return ((const cpu_backend *)be)->threads;
}
