/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights in memory: what a weight is on a CPU, packed once at load into the layout the kernels read. One
 * layout serves AVX2 (half a line) and AVX-512 (a line), so it does not depend on the machine.
 *
 * A weight is a list of parts, one per joined tensor. A part is cut into groups of PACK_LANES = 16 rows, a
 * group into superblocks, a superblock into chunks of 32 columns; rows and columns that are missing are zeros
 * with scale 0. Everything is lines of 64 bytes, in which 4 bytes belong to each of the rows 0..15.
 *
 *   superblock   its chunks, then its lines of scales; pack_layouts says how many of each
 *   vector k     (0..7) of a chunk: byte j of a row is column 8 (k / 2) + 2 j + k % 2
 *   chunk        8 bits: line k is vector k
 *                else 4 lines: line l, row r: a little-endian 32-bit word, nibble n = low four bits of the
 * code of column 8 l + n, so that vector 2 l is its low nibbles and 2 l + 1 its high ones; 5 bits: a line
 * more, bit k of a byte belongs to vector k; 6 bits: two lines more, bits 2 i and 2 i + 1 of a byte of line h
 * belong to vector 4 h + i
 *
 *   scales of    NVFP4, MXFP4: U8 [4 blocks of 16 columns][16 rows], E5M3 without a sign: the byte moved to
 *                bits 20.. of an FP32 is scale * 2^-104 exactly, a normal number or 0; E4M3 maps into it one
 *                to one
 *                Q4_0, IQ4_NL, Q5_0, Q8_0: F16 [2 chunks][16 rows]
 *                Q4_1, Q5_1: the same, then a line of least values F16 [2 chunks][16 rows]
 *                Q4_K, Q5_K: U8 [8 chunks][16 rows], least U8 [8 chunks][16 rows], what multiplies the two:
 *                F16 [16 rows] and F16 [16 rows], the latter with its sign turned
 *                Q6_K: I8 [16 blocks of 16 columns][16 rows], F16 [16 rows] that multiplies them, 32 unused
 * bytes
 *
 *   value[r, c] = (pack_value(code) * scale + least) * (row_scales ? row_scales[r] : 1) * part.scale
 *   scale = E5M3 * 2^104, F16, or a product
 *
 * PACK_ROWS is the tensor where it lies, row-major: all formats without a packed form, NVFP4 or MXFP4 tensors
 * with scales that no sane file has (negative, NaN), and all of Q4_1, Q5_x and Qx_K where activations are
 * FP32.
 */
#ifndef CPU_PACK_H
#define CPU_PACK_H

#include "base/pool.h"
#include "cpu/pack_slab.h"
#include "ops/ops.h"

struct cpu_kernels;

#define PACK_LANES 16 /* rows of a group */
#define PACK_COLS  64 /* what columns are padded to */
#define PACK_CHUNK 32 /* columns */
#define PACK_LINE  64 /* bytes */

typedef enum pack_kind {
    PACK_ROWS = 0,
    PACK_NVFP4, /* and MXFP4 */
    PACK_Q4_0,
    PACK_IQ4_NL,
    PACK_Q8_0, /* the last that FP32 activations have kernels for */
    PACK_Q4_1,
    PACK_Q5_0,
    PACK_Q5_1,
    PACK_Q4_K,
    PACK_Q5_K,
    PACK_Q6_K,
    PACK_KINDS
} pack_kind;

/* What integers the codes stand for, which decides how a kernel makes them unsigned. */
typedef enum pack_codes {
    PACK_NARROW, /* -16..15 */
    PACK_WIDE,   /* -128..127 */
    PACK_AFFINE, /* 0..31, and a least value */
    PACK_CODES
} pack_codes;

typedef struct pack_layout {
    unsigned bits; /* of a code, lines of a chunk */
    unsigned chunks, scale_lines;
    pack_codes codes;
} pack_layout;

static const pack_layout pack_layouts[PACK_KINDS] = {
    [PACK_NVFP4] = {4, 2, 1, PACK_NARROW}, [PACK_Q4_0] = {4, 2, 1, PACK_NARROW},
    [PACK_IQ4_NL] = {4, 2, 1, PACK_WIDE},  [PACK_Q8_0] = {8, 2, 1, PACK_WIDE},
    [PACK_Q4_1] = {4, 2, 2, PACK_AFFINE},  [PACK_Q5_0] = {5, 2, 1, PACK_NARROW},
    [PACK_Q5_1] = {5, 2, 2, PACK_AFFINE},  [PACK_Q4_K] = {4, 8, 5, PACK_AFFINE},
    [PACK_Q5_K] = {5, 8, 5, PACK_AFFINE},  [PACK_Q6_K] = {6, 8, 5, PACK_WIDE},
};

/* Lines of scales that a superblock of Qx_K has before those of what multiplies them. */
#define PACK_K_SCALES 4

typedef struct pack_part {
    pack_kind kind;
    tensor source;           /* shape and row scales; its data only for PACK_ROWS */
    size_t row0;             /* of the weight */
    size_t rows, cols;       /* of the tensor */
    size_t n_super;          /* superblocks of a group */
    size_t super_bytes;      /* of one superblock */
    uint8_t *groups;         /* [groups][n_super][super_bytes], 64-byte aligned */
    pack_slab *slab;         /* that the groups, or the rows (pack_own), lie in */
    int8_t grid[16];         /* NVFP4, Q4_0, IQ4_NL: value of a code */
    float unit;              /* power of two that grid and scale bytes leave out */
    float scale;             /* tensor_scale * unit */
    const float *row_scales; /* [rows] or NULL */
    void *own;               /* copy of SOURCE's scales (pack_own), or NULL */
} pack_part;

typedef struct packed {
    weight head; /* first: a weight * is a packed * */
    bool int8;
    pack_part parts[WEIGHT_MAX_PARTS];
    bool has_branches;
    struct packed *down[WEIGHT_MAX_PARTS], *up[WEIGHT_MAX_PARTS]; /* of a part's branch (branch.h), or NULL */
} packed;

static inline const packed *pack_of(const weight *w) {
    return (const packed *)w;
}

/* INT8: activations come as 8-bit integers where the format allows it; else everything multiplies FP32.
 * One layout for every rung, whatever the TEAM that pack. What is packed is read from the file, a stripe at
 * a time, not through its map. Branches are not (branch_pack). */
nib_status pack_weight(packed **out, const tensor *const *parts, size_t n_parts, bool int8, pool *team,
                       nib_error *err);
/* Copies what W still reads of its tensors. */
nib_status pack_own(packed *w, nib_error *err);
void pack_free(packed *w);
size_t pack_scratch_bytes(const packed *w); /* that matmul_run needs per thread */
/* Without the part's branch. */
void pack_unpack_row(const packed *w, size_t row, float *dst);

/* Block BLOCK (16 columns) of a row of a packed part as stored; LEAST is 0 where the kind has none. */
void pack_block(const pack_part *p, size_t row, size_t block, uint8_t codes[16], float *scale, float *least);
/* The integer that a code stands for. */
static inline int pack_value(const pack_part *p, uint8_t code) {
    switch (p->kind) {
    case PACK_NVFP4:
    case PACK_Q4_0:
    case PACK_IQ4_NL:
        return p->grid[code];
    case PACK_Q8_0:
        return (int8_t)code;
    case PACK_Q5_0:
        return code - 16;
    case PACK_Q6_K:
        return code - 32;
    default:
        return code;
    }
}

static inline size_t pack_groups(const pack_part *p) {
    return (p->rows + PACK_LANES - 1) / PACK_LANES;
}

/* Of 16 columns, those that are missing too. */
static inline size_t pack_blocks(const pack_part *p) {
    return p->n_super * pack_layouts[p->kind].chunks * 2;
}

static inline size_t pack_super_lines(pack_kind kind) {
    return pack_layouts[kind].chunks * pack_layouts[kind].bits + pack_layouts[kind].scale_lines;
}

static inline const uint8_t *pack_super(const pack_part *p, size_t group, size_t super) {
    return p->groups + (group * p->n_super + super) * p->super_bytes;
}

#endif
