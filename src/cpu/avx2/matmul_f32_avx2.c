/* SPDX-License-Identifier: Apache-2.0
 *
 * Packed weights times FP32 activations on AVX2; vec/matmul_f32_vec.h is the rest. Codes become signed bytes
 * by one lookup; a byte becomes FP32 by moving it to the top of its 32-bit lane and back.
 */
#include "cpu/avx2/matmul_avx2.h"

enum { MUL_PARTS = 1, TOKENS = 6 };

typedef __m256i grid_type; /* 16 signed bytes, twice */

INLINE grid_type grid_of(const pack_part *p) {
    return vi_grid(p->grid, 0);
}

/* Byte J (a constant) of every lane as FP32. */
INLINE vfloat byte_value(__m256i v, int j) {
    __m256i top = j == 3 ? v : _mm256_slli_epi32(v, 24 - 8 * j);
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(top, 24));
}

/* Signed values of columns 0, 2, 4, 6 and 1, 3, 5, 7. */
typedef struct line_type {
    __m256i even, odd;
} line_type;

INLINE line_type line_of(pack_kind kind, const uint8_t *super, size_t line, size_t part, grid_type grid) {
    const __m256i low = _mm256_set1_epi8(15);
    if (kind == PACK_Q8_0)
        return (line_type){vi_load(super + 2 * line * PACK_LINE + part * 32),
                           vi_load(super + (2 * line + 1) * PACK_LINE + part * 32)};
    __m256i codes = vi_load(super + line * PACK_LINE + part * 32);
    return (line_type){_mm256_shuffle_epi8(grid, _mm256_and_si256(codes, low)),
                       _mm256_shuffle_epi8(grid, _mm256_and_si256(_mm256_srli_epi16(codes, 4), low))};
}

INLINE vfloat column(pack_kind kind, line_type line, size_t c, grid_type grid) {
    (void)kind;
    (void)grid;
    return byte_value(c % 2 ? line.odd : line.even, (int)c / 2);
}

#include "cpu/vec/matmul_f32_vec.h"
