/* SPDX-License-Identifier: Apache-2.0
 *
 * GGUF's formats of about 1.6 to 3.5 bits whose codes number vectors of a grid. Value for value as the gguf
 * package computes them. Caller: gguf_blocks.
 */
#ifndef NUM_GGUF_IQ_H
#define NUM_GGUF_IQ_H

#include "num/gguf_blocks.h"

gguf_block_decoder gguf_iq_decoder(dtype t); /* NULL when T is none of them */

#endif
