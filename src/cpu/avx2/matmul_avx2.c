/* SPDX-License-Identifier: Apache-2.0
 *
 * The AVX2 entries of the matrix table.
 */
#include "cpu/avx2/matmul_avx2.h"

void matmul_avx2_init(matmul_kernels *m, uint32_t features) {
    (void)features;
    m->quantize_act = quantize_act_avx2;
    matmul_int8_init_avx2(m);
    matmul_f32_init_avx2(m);
    matmul_rows_init_avx2(m);
    matmul_decode_avx2_init(m);
}
