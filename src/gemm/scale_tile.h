/* SPDX-License-Identifier: Apache-2.0
 *
 * Block scales as Blackwell's tensor cores read them, through cuBLASLt too: tiles of 128 rows x 4 blocks of
 * 16 k, 512 bytes each, the tiles of 128 rows one after another. Plain C that host and device compile alike.
 * (cuBLAS documentation, "1D block scaling factors layout".)
 */
#ifndef GEMM_SCALE_TILE_H
#define GEMM_SCALE_TILE_H

#include <stddef.h>

#include "gemm/word.h"

#define GEMM_SCALE_TILE_ROWS   128
#define GEMM_SCALE_TILE_BLOCKS 4
#define GEMM_SCALE_TILE_BYTES  512

/* Byte of the scale of (ROW, BLOCK), BLOCKS in a row. */
GEMM_HOST_DEVICE static inline size_t gemm_scale_place(size_t row, size_t block, size_t blocks) {
    const size_t tiles = (blocks + GEMM_SCALE_TILE_BLOCKS - 1) / GEMM_SCALE_TILE_BLOCKS;
    const size_t tile = row / GEMM_SCALE_TILE_ROWS * tiles + block / GEMM_SCALE_TILE_BLOCKS;
    return tile * GEMM_SCALE_TILE_BYTES + row % 32 * 16 + row % GEMM_SCALE_TILE_ROWS / 32 * 4 +
           block % GEMM_SCALE_TILE_BLOCKS;
}

#endif
