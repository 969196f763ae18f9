/* SPDX-License-Identifier: Apache-2.0
 *
 * Packed weights times FP32 activations on AVX-512; vec/matmul_f32_vec.h is the rest. The word of a row and
 * line holds 8 nibbles; vpermps takes the lowest of each lane as the index into 16 FP32 values, so a shift
 * and a permute give 16 rows of one column.
 */
#include "cpu/avx512/matmul_avx512.h"

enum { MUL_PARTS = 2, TOKENS = 6 };

typedef vfloat grid_type;

INLINE grid_type grid_of(const pack_part *p) {
    return vf_of_int(vi_load_i8(p->grid));
}

/* Nibbles of a line: eight in a word. Bytes: of columns 0, 2, 4, 6 and 1, 3, 5, 7. */
typedef struct line_type {
    __m512i words, odd;
} line_type;

INLINE line_type line_of(pack_kind kind, const uint8_t *super, size_t line, size_t part, grid_type grid) {
    (void)part;
    (void)grid;
    if (kind == PACK_Q8_0)
        return (line_type){vi_load(super + 2 * line * PACK_LINE),
                           vi_load(super + (2 * line + 1) * PACK_LINE)};
    return (line_type){.words = vi_load(super + line * PACK_LINE)};
}

INLINE vfloat column(pack_kind kind, line_type line, size_t c, grid_type grid) {
    unsigned n = (unsigned)c;
    if (kind != PACK_Q8_0)
        return _mm512_permutexvar_ps(_mm512_srli_epi32(line.words, 4 * n), grid);
    __m512i top = _mm512_slli_epi32(n % 2 ? line.odd : line.words, 24 - 8 * (n / 2));
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(top, 24));
}

#include "cpu/vec/matmul_f32_vec.h"
