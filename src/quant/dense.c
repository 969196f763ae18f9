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
#define BAND         16                /* rows of C that a thread takes at a time */
#define WORTH_WAKING ((size_t)1 << 18) /* products below which one thread does it */

static size_t min(size_t a, size_t b) {
    return a < b ? a : b;
}

typedef double lanes __attribute__((vector_size(TILE_COLS * sizeof(double)), aligned(sizeof(double))));

DENSE_INLINE void subtract_tile(double *c, size_t c_row, dense_view a, const double *b, size_t b_row,
                                size_t k) {
    lanes sum[TILE_ROWS] = {{0}}, row;
    for (size_t p = 0; p < k; p++) {
        const double *ap = a.at + p * a.col;
        memcpy(&row, b + p * b_row, sizeof row);
        for (size_t i = 0; i < TILE_ROWS; i++)
            sum[i] += ap[i * a.row] * row;
    }
    for (size_t i = 0; i < TILE_ROWS; i++) {
        memcpy(&row, c + i * c_row, sizeof row);
        row -= sum[i];
        memcpy(c + i * c_row, &row, sizeof row);
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

/* Rows that lie far apart in memory share few lines of a cache: A's tile is copied together where it can be.
 */
DENSE_INLINE dense_view tile_of(dense_view a, size_t i, size_t m, size_t k, double *packed) {
    a.at += i * a.row;
    if (m - i < TILE_ROWS || k > DENSE_BLOCK * 2)
        return a;
    for (size_t p = 0; p < k; p++)
        for (size_t r = 0; r < TILE_ROWS; r++)
            packed[p * TILE_ROWS + r] = a.at[r * a.row + p * a.col];
    return (dense_view){packed, 1, TILE_ROWS};
}

DENSE_CLONES static void subtract(double *c, size_t c_row, dense_view a, const double *b, size_t b_row,
                                  size_t m, size_t n, size_t k) {
    double packed[DENSE_BLOCK * 2 * TILE_ROWS];
    for (size_t i = 0; i < m; i += TILE_ROWS) {
        dense_view rows = tile_of(a, i, m, k, packed);
        for (size_t j = 0; j < n; j += TILE_COLS)
            if (m - i >= TILE_ROWS && n - j >= TILE_COLS)
                subtract_tile(c + i * c_row + j, c_row, rows, b + j, b_row, k);
            else
                subtract_edge(c + i * c_row + j, c_row, rows, b + j, b_row, min(TILE_ROWS, m - i),
                              min(TILE_COLS, n - j), k);
    }
}

/* clang 14 gives a clone a name for other files only where its own calls it. */
void dense_subtract(double *c, size_t c_row, dense_view a, const double *b, size_t b_row, size_t m, size_t n,
                    size_t k) {
    subtract(c, c_row, a, b, b_row, m, n, k);
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
    size_t n, at, m;
} stripe;

/* Between ROOM's rows of n elements: apart by an even number of pages they would share few lines of a cache.
 */
static size_t room_row(const stripe *s) {
    return s->n + DENSE_SPARE;
}

static pool *worth(pool *p, size_t products) {
    return products >= WORTH_WAKING ? p : NULL;
}

/* ---- H to R ---- */

/* x R_JJ^T = h for rows [begin, end) of X [m, n], transposed, from the last column on; D: the block's corner.
 */
DENSE_CLONES static void solve_columns(double *restrict x, size_t x_row, const double *restrict d, size_t n,
                                       size_t m, size_t begin, size_t end) {
    for (size_t j = m; j-- > 0;) {
        double *restrict to = x + j * x_row;
        for (size_t k = j + 1; k < m; k++) {
            const double *restrict from = x + k * x_row;
            double by = d[j * n + k];
            for (size_t i = begin; i < end; i++)
                to[i] -= from[i] * by;
        }
        for (size_t i = begin; i < end; i++)
            to[i] /= d[j * n + j];
    }
}

/* Rows above the block; they stay in ROOM [m, n] transposed, too. */
static void solve_rows(void *arg, int thread, size_t begin, size_t end) {
    const stripe *s = arg;
    double *h = s->h + s->at;
    size_t row = room_row(s);
    (void)thread;
    for (size_t i = begin; i < end; i++)
        for (size_t p = 0; p < s->m; p++)
            s->room[p * row + i] = h[i * s->n + p];
    solve_columns(s->room, row, h + s->at * s->n, s->n, s->m, begin, end);
    for (size_t i = begin; i < end; i++)
        for (size_t p = 0; p < s->m; p++)
            h[i * s->n + p] = s->room[p * row + i];
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
        stripe s = {h, room, n, at, m};
        if (!factor_block(h, n, at, m))
            return false;
        pool_for(worth(team, at * m * m), at, BAND, solve_rows, &s);
        pool_for(worth(team, at * at * m), at, BAND, update_rows, &s);
        end = at;
    }
    return true;
}

/* ---- R to U ---- */

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

/* The block's columns above it, which ROOM holds as [at, m], become -U R, rows [begin, end) of them. */
static void multiply_rows(void *arg, int thread, size_t begin, size_t end) {
    const stripe *s = arg;
    (void)thread;
    for (size_t i = begin; i < end; i++)
        memset(s->h + i * s->n + s->at, 0, s->m * sizeof *s->h);
    for (size_t k = begin; k < s->at; k += DENSE_BLOCK)
        dense_subtract(s->h + begin * s->n + s->at, s->n, (dense_view){s->h + begin * s->n + k, s->n, 1},
                       s->room + k * s->m, s->m, end - begin, s->m, min(DENSE_BLOCK, s->at - k));
}

/* ROW times U. */
DENSE_CLONES static void multiply_row(double *restrict row, const double *restrict u, size_t n, size_t m) {
    double out[DENSE_BLOCK] = {0};
    for (size_t k = 0; k < m; k++)
        for (size_t j = 0; j < m; j++) /* zeros below the diagonal: as many as make whole vectors */
            out[j] += row[k] * u[k * n + j];
    memcpy(row, out, m * sizeof *row);
}

/* Those rows of U: times U_JJ. */
static void finish_rows(void *arg, int thread, size_t begin, size_t end) {
    const stripe *s = arg;
    const double *u = s->h + s->at * s->n + s->at;
    (void)thread;
    for (size_t i = begin; i < end; i++)
        multiply_row(s->h + i * s->n + s->at, u, s->n, s->m);
}

/* R, upper, becomes R^-1, a block of columns after the other: U_IJ = -(U R)_IJ U_JJ. */
static void invert_upper(double *r, size_t n, double *room, pool *team) {
    for (size_t at = 0; at < n; at += DENSE_BLOCK) {
        stripe s = {r, room, n, at, min(DENSE_BLOCK, n - at)};
        invert_block(r + at * n + at, n, s.m);
        for (size_t i = 0; i < at; i++)
            memcpy(room + i * s.m, r + i * n + at, s.m * sizeof *room);
        pool_for(worth(team, at * at * s.m), at, BAND, multiply_rows, &s);
        pool_for(worth(team, at * s.m * s.m), at, BAND, finish_rows, &s);
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
