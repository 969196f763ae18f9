/* SPDX-License-Identifier: Apache-2.0
 *
 * 8-bit floating point, as bit patterns. Conversions from FP32 round to nearest, ties to even.
 *
 *   E4M3  (FN: no infinity) bias 7, max 448 (0x7E), NaN 0x7F/0xFF, subnormals m * 2^-9
 *   E5M2  (IEEE) bias 15, max 57344, infinity 0x7C, subnormals m * 2^-16
 *   E8M0  2^(e - 127), NaN 0xFF, no sign and no zero
 *   UE4M3 the non-negative half of E4M3, as ggml reads it: 0x7F is 0, the top bit is ignored (so 0xFF is 480)
 */
#ifndef NUM_FP8_H
#define NUM_FP8_H

#include "num/bf16.h"

static inline float e4m3_to_f32(uint8_t q) {
    uint32_t sign = (uint32_t)(q & 0x80u) << 24, a = q & 0x7fu;
    if (a == 0x7f)
        return f32_of_bits(sign | 0x7fc00000u);
    if (a < 8)
        return f32_of_bits(sign | f32_bits((float)a * 0x1p-9f));
    return f32_of_bits(sign | ((a << 20) + (120u << 23)));
}

static inline float ue4m3_to_f32(uint8_t q) {
    return q == 0x7f ? 0.0f : q == 0xff ? 480.0f : e4m3_to_f32(q & 0x7f);
}

/* Past 464 (halfway to the 480 that does not exist) there is no finite neighbour: NaN, as ml_dtypes. */
static inline uint8_t e4m3_from_f32(float x) {
    uint32_t b = f32_bits(x), sign = (b >> 24) & 0x80u, a = b & 0x7fffffffu;
    if (a > 0x43e80000u)
        return (uint8_t)(sign | 0x7f);
    if (a < 0x3c800000u) { /* below 2^-6: a multiple of 2^-9, rounded by adding 2^23 * 2^-9 */
        float t = f32_of_bits(a) + 0x1p14f;
        return (uint8_t)(sign | (f32_bits(t) - 0x46800000u));
    }
    return (uint8_t)(sign | ((a - (120u << 23) + 0x7ffffu + ((a >> 20) & 1)) >> 20));
}

/* Saturates: what lies past +-448 becomes +-448; NaN stays NaN. */
static inline uint8_t e4m3_from_f32_sat(float x) {
    return e4m3_from_f32(x > 448.0f ? 448.0f : x < -448.0f ? -448.0f : x);
}

static inline float e5m2_to_f32(uint8_t q) {
    return f16_to_f32((uint16_t)(q << 8));
}

static inline uint8_t e5m2_from_f32(float x) {
    uint32_t b = f32_bits(x), sign = (b >> 24) & 0x80u, a = b & 0x7fffffffu;
    if (a > 0x7f800000u)
        return (uint8_t)(sign | 0x7e);
    if (a >= 0x47700000u) /* 61440 and above round to infinity */
        return (uint8_t)(sign | 0x7c);
    if (a < 0x38800000u) { /* below 2^-14: a multiple of 2^-16 */
        float t = f32_of_bits(a) + 0x1p7f;
        return (uint8_t)(sign | (f32_bits(t) - 0x43000000u));
    }
    return (uint8_t)(sign | ((a - (112u << 23) + 0xfffffu + ((a >> 21) & 1)) >> 21));
}

static inline uint8_t e5m2_from_f32_sat(float x) {
    return e5m2_from_f32(x > 57344.0f ? 57344.0f : x < -57344.0f ? -57344.0f : x);
}

static inline float e8m0_to_f32(uint8_t q) {
    return q == 0xff ? f32_of_bits(0x7fc00000u) : q == 0 ? 0x1p-127f : f32_of_bits((uint32_t)q << 23);
}

/* Nearest power of two, halves upward; what is not positive and finite is NaN, and so is what rounds past
 * 2^127. Subnormals follow ml_dtypes: whatever lies above 2^-127 goes up. */
static inline uint8_t e8m0_from_f32(float x) {
    uint32_t b = f32_bits(x);
    if (b == 0 || b >= 0x7f800000u)
        return 0xff;
    if (b < 0x800000u)
        return b > 0x400000u;
    return (uint8_t)((b + 0x400000u) >> 23);
}

#endif
