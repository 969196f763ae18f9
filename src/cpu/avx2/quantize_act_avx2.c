/* SPDX-License-Identifier: Apache-2.0
 *
 * AVX2: activations to 8-bit integers, see ref/quantize_act.c.
 *
 * Eight blocks at a time: their maxima are found by one transposing tree, so that the divisions are done for
 * eight blocks at once.
 */
#include <immintrin.h>

#include "cpu/act.h"
#include "cpu/avx2/matmul_avx2.h"

INLINE __m256i magnitude(const float *x) {
    return _mm256_and_si256(_mm256_castps_si256(_mm256_loadu_ps(x)), _mm256_set1_epi32(0x7fffffff));
}

/* Lane i of the result is the maximum of v[i]'s lanes (as integers). */
INLINE __m256i maxima(const __m256i v[8]) {
    __m256i p[4], q[2];
    for (int i = 0; i < 4; i++)
        p[i] = _mm256_max_epu32(_mm256_unpacklo_epi32(v[2 * i], v[2 * i + 1]),
                                _mm256_unpackhi_epi32(v[2 * i], v[2 * i + 1]));
    for (int i = 0; i < 2; i++)
        q[i] = _mm256_max_epu32(_mm256_unpacklo_epi64(p[2 * i], p[2 * i + 1]),
                                _mm256_unpackhi_epi64(p[2 * i], p[2 * i + 1]));
    return _mm256_max_epu32(_mm256_permute2x128_si256(q[0], q[1], 0x20),
                            _mm256_permute2x128_si256(q[0], q[1], 0x31));
}

/* Codes of one block in the order of act_column, its scale and starts. */
INLINE void quantize_block(act_block *out, const float *x, float scale, __m256 factor, __m256 finite) {
    const __m256i even_odd = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
    __m256i q[2];
    for (int i = 0; i < 2; i++) {
        __m256i code = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(x + 8 * i), factor));
        q[i] = _mm256_permutevar8x32_epi32(_mm256_and_si256(code, _mm256_castps_si256(finite)), even_odd);
    }
    __m128i a = _mm_packs_epi32(_mm256_castsi256_si128(q[0]), _mm256_extracti128_si256(q[0], 1));
    __m128i b = _mm_packs_epi32(_mm256_castsi256_si128(q[1]), _mm256_extracti128_si256(q[1], 1));
    _mm_storeu_si128((__m128i *)out->codes, _mm_packs_epi16(a, b));
    __m128i sum = _mm_madd_epi16(_mm_add_epi16(a, b), _mm_set1_epi16(1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
    __m128i off = _mm_mullo_epi32(sum, _mm_setr_epi32(0, 16, 128, 0));
    __m128 starts = _mm_castsi128_ps(_mm_sub_epi32(_mm_set1_epi32(ACT_MAGIC), off));
    __m128 scaled = _mm_mul_ps(_mm_cvtepi32_ps(sum), _mm_set1_ps(scale));
    __m128 rest = _mm_blend_ps(_mm_blend_ps(starts, _mm_set_ss(scale), 1), scaled, 8);
    _mm_storeu_ps(&out->scale, rest);
}

/* 8 blocks */
INLINE void quantize8(act_block *blocks, const float *x) {
    __m256i v[8];
    for (size_t i = 0; i < 8; i++)
        v[i] = _mm256_max_epu32(magnitude(x + i * ACT_BLOCK), magnitude(x + i * ACT_BLOCK + 8));
    __m256i most = maxima(v);
    __m256 max = _mm256_castsi256_ps(most);
    __m256 finite = _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(0x7f800000), most));
    __m256 some = _mm256_cmp_ps(max, _mm256_set1_ps(0x1p-100f), _CMP_NLT_UQ);
    __m256 c127 = _mm256_set1_ps(127.0f), factor = _mm256_and_ps(_mm256_div_ps(c127, max), some);
    __m256 scale = _mm256_and_ps(_mm256_div_ps(max, c127), some);
    float scales[8], factors[8], finites[8];
    _mm256_storeu_ps(scales, _mm256_blendv_ps(_mm256_set1_ps(__builtin_nanf("")), scale, finite));
    _mm256_storeu_ps(factors, factor);
    _mm256_storeu_ps(finites, finite);
    for (size_t i = 0; i < 8; i++)
        quantize_block(blocks + i, x + i * ACT_BLOCK, scales[i], _mm256_set1_ps(factors[i]),
                       _mm256_set1_ps(finites[i]));
}

void quantize_act_avx2(act_block *blocks, const float *x, size_t n) {
    size_t b = 0, n_blocks = n / ACT_BLOCK, rest = n_blocks % 8;
    for (; b + 8 <= n_blocks; b += 8)
        quantize8(blocks + b, x + b * ACT_BLOCK);
    if (rest) { /* a head of attention, say: blocks of zeros fill up */
        float padded[8 * ACT_BLOCK] = {0};
        act_block all[8];
        __builtin_memcpy(padded, x + b * ACT_BLOCK, rest * ACT_BLOCK * sizeof *x);
        quantize8(all, padded);
        __builtin_memcpy(blocks + b, all, rest * sizeof *all);
    }
}
