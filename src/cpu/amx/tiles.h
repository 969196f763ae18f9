/* SPDX-License-Identifier: Apache-2.0
 *
 * The AMX instructions that matmul_amx.c is written in: the processor's, or with TILES_MODEL a model of them
 * in C (tiles_model.h), with which the tests run the same source on machines without AMX. Tiles are named by
 * literal numbers, 0 to 7.
 */
#ifndef CPU_AMX_TILES_H
#define CPU_AMX_TILES_H

#include <stdint.h>

#define TILES_ROWS  16
#define TILES_BYTES 64 /* of a tile's row */

/* What LDTILECFG reads; rows and bytes of a row for each tile. */
typedef struct tiles_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tiles_config;
_Static_assert(sizeof(tiles_config) == 64, "palette 1 is one line");

#ifdef TILES_MODEL
#include "cpu/amx/tiles_model.h"
#else
#include <immintrin.h>

#define TILES_CONFIGURE(config)         _tile_loadconfig(config) /* and all tiles are zero */
#define TILES_RELEASE()                 _tile_release()
#define TILES_ZERO(tile)                _tile_zero(tile)
#define TILES_LOAD(tile, base, stride)  _tile_loadd(tile, base, stride)
#define TILES_STORE(tile, base, stride) _tile_stored(tile, base, stride)
/* c[m][n] += sum over k of a[m][4 k + i] * b[k][4 n + i], i = 0..3: signed bytes, int32 sums */
#define TILES_DOT(c, a, b)              _tile_dpbssd(c, a, b)
#endif

#endif
