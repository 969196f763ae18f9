/* SPDX-License-Identifier: Apache-2.0
 *
 * The packed layout on the host, written to be read: what the GPU's packers are compared with.
 */
#ifndef GEMM_LAYOUT_H
#define GEMM_LAYOUT_H

#include "gemm/gemm.h"

/* codes [n, k/2], scales E4M3 [n, k/16] without sign and NaN -> PACKED, nib_gemm_packed_bytes(n, k). */
void layout_pack(const uint8_t *codes, const uint8_t *scales, float tensor_scale, size_t n, size_t k,
                 uint8_t *packed);
void layout_unpack(const uint8_t *packed, size_t n, size_t k, uint8_t *codes, uint8_t *scales,
                   float *tensor_scale);

#endif
