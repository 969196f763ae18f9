/* SPDX-License-Identifier: Apache-2.0
 *
 * AVX2: packed weights times 8-bit activations; vec/matmul_int8_vec.h is the rest.
 *
 * Narrow codes with 16 added and affine ones are unsigned, at most 31: a block's four pmaddubsw add up to 4 *
 * 2 * 31 * 127 < 2^15, and one pmaddwd ends the block. Wide codes stay signed: |w| and the activations with
 * w's sign, a pmaddwd per 4 columns.
 */
#include "cpu/avx2/matmul_avx2.h"

enum { MUL_PARTS = 1, TOKENS = 4, DIRECT_TOKENS = 4, DIRECT_ROWS = 16, WIDE_OFFSET = 0 };

INLINE vint dot_begin(pack_codes codes, const act_block *x) {
    (void)x;
    return vi_set(codes == PACK_WIDE ? ACT_MAGIC : 0);
}

INLINE vint dot_step(pack_codes codes, vint dot, vint w, const int8_t *x) {
    int32_t four;
    __builtin_memcpy(&four, x, sizeof four);
    vint xs = vi_set(four);
    if (codes != PACK_WIDE)
        return _mm256_add_epi16(dot, _mm256_maddubs_epi16(w, xs));
    vint pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(xs, w));
    return vi_add(dot, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

INLINE vfloat dot_end(pack_codes codes, vint dot, const act_block *x) {
    if (codes == PACK_WIDE)
        return vf_of_bits(dot);
    dot = _mm256_madd_epi16(dot, _mm256_set1_epi16(1));
    return vf_of_bits(vi_add(dot, vi_set(codes == PACK_AFFINE ? ACT_MAGIC : x->starts[0])));
}

#include "cpu/vec/matmul_int8_vec.h"
