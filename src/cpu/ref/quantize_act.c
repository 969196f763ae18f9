/* SPDX-License-Identifier: Apache-2.0
 *
 * Activations to 8-bit integers, one scale per ACT_BLOCK columns:
 *     scale = max|x| / 127;  code = x * (127 / max|x|), rounded to the nearest integer, ties to even
 * A block whose maximum is below 2^-100 (127 / max|x| could overflow) is zeros. One with an infinity or a NaN
 * has the scale NaN: what it is multiplied into shows it.
 */
#include "cpu/ref/quantize_act.h"

#include <assert.h>
#include <math.h>

#include "num/bf16.h"

static void quantize_block(act_block *out, const float *x) {
    uint32_t most = 0; /* bits of max|x|: their order is that of the values, with infinity and NaN on top */
    for (size_t i = 0; i < ACT_BLOCK; i++) {
        uint32_t bits = f32_bits(x[i]) & 0x7fffffffu;
        most = bits > most ? bits : most;
    }
    float max = f32_of_bits(most), factor = max < 0x1p-100f ? 0.0f : 127.0f / max;
    bool finite = most < 0x7f800000u;
    int32_t sum = 0;
    for (size_t i = 0; i < ACT_BLOCK; i++) {
        int32_t code = finite ? (int32_t)rintf(x[act_column(i)] * factor) : 0;
        out->codes[i] = (int8_t)code;
        sum += code;
    }
    out->scale = !finite ? NAN : factor == 0.0f ? 0.0f : max / 127.0f;
    out->starts[0] = ACT_MAGIC - 16 * sum;
    out->starts[1] = ACT_MAGIC - 128 * sum;
    out->sum = (float)sum * out->scale;
}

void quantize_act_ref(act_block *blocks, const float *x, size_t n) {
    assert(n % ACT_BLOCK == 0);
    for (size_t b = 0; b < n / ACT_BLOCK; b++)
        quantize_block(blocks + b, x + b * ACT_BLOCK);
}
