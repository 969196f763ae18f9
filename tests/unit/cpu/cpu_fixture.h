/* SPDX-License-Identifier: Apache-2.0
 *
 * What the tests of the CPU backend share: rungs, operands of given shapes, a batch of sequences.
 */
#ifndef CPU_FIXTURE_H
#define CPU_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu/act.h"
#include "cpu/cpu.h"
#include "cpu/features.h"
#include "cpu/kv.h"
#include "num/fp8.h"
#include "ops/op_list.h"

/* Rungs, lowest first; a machine has the first few. */
static const char *const fixture_rung_names[] = {"scalar", "avx2", "avx512", "avx512-vnni"};
static const uint32_t fixture_rungs[] = {
    NIB_CPU_SCALAR,
    NIB_CPU_SCALAR | NIB_CPU_AVX2,
    NIB_CPU_SCALAR | NIB_CPU_AVX2 | NIB_CPU_AVX512,
    NIB_CPU_SCALAR | NIB_CPU_AVX2 | NIB_CPU_AVX512 | NIB_CPU_AVX512_VNNI,
};

static inline size_t fixture_n_rungs(void) {
    size_t n = 0;
    while (n < sizeof fixture_rungs / sizeof *fixture_rungs &&
           (fixture_rungs[n] & features_lowered(NIB_CPU_ALL)) == fixture_rungs[n])
        n++;
    static bool told;
    for (size_t i = n; i < sizeof fixture_rungs / sizeof *fixture_rungs && !told; i++)
        print_message("SKIP: %s is not on this machine\n", fixture_rung_names[i]);
    told = true;
    return n;
}

static inline backend *fixture_open(uint32_t features, int threads, nib_activations activations) {
    nib_error err;
    backend *be = NULL;
    cpu_options options = {.threads = threads, .features = features, .activations = activations};
    if (cpu_open(&be, &options, &err) != NIB_OK)
        fail_msg("%s", err.text);
    return be;
}

static inline buf *fixture_buf(backend *be, buf_kind kind, size_t rows, size_t cols) {
    nib_error err;
    buf *b = NULL;
    if (be->buf_new(be, &b, kind, SPLIT_NONE, rows, cols, &err) != NIB_OK)
        fail_msg("%s", err.text);
    return b;
}

/* ---- numbers ---- */

static inline uint64_t fixture_random(uint64_t *state) {
    uint64_t x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

/* About normal: the sum of four uniform numbers. */
static inline float fixture_normal(uint64_t *state) {
    float sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (float)(fixture_random(state) >> 40) * 0x1p-24f - 0.5f;
    return sum * 1.7320508f;
}

typedef enum fixture_pattern { PATTERN_ZEROS, PATTERN_NORMAL, PATTERN_OUTLIERS, PATTERN_MAX } fixture_pattern;
enum { N_PATTERNS = 4 };

/* LARGEST: what PATTERN_MAX holds, with alternating signs. */
static inline void fixture_fill(float *x, size_t n, fixture_pattern pattern, float largest, uint64_t seed) {
    uint64_t state = seed * 0x9e3779b97f4a7c15u + 88172645463325252u;
    for (size_t i = 0; i < n; i++) {
        float v = fixture_normal(&state);
        switch (pattern) {
        case PATTERN_ZEROS:
            x[i] = 0;
            break;
        case PATTERN_NORMAL:
            x[i] = v;
            break;
        case PATTERN_OUTLIERS: /* one in each 16 */
            x[i] = i % 16 == seed % 16 ? 100 * v : 0.01f * v;
            break;
        case PATTERN_MAX:
            x[i] = i % 3 ? largest : -largest;
            break;
        }
    }
}

static inline float *fixture_vector(size_t n, fixture_pattern pattern, float largest, uint64_t seed) {
    float *x = test_malloc(n * sizeof *x);
    fixture_fill(x, n, pattern, largest, seed);
    return x;
}

static inline float *fixture_row(const buf *b, size_t row) {
    return act_row((const act *)b, row);
}

/* Writes rows into a buffer as if an op had. */
static inline void fixture_set(buf *b, const float *x, size_t rows) {
    b->rows = rows;
    for (size_t r = 0; r < rows; r++)
        memcpy(fixture_row(b, r), x + r * b->cols, b->cols * sizeof *x);
}

static inline vec *fixture_vec(backend *be, const float *x, size_t n) {
    nib_error err;
    vec *v = NULL;
    if (be->vec_new(be, &v, VEC_F32, n, x, &err) != NIB_OK)
        fail_msg("%s", err.text);
    return v;
}

/* One group that sees everything. */
static inline cache *fixture_cache(backend *be, nib_kv_dtype type, int layers, int kv_heads, int head_dim,
                                   int n_pages) {
    nib_error err;
    cache *c = NULL;
    cache_shape shape = {.group = {.kind = CACHE_FULL, .n_pages = n_pages},
                         .n_layers = layers,
                         .n_kv_heads = kv_heads,
                         .head_dim = head_dim,
                         .dtype = type};
    if (be->cache_new(be, &c, &shape, 1, &err) != NIB_OK)
        fail_msg("%s", err.text);
    return c;
}

/* ---- comparing with FP64 ---- */

static inline double fixture_error(op_error kind, const float *got, const double *want, size_t n) {
    double worst = 0, diff2 = 0, want2 = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - want[i]);
        if (isnan(d))
            return INFINITY;
        diff2 += d * d;
        want2 += want[i] * want[i];
        if (d > 1e-37 && d > worst * fabs(want[i]))
            worst = want[i] == 0 ? INFINITY : d / fabs(want[i]);
    }
    if (kind == OP_ERROR_ELEMENT)
        return worst;
    return diff2 == 0 ? 0 : want2 == 0 ? INFINITY : sqrt(diff2 / want2);
}

static inline double fixture_check(op_id op, const char *where, const float *got, const double *want,
                                   size_t n) {
    double error = fixture_error(op_infos[op].error, got, want, n);
    if (!(error <= op_infos[op].tolerance))
        fail_msg("%s, %s: error %g, tolerance %g", op_infos[op].name, where, error, op_infos[op].tolerance);
    return error;
}

/* ---- sequences ---- */

enum { FIXTURE_SEQS = 8, FIXTURE_PAGES = 32 };

typedef struct fixture_batch {
    batch b;
    batch_seq seqs[FIXTURE_SEQS];
    int32_t pages[FIXTURE_SEQS][FIXTURE_PAGES]; /* of sequence s: scattered over the cache */
    int32_t tokens[4096], out_rows[FIXTURE_SEQS];
} fixture_batch;

/* Page J of sequence S in a cache of FIXTURE_SEQS * FIXTURE_PAGES pages. */
static inline int32_t fixture_page(int s, int j) {
    return (int32_t)((s * 37 + j * 11 + 5) % FIXTURE_SEQS + FIXTURE_SEQS * j);
}

/* Appends rows [pos, pos + n) of sequence S. */
static inline void fixture_add(fixture_batch *f, int s, int pos, int n) {
    batch_seq *seq = &f->seqs[f->b.n_seqs];
    for (int j = 0; j < FIXTURE_PAGES; j++)
        f->pages[s][j] = fixture_page(s, j);
    *seq = (batch_seq){
        .pages = {f->pages[s]}, .n_pages = FIXTURE_PAGES, .row = f->b.n_rows, .n_rows = n, .pos = pos};
    for (int i = 0; i < n; i++)
        f->tokens[f->b.n_rows + i] = (s * 7919 + (pos + i) * 31) % 97;
    f->out_rows[f->b.n_seqs] = f->b.n_rows + n - 1;
    f->b.n_rows += n;
    f->b.n_seqs++;
    f->b.n_out = f->b.n_seqs;
    f->b.tokens = f->tokens;
    f->b.seqs = f->seqs;
    f->b.out_rows = f->out_rows;
}

static inline void fixture_finish(backend *be) {
    nib_error err;
    if (step_finish(be, &err) != NIB_OK)
        fail_msg("%s", err.text);
}

/* ---- reading the pages (layout: kv.h) ---- */

static inline double fixture_kv_at(cache *c, bool is_k, int layer, int page, int head, size_t t, size_t i) {
    const kv_cache *kv = kv_group(c, 0);
    size_t block = kv_block(kv, layer, page, head), d = (size_t)kv->shape.head_dim;
    const uint8_t *bytes = (is_k ? kv->k : kv->v) + block * kv->block_bytes;
    size_t pair = (i / 2 * KV_PAGE_TOKENS + t) * 2 + i % 2, at = is_k ? pair : t * d + i;
    if (kv->shape.dtype == NIB_KV_FP32)
        return ((const float *)bytes)[is_k ? i * KV_PAGE_TOKENS + t : at];
    if (kv->shape.dtype == NIB_KV_BF16)
        return bf16_to_f32(((const uint16_t *)bytes)[at]);
    const float *scales = is_k ? kv->k_scales : kv->v_scales;
    return (double)e4m3_to_f32(bytes[at]) * scales[block * KV_PAGE_TOKENS + t];
}

#endif
