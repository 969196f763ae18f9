/* SPDX-License-Identifier: Apache-2.0
 *
 * exp and the gates that are made of it, in the vectors of the rung that includes this. Coefficients: least
 * weighted maximum of |error| / exp over |r| <= ln(2) / 2, fitted for this file (3.6e-9 before rounding).
 */
#ifndef CPU_VEC_VMATH_H
#define CPU_VEC_VMATH_H

/* exp(r) - 1, |r| <= ln(2) / 2 */
INLINE vfloat vmath_expm1_rest(vfloat r) {
    vfloat q = vf_set(0x1.6a23d0p-10f);
    q = vf_fma(q, r, vf_set(0x1.123a20p-7f));
    q = vf_fma(q, r, vf_set(0x1.5558f2p-5f));
    q = vf_fma(q, r, vf_set(0x1.555492p-3f));
    q = vf_fma(q, r, vf_set(0x1.fffffcp-2f));
    return vf_fma(vf_mul(r, r), q, r);
}

INLINE vfloat vmath_exp_rest(vfloat r) {
    return vf_add(vmath_expm1_rest(r), vf_set(1.0f));
}

INLINE vfloat vmath_whole(vfloat x) { /* of x / ln(2) */
    return vf_round(vf_mul(x, vf_set(0x1.715476p+0f)));
}

INLINE vfloat vmath_rest(vfloat x, vfloat n) { /* x - n ln(2) */
    vfloat r = vf_fnma(n, vf_set(0x1.62e430p-1f), x);
    return vf_fnma(n, vf_set(-0x1.05c610p-29f), r);
}

/* exp(x + low), low a correction below half an ulp of x: 0 below -104, infinity above 88.8. */
INLINE vfloat vmath_exp_parts(vfloat x, vfloat low) {
    x = vf_max(vf_min(x, vf_set(110.0f)), vf_set(-110.0f));
    vfloat n = vmath_whole(x);
    return vf_times_power(vmath_exp_rest(vf_add(vmath_rest(x, n), low)), n);
}

INLINE vfloat vmath_exp(vfloat x) {
    x = vf_max(vf_min(x, vf_set(110.0f)), vf_set(-110.0f));
    vfloat n = vmath_whole(x);
    return vf_times_power(vmath_exp_rest(vmath_rest(x, n)), n);
}

/* exp(x), x <= 0 or -infinity, for weights beside one of 1: 0 far down, where 2^n costs two multiplications
 * below -86 already. Of NaN: NaN, since a maximum is the second when either is NaN. */
INLINE vfloat vmath_exp_negative(vfloat x) {
    if (V_HAS_POWERS) {
        x = vf_max(vf_set(-110.0f), x);
        vfloat n = vmath_whole(x);
        return vf_times_power(vmath_exp_rest(vmath_rest(x, n)), n);
    }
    const vfloat ones = vf_set(0x1.8p23f + 127), least = vf_set(-86.0f);
    vmask some = vf_not_less(x, least);
    x = vf_max(least, x);
    vfloat whole = vf_fma(x, vf_set(0x1.715476p+0f), ones), n = vf_sub(whole, ones);
    vfloat power = vf_of_bits(VI_LEFT(vf_bits(whole), 23)); /* the bits of 2^n are where rounding left n */
    return vf_where(some, vf_mul(vmath_exp_rest(vmath_rest(x, n)), power));
}

/* cap * tanh(x / cap). With e = exp(2 x / cap) - 1 = 2^n (e' + 1) - 1, of which nothing is lost near 0, tanh
 * is e / (e + 2). NaN stays. */
INLINE vfloat vmath_softcap(vfloat x, float cap) {
    vfloat u = vf_div(vf_add(x, x), vf_set(cap));
    u = vf_max(vf_set(-20.0f), vf_min(vf_set(20.0f), u)); /* beyond, tanh is +-1 */
    vfloat n = vmath_whole(u), power = vf_times_power(vf_set(1.0f), n);
    vfloat e = vf_fma(vmath_expm1_rest(vmath_rest(u, n)), power, vf_sub(power, vf_set(1.0f)));
    return vf_mul(vf_set(cap), vf_div(e, vf_add(e, vf_set(2.0f))));
}

/* x / (1 + exp(-x)) */
INLINE vfloat vmath_silu(vfloat x) {
    vfloat e = vmath_exp(vf_sub(vf_zero(), x));
    return vf_div(x, vf_add(vf_set(1.0f), e));
}

/* x / (1 + exp(-z)), z = x (c0 + c1 x^2) = 2 sqrt(2 / pi) (x + 0.044715 x^3). In the tail the error of z is
 * the relative error of the result, so z is kept in two parts. Beyond +-20 the gate is open or shut. */
INLINE vfloat vmath_gelu_tanh(vfloat x) {
    const vfloat c0 = vf_set(0x1.988454p+0f), c0_low = vf_set(-0x1.857936p-25f);
    const vfloat c1 = vf_set(0x1.2444f2p-4f), c1_low = vf_set(0x1.49b16ap-29f);
    vfloat t = vf_max(vf_min(x, vf_set(20.0f)), vf_set(-20.0f));
    vfloat y = vf_mul(t, t), y_low = vf_fms(t, t, y);
    vfloat m = vf_mul(c1, y), m_low = vf_fms(c1, y, m);
    m_low = vf_fma(c1, y_low, vf_fma(c1_low, y, m_low));
    vfloat p = vf_add(c0, m), back = vf_sub(p, c0); /* two-sum */
    vfloat p_low = vf_add(vf_sub(c0, vf_sub(p, back)), vf_sub(m, back));
    p_low = vf_add(p_low, vf_add(m_low, c0_low));
    vfloat z = vf_mul(t, p), z_low = vf_fma(t, p_low, vf_fms(t, p, z));
    vfloat e = vmath_exp_parts(vf_sub(vf_zero(), z), vf_sub(vf_zero(), z_low));
    return vf_div(x, vf_add(vf_set(1.0f), e));
}

#endif
