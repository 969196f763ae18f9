/* SPDX-License-Identifier: Apache-2.0
 *
 * A model in C of the AMX instructions of tiles.h, as Intel's manual describes them. What would raise #UD or
 * #GP on the processor ends the program here. Each thread has its own tiles, as on the processor. For
 * tests.
 */
#ifndef CPU_AMX_TILES_MODEL_H
#define CPU_AMX_TILES_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef struct tiles_state {
    bool configured;
    tiles_config config;
    uint8_t data[8][TILES_ROWS][TILES_BYTES];
} tiles_state;

static _Thread_local tiles_state tiles;

static inline void tiles_need(bool allowed) {
    if (!allowed)
        abort();
}

static inline void tiles_configure(const tiles_config *config) {
    tiles_need(config->palette == 1 && config->start_row == 0);
    for (size_t i = 0; i < sizeof config->reserved; i++)
        tiles_need(config->reserved[i] == 0);
    for (size_t i = 0; i < 16; i++) {
        tiles_need(i < 8 || (config->rows[i] == 0 && config->row_bytes[i] == 0));
        tiles_need(config->rows[i] <= TILES_ROWS && config->row_bytes[i] <= TILES_BYTES);
        tiles_need(!config->rows[i] == !config->row_bytes[i]);
    }
    memset(&tiles, 0, sizeof tiles);
    tiles.configured = true;
    tiles.config = *config;
}

static inline void tiles_release(void) {
    memset(&tiles, 0, sizeof tiles);
}

static inline void tiles_check(size_t tile) {
    tiles_need(tiles.configured && tile < 8 && tiles.config.rows[tile] > 0);
}

static inline void tiles_zero(size_t tile) {
    tiles_check(tile);
    memset(tiles.data[tile], 0, sizeof tiles.data[tile]);
}

static inline void tiles_load(size_t tile, const void *base, size_t stride) {
    tiles_zero(tile);
    for (size_t r = 0; r < tiles.config.rows[tile]; r++)
        memcpy(tiles.data[tile][r], (const uint8_t *)base + r * stride, tiles.config.row_bytes[tile]);
}

static inline void tiles_store(size_t tile, void *base, size_t stride) {
    tiles_check(tile);
    for (size_t r = 0; r < tiles.config.rows[tile]; r++)
        memcpy((uint8_t *)base + r * stride, tiles.data[tile][r], tiles.config.row_bytes[tile]);
}

static inline void tiles_dot(size_t c, size_t a, size_t b) {
    const tiles_config *f = &tiles.config;
    tiles_check(a);
    tiles_check(b);
    tiles_check(c);
    tiles_need(a != b && a != c && b != c);
    tiles_need(f->rows[c] == f->rows[a] && f->row_bytes[c] == f->row_bytes[b]);
    tiles_need(f->row_bytes[a] == 4 * f->rows[b] && f->row_bytes[c] % 4 == 0);
    for (size_t m = 0; m < f->rows[c]; m++)
        for (size_t n = 0; n < f->row_bytes[c] / 4u; n++) {
            uint32_t sum; /* wraps, as the instruction does */
            memcpy(&sum, &tiles.data[c][m][4 * n], sizeof sum);
            for (size_t k = 0; k < f->rows[b]; k++)
                for (size_t i = 0; i < 4; i++) {
                    int x = (int8_t)tiles.data[a][m][4 * k + i], w = (int8_t)tiles.data[b][k][4 * n + i];
                    sum += (uint32_t)(x * w);
                }
            memcpy(&tiles.data[c][m][4 * n], &sum, sizeof sum);
        }
}

#define TILES_CONFIGURE(config)         tiles_configure(config)
#define TILES_RELEASE()                 tiles_release()
#define TILES_ZERO(tile)                tiles_zero(tile)
#define TILES_LOAD(tile, base, stride)  tiles_load(tile, base, stride)
#define TILES_STORE(tile, base, stride) tiles_store(tile, base, stride)
#define TILES_DOT(c, a, b)              tiles_dot(c, a, b)

#endif
