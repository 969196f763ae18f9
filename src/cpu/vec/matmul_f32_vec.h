/* SPDX-License-Identifier: Apache-2.0
 *
 * Packed 4- and 8-bit weights times FP32 activations, see ref/matmul_ref.c for the arithmetic. Lanes are
 * weight rows; a group of 16 is PARTS vectors of the rung that includes this. Tile: values [block][column]
 * [MATMUL_TILE], scales [block][MATMUL_TILE].
 *
 * From the rung: grid_of(part); line_of(kind, super, line, part of the group, grid), which loads columns 8
 * LINE .. 8 LINE + 7 of V_LANES rows of a superblock (two chunks in all kinds that come here), and
 * column(kind, line, c, grid), one of them; MUL_PARTS, vectors that a product takes at once, times TOKENS.
 */
#include "cpu/matmul.h"
#include "cpu/vec/scales_vec.h"

enum { PARTS = PACK_LANES / V_LANES, TILE_BLOCK = 16 * MATMUL_TILE /* floats */ };

INLINE const uint8_t *scale_line(pack_kind kind, const uint8_t *super) {
    return super + (pack_super_lines(kind) - 1) * PACK_LINE;
}

INLINE void tile(pack_kind kind, float *values, float *scales, const matmul_cut *cut) {
    const grid_type grid = grid_of(cut->part);
    for (size_t g = 0; g < cut->n_groups; g++)
        for (size_t b = 0; b < cut->n_blocks; b++) {
            const uint8_t *super = pack_super(cut->part, cut->group + g, (cut->block + b) / 4);
            for (size_t part = 0; part < PARTS; part++) {
                size_t row = g * PACK_LANES + part * V_LANES;
                for (size_t line = 0; line < 2; line++) {
                    line_type codes = line_of(kind, super, b % 4 * 2 + line, part, grid);
                    for (size_t c = 0; c < 8; c++)
                        vf_store(values + b * TILE_BLOCK + (8 * line + c) * MATMUL_TILE + row,
                                 column(kind, codes, c, grid));
                }
                vf_store(scales + b * MATMUL_TILE + row,
                         scale_of(kind, scale_line(kind, super), b % 4, part));
            }
        }
}

/* P vectors of rows, N (1..TOKENS) rows of activations. */
INLINE void mul_some(float *acc, const float *values, const float *scales, size_t n_blocks, const float *x,
                     size_t stride, size_t parts, size_t n) {
    vfloat sums[MUL_PARTS * TOKENS], block[MUL_PARTS * TOKENS], v[MUL_PARTS];
    for (size_t i = 0; i < n * parts; i++)
        sums[i] = vf_load(acc + i / parts * MATMUL_TILE + i % parts * V_LANES);
    for (size_t b = 0; b < n_blocks; b++, values += TILE_BLOCK, x += 16) {
        for (size_t p = 0; p < parts; p++)
            v[p] = vf_load(values + p * V_LANES);
        for (size_t i = 0; i < n * parts; i++)
            block[i] = vf_mul(v[i % parts], vf_set(x[i / parts * stride]));
        for (size_t c = 1; c < 16; c++) {
            for (size_t p = 0; p < parts; p++)
                v[p] = vf_load(values + c * MATMUL_TILE + p * V_LANES);
            for (size_t i = 0; i < n * parts; i++)
                block[i] = vf_fma(v[i % parts], vf_set(x[i / parts * stride + c]), block[i]);
        }
        for (size_t i = 0; i < n * parts; i++)
            sums[i] = vf_fma(block[i], vf_load(scales + b * MATMUL_TILE + i % parts * V_LANES), sums[i]);
    }
    for (size_t i = 0; i < n * parts; i++)
        vf_store(acc + i / parts * MATMUL_TILE + i % parts * V_LANES, sums[i]);
}

/* N rows of activations, P vectors at a time out of those of N_GROUPS groups. */
INLINE void mul_tokens(float *acc, const float *values, const float *scales, size_t n_groups, size_t n_blocks,
                       const float *x, size_t stride, size_t n) {
    size_t row = 0, rows = n_groups * PACK_LANES;
    for (; row + MUL_PARTS * V_LANES <= rows; row += MUL_PARTS * V_LANES)
        mul_some(acc + row, values + row, scales + row, n_blocks, x, stride, MUL_PARTS, n);
    for (; row < rows; row += V_LANES)
        mul_some(acc + row, values + row, scales + row, n_blocks, x, stride, 1, n);
}

static void mul(float *acc, const float *values, const float *scales, size_t n_groups, size_t n_blocks,
                const float *x, size_t stride, size_t n_tokens) {
    size_t t = 0;
    for (; t + TOKENS <= n_tokens; t += TOKENS)
        mul_tokens(acc + t * MATMUL_TILE, values, scales, n_groups, n_blocks, x + t * stride, stride, TOKENS);
    for (; t + 2 <= n_tokens; t += 2)
        mul_tokens(acc + t * MATMUL_TILE, values, scales, n_groups, n_blocks, x + t * stride, stride, 2);
    if (t < n_tokens)
        mul_tokens(acc + t * MATMUL_TILE, values, scales, n_groups, n_blocks, x + t * stride, stride, 1);
}

/* One row of activations. The 16 multiply-adds of a block depend on each other; blocks do not. */
INLINE void gemv(pack_kind kind, float *acc, const pack_part *p, size_t group, size_t n_groups,
                 const float *x) {
    const grid_type grid = grid_of(p);
    const size_t lines = pack_super_lines(kind);
    const uint8_t *super = pack_super(p, group, 0), *stop = pack_super(p, group + n_groups, 0);
    for (size_t g = 0; g < n_groups; g++) {
        vfloat sums[PARTS];
        for (size_t part = 0; part < PARTS; part++)
            sums[part] = vf_zero();
        for (size_t s = 0; s < p->n_super; s++, super += lines * PACK_LINE) {
            const uint8_t *ahead = matmul_ahead(super, stop);
            MATMUL_ASK(ahead + (lines - 1) * PACK_LINE);
            for (size_t b = 0; b < 4; b++) {
                for (size_t i = b * (lines / 4); i < (b + 1) * (lines / 4); i++)
                    MATMUL_ASK(ahead + i * PACK_LINE);
                for (size_t part = 0; part < PARTS; part++) {
                    const float *xb = x + (4 * s + b) * 16;
                    vfloat block = vf_zero();
                    for (size_t line = 0; line < 2; line++) {
                        line_type codes = line_of(kind, super, 2 * b + line, part, grid);
                        for (size_t c = 0; c < 8; c += 2, xb += 2) {
                            vfloat v = column(kind, codes, c, grid);
                            block =
                                line + c == 0 ? vf_mul(v, vf_set(xb[0])) : vf_fma(v, vf_set(xb[0]), block);
                            block = vf_fma(column(kind, codes, c + 1, grid), vf_set(xb[1]), block);
                        }
                    }
                    sums[part] = vf_fma(block, scale_of(kind, scale_line(kind, super), b, part), sums[part]);
                }
            }
        }
        for (size_t part = 0; part < PARTS; part++)
            vf_store(acc + g * PACK_LANES + part * V_LANES, sums[part]);
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
KIND(q4_0, PACK_Q4_0)
KIND(iq4_nl, PACK_IQ4_NL)
KIND(q8_0, PACK_Q8_0)

void V_RUNG(matmul_f32_init)(matmul_kernels *m) {
    m->mul32 = mul;
    m->tile32[PACK_NVFP4] = tile_nvfp4;
    m->gemv32[PACK_NVFP4] = gemv_nvfp4;
    m->tile32[PACK_Q4_0] = tile_q4_0;
    m->gemv32[PACK_Q4_0] = gemv_q4_0;
    m->tile32[PACK_IQ4_NL] = tile_iq4_nl;
    m->gemv32[PACK_IQ4_NL] = gemv_iq4_nl;
    m->tile32[PACK_Q8_0] = tile_q8_0;
    m->gemv32[PACK_Q8_0] = gemv_q8_0;
}
