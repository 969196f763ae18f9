/* SPDX-License-Identifier: Apache-2.0
 *
 * Rounded: FP32 numbers in place to those that a format holds, by the format's own encoder and decoder. It is
 * what a product sees whose activations (or keys and values) are stored so. A row with a number that is not
 * finite stays as it is: its products must not look like numbers; one whose largest magnitude is too small
 * for a scale and its reciprocal becomes zeros. Callers: cpu, eval.
 */
#ifndef NUM_ROUNDED_H
#define NUM_ROUNDED_H

#include <stddef.h>

/* x [n] as E4M3 under one scale: SCALE (multiplies), or for 0 max |x| / 448, and then codes of
 * x * (448 / max |x|), as the GPU kernels compute them (gemm/gpu/any/prepare.cu). */
void rounded_fp8(float *x, size_t n, float scale);

/* x [n] as NVFP4 under TENSOR_SCALE, or for 0 max |x| / 2688; block scales by nvfp4_block_scale. */
void rounded_nvfp4(float *x, size_t n, float tensor_scale);

/* The same with each block's largest magnitude at 6 or at 4, whichever has the lower squared error, under
 * max |x| / 1536: the fouroversix package's way (quant/scale_search.h). */
void rounded_nvfp4_4over6(float *x, size_t n);

/* x [n] as NVFP4 where it is no larger than all but the largest hundredth of its magnitudes are; what the
 * others have beyond that is added to it as it is (Wang et al. 2025: clamped, and compensated by a sparse
 * product). */
void rounded_nvfp4_clamp(float *x, size_t n);

/* x [n] as MXFP4, scales by mxfp4_block_scale. */
void rounded_mxfp4(float *x, size_t n);

/* x [n] times the orthonormal Hadamard matrix of ORDER, a power of two (where it does not divide N, of the
 * largest one that does), block by block: its own inverse. */
void rounded_hadamard(float *x, size_t n, size_t order);

#endif
