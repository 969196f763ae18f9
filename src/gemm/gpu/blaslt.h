/* SPDX-License-Identifier: Apache-2.0
 *
 * cuBLASLt, found at run time: d [m, n] = a [m, k] w [n, k]^T. For the benchmark's comparison and for NVFP4
 * products on Blackwell of data centers (native.c); the library itself does not need it.
 */
#ifndef GEMM_GPU_BLASLT_H
#define GEMM_GPU_BLASLT_H

#include "gemm/gemm.h"

typedef struct blaslt blaslt;

typedef enum blaslt_kind { BLASLT_BF16, BLASLT_FP8, BLASLT_FP8_TOKEN, BLASLT_NVFP4 } blaslt_kind;

typedef struct blaslt_product blaslt_product;

nib_status blaslt_open(blaslt **out, nib_error *err); /* NIB_UNSUPPORTED: no libcublasLt.so.13 or .12 */
void blaslt_close(blaslt *b);
typedef struct blaslt_shape {
    blaslt_kind kind;
    size_t m, n, k;
    size_t ldd;           /* 0: n */
    nib_gemm_type d_type; /* of d, c and bias */
    const void *w_scale,
        *a_scale;     /* device: FP32 [n] and [m] for FP8_TOKEN, [1] for FP8; NVFP4: E4M3 in scale tiles */
    const void *bias; /* [n], NULL: none */
    size_t workspace_bytes;
    uint32_t alignment; /* of a, c and d, bytes; 0: 256 */
} blaslt_shape;

nib_status blaslt_plan(blaslt *b, const blaslt_shape *s, blaslt_product **out, nib_error *err);
/* d = factors[0] w a + factors[1] c. FACTORS: on the device for NVFP4, else NULL for 1 and 0. 0: enqueued */
int blaslt_run(blaslt_product *p, const void *w, const void *a, const void *c, void *d, const float *factors,
               void *workspace, void *stream);
void blaslt_free(blaslt_product *p);

#endif
