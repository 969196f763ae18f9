/* SPDX-License-Identifier: Apache-2.0
 *
 * Packed weights times 8-bit activations, see ref/matmul_ref.c for the arithmetic. Lanes are weight rows; a
 * group of 16 is PARTS vectors of the rung that includes this.
 *
 * A block's int32 sum takes the offset back that made the weights unsigned and carries the bits of 1.5 * 2^23
 * (act.h): read as FP32 it is 1.5 * 2^23 + dot exactly, and one multiply-subtract with 1.5 * 2^23 * scale
 * (exact) gives dot * scale with the one rounding that converting and multiplying would.
 *
 * Tile: codes [block][step 0..3][MATMUL_TILE rows of 4 columns], as the rung's dot products take them;
 * scales [block][scale, 1.5 * 2^23 * scale, least value][MATMUL_TILE].
 *
 * From the rung: WIDE_OFFSET, what is added to the bytes of wide codes; dot_begin(codes, block of x),
 * dot_step(codes, dot, weights, 4 columns of x) and dot_end(codes, dot, block of x), whose result is 1.5 *
 * 2^23 + dot; MUL_PARTS, vectors that a tile's product takes at once, times TOKENS; DIRECT_TOKENS, 4 or 8,
 * rows of activations that a pass over packed memory takes; DIRECT_ROWS, up to how many tiles are no faster.
 */
#include "cpu/matmul.h"
#include "cpu/vec/scales_vec.h"

enum {
    PARTS = PACK_LANES / V_LANES,
    PART_BYTES = 4 * V_LANES,
    TILE_STEP = 4 * MATMUL_TILE,
    TILE_BLOCK = 4 * TILE_STEP,
    TILE_SCALES = 3 * MATMUL_TILE, /* floats */
    NARROW_OFFSET = 16
};

#define MAGIC 12582912.0f /* 1.5 * 2^23 */

INLINE vint grid_of(pack_kind kind, const pack_part *p) {
    bool wide = pack_layouts[kind].codes == PACK_WIDE;
    return vi_grid(p->grid, (int8_t)(wide ? WIDE_OFFSET : NARROW_OFFSET));
}

/* Bits of V that begin at FROM of each byte, moved to TO and masked. */
INLINE vint bits_at(vint v, unsigned from, unsigned to, int mask) {
    return vi_and(from > to ? VI_RIGHT(v, from - to) : VI_LEFT(v, to - from), vi_set_bytes(mask));
}

/* Vector K of a chunk, of which CHUNK points to the bytes of the first row; a constant KIND and K. */
INLINE vint values_of(pack_kind kind, const uint8_t *chunk, unsigned k, vint grid) {
    const unsigned bits = pack_layouts[kind].bits;
    if (bits == 8)
        return vi_add_bytes(vi_load(chunk + k * PACK_LINE), vi_set_bytes(WIDE_OFFSET));
    vint v = bits_at(vi_load(chunk + k / 2 * PACK_LINE), k % 2 * 4, 0, 15);
    if (bits == 5)
        v = vi_or(v, bits_at(vi_load(chunk + 4 * PACK_LINE), k, 4, 0x10));
    if (bits == 6) {
        v = vi_or(v, bits_at(vi_load(chunk + (4 + k / 4) * PACK_LINE), k % 4 * 2, 4, 0x30));
        return vi_add_bytes(v, vi_set_bytes(WIDE_OFFSET - 32));
    }
    bool in_grid = kind == PACK_NVFP4 || kind == PACK_Q4_0 || kind == PACK_IQ4_NL;
    return in_grid ? vi_look_up(grid, v) : v;
}

/* SUM + the block's dot product with BIASED - 1.5 * 2^23 as that of the codes. */
INLINE vfloat add_block(pack_codes codes, vfloat sum, vfloat biased, const vfloat scales[3],
                        const act_block *x) {
    sum = vf_fma(vf_fms(biased, scales[0], scales[1]), vf_set(x->scale), sum);
    return codes == PACK_AFFINE ? vf_fma(scales[2], vf_set(x->sum), sum) : sum;
}

INLINE vfloat dot_of(pack_codes codes, const vint w[4], const act_block *x) {
    vint dot = dot_begin(codes, x);
    for (size_t i = 0; i < 4; i++)
        dot = dot_step(codes, dot, w[i], x->codes + 4 * i);
    return dot_end(codes, dot, x);
}

INLINE void load_scales(pack_kind kind, vfloat scales[3], const uint8_t *lines, size_t b, size_t part) {
    scales[0] = scale_of(kind, lines, b, part);
    scales[1] = vf_mul(scales[0], vf_set(MAGIC));
    scales[2] = least_of(kind, lines, b, part);
}

/* ---- tiles ---- */

INLINE void tile(pack_kind kind, uint8_t *codes, float *scales, const matmul_cut *cut) {
    const pack_layout at = pack_layouts[kind];
    const size_t in_super = 2 * at.chunks;
    const vint grid = grid_of(kind, cut->part);
    for (size_t g = 0; g < cut->n_groups; g++)
        for (size_t b = 0; b < cut->n_blocks; b++) {
            size_t block = cut->block + b, in = block % in_super;
            const uint8_t *super = pack_super(cut->part, cut->group + g, block / in_super);
            const uint8_t *chunk = super + in / 2 * at.bits * PACK_LINE;
            for (size_t part = 0; part < PARTS; part++) {
                size_t row = g * PACK_LANES + part * V_LANES;
                uint8_t *to = codes + b * TILE_BLOCK + 4 * row;
                for (unsigned i = 0; i < 4; i++)
                    vi_store(to + i * TILE_STEP, in % 2
                                                     ? values_of(kind, chunk + part * PART_BYTES, 4 + i, grid)
                                                     : values_of(kind, chunk + part * PART_BYTES, i, grid));
                vfloat s[3];
                load_scales(kind, s, super + at.chunks * at.bits * PACK_LINE, in, part);
                for (size_t i = 0; i < (at.codes == PACK_AFFINE ? 3 : 2); i++)
                    vf_store(scales + b * TILE_SCALES + i * MATMUL_TILE + row, s[i]);
            }
        }
}

/* P vectors of rows, N (1..TOKENS) rows of activations. */
INLINE void mul_some(pack_codes kind, float *acc, const uint8_t *codes, const float *scales, size_t n_blocks,
                     const act_block *x, size_t stride, size_t parts, size_t n) {
    vfloat sums[MUL_PARTS * TOKENS];
    for (size_t i = 0; i < n * parts; i++)
        sums[i] = vf_load(acc + i / parts * MATMUL_TILE + i % parts * V_LANES);
    for (size_t b = 0; b < n_blocks; b++, codes += TILE_BLOCK, scales += TILE_SCALES) {
        vint w[MUL_PARTS][4];
        vfloat s[MUL_PARTS][3];
        for (size_t p = 0; p < parts; p++) {
            for (size_t i = 0; i < 4; i++)
                w[p][i] = vi_load(codes + i * TILE_STEP + p * PART_BYTES);
            for (size_t i = 0; i < (kind == PACK_AFFINE ? 3 : 2); i++)
                s[p][i] = vf_load(scales + i * MATMUL_TILE + p * V_LANES);
        }
        for (size_t t = 0; t < n; t++) {
            const act_block *xb = x + t * stride + b;
            vint dot[MUL_PARTS];
            for (size_t p = 0; p < parts; p++)
                dot[p] = dot_begin(kind, xb);
            for (size_t i = 0; i < 4; i++)
                for (size_t p = 0; p < parts; p++)
                    dot[p] = dot_step(kind, dot[p], w[p][i], xb->codes + 4 * i);
            for (size_t p = 0; p < parts; p++)
                sums[t * parts + p] =
                    add_block(kind, sums[t * parts + p], dot_end(kind, dot[p], xb), s[p], xb);
        }
    }
    for (size_t i = 0; i < n * parts; i++)
        vf_store(acc + i / parts * MATMUL_TILE + i % parts * V_LANES, sums[i]);
}

/* N rows of activations, MUL_PARTS vectors at a time out of those of N_GROUPS groups. */
INLINE void mul_tokens(pack_codes kind, float *acc, const uint8_t *codes, const float *scales,
                       size_t n_groups, size_t n_blocks, const act_block *x, size_t stride, size_t n) {
    size_t row = 0, rows = n_groups * PACK_LANES;
    for (; row + MUL_PARTS * V_LANES <= rows; row += MUL_PARTS * V_LANES)
        mul_some(kind, acc + row, codes + 4 * row, scales + row, n_blocks, x, stride, MUL_PARTS, n);
    for (; row < rows; row += V_LANES)
        mul_some(kind, acc + row, codes + 4 * row, scales + row, n_blocks, x, stride, 1, n);
}

INLINE void mul(pack_codes kind, float *acc, const uint8_t *codes, const float *scales, size_t n_groups,
                size_t n_blocks, const act_block *x, size_t stride, size_t n_tokens) {
    size_t t = 0;
#define MUL(n)                                                                                               \
    for (; t + (n) <= n_tokens; t += (n))                                                                    \
    mul_tokens(kind, acc + t * MATMUL_TILE, codes, scales, n_groups, n_blocks, x + t * stride, stride, n)
    MUL(TOKENS);
    MUL(2);
    MUL(1);
}

/* ---- a few rows of activations: packed memory is read once, in order ---- */

/* One group at SUPER times N rows of activations: row t of acc gets its 16 sums. Meanwhile EACH lines per
 * chunk are asked for, from NEXT on, or none that lie past STOP. */
INLINE void pass(pack_kind kind, float *acc, size_t acc_stride, const uint8_t *super, size_t n_super,
                 vint grid, const act_block *x, size_t stride, size_t n, const uint8_t *next, size_t each,
                 const uint8_t *stop) {
    const pack_layout at = pack_layouts[kind];
    vfloat sums[DIRECT_TOKENS * PARTS];
    for (size_t i = 0; i < n * PARTS; i++)
        sums[i] = vf_zero();
    for (size_t s = 0; s < n_super; s++, super += pack_super_lines(kind) * PACK_LINE) {
        const uint8_t *scales = super + at.chunks * at.bits * PACK_LINE;
        for (size_t c = 0; c < at.chunks; c++, next += each * PACK_LINE) {
            const uint8_t *chunk = super + c * at.bits * PACK_LINE, *ask = next < stop ? next : chunk;
            for (size_t i = 0; i < each; i++) {
                MATMUL_ASK(ask + i * PACK_LINE);
                MATMUL_ASK_SOON(chunk + MATMUL_SOON + i * PACK_LINE);
            }
#pragma GCC unroll 2
            for (unsigned half = 0; half < 2; half++, x++)
                for (size_t part = 0; part < PARTS; part++) {
                    vint w[4];
                    vfloat by[3];
#pragma GCC unroll 4
                    for (unsigned i = 0; i < 4; i++)
                        w[i] = values_of(kind, chunk + part * PART_BYTES, 4 * half + i, grid);
                    load_scales(kind, by, scales, 2 * c + half, part);
                    for (size_t t = 0; t < n; t++) {
                        const act_block *xt = x + t * stride;
                        vfloat *sum = &sums[t * PARTS + part];
                        *sum = add_block(at.codes, *sum, dot_of(at.codes, w, xt), by, xt);
                    }
                }
        }
    }
    for (size_t i = 0; i < n * PARTS; i++)
        vf_store(acc + i / PARTS * acc_stride + i % PARTS * V_LANES, sums[i]);
}

/* Lines to ask for per chunk, so that PASSES over a group ask for all of the next. */
INLINE size_t asked(pack_kind kind, size_t passes) {
    size_t chunks = pack_layouts[kind].chunks * passes;
    return (pack_super_lines(kind) + chunks - 1) / chunks;
}

INLINE size_t pass_tokens(size_t left) {
    static const uint8_t most[9] = {0, 1, 2, 3, 4, 4, 6, 6, 8};
    size_t n = most[left < 8 ? left : 8];
    return n > DIRECT_TOKENS ? DIRECT_TOKENS : n;
}

/* One group times all rows of activations, NEXT being the group after it. */
INLINE void passes(pack_kind kind, float *acc, size_t acc_stride, const uint8_t *super, size_t n_super,
                   vint grid, const act_block *x, size_t stride, size_t n_tokens, const uint8_t *next,
                   const uint8_t *stop) {
    size_t n_passes = 0;
    for (size_t t = 0; t < n_tokens; t += pass_tokens(n_tokens - t))
        n_passes++;
    size_t each = asked(kind, n_passes);
    size_t step = each * n_super * pack_layouts[kind].chunks * PACK_LINE;
#define PASS(n) pass(kind, acc, acc_stride, super, n_super, grid, x, stride, n, next, each, stop)
    for (size_t left = n_tokens, n; left > 0;
         left -= n, next += step, acc += n * acc_stride, x += n * stride) {
        n = pass_tokens(left);
        if (n == DIRECT_TOKENS)
            PASS(DIRECT_TOKENS);
        else if (DIRECT_TOKENS > 6 && n == 6)
            PASS(6);
        else if (n == 4)
            PASS(4);
        else if (n == 3)
            PASS(3);
        else if (n == 2)
            PASS(2);
        else
            PASS(1);
    }
}

INLINE void direct(pack_kind kind, float *acc, size_t acc_stride, const pack_part *p, size_t group,
                   size_t n_groups, const act_block *x, size_t stride, size_t n_tokens) {
    const vint grid = grid_of(kind, p);
    const size_t n_super = p->n_super, group_bytes = n_super * p->super_bytes;
    const uint8_t *super = pack_super(p, group, 0), *stop = super + n_groups * group_bytes;
    for (size_t g = 0; g < n_groups; g++, super += group_bytes, acc += PACK_LANES)
        if (n_tokens == 1)
            pass(kind, acc, 0, super, n_super, grid, x, 0, 1, super + MATMUL_AHEAD, asked(kind, 1), stop);
        else
            passes(kind, acc, acc_stride, super, n_super, grid, x, stride, n_tokens, super + group_bytes,
                   stop);
}

/* ---- the table ---- */

#define CODES(name, kind)                                                                                    \
    static void mul_##name(float *acc, const uint8_t *codes, const float *scales, size_t n_groups,           \
                           size_t n_blocks, const act_block *x, size_t stride, size_t n_tokens) {            \
        mul(kind, acc, codes, scales, n_groups, n_blocks, x, stride, n_tokens);                              \
    }

CODES(narrow, PACK_NARROW)
CODES(wide, PACK_WIDE)
CODES(affine, PACK_AFFINE)

#define KIND(kind)                                                                                           \
    static void tile_##kind(uint8_t *codes, float *scales, const matmul_cut *cut) {                          \
        tile(kind, codes, scales, cut);                                                                      \
    }                                                                                                        \
    static void direct_##kind(float *acc, size_t acc_stride, const pack_part *p, size_t group,               \
                              size_t n_groups, const act_block *x, size_t stride, size_t n_tokens) {         \
        direct(kind, acc, acc_stride, p, group, n_groups, x, stride, n_tokens);                              \
    }

#define KINDS(X)                                                                                             \
    X(PACK_NVFP4)                                                                                            \
    X(PACK_Q4_0)                                                                                             \
    X(PACK_IQ4_NL)                                                                                           \
    X(PACK_Q8_0)                                                                                             \
    X(PACK_Q4_1)                                                                                             \
    X(PACK_Q5_0)                                                                                             \
    X(PACK_Q5_1)                                                                                             \
    X(PACK_Q4_K)                                                                                             \
    X(PACK_Q5_K)                                                                                             \
    X(PACK_Q6_K)

KINDS(KIND)

void V_RUNG(matmul_int8_init)(matmul_kernels *m) {
    m->direct_rows = DIRECT_ROWS;
    m->mul8[PACK_NARROW] = mul_narrow;
    m->mul8[PACK_WIDE] = mul_wide;
    m->mul8[PACK_AFFINE] = mul_affine;
#define ENTRY(kind)                                                                                          \
    m->tile8[kind] = tile_##kind;                                                                            \
    m->direct8[kind] = direct_##kind;
    KINDS(ENTRY)
}
