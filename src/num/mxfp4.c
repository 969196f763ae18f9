/* SPDX-License-Identifier: Apache-2.0
 *
 * Scale, encoder and the two layouts of MXFP4. Callers: quant's scale search, and its encoder, which moves
 * blocks between a directory's layout and a GGUF file's: codes and scales are kept to the bit.
 */
#include "num/mxfp4.h"

#include <math.h>

#include "num/e2m1.h"
#include "num/fp8.h"

uint8_t mxfp4_block_scale(float block_amax) {
    uint32_t e = f32_bits(block_amax) >> 23; /* floor(log2) + 127; 0 for zero and subnormals */
    return (uint8_t)(e > 2 ? e - 2 : 0);
}

void mxfp4_encode_block(const float *x, uint8_t scale, uint8_t *codes) {
    uint8_t q[MXFP4_BLOCK];
    float step = e8m0_to_f32(scale);
    for (int i = 0; i < MXFP4_BLOCK; i++) {
        float y = x[i] / step;
        q[i] = (uint8_t)((y < 0.0f) << 3 | e2m1_index(fabsf(y)));
    }
    for (int i = 0; i < MXFP4_BLOCK_BYTES; i++)
        codes[i] = (uint8_t)(q[2 * i] | q[2 * i + 1] << 4);
}

bool mxfp4_to_gguf(const uint8_t *codes, uint8_t scale, uint8_t *block) {
    block[0] = scale;
    for (int j = 0; j < 16; j++) {
        int low = j / 2, high = (j + 16) / 2, shift = 4 * (j & 1);
        block[1 + j] = (uint8_t)((codes[low] >> shift & 15) | (codes[high] >> shift & 15) << 4);
    }
    return scale != 0xff;
}

bool mxfp4_from_gguf(const uint8_t *block, uint8_t *codes, uint8_t *scale) {
    *scale = block[0];
    for (int i = 0; i < 16; i++) {
        int j = 2 * i, shift = j < 16 ? 0 : 4;
        codes[i] =
            (uint8_t)((block[1 + (j & 15)] >> shift & 15) | (block[1 + ((j + 1) & 15)] >> shift & 15) << 4);
    }
    return *scale != 0xff;
}
