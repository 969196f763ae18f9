/* SPDX-License-Identifier: Apache-2.0
 *
 * The benchmark of products. One call times one shape; buffers are made for it and freed.
 */
#include "gemm/bench.h"

#include <stdlib.h>
#include <string.h>

#include <cuda_runtime_api.h>

#include "base/clock.h"
#include "base/status.h"
#include "gemm/gpu/blaslt.h"
#include "gemm/gpu/check.h"
#include "gemm/gpu/launch.h"

#define MAX_COPIES   24
#define BLAS_BYTES   ((size_t)64 << 20)
#define READ_BYTES   ((size_t)4 << 30)
#define COLD_BYTES   ((size_t)256 << 20) /* of weights in turn: several times any L2 */
#define REPLAYS      9
#define WARM_SECONDS 0.03

struct bench {
    nib_gemm *g;
    blaslt *lt; /* NULL where there is none */
    cudaStream_t stream;
    cudaEvent_t begin, end;
};

/* Everything of one shape. */
typedef struct setting {
    bench *b;
    size_t m, n, k;
    void *a, *d, *workspace, *codes_of[MAX_COPIES], *wide_of[MAX_COPIES];
    void *a8;
    float *a_scale, *w_scale;
    nib_gemm_weight *weights[MAX_COPIES];
    int n_copies;
    size_t workspace_bytes;
    nib_gemm_product product;
    blaslt_product *blas;
    const void *own; /* of the function that is timed */
} setting;

typedef nib_status (*enqueue)(setting *s, int i, nib_error *err);

#define CUDA_TRY(x) NIB_TRY(check_cuda((x), "benchmark", err))

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static nib_status replay(bench *b, cudaGraphExec_t graph, int n, double *us, nib_error *err) {
    double times[REPLAYS], began = clock_seconds();
    int i = -1; /* below 0: warming up, until the clocks stand */
    while (i < REPLAYS) {
        float ms = 0.0f;
        CUDA_TRY(cudaEventRecord(b->begin, b->stream));
        CUDA_TRY(cudaGraphLaunch(graph, b->stream));
        CUDA_TRY(cudaEventRecord(b->end, b->stream));
        CUDA_TRY(cudaStreamSynchronize(b->stream));
        CUDA_TRY(cudaEventElapsedTime(&ms, b->begin, b->end));
        if (i >= 0)
            times[i] = (double)ms * 1000.0 / n;
        if (i >= 0 || clock_seconds() - began > WARM_SECONDS)
            i++;
    }
    qsort(times, REPLAYS, sizeof *times, by_value);
    *us = times[REPLAYS / 2];
    return NIB_OK;
}

/* Median time of one call of F in a graph of N. */
static nib_status time_graph(setting *s, enqueue f, int n, double *us, nib_error *err) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    CUDA_TRY(cudaStreamBeginCapture(s->b->stream, cudaStreamCaptureModeThreadLocal));
    nib_status status = NIB_OK;
    for (int i = 0; i < n && status == NIB_OK; i++)
        status = f(s, i, err);
    cudaError_t captured = cudaStreamEndCapture(s->b->stream, &graph);
    NIB_TRY(status);
    CUDA_TRY(captured);
    CUDA_TRY(cudaGraphInstantiate(&exec, graph, 0));
    status = replay(s->b, exec, n, us, err);
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    return status;
}

static nib_status run_ours(setting *s, int i, nib_error *err) {
    s->product.weight = s->weights[i % s->n_copies];
    return nib_gemm_matmul(s->b->g, &s->product, s->workspace, s->workspace_bytes, s->b->stream, err);
}

static nib_status run_blas(setting *s, int i, nib_error *err) {
    const void *a = s->product.a_type == NIB_GEMM_E4M3 ? s->a8 : s->a;
    int e = blaslt_run(s->blas, s->wide_of[i % s->n_copies], a, NULL, s->d, NULL, s->workspace, s->b->stream);
    return e ? nib_fail(err, NIB_IO, "cuBLASLt: error %d", e) : NIB_OK;
}

nib_status bench_open(int device, bench **out, bench_device *facts, nib_error *err) {
    bench *b = calloc(1, sizeof *b);
    *out = NULL;
    if (!b)
        return nib_fail(err, NIB_NO_MEMORY, "benchmark: out of memory");
    nib_status status = nib_gemm_open(device, &b->g, err);
    if (status != NIB_OK) {
        free(b);
        return status;
    }
    CUDA_TRY(cudaStreamCreateWithFlags(&b->stream, cudaStreamNonBlocking));
    CUDA_TRY(cudaEventCreate(&b->begin));
    CUDA_TRY(cudaEventCreate(&b->end));
    if (blaslt_open(&b->lt, NULL) != NIB_OK)
        b->lt = NULL;
    void *p;
    CUDA_TRY(cudaMalloc(&p, READ_BYTES + 256));
    CUDA_TRY(gemm_normal_launch(p, READ_BYTES / 2, 1, b->stream));
    double best = 0.0;
    for (int i = 0; i < 5; i++) {
        float ms = 0.0f;
        CUDA_TRY(cudaEventRecord(b->begin, b->stream));
        CUDA_TRY(gemm_read_launch(p, READ_BYTES, (char *)p + READ_BYTES, b->stream));
        CUDA_TRY(cudaEventRecord(b->end, b->stream));
        CUDA_TRY(cudaStreamSynchronize(b->stream));
        CUDA_TRY(cudaEventElapsedTime(&ms, b->begin, b->end));
        double tb_s = (double)READ_BYTES / (double)ms / 1e9;
        best = tb_s > best ? tb_s : best;
    }
    cudaFree(p);
    *facts = (bench_device){.arch = b->g->arch, .n_sms = b->g->n_sms, .read_tb_s = best};
    memcpy(facts->name, b->g->name, sizeof facts->name);
    *out = b;
    return NIB_OK;
}

void bench_close(bench *b) {
    if (!b)
        return;
    blaslt_close(b->lt);
    cudaEventDestroy(b->begin);
    cudaEventDestroy(b->end);
    cudaStreamDestroy(b->stream);
    nib_gemm_close(b->g);
    free(b);
}

static int copies_of(size_t bytes) {
    size_t n = COLD_BYTES / bytes + 2;
    return (int)(n > MAX_COPIES ? MAX_COPIES : n);
}

static int calls_of(const setting *s) { /* in a graph: its own launch, some 8 us, should not count */
    int n = s->m >= 2048 ? 4 : s->m >= 512 ? 12 : 8 * MAX_COPIES;
    return n < s->n_copies ? s->n_copies : n;
}

static nib_status set_up(setting *s, unsigned kinds, nib_error *err) {
    size_t wide = s->n * s->k * 2;
    CUDA_TRY(cudaMalloc(&s->a, s->m * s->k * 2));
    CUDA_TRY(cudaMalloc(&s->a8, s->m * s->k));
    CUDA_TRY(cudaMalloc(&s->d, s->m * s->n * 2));
    CUDA_TRY(cudaMalloc((void **)&s->a_scale, (s->m + 256) * sizeof(float)));
    CUDA_TRY(cudaMalloc((void **)&s->w_scale, s->n * sizeof(float)));
    CUDA_TRY(cudaMalloc(&s->wide_of[0], wide));
    CUDA_TRY(gemm_normal_launch(s->a, s->m * s->k, 7, s->b->stream));
    CUDA_TRY(gemm_normal_launch(s->wide_of[0], s->n * s->k, 11, s->b->stream));
    s->product = (nib_gemm_product){.m = s->m, .a = s->a, .d = s->d};
    s->n_copies = copies_of(nib_gemm_packed_bytes(s->n, s->k));
    for (int i = 0; i < s->n_copies && kinds & (1u << BENCH_W4A16 | 1u << BENCH_W4A8 | 1u << BENCH_AUTO);
         i++) {
        nib_gemm_source source = {
            .format = NIB_GEMM_FROM_BF16, .n = s->n, .k = s->k, .values = s->wide_of[0]};
        NIB_TRY(nib_gemm_weight_create(s->b->g, s->n, s->k, NULL, &s->weights[i], err));
        NIB_TRY(nib_gemm_weight_pack(s->b->g, s->weights[i], &source, s->b->stream, err));
        s->product.weight = s->weights[i];
    }
    s->workspace_bytes = BLAS_BYTES;
    for (int mode = NIB_GEMM_AUTO; mode <= NIB_GEMM_W4A8 && s->product.weight; mode++) {
        s->product.mode = (nib_gemm_mode)mode;
        size_t bytes = nib_gemm_workspace_bytes(s->b->g, &s->product);
        s->workspace_bytes = bytes > s->workspace_bytes ? bytes : s->workspace_bytes;
    }
    CUDA_TRY(cudaMalloc(&s->workspace, s->workspace_bytes));
    return NIB_OK;
}

static void tear_down(setting *s) {
    cudaStreamSynchronize(s->b->stream);
    for (int i = 0; i < MAX_COPIES; i++) {
        nib_gemm_weight_free(s->weights[i]);
        cudaFree(s->wide_of[i]);
    }
    cudaFree(s->a), cudaFree(s->a8), cudaFree(s->d), cudaFree(s->workspace);
    cudaFree(s->a_scale), cudaFree(s->w_scale);
}

static nib_status time_ours(setting *s, nib_gemm_mode mode, double *us, nib_error *err) {
    s->product.mode = mode;
    s->product.a_type = NIB_GEMM_BF16;
    return time_graph(s, run_ours, calls_of(s), us, err);
}

/* E4M3 copies of the wide weights take the place of the BF16 ones. */
static nib_status narrow(setting *s, nib_error *err) {
    void *first = NULL;
    CUDA_TRY(cudaMalloc(&first, s->n * s->k));
    NIB_TRY(nib_gemm_quantize_e4m3(s->b->g, s->wide_of[0], NIB_GEMM_BF16, s->n, s->k, 0, first, s->w_scale,
                                   s->b->stream, err));
    NIB_TRY(nib_gemm_quantize_e4m3(s->b->g, s->a, NIB_GEMM_BF16, s->m, s->k, 0, s->a8, s->a_scale,
                                   s->b->stream, err));
    CUDA_TRY(cudaStreamSynchronize(s->b->stream));
    for (int i = 0; i < MAX_COPIES; i++) {
        cudaFree(s->wide_of[i]);
        s->wide_of[i] = NULL;
    }
    s->wide_of[0] = first;
    s->product.a_type = NIB_GEMM_E4M3;
    return NIB_OK;
}

static nib_status time_blas(setting *s, blaslt_kind kind, double *us, nib_error *err) {
    size_t bytes = s->n * s->k * (kind == BLASLT_BF16 ? 2 : 1);
    const blaslt_shape shape = {.kind = kind,
                                .m = s->m,
                                .n = s->n,
                                .k = s->k,
                                .w_scale = s->w_scale,
                                .a_scale = s->a_scale,
                                .workspace_bytes = BLAS_BYTES};
    if (!s->b->lt || blaslt_plan(s->b->lt, &shape, &s->blas, NULL) != NIB_OK)
        return NIB_OK; /* the row stays 0 */
    s->n_copies = copies_of(bytes);
    for (int i = 1; i < s->n_copies && !s->wide_of[i]; i++) {
        CUDA_TRY(cudaMalloc(&s->wide_of[i], bytes));
        CUDA_TRY(
            cudaMemcpyAsync(s->wide_of[i], s->wide_of[0], bytes, cudaMemcpyDeviceToDevice, s->b->stream));
    }
    nib_status status = time_graph(s, run_blas, calls_of(s), us, err);
    blaslt_free(s->blas);
    return status;
}

static nib_status time_kinds(setting *s, unsigned kinds, bench_row *row, nib_error *err) {
    static const nib_gemm_mode modes[] = {NIB_GEMM_W4A16, NIB_GEMM_W4A8, NIB_GEMM_AUTO};
    NIB_TRY(set_up(s, kinds, err));
    for (int kind = BENCH_W4A16; kind <= BENCH_AUTO; kind++) {
        gemm_choice c;
        if (kinds & 1u << kind && gemm_choose(s->b->g->arch, s->b->g->n_sms, modes[kind], true, s->m, s->n,
                                              s->k, &c, NULL) == NIB_OK)
            NIB_TRY(time_ours(s, modes[kind], &row->us[kind], err));
    }
    if (kinds & 1u << BENCH_CUBLAS_BF16)
        NIB_TRY(time_blas(s, BLASLT_BF16, &row->us[BENCH_CUBLAS_BF16], err));
    if (kinds & (1u << BENCH_CUBLAS_FP8 | 1u << BENCH_CUBLAS_FP8_TOKEN)) {
        NIB_TRY(narrow(s, err));
        if (kinds & 1u << BENCH_CUBLAS_FP8)
            NIB_TRY(time_blas(s, BLASLT_FP8, &row->us[BENCH_CUBLAS_FP8], err));
        if (kinds & 1u << BENCH_CUBLAS_FP8_TOKEN)
            NIB_TRY(time_blas(s, BLASLT_FP8_TOKEN, &row->us[BENCH_CUBLAS_FP8_TOKEN], err));
    }
    return NIB_OK;
}

nib_status bench_shape(bench *b, size_t m, size_t n, size_t k, unsigned kinds, bench_row *row,
                       nib_error *err) {
    setting s = {.b = b, .m = m, .n = n, .k = k};
    *row = (bench_row){.m = m, .n = n, .k = k};
    NIB_TRY(check_device(b->g, err));
    nib_status status = time_kinds(&s, kinds, row, err);
    tear_down(&s);
    return status;
}

/* ---- experts ---- */

#define CHOICES 16 /* launches of a graph, each with its own choice of experts */

typedef struct experts_setting {
    bench *b;
    nib_gemm_group group;
    int32_t *offsets; /* device, [CHOICES][experts + 1] */
    void *data;
} experts_setting;

/* Counts per expert of one launch -> offsets; returns how many experts have tokens. */
static size_t choose_experts(size_t launch, size_t experts, size_t top, size_t tokens, int32_t *offsets) {
    size_t touched = 0;
    memset(offsets, 0, (experts + 1) * sizeof *offsets);
    for (size_t token = 0; token < tokens; token++) {
        uint32_t h = (uint32_t)(launch * 7919 + token) * 2654435761u;
        h ^= h >> 15;
        for (size_t i = 0; i < top; i++) /* an odd step visits TOP different experts of a power of two */
            offsets[1 + (h + i * ((h >> 8 & 30) + 1)) % experts]++;
    }
    for (size_t e = 0; e < experts; e++) {
        touched += offsets[e + 1] > 0;
        offsets[e + 1] += offsets[e];
    }
    return touched;
}

static nib_status run_experts(setting *s, int i, nib_error *err) {
    const experts_setting *e = s->own;
    nib_gemm_group p = e->group;
    p.offsets = e->offsets + (size_t)(i % CHOICES) * (p.n_experts + 1);
    return nib_gemm_grouped(s->b->g, &p, NULL, 0, s->b->stream, err);
}

static nib_status time_experts(experts_setting *e, size_t experts, size_t top, size_t tokens, size_t n,
                               size_t k, nib_gemm_weight **w, double *us, double *stand_us, double *bytes,
                               nib_error *err) {
    size_t packed = (nib_gemm_packed_bytes(n, k) + 255) / 256 * 256, rows = tokens * top, touched = 0;
    size_t table = experts * sizeof(void *), offsets = (experts + 1) * sizeof(int32_t);
    void *values = NULL, *pointers[1024];
    int32_t host[1025];
    CUDA_TRY(cudaMalloc(&e->data, experts * packed + n * k * 2 + rows * (k + n) * 2 + table +
                                      CHOICES * offsets + 4096));
    char *p = e->data;
    for (size_t i = 0; i < experts; i++)
        pointers[i] = p + i * packed;
    values = p + experts * packed;
    char *a = (char *)values + n * k * 2, *d = a + rows * k * 2, *tables = d + rows * n * 2;
    tables += (256 - (uintptr_t)tables % 256) % 256;
    e->offsets = (int32_t *)(void *)(tables + table);
    CUDA_TRY(gemm_normal_launch(values, n * k, 3, e->b->stream));
    CUDA_TRY(gemm_normal_launch(a, rows * k, 5, e->b->stream));
    NIB_TRY(nib_gemm_weight_create(e->b->g, n, k, p, w, err));
    nib_gemm_source source = {.format = NIB_GEMM_FROM_BF16, .n = n, .k = k, .values = values};
    NIB_TRY(nib_gemm_weight_pack(e->b->g, *w, &source, e->b->stream, err));
    for (size_t i = 1; i < experts; i++)
        CUDA_TRY(cudaMemcpyAsync(pointers[i], p, packed, cudaMemcpyDeviceToDevice, e->b->stream));
    CUDA_TRY(cudaMemcpyAsync(tables, pointers, table, cudaMemcpyHostToDevice, e->b->stream));
    for (size_t i = 0; i < CHOICES; i++) {
        touched += choose_experts(i, experts, top, tokens, host);
        CUDA_TRY(cudaMemcpyAsync((char *)e->offsets + i * offsets, host, offsets, cudaMemcpyHostToDevice,
                                 e->b->stream));
        CUDA_TRY(cudaStreamSynchronize(e->b->stream));
    }
    e->group = (nib_gemm_group){.product = {.weight = *w, .m = rows, .a = a, .d = d},
                                .n_experts = experts,
                                .packed = (const void *const *)(void *)tables};
    *bytes = (double)touched / CHOICES * (double)nib_gemm_packed_bytes(n, k);
    setting s = {.b = e->b, .own = e};
    NIB_TRY(time_graph(&s, run_experts, 4 * CHOICES, us, err));
    e->group.offsets_stand = true;
    return time_graph(&s, run_experts, 4 * CHOICES, stand_us, err);
}

nib_status bench_experts(bench *b, size_t experts, size_t top, size_t tokens, size_t n, size_t k, double *us,
                         double *stand_us, double *bytes, nib_error *err) {
    experts_setting e = {.b = b};
    nib_gemm_weight *w = NULL;
    if (experts == 0 || experts > 1024 || experts & (experts - 1) || top > experts)
        return nib_fail(err, NIB_BAD_ARGUMENT, "%zu of %zu experts: expected a power of two up to 1024", top,
                        experts);
    NIB_TRY(check_device(b->g, err));
    nib_status status = time_experts(&e, experts, top, tokens, n, k, &w, us, stand_us, bytes, err);
    cudaStreamSynchronize(b->stream);
    nib_gemm_weight_free(w);
    cudaFree(e.data);
    return status;
}

/* ---- the quantizer ---- */

typedef struct quantizer_setting {
    nib_gemm_quantize_args args;
    size_t bytes;
    void *copy;
} quantizer_setting;

static nib_status run_copy(setting *s, int i, nib_error *err) {
    const quantizer_setting *q = s->own;
    (void)i;
    return check_cuda(cudaMemcpyAsync(q->copy, q->args.x, q->bytes, cudaMemcpyDeviceToDevice, s->b->stream),
                      "benchmark", err);
}

static nib_status run_quantizer(setting *s, int i, nib_error *err) {
    const quantizer_setting *q = s->own;
    (void)i;
    return nib_gemm_quantize_nvfp4(s->b->g, &q->args, s->b->stream, err);
}

static nib_status time_quantizer(setting *s, quantizer_setting *q, char *data, bench_quantizer *out,
                                 nib_error *err) {
    size_t values = q->bytes / 2;
    const int calls = 4; /* in a graph: far more bytes than L2 holds */
    q->copy = data + q->bytes;
    q->args.x = data;
    q->args.codes = data + 2 * q->bytes;
    q->args.scales = data + 2 * q->bytes + values / 2;
    q->args.tensor_scale = (float *)(void *)(data + 2 * q->bytes + values / 2 + values / 16);
    CUDA_TRY(gemm_normal_launch(data, values, 5, s->b->stream));
    out->copy.bytes = 2.0 * (double)q->bytes;
    out->given.bytes = (double)values * (2.0 + 9.0 / 16.0);
    out->sought.bytes = (double)values * (4.0 + 9.0 / 16.0);
    NIB_TRY(time_graph(s, run_quantizer, calls, &out->sought.us, err));
    q->args.given_scale = true; /* the one that was found */
    NIB_TRY(time_graph(s, run_quantizer, calls, &out->given.us, err));
    return time_graph(s, run_copy, calls, &out->copy.us, err);
}

nib_status bench_quantize(bench *b, size_t rows, size_t cols, bench_quantizer *out, nib_error *err) {
    quantizer_setting q = {.args = {.rows = rows, .cols = cols}, .bytes = rows * cols * 2};
    setting s = {.b = b, .own = &q};
    void *data = NULL;
    if (cols == 0 || cols % 256)
        return nib_fail(err, NIB_BAD_ARGUMENT, "%zu columns: expected a multiple of 256", cols);
    NIB_TRY(check_device(b->g, err));
    CUDA_TRY(cudaMalloc(&data, 3 * q.bytes + 4096));
    nib_status status = time_quantizer(&s, &q, data, out, err);
    cudaStreamSynchronize(b->stream);
    cudaFree(data);
    return status;
}

/* ---- tiles of wgmma ---- */

typedef struct tile_setting {
    gemm_task task;
    bool fp8, whole; /* WHOLE: every launch prepares its activations */
} tile_setting;

static nib_status prepare_tile(setting *s, const tile_setting *t, nib_error *err) {
    return check_cuda(gemm_prepare_launch(t->fp8 ? GEMM_A_E4M3_MMA : GEMM_A_BF16_MMA, s->a, NIB_GEMM_BF16,
                                          (int)s->m, (int)s->k, s->k, 1, s->workspace, NULL, s->a_scale,
                                          t->task.flags, t->task.n_sms, true, s->b->stream),
                      "benchmark", err);
}

static nib_status run_tile(setting *s, int i, nib_error *err) {
    const tile_setting *t = s->own;
    gemm_task task = t->task;
    task.w = s->weights[i % s->n_copies]->data;
    task.out.tensor_scale = gemm_tensor_scale(task.w, s->n, s->k);
    if (t->whole)
        NIB_TRY(prepare_tile(s, t, err));
    CUDA_TRY(t->fp8 ? gemm_wgmma_e4m3(&task) : gemm_wgmma_bf16(&task));
    return NIB_OK;
}

/* The workspace holds prepared activations, then partial sums, then flags. */
static nib_status time_tiles(setting *s, nib_gemm_mode mode, bool whole, bench_tile *rows, nib_error *err) {
    static const int forms[BENCH_TILES][3] = {
        {32, 128, 0},  {32, 128, 1},  {32, 128, 2},  {64, 128, 0},  {64, 128, 1},  {64, 128, 2},
        {64, 128, 3},  {64, 128, 4},  {64, 192, 0},  {64, 192, 1},  {64, 192, 2},  {64, 192, 3},
        {64, 192, 4},  {128, 128, 0}, {128, 128, 1}, {128, 128, 2}, {128, 192, 0}, {128, 192, 1},
        {128, 192, 2}, {128, 192, 3}, {128, 192, 4}, {256, 128, 0}, {256, 128, 1}};
    nib_gemm *g = s->b->g;
    size_t groups = gemm_groups(s->k), prepared = s->m * groups * GEMM_GROUP_K * 2 + 256;
    size_t partial = (size_t)g->n_sms * 128 * 256 * sizeof(float);
    gemm_choice c;
    tile_setting t = {.fp8 = mode == NIB_GEMM_W4A8, .whole = whole};
    NIB_TRY(gemm_choose(g->arch, g->n_sms, mode, false, s->m, s->n, s->k, &c, err));
    cudaFree(s->workspace);
    s->workspace = NULL;
    CUDA_TRY(cudaMalloc(&s->workspace, prepared + partial + (size_t)g->n_sms * 4 + 512));
    char *sums = (char *)s->workspace + prepared / 256 * 256;
    s->own = &t;
    t.task = (gemm_task){.a = s->workspace,
                         .m = (int)s->m,
                         .n = (int)s->n,
                         .k = (int)s->k,
                         .groups = (int)groups,
                         .terms = 1,
                         .partial = (float *)(void *)sums,
                         .flags = (uint32_t *)(void *)(sums + partial),
                         .out = {.d = s->d, .token_scale = s->a_scale, .alpha = 1.0f, .ldd = (int)s->n},
                         .n_sms = g->n_sms,
                         .max_shared = g->max_shared,
                         .dependent = true,
                         .tensor_map = g->tensor_map,
                         .stream = s->b->stream};
    NIB_TRY(prepare_tile(s, &t, err)); /* flags too: who has seen one lowers it */
    nib_status status = NIB_OK;
    for (int i = 0; i < BENCH_TILES && status == NIB_OK; i++) {
        const int rows_of_tile = forms[i][1], ranks = forms[i][2];
        rows[i] = (bench_tile){.tile_tokens = forms[i][0],
                               .k_slices = ranks,
                               .tile_rows = rows_of_tile,
                               .chosen = c.tile_tokens == forms[i][0] && c.tile_rows == rows_of_tile &&
                                         (c.cut ? ranks == 0 : ranks == c.k_slices)};
        t.task.tile_tokens = forms[i][0];
        t.task.tile_rows = rows_of_tile;
        t.task.slices = ranks ? ranks : 1;
        t.task.cut = ranks == 0;
        const size_t tokens = (size_t)forms[i][0], row_tiles = (s->n - 1) / (size_t)rows_of_tile + 1;
        const size_t blocks = row_tiles * ((s->m - 1) / tokens + 1) * (size_t)(ranks ? ranks : 1);
        if ((tokens < 2 * s->m || tokens == 32) && (tokens * 8 >= s->m || tokens == 256) &&
            groups >= 4 * (size_t)ranks && (ranks < 2 || blocks <= (size_t)g->n_sms))
            status = time_graph(s, run_tile, calls_of(s), &rows[i].us, err);
    }
    s->own = NULL;
    return status;
}

nib_status bench_tiles(bench *b, size_t m, size_t n, size_t k, nib_gemm_mode mode, bool whole,
                       bench_tile rows[BENCH_TILES], nib_error *err) {
    setting s = {.b = b, .m = m, .n = n, .k = k};
    if (b->g->arch != 90 || (mode != NIB_GEMM_W4A8 && mode != NIB_GEMM_W4A16))
        return nib_fail(err, NIB_UNSUPPORTED, "tiles: expected Hopper, and w4a16 or w4a8");
    NIB_TRY(check_device(b->g, err));
    nib_status status = set_up(&s, 1u << BENCH_W4A8, err);
    if (status == NIB_OK)
        status = time_tiles(&s, mode, whole, rows, err);
    tear_down(&s);
    return status;
}
