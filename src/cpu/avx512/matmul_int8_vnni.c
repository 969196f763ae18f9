/* SPDX-License-Identifier: Apache-2.0
 *
 * AVX-512 VNNI: packed weights times 8-bit activations; vec/matmul_int8_vec.h is the rest. vpdpbusd
 * multiplies 4 columns of 16 rows, weights unsigned; its sum begins at starts[...]. A block of 16 rows, 16
 * columns and one row of activations is 4 vpdpbusd and 2 FMA.
 */
#include "cpu/avx512/matmul_avx512.h"

enum { MUL_PARTS = 2, TOKENS = 6, DIRECT_TOKENS = 8, DIRECT_ROWS = 32, WIDE_OFFSET = 128 };

INLINE vint dot_begin(pack_codes codes, const act_block *x) {
    return vi_set(codes == PACK_AFFINE ? ACT_MAGIC : x->starts[codes == PACK_WIDE]);
}

INLINE vint dot_step(pack_codes codes, vint dot, vint w, const int8_t *x) {
    int32_t four;
    (void)codes;
    __builtin_memcpy(&four, x, sizeof four);
    return _mm512_dpbusd_epi32(dot, w, _mm512_set1_epi32(four));
}

INLINE vfloat dot_end(pack_codes codes, vint dot, const act_block *x) {
    (void)codes;
    (void)x;
    return vf_of_bits(dot);
}

#include "cpu/vec/matmul_int8_vec.h"
