/* SPDX-License-Identifier: Apache-2.0
 *
 * The AVX-512 matrix kernels, by file; matmul_avx512.c puts them into the table. Sixteen weight rows are
 * sixteen lanes: a line of packed codes is a register.
 *
 * Tiles between tile_* and mul_*:
 *   VNNI  codes [block][step 0..3][group 0..1][64 bytes: 4 columns of 16 rows], unsigned: value + 12, wide
 *         parts value + 128; scales [block][group][scale, 1.5 * 2^23 * scale][16]
 *   FP32  values [block][column][group][16], scales [block][group][16]
 */
#ifndef CPU_AVX512_MATMUL_AVX512_H
#define CPU_AVX512_MATMUL_AVX512_H

#include "cpu/avx512/vec512.h"

#include "cpu/matmul.h"

void quantize_act_avx512(act_block *blocks, const float *x, size_t n);

void matmul_int8_vnni_init(matmul_kernels *m);
void matmul_f32_init_avx512(matmul_kernels *m);
void matmul_rows_init_avx512(matmul_kernels *m);

/* Scales of 16 rows: block B of a superblock whose line of scales is LINE. */
static inline __m512 matmul_avx512_e5m3(const uint8_t *line, size_t b) {
    __m128i bytes = _mm_loadu_si128((const __m128i *)(line + b * PACK_LANES));
    __m512 scaled = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu8_epi32(bytes), 20));
    return _mm512_mul_ps(scaled, _mm512_set1_ps(0x1p104f));
}

static inline __m512 matmul_avx512_f16(const uint8_t *line, size_t b) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(line + b / 2 * PACK_LANES * 2)));
}

static inline __m512 matmul_avx512_scales(pack_kind kind, const uint8_t *line, size_t b) {
    return kind == PACK_NVFP4 ? matmul_avx512_e5m3(line, b) : matmul_avx512_f16(line, b);
}

#endif
