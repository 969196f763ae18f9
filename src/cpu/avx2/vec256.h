/* SPDX-License-Identifier: Apache-2.0
 *
 * Vectors of 8 lanes on AVX2, for the texts in cpu/vec/: vfloat of FP32, vint of 32-bit integers, vmask of
 * lanes. vf_ names work on the first, vi_ on the second. What is not said by a name:
 *
 *   vf_fma(a, b, c)   a b + c;  vf_fms a b - c;  vf_fnma c - a b;  vf_fma_pairs - in even, + in odd lanes
 *   vf_first(n)       the first n lanes; masked loads give 0 in the others, masked stores leave them
 *   vf_min, vf_max    the second where either is NaN
 *   vf_sum            the lanes' sum, always in the same order
 *   vf_twice          lanes 0, 0, 1, 1, ...;  vf_swapped: lanes 1, 0, 3, 2, ...
 *   vf_times_power    v 2^n for a whole n, right to both ends (V_HAS_POWERS: in one instruction)
 *   vf_range(a, b, j) lanes that are a..b - 1 of 64 in vector j (a < b <= 64)
 *   vf_where          0 in other lanes;  vf_differs: also where either is NaN
 *   vi_store_words    the low 16 (_bytes: 8) bits of the first n lanes
 *   name_across(v)    lane r is the sum or maximum of the lanes of v[r], in one order for every r
 *   vi_low_words(a, b)   of each quarter of 16 bytes: lanes a0, b0, a1, b1; vi_high_words: a2, b2, a3, b3;
 *                     vi_low_pairs: a0, a1, b0, b1; vi_high_pairs: a2, a3, b2, b3
 *   vi_store_evens_first  16 integers of -128..127 to bytes, of each eight first the even ones (act.h)
 *   vi_grid           16 bytes + offset, for vi_look_up, which takes bytes of 0..15 to them
 */
#ifndef CPU_AVX2_VEC256_H
#define CPU_AVX2_VEC256_H

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define V_RUNG(name) name##_avx2
#define V_LANES      8
#define INLINE       static inline __attribute__((always_inline))

enum { V_HAS_POWERS = 0 };

typedef __m256 vfloat;
typedef __m256i vint, vmask;

/* ---- FP32 ---- */

INLINE vfloat vf_zero(void) {
    return _mm256_setzero_ps();
}

INLINE vfloat vf_set(float x) {
    return _mm256_set1_ps(x);
}

INLINE vfloat vf_load(const float *p) {
    return _mm256_loadu_ps(p);
}

INLINE void vf_store(float *p, vfloat v) {
    _mm256_storeu_ps(p, v);
}

INLINE vmask vf_first(size_t n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n >= 8 ? 8 : (int)n), lane);
}

INLINE vfloat vf_load_masked(const float *p, vmask m) {
    return _mm256_maskload_ps(p, m);
}

INLINE void vf_store_masked(float *p, vmask m, vfloat v) {
    _mm256_maskstore_ps(p, m, v);
}

INLINE vfloat vf_add(vfloat a, vfloat b) {
    return _mm256_add_ps(a, b);
}

INLINE vfloat vf_sub(vfloat a, vfloat b) {
    return _mm256_sub_ps(a, b);
}

INLINE vfloat vf_mul(vfloat a, vfloat b) {
    return _mm256_mul_ps(a, b);
}

INLINE vfloat vf_div(vfloat a, vfloat b) {
    return _mm256_div_ps(a, b);
}

INLINE vfloat vf_fma(vfloat a, vfloat b, vfloat c) {
    return _mm256_fmadd_ps(a, b, c);
}

INLINE vfloat vf_fms(vfloat a, vfloat b, vfloat c) {
    return _mm256_fmsub_ps(a, b, c);
}

INLINE vfloat vf_fnma(vfloat a, vfloat b, vfloat c) {
    return _mm256_fnmadd_ps(a, b, c);
}

INLINE vfloat vf_fma_pairs(vfloat a, vfloat b, vfloat c) {
    return _mm256_fmaddsub_ps(a, b, c);
}

INLINE vfloat vf_min(vfloat a, vfloat b) {
    return _mm256_min_ps(a, b);
}

INLINE vfloat vf_max(vfloat a, vfloat b) {
    return _mm256_max_ps(a, b);
}

INLINE vfloat vf_round(vfloat v) {
    return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

INLINE float vf_sum(vfloat v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

INLINE vfloat vf_twice(vfloat v) {
    return _mm256_permutevar8x32_ps(v, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3));
}

INLINE vfloat vf_swapped(vfloat v) {
    return _mm256_permute_ps(v, 0xb1);
}

/* ---- 32-bit integers ---- */

INLINE vint vi_set(int32_t x) {
    return _mm256_set1_epi32(x);
}

INLINE vint vf_bits(vfloat v) {
    return _mm256_castps_si256(v);
}

INLINE vfloat vf_of_bits(vint v) {
    return _mm256_castsi256_ps(v);
}

INLINE vint vi_add(vint a, vint b) {
    return _mm256_add_epi32(a, b);
}

INLINE vint vi_sub(vint a, vint b) {
    return _mm256_sub_epi32(a, b);
}

INLINE vint vi_and(vint a, vint b) {
    return _mm256_and_si256(a, b);
}

INLINE vint vi_or(vint a, vint b) {
    return _mm256_or_si256(a, b);
}

INLINE vint vi_min_u32(vint a, vint b) {
    return _mm256_min_epu32(a, b);
}

#define VI_LEFT(v, bits)  _mm256_slli_epi32(v, bits)
#define VI_RIGHT(v, bits) _mm256_srli_epi32(v, bits)

INLINE vmask vf_is_nan(vfloat v) {
    return _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
}

INLINE vmask vf_not_less(vfloat a, vfloat b) {
    return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_NLT_UQ));
}

INLINE vmask vf_differs(vfloat a, vfloat b) {
    return _mm256_castps_si256(_mm256_cmp_ps(a, b, _CMP_NEQ_UQ));
}

INLINE vmask vf_range(int first, int end, int j) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i before = _mm256_cmpgt_epi32(_mm256_set1_epi32(first - 8 * j), lane);
    return _mm256_andnot_si256(before, _mm256_cmpgt_epi32(_mm256_set1_epi32(end - 8 * j), lane));
}

INLINE vfloat vf_select(vmask m, vfloat yes, vfloat no) {
    return _mm256_blendv_ps(no, yes, _mm256_castsi256_ps(m));
}

INLINE bool vf_any(vmask m) {
    return _mm256_movemask_ps(_mm256_castsi256_ps(m)) != 0;
}

INLINE float vf_lane0(vfloat v) {
    return _mm256_cvtss_f32(v);
}

INLINE vfloat vf_where(vmask m, vfloat v) {
    return _mm256_and_ps(v, _mm256_castsi256_ps(m));
}

INLINE vmask vi_less(vint a, vint b) {
    return _mm256_cmpgt_epi32(b, a);
}

INLINE vint vi_select(vmask m, vint yes, vint no) {
    return _mm256_blendv_epi8(no, yes, m);
}

INLINE __m128i vec256_words(vint v) {
    return _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}

INLINE void vi_store_words(uint16_t *p, size_t n, vint v) {
    __m128i words = vec256_words(v);
    memcpy(p, &words, n < 8 ? 2 * n : 16);
}

INLINE void vi_store_bytes(uint8_t *p, size_t n, vint v) {
    __m128i words = vec256_words(v), bytes = _mm_packus_epi16(words, words);
    memcpy(p, &bytes, n < 8 ? n : 8);
}

INLINE vint vi_load(const void *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}

INLINE vint vi_add_u64(vint a, vint b) {
    return _mm256_add_epi64(a, b);
}

INLINE uint64_t vi_sum_u64(vint v) {
    uint64_t lanes[4];
    _mm256_storeu_si256((__m256i *)lanes, v);
    return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

/* ---- stored numbers, V_LANES of them ---- */

INLINE vfloat vf_load_f16(const void *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

INLINE vint vi_load_u8(const void *p) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
}

INLINE vint vi_load_i8(const void *p) {
    return _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p));
}

INLINE vfloat vf_of_int(vint v) {
    return _mm256_cvtepi32_ps(v);
}

/* ---- bytes, four to a lane ---- */

INLINE void vi_store(void *p, vint v) {
    _mm256_storeu_si256((__m256i *)p, v);
}

INLINE vint vi_set_bytes(int x) {
    return _mm256_set1_epi8((char)x);
}

INLINE vint vi_add_bytes(vint a, vint b) {
    return _mm256_add_epi8(a, b);
}

INLINE vint vi_grid(const int8_t grid[16], int offset) {
    __m128i v = _mm_loadu_si128((const __m128i *)grid);
    return _mm256_broadcastsi128_si256(_mm_add_epi8(v, _mm_set1_epi8((char)offset)));
}

INLINE vint vi_look_up(vint grid, vint v) {
    return _mm256_shuffle_epi8(grid, v);
}

/* ---- powers of two ---- */

INLINE vfloat vec256_power(__m256i n) { /* 2^n, -126 <= n <= 127 */
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* 2^n is applied in two halves, which reach both ends. */
INLINE vfloat vf_times_power(vfloat v, vfloat n) {
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    v = _mm256_mul_ps(v, vec256_power(half));
    return _mm256_mul_ps(v, vec256_power(_mm256_sub_epi32(whole, half)));
}

/* ---- lanes of one vector from those of several ---- */

/* Lane r of the result is the sum (or maximum) of the lanes of v[r]: l + 4, then l + 2, l + 1, for every r
 * alike. */
#define ACROSS8(name, op)                                                                                    \
    INLINE vfloat name(const vfloat *v) {                                                                    \
        vfloat a[4], b[2];                                                                                   \
        for (int i = 0; i < 4; i++)                                                                          \
            a[i] = op(_mm256_permute2f128_ps(v[i], v[i + 4], 0x20),                                          \
                      _mm256_permute2f128_ps(v[i], v[i + 4], 0x31));                                         \
        for (int i = 0; i < 2; i++)                                                                          \
            b[i] = op(_mm256_shuffle_ps(a[2 * i], a[2 * i + 1], 0x44),                                       \
                      _mm256_shuffle_ps(a[2 * i], a[2 * i + 1], 0xee));                                      \
        return op(_mm256_shuffle_ps(b[0], b[1], 0x88), _mm256_shuffle_ps(b[0], b[1], 0xdd));                 \
    }

/* The larger of numbers >= 0, NaN the largest of all: by their bits. */
INLINE vfloat larger(vfloat a, vfloat b) {
    return _mm256_castsi256_ps(_mm256_max_epu32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}

INLINE vfloat add_ints(vfloat a, vfloat b) {
    return vf_of_bits(vi_add(vf_bits(a), vf_bits(b)));
}

ACROSS8(max_across, _mm256_max_ps)
ACROSS8(larger_across, larger)
ACROSS8(sum_across, _mm256_add_ps)
ACROSS8(int_sum_across, add_ints)

INLINE vint vi_low_words(vint a, vint b) {
    return _mm256_unpacklo_epi32(a, b);
}

INLINE vint vi_high_words(vint a, vint b) {
    return _mm256_unpackhi_epi32(a, b);
}

INLINE vint vi_low_pairs(vint a, vint b) {
    return _mm256_unpacklo_epi64(a, b);
}

INLINE vint vi_high_pairs(vint a, vint b) {
    return _mm256_unpackhi_epi64(a, b);
}

/* ---- 16 integers to bytes ---- */

INLINE vint vi_rounded(vfloat v) {
    return _mm256_cvtps_epi32(v);
}

INLINE void vi_store_evens_first(int8_t *p, const vint v[2]) {
    const __m128i order = _mm_setr_epi8(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
    __m256i words = _mm256_packs_epi32(v[0], v[1]), bytes = _mm256_packs_epi16(words, words);
    __m128i all = _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
    _mm_storeu_si128((__m128i *)p, _mm_shuffle_epi8(all, order));
}

#endif
