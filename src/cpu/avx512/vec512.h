/* SPDX-License-Identifier: Apache-2.0
 *
 * Vectors of 16 lanes on AVX-512, for the texts in cpu/vec/; avx2/vec256.h says what the names mean.
 */
#ifndef CPU_AVX512_VEC512_H
#define CPU_AVX512_VEC512_H

#include <immintrin.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define V_RUNG(name) name##_avx512
#define V_LANES      16
#define INLINE       static inline __attribute__((always_inline))

enum { V_HAS_POWERS = 1 };

typedef __m512 vfloat;
typedef __m512i vint;
typedef __mmask16 vmask;

/* ---- FP32 ---- */

INLINE vfloat vf_zero(void) {
    return _mm512_setzero_ps();
}

INLINE vfloat vf_set(float x) {
    return _mm512_set1_ps(x);
}

INLINE vfloat vf_load(const float *p) {
    return _mm512_loadu_ps(p);
}

INLINE void vf_store(float *p, vfloat v) {
    _mm512_storeu_ps(p, v);
}

INLINE vmask vf_first(size_t n) {
    return n >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1);
}

INLINE vfloat vf_load_masked(const float *p, vmask m) {
    return _mm512_maskz_loadu_ps(m, p);
}

INLINE void vf_store_masked(float *p, vmask m, vfloat v) {
    _mm512_mask_storeu_ps(p, m, v);
}

INLINE vfloat vf_add(vfloat a, vfloat b) {
    return _mm512_add_ps(a, b);
}

INLINE vfloat vf_sub(vfloat a, vfloat b) {
    return _mm512_sub_ps(a, b);
}

INLINE vfloat vf_mul(vfloat a, vfloat b) {
    return _mm512_mul_ps(a, b);
}

INLINE vfloat vf_div(vfloat a, vfloat b) {
    return _mm512_div_ps(a, b);
}

INLINE vfloat vf_fma(vfloat a, vfloat b, vfloat c) {
    return _mm512_fmadd_ps(a, b, c);
}

INLINE vfloat vf_fms(vfloat a, vfloat b, vfloat c) {
    return _mm512_fmsub_ps(a, b, c);
}

INLINE vfloat vf_fnma(vfloat a, vfloat b, vfloat c) {
    return _mm512_fnmadd_ps(a, b, c);
}

INLINE vfloat vf_fma_pairs(vfloat a, vfloat b, vfloat c) {
    return _mm512_fmaddsub_ps(a, b, c);
}

INLINE vfloat vf_min(vfloat a, vfloat b) {
    return _mm512_min_ps(a, b);
}

INLINE vfloat vf_max(vfloat a, vfloat b) {
    return _mm512_max_ps(a, b);
}

INLINE vfloat vf_round(vfloat v) {
    return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

INLINE float vf_sum(vfloat v) {
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

INLINE vfloat vf_twice(vfloat v) {
    const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return _mm512_permutexvar_ps(twice, v);
}

INLINE vfloat vf_swapped(vfloat v) {
    return _mm512_permute_ps(v, 0xb1);
}

/* ---- 32-bit integers ---- */

INLINE vint vi_set(int32_t x) {
    return _mm512_set1_epi32(x);
}

INLINE vint vf_bits(vfloat v) {
    return _mm512_castps_si512(v);
}

INLINE vfloat vf_of_bits(vint v) {
    return _mm512_castsi512_ps(v);
}

INLINE vint vi_add(vint a, vint b) {
    return _mm512_add_epi32(a, b);
}

INLINE vint vi_sub(vint a, vint b) {
    return _mm512_sub_epi32(a, b);
}

INLINE vint vi_and(vint a, vint b) {
    return _mm512_and_si512(a, b);
}

INLINE vint vi_or(vint a, vint b) {
    return _mm512_or_si512(a, b);
}

INLINE vint vi_min_u32(vint a, vint b) {
    return _mm512_min_epu32(a, b);
}

#define VI_LEFT(v, bits)  _mm512_slli_epi32(v, bits)
#define VI_RIGHT(v, bits) _mm512_srli_epi32(v, bits)

INLINE vmask vf_is_nan(vfloat v) {
    return _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
}

INLINE vmask vf_not_less(vfloat a, vfloat b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ);
}

INLINE vmask vf_differs(vfloat a, vfloat b) {
    return _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ);
}

INLINE vmask vf_range(int first, int end, int j) {
    return (vmask)((~0ull >> (64 - (end - first)) << first) >> (16 * j));
}

INLINE vfloat vf_select(vmask m, vfloat yes, vfloat no) {
    return _mm512_mask_blend_ps(m, no, yes);
}

INLINE bool vf_any(vmask m) {
    return m != 0;
}

INLINE float vf_lane0(vfloat v) {
    return _mm512_cvtss_f32(v);
}

INLINE vfloat vf_where(vmask m, vfloat v) {
    return _mm512_maskz_mov_ps(m, v);
}

INLINE vmask vi_less(vint a, vint b) {
    return _mm512_cmplt_epi32_mask(a, b);
}

INLINE vint vi_select(vmask m, vint yes, vint no) {
    return _mm512_mask_blend_epi32(m, no, yes);
}

INLINE void vi_store_words(uint16_t *p, size_t n, vint v) {
    _mm256_mask_storeu_epi16(p, vf_first(n), _mm512_cvtepi32_epi16(v));
}

INLINE void vi_store_bytes(uint8_t *p, size_t n, vint v) {
    _mm512_mask_cvtepi32_storeu_epi8(p, vf_first(n), v);
}

INLINE vint vi_load(const void *p) {
    return _mm512_loadu_si512(p);
}

INLINE vint vi_add_u64(vint a, vint b) {
    return _mm512_add_epi64(a, b);
}

INLINE uint64_t vi_sum_u64(vint v) {
    return (uint64_t)_mm512_reduce_add_epi64(v);
}

/* ---- stored numbers, V_LANES of them ---- */

INLINE vfloat vf_load_f16(const void *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

INLINE vint vi_load_u8(const void *p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
}

INLINE vint vi_load_i8(const void *p) {
    return _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p));
}

INLINE vfloat vf_of_int(vint v) {
    return _mm512_cvtepi32_ps(v);
}

/* ---- bytes, four to a lane ---- */

INLINE void vi_store(void *p, vint v) {
    _mm512_storeu_si512(p, v);
}

INLINE vint vi_set_bytes(int x) {
    return _mm512_set1_epi8((char)x);
}

INLINE vint vi_add_bytes(vint a, vint b) {
    return _mm512_add_epi8(a, b);
}

INLINE vint vi_grid(const int8_t grid[16], int offset) {
    __m128i v = _mm_loadu_si128((const __m128i *)grid);
    return _mm512_broadcast_i32x4(_mm_add_epi8(v, _mm_set1_epi8((char)offset)));
}

INLINE vint vi_look_up(vint grid, vint v) {
    return _mm512_shuffle_epi8(grid, v);
}

/* ---- powers of two ---- */

INLINE vfloat vf_times_power(vfloat v, vfloat n) {
    return _mm512_scalef_ps(v, n);
}

/* ---- lanes of one vector from those of several ---- */

/* Lane r of the result is the sum (or maximum) of the lanes of v[r]: l + 8, then l + 4, l + 2, l + 1, for
 * every r alike. */
#define ACROSS16(name, op)                                                                                   \
    INLINE vfloat name(const vfloat *v) {                                                                    \
        vfloat a[8], b[4], c[2];                                                                             \
        for (int i = 0; i < 8; i++)                                                                          \
            a[i] =                                                                                           \
                op(_mm512_shuffle_f32x4(v[i], v[i + 8], 0x44), _mm512_shuffle_f32x4(v[i], v[i + 8], 0xee));  \
        for (int i = 0; i < 4; i++)                                                                          \
            b[i] =                                                                                           \
                op(_mm512_shuffle_f32x4(a[i], a[i + 4], 0x88), _mm512_shuffle_f32x4(a[i], a[i + 4], 0xdd));  \
        for (int i = 0; i < 2; i++)                                                                          \
            c[i] =                                                                                           \
                op(_mm512_unpacklo_ps(b[2 * i], b[2 * i + 1]), _mm512_unpackhi_ps(b[2 * i], b[2 * i + 1]));  \
        __m512d c0 = _mm512_castps_pd(c[0]), c1 = _mm512_castps_pd(c[1]);                                    \
        vfloat all =                                                                                         \
            op(_mm512_castpd_ps(_mm512_unpacklo_pd(c0, c1)), _mm512_castpd_ps(_mm512_unpackhi_pd(c0, c1)));  \
        return _mm512_shuffle_f32x4(all, all, 0xd8);                                                         \
    }

/* The larger of numbers >= 0, NaN the largest of all: by their bits. */
INLINE vfloat larger(vfloat a, vfloat b) {
    return _mm512_castsi512_ps(_mm512_max_epu32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}

INLINE vfloat add_ints(vfloat a, vfloat b) {
    return vf_of_bits(vi_add(vf_bits(a), vf_bits(b)));
}

ACROSS16(max_across, _mm512_max_ps)
ACROSS16(larger_across, larger)
ACROSS16(sum_across, _mm512_add_ps)
ACROSS16(int_sum_across, add_ints)

INLINE vint vi_low_words(vint a, vint b) {
    return _mm512_unpacklo_epi32(a, b);
}

INLINE vint vi_high_words(vint a, vint b) {
    return _mm512_unpackhi_epi32(a, b);
}

INLINE vint vi_low_pairs(vint a, vint b) {
    return _mm512_unpacklo_epi64(a, b);
}

INLINE vint vi_high_pairs(vint a, vint b) {
    return _mm512_unpackhi_epi64(a, b);
}

/* ---- 16 integers to bytes ---- */

INLINE vint vi_rounded(vfloat v) {
    return _mm512_cvtps_epi32(v);
}

INLINE void vi_store_evens_first(int8_t *p, const vint v[1]) {
    const __m512i order = _mm512_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7, 8, 10, 12, 14, 9, 11, 13, 15);
    _mm_storeu_si128((__m128i *)p, _mm512_cvtepi32_epi8(_mm512_permutexvar_epi32(order, v[0])));
}

#endif
