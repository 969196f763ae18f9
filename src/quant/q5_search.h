/* SPDX-License-Identifier: Apache-2.0
 *
 * Q5 search: a row of weights in Q5_0, GGUF's blocks of 32 with five bits a weight under one F16 step, 5.5
 * bits in all: where NVFP4's 4.5 are too few. Of 33 steps by which the largest
 * magnitude lands between code 12 and 20, each refitted to the codes it gives, the one with the least squared
 * error. Callers: encode, tune, eval's sensitivity; lanes.c
 * tries the same steps for GPTQ.
 */
#ifndef QUANT_Q5_SEARCH_H
#define QUANT_Q5_SEARCH_H

#include <stddef.h>
#include <stdint.h>

enum { Q5_BLOCK = 32, Q5_BYTES = 22, Q5_STEPS = 33 };
#define Q5_LEAST 12.0 /* where the largest magnitude lands under the first step, */
#define Q5_APART 0.25 /* and by how much further under the next */

uint16_t q5_search_step(float step); /* as F16, the largest at most */

/* X [32 * n_blocks], finite; errors times WEIGHTS [32 * n_blocks] or, where they are NULL, 1. OUT 22 bytes a
 * block. */
void q5_search_row(const float *weights, const float *x, size_t n_blocks, unsigned char *out);

#endif
