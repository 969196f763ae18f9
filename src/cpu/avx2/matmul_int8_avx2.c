/* SPDX-License-Identifier: Apache-2.0
 *
 * AVX2: packed 4- and 8-bit weights times 8-bit activations, see ref/matmul_ref.c for the arithmetic.
 *
 * 4-bit grids (+-12) are looked up with 12 added, so that pmaddubsw takes them as unsigned: a block's four
 * products of 4 columns add up to at most 4 * 2 * 24 * 127 < 2^15, and one pmaddwd ends the block. The sum
 * begins at starts[..., 0]: its bits are 1.5 * 2^23 + dot as FP32, so one multiply-subtract with
 * 1.5 * 2^23 * scale (exact) gives dot * scale with the one rounding that converting and multiplying would.
 * Wide weights use |w| and the activations with w's sign, a pmaddwd per 4 columns.
 */
#include "cpu/avx2/matmul_avx2.h"

#define MAGIC       12582912.0f /* 1.5 * 2^23 */
#define TILE_STEP   (2 * PACK_LINE)
#define TILE_BLOCK  (4 * TILE_STEP)
#define TILE_SCALES 64 /* floats per block */

INLINE __m256i load256(const void *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}

INLINE __m256i broadcast4(const int8_t *p) {
    int32_t v;
    __builtin_memcpy(&v, p, sizeof v);
    return _mm256_set1_epi32(v);
}

INLINE __m256i grid_of(const pack_part *p, int offset) {
    __m128i grid = _mm_loadu_si128((const __m128i *)p->grid);
    return _mm256_broadcastsi128_si256(_mm_add_epi8(grid, _mm_set1_epi8((char)offset)));
}

INLINE void put_scales(float *dst, __m256 scale, size_t half) {
    _mm256_storeu_ps(dst + 8 * half, scale);
    _mm256_storeu_ps(dst + 16 + 8 * half, _mm256_mul_ps(scale, _mm256_set1_ps(MAGIC)));
}

void matmul_int8_avx2_tile_nibble(uint8_t *codes, float *scales, const matmul_cut *cut) {
    const pack_part *p = cut->part;
    const __m256i grid = grid_of(p, p->wide ? 0 : 12), low = _mm256_set1_epi8(15);
    for (size_t g = 0; g < cut->n_groups; g++)
        for (size_t b = 0; b < cut->n_blocks; b++) {
            const uint8_t *super = pack_super(p, cut->group + g, (cut->block + b) / 4);
            const uint8_t *lines = super + b % 4 * 2 * PACK_LINE, *scale_line = super + 8 * PACK_LINE;
            uint8_t *dst = codes + b * TILE_BLOCK + g * PACK_LINE;
            for (size_t i = 0; i < 4; i++) { /* 2 lines of 2 halves */
                __m256i v = load256(lines + i * 32);
                __m256i even = _mm256_and_si256(v, low);
                __m256i odd = _mm256_and_si256(_mm256_srli_epi16(v, 4), low);
                uint8_t *to = dst + i / 2 * 2 * TILE_STEP + i % 2 * 32;
                _mm256_storeu_si256((__m256i *)to, _mm256_shuffle_epi8(grid, even));
                _mm256_storeu_si256((__m256i *)(to + TILE_STEP), _mm256_shuffle_epi8(grid, odd));
            }
            for (size_t half = 0; half < 2; half++)
                put_scales(scales + b * TILE_SCALES + g * 32,
                           matmul_avx2_scales(p->kind, scale_line, b % 4, half), half);
        }
}

void matmul_int8_avx2_tile_byte(uint8_t *codes, float *scales, const matmul_cut *cut) {
    const pack_part *p = cut->part;
    for (size_t g = 0; g < cut->n_groups; g++)
        for (size_t b = 0; b < cut->n_blocks; b++) {
            const uint8_t *super = pack_super(p, cut->group + g, (cut->block + b) / 4);
            const uint8_t *lines = super + b % 4 * 4 * PACK_LINE, *scale_line = super + 16 * PACK_LINE;
            uint8_t *dst = codes + b * TILE_BLOCK + g * PACK_LINE;
            for (size_t i = 0; i < 8; i++)
                _mm256_storeu_si256((__m256i *)(dst + i / 2 * TILE_STEP + i % 2 * 32),
                                    load256(lines + i * 32));
            for (size_t half = 0; half < 2; half++)
                put_scales(scales + b * TILE_SCALES + g * 32, matmul_avx2_f16(scale_line, b % 4, half), half);
        }
}

/* acc + dot * scale * x_scale of one block; SUM is the int32 sum begun at 0. */
INLINE __m256 add_block(__m256 acc, __m256i sum, int32_t start, __m256 scale, __m256 shift, float x_scale) {
    __m256 biased = _mm256_castsi256_ps(_mm256_add_epi32(sum, _mm256_set1_epi32(start)));
    return _mm256_fmadd_ps(_mm256_fmsub_ps(biased, scale, shift), _mm256_set1_ps(x_scale), acc);
}

INLINE __m256i dot_narrow(const __m256i w[4], const int8_t *x) {
    __m256i a = _mm256_add_epi16(_mm256_maddubs_epi16(w[0], broadcast4(x)),
                                 _mm256_maddubs_epi16(w[1], broadcast4(x + 4)));
    __m256i b = _mm256_add_epi16(_mm256_maddubs_epi16(w[2], broadcast4(x + 8)),
                                 _mm256_maddubs_epi16(w[3], broadcast4(x + 12)));
    return _mm256_madd_epi16(_mm256_add_epi16(a, b), _mm256_set1_epi16(1));
}

/* 8 rows from CODES and SCALES on, N (1..4) rows of activations. */
INLINE void mul_narrow(float *acc, const uint8_t *codes, const float *scales, size_t n_blocks,
                       const act_block *x, size_t stride, size_t n) {
    __m256 sums[4];
    for (size_t t = 0; t < n; t++)
        sums[t] = _mm256_loadu_ps(acc + t * MATMUL_TILE);
    for (size_t b = 0; b < n_blocks; b++, codes += TILE_BLOCK, scales += TILE_SCALES) {
        const __m256i w[4] = {load256(codes), load256(codes + TILE_STEP), load256(codes + 2 * TILE_STEP),
                              load256(codes + 3 * TILE_STEP)};
        __m256 scale = _mm256_loadu_ps(scales), shift = _mm256_loadu_ps(scales + 16);
        for (size_t t = 0; t < n; t++) {
            const act_block *xb = x + t * stride + b;
            sums[t] = add_block(sums[t], dot_narrow(w, xb->codes), xb->starts[0], scale, shift, xb->scale);
        }
    }
    for (size_t t = 0; t < n; t++)
        _mm256_storeu_ps(acc + t * MATMUL_TILE, sums[t]);
}

INLINE __m256i dot_wide(__m256i sum, __m256i w, __m256i size, const int8_t *x) {
    __m256i pairs = _mm256_maddubs_epi16(size, _mm256_sign_epi8(broadcast4(x), w));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

INLINE void mul_wide(float *acc, const uint8_t *codes, const float *scales, size_t n_blocks,
                     const act_block *x, size_t stride, size_t n) {
    __m256 sums[4];
    for (size_t t = 0; t < n; t++)
        sums[t] = _mm256_loadu_ps(acc + t * MATMUL_TILE);
    for (size_t b = 0; b < n_blocks; b++, codes += TILE_BLOCK, scales += TILE_SCALES) {
        __m256i dots[4];
        for (size_t t = 0; t < n; t++)
            dots[t] = _mm256_setzero_si256();
        for (size_t step = 0; step < 4; step++) {
            __m256i w = load256(codes + step * TILE_STEP), size = _mm256_abs_epi8(w);
            for (size_t t = 0; t < n; t++)
                dots[t] = dot_wide(dots[t], w, size, x[t * stride + b].codes + 4 * step);
        }
        __m256 scale = _mm256_loadu_ps(scales), shift = _mm256_loadu_ps(scales + 16);
        for (size_t t = 0; t < n; t++)
            sums[t] = add_block(sums[t], dots[t], ACT_MAGIC, scale, shift, x[t * stride + b].scale);
    }
    for (size_t t = 0; t < n; t++)
        _mm256_storeu_ps(acc + t * MATMUL_TILE, sums[t]);
}

/* Calls KERNEL with a constant number of rows of activations, for every 8 weight rows. */
#define MUL_LOOP(kernel)                                                                                     \
    for (size_t t = 0, n; t < n_tokens; t += n) {                                                            \
        const act_block *xt = x + t * stride;                                                                \
        n = n_tokens - t < 4 ? n_tokens - t : 4;                                                             \
        for (size_t h = 0; h < 2 * n_groups; h++) {                                                          \
            float *to = acc + t * MATMUL_TILE + 8 * h;                                                       \
            const uint8_t *from = codes + 32 * h;                                                            \
            const float *by = scales + h / 2 * 32 + h % 2 * 8;                                               \
            if (n == 4)                                                                                      \
                kernel(to, from, by, n_blocks, xt, stride, 4);                                               \
            else if (n == 3)                                                                                 \
                kernel(to, from, by, n_blocks, xt, stride, 3);                                               \
            else if (n == 2)                                                                                 \
                kernel(to, from, by, n_blocks, xt, stride, 2);                                               \
            else                                                                                             \
                kernel(to, from, by, n_blocks, xt, stride, 1);                                               \
        }                                                                                                    \
    }

void matmul_int8_avx2_mul(float *acc, const uint8_t *codes, const float *scales, size_t n_groups,
                          size_t n_blocks, const act_block *x, size_t stride, size_t n_tokens) {
    MUL_LOOP(mul_narrow)
}

void matmul_int8_avx2_mul_wide(float *acc, const uint8_t *codes, const float *scales, size_t n_groups,
                               size_t n_blocks, const act_block *x, size_t stride, size_t n_tokens) {
    MUL_LOOP(mul_wide)
}

/* ---- one row of activations: a superblock is nine lines, read once, in order ---- */

void matmul_int8_avx2_gemv_nvfp4(float *acc, const pack_part *p, size_t group, size_t n_groups,
                                 const act_block *x) {
    const __m256i grid = grid_of(p, 12), low = _mm256_set1_epi8(15);
    const __m256 magic = _mm256_set1_ps(MAGIC);
    const uint8_t *super = pack_super(p, group, 0), *stop = pack_super(p, group + n_groups, 0);
    for (size_t g = 0; g < n_groups; g++) {
        __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
        for (size_t s = 0; s < p->n_super; s++, super += 9 * PACK_LINE) {
            const uint8_t *ahead = matmul_ahead(super, stop);
            MATMUL_ASK(ahead + 8 * PACK_LINE);
            for (size_t b = 0; b < 4; b++) {
                const act_block *xb = x + 4 * s + b;
                for (size_t half = 0; half < 2; half++) {
                    MATMUL_ASK(ahead + (2 * b + half) * PACK_LINE);
                    __m256i v = load256(super + (4 * b + half) * 32),
                            u = load256(super + (4 * b + 2 + half) * 32);
                    const __m256i w[4] = {
                        _mm256_shuffle_epi8(grid, _mm256_and_si256(v, low)),
                        _mm256_shuffle_epi8(grid, _mm256_and_si256(_mm256_srli_epi16(v, 4), low)),
                        _mm256_shuffle_epi8(grid, _mm256_and_si256(u, low)),
                        _mm256_shuffle_epi8(grid, _mm256_and_si256(_mm256_srli_epi16(u, 4), low))};
                    __m256 scale = matmul_avx2_e5m3(super + 8 * PACK_LINE, b, half);
                    sums[half] = add_block(sums[half], dot_narrow(w, xb->codes), xb->starts[0], scale,
                                           _mm256_mul_ps(scale, magic), xb->scale);
                }
            }
        }
        _mm256_storeu_ps(acc + g * PACK_LANES, sums[0]);
        _mm256_storeu_ps(acc + g * PACK_LANES + 8, sums[1]);
    }
}

void matmul_int8_avx2_gemv_byte(float *acc, const pack_part *p, size_t group, size_t n_groups,
                                const act_block *x) {
    const __m256 magic = _mm256_set1_ps(MAGIC);
    const uint8_t *super = pack_super(p, group, 0), *stop = pack_super(p, group + n_groups, 0);
    for (size_t g = 0; g < n_groups; g++) {
        __m256 sums[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
        for (size_t s = 0; s < p->n_super; s++, super += 17 * PACK_LINE) {
            const uint8_t *ahead = matmul_ahead(super, stop);
            MATMUL_ASK(ahead + 16 * PACK_LINE);
            for (size_t b = 0; b < 4; b++) {
                const act_block *xb = x + 4 * s + b;
                for (size_t half = 0; half < 2; half++) {
                    __m256i dot = _mm256_setzero_si256();
                    MATMUL_ASK(ahead + (4 * b + 2 * half) * PACK_LINE);
                    MATMUL_ASK(ahead + (4 * b + 2 * half + 1) * PACK_LINE);
                    for (size_t step = 0; step < 4; step++) {
                        __m256i w = load256(super + (8 * b + 2 * step + half) * 32);
                        dot = dot_wide(dot, w, _mm256_abs_epi8(w), xb->codes + 4 * step);
                    }
                    __m256 scale = matmul_avx2_f16(super + 16 * PACK_LINE, b, half);
                    sums[half] =
                        add_block(sums[half], dot, ACT_MAGIC, scale, _mm256_mul_ps(scale, magic), xb->scale);
                }
            }
        }
        _mm256_storeu_ps(acc + g * PACK_LANES, sums[0]);
        _mm256_storeu_ps(acc + g * PACK_LANES + 8, sums[1]);
    }
}
