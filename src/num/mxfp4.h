/* SPDX-License-Identifier: Apache-2.0
 *
 * MXFP4 (OCP): blocks of 32 E2M1 elements under a power of two.
 *
 *   value = e2m1(code) * 2^(scale - 127)
 *
 *   Hugging Face: codes U8 [rows, cols/2], element 2i in the low nibble; scales E8M0 [rows, cols/32]
 *   GGUF:         32 elements in 17 bytes: the scale, then 16 bytes, pairs (j, j + 16)
 */
#ifndef NUM_MXFP4_H
#define NUM_MXFP4_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MXFP4_BLOCK       32
#define MXFP4_BLOCK_BYTES 16 /* of codes */

/* The specification's scale: 2^(floor(log2 amax) - 2), so that the largest element lies in [4, 8) and past 6
 * saturates. A block of zeros gets 2^-127. */
uint8_t mxfp4_block_scale(float block_amax);

void mxfp4_encode_block(const float *x, uint8_t scale, uint8_t *codes);

/* Moves between the layouts, 32 elements. The scale 0xFF (NaN) has no counterpart: false. */
bool mxfp4_to_gguf(const uint8_t *codes, uint8_t scale, uint8_t *block);
bool mxfp4_from_gguf(const uint8_t *block, uint8_t *codes, uint8_t *scale);

#endif
