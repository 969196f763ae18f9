/* SPDX-License-Identifier: Apache-2.0
 *
 * The AVX2 matrix kernels, by file; matmul_avx2.c puts them into the table. Eight weight rows are eight
 * lanes.
 *
 * Tiles between tile_* and mul_*:
 *   int8  codes [block][step 0..3][group 0..1][64 bytes: 4 columns of 16 rows], narrow parts as value + 12,
 *         wide ones as signed values; scales [block][group][scale, 1.5 * 2^23 * scale][16]
 *   FP32  values [block][column][group][16], scales [block][group][16]
 */
#ifndef CPU_AVX2_MATMUL_AVX2_H
#define CPU_AVX2_MATMUL_AVX2_H

#include "cpu/avx2/vec256.h"

#include "cpu/matmul.h"

void quantize_act_avx2(act_block *blocks, const float *x, size_t n);

void matmul_int8_avx2_tile_nibble(uint8_t *codes, float *scales, const matmul_cut *cut);
void matmul_int8_avx2_tile_byte(uint8_t *codes, float *scales, const matmul_cut *cut);
void matmul_int8_avx2_mul(float *acc, const uint8_t *codes, const float *scales, size_t n_groups,
                          size_t n_blocks, const act_block *x, size_t stride, size_t n_tokens);
void matmul_int8_avx2_mul_wide(float *acc, const uint8_t *codes, const float *scales, size_t n_groups,
                               size_t n_blocks, const act_block *x, size_t stride, size_t n_tokens);
void matmul_int8_avx2_gemv_nvfp4(float *acc, const pack_part *p, size_t group, size_t n_groups,
                                 const act_block *x);
void matmul_int8_avx2_gemv_byte(float *acc, const pack_part *p, size_t group, size_t n_groups,
                                const act_block *x);

void matmul_f32_init_avx2(matmul_kernels *m);
void matmul_rows_init_avx2(matmul_kernels *m);
void matmul_decode_avx2_init(matmul_kernels *m);

/* Scales of 8 rows: block B of a superblock whose line of scales is LINE, rows 8 HALF.. */
static inline __m256 matmul_avx2_e5m3(const uint8_t *line, size_t b, size_t half) {
    __m128i bytes = _mm_loadl_epi64((const __m128i *)(line + b * PACK_LANES + half * 8));
    __m256 scaled = _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu8_epi32(bytes), 20));
    return _mm256_mul_ps(scaled, _mm256_set1_ps(0x1p104f));
}

static inline __m256 matmul_avx2_f16(const uint8_t *line, size_t b, size_t half) {
    const uint8_t *at = line + (b / 2 * PACK_LANES + half * 8) * 2;
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at));
}

static inline __m256 matmul_avx2_scales(pack_kind kind, const uint8_t *line, size_t b, size_t half) {
    return kind == PACK_NVFP4 ? matmul_avx2_e5m3(line, b, half) : matmul_avx2_f16(line, b, half);
}

#endif
