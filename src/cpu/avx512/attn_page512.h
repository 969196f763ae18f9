/* SPDX-License-Identifier: Apache-2.0
 *
 * What the attention kernels of this rung share: loads of 16 keys or 32 values of a page as FP32 (layouts:
 * kv.h), and the softmax of a page.
 */
#ifndef CPU_AVX512_ATTN_PAGE512_H
#define CPU_AVX512_ATTN_PAGE512_H

#include "cpu/attn_page.h"
#include "cpu/avx512/vec512.h"

typedef struct pair {
    vfloat even, odd;
} pair;

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
INLINE pair load_keys(nib_kv_dtype type, const void *k, size_t i, size_t v) {
    size_t at = i * KEYS + 16 * v;
    if (type == NIB_KV_BF16)
        return from_bf16(_mm512_loadu_si512((const uint32_t *)k + at));
    if (type == NIB_KV_FP8)
        return from_fp8(_mm256_loadu_si256((const __m256i *)((const uint16_t *)k + at)));
    at += i * KEYS;
    return (pair){_mm512_loadu_ps((const float *)k + at), _mm512_loadu_ps((const float *)k + at + KEYS)};
}

/* N <= 16 pairs of dimensions from pair I of key T on; FP32: 16 dimensions and the next 16. */
INLINE pair load_values(nib_kv_dtype type, const void *v, size_t d, size_t t, size_t i, size_t n) {
    size_t at = t * d + 2 * i;
    if (type == NIB_KV_BF16)
        return from_bf16(_mm512_maskz_loadu_epi32(vf_first(n), (const uint16_t *)v + at));
    if (type == NIB_KV_FP8)
        return from_fp8(_mm256_maskz_loadu_epi16(vf_first(n), (const uint8_t *)v + at));
    const float *f = (const float *)v + at;
    return (pair){_mm512_maskz_loadu_ps(vf_first(2 * n), f),
                  n > 8 ? _mm512_maskz_loadu_ps(vf_first(2 * n - 16), f + 16) : _mm512_setzero_ps()};
}

/* Dimensions in order: [0, 16) and [16, 32) of the pairs. */
INLINE pair in_order(nib_kv_dtype type, pair p) {
    if (type == NIB_KV_FP32)
        return p;
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    const __m512i high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
    return (pair){_mm512_permutex2var_ps(p.even, low, p.odd), _mm512_permutex2var_ps(p.even, high, p.odd)};
}

#include "cpu/vec/softmax_page.h"

#endif
