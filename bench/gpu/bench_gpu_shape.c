/* SPDX-License-Identifier: Apache-2.0
 *
 * Speed of a whole network of random NVFP4 weights on a GPU, beside the read bandwidth of the same card in
 * the same run: prefill, decode at several numbers of streams and contexts, with CUDA graphs and without.
 *
 * usage: bench_gpu_shape SHAPE [fp8|bf16: the cache] [auto|w4a16|w4a8|exact] [profile | STREAMS CONTEXT...]
 * STREAMS CONTEXT pairs: decode at these points alone (for a profiler: 3 steps before what is measured).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "model/model.h"
#include "ops/plugin.h"
#include "store/shape_file.h"

extern const backend_plugin nibble_plugin;

enum { CHUNK = 2048, MAX_SEQS = 64, LONG = 16384, SEQ_PAGES = 20 /* of one of several streams */ };

typedef struct bench {
    model_file *file;
    backend *be;
    model *m;
    double bandwidth;
    size_t kv_row_bytes; /* keys and values of one position, all layers */
    int32_t *pages[CACHE_MAX_GROUPS];
    int32_t tokens[CHUNK], out_rows[MAX_SEQS];
    batch_seq seqs[MAX_SEQS];
    sample_row rows[MAX_SEQS];
    sampled out[MAX_SEQS];
} bench;

static void die(const nib_error *err) {
    printf("%s\n", err->text);
    exit(1);
}

static double step(bench *b, int n_seqs, int n_rows, int pos) {
    nib_error err = {""};
    int of_each = n_rows / n_seqs, per_seq = (pos + of_each + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    for (int i = 0; i < n_seqs; i++) {
        b->seqs[i] = (batch_seq){.n_pages = per_seq, .row = i * of_each, .n_rows = of_each, .pos = pos};
        for (int g = 0; g < CACHE_MAX_GROUPS; g++)
            b->seqs[i].pages[g] = b->pages[g] + i * SEQ_PAGES;
        b->out_rows[i] = (i + 1) * of_each - 1;
    }
    batch now = {.tokens = b->tokens,
                 .n_rows = n_rows,
                 .seqs = b->seqs,
                 .n_seqs = n_seqs,
                 .out_rows = b->out_rows,
                 .n_out = n_seqs};
    double t0 = clock_seconds();
    model_begin(b->m, &now, b->rows, b->out);
    if (model_wait(b->m, NULL, &err) != NIB_OK)
        die(&err);
    for (int i = 0; i < n_seqs && of_each == 1; i++) { /* the next token is what was sampled */
        if (b->out[i].token < 0) {
            printf("no token: the logits are no numbers\n");
            exit(1);
        }
        b->tokens[i] = b->out[i].token;
    }
    return clock_seconds() - t0;
}

static int compare(const void *a, const void *b) {
    return *(const double *)a < *(const double *)b ? -1 : 1;
}

/* Median seconds of N steps of decode with contexts of CTX. */
static double decode(bench *b, int streams, int ctx, int n) {
    double times[256];
    for (int i = 0; i < 3; i++)
        step(b, streams, streams, ctx);
    for (int i = 0; i < n; i++)
        times[i] = step(b, streams, streams, ctx + i % 32);
    qsort(times, (size_t)n, sizeof *times, compare);
    return times[n / 2];
}

static double prefill(bench *b, int n) {
    double best = 1e9;
    for (int repeat = 0; repeat < 4; repeat++) {
        double t = 0;
        for (int pos = 0; pos < n; pos += CHUNK)
            t += step(b, 1, n - pos < CHUNK ? n - pos : CHUNK, pos);
        best = t < best ? t : best;
    }
    return best;
}

static void row(const bench *b, const char *what, int streams, int ctx, double seconds) {
    double bytes = (double)model_bytes_per_token(b->m) + (double)streams * ctx * (double)b->kv_row_bytes;
    printf("%-22s streams %-3d context %-6d %8.3f ms  %9.1f tok/s  %7.1f GB/s = %4.1f %% of the read "
           "bandwidth\n",
           what, streams, ctx, seconds * 1e3, streams / seconds, bytes / seconds / 1e9,
           bytes / seconds / b->bandwidth * 100);
}

static void profile(bench *b, const char *what, int streams, int rows, int ctx) {
    op_profile p[16];
    step(b, streams, rows, ctx);
    b->be->profile_start(b->be);
    step(b, streams, rows, ctx);
    size_t n = b->be->profile_stop(b->be, p, 16);
    printf("# %s, per op, one step without graphs:", what);
    for (size_t i = 0; i < n; i++)
        printf(" %s %.0f us (%.0f GB/s),", p[i].name, p[i].seconds * 1e6,
               (double)p[i].bytes / p[i].seconds / 1e9);
    printf("\n");
}

static void run(bench *b, bool profiled) {
    const struct {
        int streams, ctx;
    } points[] = {{1, 128}, {1, 4096}, {1, LONG}, {4, 1024}, {8, 1024}, {16, 1024}, {64, 1024}};
    for (size_t i = 0; i < sizeof points / sizeof *points; i++)
        row(b, "decode", points[i].streams, points[i].ctx, decode(b, points[i].streams, points[i].ctx, 40));
    const int prompts[] = {512, 1024, 2048, LONG};
    for (int i = 0; i < 4; i++) {
        double t = prefill(b, prompts[i]);
        printf("%-22s %-6d tokens %28.3f ms  %9.1f tok/s\n", "prefill", prompts[i], t * 1e3, prompts[i] / t);
    }
    if (!profiled)
        return;
    profile(b, "decode, 1 stream, context 128", 1, 1, 128);
    profile(b, "decode, 16 streams, context 1024", 16, 16, 1024);
    profile(b, "decode, 64 streams, context 1024", 64, 64, 1024);
    profile(b, "prefill 2048", 1, 2048, 0);
}

/* The points that were asked for. */
static void run_points(bench *b, int n, char **words) {
    for (int i = 0; i + 1 < n; i += 2) {
        const int streams = atoi(words[i]), ctx = atoi(words[i + 1]);
        if (streams < 1 || streams > MAX_SEQS || ctx < 1 || ctx > LONG) {
            printf("%s streams, context %s: expected 1 to %d and 1 to %d\n", words[i], words[i + 1], MAX_SEQS,
                   LONG);
            exit(2);
        }
        row(b, "decode", streams, ctx, decode(b, streams, ctx, 40));
    }
}

int main(int argc, char **argv) {
    static bench b;
    nib_error err = {""};
    device_info devices[BACKEND_MAX_DEVICES];
    size_t n;
    const char *shape = argc > 1 ? argv[1] : "qwen3-8b", *kv = argc > 2 ? argv[2] : "fp8",
               *mode = argc > 3 ? argv[3] : "auto";
    if (nibble_plugin.devices(devices, &n, true, &err) != NIB_OK)
        die(&err);
    b.bandwidth = devices[0].read_bandwidth;
    printf("# %s, read bandwidth %.3f TB/s; %s, all NVFP4, random weights, cache %s, %s\n", devices[0].name,
           b.bandwidth / 1e12, shape, kv, mode);
    if (shape_file_open(&b.file, shape, &err) != NIB_OK)
        die(&err);
    nib_kv_dtype kv_dtype = strcmp(kv, "bf16") == 0 ? NIB_KV_BF16 : NIB_KV_FP8;
    device_options o = {.mode_auto = strcmp(mode, "auto") == 0,
                        .mode = strcmp(mode, "exact") == 0  ? COMPUTE_EXACT
                                : strcmp(mode, "w4a8") == 0 ? COMPUTE_W4A8_FP8
                                                            : COMPUTE_W4A16};
    model_limits limits = {.max_rows = CHUNK, .max_out = MAX_SEQS, .kv_dtype = kv_dtype};
    int pages = MAX_SEQS * SEQ_PAGES + SEQ_PAGES; /* and 1,300 serve one long stream */
    for (int g = 0; g < CACHE_MAX_GROUPS; g++) {
        limits.n_pages[g] = pages;
        b.pages[g] = malloc((size_t)pages * 4);
        for (int i = 0; i < pages; i++)
            b.pages[g][i] = (int32_t)((size_t)i * 7919 % (size_t)pages);
    }
    for (int i = 0; i < CHUNK; i++)
        b.tokens[i] = (i * 7919 + 13) % b.file->hp.vocab;
    for (int i = 0; i < MAX_SEQS; i++)
        b.rows[i] = (sample_row){.n_top = -1};
    const bool points = argc > 5;
    for (int eager = 0; eager < (points ? 1 : 2); eager++) {
        o.eager = eager;
        if (nibble_plugin.open(&b.be, &o, &err) != NIB_OK)
            die(&err);
        double t0 = clock_seconds();
        if (model_open(&b.m, b.file, b.be, &limits, NULL, &err) != NIB_OK)
            die(&err);
        cache_shape groups[CACHE_MAX_GROUPS];
        int n_groups = model_groups(&b.file->hp, kv_dtype, groups);
        b.kv_row_bytes = 0;
        for (int g = 0; g < n_groups; g++)
            b.kv_row_bytes += b.be->cache_page_bytes(b.be, &groups[g]) / KV_PAGE_TOKENS;
        printf("# %s%s; packed %.2f GB in %.1f s; a token reads %.2f GB of weights, %zu bytes of cache per "
               "position\n",
               b.be->path, eager ? ", without CUDA graphs" : "", (double)model_weight_bytes(b.m) / 1e9,
               clock_seconds() - t0, (double)model_bytes_per_token(b.m) / 1e9, b.kv_row_bytes);
        if (points) {
            run_points(&b, argc - 4, argv + 4);
        } else if (eager) {
            row(&b, "decode, eager", 1, 128, decode(&b, 1, 128, 40));
            row(&b, "decode, eager", 16, 1024, decode(&b, 16, 1024, 40));
        } else {
            run(&b, argc > 4);
        }
        model_close(b.m);
        b.be->close(b.be);
        fflush(stdout);
    }
    return 0;
}
