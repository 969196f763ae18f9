/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of functions that compute. It starts from ref/ (complete, written to be read) and every rung the
 * machine has overrides what it does better: ref, avx2, avx512. Functions work on rows that the caller
 * has cut out; threads, batches and pages are the business of the op files.
 *
 * Whatever a rung does, the bits of a result depend on the operands alone, not on where a row lies or on how
 * many rows a call gets.
 */
#ifndef CPU_KERNELS_H
#define CPU_KERNELS_H

#include "cpu/kv.h"
#include "cpu/kvscale.h"
#include "cpu/matmul.h"

#define ATTN_MAX_ROWS 64 /* query rows of one attn_page call */

/* Integer attention: ATTN_INT_MAX_DIM * ATTN_Q_MAX * KV_K_MAX < 2^31 */
#define ATTN_INT_MAX_DIM 256
#define ATTN_Q_MAX       4095

/* Query rows (token, head) that share a KV head, and one page of its keys and values. A page is the unit of
 * the softmax: its maximum, sum and weighted values are formed from nothing and then joined to those of the
 * pages before, so that pages may be computed apart (attn_join) with the same bits. */
typedef struct attn_page_job {
    const void *k, *v;              /* the page's blocks, see kv.h */
    const void *next_k;             /* keys that will be wanted next, or NULL: a hint for prefetching */
    size_t next_keys;               /* how many of that page */
    const float *k_scale, *v_scale; /* [KV_PAGE_TOKENS], FP8 only */
    size_t head_dim;
    int n_rows;                  /* <= ATTN_MAX_ROWS */
    const float *const *q;       /* [n_rows] -> [head_dim] */
    const uint8_t *first, *last; /* [n_rows] the row sees keys [first, last) of the page: one at least */
    float scale, cap;            /* cap 0: none */
    const float *first_less;     /* [n_rows] taken from the score of the page's first key; NULL: nothing */
    float *acc;                  /* [n_rows, acc_stride] sum of exp(s - max) * v, first head_dim columns */
    size_t acc_stride;
    float *max, *sum; /* [n_rows]; -INFINITY and 0 (and acc 0) before the first page */
    float *scratch;   /* [n_rows, KV_PAGE_TOKENS], 64-byte aligned */

    /* integer attention only */
    const int16_t *q16;             /* [n_rows, head_dim], see attn_quantize */
    const float *q_steps;           /* [n_rows] */
    const float *k_steps, *v_steps; /* the block's, see kv.h */
    uint8_t *ints;                  /* [KV_PAGE_TOKENS, head_dim] of 2 bytes, 64-byte aligned */
    uint8_t *weights8;              /* [n_rows, KV_PAGE_TOKENS] */
} attn_page_job;

typedef struct cpu_kernels {
    const char *rung;  /* "scalar", "avx2", "avx512", "avx512-vnni" */
    uint32_t features; /* NIB_CPU_* in use */

    /* out = x / sqrt(mean(x^2) + eps) * w, all [n]; out may be x */
    void (*rmsnorm)(float *out, const float *x, const float *w, float eps, size_t n);
    /* x += y / sqrt(mean(y^2) + eps) * w */
    void (*rmsnorm_add)(float *x, const float *y, const float *w, float eps, size_t n);
    /* x [2 * half] is turned by the angles whose cosines and sines are given, [half] */
    void (*rope)(float *x, const float *cosines, const float *sines, size_t half, bool interleaved);
    /* out = f(gate) * up, by glu_kind; out may be gate */
    void (*glu[2])(float *out, const float *gate, const float *up, size_t n);
    void (*scale)(float *x, float factor, size_t n);
    void (*softcap)(float *x, float cap, size_t n);              /* x = cap * tanh(x / cap) */
    void (*sum_squares)(double *sums, const float *x, size_t n); /* sums[i] += x[i]^2 */

    /* one page of attention, joined to the running values; by nib_kv_dtype */
    void (*attn_page[4])(const attn_page_job *job);
    /* The same with integer operands, for head_dim a multiple of 64 up to ATTN_INT_MAX_DIM; NULL where a rung
     * has nothing faster than FP32. Exact integer sums of q and k in 13 and 12 bits, with a step per row and
     * per key; and of softmax weights (times the value's step) and values in 8 bits, with a step per row and
     * page and per value. attn_quantize: *step = largest |q| / ATTN_Q_MAX, NaN when q is not
     * finite; codes = round(q / step). */
    void (*attn_page_int[4])(const attn_page_job *job);
    void (*attn_quantize)(int16_t *codes, float *step, const float *q, size_t head_dim);
    /* acc [n], *max, *sum of earlier pages joined with those of later ones */
    void (*attn_join)(float *acc, float *max, float *sum, const float *acc2, float max2, float sum2,
                      size_t n);
    /* out = acc / sum + 0 (no negative zero) */
    void (*attn_end)(float *out, const float *acc, float sum, size_t n);
    /* x [n] as BF16, and as E4M3 of x * factor, clamped to 448; NaN stays NaN */
    void (*to_bf16)(uint16_t *dst, const float *x, size_t n);
    void (*to_fp8)(uint8_t *dst, float factor, const float *x, size_t n);

    float (*fp8_scale)(const float *x, const float *weights, size_t n); /* kvscale_fit */
    void (*fp8_steer)(float *x, float scale, const float *weights, const float *along,
                      size_t n); /* kvscale_steer */

    /* reads n bytes (a multiple of 1024) and returns something made of them all: measures memory */
    uint64_t (*read_all)(const void *src, size_t n);

    matmul_kernels matmul;
} cpu_kernels;

/* The table for FEATURES, as features_lowered gives them. */
void kernels_init(cpu_kernels *k, uint32_t features);

/* Each rung's files fill in what they have. */
void rows_ref_init(cpu_kernels *k);
void attn_ref_init(cpu_kernels *k);
void attn_int_ref_init(cpu_kernels *k); /* for tests */
void rows_init_avx2(cpu_kernels *k);
void attn_init_avx2(cpu_kernels *k);
void attn_int_avx2_init(cpu_kernels *k);
void kvscale_avx2_init(cpu_kernels *k);
void rows_init_avx512(cpu_kernels *k);
void attn_init_avx512(cpu_kernels *k);
void attn_int_vnni_init(cpu_kernels *k);

#endif
