/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocks of 64: a small factorization by one thread, then products of tiles by all.
 *
 * H = R R^T with R upper (a Cholesky factorization that begins in the last corner); then U = R^-1, because
 * H^-1 = R^-T R^-1 = U^T U: the inverse itself is never formed.
 */
#include "quant/dense.h"

#include <math.h>
#include <string.h>

#define TILE_ROWS    4 /* of C that stay in registers */
#define TILE_COLS    8
#define TILES_WIDE   4                 /* tiles side by side, where there are 32 registers of eight */
#define PACK_ROWS    8                 /* of A: a line of a cache, where its columns are contiguous */
#define PACK_COLS    (DENSE_BLOCK * 2) /* at most */
#define BAND         16                /* rows of C that a thread takes at a time */
#define WORTH_WAKING ((size_t)1 << 18) /* products below which one thread does it */

static size_t min(size_t a, size_t b) {
    return a < b ? a : b;
}

typedef double lanes __attribute__((vector_size(TILE_COLS * sizeof(double)), aligned(sizeof(double))));

/* WIDE tiles side by side; unrolled, so that the sums are registers. */
DENSE_INLINE void subtract_tiles(double *c, size_t c_row, dense_view a, const double *b, size_t b_row,
                                 size_t k, const size_t wide) {
    lanes sum[TILE_ROWS][TILES_WIDE] = {{{0}}}, row[TILES_WIDE];
    for (size_t p = 0; p < k; p++) {
        const double *ap = a.at + p * a.col;
#pragma GCC unroll 4
        for (size_t j = 0; j < wide; j++)
            memcpy(&row[j], b + p * b_row + j * TILE_COLS, sizeof row[j]);
#pragma GCC unroll 4
        for (size_t i = 0; i < TILE_ROWS; i++)
#pragma GCC unroll 4
            for (size_t j = 0; j < wide; j++)
                sum[i][j] += ap[i * a.row] * row[j];
    }
#pragma GCC unroll 4
    for (size_t i = 0; i < TILE_ROWS; i++)
#pragma GCC unroll 4
        for (size_t j = 0; j < wide; j++) {
            memcpy(&row[j], c + i * c_row + j * TILE_COLS, sizeof row[j]);
            row[j] -= sum[i][j];
            memcpy(c + i * c_row + j * TILE_COLS, &row[j], sizeof row[j]);
        }
}

/* The same for the tiles at the edges, m and n at most a tile's. */
DENSE_INLINE void subtract_edge(double *restrict c, size_t c_row, dense_view a, const double *restrict b,
                                size_t b_row, size_t m, size_t n, size_t k) {
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = 0;
            for (size_t p = 0; p < k; p++)
                sum += a.at[i * a.row + p * a.col] * b[p * b_row + j];
            c[i * c_row + j] -= sum;
        }
}

/* Rows of A that lie side by side are far apart in the other direction and share few lines of a cache: they
 * are copied together where that can be done. */
DENSE_INLINE dense_view rows_of(dense_view a, size_t i, size_t m, size_t k, double *packed) {
    a.at += i * a.row;
    if (a.row != 1 || m - i < PACK_ROWS || k > PACK_COLS)
        return a;
    for (size_t p = 0; p < k; p++)
        memcpy(packed + p * PACK_ROWS, a.at + p * a.col, PACK_ROWS * sizeof *packed);
    return (dense_view){packed, 1, PACK_ROWS};
}

/* M rows of C, a tile's at most. */
DENSE_INLINE void subtract_rows(double *c, size_t c_row, dense_view a, const double *b, size_t b_row,
                                size_t m, size_t n, size_t k, bool wide) {
    size_t j = 0;
    for (; wide && m == TILE_ROWS && n - j >= TILE_COLS * TILES_WIDE; j += TILE_COLS * TILES_WIDE)
        subtract_tiles(c + j, c_row, a, b + j, b_row, k, TILES_WIDE);
    for (; j < n; j += TILE_COLS)
        if (m == TILE_ROWS && n - j >= TILE_COLS)
            subtract_tiles(c + j, c_row, a, b + j, b_row, k, 1);
        else
            subtract_edge(c + j, c_row, a, b + j, b_row, m, min(TILE_COLS, n - j), k);
}

DENSE_CLONES static void subtract(double *c, size_t c_row, dense_view a, const double *b, size_t b_row,
                                  size_t m, size_t n, size_t k, bool wide) {
    double packed[PACK_COLS * PACK_ROWS];
    for (size_t i = 0; i < m; i += PACK_ROWS) {
        dense_view rows = rows_of(a, i, m, k, packed);
        for (size_t r = i; r < m && r < i + PACK_ROWS; r += TILE_ROWS)
            subtract_rows(c + r * c_row, c_row,
                          (dense_view){rows.at + (r - i) * rows.row, rows.row, rows.col}, b, b_row,
                          min(TILE_ROWS, m - r), n, k, wide);
    }
}

bool dense_is_wide(void) {
#ifdef __x86_64__
    return __builtin_cpu_supports("avx512f");
#else
    return false;
#endif
}

/* clang 14 gives a clone a name for other files only where its own calls it. */
void dense_subtract(double *c, size_t c_row, dense_view a, const double *b, size_t b_row, size_t m, size_t n,
                    size_t k) {
    subtract(c, c_row, a, b, b_row, m, n, k, dense_is_wide());
}

/* Rows and columns [at, at + m) of H become R's, H = R R^T. */
static bool factor_block(double *h, size_t n, size_t at, size_t m) {
    double *d = h + at * n + at;
    for (size_t j = m; j-- > 0;) {
        double pivot = d[j * n + j];
        if (!(pivot > 0) || !isfinite(pivot))
            return false;
        double root = sqrt(pivot);
        d[j * n + j] = root;
        for (size_t i = 0; i < j; i++)
            d[i * n + j] /= root;
        for (size_t i = 0; i < j; i++)
            for (size_t k = i; k < j; k++)
                d[i * n + k] -= d[i * n + j] * d[k * n + j];
    }
    return true;
}

/* A block of columns [at, at + m) being worked on. */
typedef struct stripe {
    double *h, *room;
    double
        corner[DENSE_BLOCK * DENSE_BLOCK]; /* [m, m] what rows above the block are multiplied with, negated */
    size_t n, at, m;
} stripe;

/* Between ROOM's rows of n elements: an even number of pages apart they would share few lines of a cache. */
static size_t room_row(const stripe *s) {
    return s->n + DENSE_SPARE;
}

static pool *worth(pool *p, size_t products) {
    return products >= WORTH_WAKING ? p : NULL;
}

/* The block's columns of rows [begin, begin + rows), a band's at most, times the corner; BEFORE: what they
 * were. */
static void times_corner(const stripe *s, size_t begin, size_t rows, double *before) {
    double *h = s->h + begin * s->n + s->at;
    for (size_t i = 0; i < rows; i++) {
        memcpy(before + i * s->m, h + i * s->n, s->m * sizeof *h);
        memset(h + i * s->n, 0, s->m * sizeof *h);
    }
    dense_subtract(h, s->n, (dense_view){before, s->m, 1}, s->corner, s->m, rows, s->m, s->m);
}

/* The M x M upper triangle at D becomes its inverse. */
static void invert_block(double *d, size_t n, size_t m) {
    for (size_t j = 0; j < m; j++) {
        double inverse = 1.0 / d[j * n + j];
        for (size_t i = 0; i < j; i++) {
            double sum = 0;
            for (size_t k = i; k < j; k++)
                sum += d[i * n + k] * d[k * n + j]; /* rows above j are done; column j is still R's */
            d[i * n + j] = -sum * inverse;
        }
        d[j * n + j] = inverse;
    }
}

/* ---- H to R ---- */

/* The corner: -R_JJ^-T. */
static void invert_corner(stripe *s) {
    double inverse[DENSE_BLOCK * DENSE_BLOCK];
    for (size_t i = 0; i < s->m; i++)
        for (size_t j = 0; j < s->m; j++)
            inverse[i * s->m + j] = j < i ? 0 : s->h[(s->at + i) * s->n + s->at + j];
    invert_block(inverse, s->m, s->m);
    for (size_t i = 0; i < s->m; i++)
        for (size_t j = 0; j < s->m; j++)
            s->corner[j * s->m + i] = -inverse[i * s->m + j];
}

/* R_IJ = H_IJ R_JJ^-T for rows above the block; they stay in ROOM [m, n] transposed, too. */
static void solve_rows(void *arg, int thread, size_t begin, size_t end) {
    const stripe *s = arg;
    double before[BAND * DENSE_BLOCK];
    (void)thread;
    times_corner(s, begin, end - begin, before);
    for (size_t i = begin; i < end; i++)
        for (size_t p = 0; p < s->m; p++)
            s->room[p * room_row(s) + i] = s->h[i * s->n + s->at + p];
}

/* What the block leaves of the rows above it: H_IK -= R_IJ R_KJ^T. */
static void update_rows(void *arg, int thread, size_t begin, size_t end) {
    const stripe *s = arg;
    (void)thread;
    dense_subtract(s->h + begin * s->n + begin, s->n, (dense_view){s->room + begin, 1, room_row(s)},
                   s->room + begin, room_row(s), end - begin, s->at - begin, s->m);
}

/* The upper triangle of H becomes R. */
static bool factor_upper(double *h, size_t n, double *room, pool *team) {
    for (size_t end = n; end > 0;) {
        size_t m = end % DENSE_BLOCK ? end % DENSE_BLOCK : DENSE_BLOCK, at = end - m;
        stripe s = {.h = h, .room = room, .n = n, .at = at, .m = m};
        if (!factor_block(h, n, at, m))
            return false;
        invert_corner(&s);
        pool_for(worth(team, at * m * m), at, BAND, solve_rows, &s);
        pool_for(worth(team, at * at * m), at, BAND, update_rows, &s);
        end = at;
    }
    return true;
}

/* ---- R to U ---- */

/* The block's columns above it, in ROOM as [at, m], become -(U R) U_JJ, rows [begin, end) of them. */
static void multiply_rows(void *arg, int thread, size_t begin, size_t end) {
    const stripe *s = arg;
    double before[BAND * DENSE_BLOCK];
    (void)thread;
    for (size_t i = begin; i < end; i++)
        memset(s->h + i * s->n + s->at, 0, s->m * sizeof *s->h);
    for (size_t k = begin; k < s->at; k += DENSE_BLOCK)
        dense_subtract(s->h + begin * s->n + s->at, s->n, (dense_view){s->h + begin * s->n + k, s->n, 1},
                       s->room + k * s->m, s->m, end - begin, s->m, min(DENSE_BLOCK, s->at - k));
    times_corner(s, begin, end - begin, before);
}

/* R, upper, becomes R^-1, a block of columns after the other: U_IJ = -(U R)_IJ U_JJ. */
static void invert_upper(double *r, size_t n, double *room, pool *team) {
    for (size_t at = 0; at < n; at += DENSE_BLOCK) {
        stripe s = {.h = r, .room = room, .n = n, .at = at, .m = min(DENSE_BLOCK, n - at)};
        invert_block(r + at * n + at, n, s.m);
        for (size_t i = 0; i < s.m; i++)
            for (size_t j = 0; j < s.m; j++)
                s.corner[i * s.m + j] = -r[(at + i) * n + at + j];
        for (size_t i = 0; i < at; i++)
            memcpy(room + i * s.m, r + i * n + at, s.m * sizeof *room);
        pool_for(worth(team, at * at * s.m), at, BAND, multiply_rows, &s);
    }
}

bool dense_factor(double *h, size_t n, double *room, pool *team) {
    if (!factor_upper(h, n, room, team))
        return false;
    for (size_t i = 0; i < n; i++)
        memset(h + i * n, 0, i * sizeof *h);
    invert_upper(h, n, room, team);
    return true;
}
