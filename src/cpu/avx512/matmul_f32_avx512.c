/* SPDX-License-Identifier: Apache-2.0
 *
 * AVX-512: packed 4- and 8-bit weights times FP32 activations, see ref/matmul_ref.c for the arithmetic. The
 * word of a row and line holds 8 nibbles; vpermps takes the lowest of each lane as the index into 16 FP32
 * values, so a shift and a permute give 16 rows of one column.
 */
#include "cpu/avx512/matmul_avx512.h"

#define TILE_BLOCK (16 * MATMUL_TILE) /* floats */
#define TOKENS     6

INLINE __m512 grid_of(const pack_part *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p->grid)));
}

/* 8-bit codes: byte J of every lane as FP32. */
INLINE __m512 byte_value(__m512i v, unsigned j) {
    return _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(v, 24 - 8 * j), 24));
}

/* Values of columns 8 LINE .. 8 LINE + 7 of a superblock. */
INLINE void line_values(pack_kind kind, __m512 v[8], const uint8_t *super, size_t line, __m512 grid) {
    if (kind == PACK_BYTE) {
        __m512i even = _mm512_loadu_si512(super + 2 * line * PACK_LINE);
        __m512i odd = _mm512_loadu_si512(super + (2 * line + 1) * PACK_LINE);
        for (unsigned j = 0; j < 4; j++) {
            v[2 * j] = byte_value(even, j);
            v[2 * j + 1] = byte_value(odd, j);
        }
        return;
    }
    __m512i words = _mm512_loadu_si512(super + line * PACK_LINE);
    for (unsigned j = 0; j < 8; j++)
        v[j] = _mm512_permutexvar_ps(_mm512_srli_epi32(words, 4 * j), grid);
}

INLINE const uint8_t *scale_line(pack_kind kind, const uint8_t *super) {
    return super + (kind == PACK_BYTE ? 16 : 8) * PACK_LINE;
}

INLINE void tile(pack_kind kind, float *values, float *scales, const matmul_cut *cut) {
    const __m512 grid = grid_of(cut->part);
    for (size_t g = 0; g < cut->n_groups; g++)
        for (size_t b = 0; b < cut->n_blocks; b++) {
            const uint8_t *super = pack_super(cut->part, cut->group + g, (cut->block + b) / 4);
            float *dst = values + b * TILE_BLOCK + g * PACK_LANES;
            for (size_t line = 0; line < 2; line++) {
                __m512 v[8];
                line_values(kind, v, super, b % 4 * 2 + line, grid);
                for (size_t i = 0; i < 8; i++)
                    _mm512_storeu_ps(dst + (8 * line + i) * MATMUL_TILE, v[i]);
            }
            _mm512_storeu_ps(scales + b * MATMUL_TILE + g * PACK_LANES,
                             matmul_avx512_scales(kind, scale_line(kind, super), b % 4));
        }
}

/* G groups of 16 rows, N (1..TOKENS) rows of activations. */
INLINE void mul_some(float *acc, const float *values, const float *scales, size_t n_blocks, const float *x,
                     size_t stride, size_t groups, size_t n) {
    __m512 sums[2 * TOKENS], block[2 * TOKENS], v[2];
    for (size_t i = 0; i < n * groups; i++)
        sums[i] = _mm512_loadu_ps(acc + i / groups * MATMUL_TILE + i % groups * PACK_LANES);
    for (size_t b = 0; b < n_blocks; b++, values += TILE_BLOCK, x += 16) {
        for (size_t g = 0; g < groups; g++)
            v[g] = _mm512_loadu_ps(values + g * PACK_LANES);
        for (size_t i = 0; i < n * groups; i++)
            block[i] = _mm512_mul_ps(v[i % groups], _mm512_set1_ps(x[i / groups * stride]));
        for (size_t c = 1; c < 16; c++) {
            for (size_t g = 0; g < groups; g++)
                v[g] = _mm512_loadu_ps(values + c * MATMUL_TILE + g * PACK_LANES);
            for (size_t i = 0; i < n * groups; i++)
                block[i] =
                    _mm512_fmadd_ps(v[i % groups], _mm512_set1_ps(x[i / groups * stride + c]), block[i]);
        }
        for (size_t i = 0; i < n * groups; i++)
            sums[i] = _mm512_fmadd_ps(
                block[i], _mm512_loadu_ps(scales + b * MATMUL_TILE + i % groups * PACK_LANES), sums[i]);
    }
    for (size_t i = 0; i < n * groups; i++)
        _mm512_storeu_ps(acc + i / groups * MATMUL_TILE + i % groups * PACK_LANES, sums[i]);
}

INLINE void mul_groups(float *acc, const float *values, const float *scales, size_t n_blocks, const float *x,
                       size_t stride, size_t n_tokens, size_t groups) {
    size_t t = 0;
    for (; t + TOKENS <= n_tokens; t += TOKENS)
        mul_some(acc + t * MATMUL_TILE, values, scales, n_blocks, x + t * stride, stride, groups, TOKENS);
    for (; t + 2 <= n_tokens; t += 2)
        mul_some(acc + t * MATMUL_TILE, values, scales, n_blocks, x + t * stride, stride, groups, 2);
    if (t < n_tokens)
        mul_some(acc + t * MATMUL_TILE, values, scales, n_blocks, x + t * stride, stride, groups, 1);
}

static void mul(float *acc, const float *values, const float *scales, size_t n_groups, size_t n_blocks,
                const float *x, size_t stride, size_t n_tokens) {
    if (n_groups == 2)
        mul_groups(acc, values, scales, n_blocks, x, stride, n_tokens, 2);
    else
        mul_groups(acc, values, scales, n_blocks, x, stride, n_tokens, 1);
}

/* One row of activations. The 16 multiply-adds of a block depend on each other; blocks do not. */
INLINE void gemv(pack_kind kind, float *acc, const pack_part *p, size_t group, size_t n_groups,
                 const float *x) {
    const __m512 grid = grid_of(p);
    const size_t lines = kind == PACK_BYTE ? 17 : 9;
    const uint8_t *super = pack_super(p, group, 0), *stop = pack_super(p, group + n_groups, 0);
    for (size_t g = 0; g < n_groups; g++) {
        __m512 sum = _mm512_setzero_ps();
        for (size_t s = 0; s < p->n_super; s++, super += lines * PACK_LINE) {
            const uint8_t *ahead = matmul_ahead(super, stop);
            MATMUL_ASK(ahead + (lines - 1) * PACK_LINE);
            for (size_t b = 0; b < 4; b++) {
                const float *xb = x + (4 * s + b) * 16;
                __m512 v[16];
                for (size_t i = b * (lines / 4); i < (b + 1) * (lines / 4); i++)
                    MATMUL_ASK(ahead + i * PACK_LINE);
                line_values(kind, v, super, 2 * b, grid);
                line_values(kind, v + 8, super, 2 * b + 1, grid);
                __m512 block = _mm512_mul_ps(v[0], _mm512_set1_ps(xb[0]));
                for (size_t c = 1; c < 16; c++)
                    block = _mm512_fmadd_ps(v[c], _mm512_set1_ps(xb[c]), block);
                sum = _mm512_fmadd_ps(block, matmul_avx512_scales(kind, scale_line(kind, super), b), sum);
            }
        }
        _mm512_storeu_ps(acc + g * PACK_LANES, sum);
    }
}

#define KIND(name, kind)                                                                                     \
    static void tile_##name(float *values, float *scales, const matmul_cut *cut) {                           \
        tile(kind, values, scales, cut);                                                                     \
    }                                                                                                        \
    static void gemv_##name(float *acc, const pack_part *p, size_t group, size_t n_groups, const float *x) { \
        gemv(kind, acc, p, group, n_groups, x);                                                              \
    }

KIND(nvfp4, PACK_NVFP4)
KIND(nibble, PACK_NIBBLE)
KIND(byte, PACK_BYTE)

void matmul_f32_avx512_init(matmul_kernels *m) {
    m->tile32[PACK_NVFP4] = tile_nvfp4;
    m->tile32[PACK_NIBBLE] = tile_nibble;
    m->tile32[PACK_BYTE] = tile_byte;
    m->mul32 = mul;
    m->gemv32[PACK_NVFP4] = gemv_nvfp4;
    m->gemv32[PACK_NIBBLE] = gemv_nibble;
    m->gemv32[PACK_BYTE] = gemv_byte;
}
