/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights in memory: what a weight is on a CPU, packed once at load into the layout the kernels read. One
 * layout serves AVX2 (half a line) and AVX-512 (a line), so it does not depend on the machine.
 *
 * A weight is a list of parts, one per joined tensor. A part is cut into groups of PACK_LANES = 16 rows, a
 * group into superblocks of PACK_COLS = 64 columns; rows and columns that are missing are zeros with scale 0.
 *
 *   superblock   lines of 64 bytes, then one line of scales; 16 x 4 bytes of a line belong to rows 0..15
 *   4-bit        8 lines: line l, row r: a little-endian 32-bit word, nibble n = code of column 8 l + n
 *   8-bit       16 lines: line 2 l, row r: columns 8 l + {0, 2, 4, 6}; line 2 l + 1: 8 l + {1, 3, 5, 7}
 *   scales       PACK_NVFP4: U8 [4 blocks of 16 columns][16 rows], E5M3 without a sign: the byte moved to
 *                bits 20.. of an FP32 is scale * 2^-104 exactly, a normal number or 0; E4M3 maps into it one
 *                to one
 *                others: F16 [2 blocks of 32 columns][16 rows]
 *
 *   value[r, c] = grid[code] (8-bit: code) * scale * (row_scales ? row_scales[r] : 1) * part.scale
 *   scale = E5M3 * 2^104, or F16
 *
 * PACK_ROWS is the tensor where it lies, row-major: all formats without a packed form, and NVFP4 or MXFP4
 * tensors with scales that no sane file has (negative, NaN).
 */
#ifndef CPU_PACK_H
#define CPU_PACK_H

#include "base/pool.h"
#include "cpu/pack_slab.h"
#include "ops/ops.h"

struct cpu_kernels;

#define PACK_LANES 16 /* rows of a group */
#define PACK_COLS  64 /* columns of a superblock */
#define PACK_LINE  64 /* bytes */

typedef enum pack_kind {
    PACK_ROWS = 0,
    PACK_NVFP4,  /* 4-bit codes, E5M3 scale per 16: NVFP4, MXFP4 */
    PACK_NIBBLE, /* 4-bit codes, F16 scale per 32: Q4_0, IQ4_NL */
    PACK_BYTE,   /* 8-bit codes, F16 scale per 32: Q8_0 */
    PACK_KINDS
} pack_kind;

typedef struct pack_part {
    pack_kind kind;
    tensor source;           /* shape and row scales; its data only for PACK_ROWS */
    size_t row0;             /* of the weight */
    size_t rows, cols;       /* of the tensor */
    size_t n_super;          /* superblocks of a group */
    size_t super_bytes;      /* of one superblock */
    uint8_t *groups;         /* [groups][n_super][super_bytes], 64-byte aligned */
    pack_slab *slab;         /* that the groups lie in */
    int8_t grid[16];         /* 4-bit kinds: value of a code */
    bool wide;               /* grid values or codes beyond -12..12: activations start at starts[..., 1] */
    float unit;              /* power of two that grid and scale bytes leave out */
    float scale;             /* tensor_scale * unit */
    const float *row_scales; /* [rows] or NULL */
    void *own;               /* copy of SOURCE's bytes (pack_own), or NULL */
} pack_part;

typedef struct packed {
    weight head; /* first: a weight * is a packed * */
    bool int8;
    pack_part parts[WEIGHT_MAX_PARTS];
} packed;

static inline const packed *pack_of(const weight *w) {
    return (const packed *)w;
}

/* INT8: activations come as 8-bit integers where the format allows it; else everything multiplies FP32.
 * One layout for every rung, whatever the TEAM that pack. What is packed is read from the file, a stripe at
 * a time, not through its map. */
nib_status pack_weight(packed **out, const tensor *const *parts, size_t n_parts, bool int8, pool *team,
                       nib_error *err);
/* Copies what W still reads of its tensors. */
nib_status pack_own(packed *w, nib_error *err);
void pack_free(packed *w);
size_t pack_scratch_bytes(const packed *w); /* that matmul_run needs per thread */
void pack_unpack_row(const packed *w, size_t row, float *dst);

/* Block BLOCK (16 columns) of a row of a packed part as stored: a nibble or a byte per code. */
void pack_block(const pack_part *p, size_t row, size_t block, uint8_t codes[16], float *scale);

static inline size_t pack_groups(const pack_part *p) {
    return (p->rows + PACK_LANES - 1) / PACK_LANES;
}

static inline const uint8_t *pack_super(const pack_part *p, size_t group, size_t super) {
    return p->groups + (group * p->n_super + super) * p->super_bytes;
}

#endif
