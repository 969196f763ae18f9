/* SPDX-License-Identifier: Apache-2.0
 *
 * NVFP4: blocks of 16 E2M1 elements under an E4M3 scale, under an FP32 scale of the tensor.
 *
 *   on disk (Hugging Face)  codes U8 [rows, cols/2], element 2i in the low nibble; scales E4M3 [rows,
 * cols/16] in a GGUF file          64 elements in 36 bytes: 4 scales (UE4M3), then per 16 elements 8 bytes
 * whose low nibbles are elements 0..7 and high nibbles 8..15 value = e2m1(code) * e4m3(scale) * tensor_scale
 *
 * The encoder divides (q = x / (scale * tensor_scale)), as ModelOpt and compressed-tensors do, and is equal
 * to them byte for byte. A negative number that rounds to zero keeps its sign; -0 itself becomes +0.
 */
#ifndef NUM_NVFP4_H
#define NUM_NVFP4_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NVFP4_BLOCK       16
#define NVFP4_BLOCK_BYTES 8       /* of codes */
#define NVFP4_MAX         2688.0f /* 6 * 448: the largest value at tensor_scale 1 */

float nvfp4_amax(const float *x, size_t n); /* max |x|, 0 for n == 0 */

/* Round-to-nearest scales. ModelOpt: the tensor's scale is amax / 2688 and multiplies; a block of zeros gets
 * scale 1, others at least 2^-9. */
uint8_t nvfp4_block_scale(float block_amax, float tensor_scale);

/* compressed-tensors: the global scale is 2688 / amax and divides; a block of zeros (and one whose scale
 * rounds to zero) gets 0.125. BF16_STEP: 2688 / amax and block_amax / 6 are rounded to BF16, which the
 * library does when it observes BF16 weights. */
float nvfp4_ct_global_scale(float amax, bool bf16_step);
uint8_t nvfp4_ct_block_scale(float block_amax, float global_scale, bool bf16_step);

/* How often E4M3 scales, MOST the largest of them, may be doubled. A tensor whose scales are small (in a file
 * without tensor scales) keeps every value with doubled scales under a tensor scale halved as often, and then
 * loses less where scales are rounded into E4M3 weights, whose smallest number is 2^-9. */
int nvfp4_doublings(uint8_t most);
uint8_t nvfp4_doubled(uint8_t scale, int times); /* exact; NaN stays */

/* Codes of the 16 elements X under SCALE = e4m3(block scale) * tensor_scale (or / global_scale). SCALE 0
 * gives zeros. */
void nvfp4_encode_block(const float *x, float scale, uint8_t *codes);

/* Moves between the two layouts: 64 elements, 4 scales. to_gguf is false when a scale is NaN; a negative
 * scale moves its sign into the codes. from_gguf is false for a scale that E4M3 has not (0xFF). */
bool nvfp4_to_gguf(const uint8_t *codes, const uint8_t *scales, uint8_t *block);
bool nvfp4_from_gguf(const uint8_t *block, uint8_t *codes, uint8_t *scales);

#endif
