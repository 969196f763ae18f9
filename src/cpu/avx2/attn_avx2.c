/* SPDX-License-Identifier: Apache-2.0
 *
 * One page of attention, 8 lanes; ref/attn_ref.c says what it computes, kv.h how pages lie. As the AVX-512
 * file, with smaller tiles for 16 registers: scores of 4 rows times 16 keys (or 2 times 32), values of 6 rows
 * times 16 dimensions.
 *
 * Sums run over dimensions (scores) and over keys (values) in order whatever the tile, so a row's bits do not
 * depend on its neighbours.
 */
#include "cpu/attn_prefetch.h"
#include "cpu/avx2/vmath256.h"
#include "cpu/kernels.h"

#define INLINE static inline __attribute__((always_inline))

enum { KEYS = KV_PAGE_TOKENS, SCORE_ROWS = 4, VALUE_ROWS = 6 };

typedef enum kv_type { BF16, FP8, FP32 } kv_type;

typedef struct pair {
    __m256 even, odd;
} pair;

INLINE pair from_bf16(__m256i w) {
    return (pair){_mm256_castsi256_ps(_mm256_slli_epi32(w, 16)),
                  _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32((int)0xffff0000)))};
}

/* 8 words of two E4M3: as FP16 patterns they read as value * 2^-8 (subnormals too). */
INLINE pair from_fp8(__m128i w) {
    __m128i even = _mm_and_si128(_mm_srai_epi16(_mm_slli_epi16(w, 8), 1), _mm_set1_epi16((short)0xbfff));
    __m128i odd = _mm_and_si128(_mm_srai_epi16(w, 1), _mm_set1_epi16((short)0xbf80));
    return (pair){_mm256_cvtph_ps(even), _mm256_cvtph_ps(odd)};
}

INLINE size_t code_bytes(kv_type type) {
    return type == FP8 ? 1 : type == BF16 ? 2 : 4;
}

/* Dimensions 2i and 2i + 1 of keys [8v, 8v + 8). */
INLINE pair load_keys(kv_type type, const void *k, size_t i, size_t v) {
    size_t at = i * KEYS + 8 * v;
    if (type == BF16)
        return from_bf16(_mm256_loadu_si256((const __m256i *)((const uint32_t *)k + at)));
    if (type == FP8)
        return from_fp8(_mm_loadu_si128((const __m128i *)((const uint16_t *)k + at)));
    at += i * KEYS;
    return (pair){_mm256_loadu_ps((const float *)k + at), _mm256_loadu_ps((const float *)k + at + KEYS)};
}

/* The first N of 8 words. */
INLINE __m128i load_words(const void *src, size_t n) {
    if (n == 8)
        return _mm_loadu_si128(src);
    __m128i w = _mm_setzero_si128();
    __builtin_memcpy(&w, src, 2 * n);
    return w;
}

/* N <= 8 pairs of dimensions from pair I of key T on; FP32: 8 dimensions and the next 8. */
INLINE pair load_values(kv_type type, const void *v, size_t d, size_t t, size_t i, size_t n) {
    size_t at = t * d + 2 * i;
    if (type == BF16) {
        const int *words = (const int *)((const uint16_t *)v + at);
        return from_bf16(n == 8 ? _mm256_loadu_si256((const __m256i *)words)
                                : _mm256_maskload_epi32(words, vmath256_mask(n)));
    }
    if (type == FP8)
        return from_fp8(load_words((const uint8_t *)v + at, n));
    const float *f = (const float *)v + at;
    if (n == 8)
        return (pair){_mm256_loadu_ps(f), _mm256_loadu_ps(f + 8)};
    return (pair){_mm256_maskload_ps(f, vmath256_mask(2 * n)),
                  n > 4 ? _mm256_maskload_ps(f + 8, vmath256_mask(2 * n - 8)) : _mm256_setzero_ps()};
}

/* Dimensions in order: [0, 8) and [8, 16) of the pairs. */
INLINE pair in_order(kv_type type, pair p) {
    if (type == FP32)
        return p;
    __m256 low = _mm256_unpacklo_ps(p.even, p.odd), high = _mm256_unpackhi_ps(p.even, p.odd);
    return (pair){_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31)};
}

/* Raw q.k of R rows and key vectors [v0, v0 + NV) into scratch. AHEAD: the first time through the page. */
INLINE void scores_tile(kv_type type, const attn_page_job *job, int row, int R, size_t v0, int NV,
                        bool ahead) {
    __m256 s[SCORE_ROWS][4];
    const float *const *q = job->q + row;
    for (int r = 0; r < R; r++)
        for (int v = 0; v < NV; v++)
            s[r][v] = _mm256_setzero_ps();
    size_t line = 2 * KEYS * code_bytes(type);
    for (size_t i = 0; i < job->head_dim / 2; i++) {
        pair k[4];
        if (ahead)
            attn_prefetch(job->v, i * line, line);
        for (int v = 0; v < NV; v++)
            k[v] = load_keys(type, job->k, i, v0 + (size_t)v);
        for (int r = 0; r < R; r++) {
            __m256 even = _mm256_set1_ps(q[r][2 * i]), odd = _mm256_set1_ps(q[r][2 * i + 1]);
            for (int v = 0; v < NV; v++) {
                s[r][v] = _mm256_fmadd_ps(even, k[v].even, s[r][v]);
                s[r][v] = _mm256_fmadd_ps(odd, k[v].odd, s[r][v]);
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < NV; v++)
            _mm256_store_ps(job->scratch + (size_t)(row + r) * KEYS + 8 * (v0 + (size_t)v), s[r][v]);
}

/* Weighted values of R rows and N <= 8 pairs of dimensions from pair I on, joined to acc. */
INLINE void values_tile(kv_type type, const attn_page_job *job, int row, int R, size_t i, size_t n,
                        size_t first, size_t last, const float *c, const float *c2, bool ahead) {
    pair a[VALUE_ROWS];
    const float *weights = job->scratch + (size_t)row * KEYS;
    for (int r = 0; r < R; r++)
        a[r] = (pair){_mm256_setzero_ps(), _mm256_setzero_ps()};
    size_t line = 16 * code_bytes(type);
    for (size_t t = first; t < last; t++) {
        if (ahead)
            attn_prefetch(job->next_k, i * KEYS * 2 * code_bytes(type) + t * line, line);
        pair v = load_values(type, job->v, job->head_dim, t, i, n);
        for (int r = 0; r < R; r++) {
            __m256 w = _mm256_set1_ps(weights[(size_t)r * KEYS + t]);
            a[r].even = _mm256_fmadd_ps(w, v.even, a[r].even);
            a[r].odd = _mm256_fmadd_ps(w, v.odd, a[r].odd);
        }
    }
    __m256i m = vmath256_mask(2 * n), m2 = vmath256_mask(n > 4 ? 2 * n - 8 : 0);
    for (int r = 0; r < R; r++) {
        float *acc = job->acc + (size_t)(row + r) * job->acc_stride + 2 * i;
        __m256 old = _mm256_set1_ps(c[row + r]), new = _mm256_set1_ps(c2[row + r]);
        pair p = in_order(type, a[r]);
        __m256 x = _mm256_mul_ps(_mm256_maskload_ps(acc, m), old);
        __m256 y = _mm256_mul_ps(_mm256_maskload_ps(acc + 8, m2), old);
        _mm256_maskstore_ps(acc, m, _mm256_fmadd_ps(p.even, new, x));
        _mm256_maskstore_ps(acc + 8, m2, _mm256_fmadd_ps(p.odd, new, y));
    }
}

INLINE void all_scores(kv_type type, const attn_page_job *job, int row, int R, size_t first, size_t last) {
    size_t step = R <= 2 ? 4 : 2, start = first / (8 * step) * step;
    for (size_t v = start; v < (last + 7) / 8; v += step)
        if (row == 0 && v == start && attn_prefetch_wanted(job))
            scores_tile(type, job, row, R, v, R <= 2 ? 4 : 2, true);
        else
            scores_tile(type, job, row, R, v, R <= 2 ? 4 : 2, false);
}

INLINE void all_values(kv_type type, const attn_page_job *job, int row, int R, size_t first, size_t last,
                       const float *c, const float *c2) {
    size_t pairs = job->head_dim / 2, i = 0;
    bool ahead = row == 0 && job->next_k && attn_prefetch_wanted(job);
    for (; i + 8 <= pairs; i += 8)
        if (ahead)
            values_tile(type, job, row, R, i, 8, first, last, c, c2, true);
        else
            values_tile(type, job, row, R, i, 8, first, last, c, c2, false);
    if (i < pairs)
        values_tile(type, job, row, R, i, pairs - i, first, last, c, c2, false);
}

INLINE float exp_of(float x) {
    return _mm256_cvtss_f32(vmath256_exp(_mm256_set1_ps(x)));
}

/* Scores of a row become weights exp(s - max) (times the value scales); the row's maximum and sum are joined,
 * *c and *c2 are the factors that go with the old and the new values. */
INLINE void softmax_row(kv_type type, const attn_page_job *job, int row, float *c, float *c2) {
    float *s = job->scratch + (size_t)row * KEYS;
    const __m256 hidden = _mm256_set1_ps(-__builtin_inff());
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256 v[8], factor = _mm256_set1_ps(type == FP8 ? job->scale * 256 : job->scale), most = hidden;
    for (int j = 0; j < 8; j++) {
        v[j] = _mm256_mul_ps(_mm256_load_ps(s + 8 * j), factor);
        if (type == FP8)
            v[j] = _mm256_mul_ps(v[j], _mm256_loadu_ps(job->k_scale + 8 * j));
        __m256i before = _mm256_cmpgt_epi32(_mm256_set1_epi32(job->first[row] - 8 * j), lane);
        __m256i within = _mm256_cmpgt_epi32(_mm256_set1_epi32(job->last[row] - 8 * j), lane);
        v[j] = _mm256_blendv_ps(hidden, v[j], _mm256_castsi256_ps(_mm256_andnot_si256(before, within)));
        most = _mm256_max_ps(most, v[j]);
    }
    float max = vmath256_max(most);
    __m256 total = _mm256_setzero_ps();
    for (int j = 0; j < 8; j++) {
        v[j] = vmath256_exp(_mm256_sub_ps(v[j], _mm256_set1_ps(max)));
        total = _mm256_add_ps(total, v[j]);
        if (type == FP8)
            v[j] = _mm256_mul_ps(
                v[j], _mm256_mul_ps(_mm256_loadu_ps(job->v_scale + 8 * j), _mm256_set1_ps(256.0f)));
        _mm256_store_ps(s + 8 * j, v[j]);
    }
    float both = job->max[row] > max ? job->max[row] : max;
    *c = exp_of(job->max[row] - both);
    *c2 = exp_of(max - both);
    job->sum[row] = job->sum[row] * *c + vmath256_sum(total) * *c2;
    job->max[row] = both;
}

/* MOST rows at a time, then what is left: the argument of CALL is a constant each time. */
#define BY_ROWS(call, most, n_rows)                                                                          \
    do {                                                                                                     \
        int row = 0;                                                                                         \
        for (; row + (most) <= (n_rows); row += (most)) {                                                    \
            call(most);                                                                                      \
        }                                                                                                    \
        switch ((n_rows)-row) {                                                                              \
        case 5:                                                                                              \
            call((most) < 5 ? (most) : 5);                                                                   \
            break;                                                                                           \
        case 4:                                                                                              \
            call((most) < 4 ? (most) : 4);                                                                   \
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
    BY_ROWS(SCORES, SCORE_ROWS, job->n_rows);
    for (int r = 0; r < job->n_rows; r++)
        softmax_row(type, job, r, &c[r], &c2[r]);
#define VALUES(R) all_values(type, job, row, R, first, last, c, c2)
    BY_ROWS(VALUES, VALUE_ROWS, job->n_rows);
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
    float both = *max > max2 ? *max : max2, c = exp_of(*max - both), c2 = exp_of(max2 - both);
    for (size_t i = 0; i < n; i += 8) {
        __m256i m = vmath256_mask(n - i);
        __m256 x = _mm256_mul_ps(_mm256_maskload_ps(acc + i, m), _mm256_set1_ps(c));
        x = _mm256_fmadd_ps(_mm256_maskload_ps(acc2 + i, m), _mm256_set1_ps(c2), x);
        _mm256_maskstore_ps(acc + i, m, x);
    }
    *sum = *sum * c + sum2 * c2;
    *max = both;
}

static void attn_end(float *out, const float *acc, float sum, size_t n) {
    for (size_t i = 0; i < n; i += 8) {
        __m256i m = vmath256_mask(n - i);
        __m256 x = _mm256_div_ps(_mm256_maskload_ps(acc + i, m), _mm256_set1_ps(sum));
        _mm256_maskstore_ps(out + i, m, _mm256_add_ps(x, _mm256_setzero_ps()));
    }
}

void attn_avx2_init(cpu_kernels *k) {
    k->attn_page[NIB_KV_BF16] = attn_page_bf16;
    k->attn_page[NIB_KV_FP8] = attn_page_fp8;
    k->attn_page[NIB_KV_FP32] = attn_page_fp32;
    k->attn_join = attn_join;
    k->attn_end = attn_end;
}
