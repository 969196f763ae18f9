/* SPDX-License-Identifier: Apache-2.0
 *
 * The AVX-512 matrix kernels, by file; matmul_avx512.c puts them into the table. Sixteen weight rows are
 * sixteen lanes: a line of packed codes is a register.
 */
#ifndef CPU_AVX512_MATMUL_AVX512_H
#define CPU_AVX512_MATMUL_AVX512_H

#include "cpu/avx512/vec512.h"

#include "cpu/matmul.h"

void quantize_act_avx512(act_block *blocks, const float *x, size_t n);

void matmul_int8_init_avx512(matmul_kernels *m); /* needs VNNI */
void matmul_f32_init_avx512(matmul_kernels *m);
void matmul_rows_init_avx512(matmul_kernels *m);

#endif
