/* SPDX-License-Identifier: Apache-2.0
 *
 * Decoders of the block formats of GGUF files, and what nibble writes of them. Values are
 * computed in FP32 in the order the gguf package computes them, so that both give the same bits. Callers:
 * dtype_decode, encode, q5_search, lanes, sensitivity.
 */
#ifndef NUM_GGUF_BLOCKS_H
#define NUM_GGUF_BLOCKS_H

#include "num/dtype.h"

typedef void (*gguf_block_decoder)(const unsigned char *src, float *dst, size_t n_blocks);

/* Scale and minimum I of the eight pairs of 6 bits in the 12 bytes B: Q4_K, Q5_K. */
static inline void gguf_blocks_scale_min(const unsigned char *b, int i, int *scale, int *min) {
    *scale = i < 4 ? b[i] & 63 : (b[i + 4] & 15) | (b[i - 4] >> 6) << 4;
    *min = i < 4 ? b[i + 4] & 63 : (b[i + 4] >> 4) | (b[i] >> 6) << 4;
}

gguf_block_decoder gguf_blocks_decoder(dtype t); /* NULL when T is no block format of GGUF */

/* X [32 * n_blocks], finite, to Q8_0, 34 bytes a block, as ggml's quantize_row_q8_0_ref does: a step of the
 * largest magnitude / 127, codes by the step before it is rounded to F16, halves away from zero. Where F16
 * holds no such step (magnitudes above 8.3 million), the largest that it holds. */
void gguf_blocks_encode_q8_0(const float *x, unsigned char *out, size_t n_blocks);

/* One block of Q5_0, 22 bytes: the step as F16, CODES [32] from -16 to 15. */
void gguf_blocks_pack_q5_0(uint16_t step, const int8_t *codes, unsigned char *out);

#endif
