/* SPDX-License-Identifier: Apache-2.0
 *
 * Decoders of the block formats of GGUF files. Values are computed in FP32 in the order the gguf package
 * computes them, so that both give the same bits. Caller: dtype_decode.
 */
#ifndef NUM_GGUF_BLOCKS_H
#define NUM_GGUF_BLOCKS_H

#include "num/dtype.h"

typedef void (*gguf_block_decoder)(const unsigned char *src, float *dst, size_t n_blocks);

gguf_block_decoder gguf_blocks_decoder(dtype t); /* NULL when T is no block format of GGUF */

#endif
