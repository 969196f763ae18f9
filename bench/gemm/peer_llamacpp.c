/* SPDX-License-Identifier: Apache-2.0
 *
 * Times of llama.cpp's products of NVFP4 weights on the GPU, as CSV, through ggml's public functions.
 * usage: peer_llamacpp M,M,.. NxK ...
 *
 * Weights cold in L2 (copies in turn), activations and results FP32 as llama.cpp has them, the quantization
 * of activations inside the time, no tensor scale. One graph of products, which ggml makes a CUDA graph of
 * once it has seen it twice; the time of a product is by how much 8 graphs take longer than 2, median of 9
 * after 30 ms of warming up. A line of '# ' before each product says how far it is from one in FP64 (every
 * 61st column of N, rows up to 16).
 */
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml.h"

enum { MAX_COPIES = 24, REPLAYS = 9, CHUNK_ROWS = 64, FEW = 2, MANY = 8 };
static const size_t COLD_BYTES = (size_t)256 << 20;
static const double WARM_SECONDS = 0.03;

typedef struct problem {
    ggml_backend_t backend;
    int n, k, most_rows, n_copies;
    struct ggml_context *ctx;
    struct ggml_tensor *weights[MAX_COPIES], *a, *d; /* all rows of A and D */
    ggml_backend_buffer_t buffer;
    float *chunk, *rows; /* values of CHUNK_ROWS different rows of the weight; of A */
} problem;

static void fail(const char *what) {
    fprintf(stderr, "peer_llamacpp: %s\n", what);
    exit(1);
}

static void *need(void *p) {
    if (!p)
        fail("out of memory");
    return p;
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static float normal(unsigned long long *state) { /* a sum of twelve uniform numbers */
    float sum = -6.0f;
    for (int i = 0; i < 12; i++) {
        *state = *state * 6364136223846793005ull + 1442695040888963407ull;
        sum += (float)(*state >> 40) / 16777216.0f;
    }
    return sum;
}

static int chunk_row(int row) {
    return row * 7 % CHUNK_ROWS;
}

/* Normally distributed numbers, quantized by ggml; row N of the weight is a row of a chunk. */
static void fill_weights(problem *p) {
    size_t row_bytes = ggml_row_size(GGML_TYPE_NVFP4, p->k), values = (size_t)CHUNK_ROWS * (size_t)p->k;
    char *codes = need(malloc(row_bytes * CHUNK_ROWS)), *all = need(malloc(row_bytes * (size_t)p->n));
    unsigned long long state = 7;
    p->chunk = need(malloc(values * sizeof(float)));
    for (size_t i = 0; i < values; i++)
        p->chunk[i] = normal(&state);
    ggml_quantize_chunk(GGML_TYPE_NVFP4, p->chunk, codes, 0, CHUNK_ROWS, p->k, NULL);
    ggml_get_type_traits(GGML_TYPE_NVFP4)->to_float(codes, p->chunk, (int64_t)values);
    for (int row = 0; row < p->n; row++)
        memcpy(all + row_bytes * (size_t)row, codes + row_bytes * (size_t)chunk_row(row), row_bytes);
    for (int i = 0; i < p->n_copies; i++)
        ggml_backend_tensor_set(p->weights[i], all, 0, row_bytes * (size_t)p->n);
    free(codes);
    free(all);
}

static void set_up(problem *p) {
    size_t bytes = ggml_row_size(GGML_TYPE_NVFP4, p->k) * (size_t)p->n, copies = COLD_BYTES / bytes + 2;
    unsigned long long state = 11;
    p->n_copies = (int)(copies > MAX_COPIES ? MAX_COPIES : copies);
    p->ctx = need(ggml_init((struct ggml_init_params){.mem_size = (size_t)64 << 20, .no_alloc = true}));
    for (int i = 0; i < p->n_copies; i++)
        p->weights[i] = ggml_new_tensor_2d(p->ctx, GGML_TYPE_NVFP4, p->k, p->n);
    p->a = ggml_new_tensor_2d(p->ctx, GGML_TYPE_F32, p->k, p->most_rows);
    p->d = ggml_new_tensor_2d(p->ctx, GGML_TYPE_F32, p->n, p->most_rows);
    p->buffer = need(ggml_backend_alloc_ctx_tensors(p->ctx, p->backend));
    ggml_backend_buffer_set_usage(p->buffer, GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    fill_weights(p);
    p->rows = need(malloc((size_t)p->most_rows * (size_t)p->k * sizeof(float)));
    for (size_t i = 0; i < (size_t)p->most_rows * (size_t)p->k; i++)
        p->rows[i] = normal(&state);
    ggml_backend_tensor_set(p->a, p->rows, 0, (size_t)p->most_rows * (size_t)p->k * sizeof(float));
}

/* T over the first rows of WHOLE. */
static struct ggml_tensor *place(problem *p, struct ggml_tensor *t, const struct ggml_tensor *whole) {
    if (ggml_backend_tensor_alloc(p->buffer, t, whole->data) != GGML_STATUS_SUCCESS)
        fail("a tensor has no place");
    return t;
}

/* CALLS products of M rows, all of them into D. */
static struct ggml_cgraph *graph_of(problem *p, struct ggml_context *ctx, int m, int calls) {
    struct ggml_cgraph *graph = need(ggml_new_graph_custom(ctx, (size_t)calls * 2 + 16, false));
    struct ggml_tensor *a = place(p, ggml_new_tensor_2d(ctx, GGML_TYPE_F32, p->k, m), p->a);
    for (int i = 0; i < calls; i++)
        ggml_build_forward_expand(graph, place(p, ggml_mul_mat(ctx, p->weights[i % p->n_copies], a), p->d));
    return graph;
}

static double seconds_of(problem *p, struct ggml_cgraph *graph, int graphs) {
    ggml_backend_synchronize(p->backend);
    double began = now();
    for (int i = 0; i < graphs; i++)
        if (ggml_backend_graph_compute_async(p->backend, graph) != GGML_STATUS_SUCCESS)
            fail("a graph failed");
    ggml_backend_synchronize(p->backend);
    return now() - began;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double time_products(problem *p, struct ggml_cgraph *graph, int calls) {
    double times[REPLAYS], began = now();
    for (int i = 0; i < 3 || now() - began < WARM_SECONDS; i++)
        seconds_of(p, graph, 1);
    for (int i = 0; i < REPLAYS; i++) {
        double few = seconds_of(p, graph, FEW);
        times[i] = (seconds_of(p, graph, MANY) - few) / (MANY - FEW) / calls * 1e6;
    }
    qsort(times, REPLAYS, sizeof *times, by_value);
    return times[REPLAYS / 2];
}

/* sqrt(sum (got - want)^2 / sum want^2) */
static double distance(problem *p, int m) {
    float *d = need(malloc((size_t)m * (size_t)p->n * sizeof(float)));
    double off = 0.0, all = 0.0;
    ggml_backend_tensor_get(p->d, d, 0, (size_t)m * (size_t)p->n * sizeof(float));
    for (int row = 0; row<m; row += m> 16 ? m / 16 : 1)
        for (int n = 0; n < p->n; n += 61) {
            const float *w = p->chunk + (size_t)chunk_row(n) * (size_t)p->k,
                        *a = p->rows + (size_t)row * (size_t)p->k;
            double want = 0.0, got = d[(size_t)row * (size_t)p->n + (size_t)n];
            for (int k = 0; k < p->k; k++)
                want += (double)w[k] * a[k];
            off += (got - want) * (got - want);
            all += want * want;
        }
    free(d);
    return sqrt(off / all);
}

static void measure(problem *p, int m) {
    int calls = m >= 2048 ? 4 : m >= 512 ? 12 : m >= 64 ? 2 * MAX_COPIES : 4 * MAX_COPIES;
    calls = calls < p->n_copies ? p->n_copies : calls;
    struct ggml_context *ctx = need(ggml_init((struct ggml_init_params){
        .mem_size = (size_t)(calls + 4) * ggml_tensor_overhead() +
                    ggml_graph_overhead_custom((size_t)calls * 2 + 16, false) + 4096,
        .no_alloc = true}));
    struct ggml_cgraph *graph = graph_of(p, ctx, m, calls);
    seconds_of(p, graph, 1);
    printf("# %dx%d, %d rows: relative distance %.2e\n", p->n, p->k, m, distance(p, m));
    printf("%d,%d,%d,%.2f\n", p->n, p->k, m, time_products(p, graph, calls));
    ggml_free(ctx);
}

static int most_of(const char *rows) {
    int most = 0;
    for (char *end; *rows; rows = *end ? end + 1 : end) {
        int m = (int)strtol(rows, &end, 10);
        most = m > most ? m : most;
    }
    return most;
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (argc < 3) {
        fprintf(stderr, "usage: peer_llamacpp M,M,.. NxK ...\n");
        return 2;
    }
    problem p = {.backend = ggml_backend_init_by_type(GGML_BACKEND_DEVICE_TYPE_GPU, NULL)};
    if (!p.backend)
        fail("this build of ggml has no GPU");
    p.most_rows = most_of(argv[1]);
    printf("n,k,m,us\n");
    for (int i = 2; i < argc; i++) {
        char *end;
        p.n = (int)strtol(argv[i], &end, 10);
        p.k = (int)strtol(end + 1, NULL, 10);
        set_up(&p);
        for (const char *at = argv[1]; *at; at = *end ? end + 1 : end)
            measure(&p, (int)strtol(at, &end, 10));
        ggml_backend_buffer_free(p.buffer);
        ggml_free(p.ctx);
        free(p.chunk);
        free(p.rows);
    }
    ggml_backend_free(p.backend);
    return 0;
}
