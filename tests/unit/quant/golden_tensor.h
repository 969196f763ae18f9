/* SPDX-License-Identifier: Apache-2.0
 *
 * The tensors that tests/golden/quant/make_nvfp4.py feeds to the reference packages, made again bit by bit.
 */
#ifndef TESTS_GOLDEN_TENSOR_H
#define TESTS_GOLDEN_TENSOR_H

#include <math.h>

#include "../../golden/num/golden.h"
#include "num/bf16.h"
#include "num/fp8.h"

#define GOLDEN_ROWS ((size_t)1024)
#define GOLDEN_COLS ((size_t)1024)
#define GOLDEN_N    (GOLDEN_ROWS * GOLDEN_COLS)

static inline void golden_bell(uint64_t seed, float *x) {
    for (size_t i = 0; i < GOLDEN_N; i++) {
        uint64_t w = golden_word(seed, i), v = golden_word(seed + 1, i);
        int total = -131070;
        for (int k = 0; k < 4; k++)
            total += (int)(w >> (16 * k) & 0xffff);
        x[i] = (float)total * 0x1p-20f * (1.0f + (float)(v & 0xffff) * 0x1p-22f);
    }
    for (size_t b = 0; b < GOLDEN_N / 16; b++) {
        uint64_t h = golden_word(seed + 2, b);
        size_t kind = h & 31, lane = h >> 8 & 15;
        float *p = x + 16 * b, scale = ldexpf(1.0f, -(int)(h >> 16 & 31));
        if (kind == 1)
            p[lane] *= 1024.0f;
        for (size_t i = 0; i < 16; i++)
            if (kind == 0 || (kind == 2 && i != lane))
                p[i] = 0.0f;
            else if (kind == 3)
                p[i] = -0.0f;
            else if (kind == 4)
                p[i] *= scale;
    }
}

static inline void golden_bf16(uint64_t seed, float *x) {
    golden_bell(seed, x);
    for (size_t i = 0; i < GOLDEN_N; i++)
        x[i] = bf16_to_f32(bf16_from_f32(x[i]));
}

static inline void golden_ties(float *x) {
    static const float ties[16] = {0, .25f, .5f, .75f, 1, 1.25f, 1.5f, 1.75f,
                                   2, 2.5f, 3,   3.5f, 4, 5,     6,    5.5f};
    for (size_t i = 0; i < GOLDEN_N; i++) {
        uint64_t w = golden_word(32, i);
        uint8_t code = i < 16 ? 126 : (uint8_t)(1 + golden_word(31, i / 16) % 126);
        float v = ties[w & 15] * (w >> 63 ? -1.0f : 1.0f);
        x[i] = (i % 16 ? v : 6.0f) * (e4m3_to_f32(code) * 0x1p-8f);
    }
}

#endif
