/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights by rows on AVX-512: loads that widen 16 stored numbers to FP32; vec/matmul_rows_vec.h is the rest.
 */
#include "cpu/avx512/matmul_avx512.h"

enum { GEMV_ROWS = 2, ROWS = 4, TOKENS = 6, ROWS_OF_ONE = 4 };

INLINE vfloat load_f32(const uint8_t *p) {
    return _mm512_loadu_ps(p);
}

INLINE vfloat load_f16(const uint8_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

INLINE vfloat load_bf16(const uint8_t *p) {
    __m512i v = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
}

/* Through F16: E4M3 moved to F16's place is value * 2^-8; its NaN is put back. */
INLINE vfloat load_e4m3(const uint8_t *p) {
    __m256i v = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p));
    __m256i size = _mm256_and_si256(v, _mm256_set1_epi16(0x7f));
    __m256i sign = _mm256_slli_epi16(_mm256_andnot_si256(_mm256_set1_epi16(0x7f), v), 8);
    __mmask16 nan = _mm256_cmpeq_epi16_mask(size, _mm256_set1_epi16(0x7f));
    __m256i half = _mm256_or_si256(_mm256_slli_epi16(size, 7), sign);
    half = _mm256_or_si256(half, _mm256_maskz_set1_epi16(nan, 0x7e00));
    return _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256.0f));
}

INLINE vfloat load_e5m2(const uint8_t *p) {
    __m256i v = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)p));
    return _mm512_cvtph_ps(_mm256_slli_epi16(v, 8));
}

#include "cpu/vec/matmul_rows_vec.h"
