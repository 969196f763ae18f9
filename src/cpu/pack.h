/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights in memory: `struct weight`, packed once at load into the layout the kernels read.
 */
#ifndef CPU_PACK_H
#define CPU_PACK_H

#include "ops/ops.h"

struct cpu_kernels;

/* INT8: activations come as 8-bit integers where the format allows it; else everything multiplies FP32. */
nib_status pack_weight(weight **out, const tensor *const *parts, size_t n_parts, const struct cpu_kernels *k,
                       bool int8, nib_error *err);
void pack_free(weight *w);
size_t pack_bytes(const weight *w); /* what one pass over it reads */
size_t pack_rows(const weight *w);
size_t pack_cols(const weight *w);
size_t pack_scratch_bytes(const weight *w); /* that matmul_run needs per thread */
void pack_unpack_row(const weight *w, size_t row, float *dst);

#endif
