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

#define TILE         4  /* rows and columns of C that stay in registers: 8 of the 16 of x86-64's baseline */
#define BAND         16 /* rows of C that a thread takes at a time */
#define WORTH_WAKING ((size_t)1 << 18) /* products below which one thread does it */

static size_t min(size_t a, size_t b) {
    return a < b ? a : b;
}

static void subtract_tile(double *restrict c, size_t c_row, dense_view a, const double *restrict b,
                          size_t b_row, size_t k) {
    double sum[TILE][TILE] = {{0}};
    for (size_t p = 0; p < k; p++) {
        const double *bp = b + p * b_row, *ap = a.at + p * a.col;
        for (size_t i = 0; i < TILE; i++)
            for (size_t j = 0; j < TILE; j++)
                sum[i][j] += ap[i * a.row] * bp[j];
    }
    for (size_t i = 0; i < TILE; i++)
        for (size_t j = 0; j < TILE; j++)
            c[i * c_row + j] -= sum[i][j];
}

/* The same for the tiles at the edges, m and n at most TILE. */
static void subtract_edge(double *restrict c, size_t c_row, dense_view a, const double *restrict b,
                          size_t b_row, size_t m, size_t n, size_t k) {
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++) {
            double sum = 0;
            for (size_t p = 0; p < k; p++)
                sum += a.at[i * a.row + p * a.col] * b[p * b_row + j];
            c[i * c_row + j] -= sum;
        }
}

void dense_subtract(double *c, size_t c_row, dense_view a, const double *b, size_t b_row, size_t m, size_t n,
                    size_t k) {
    for (size_t i = 0; i < m; i += TILE)
        for (size_t j = 0; j < n; j += TILE) {
            dense_view rows = {a.at + i * a.row, a.row, a.col};
            if (m - i >= TILE && n - j >= TILE)
                subtract_tile(c + i * c_row + j, c_row, rows, b + j, b_row, k);
            else
                subtract_edge(c + i * c_row + j, c_row, rows, b + j, b_row, min(TILE, m - i),
                              min(TILE, n - j), k);
        }
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

static pool *worth(pool *p, size_t products) {
    return products >= WORTH_WAKING ? p : NULL;
}

/* ---- H to R ---- */

/* x R_JJ^T = h, from the last column on; D: the block's corner. */
static void solve_row(double *x, const double *d, size_t n, size_t m) {
    for (size_t j = m; j-- > 0;) {
        double sum = x[j];
        for (size_t k = j + 1; k < m; k++)
            sum -= x[k] * d[j * n + k];
        x[j] = sum / d[j * n + j];
    }
}

/* Rows above the block; into ROOM [DENSE_BLOCK, n] transposed, too. */
static void solve_rows(void *arg, int thread, size_t begin, size_t end) {
    const stripe *s = arg;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        double *x = s->h + i * s->n + s->at;
        solve_row(x, s->h + s->at * s->n + s->at, s->n, s->m);
        for (size_t p = 0; p < s->m; p++)
            s->room[p * s->n + i] = x[p];
    }
}

/* What the block leaves of the rows above it: H_IK -= R_IJ R_KJ^T. */
static void update_rows(void *arg, int thread, size_t begin, size_t end) {
    const stripe *s = arg;
    (void)thread;
    dense_subtract(s->h + begin * s->n + begin, s->n, (dense_view){s->room + begin, 1, s->n}, s->room + begin,
                   s->n, end - begin, s->at - begin, s->m);
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

/* ROOM [at, m] -= U R, rows [begin, end) of the block's columns above it. */
static void multiply_rows(void *arg, int thread, size_t begin, size_t end) {
    const stripe *s = arg;
    (void)thread;
    dense_subtract(s->room + begin * s->m, s->m, (dense_view){s->h + begin * s->n + begin, s->n, 1},
                   s->h + begin * s->n + s->at, s->n, end - begin, s->m, s->at - begin);
}

/* Those rows of U: ROOM U_JJ. */
static void finish_rows(void *arg, int thread, size_t begin, size_t end) {
    const stripe *s = arg;
    const double *u = s->h + s->at * s->n + s->at;
    (void)thread;
    for (size_t i = begin; i < end; i++)
        for (size_t j = 0; j < s->m; j++) {
            double sum = 0;
            for (size_t k = 0; k <= j; k++)
                sum += s->room[i * s->m + k] * u[k * s->n + j];
            s->h[i * s->n + s->at + j] = sum;
        }
}

/* R, upper, becomes R^-1, a block of columns after the other: U_IJ = -(U R)_IJ U_JJ. */
static void invert_upper(double *r, size_t n, double *room, pool *team) {
    for (size_t at = 0; at < n; at += DENSE_BLOCK) {
        stripe s = {r, room, n, at, min(DENSE_BLOCK, n - at)};
        invert_block(r + at * n + at, n, s.m);
        memset(room, 0, at * s.m * sizeof *room);
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
