/* SPDX-License-Identifier: Apache-2.0
 *
 * BF16 and IEEE half, as bit patterns. Rounding is to nearest, ties to even; NaN stays NaN (quiet).
 */
#ifndef NUM_BF16_H
#define NUM_BF16_H

#include <stdint.h>
#include <string.h>

static inline uint32_t f32_bits(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float f32_of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline float bf16_to_f32(uint16_t h) {
    return f32_of_bits((uint32_t)h << 16);
}

static inline uint16_t bf16_from_f32(float x) {
    uint32_t b = f32_bits(x);
    if ((b & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((b >> 16) | 0x40);
    return (uint16_t)((b + 0x7fffu + ((b >> 16) & 1)) >> 16);
}

/* Integer arithmetic only, so that no flush-to-zero mode can touch a subnormal. */
static inline float f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, e = (h >> 10) & 31, m = h & 0x3ffu;
    if (e == 31)
        return f32_of_bits(sign | 0x7f800000u | m << 13);
    if (e == 0) { /* m * 2^-24 */
        float v = (float)m * 0x1p-24f;
        return f32_of_bits(sign | f32_bits(v));
    }
    return f32_of_bits(sign | (e + 112) << 23 | m << 13);
}

static inline uint16_t f16_from_f32(float x) {
    uint32_t b = f32_bits(x), sign = (b >> 16) & 0x8000u, a = b & 0x7fffffffu;
    if (a > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | ((a >> 13) & 0x3ffu));
    if (a >= 0x477ff000u) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00u);
    if (a >= 0x38800000u) /* normal: 2^-14 and above */
        return (uint16_t)(sign | ((a - 0x38000000u + 0xfffu + ((a >> 13) & 1)) >> 13));
    if (a <= 0x33000000u) /* 2^-25 and below round to zero */
        return (uint16_t)sign;
    uint32_t shift = 126 - (a >> 23), m = (a & 0x7fffffu) | 0x800000u; /* 14 <= shift <= 24 */
    uint32_t q = m >> shift, rest = m & ((1u << shift) - 1), half = 1u << (shift - 1);
    return (uint16_t)(sign | (q + (rest > half || (rest == half && (q & 1)))));
}

#endif
