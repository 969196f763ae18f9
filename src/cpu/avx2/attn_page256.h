/* SPDX-License-Identifier: Apache-2.0
 *
 * What the attention kernels of this rung share: loads of 8 keys or 16 values of a page as FP32 (layouts:
 * kv.h), and the softmax of a page, 8 query rows at a time.
 */
#ifndef CPU_AVX2_ATTN_PAGE256_H
#define CPU_AVX2_ATTN_PAGE256_H

#include "cpu/attn_page.h"
#include "cpu/avx2/vec256.h"
#include "cpu/vec/vmath.h"

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

/* Dimensions 2i and 2i + 1 of keys [8v, 8v + 8). */
INLINE pair load_keys(nib_kv_dtype type, const void *k, size_t i, size_t v) {
    size_t at = i * KEYS + 8 * v;
    if (type == NIB_KV_BF16)
        return from_bf16(_mm256_loadu_si256((const __m256i *)((const uint32_t *)k + at)));
    if (type == NIB_KV_FP8)
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
INLINE pair load_values(nib_kv_dtype type, const void *v, size_t d, size_t t, size_t i, size_t n) {
    size_t at = t * d + 2 * i;
    if (type == NIB_KV_BF16) {
        const int *words = (const int *)((const uint16_t *)v + at);
        return from_bf16(n == 8 ? _mm256_loadu_si256((const __m256i *)words)
                                : _mm256_maskload_epi32(words, vf_first(n)));
    }
    if (type == NIB_KV_FP8)
        return from_fp8(load_words((const uint8_t *)v + at, n));
    const float *f = (const float *)v + at;
    if (n == 8)
        return (pair){_mm256_loadu_ps(f), _mm256_loadu_ps(f + 8)};
    return (pair){_mm256_maskload_ps(f, vf_first(2 * n)),
                  n > 4 ? _mm256_maskload_ps(f + 8, vf_first(2 * n - 8)) : _mm256_setzero_ps()};
}

/* Dimensions in order: [0, 8) and [8, 16) of the pairs. */
INLINE pair in_order(nib_kv_dtype type, pair p) {
    if (type == NIB_KV_FP32)
        return p;
    __m256 low = _mm256_unpacklo_ps(p.even, p.odd), high = _mm256_unpackhi_ps(p.even, p.odd);
    return (pair){_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31)};
}

/* Lane r of the result is the sum (or maximum) of the lanes of v[r]: l + 4, then l + 2, l + 1, for every r
 * alike. */
#define ACROSS8(name, op)                                                                                    \
    INLINE __m256 name(const __m256 *v) {                                                                    \
        __m256 a[4], b[2];                                                                                   \
        for (int i = 0; i < 4; i++)                                                                          \
            a[i] = op(_mm256_permute2f128_ps(v[i], v[i + 4], 0x20),                                          \
                      _mm256_permute2f128_ps(v[i], v[i + 4], 0x31));                                         \
        for (int i = 0; i < 2; i++)                                                                          \
            b[i] = op(_mm256_shuffle_ps(a[2 * i], a[2 * i + 1], 0x44),                                       \
                      _mm256_shuffle_ps(a[2 * i], a[2 * i + 1], 0xee));                                      \
        return op(_mm256_shuffle_ps(b[0], b[1], 0x88), _mm256_shuffle_ps(b[0], b[1], 0xdd));                 \
    }

/* The larger of numbers >= 0, NaN the largest of all: by their bits. */
INLINE __m256 larger(__m256 a, __m256 b) {
    return _mm256_castsi256_ps(_mm256_max_epu32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}

ACROSS8(max_across, _mm256_max_ps)
ACROSS8(larger_across, larger)
ACROSS8(sum_across, _mm256_add_ps)

/* One of each row's vector, by pairs: a fixed order. Where a score is NaN the maximum may be anything: the
 * score's weight is NaN, and so is the sum. */
INLINE __m256 max8(const __m256 *v) {
    return _mm256_max_ps(_mm256_max_ps(_mm256_max_ps(v[0], v[1]), _mm256_max_ps(v[2], v[3])),
                         _mm256_max_ps(_mm256_max_ps(v[4], v[5]), _mm256_max_ps(v[6], v[7])));
}

INLINE __m256 sum8(const __m256 *v) {
    return _mm256_add_ps(_mm256_add_ps(_mm256_add_ps(v[0], v[1]), _mm256_add_ps(v[2], v[3])),
                         _mm256_add_ps(_mm256_add_ps(v[4], v[5]), _mm256_add_ps(v[6], v[7])));
}

/* Hides what the row does not see: scores of -infinity. */
INLINE void hide_scores(const attn_page_job *job, int row, __m256 *v) {
    float *s = job->scratch + (size_t)row * KEYS;
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    for (int j = 0; j < 8; j++) {
        __m256i before = _mm256_cmpgt_epi32(_mm256_set1_epi32(job->first[row] - 8 * j), lane);
        __m256i within = _mm256_cmpgt_epi32(_mm256_set1_epi32(job->last[row] - 8 * j), lane);
        v[j] = _mm256_blendv_ps(_mm256_set1_ps(-__builtin_inff()), v[j],
                                _mm256_castsi256_ps(_mm256_andnot_si256(before, within)));
        _mm256_store_ps(s + 8 * j, v[j]);
    }
}

/* Maxima of the scores of N <= 8 rows from ROW on; hides what they do not see. */
INLINE __m256 score_maxima(const attn_page_job *job, int row, int n) {
    __m256 most[8];
    for (int r = 0; r < 8; r++)
        most[r] = _mm256_setzero_ps();
    for (int r = 0; r < n; r++) {
        const float *s = job->scratch + (size_t)(row + r) * KEYS;
        __m256 v[8];
        for (int j = 0; j < 8; j++)
            v[j] = _mm256_load_ps(s + 8 * j);
        if (job->last[row + r] - job->first[row + r] < KEYS)
            hide_scores(job, row + r, v);
        most[r] = max8(v);
    }
    return max_across(most);
}

/* Scores of N <= 8 rows become weights exp(s - max), and those times VALUE_FACTORS (per key); returns the
 * sums of the weights and the maxima of what is stored. A hidden key's factor may be anything; a NaN of any
 * other shows, even where the weight is 0. */
INLINE __m256 make_weights(const attn_page_job *job, int row, int n, const float *max,
                           const float *value_factors, __m256 *stored_max) {
    __m256 sum[8], most[8];
    for (int r = 0; r < 8; r++)
        sum[r] = most[r] = _mm256_setzero_ps();
    for (int r = 0; r < n; r++) {
        float *s = job->scratch + (size_t)(row + r) * KEYS;
        __m256 v[8];
        for (int j = 0; j < 8; j++) {
            __m256 x = _mm256_sub_ps(_mm256_load_ps(s + 8 * j), _mm256_set1_ps(max[r]));
            v[j] = vmath_exp_negative(x);
            __m256 stored = v[j];
            if (value_factors) {
                __m256 seen = _mm256_cmp_ps(x, _mm256_set1_ps(-__builtin_inff()), _CMP_NEQ_UQ);
                stored = _mm256_and_ps(_mm256_mul_ps(stored, _mm256_load_ps(value_factors + 8 * j)), seen);
            }
            _mm256_store_ps(s + 8 * j, stored);
            most[r] = larger(most[r], stored);
        }
        sum[r] = sum8(v);
    }
    *stored_max = larger_across(most);
    return sum_across(sum);
}

/* The softmax of a page for all rows of the job, whose scores stand in scratch. What is left there are
 * weights times VALUE_FACTORS (NULL: 1); c and c2 are the factors that go with the old values and this
 * page's; stored_max [n_rows] may be NULL. The rows' maxima and sums are joined as attn_join does. */
INLINE void softmax_page(const attn_page_job *job, const float *value_factors, float *c, float *c2,
                         float *stored_max) {
    for (int row = 0; row < job->n_rows; row += 8) {
        int n = job->n_rows - row < 8 ? job->n_rows - row : 8;
        __m256i m = vf_first((size_t)n);
        __m256 max = score_maxima(job, row, n), most;
        _Alignas(32) float maxima[8];
        _mm256_store_ps(maxima, max);
        __m256 sum = make_weights(job, row, n, maxima, value_factors, &most);
        __m256 old_max = _mm256_maskload_ps(job->max + row, m), both = _mm256_max_ps(old_max, max);
        __m256 f = vmath_exp_negative(_mm256_sub_ps(old_max, both));
        __m256 f2 = vmath_exp_negative(_mm256_sub_ps(max, both));
        __m256 old_sum = _mm256_mul_ps(_mm256_maskload_ps(job->sum + row, m), f);
        _mm256_maskstore_ps(job->max + row, m, both);
        _mm256_maskstore_ps(job->sum + row, m, _mm256_fmadd_ps(sum, f2, old_sum));
        _mm256_maskstore_ps(c + row, m, f);
        _mm256_maskstore_ps(c2 + row, m, f2);
        if (stored_max)
            _mm256_maskstore_ps(stored_max + row, m, most);
    }
}

#endif
