/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights by rows on AVX2: loads that widen 8 stored numbers to FP32; vec/matmul_rows_vec.h is the rest. BF16
 * by a shift, F16 by F16C, FP8 through F16 (E4M3 moved to F16's place is value * 2^-8, its NaN is put back).
 */
#include "cpu/avx2/matmul_avx2.h"
#include "num/fp8.h"

enum { GEMV_ROWS = 4, ROWS = 2, TOKENS = 3, ROWS_OF_ONE = 4 };

INLINE vfloat load_f32(const uint8_t *p) {
    return _mm256_loadu_ps((const float *)p);
}

INLINE vfloat load_f16(const uint8_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

INLINE vfloat load_bf16(const uint8_t *p) {
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}

INLINE vfloat load_e4m3(const uint8_t *p) {
    __m128i v = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)p));
    __m128i size = _mm_and_si128(v, _mm_set1_epi16(0x7f));
    __m128i sign = _mm_slli_epi16(_mm_andnot_si128(_mm_set1_epi16(0x7f), v), 8);
    __m128i nan = _mm_and_si128(_mm_cmpeq_epi16(size, _mm_set1_epi16(0x7f)), _mm_set1_epi16(0x7e00));
    __m128i half = _mm_or_si128(_mm_or_si128(_mm_slli_epi16(size, 7), sign), nan);
    return _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256.0f));
}

INLINE vfloat load_e5m2(const uint8_t *p) {
    __m128i v = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)p));
    return _mm256_cvtph_ps(_mm_slli_epi16(v, 8));
}

#include "cpu/vec/matmul_rows_vec.h"
