/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of functions that compute. It starts from ref/ (complete, written to be read) and every rung the
 * machine has overrides what it does better: ref, avx2, avx512. Functions work on rows that the caller has
 * cut out; threads, batches and pages are the business of the op files.
 *
 * Whatever a rung does, the bits of a result depend on the operands alone, not on where a row lies or on how
 * many rows a call gets.
 */
#ifndef CPU_KERNELS_H
#define CPU_KERNELS_H

#include "cpu/kv.h"
#include "cpu/matmul.h"

#define ATTN_MAX_ROWS 128 /* query rows of one attn_page call */

/* Query rows (token, head) that share one KV head, and one KV page. */
typedef struct attn_page_job {
    const void *k, *v;              /* the page's blocks, see kv.h */
    const float *k_scale, *v_scale; /* [KV_PAGE_TOKENS], FP8 only */
    int head_dim;
    int n_rows;                  /* <= ATTN_MAX_ROWS */
    const float *const *q;       /* [n_rows] -> [head_dim] */
    const int16_t *first, *last; /* [n_rows] keys [first, last) of the page that the row sees; not empty */
    float scale;
    float *const *acc; /* [n_rows] -> [head_dim] running sum of exp(s - max) * v */
    float *max, *sum;  /* [n_rows] running maximum and sum; -INFINITY and 0 before the first page */
    float *scratch;    /* [n_rows, KV_PAGE_TOKENS] */
} attn_page_job;

typedef struct cpu_kernels {
    const char *rung;  /* "ref", "avx2", "avx512", "avx512-vnni" */
    uint32_t features; /* NIB_CPU_* in use */

    /* out = x / sqrt(mean(x^2) + eps) * w, all [n]; out may be x */
    void (*rmsnorm)(float *out, const float *x, const float *w, float eps, size_t n);
    /* x += y / sqrt(mean(y^2) + eps) * w */
    void (*rmsnorm_add)(float *x, const float *y, const float *w, float eps, size_t n);
    /* x [2 * half] is turned by the angles whose cosines and sines are given, [half] */
    void (*rope)(float *x, const float *cosines, const float *sines, size_t half, bool interleaved);
    void (*glu[2])(float *out, const float *gate, const float *up, size_t n); /* by glu_kind */
    void (*scale)(float *x, float factor, size_t n);
    void (*sum_squares)(double *sums, const float *x, size_t n); /* sums[i] += x[i]^2 */

    /* One page of attention, added to the running sums; by nib_kv_dtype */
    void (*attn_page[4])(const attn_page_job *job);
    /* acc, max, sum of a later page joined to those of earlier ones */
    void (*attn_join)(float *acc, float *max, float *sum, const float *acc2, float max2, float sum2,
                      size_t n);
    /* x [head_dim] into token slot T of a page block; by nib_kv_dtype. Returns by *token_scale (FP8) */
    void (*store_k[4])(void *page, int head_dim, int t, const float *x, float *token_scale);
    void (*store_v[4])(void *page, int head_dim, int t, const float *x, float *token_scale);

    matmul_kernels matmul;
} cpu_kernels;

/* The table for FEATURES (a subset of cpu_features()). */
void kernels_init(cpu_kernels *k, uint32_t features);

void kernels_ref_init(cpu_kernels *k);
void kernels_avx2_init(cpu_kernels *k);   /* only where NIB_CPU_AVX2 is set */
void kernels_avx512_init(cpu_kernels *k); /* only where NIB_CPU_AVX512 is set */

#endif
