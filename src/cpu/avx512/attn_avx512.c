/* SPDX-License-Identifier: Apache-2.0
 *
 * One page of attention, 16 lanes; ref/attn_ref.c says what it computes, kv.h how pages lie.
 *
 * Scores: lanes are 16 keys; a tile of up to 6 query rows times 64 keys is held in 24 registers and goes once
 * through the dimensions, two at a time: one load of keys gives both. Values: lanes are dimensions; a tile of
 * up to 6 rows times 64 dimensions goes once through the page's keys. A load of 32 values gives the even and
 * the odd dimensions apart; they are put in order at the end. BF16 and FP8 become FP32 in registers.
 *
 * Sums run over dimensions (scores) and over keys (values) in order whatever the tile, so a row's bits do not
 * depend on its neighbours.
 */
#include "cpu/avx512/vmath512.h"
#include "cpu/kernels.h"

#define INLINE static inline __attribute__((always_inline))

enum { KEYS = KV_PAGE_TOKENS, ROWS = 6 };

typedef enum kv_type { BF16, FP8, FP32 } kv_type;

typedef struct pair {
    __m512 even, odd;
} pair;

INLINE __mmask16 lanes(size_t n) {
    return n >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1);
}

INLINE pair from_bf16(__m512i w) {
    return (pair){_mm512_castsi512_ps(_mm512_slli_epi32(w, 16)),
                  _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32((int)0xffff0000)))};
}

/* 16 words of two E4M3: as FP16 patterns they read as value * 2^-8 (subnormals too). */
INLINE pair from_fp8(__m256i w) {
    const __m256i keep = _mm256_set1_epi16((short)0xbfff); /* sign, 4 + 3 bits below the doubled sign */
    __m256i even = _mm256_and_si256(_mm256_srai_epi16(_mm256_slli_epi16(w, 8), 1), keep);
    __m256i odd = _mm256_and_si256(_mm256_srai_epi16(w, 1), _mm256_set1_epi16((short)0xbf80));
    return (pair){_mm512_cvtph_ps(even), _mm512_cvtph_ps(odd)};
}

/* Dimensions 2i and 2i + 1 of keys [16v, 16v + 16). */
INLINE pair load_keys(kv_type type, const void *k, size_t i, size_t v) {
    size_t at = i * KEYS + 16 * v;
    if (type == BF16)
        return from_bf16(_mm512_loadu_si512((const uint32_t *)k + at));
    if (type == FP8)
        return from_fp8(_mm256_loadu_si256((const __m256i *)((const uint16_t *)k + at)));
    at += i * KEYS;
    return (pair){_mm512_loadu_ps((const float *)k + at), _mm512_loadu_ps((const float *)k + at + KEYS)};
}

/* N <= 16 pairs of dimensions from pair I of key T on; FP32: 16 dimensions and the next 16. */
INLINE pair load_values(kv_type type, const void *v, size_t d, size_t t, size_t i, size_t n) {
    size_t at = t * d + 2 * i;
    if (type == BF16)
        return from_bf16(_mm512_maskz_loadu_epi32(lanes(n), (const uint16_t *)v + at));
    if (type == FP8)
        return from_fp8(_mm256_maskz_loadu_epi16(lanes(n), (const uint8_t *)v + at));
    const float *f = (const float *)v + at;
    return (pair){_mm512_maskz_loadu_ps(lanes(2 * n), f),
                  n > 8 ? _mm512_maskz_loadu_ps(lanes(2 * n - 16), f + 16) : _mm512_setzero_ps()};
}

/* Dimensions in order: [0, 16) and [16, 32) of the pairs. */
INLINE pair in_order(kv_type type, pair p) {
    if (type == FP32)
        return p;
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    return (pair){_mm512_permutex2var_ps(p.even, low, p.odd), _mm512_permutex2var_ps(p.even, high, p.odd)};
}

/* Raw q.k of R rows and key vectors [v0, v0 + NV) into scratch. */
INLINE void scores_tile(kv_type type, const attn_page_job *job, int row, int R, size_t v0, int NV) {
    __m512 s[ROWS][4];
    const float *const *q = job->q + row;
    for (int r = 0; r < R; r++)
        for (int v = 0; v < NV; v++)
            s[r][v] = _mm512_setzero_ps();
    for (size_t i = 0; i < job->head_dim / 2; i++) {
        pair k[4];
        for (int v = 0; v < NV; v++)
            k[v] = load_keys(type, job->k, i, v0 + (size_t)v);
        for (int r = 0; r < R; r++) {
            __m512 even = _mm512_set1_ps(q[r][2 * i]), odd = _mm512_set1_ps(q[r][2 * i + 1]);
            for (int v = 0; v < NV; v++) {
                s[r][v] = _mm512_fmadd_ps(even, k[v].even, s[r][v]);
                s[r][v] = _mm512_fmadd_ps(odd, k[v].odd, s[r][v]);
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < NV; v++)
            _mm512_store_ps(job->scratch + (size_t)(row + r) * KEYS + 16 * (v0 + (size_t)v), s[r][v]);
}

/* Weighted values of R rows and NC * 32 dimensions (the last N pairs of them there), joined to acc. */
INLINE void values_tile(kv_type type, const attn_page_job *job, int row, int R, size_t i, int NC, size_t n,
                        size_t first, size_t last, const float *c, const float *c2) {
    pair a[ROWS][2];
    const float *weights = job->scratch + (size_t)row * KEYS;
    for (int r = 0; r < R; r++)
        for (int j = 0; j < NC; j++)
            a[r][j] = (pair){_mm512_setzero_ps(), _mm512_setzero_ps()};
    for (size_t t = first; t < last; t++) {
        pair v[2];
        for (int j = 0; j < NC; j++)
            v[j] = load_values(type, job->v, job->head_dim, t, i + 16 * (size_t)j, j + 1 < NC ? 16 : n);
        for (int r = 0; r < R; r++) {
            __m512 w = _mm512_set1_ps(weights[(size_t)r * KEYS + t]);
            for (int j = 0; j < NC; j++) {
                a[r][j].even = _mm512_fmadd_ps(w, v[j].even, a[r][j].even);
                a[r][j].odd = _mm512_fmadd_ps(w, v[j].odd, a[r][j].odd);
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int j = 0; j < NC; j++) {
            float *acc = job->acc + (size_t)(row + r) * job->acc_stride + 2 * i + 32 * (size_t)j;
            size_t there = 2 * (j + 1 < NC ? 16 : n);
            __mmask16 m = lanes(there), m2 = there > 16 ? lanes(there - 16) : 0;
            __m512 old = _mm512_set1_ps(c[row + r]), new = _mm512_set1_ps(c2[row + r]);
            pair p = in_order(type, a[r][j]);
            __m512 x = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, acc), old);
            __m512 y = _mm512_mul_ps(_mm512_maskz_loadu_ps(m2, acc + 16), old);
            _mm512_mask_storeu_ps(acc, m, _mm512_fmadd_ps(p.even, new, x));
            _mm512_mask_storeu_ps(acc + 16, m2, _mm512_fmadd_ps(p.odd, new, y));
        }
}

INLINE void all_scores(kv_type type, const attn_page_job *job, int row, int R, size_t first, size_t last) {
    size_t v0 = first / 16, v1 = (last + 15) / 16;
    if (v1 - v0 == 1)
        scores_tile(type, job, row, R, v0, 1);
    else if (v1 - v0 == 2)
        scores_tile(type, job, row, R, v0, 2);
    else
        scores_tile(type, job, row, R, 0, 4);
}

INLINE void all_values(kv_type type, const attn_page_job *job, int row, int R, size_t first, size_t last,
                       const float *c, const float *c2) {
    size_t pairs = job->head_dim / 2, i = 0;
    for (; i + 32 <= pairs; i += 32)
        values_tile(type, job, row, R, i, 2, 16, first, last, c, c2);
    for (; i < pairs; i += 16)
        values_tile(type, job, row, R, i, 1, pairs - i < 16 ? pairs - i : 16, first, last, c, c2);
}

INLINE __m512 exp_of(float x) {
    return vmath512_exp(_mm512_set1_ps(x));
}

/* Scores of a row become weights exp(s - max) (times the value scales); the row's maximum and sum are joined,
 * *c and *c2 are the factors that go with the old and the new values. */
INLINE void softmax_row(kv_type type, const attn_page_job *job, int row, float *c, float *c2) {
    float *s = job->scratch + (size_t)row * KEYS;
    uint64_t seen = (~0ull >> (64 - (job->last[row] - job->first[row]))) << job->first[row];
    __m512 v[4], factor = _mm512_set1_ps(type == FP8 ? job->scale * 256 : job->scale);
    for (int j = 0; j < 4; j++) {
        v[j] = _mm512_mul_ps(_mm512_load_ps(s + 16 * j), factor);
        if (type == FP8)
            v[j] = _mm512_mul_ps(v[j], _mm512_loadu_ps(job->k_scale + 16 * j));
        v[j] = _mm512_mask_blend_ps((__mmask16)(seen >> (16 * j)), _mm512_set1_ps(-__builtin_inff()), v[j]);
    }
    float max = _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(v[0], v[1]), _mm512_max_ps(v[2], v[3])));
    for (int j = 0; j < 4; j++)
        v[j] = vmath512_exp(_mm512_sub_ps(v[j], _mm512_set1_ps(max)));
    float sum = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(v[0], v[1]), _mm512_add_ps(v[2], v[3])));
    for (int j = 0; j < 4; j++) {
        if (type == FP8)
            v[j] = _mm512_mul_ps(
                v[j], _mm512_mul_ps(_mm512_loadu_ps(job->v_scale + 16 * j), _mm512_set1_ps(256.0f)));
        _mm512_store_ps(s + 16 * j, v[j]);
    }
    float both = job->max[row] > max ? job->max[row] : max;
    *c = _mm512_cvtss_f32(exp_of(job->max[row] - both));
    *c2 = _mm512_cvtss_f32(exp_of(max - both));
    job->sum[row] = job->sum[row] * *c + sum * *c2;
    job->max[row] = both;
}

/* ROWS rows at a time, then what is left: R is a constant in each call. */
#define BY_ROWS(call, n_rows)                                                                                \
    do {                                                                                                     \
        int row = 0;                                                                                         \
        for (; row + ROWS <= (n_rows); row += ROWS) {                                                        \
            call(ROWS);                                                                                      \
        }                                                                                                    \
        switch ((n_rows)-row) {                                                                              \
        case 5:                                                                                              \
            call(5);                                                                                         \
            break;                                                                                           \
        case 4:                                                                                              \
            call(4);                                                                                         \
            break;                                                                                           \
        case 3:                                                                                              \
            call(3);                                                                                         \
            break;                                                                                           \
        case 2:                                                                                              \
            call(2);                                                                                         \
            break;                                                                                           \
        case 1:                                                                                              \
            call(1);                                                                                         \
            break;                                                                                           \
        }                                                                                                    \
    } while (0)

/* Keys that any of the rows sees. */
INLINE void seen_by_any(const attn_page_job *job, size_t *first, size_t *last) {
    *first = KEYS;
    *last = 0;
    for (int r = 0; r < job->n_rows; r++) {
        *first = job->first[r] < *first ? job->first[r] : *first;
        *last = job->last[r] > *last ? job->last[r] : *last;
    }
}

INLINE void attn_page(kv_type type, const attn_page_job *job) {
    float c[ATTN_MAX_ROWS], c2[ATTN_MAX_ROWS];
    size_t first, last;
    seen_by_any(job, &first, &last);
#define SCORES(R) all_scores(type, job, row, R, first, last)
    BY_ROWS(SCORES, job->n_rows);
    for (int r = 0; r < job->n_rows; r++)
        softmax_row(type, job, r, &c[r], &c2[r]);
#define VALUES(R) all_values(type, job, row, R, first, last, c, c2)
    BY_ROWS(VALUES, job->n_rows);
}

static void attn_page_bf16(const attn_page_job *job) {
    attn_page(BF16, job);
}

static void attn_page_fp8(const attn_page_job *job) {
    attn_page(FP8, job);
}

static void attn_page_fp32(const attn_page_job *job) {
    attn_page(FP32, job);
}

static void attn_join(float *acc, float *max, float *sum, const float *acc2, float max2, float sum2,
                      size_t n) {
    float both = *max > max2 ? *max : max2;
    float c = _mm512_cvtss_f32(exp_of(*max - both)), c2 = _mm512_cvtss_f32(exp_of(max2 - both));
    __m512 old = _mm512_set1_ps(c), new = _mm512_set1_ps(c2);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 m = lanes(n - i);
        __m512 x = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, acc + i), old);
        _mm512_mask_storeu_ps(acc + i, m, _mm512_fmadd_ps(_mm512_maskz_loadu_ps(m, acc2 + i), new, x));
    }
    *sum = *sum * c + sum2 * c2;
    *max = both;
}

static void attn_end(float *out, const float *acc, float sum, size_t n) {
    __m512 all = _mm512_set1_ps(sum);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 m = lanes(n - i);
        __m512 x = _mm512_div_ps(_mm512_maskz_loadu_ps(m, acc + i), all);
        _mm512_mask_storeu_ps(out + i, m, _mm512_add_ps(x, _mm512_setzero_ps()));
    }
}

void attn_avx512_init(cpu_kernels *k) {
    k->attn_page[NIB_KV_BF16] = attn_page_bf16;
    k->attn_page[NIB_KV_FP8] = attn_page_fp8;
    k->attn_page[NIB_KV_FP32] = attn_page_fp32;
    k->attn_join = attn_join;
    k->attn_end = attn_end;
}
