/* SPDX-License-Identifier: Apache-2.0
 *
 * 16 lanes of exp and of the gates that are made of it. Coefficients: least weighted maximum of |error| / exp
 * over |r| <= ln(2) / 2, fitted for this file (3.6e-9 before rounding).
 */
#ifndef CPU_AVX512_VMATH512_H
#define CPU_AVX512_VMATH512_H

#include <immintrin.h>

/* exp(r) - 1 + 1 for n ln(2) + r, times 2^n */
static inline __m512 vmath512_exp_parts(__m512 n, __m512 r) {
    __m512 q = _mm512_set1_ps(0x1.6a23d0p-10f);
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0x1.123a20p-7f));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0x1.5558f2p-5f));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0x1.555492p-3f));
    q = _mm512_fmadd_ps(q, r, _mm512_set1_ps(0x1.fffffcp-2f));
    __m512 p = _mm512_fmadd_ps(_mm512_mul_ps(r, r), q, r);
    return _mm512_scalef_ps(_mm512_add_ps(p, _mm512_set1_ps(1.0f)), n);
}

static inline __m512 vmath512_whole(__m512 x) { /* of x / ln(2) */
    return _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(0x1.715476p+0f)),
                                _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline __m512 vmath512_rest(__m512 x, __m512 n) { /* x - n ln(2) */
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.62e430p-1f), x);
    return _mm512_fnmadd_ps(n, _mm512_set1_ps(-0x1.05c610p-29f), r);
}

/* exp(x + low), low a correction below half an ulp of x: 0 below -104, infinity above 88.8. */
static inline __m512 vmath512_exp2part(__m512 x, __m512 low) {
    x = _mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(110.0f)), _mm512_set1_ps(-110.0f));
    __m512 n = vmath512_whole(x);
    return vmath512_exp_parts(n, _mm512_add_ps(vmath512_rest(x, n), low));
}

/* exp(x), x <= 0 or -infinity. Of NaN: NaN, since a maximum is the second when either is NaN. */
static inline __m512 vmath512_exp_negative(__m512 x) {
    x = _mm512_max_ps(_mm512_set1_ps(-110.0f), x);
    __m512 n = vmath512_whole(x);
    return vmath512_exp_parts(n, vmath512_rest(x, n));
}

static inline __m512 vmath512_exp(__m512 x) {
    x = _mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(110.0f)), _mm512_set1_ps(-110.0f));
    __m512 n = vmath512_whole(x);
    return vmath512_exp_parts(n, vmath512_rest(x, n));
}

/* x / (1 + exp(-x)) */
static inline __m512 vmath512_silu(__m512 x) {
    __m512 e = vmath512_exp(_mm512_sub_ps(_mm512_setzero_ps(), x));
    return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
}

/* x / (1 + exp(-z)), z = x (c0 + c1 x^2) = 2 sqrt(2 / pi) (x + 0.044715 x^3). In the tail the error of z is
 * the relative error of the result, so z is kept in two parts. Beyond +-20 the gate is open or shut. */
static inline __m512 vmath512_gelu_tanh(__m512 x) {
    const __m512 c0 = _mm512_set1_ps(0x1.988454p+0f), c0_low = _mm512_set1_ps(-0x1.857936p-25f);
    const __m512 c1 = _mm512_set1_ps(0x1.2444f2p-4f), c1_low = _mm512_set1_ps(0x1.49b16ap-29f);
    __m512 t = _mm512_max_ps(_mm512_min_ps(x, _mm512_set1_ps(20.0f)), _mm512_set1_ps(-20.0f));
    __m512 y = _mm512_mul_ps(t, t), y_low = _mm512_fmsub_ps(t, t, y);
    __m512 m = _mm512_mul_ps(c1, y), m_low = _mm512_fmsub_ps(c1, y, m);
    m_low = _mm512_fmadd_ps(c1, y_low, _mm512_fmadd_ps(c1_low, y, m_low));
    __m512 p = _mm512_add_ps(c0, m), back = _mm512_sub_ps(p, c0); /* two-sum */
    __m512 p_low = _mm512_add_ps(_mm512_sub_ps(c0, _mm512_sub_ps(p, back)), _mm512_sub_ps(m, back));
    p_low = _mm512_add_ps(p_low, _mm512_add_ps(m_low, c0_low));
    __m512 z = _mm512_mul_ps(t, p), z_low = _mm512_fmadd_ps(t, p_low, _mm512_fmsub_ps(t, p, z));
    __m512 zero = _mm512_setzero_ps();
    __m512 e = vmath512_exp2part(_mm512_sub_ps(zero, z), _mm512_sub_ps(zero, z_low));
    return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), e));
}

#endif
