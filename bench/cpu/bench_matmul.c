/* SPDX-License-Identifier: Apache-2.0
 *
 * Speed of the matrix products alone, on random weights of the shapes of Gemma 3 270M and SmolLM2 135M.
 *
 *   bench_matmul [--threads N] [--rung scalar|avx2|avx512|vnni] [--mode int8|f32] [--m M]
 *                [--format nvfp4|q8_0|q4_0|f16|bf16|q4_1|q5_0|q4_k|q5_k|q6_k] [--shape WORD] [--quick]
 * [--cpu-time]
 *
 * Without --rung it runs every rung of the machine but scalar; --rung takes several with commas.
 * Weights are copied until they fill more than the caches, and the copies are visited in turn, so that a few
 * rows of activations read memory. The read bandwidth beside it is that of the same threads adding up a
 * buffer of that size, in between the runs. Every figure is the median of the repetitions. --quick keeps one
 * copy, in the caches.
 * --cpu-time divides by the CPU time of the process (with one thread) and reports the best of many short
 * runs: for tuning on a machine that others use.
 */
#include <getopt.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/clock.h"
#include "base/cores.h"
#include "base/mem.h"
#include "base/pool.h"
#include "cpu/cpu.h"
#include "cpu/features.h"
#include "cpu/kernels.h"
#include "num/bf16.h"

enum { REPEATS = 7, SHORT_REPEATS = 40 };
#define FOOTPRINT ((size_t)320 << 20)

typedef struct shape {
    const char *name;
    size_t rows, cols;
} shape;

static const shape shapes[] = {
    {"gemma qkv", 1536, 640},      {"gemma out", 640, 1024},    {"gemma gate+up", 4096, 640},
    {"gemma down", 640, 2048},     {"gemma head", 262144, 640}, {"smollm qkv", 960, 576},
    {"smollm gate+up", 3072, 576}, {"smollm down", 576, 1536},  {"smollm head", 49152, 576},
};

typedef struct format {
    const char *name;
    dtype dtype;
} format;

static const format formats[] = {{"nvfp4", DT_NVFP4}, {"q8_0", DT_Q8_0}, {"q4_0", DT_Q4_0}, {"f16", DT_F16},
                                 {"bf16", DT_BF16},   {"q4_1", DT_Q4_1}, {"q5_0", DT_Q5_0}, {"q4_k", DT_Q4_K},
                                 {"q5_k", DT_Q5_K},   {"q6_k", DT_Q6_K}};

typedef struct options {
    int threads;
    pool *pool;
    const char *rung, *format, *mode, *shape;
    size_t m;
    bool quick, cpu_time;
} options;

static double seconds_now(const options *o) {
    if (!o->cpu_time)
        return clock_seconds();
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double sort_median(double *v, int n) {
    for (int i = 1; i < n; i++)
        for (int j = i; j > 0 && v[j] < v[j - 1]; j--) {
            double t = v[j];
            v[j] = v[j - 1];
            v[j - 1] = t;
        }
    return v[n / 2];
}

static void *must(void *p) {
    if (!p) {
        fprintf(stderr, "bench_matmul: no memory\n");
        exit(1);
    }
    return p;
}

static tensor random_tensor(dtype t, size_t rows, size_t cols) {
    tensor w = {.name = "w", .dtype = t, .rows = rows, .cols = cols, .tensor_scale = 1.0f};
    size_t row_bytes = 0;
    dtype_bytes(t, cols, &row_bytes);
    w.bytes = row_bytes * rows;
    uint8_t *data = must(mem_alloc(w.bytes));
    uint32_t state = 1;
    for (size_t i = 0; i < w.bytes; i++) {
        state = state * 1664525u + 1013904223u;
        data[i] = (uint8_t)(state >> 24);
    }
    uint16_t scale = 0x2000; /* F16 2^-7 */
    for (size_t i = 0; t >= DT_Q4_0 && i < w.bytes; i += dtype_get(t)->block_bytes) {
        memcpy(data + i + (t == DT_Q6_K ? 208 : 0), &scale, 2);
        if (t == DT_Q4_1 || t == DT_Q4_K || t == DT_Q5_K)
            memcpy(data + i + 2, &scale, 2);
    }
    if (t == DT_F16 || t == DT_BF16)
        for (size_t i = 1; i < w.bytes; i += 2)
            data[i] =
                (uint8_t)((data[i] & 0x83) | 0x3c); /* of the size of 1 or 1/64: no subnormal slows it */
    w.data = data;
    if (t == DT_NVFP4) {
        uint8_t *scales = must(mem_alloc(rows * cols / 16));
        for (size_t i = 0; i < rows * cols / 16; i++)
            scales[i] = (uint8_t)(0x30 + i % 32);
        w.block_scales = scales;
    }
    return w;
}

typedef struct reading {
    const uint64_t *buffer;
    size_t bytes;
    atomic_uint_fast64_t sum;
} reading;

static void add_share(void *arg, int thread, int n_threads) {
    reading *r = arg;
    size_t lines = r->bytes / 256, n = (size_t)n_threads, t = (size_t)thread;
    uint64_t sum = 0;
    for (size_t i = lines * t / n * 32; i < lines * (t + 1) / n * 32; i += 32) {
        uint64_t s[32];
        for (size_t j = 0; j < 32; j++)
            s[j] = r->buffer[i + j];
        __builtin_prefetch(r->buffer + i + 576, 0, 2);
        __builtin_prefetch(r->buffer + i + 576 + 8, 0, 2);
        __builtin_prefetch(r->buffer + i + 576 + 16, 0, 2);
        __builtin_prefetch(r->buffer + i + 576 + 24, 0, 2);
        for (size_t j = 0; j < 32; j++)
            sum += s[j];
    }
    atomic_fetch_add(&r->sum, sum);
}

/* GB/s at which the pool's threads add up a buffer. */
static double read_bandwidth(const uint64_t *buffer, size_t bytes, const options *o) {
    double seconds[REPEATS];
    reading all = {.buffer = buffer, .bytes = bytes};
    for (int r = 0; r < REPEATS; r++) {
        double start = seconds_now(o);
        pool_run(o->pool, add_share, &all);
        seconds[r] = seconds_now(o) - start;
    }
    return (double)bytes / sort_median(seconds, REPEATS) / 1e9;
}

typedef struct work {
    const matmul_job *jobs;
    size_t n_jobs, scratch_bytes;
    unsigned char *scratch;
} work;

static void run(void *arg, int thread, int n_threads) {
    const work *w = arg;
    size_t id = (size_t)thread, n = (size_t)n_threads;
    for (size_t j = 0; j < w->n_jobs; j++) {
        size_t units = matmul_units(&w->jobs[j]);
        matmul_run(&w->jobs[j], units * id / n, units * (id + 1) / n, w->scratch + id * w->scratch_bytes);
    }
}

/* G weights x rows per second and GB/s of weights. */
static void bench(const cpu_kernels *k, const shape *s, const format *f, bool int8, size_t m,
                  const options *o, const uint64_t *buffer) {
    tensor t = random_tensor(f->dtype, s->rows, s->cols);
    size_t bytes = tensor_total_bytes(&t), copies = o->quick || m > 16 ? 1 : FOOTPRINT / bytes + 1;
    packed **w = must(mem_array(copies, sizeof *w));
    void **data = must(mem_array(copies, sizeof *data)); /* of formats that are read where they lie */
    act *a = NULL, *out = NULL;
    bool ok = act_new(&a, BUF_ACT, m, s->cols, true, NULL) == NIB_OK &&
              act_new(&out, BUF_F32, m, s->rows, false, NULL) == NIB_OK;
    for (size_t i = 0; i < copies; i++) {
        tensor copy = t;
        const tensor *part = &copy;
        if (t.dtype == DT_F16 || t.dtype == DT_BF16 || t.dtype >= DT_Q4_1) {
            copy.data = data[i] = must(mem_alloc(t.bytes));
            memcpy(data[i], t.data, t.bytes);
        }
        ok = ok && pack_weight(&w[i], &part, 1, int8, o->pool, NULL) == NIB_OK &&
             pack_own(w[i], NULL) == NIB_OK;
    }
    matmul_job *jobs = must(mem_array(copies, sizeof *jobs));
    must(ok ? jobs : NULL);
    size_t scratch_bytes = pack_scratch_bytes(w[0]);
    unsigned char *scratch = must(mem_aligned(scratch_bytes * (size_t)o->threads));
    for (size_t r = 0; r < m; r++) {
        for (size_t c = 0; c < s->cols; c++)
            act_row(a, r)[c] = (float)((c * 37 + r * 11) % 200) / 100.0f - 1.0f;
        k->matmul.quantize_act(act_blocks(a, r), act_row(a, r), a->stride);
    }
    for (size_t i = 0; i < copies; i++)
        jobs[i] =
            (matmul_job){.k = k, .w = w[i], .a = a, .out = out->f32, .out_stride = s->rows, .n_rows = m};
    work all = {.jobs = jobs, .n_jobs = copies, .scratch_bytes = scratch_bytes, .scratch = scratch};
    double seconds[SHORT_REPEATS], macs = (double)s->rows * (double)s->cols * (double)m * (double)copies;
    size_t inner = o->cpu_time || m > 1 || o->quick ? (size_t)((o->cpu_time ? 2e8 : 2e9) / macs) + 1 : 1;
    int repeats = o->cpu_time ? SHORT_REPEATS : REPEATS;
    for (int r = 0; r < repeats; r++) {
        double start = seconds_now(o);
        for (size_t i = 0; i < inner; i++)
            pool_run(o->pool, run, &all);
        seconds[r] = (seconds_now(o) - start) / (double)inner;
    }
    double median = sort_median(seconds, repeats), best = o->cpu_time ? seconds[0] : median;
    double gb = (double)w[0]->head.bytes * (double)copies / best / 1e9;
    printf("%-15s %-6s %-5s %-12s M %4zu  %8.1f Gw/s  %6.1f GB/s", s->name, f->name, int8 ? "int8" : "f32",
           k->rung, m, macs / best / 1e9, gb);
    if (m <= 16 && !o->quick) {
        double read = read_bandwidth(buffer, FOOTPRINT, o);
        printf("  %5.1f %% of %.1f", 100.0 * gb / read, read);
    }
    printf("\n");
    fflush(stdout);
    for (size_t i = 0; i < copies; i++) {
        pack_free(w[i]);
        mem_free(data[i]);
    }
    mem_free(data);
    mem_free(w);
    mem_free(jobs);
    mem_free(scratch);
    act_free(a);
    act_free(out);
    mem_free((void *)t.data);
    mem_free((void *)t.block_scales);
}

/* Whether NAME is in the list WORDS, with commas. */
static bool listed(const char *words, const char *name) {
    size_t n = strlen(name);
    for (const char *p = words; *p; p += strcspn(p, ","), p += *p == ',')
        if (strcspn(p, ",") == n && memcmp(p, name, n) == 0)
            return true;
    return false;
}

static void parse(options *o, int argc, char **argv) {
    static const struct option flags[] = {
        {"threads", 1, 0, 't'}, {"rung", 1, 0, 'r'},     {"format", 1, 0, 'f'},
        {"mode", 1, 0, 'a'},    {"m", 1, 0, 'm'},        {"shape", 1, 0, 's'},
        {"quick", 0, 0, 'q'},   {"cpu-time", 0, 0, 'c'}, {0, 0, 0, 0}};
    *o = (options){.threads = cores_physical(), .rung = "", .format = "nvfp4", .mode = "int8", .shape = ""};
    for (int c; (c = getopt_long(argc, argv, "", flags, NULL)) != -1;) {
        if (c == 't')
            o->threads = atoi(optarg);
        else if (c == 'r')
            o->rung = optarg;
        else if (c == 'f')
            o->format = optarg;
        else if (c == 'a')
            o->mode = optarg;
        else if (c == 'm')
            o->m = (size_t)atol(optarg);
        else if (c == 's')
            o->shape = optarg;
        else if (c == 'q')
            o->quick = true;
        else if (c == 'c')
            o->cpu_time = true;
        else
            exit(2);
    }
    if (o->threads < 1 || (o->cpu_time && o->threads > 1))
        exit(2);
}

int main(int argc, char **argv) {
    static const size_t ms[] = {1, 2, 4, 8, 16, 24, 32, 64, 512};
    static const struct {
        const char *name;
        uint32_t mask;
    } rungs[] = {{"scalar", NIB_CPU_SCALAR},
                 {"avx2", NIB_CPU_AVX2},
                 {"avx512", NIB_CPU_AVX512},
                 {"vnni", NIB_CPU_AVX512_VNNI}};
    options o;
    parse(&o, argc, argv);
    if (pool_new(&o.pool, o.threads, NULL) != NIB_OK)
        exit(1);
    uint64_t *buffer = must(aligned_alloc((size_t)2 << 20, FOOTPRINT));
    madvise(buffer, FOOTPRINT, MADV_HUGEPAGE); /* as packed weights do; a failure only slows the reading */
    memset(buffer, 1, FOOTPRINT);
    uint32_t have = features_lowered(NIB_CPU_ALL), mask = 0;
    for (size_t r = 0; r < sizeof rungs / sizeof *rungs && have & rungs[r].mask; r++) {
        mask |= rungs[r].mask;
        if (*o.rung ? !listed(o.rung, rungs[r].name) : r == 0)
            continue;
        cpu_kernels k = {.rung = rungs[r].name};
        matmul_ref_init(&k.matmul);
#if defined(__x86_64__)
        if (mask & NIB_CPU_AVX2)
            matmul_avx2_init(&k.matmul, mask);
        if (mask & NIB_CPU_AVX512)
            matmul_avx512_init(&k.matmul, mask);
#endif
        for (size_t f = 0; f < sizeof formats / sizeof formats[0]; f++)
            for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
                for (size_t i = 0; i < sizeof ms / sizeof *ms; i++)
                    if (strcmp(o.format, formats[f].name) == 0 && strstr(shapes[s].name, o.shape) &&
                        (o.m ? o.m == ms[i] : true) && (shapes[s].rows < 10000 || ms[i] <= 16) &&
                        shapes[s].cols % dtype_get(formats[f].dtype)->block == 0)
                        bench(&k, &shapes[s], &formats[f], strcmp(o.mode, "int8") == 0, ms[i], &o, buffer);
    }
    free(buffer);
    pool_free(o.pool);
    return 0;
}
