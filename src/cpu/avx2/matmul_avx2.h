/* SPDX-License-Identifier: Apache-2.0
 *
 * The AVX2 matrix kernels, by file; matmul_avx2.c puts them into the table. Eight weight rows are eight
 * lanes.
 */
#ifndef CPU_AVX2_MATMUL_AVX2_H
#define CPU_AVX2_MATMUL_AVX2_H

#include "cpu/avx2/vec256.h"

#include "cpu/matmul.h"

void quantize_act_avx2(act_block *blocks, const float *x, size_t n);

void matmul_int8_init_avx2(matmul_kernels *m);
void matmul_f32_init_avx2(matmul_kernels *m);
void matmul_rows_init_avx2(matmul_kernels *m);
void matmul_decode_avx2_init(matmul_kernels *m);

#endif
