/* SPDX-License-Identifier: Apache-2.0
 *
 * W4A4 through cuBLASLt's NVFP4 product, on Blackwell of data centers.
 */
#ifndef GEMM_GPU_NATIVE_H
#define GEMM_GPU_NATIVE_H

#include "gemm/gemm.h"

/* The workspace of product P. */
size_t native_bytes(const nib_gemm_product *p);
/* D of P, which was checked; its lda and ldd are set. */
nib_status native_matmul(const nib_gemm *g, const nib_gemm_product *p, void *workspace, void *stream,
                         nib_error *err);

#endif
