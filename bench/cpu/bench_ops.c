/* SPDX-License-Identifier: Apache-2.0
 *
 * Time, bytes and GB/s of every op of ops/op_list.h on the shapes of real models, beside the machine's
 * measured read bandwidth. Weights are random NVFP4; a matrix product goes round enough copies of its weight
 * to come from memory, not from a cache.
 *
 *   bench_ops [threads] [features mask] [rows]      defaults: physical cores, all, 1
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cpu/act.h"
#include "cpu/cpu.h"
#include "ops/op_list.h"

enum { MAX_ROWS = 512, DEPTH = 4096, COPIES_BYTES = 192 << 20, MAX_COPIES = 256 };

static void die(const char *words) {
    fprintf(stderr, "bench_ops: %s\n", words);
    exit(1);
}

static uint32_t next_random(void) {
    static uint64_t x = 88172645463325252u;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return (uint32_t)(x >> 32);
}

/* NVFP4, of N_PARTS equal parts (at most 2). */
static weight *random_weight(backend *be, size_t rows, size_t cols, size_t n_parts) {
    nib_error err;
    weight *w = NULL;
    uint8_t *codes = malloc(rows * cols / 2), *scales = malloc(rows * cols / 16);
    if (!codes || !scales)
        die("no memory");
    for (size_t i = 0; i < rows * cols / 2; i++)
        codes[i] = (uint8_t)next_random();
    for (size_t i = 0; i < rows * cols / 16; i++)
        scales[i] = (uint8_t)(0x30 + next_random() % 16);
    tensor t = {.name = "w",
                .dtype = DT_NVFP4,
                .rows = rows / n_parts,
                .cols = cols,
                .n_dims = 2,
                .dims = {rows / n_parts, cols},
                .data = codes,
                .bytes = rows / n_parts * cols / 2,
                .block_scales = scales,
                .tensor_scale = 0.01f};
    tensor second = t;
    second.data = codes + t.bytes;
    second.block_scales = scales + t.bytes / 8;
    const tensor *parts[] = {&t, &second};
    if (be->weight_pack(be, &w, parts, n_parts, &err) != NIB_OK)
        die(err.text);
    return w; /* codes and scales live as long as the program */
}

static buf *random_buf(backend *be, buf_kind kind, size_t rows, size_t cols) {
    nib_error err;
    buf *b = NULL;
    if (be->buf_new(be, &b, kind, MAX_ROWS, cols, &err) != NIB_OK)
        die(err.text);
    b->rows = rows;
    for (size_t i = 0; i < MAX_ROWS * b->stride; i++)
        b->f32[i] = (float)(next_random() >> 8) * 0x1p-23f - 1;
    return b;
}

typedef struct rig {
    backend *be;
    const op_shape *shape;
    size_t rows;
    batch b;
    batch_seq seq;
    int32_t tokens[MAX_ROWS], pages[(DEPTH + MAX_ROWS) / KV_PAGE_TOKENS], out_rows[MAX_ROWS];
    buf *x, *y, *h, *wide, *q, *a, *ffn, *ffn_act;
    kv_cache *kv;
    int n_layers;
    float *norm, *inv_freq;
    double *sums;
} rig;

static void rig_open(rig *r, backend *be, const op_shape *s, size_t rows) {
    size_t d = (size_t)s->head_dim, h = (size_t)s->n_heads, g = (size_t)s->n_kv_heads;
    size_t dim = (size_t)s->dim, ffn = (size_t)s->ffn_dim, most = ffn > d ? ffn : d;
    *r = (rig){.be = be, .shape = s, .rows = rows};
    for (int32_t i = 0; i < MAX_ROWS; i++)
        r->out_rows[i] = i;
    for (int32_t i = 0; i < (DEPTH + MAX_ROWS) / KV_PAGE_TOKENS; i++)
        r->pages[i] = i;
    r->seq = (batch_seq){
        .pages = r->pages, .n_pages = (DEPTH + MAX_ROWS) / KV_PAGE_TOKENS, .n_rows = (int32_t)rows};
    r->b = (batch){.tokens = r->tokens,
                   .n_rows = (int32_t)rows,
                   .seqs = &r->seq,
                   .n_seqs = 1,
                   .out_rows = r->out_rows,
                   .n_out = (int32_t)rows};
    r->x = random_buf(be, BUF_F32, rows, dim);
    r->y = random_buf(be, BUF_F32, rows, dim);
    r->h = random_buf(be, BUF_ACT, rows, dim);
    r->wide = random_buf(be, BUF_F32, rows, (h + 2 * g) * d);
    r->q = random_buf(be, BUF_F32, rows, h * d);
    r->a = random_buf(be, BUF_ACT, rows, h * d);
    r->ffn = random_buf(be, BUF_F32, rows, 2 * ffn);
    r->ffn_act = random_buf(be, BUF_ACT, rows, ffn);
    r->norm = malloc(most * sizeof *r->norm);
    r->inv_freq = malloc(d / 2 * sizeof *r->inv_freq);
    r->sums = calloc(most, sizeof *r->sums);
    if (!r->norm || !r->inv_freq || !r->sums)
        die("no memory");
    for (size_t i = 0; i < most; i++)
        r->norm[i] = 1;
    for (size_t i = 0; i < d / 2; i++)
        r->inv_freq[i] = 1.0f / (float)(i + 1);
    size_t layer_bytes = (size_t)4 * g * d * (DEPTH + MAX_ROWS); /* BF16 keys and values */
    r->n_layers = rows > 16 ? 1 : (int)(COPIES_BYTES / layer_bytes) + 1;
    kv_shape kv = {.n_layers = r->n_layers,
                   .n_kv_heads = s->n_kv_heads,
                   .head_dim = s->head_dim,
                   .n_pages = (DEPTH + MAX_ROWS) / KV_PAGE_TOKENS,
                   .dtype = NIB_KV_BF16};
    nib_error err;
    if (be->kv_new(be, &r->kv, &kv, &err) != NIB_OK)
        die(err.text);
}

static void rig_close(rig *r) {
    buf *all[] = {r->x, r->y, r->h, r->wide, r->q, r->a, r->ffn, r->ffn_act};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        r->be->buf_free(r->be, all[i]);
    r->be->kv_free(r->be, r->kv);
    free(r->norm);
    free(r->inv_freq);
    free(r->sums);
}

static attn_params params_of(const rig *r, bool windowed) {
    const op_shape *s = r->shape;
    return (attn_params){.n_heads = s->n_heads,
                         .n_kv_heads = s->n_kv_heads,
                         .head_dim = s->head_dim,
                         .q_norm = s->qk_norm ? r->norm : NULL,
                         .k_norm = s->qk_norm ? r->norm : NULL,
                         .norm_eps = 1e-6f,
                         .inv_freq = r->inv_freq,
                         .interleaved = s->interleaved,
                         .scale = 0.1f,
                         .window = windowed ? s->window : 0};
}

/* Queues call I of an op. */
static void queue_op(rig *r, op_id op, weight *w, bool windowed, int i) {
    backend *be = r->be;
    attn_params p = params_of(r, windowed);
    p.layer = i % r->n_layers;
    switch (op) {
    case OP_embed:
        be->embed(be, r->x, w, 1.5f);
        break;
    case OP_rmsnorm:
        be->rmsnorm(be, r->h, r->x, r->norm, 1e-6f);
        break;
    case OP_rmsnorm_out:
        be->rmsnorm_out(be, r->h, r->x, r->norm, 1e-6f);
        break;
    case OP_rmsnorm_add:
        be->rmsnorm_add(be, r->x, r->y, r->norm, 1e-6f);
        break;
    case OP_matmul:
        be->matmul(be, r->ffn, r->h, w);
        break;
    case OP_matmul_add:
        be->matmul_add(be, r->x, r->ffn_act, w);
        break;
    case OP_qk_norm_rope_store:
        be->qk_norm_rope_store(be, r->q, r->wide, &p, r->kv);
        break;
    case OP_attention:
        be->attention(be, r->a, r->q, &p, r->kv);
        break;
    case OP_matmul_glu:
        be->matmul_glu(be, r->ffn_act, r->h, w, r->shape->qk_norm ? GLU_GELU_TANH : GLU_SILU);
        break;
    case OP_sum_squares:
        be->sum_squares(be, r->sums, r->ffn_act);
        break;
    case OP_COUNT:
        break;
    }
}

/* Fills every page: memory that was never written is not read from memory. */
static void touch_pages(rig *r) {
    attn_params p = params_of(r, false);
    batch_seq seq = r->seq;
    batch b = {.tokens = r->tokens, .n_rows = MAX_ROWS, .seqs = &seq, .n_seqs = 1};
    nib_error err;
    size_t rows = r->wide->rows;
    r->wide->rows = MAX_ROWS;
    seq.n_rows = MAX_ROWS;
    for (seq.pos = 0; seq.pos < DEPTH + MAX_ROWS; seq.pos += MAX_ROWS) {
        r->be->step_begin(r->be, &b);
        for (p.layer = 0; p.layer < r->n_layers; p.layer++)
            r->be->qk_norm_rope_store(r->be, r->q, r->wide, &p, r->kv);
        if (r->be->step_finish(r->be, &err) != NIB_OK)
            die(err.text);
    }
    r->wide->rows = rows;
    r->q->rows = rows;
}

/* Best time of one call, from steps of several; and its bytes, as the profile counts them. */
static void bench_op(rig *r, op_id op, weight *const *weights, int n_weights, int depth, bool windowed,
                     double bandwidth) {
    backend *be = r->be;
    int calls = r->rows > 16 ? 8 : 64;
    calls = n_weights > calls ? n_weights : calls;
    double best = 1e9;
    nib_error err;
    r->seq.pos = depth;
    if (op == OP_attention)
        touch_pages(r);
    for (int pass = 0; pass < 9; pass++) {
        be->step_begin(be, &r->b);
        for (int i = 0; i < calls; i++)
            queue_op(r, op, n_weights ? weights[i % n_weights] : NULL, windowed, i);
        double start = clock_seconds();
        if (be->step_finish(be, &err) != NIB_OK)
            die(err.text);
        double each = (clock_seconds() - start) / calls;
        best = each < best && pass > 0 ? each : best;
        if (pass == 7)
            cpu_profile_start(be); /* the last pass counts bytes */
    }
    const cpu_profile_row *rows = cpu_profile(be);
    uint64_t bytes = 0;
    for (int i = 0; i < CPU_OP_KINDS; i++)
        bytes += i == CPU_OP_ROPE_TABLE ? 0 : rows[i].bytes;
    cpu_profile_stop(be);
    double per_call = (double)bytes / calls, rate = per_call / best;
    printf("| %s | %s%s | %zu | %d | %.2f | %.0f | %.2f | %.0f %% |\n", r->shape->name, op_infos[op].name,
           windowed ? " (window)" : "", r->rows, depth, best * 1e6, per_call / 1e3, rate / 1e9,
           100 * rate / bandwidth);
}

static void bench_weights(rig *r, op_id op, size_t rows, size_t cols, double bandwidth) {
    weight *weights[MAX_COPIES];
    size_t each = rows * cols * 9 / 16;
    int n = r->rows > 16 || op == OP_embed ? 1 : (int)(COPIES_BYTES / each) + 1;
    n = n < MAX_COPIES ? n : MAX_COPIES;
    for (int i = 0; i < n; i++)
        weights[i] = random_weight(r->be, rows, cols, op == OP_matmul_glu ? 2 : 1);
    bench_op(r, op, weights, n, 0, false, bandwidth);
    for (int i = 0; i < n; i++)
        r->be->weight_free(r->be, weights[i]);
}

static void bench_shape(backend *be, const op_shape *s, size_t rows, double bandwidth) {
    static rig r;
    rig_open(&r, be, s, rows);
    size_t dim = (size_t)s->dim, ffn = (size_t)s->ffn_dim;
    for (int op = 0; op < OP_COUNT; op++) {
        if (op == OP_embed)
            bench_weights(&r, OP_embed, 1024, dim, bandwidth);
        else if (op == OP_matmul || op == OP_matmul_glu)
            bench_weights(&r, (op_id)op, 2 * ffn, dim, bandwidth);
        else if (op == OP_matmul_add)
            bench_weights(&r, OP_matmul_add, dim, ffn, bandwidth);
        else
            bench_op(&r, (op_id)op, NULL, 0, 0, false, bandwidth);
    }
    bench_op(&r, OP_attention, NULL, 0, DEPTH, false, bandwidth);
    if (s->window)
        bench_op(&r, OP_attention, NULL, 0, DEPTH, true, bandwidth);
    rig_close(&r);
}

int main(int argc, char **argv) {
    nib_error err;
    backend *be = NULL;
    cpu_options options = {.threads = argc > 1 ? atoi(argv[1]) : 0,
                           .features = argc > 2 ? (uint32_t)atoi(argv[2]) : 0};
    size_t rows = argc > 3 ? (size_t)atoi(argv[3]) : 1;
    if (rows < 1 || rows > MAX_ROWS)
        die("rows: expected 1 to 512");
    if (cpu_open(&be, &options, &err) != NIB_OK)
        die(err.text);
    double bandwidth = cpu_read_bandwidth(options.threads);
    printf("%s, %d threads, read bandwidth %.1f GB/s\n\n", be->path, cpu_threads(be), bandwidth / 1e9);
    printf(
        "| shape | op | rows | depth | us | KB | GB/s | of bandwidth |\n|---|---|---|---|---|---|---|---|\n");
    for (size_t i = 0; i < OP_N_SHAPES; i++)
        if (op_shapes[i].dim > 100)
            bench_shape(be, &op_shapes[i], rows, bandwidth);
    be->close(be);
    return 0;
}
