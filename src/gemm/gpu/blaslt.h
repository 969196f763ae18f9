/* SPDX-License-Identifier: Apache-2.0
 *
 * cuBLASLt, found at run time: d [m, n] = a [m, k] w [n, k]^T. For the benchmark's comparison; the library
 * itself does not need it.
 */
#ifndef GEMM_GPU_BLASLT_H
#define GEMM_GPU_BLASLT_H

#include "gemm/gemm.h"

typedef struct blaslt blaslt;

typedef enum blaslt_kind { BLASLT_BF16, BLASLT_FP8, BLASLT_FP8_TOKEN } blaslt_kind;

typedef struct blaslt_product blaslt_product;

nib_status blaslt_open(blaslt **out, nib_error *err); /* NIB_UNSUPPORTED: no libcublasLt.so.13 or .12 */
void blaslt_close(blaslt *b);
/* Scales: device, FP32; [n] and [m] for FP8_TOKEN, [1] for FP8. */
nib_status blaslt_plan(blaslt *b, blaslt_kind kind, size_t m, size_t n, size_t k, const float *w_scale,
                       const float *a_scale, size_t workspace_bytes, blaslt_product **out, nib_error *err);
int blaslt_run(blaslt_product *p, const void *w, const void *a, void *d, void *workspace,
               void *stream); /* 0: enqueued */
void blaslt_free(blaslt_product *p);

#endif
