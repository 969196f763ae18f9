/* SPDX-License-Identifier: Apache-2.0
 *
 * CUDA's codes as the one error rule has it, and the context's device made current.
 */
#ifndef GEMM_GPU_CHECK_H
#define GEMM_GPU_CHECK_H

#include "gemm/gemm.h"

nib_status check_cuda(int code, const char *what, nib_error *err);
nib_status check_device(const nib_gemm *g, nib_error *err);

#endif
