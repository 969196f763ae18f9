/* SPDX-License-Identifier: Apache-2.0
 *
 * AVX2: packed 4- and 8-bit weights times FP32 activations, see ref/matmul_ref.c for the arithmetic. Codes
 * become signed bytes by one lookup; a byte becomes FP32 by moving it to the top of its 32-bit lane and back.
 */
#include "cpu/avx2/matmul_avx2.h"

#define TILE_BLOCK (16 * MATMUL_TILE) /* floats */

INLINE __m256i load256(const void *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}

/* Byte J (a constant) of every lane as FP32. */
INLINE __m256 byte_value(__m256i v, int j) {
    __m256i top = j == 3 ? v : _mm256_slli_epi32(v, 24 - 8 * j);
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(top, 24));
}

/* Signed values of columns 0, 2, 4, 6 and 1, 3, 5, 7 of line LINE (8 columns of 8 rows). */
INLINE void line_values(pack_kind kind, __m256i *even, __m256i *odd, const uint8_t *super, size_t line,
                        size_t half, __m256i grid) {
    if (kind == PACK_BYTE) {
        *even = load256(super + 2 * line * PACK_LINE + half * 32);
        *odd = load256(super + (2 * line + 1) * PACK_LINE + half * 32);
        return;
    }
    const __m256i low = _mm256_set1_epi8(15);
    __m256i v = load256(super + line * PACK_LINE + half * 32);
    *even = _mm256_shuffle_epi8(grid, _mm256_and_si256(v, low));
    *odd = _mm256_shuffle_epi8(grid, _mm256_and_si256(_mm256_srli_epi16(v, 4), low));
}

INLINE __m256i grid_of(const pack_part *p) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p->grid));
}

INLINE const uint8_t *scale_line(pack_kind kind, const uint8_t *super) {
    return super + (kind == PACK_BYTE ? 16 : 8) * PACK_LINE;
}

INLINE void tile(pack_kind kind, float *values, float *scales, const matmul_cut *cut) {
    const __m256i grid = grid_of(cut->part);
    for (size_t g = 0; g < cut->n_groups; g++)
        for (size_t b = 0; b < cut->n_blocks; b++) {
            const uint8_t *super = pack_super(cut->part, cut->group + g, (cut->block + b) / 4);
            for (size_t half = 0; half < 2; half++) {
                float *dst = values + b * TILE_BLOCK + g * PACK_LANES + half * 8;
                for (size_t line = 0; line < 2; line++) {
                    __m256i even, odd;
                    line_values(kind, &even, &odd, super, b % 4 * 2 + line, half, grid);
                    for (int j = 0; j < 4; j++, dst += 2 * MATMUL_TILE) {
                        _mm256_storeu_ps(dst, byte_value(even, j));
                        _mm256_storeu_ps(dst + MATMUL_TILE, byte_value(odd, j));
                    }
                }
                _mm256_storeu_ps(scales + b * MATMUL_TILE + g * PACK_LANES + half * 8,
                                 matmul_avx2_scales(cut->part->kind, scale_line(kind, super), b % 4, half));
            }
        }
}

void matmul_f32_avx2_tile_nibble(float *values, float *scales, const matmul_cut *cut) {
    tile(PACK_NIBBLE, values, scales, cut);
}

void matmul_f32_avx2_tile_byte(float *values, float *scales, const matmul_cut *cut) {
    tile(PACK_BYTE, values, scales, cut);
}

/* 8 rows, N (1..6) rows of activations. */
INLINE void mul(float *acc, const float *values, const float *scales, size_t n_blocks, const float *x,
                size_t stride, size_t n) {
    __m256 sums[6];
    for (size_t t = 0; t < n; t++)
        sums[t] = _mm256_loadu_ps(acc + t * MATMUL_TILE);
    for (size_t b = 0; b < n_blocks; b++, values += TILE_BLOCK, x += 16) {
        __m256 block[6], v = _mm256_loadu_ps(values);
        for (size_t t = 0; t < n; t++)
            block[t] = _mm256_mul_ps(v, _mm256_set1_ps(x[t * stride]));
        for (size_t i = 1; i < 16; i++) {
            v = _mm256_loadu_ps(values + i * MATMUL_TILE);
            for (size_t t = 0; t < n; t++)
                block[t] = _mm256_fmadd_ps(v, _mm256_set1_ps(x[t * stride + i]), block[t]);
        }
        v = _mm256_loadu_ps(scales + b * MATMUL_TILE);
        for (size_t t = 0; t < n; t++)
            sums[t] = _mm256_fmadd_ps(block[t], v, sums[t]);
    }
    for (size_t t = 0; t < n; t++)
        _mm256_storeu_ps(acc + t * MATMUL_TILE, sums[t]);
}

void matmul_f32_avx2_mul(float *acc, const float *values, const float *scales, size_t n_groups,
                         size_t n_blocks, const float *x, size_t stride, size_t n_tokens) {
    size_t t = 0;
    for (; t + 6 <= n_tokens; t += 6)
        for (size_t h = 0; h < 2 * n_groups; h++)
            mul(acc + t * MATMUL_TILE + 8 * h, values + 8 * h, scales + 8 * h, n_blocks, x + t * stride,
                stride, 6);
    for (; t < n_tokens; t++)
        for (size_t h = 0; h < 2 * n_groups; h++)
            mul(acc + t * MATMUL_TILE + 8 * h, values + 8 * h, scales + 8 * h, n_blocks, x + t * stride,
                stride, 1);
}

/* ---- one row of activations ---- */

/* sum of a block's values times x, 8 rows */
INLINE __m256 block_sum(pack_kind kind, const uint8_t *super, size_t b, size_t half, __m256i grid,
                        const float *x) {
    __m256 sum = _mm256_setzero_ps();
    for (size_t line = 0; line < 2; line++) {
        __m256i even, odd;
        line_values(kind, &even, &odd, super, 2 * b + line, half, grid);
        for (int j = 0; j < 4; j++, x += 2) {
            __m256 v = byte_value(even, j);
            sum = line == 0 && j == 0 ? _mm256_mul_ps(v, _mm256_set1_ps(x[0]))
                                      : _mm256_fmadd_ps(v, _mm256_set1_ps(x[0]), sum);
            sum = _mm256_fmadd_ps(byte_value(odd, j), _mm256_set1_ps(x[1]), sum);
        }
    }
    return sum;
}

INLINE void gemv(pack_kind kind, size_t lines, float *acc, const pack_part *p, size_t group, size_t n_groups,
                 const float *x) {
    const __m256i grid = grid_of(p);
    const uint8_t *super = pack_super(p, group, 0), *stop = pack_super(p, group + n_groups, 0);
    for (size_t g = 0; g < n_groups; g++) {
        __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
        for (size_t s = 0; s < p->n_super; s++, super += lines * PACK_LINE) {
            const uint8_t *ahead = matmul_ahead(super, stop);
            MATMUL_ASK(ahead + (lines - 1) * PACK_LINE);
            for (size_t b = 0; b < 4; b++) {
                for (size_t i = b * (lines / 4); i < (b + 1) * (lines / 4); i++)
                    MATMUL_ASK(ahead + i * PACK_LINE);
                for (size_t half = 0; half < 2; half++)
                    sums[half] = _mm256_fmadd_ps(block_sum(kind, super, b, half, grid, x + (4 * s + b) * 16),
                                                 matmul_avx2_scales(kind, scale_line(kind, super), b, half),
                                                 sums[half]);
            }
        }
        _mm256_storeu_ps(acc + g * PACK_LANES, sums[0]);
        _mm256_storeu_ps(acc + g * PACK_LANES + 8, sums[1]);
    }
}

void matmul_f32_avx2_gemv_nvfp4(float *acc, const pack_part *p, size_t group, size_t n_groups,
                                const float *x) {
    gemv(PACK_NVFP4, 9, acc, p, group, n_groups, x);
}

void matmul_f32_avx2_gemv_nibble(float *acc, const pack_part *p, size_t group, size_t n_groups,
                                 const float *x) {
    gemv(PACK_NIBBLE, 9, acc, p, group, n_groups, x);
}

void matmul_f32_avx2_gemv_byte(float *acc, const pack_part *p, size_t group, size_t n_groups,
                               const float *x) {
    gemv(PACK_BYTE, 17, acc, p, group, n_groups, x);
}
