/* SPDX-License-Identifier: Apache-2.0
 *
 * What the attention kernels of this rung share: loads of 8 keys or 16 values of a page as FP32 (layouts:
 * kv.h), and the softmax of a page.
 */
#ifndef CPU_AVX2_ATTN_PAGE256_H
#define CPU_AVX2_ATTN_PAGE256_H

#include "cpu/attn_page.h"
#include "cpu/avx2/vec256.h"

typedef struct pair {
    vfloat even, odd;
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
    vfloat low = _mm256_unpacklo_ps(p.even, p.odd), high = _mm256_unpackhi_ps(p.even, p.odd);
    return (pair){_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31)};
}

#include "cpu/vec/softmax_page.h"

#endif
