/* SPDX-License-Identifier: Apache-2.0
 *
 * E2M1, the 4-bit element: sign (bit 3) and an index into {0, .5, 1, 1.5, 2, 3, 4, 6}. Conversion from FP32
 * rounds to nearest, ties to the even code (.25 -> 0, .75 -> 1, 1.25 -> 1, 1.75 -> 2, 2.5 -> 2, 3.5 -> 4,
 * 5 -> 4), and saturates at 6. The format has no NaN.
 */
#ifndef NUM_E2M1_H
#define NUM_E2M1_H

#include "num/bf16.h"

extern const float e2m1_values[16];

static inline float e2m1_to_f32(uint8_t code) {
    return e2m1_values[code & 15];
}

/* Index 0..7 of |y|. Odd indices own neither of their bounds. */
static inline uint8_t e2m1_index(float y) {
    return (uint8_t)((y > 0.25f) + (y >= 0.75f) + (y > 1.25f) + (y >= 1.75f) + (y > 2.5f) + (y >= 3.5f) +
                     (y > 5.0f));
}

/* Keeps the sign of zero. NaN becomes a zero of the other sign, as ml_dtypes converts it. */
static inline uint8_t e2m1_from_f32(float x) {
    uint32_t b = f32_bits(x), a = b & 0x7fffffffu;
    if (a > 0x7f800000u)
        return (uint8_t)(~b >> 28 & 8u);
    return (uint8_t)(((b >> 28) & 8u) | e2m1_index(f32_of_bits(a)));
}

#endif
