/* SPDX-License-Identifier: Apache-2.0
 *
 * AVX-512: activations to 8-bit integers, see ref/quantize_act.c.
 *
 * Sixteen blocks at a time: their maxima are found by one transposing tree, so that the divisions are done
 * for sixteen blocks at once; the sums of the codes likewise.
 */
#include <immintrin.h>

#include "cpu/act.h"
#include "cpu/avx512/matmul_avx512.h"

/* Lane i of the result joins v[i]'s 16 lanes by MAX or by addition. */
#define TREE(name, join)                                                                                     \
    INLINE __m512i name(const __m512i v[16]) {                                                               \
        __m512i a[8], b[4], c[2];                                                                            \
        for (int i = 0; i < 8; i++)                                                                          \
            a[i] = join(_mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]),                                       \
                        _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]));                                      \
        for (int i = 0; i < 4; i++)                                                                          \
            b[i] = join(_mm512_unpacklo_epi64(a[2 * i], a[2 * i + 1]),                                       \
                        _mm512_unpackhi_epi64(a[2 * i], a[2 * i + 1]));                                      \
        for (int i = 0; i < 2; i++)                                                                          \
            c[i] = join(_mm512_shuffle_i32x4(b[2 * i], b[2 * i + 1], 0x88),                                  \
                        _mm512_shuffle_i32x4(b[2 * i], b[2 * i + 1], 0xdd));                                 \
        return join(_mm512_shuffle_i32x4(c[0], c[1], 0x88), _mm512_shuffle_i32x4(c[0], c[1], 0xdd));         \
    }

TREE(maxima, _mm512_max_epu32)
TREE(sums, _mm512_add_epi32)

/* Codes of one block, int32, in the order of act_column; zeros where it is not finite. */
INLINE __m512i block_codes(const float *x, float factor, __mmask16 finite) {
    const __m512i order = _mm512_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
    __m512i code =
        _mm512_maskz_cvtps_epi32(finite, _mm512_mul_ps(_mm512_loadu_ps(x), _mm512_set1_ps(factor)));
    return _mm512_permutexvar_epi32(order, code);
}

/* What stands beside the codes of 16 blocks: scale, starts, sum. */
INLINE void put_rests(act_block *out, __m512i scale, __m512i sum) {
    const __m512i magic = _mm512_set1_epi32(ACT_MAGIC);
    __m512i narrow = _mm512_sub_epi32(magic, _mm512_slli_epi32(sum, 4));
    __m512i wide = _mm512_sub_epi32(magic, _mm512_slli_epi32(sum, 7));
    __m512i total = _mm512_castps_si512(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_castsi512_ps(scale)));
    __m512i a[2] = {_mm512_unpacklo_epi32(scale, narrow), _mm512_unpackhi_epi32(scale, narrow)};
    __m512i b[2] = {_mm512_unpacklo_epi32(wide, total), _mm512_unpackhi_epi32(wide, total)};
    for (size_t i = 0; i < 4; i++) {
        __m512i v =
            i % 2 ? _mm512_unpackhi_epi64(a[i / 2], b[i / 2]) : _mm512_unpacklo_epi64(a[i / 2], b[i / 2]);
        _mm_storeu_si128((__m128i *)&out[i].scale, _mm512_castsi512_si128(v));
        _mm_storeu_si128((__m128i *)&out[4 + i].scale, _mm512_extracti32x4_epi32(v, 1));
        _mm_storeu_si128((__m128i *)&out[8 + i].scale, _mm512_extracti32x4_epi32(v, 2));
        _mm_storeu_si128((__m128i *)&out[12 + i].scale, _mm512_extracti32x4_epi32(v, 3));
    }
}

/* 16 blocks */
INLINE void quantize16(act_block *blocks, const float *x) {
    const __m512 c127 = _mm512_set1_ps(127.0f);
    __m512i v[16];
    for (size_t i = 0; i < 16; i++)
        v[i] = _mm512_and_si512(_mm512_loadu_si512(x + i * ACT_BLOCK), _mm512_set1_epi32(0x7fffffff));
    __m512i most = maxima(v);
    __m512 max = _mm512_castsi512_ps(most);
    __mmask16 finite = _mm512_cmplt_epu32_mask(most, _mm512_set1_epi32(0x7f800000));
    __mmask16 some = _mm512_cmp_ps_mask(max, _mm512_set1_ps(0x1p-100f), _CMP_NLT_UQ);
    __m512 scale = _mm512_maskz_div_ps(some, max, c127);
    scale = _mm512_mask_blend_ps(finite, _mm512_set1_ps(__builtin_nanf("")), scale);
    float factors[16];
    _mm512_storeu_ps(factors, _mm512_maskz_div_ps(some, c127, max));
    for (size_t i = 0; i < 16; i++) {
        __mmask16 keep = finite >> i & 1 ? 0xffff : 0;
        v[i] = block_codes(x + i * ACT_BLOCK, factors[i], keep);
        _mm_storeu_si128((__m128i *)blocks[i].codes, _mm512_cvtepi32_epi8(v[i]));
    }
    put_rests(blocks, _mm512_castps_si512(scale), sums(v));
}

void quantize_act_avx512(act_block *blocks, const float *x, size_t n) {
    size_t b = 0, n_blocks = n / ACT_BLOCK, rest = n_blocks % 16;
    for (; b + 16 <= n_blocks; b += 16)
        quantize16(blocks + b, x + b * ACT_BLOCK);
    if (rest) { /* a head of attention, say: blocks of zeros fill up */
        float padded[16 * ACT_BLOCK] = {0};
        act_block all[16];
        __builtin_memcpy(padded, x + b * ACT_BLOCK, rest * ACT_BLOCK * sizeof *x);
        quantize16(all, padded);
        __builtin_memcpy(blocks + b, all, rest * sizeof *all);
    }
}
