/* SPDX-License-Identifier: Apache-2.0
 *
 * The AVX2 entries of the matrix table.
 */
#include "cpu/avx2/matmul_avx2.h"

void matmul_avx2_init(matmul_kernels *m, uint32_t features) {
    (void)features;
    m->quantize_act = quantize_act_avx2;
    for (int kind = PACK_NVFP4; kind < PACK_KINDS; kind++) {
        bool byte = kind == PACK_BYTE;
        m->tile8[kind] = byte ? matmul_int8_avx2_tile_byte : matmul_int8_avx2_tile_nibble;
    }
    m->mul8[0] = matmul_int8_avx2_mul;
    m->mul8[1] = matmul_int8_avx2_mul_wide;
    m->gemv8[PACK_NVFP4] = matmul_int8_avx2_gemv_nvfp4;
    m->gemv8[PACK_BYTE] = matmul_int8_avx2_gemv_byte;
    matmul_f32_init_avx2(m);
    matmul_rows_init_avx2(m);
    matmul_decode_avx2_init(m);
}
