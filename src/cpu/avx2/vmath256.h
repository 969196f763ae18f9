/* SPDX-License-Identifier: Apache-2.0
 *
 * 8 lanes of exp and of the gates that are made of it; see vmath512.h for the coefficients and the two parts
 * of the gelu argument.
 */
#ifndef CPU_AVX2_VMATH256_H
#define CPU_AVX2_VMATH256_H

#include <immintrin.h>
#include <stddef.h>

/* The first N of 8 lanes: all ones. */
static inline __m256i vmath256_mask(size_t n) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n >= 8 ? 8 : (int)n), lane);
}

/* 2^n, -126 <= n <= 127, n a whole number */
static inline __m256 vmath256_power(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* exp(r), |r| <= ln(2) / 2 */
static inline __m256 vmath256_exp_rest(__m256 r) {
    __m256 q = _mm256_set1_ps(0x1.6a23d0p-10f);
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0x1.123a20p-7f));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0x1.5558f2p-5f));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0x1.555492p-3f));
    q = _mm256_fmadd_ps(q, r, _mm256_set1_ps(0x1.fffffcp-2f));
    __m256 p = _mm256_fmadd_ps(_mm256_mul_ps(r, r), q, r);
    return _mm256_add_ps(p, _mm256_set1_ps(1.0f));
}

/* exp(x + low): 0 below -104, infinity above 88.8. 2^n is applied in two halves, which reach both ends. */
static inline __m256 vmath256_exp2part(__m256 x, __m256 low) {
    x = _mm256_max_ps(_mm256_min_ps(x, _mm256_set1_ps(110.0f)), _mm256_set1_ps(-110.0f));
    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(0x1.715476p+0f)),
                               _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.62e430p-1f), x);
    r = _mm256_add_ps(_mm256_fnmadd_ps(n, _mm256_set1_ps(-0x1.05c610p-29f), r), low);
    __m256 p = vmath256_exp_rest(r);
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    p = _mm256_mul_ps(p, vmath256_power(half));
    return _mm256_mul_ps(p, vmath256_power(_mm256_sub_epi32(whole, half)));
}

static inline __m256 vmath256_exp(__m256 x) {
    return vmath256_exp2part(x, _mm256_setzero_ps());
}

/* exp(x), x <= 0 or -infinity; 0 below -86. For weights beside one of 1. Of NaN: NaN. */
static inline __m256 vmath256_exp_negative(__m256 x) {
    const __m256 ones = _mm256_set1_ps(0x1.8p23f + 127), least = _mm256_set1_ps(-86.0f);
    __m256 some = _mm256_cmp_ps(x, least, _CMP_NLT_UQ);
    x = _mm256_max_ps(least, x); /* the second when either is NaN */
    __m256 whole = _mm256_fmadd_ps(x, _mm256_set1_ps(0x1.715476p+0f), ones), n = _mm256_sub_ps(whole, ones);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.62e430p-1f), x);
    __m256 p = vmath256_exp_rest(_mm256_fnmadd_ps(n, _mm256_set1_ps(-0x1.05c610p-29f), r));
    __m256i power = _mm256_slli_epi32(_mm256_castps_si256(whole), 23); /* the bits of 2^n */
    return _mm256_and_ps(_mm256_mul_ps(p, _mm256_castsi256_ps(power)), some);
}

static inline __m256 vmath256_silu(__m256 x) {
    __m256 e = vmath256_exp(_mm256_sub_ps(_mm256_setzero_ps(), x));
    return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
}

static inline __m256 vmath256_gelu_tanh(__m256 x) {
    const __m256 c0 = _mm256_set1_ps(0x1.988454p+0f), c0_low = _mm256_set1_ps(-0x1.857936p-25f);
    const __m256 c1 = _mm256_set1_ps(0x1.2444f2p-4f), c1_low = _mm256_set1_ps(0x1.49b16ap-29f);
    __m256 t = _mm256_max_ps(_mm256_min_ps(x, _mm256_set1_ps(20.0f)), _mm256_set1_ps(-20.0f));
    __m256 y = _mm256_mul_ps(t, t), y_low = _mm256_fmsub_ps(t, t, y);
    __m256 m = _mm256_mul_ps(c1, y), m_low = _mm256_fmsub_ps(c1, y, m);
    m_low = _mm256_fmadd_ps(c1, y_low, _mm256_fmadd_ps(c1_low, y, m_low));
    __m256 p = _mm256_add_ps(c0, m), back = _mm256_sub_ps(p, c0); /* two-sum */
    __m256 p_low = _mm256_add_ps(_mm256_sub_ps(c0, _mm256_sub_ps(p, back)), _mm256_sub_ps(m, back));
    p_low = _mm256_add_ps(p_low, _mm256_add_ps(m_low, c0_low));
    __m256 z = _mm256_mul_ps(t, p), z_low = _mm256_fmadd_ps(t, p_low, _mm256_fmsub_ps(t, p, z));
    __m256 zero = _mm256_setzero_ps();
    __m256 e = vmath256_exp2part(_mm256_sub_ps(zero, z), _mm256_sub_ps(zero, z_low));
    return _mm256_div_ps(x, _mm256_add_ps(_mm256_set1_ps(1.0f), e));
}

/* The sum of the lanes, always in the same order. */
static inline float vmath256_sum(__m256 v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

#endif
