/* SPDX-License-Identifier: Apache-2.0
 *
 * AMX INT8: packed 4- and 8-bit weights times 8-bit activations, 16 rows of activations and more; see
 * ref/matmul_ref.c for the arithmetic. Fewer rows are VNNI's. It is no faster than VNNI, so it is used only
 * when the mask of CPU features names it: docs/notes/cpu-matmul.md.
 *
 * Every block of 16 columns has its own scales, so a TDPBSSD takes one block: A is 16 rows of activations
 * by 16 codes, straight out of their act_blocks; B is the block's four lines of 4 columns of 16 weight rows,
 * signed; C begins at zero and is 16 x 16 dots. C goes through a buffer in L1 to AVX-512, where a row is
 * converted (exact), multiplied by the weights' scales and added, times the activation's scale, to sums that
 * stay in registers over a stretch of columns: 3 operations on two ports for 256 products, where VNNI takes
 * 6. A block passes through three stages in turn (tiles loaded and multiplied, stored, added up), each in an
 * iteration of its own, over two sets of tiles and buffers.
 *
 * Tiles between tile_* and mul: codes I8 [group][MATMUL_BLOCKS8][4 lines][64], scales [group][MATMUL_BLOCKS8]
 * [16].
 */
#include "cpu/amx/matmul_amx.h"

#include <assert.h>

#include "cpu/amx/tiles.h"
#include "cpu/avx512/matmul_avx512.h"

#define INLINE      static inline __attribute__((always_inline))
#define TOKENS      TILES_ROWS
#define BLOCK_CODES (4 * PACK_LINE)

/* Two sets of tiles: A, B and C of even blocks, of odd blocks. */
#define A0 0
#define B0 1
#define C0 2
#define A1 3
#define B1 4
#define C1 5

static void begin(void) {
    static const tiles_config config = {
        .palette = 1,
        .rows = {[A0] = TOKENS, [B0] = 4, [C0] = TOKENS, [A1] = TOKENS, [B1] = 4, [C1] = TOKENS},
        .row_bytes = {[A0] = 16, [B0] = 64, [C0] = 64, [A1] = 16, [B1] = 64, [C1] = 64},
    };
    TILES_CONFIGURE(&config);
}

static void end(void) {
    TILES_RELEASE();
}

/* Values of a block: columns {0, 2, 4, 6}, {1, 3, 5, 7}, and 8 more. LINES points to the block's. */
INLINE void block_values(pack_kind kind, uint8_t *to, const uint8_t *lines, __m512i grid) {
    const __m512i low = _mm512_set1_epi8(15);
    if (kind == PACK_BYTE) {
        for (size_t i = 0; i < 4; i++)
            _mm512_storeu_si512(to + i * PACK_LINE, _mm512_loadu_si512(lines + i * PACK_LINE));
        return;
    }
    for (size_t i = 0; i < 2; i++, to += 2 * PACK_LINE) {
        __m512i v = _mm512_loadu_si512(lines + i * PACK_LINE);
        __m512i high = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
        _mm512_storeu_si512(to, _mm512_shuffle_epi8(grid, _mm512_and_si512(v, low)));
        _mm512_storeu_si512(to + PACK_LINE, _mm512_shuffle_epi8(grid, high));
    }
}

INLINE void tile(pack_kind kind, uint8_t *codes, float *scales, const matmul_cut *cut) {
    const __m512i grid = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)cut->part->grid));
    const size_t lines = kind == PACK_BYTE ? 4 : 2;
    for (size_t g = 0; g < cut->n_groups; g++)
        for (size_t b = 0; b < cut->n_blocks; b++) {
            const uint8_t *super = pack_super(cut->part, cut->group + g, (cut->block + b) / 4);
            size_t at = g * MATMUL_BLOCKS8 + b;
            block_values(kind, codes + at * BLOCK_CODES, super + b % 4 * lines * PACK_LINE, grid);
            _mm512_storeu_ps(scales + at * PACK_LANES,
                             matmul_avx512_scales(kind, super + 4 * lines * PACK_LINE, b % 4));
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

/* sums [N] += dots [N, 16] * SCALE * the activations' scales, the first at X_SCALE, STRIDE bytes apart. */
INLINE void add_rows(__m512 *sums, const int32_t *dots, __m512 scale, const uint8_t *x_scale, size_t stride,
                     size_t n) {
    for (size_t i = 0; i < n; i++) {
        __m512 dot = _mm512_cvtepi32_ps(_mm512_load_si512(dots + i * PACK_LANES));
        __m512 x = _mm512_set1_ps(*(const float *)(const void *)(x_scale + i * stride));
        sums[i] = _mm512_fmadd_ps(_mm512_mul_ps(dot, scale), x, sums[i]);
    }
}

/* A block of all TOKENS rows. Rows are reached from every third one: gcc would keep a pointer to each, more
 * than it has registers. */
INLINE void add_block(__m512 sums[TOKENS], const int32_t *dots, const float *scales, const act_block *x,
                      size_t stride) {
    __m512 scale = _mm512_loadu_ps(scales);
    const uint8_t *x_scale = (const uint8_t *)&x->scale;
    for (size_t t = 0; t < TOKENS - 1; t += 3) {
        __asm__("" : "+r"(x_scale));
        add_rows(sums + t, dots + t * PACK_LANES, scale, x_scale, stride, 3);
        x_scale += 3 * stride;
    }
    add_rows(sums + TOKENS - 1, dots + (TOKENS - 1) * PACK_LANES, scale, x_scale, stride, 1);
}
_Static_assert(TOKENS % 3 == 1, "add_block takes them by threes, and one");

/* Block BLOCK into tile C; the last block again where there is none. */
#define MULTIPLY(a, b, c, block)                                                                             \
    do {                                                                                                     \
        size_t block_ = (block) < n_blocks ? (block) : n_blocks - 1;                                         \
        TILES_LOAD(a, x + block_, row_bytes);                                                                \
        TILES_LOAD(b, codes + block_ * BLOCK_CODES, PACK_LINE);                                              \
        TILES_ZERO(c);                                                                                       \
        TILES_DOT(c, a, b);                                                                                  \
    } while (0)

/* One group of 16 weight rows, TOKENS rows of activations; rows of ACC below FIRST stay as they are. */
INLINE void mul_some(float *acc, const uint8_t *codes, const float *scales, size_t n_blocks,
                     const act_block *x, size_t stride, size_t first) {
    const size_t row_bytes = stride * sizeof *x;
    _Alignas(64) int32_t dots[2][TOKENS * PACK_LANES];
    __m512 sums[TOKENS];
    for (size_t t = 0; t < TOKENS; t++)
        sums[t] = _mm512_loadu_ps(acc + t * MATMUL_TILE);
    MULTIPLY(A0, B0, C0, 0);
    TILES_STORE(C0, dots[0], PACK_LINE);
    MULTIPLY(A1, B1, C1, 1);
    for (size_t b = 0; b < n_blocks; b += 2) {
        TILES_STORE(C1, dots[1], PACK_LINE);
        MULTIPLY(A0, B0, C0, b + 2);
        add_block(sums, dots[0], scales + b * PACK_LANES, x + b, row_bytes);
        TILES_STORE(C0, dots[0], PACK_LINE);
        MULTIPLY(A1, B1, C1, b + 3);
        add_block(sums, dots[1], scales + (b + 1) * PACK_LANES, x + b + 1, row_bytes);
    }
    for (size_t t = 0; t < TOKENS; t++)
        if (t >= first)
            _mm512_storeu_ps(acc + t * MATMUL_TILE, sums[t]);
}

/* The last rows of activations are taken together with some before them, which are computed twice. */
static void mul(float *acc, const uint8_t *codes, const float *scales, size_t n_groups, size_t n_blocks,
                const act_block *x, size_t stride, size_t n_tokens) {
    assert(n_tokens >= TOKENS && n_blocks % 2 == 0);
    __asm__ volatile("" ::: "memory"); /* gcc does not know that loading a tile reads memory */
    for (size_t t = 0; t < n_tokens; t += TOKENS) {
        size_t from = t + TOKENS <= n_tokens ? t : n_tokens - TOKENS;
        for (size_t g = 0; g < n_groups; g++)
            mul_some(acc + from * MATMUL_TILE + g * PACK_LANES, codes + g * MATMUL_BLOCKS8 * BLOCK_CODES,
                     scales + g * MATMUL_BLOCKS8 * PACK_LANES, n_blocks, x + from * stride, stride, t - from);
    }
}

void matmul_amx_init(matmul_kernels *m) {
    m->many8 = (matmul_many){
        .n_tokens = TOKENS,
        .begin = begin,
        .end = end,
        .tile = {[PACK_NVFP4] = tile_nvfp4, [PACK_NIBBLE] = tile_nibble, [PACK_BYTE] = tile_byte},
        .mul = mul,
    };
}
