/* SPDX-License-Identifier: Apache-2.0
 *
 * Times the engine's kernels on shapes of an 8B model beside the read bandwidth of the same card: medians of
 * CUDA-graph replays. Cold: buffers rotate where they would fit in L2.
 */
#include "../../tests/gpu/gpu_check.h"
#include "cuda/launchers.h"

static cuda_lane lane;
static double bandwidth; /* bytes per second */

typedef struct job {
    int (*run)(const struct job *j, int i); /* launch number i */
    attn_view p;
    kv_view kv;
    step_view step;
    act_view out, in;
    void *q, *qkv, *partial, *w;
    weight_view weights;
    int rows;
    size_t cols, rotate;
} job;

static int compare(const void *a, const void *b) {
    return *(const float *)a < *(const float *)b ? -1 : 1;
}

static double time_us(const job *j, int n) {
    cudaStream_t st = lane.stream;
    cudaGraph_t g;
    cudaGraphExec_t e;
    CK(j->run(j, 0));
    CK(cudaStreamSynchronize(st));
    CK(cudaStreamBeginCapture(st, cudaStreamCaptureModeGlobal));
    for (int i = 0; i < n; i++)
        CK(j->run(j, i));
    CK(cudaStreamEndCapture(st, &g));
    CK(cudaGraphInstantiate(&e, g, 0));
    cudaEvent_t a, b;
    cudaEventCreate(&a), cudaEventCreate(&b);
    float ms[9];
    for (int i = 0; i < 9; i++) {
        CK(cudaEventRecord(a, st));
        CK(cudaGraphLaunch(e, st));
        CK(cudaEventRecord(b, st));
        CK(cudaStreamSynchronize(st));
        cudaEventElapsedTime(&ms[i], a, b);
    }
    qsort(ms + 2, 7, sizeof *ms, compare);
    cudaGraphExecDestroy(e), cudaGraphDestroy(g);
    return ms[5] * 1000.0 / n;
}

static void *random_bytes(size_t bytes, uint32_t mask, uint32_t base) {
    size_t chunk = 32 << 20;
    uint32_t *h = malloc(chunk);
    for (size_t i = 0; i < chunk / 4; i++)
        h[i] = (rnd() & mask) + base;
    void *p = to_device(NULL, bytes);
    for (size_t at = 0; at < bytes; at += chunk)
        CK(cudaMemcpy((uint8_t *)p + at, h, bytes - at < chunk ? bytes - at : chunk, cudaMemcpyHostToDevice));
    free(h);
    return p;
}

static int run_bandwidth(const job *j, int i) {
    (void)i;
    return bandwidth_launch(&lane, j->w, j->cols, j->q);
}

static int run_decode(const job *j, int i) {
    (void)i;
    return decode_launch(&lane, j->out, j->q, j->cols, &j->p, &j->kv, &j->step, j->rows, j->partial);
}

static int run_prefill(const job *j, int i) {
    (void)i;
    return prefill_launch(&lane, j->out, j->q, j->cols, &j->p, &j->kv, &j->step, j->rows);
}

static int run_qkv(const job *j, int i) {
    (void)i;
    act_view qkv = {j->rows > 16 ? ACT_BF16 : ACT_F32, j->qkv, NULL, j->cols * 3 / 2};
    return qkv_launch(&lane, j->q, j->cols, qkv, &j->p, &j->kv, &j->step, j->rows);
}

static int run_norm(const job *j, int i) {
    (void)i;
    return rmsnorm_launch(&lane, j->out, j->q, j->cols, j->w, 1e-6f, j->rows, j->cols, NULL);
}

static int run_glu(const job *j, int i) {
    (void)i;
    return glu_launch(&lane, j->out, (act_view){ACT_BF16, j->q, NULL, 2 * j->cols}, j->rows, j->cols, false);
}

static int run_product(const job *j, int i) {
    weight_view w = j->weights;
    w.parts[0].data += (size_t)i % j->rotate * w.parts[0].row_bytes * w.rows;
    return product_launch(&lane, j->q, w.rows, j->in, &w, j->rows, false);
}

static void bench_attention(kv_format format) {
    const cuda_lane plain = lane;
    cuda_lane clustered = lane;
    CK(decode_know_clusters(&clustered));
    enum { B = 64, CTX = 16384, H = 32, G = 8, D = 128, PAGES = B * CTX / KV_PAGE };
    size_t cells = (size_t)PAGES * G * KV_PAGE, each = format == KV_FP8 ? 1 : 2;
    uint32_t mask = format == KV_FP8 ? 0xbfbfbfbf : 0xbfffbfff;
    job j = {.p = {.n_heads = H,
                   .n_kv_heads = G,
                   .head_dim = D,
                   .n_freq = 64,
                   .rope_scale = 1,
                   .scale = 0.088f,
                   .norm_eps = 1e-6f}};
    j.kv =
        (kv_view){format, random_bytes(cells * D * each, mask, 0), random_bytes(cells * D * each, mask, 0),
                  random_bytes(cells * 4, 0xffff, 0x3c000000), random_bytes(cells * 4, 0xffff, 0x3c000000)};
    j.cols = H * D;
    size_t rows = 16384;
    j.q = to_device(rnd_floats(rows * j.cols, 1), rows * j.cols * 4);
    j.qkv = to_device(rnd_floats(2048 * j.cols * 3 / 2, 1), 2048 * j.cols * 3 / 2 * 4);
    j.out = (act_view){ACT_BF16, to_device(NULL, rows * j.cols * 2), NULL, j.cols};
    float *norm = rnd_floats(D, 1);
    j.p.q_norm = j.p.k_norm = to_device(norm, D * 4);
    j.p.inv_freq = to_device(norm, D * 4);
    int32_t *table = malloc(PAGES * 4), *pos = malloc(rows * 4), *first = malloc(rows * 4),
            *alone = malloc(rows * 4), *prompt = malloc(rows * 4);
    for (int i = 0; i < PAGES; i++)
        table[i] = i;
    for (int i = PAGES - 1; i > 0; i--) {
        int k = (int)(rnd() % (uint32_t)(i + 1)), t = table[i];
        table[i] = table[k], table[k] = t;
    }
    j.step.page_table = to_device(table, PAGES * 4);
    const int batches[] = {1, 4, 16, 64}, lengths[] = {1024, 4096, 16384};
    for (int l = 0; l < 3; l++)
        for (int b = 0; b < 4; b++) {
            for (int i = 0; i < batches[b]; i++)
                pos[i] = lengths[l] - 1, first[i] = i * CTX / KV_PAGE, alone[i] = i;
            j.step.positions = to_device(pos, 256), j.step.first_page = to_device(first, 256),
            j.step.alone = to_device(alone, 256);
            j.rows = batches[b];
            lane = plain;
            j.partial = to_device(NULL, decode_partial_bytes(&lane, &j.p, j.rows));
            double us,
                bytes = (double)j.rows * G * lengths[l] * (2 * D * (double)each + (format == KV_FP8 ? 8 : 0));
            j.run = run_decode;
            for (int c = 0; c < 2; c++) {
                lane = c ? clustered : plain;
                us = time_us(&j, 20);
                printf("decode attention %s %s B=%-3d ctx %-6d %9.2f us %6.2f TB/s %3.0f %%%s\n",
                       format == KV_FP8 ? "fp8 " : "bf16", c ? "clusters" : "merged  ", j.rows, lengths[l],
                       us, bytes / us / 1e6, bytes / us * 1e6 / bandwidth * 100,
                       bytes < 1.2e8 ? " (L2 may hold it)" : "");
            }
            cudaFree(j.partial);
        }
    const struct { int before, rows; } prompts[] = {{0, 512}, {0, 2048}, {CTX - 2048, 2048}, {0, CTX}};
    for (int l = 0; l < 4; l++) {
        const int n = prompts[l].rows, before = prompts[l].before;
        for (int i = 0; i < n; i++)
            pos[i] = before + i, first[i] = 0, prompt[i] = 0;
        j.step.positions = to_device(pos, (size_t)n * 4), j.step.first_page = to_device(first, (size_t)n * 4),
        j.step.prompt = to_device(prompt, (size_t)n * 4);
        j.rows = n;
        j.run = run_prefill;
        for (int wgmma = 0; wgmma < 2; wgmma++) {
            lane.wgmma = wgmma;
            double us = time_us(&j, 3), flops = 4.0 * H * D * n * (before + 0.5 * n);
            printf("prefill attention %s wgmma %d %6d tokens at %-6d %9.1f us %6.0f TFLOP/s (causal half "
                   "counted)\n",
                   format == KV_FP8 ? "fp8 " : "bf16", wgmma, n, before, us, flops / us / 1e6);
        }
        if (before > 0 || n > 2048)
            continue;
        j.run = run_qkv;
        double us = time_us(&j, 5);
        printf("qkv store %s %-6d tokens %9.1f us\n", format == KV_FP8 ? "fp8 " : "bf16", n, us);
    }
    for (j.rows = 1; j.rows <= 128; j.rows *= 4) {
        j.run = run_qkv;
        printf("qkv store %s %d tokens %9.2f us\n", format == KV_FP8 ? "fp8 " : "bf16", j.rows,
               time_us(&j, 50));
    }
    cudaFree(j.kv.k), cudaFree(j.kv.v);
}

static void bench_rows(void) {
    const int rows[] = {1, 16, 64, 2048};
    for (int i = 0; i < 4; i++)
        for (int f = 1; f < 3; f++) {
            job j = {.run = run_norm, .rows = rows[i], .cols = 4096};
            j.q = to_device(rnd_floats(2048 * 4096, 1), 2048 * 4096 * 4), j.w = j.q;
            j.out = (act_view){(act_format)f, to_device(NULL, 2048 * 12288 * 2), to_device(NULL, 8192), 4096};
            double norm = time_us(&j, 50);
            j.cols = 12288, j.out.stride = 12288, j.run = run_glu;
            j.q = to_device(rnd_floats(2048 * 2 * 12288, 1), (size_t)2048 * 2 * 12288 * 4);
            printf("%-4s rows %-5d rmsnorm 4096 %7.2f us   glu 12288 %7.2f us\n", f == 1 ? "bf16" : "fp8",
                   rows[i], norm, time_us(&j, 20));
            cudaFree(j.q), cudaFree(j.out.data);
        }
}

static void bench_products(void) {
    const dtype types[] = {DT_BF16, DT_F8_E4M3, DT_Q8_0, DT_Q4_K, DT_Q6_K, DT_NVFP4};
    const int rows[] = {1, 8, 512, 2048};
    enum { N = 12288, K = 4096 };
    for (int t = 0; t < 6; t++)
        for (int i = 0; i < 4; i++) {
            size_t row_bytes;
            dtype_bytes(types[t], K, &row_bytes);
            job j = {.run = run_product, .rows = rows[i], .rotate = 1 + 200000000 / (row_bytes * N)};
            j.in = (act_view){ACT_BF16, random_bytes(2048 * K * 2, 0xbfffbfff, 0), NULL, K};
            j.q = to_device(NULL, (size_t)2048 * N * 4);
            j.weights = (weight_view){.n_parts = 1, .rows = N, .cols = K};
            j.weights.parts[0] = (part_view){.type = types[t],
                                             .data = random_bytes(row_bytes * N * j.rotate, 0x3f3f3f3f, 0),
                                             .row_bytes = row_bytes,
                                             .block_scales = random_bytes(N * K / 16, 0x3f3f3f3f, 0),
                                             .tensor_scale = 1,
                                             .rows = N};
            double us = time_us(&j, 10),
                   bytes = (double)N * ((double)row_bytes + (types[t] == DT_NVFP4 ? K / 16 : 0));
            printf("product %-9s %dx%d M=%-5d %9.1f us  %3.0f %% of bandwidth  %6.1f TFLOP/s\n",
                   dtype_get(types[t])->name, N, K, rows[i], us, bytes / us * 1e6 / bandwidth * 100,
                   2.0 * N * K * rows[i] / us / 1e6);
            cudaFree(j.in.data), cudaFree(j.q), cudaFree((void *)j.weights.parts[0].data);
        }
}

int main(int argc, char **argv) {
    CK(cudaSetDevice(0));
    CK(cudaDeviceGetAttribute(&lane.n_sms, cudaDevAttrMultiProcessorCount, 0));
    cudaStream_t stream;
    CK(cudaStreamCreate(&stream));
    lane.stream = stream;
    lane.pdl = true;
    struct cudaDeviceProp prop;
    CK(cudaGetDeviceProperties(&prop, 0));
    job j = {.run = run_bandwidth, .cols = (size_t)4 << 30};
    j.w = random_bytes(j.cols, ~0u, 0);
    j.q = to_device(NULL, 4);
    bandwidth = (double)j.cols / time_us(&j, 1) * 1e6;
    printf("# %s, %d SMs, read bandwidth %.3f TB/s (4 GiB)\n", prop.name, prop.multiProcessorCount,
           bandwidth / 1e12);
    cudaFree(j.w);
    cuda_lane known = lane;
    CK(decode_know_clusters(&known));
    for (int wide = 0; wide < 2; wide++)
        for (int n = 1; n <= MAX_CLUSTER; n++)
            printf("%s%d%s",
                   n > 1  ? ", "
                   : wide ? "# wide clusters of 1..: "
                          : "# narrow clusters of 1..: ",
                   known.clusters[wide][n], n < MAX_CLUSTER ? "" : "\n");
    bench_attention(KV_FP8);
    bench_attention(KV_BF16);
    bench_rows();
    if (argc < 2 || argv[1][0] != 'a') /* "attention" alone */
        bench_products();
    return 0;
}
