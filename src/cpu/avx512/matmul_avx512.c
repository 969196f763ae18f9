/* SPDX-License-Identifier: Apache-2.0
 *
 * The AVX-512 entries of the matrix table. Without VNNI the 8-bit products stay AVX2's.
 */
#include "cpu/avx512/matmul_avx512.h"

void matmul_avx512_init(matmul_kernels *m, uint32_t features) {
    m->quantize_act = quantize_act_avx512;
    matmul_f32_init_avx512(m);
    matmul_rows_init_avx512(m);
    if (features & NIB_CPU_AVX512_VNNI)
        matmul_int8_init_avx512(m);
}
