/* SPDX-License-Identifier: Apache-2.0
 *
 * The packed layout of gemm.h, block by block of 16 elements.
 */
#include "gemm/layout.h"

#include <string.h>

#include "gemm/scale_tile.h"
#include "gemm/word.h"

typedef struct place { /* of one block */
    size_t words[2];   /* byte offsets of elements 0..7 and 8..15 */
    size_t scale;
} place;

size_t nib_gemm_packed_bytes(size_t n, size_t k) {
    return gemm_scale_offset(n, k) + 16;
}

size_t nib_gemm_scale_tile_bytes(size_t rows, size_t cols) {
    return (rows + GEMM_SCALE_TILE_ROWS - 1) / GEMM_SCALE_TILE_ROWS *
           ((cols / 16 + GEMM_SCALE_TILE_BLOCKS - 1) / GEMM_SCALE_TILE_BLOCKS) * GEMM_SCALE_TILE_BYTES;
}

static place place_of(size_t row, size_t block, size_t groups) {
    size_t in_tile = row % 16, r = in_tile / 2 % 2, g = in_tile / 4 * 2 + in_tile % 2;
    size_t in_group = block % 8, h = in_group / 4, lane = 4 * g + in_group % 4;
    size_t base = (row / 16 * groups + block / 8) * GEMM_GROUP_BYTES;
    return (place){{base + h * 512 + lane * 16 + 4 * r, base + h * 512 + lane * 16 + 4 * (2 + r)},
                   base + 1024 + lane * 4 + h + 2 * r};
}

static uint32_t load32(const uint8_t *p) {
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void store32(uint8_t *p, uint32_t v) {
    for (int i = 0; i < 4; i++)
        p[i] = (uint8_t)(v >> 8 * i);
}

void layout_pack(const uint8_t *codes, const uint8_t *scales, float tensor_scale, size_t n, size_t k,
                 uint8_t *packed) {
    memset(packed, 0, nib_gemm_packed_bytes(n, k));
    for (size_t row = 0; row < n; row++)
        for (size_t block = 0; block < k / 16; block++) {
            place p = place_of(row, block, gemm_groups(k));
            const uint8_t *c = codes + (row * (k / 16) + block) * 8;
            store32(packed + p.words[0], gemm_word_pack(load32(c)));
            store32(packed + p.words[1], gemm_word_pack(load32(c + 4)));
            packed[p.scale] = scales[row * (k / 16) + block];
        }
    memcpy(packed + gemm_scale_offset(n, k), &tensor_scale, sizeof tensor_scale);
}

void layout_unpack(const uint8_t *packed, size_t n, size_t k, uint8_t *codes, uint8_t *scales,
                   float *tensor_scale) {
    for (size_t row = 0; row < n; row++)
        for (size_t block = 0; block < k / 16; block++) {
            place p = place_of(row, block, gemm_groups(k));
            uint8_t *c = codes + (row * (k / 16) + block) * 8;
            store32(c, gemm_word_unpack(load32(packed + p.words[0])));
            store32(c + 4, gemm_word_unpack(load32(packed + p.words[1])));
            scales[row * (k / 16) + block] = packed[p.scale];
        }
    memcpy(tensor_scale, packed + gemm_scale_offset(n, k), sizeof *tensor_scale);
}
