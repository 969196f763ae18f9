/* SPDX-License-Identifier: Apache-2.0
 *
 * AVX-512 VNNI: packed 4- and 8-bit weights times 8-bit activations, see ref/matmul_ref.c for the arithmetic.
 *
 * vpdpbusd multiplies 4 columns of 16 rows, weights unsigned: 4-bit grids are looked up with 12 (wide: 128)
 * added, 8-bit codes get their top bit turned over. The int32 sum of a block begins at starts[...], which
 * takes the offset back and carries the bits of 1.5 * 2^23: read as FP32 it is 1.5 * 2^23 + dot exactly, and
 * one multiply-subtract with 1.5 * 2^23 * scale (exact) gives dot * scale rounded once. A block of 16 rows,
 * 16 columns and one row of activations is then 4 vpdpbusd and 2 FMA.
 */
#include "cpu/avx512/matmul_avx512.h"

#define MAGIC       12582912.0f /* 1.5 * 2^23 */
#define TILE_STEP   (2 * PACK_LINE)
#define TILE_BLOCK  (4 * TILE_STEP)
#define TILE_SCALES 64 /* floats per block */
#define TOKENS      6  /* rows of activations that share the registers of a tile's block */

INLINE __m512i broadcast4(const int8_t *p) {
    int32_t v;
    __builtin_memcpy(&v, p, sizeof v);
    return _mm512_set1_epi32(v);
}

INLINE __m512i grid_of(const pack_part *p) {
    __m128i grid = _mm_loadu_si128((const __m128i *)p->grid);
    return _mm512_broadcast_i32x4(_mm_add_epi8(grid, _mm_set1_epi8((char)(p->wide ? 128 : 12))));
}

/* Unsigned values of a block: columns {0, 2, 4, 6}, {1, 3, 5, 7}, and 8 more. LINES points to the block's. */
INLINE void block_values(pack_kind kind, __m512i w[4], const uint8_t *lines, __m512i grid) {
    if (kind == PACK_BYTE) {
        for (size_t i = 0; i < 4; i++)
            w[i] = _mm512_xor_si512(_mm512_loadu_si512(lines + i * PACK_LINE), _mm512_set1_epi8((char)0x80));
        return;
    }
    const __m512i low = _mm512_set1_epi8(15);
    for (size_t i = 0; i < 2; i++) {
        __m512i v = _mm512_loadu_si512(lines + i * PACK_LINE);
        w[2 * i] = _mm512_shuffle_epi8(grid, _mm512_and_si512(v, low));
        w[2 * i + 1] = _mm512_shuffle_epi8(grid, _mm512_and_si512(_mm512_srli_epi16(v, 4), low));
    }
}

INLINE size_t block_lines(pack_kind kind) {
    return kind == PACK_BYTE ? 4 : 2;
}

INLINE void tile(pack_kind kind, uint8_t *codes, float *scales, const matmul_cut *cut) {
    const __m512i grid = grid_of(cut->part);
    const size_t lines = block_lines(kind);
    for (size_t g = 0; g < cut->n_groups; g++)
        for (size_t b = 0; b < cut->n_blocks; b++) {
            const uint8_t *super = pack_super(cut->part, cut->group + g, (cut->block + b) / 4);
            __m512i w[4];
            block_values(kind, w, super + b % 4 * lines * PACK_LINE, grid);
            for (size_t i = 0; i < 4; i++)
                _mm512_storeu_si512(codes + b * TILE_BLOCK + i * TILE_STEP + g * PACK_LINE, w[i]);
            __m512 scale = matmul_avx512_scales(kind, super + 4 * lines * PACK_LINE, b % 4);
            float *to = scales + b * TILE_SCALES + g * 32;
            _mm512_storeu_ps(to, scale);
            _mm512_storeu_ps(to + 16, _mm512_mul_ps(scale, _mm512_set1_ps(MAGIC)));
        }
}

static void tile_nvfp4(uint8_t *codes, float *scales, const matmul_cut *cut) {
    tile(PACK_NVFP4, codes, scales, cut);
}

static void tile_nibble(uint8_t *codes, float *scales, const matmul_cut *cut) {
    tile(PACK_NIBBLE, codes, scales, cut);
}

static void tile_byte(uint8_t *codes, float *scales, const matmul_cut *cut) {
    tile(PACK_BYTE, codes, scales, cut);
}

/* acc + dot * scale * x_scale; SUM began at the block's start. */
INLINE __m512 add_block(__m512 acc, __m512i sum, __m512 scale, __m512 shift, float x_scale) {
    __m512 scaled = _mm512_fmsub_ps(_mm512_castsi512_ps(sum), scale, shift);
    return _mm512_fmadd_ps(scaled, _mm512_set1_ps(x_scale), acc);
}

/* G (1 or 2) groups of 16 rows, N (1..TOKENS) rows of activations whose sums begin at starts[..., WIDE]. */
INLINE void mul_some(float *acc, const uint8_t *codes, const float *scales, size_t n_blocks,
                     const act_block *x, size_t stride, size_t groups, size_t n, size_t wide) {
    __m512 sums[2 * TOKENS];
    for (size_t t = 0; t < n; t++)
        for (size_t g = 0; g < groups; g++)
            sums[t * groups + g] = _mm512_loadu_ps(acc + t * MATMUL_TILE + g * PACK_LANES);
    for (size_t b = 0; b < n_blocks; b++, codes += TILE_BLOCK, scales += TILE_SCALES) {
        __m512i w[8];
        __m512 scale[2], shift[2];
        for (size_t g = 0; g < groups; g++) {
            for (size_t i = 0; i < 4; i++)
                w[4 * g + i] = _mm512_loadu_si512(codes + i * TILE_STEP + g * PACK_LINE);
            scale[g] = _mm512_loadu_ps(scales + g * 32);
            shift[g] = _mm512_loadu_ps(scales + g * 32 + 16);
        }
        for (size_t t = 0; t < n; t++) {
            const act_block *xb = x + t * stride + b;
            __m512i dot[2];
            for (size_t g = 0; g < groups; g++)
                dot[g] = _mm512_set1_epi32(xb->starts[wide]);
            for (size_t i = 0; i < 4; i++) {
                __m512i xi = broadcast4(xb->codes + 4 * i);
                for (size_t g = 0; g < groups; g++)
                    dot[g] = _mm512_dpbusd_epi32(dot[g], w[4 * g + i], xi);
            }
            for (size_t g = 0; g < groups; g++)
                sums[t * groups + g] = add_block(sums[t * groups + g], dot[g], scale[g], shift[g], xb->scale);
        }
    }
    for (size_t t = 0; t < n; t++)
        for (size_t g = 0; g < groups; g++)
            _mm512_storeu_ps(acc + t * MATMUL_TILE + g * PACK_LANES, sums[t * groups + g]);
}

INLINE void mul(float *acc, const uint8_t *codes, const float *scales, size_t groups, size_t n_blocks,
                const act_block *x, size_t stride, size_t n_tokens, size_t wide) {
    for (size_t t = 0, n; t < n_tokens; t += n) {
        const act_block *xt = x + t * stride;
        float *to = acc + t * MATMUL_TILE;
        n = n_tokens - t;
        if (n >= TOKENS)
            mul_some(to, codes, scales, n_blocks, xt, stride, groups, n = TOKENS, wide);
        else if (n >= 4)
            mul_some(to, codes, scales, n_blocks, xt, stride, groups, n = 4, wide);
        else if (n >= 2)
            mul_some(to, codes, scales, n_blocks, xt, stride, groups, n = 2, wide);
        else
            mul_some(to, codes, scales, n_blocks, xt, stride, groups, 1, wide);
    }
}

static void mul_narrow(float *acc, const uint8_t *codes, const float *scales, size_t n_groups,
                       size_t n_blocks, const act_block *x, size_t stride, size_t n_tokens) {
    if (n_groups == 2)
        mul(acc, codes, scales, 2, n_blocks, x, stride, n_tokens, 0);
    else
        mul(acc, codes, scales, 1, n_blocks, x, stride, n_tokens, 0);
}

static void mul_wide(float *acc, const uint8_t *codes, const float *scales, size_t n_groups, size_t n_blocks,
                     const act_block *x, size_t stride, size_t n_tokens) {
    if (n_groups == 2)
        mul(acc, codes, scales, 2, n_blocks, x, stride, n_tokens, 1);
    else
        mul(acc, codes, scales, 1, n_blocks, x, stride, n_tokens, 1);
}

/* ---- one row of activations: superblocks are read once, in order ---- */

INLINE void gemv(pack_kind kind, float *acc, const pack_part *p, size_t group, size_t n_groups,
                 const act_block *x, size_t wide) {
    const __m512i grid = grid_of(p);
    const __m512 magic = _mm512_set1_ps(MAGIC);
    const size_t lines = block_lines(kind);
    const uint8_t *super = pack_super(p, group, 0), *stop = pack_super(p, group + n_groups, 0);
    for (size_t g = 0; g < n_groups; g++) {
        __m512 sum = _mm512_setzero_ps();
        for (size_t s = 0; s < p->n_super; s++, super += (4 * lines + 1) * PACK_LINE) {
            const uint8_t *ahead = matmul_ahead(super, stop);
            MATMUL_ASK(ahead + 4 * lines * PACK_LINE);
            for (size_t b = 0; b < 4; b++) {
                const act_block *xb = x + 4 * s + b;
                __m512i w[4], dot = _mm512_set1_epi32(xb->starts[wide]);
                block_values(kind, w, super + b * lines * PACK_LINE, grid);
                for (size_t i = 0; i < lines; i++)
                    MATMUL_ASK(ahead + (b * lines + i) * PACK_LINE);
                for (size_t i = 0; i < 4; i++)
                    dot = _mm512_dpbusd_epi32(dot, w[i], broadcast4(xb->codes + 4 * i));
                __m512 scale = matmul_avx512_scales(kind, super + 4 * lines * PACK_LINE, b);
                sum = add_block(sum, dot, scale, _mm512_mul_ps(scale, magic), xb->scale);
            }
        }
        _mm512_storeu_ps(acc + g * PACK_LANES, sum);
    }
}

static void gemv_nvfp4(float *acc, const pack_part *p, size_t group, size_t n_groups, const act_block *x) {
    gemv(PACK_NVFP4, acc, p, group, n_groups, x, 0);
}

static void gemv_nibble(float *acc, const pack_part *p, size_t group, size_t n_groups, const act_block *x) {
    gemv(PACK_NIBBLE, acc, p, group, n_groups, x, p->wide);
}

static void gemv_byte(float *acc, const pack_part *p, size_t group, size_t n_groups, const act_block *x) {
    gemv(PACK_BYTE, acc, p, group, n_groups, x, 1);
}

void matmul_int8_vnni_init(matmul_kernels *m) {
    m->tile8[PACK_NVFP4] = tile_nvfp4;
    m->tile8[PACK_NIBBLE] = tile_nibble;
    m->tile8[PACK_BYTE] = tile_byte;
    m->mul8[0] = mul_narrow;
    m->mul8[1] = mul_wide;
    m->gemv8[PACK_NVFP4] = gemv_nvfp4;
    m->gemv8[PACK_NIBBLE] = gemv_nibble;
    m->gemv8[PACK_BYTE] = gemv_byte;
}
