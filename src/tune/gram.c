/* SPDX-License-Identifier: Apache-2.0
 *
 * Inputs are held by panels of 16 columns, a line of a cache to a row, so that a tile of h reads nothing but
 * what it needs. Of x with itself only the lower triangle is computed, and mirrored in the end. See gram.h.
 */
#include "tune/gram.h"

#include <string.h>

#include "base/mem.h"
#include "quant/dense.h"

/* Tiles of h: half a panel of y, and two panels of x side by side; a half of each where there are fewer than
 * 32 registers of 16. A thread takes a band of rows at a time. */
enum { PANEL = 16, TILE_ROWS = 8, TILES_WIDE = 2, BAND = 64 };

/* A line more than a panel's rows: panels apart by whole pages would share lines of a cache. */
enum { PANEL_FLOATS = (GRAM_ROWS + 1) * PANEL };

typedef float lanes __attribute__((vector_size(PANEL * sizeof(float)), aligned(sizeof(float))));

static size_t min(size_t a, size_t b) {
    return a < b ? a : b;
}

static float *held_new(size_t cols) {
    size_t floats = (cols + PANEL - 1) / PANEL * PANEL_FLOATS;
    float *held = mem_aligned(floats * sizeof *held);
    if (held)
        memset(held, 0, floats * sizeof *held); /* columns past the last stay zeros */
    return held;
}

nib_status gram_open(gram *g, pool *team, size_t y_cols, size_t cols, nib_error *err) {
    *g = (gram){.team = team, .rows = y_cols ? y_cols : cols, .cols = cols};
    g->h = mem_array(g->rows, cols * sizeof *g->h);
    g->held = held_new(cols);
    if (y_cols)
        g->left = held_new(y_cols);
    if (g->h && g->held && (g->left || !y_cols))
        return NIB_OK;
    gram_close(g);
    return nib_fail(err, NIB_NO_MEMORY, "no memory for second moments of %zu inputs", cols);
}

static void free_held(gram *g) {
    mem_free(g->held);
    mem_free(g->left);
    g->held = g->left = NULL;
}

void gram_close(gram *g) {
    free_held(g);
    mem_free(g->h);
    *g = (gram){0};
}

/* ---- products ---- */

/* H's rows [row, row + TALL), columns [col, col + WIDE panels) += the sum over the rows held of y's columns
 * times x's panels. Unrolled, so that the sums are registers. */
DENSE_INLINE void add_tile(const gram *g, const float *y, size_t row, size_t col, const size_t tall,
                           const size_t wide) {
    const float *x = g->held + col / PANEL * PANEL_FLOATS;
    lanes sum[TILE_ROWS][TILES_WIDE] = {{{0}}}, line[TILES_WIDE];
    y += row / PANEL * PANEL_FLOATS + row % PANEL;
    for (size_t r = 0; r < g->n_held; r++) {
#pragma GCC unroll 2
        for (size_t j = 0; j < wide; j++)
            memcpy(&line[j], x + j * PANEL_FLOATS + r * PANEL, sizeof line[j]);
#pragma GCC unroll 8
        for (size_t i = 0; i < tall; i++)
#pragma GCC unroll 2
            for (size_t j = 0; j < wide; j++)
                sum[i][j] += y[r * PANEL + i] * line[j];
    }
    float out[TILE_ROWS][TILES_WIDE * PANEL];
    memcpy(out, sum, sizeof out);
    for (size_t i = 0; i < min(tall, g->rows - row); i++)
        for (size_t j = 0; j < min(wide * PANEL, g->cols - col); j++)
            g->h[(row + i) * g->cols + col + j] += (double)out[i][j];
}

/* Rows [begin, end) of h; of x with itself as far as the diagonal. */
DENSE_CLONES static void add_band(const gram *g, size_t begin, size_t end, bool wide) {
    const float *y = g->left ? g->left : g->held;
    const size_t tall = wide ? TILE_ROWS : TILE_ROWS / 2, step = wide ? TILES_WIDE * PANEL : PANEL;
    for (size_t col = 0; col < g->cols && (g->left || col < end); col += step)
        for (size_t row = begin; row < end; row += tall) {
            if (!g->left && row + tall <= col)
                continue;
            if (!wide)
                add_tile(g, y, row, col, TILE_ROWS / 2, 1);
            else if (g->cols - col > PANEL)
                add_tile(g, y, row, col, TILE_ROWS, TILES_WIDE);
            else
                add_tile(g, y, row, col, TILE_ROWS, 1);
        }
}

/* The longest bands first. */
static void add_bands(void *arg, int thread, size_t begin, size_t end) {
    const gram *g = arg;
    const size_t n = (g->rows + BAND - 1) / BAND;
    (void)thread;
    for (size_t band = begin; band < end; band++)
        add_band(g, (n - 1 - band) * BAND, min((n - band) * BAND, g->rows), dense_is_wide());
}

/* ---- rows ---- */

typedef struct holding {
    const float *from;
    float *to;
    size_t cols;
} holding;

/* Rows [begin, end) into their panels. */
static void hold_rows(void *arg, int thread, size_t begin, size_t end) {
    const holding *h = arg;
    (void)thread;
    for (size_t r = begin; r < end; r++)
        for (size_t c = 0; c < h->cols; c += PANEL)
            memcpy(h->to + c / PANEL * PANEL_FLOATS + r * PANEL, h->from + r * h->cols + c,
                   min(PANEL, h->cols - c) * sizeof(float));
}

static void hold(const gram *g, float *held, const float *rows, size_t cols, size_t n) {
    holding h = {rows, held + g->n_held * PANEL, cols};
    pool_for(g->team, n, BAND, hold_rows, &h);
}

static void flush(gram *g) {
    if (g->n_held > 0)
        pool_for(g->team, (g->rows + BAND - 1) / BAND, 1, add_bands, g);
    g->n_held = 0;
}

void gram_add(gram *g, const float *y, const float *x, size_t rows) {
    for (size_t r = 0; r < rows;) {
        size_t n = min(rows - r, GRAM_ROWS - g->n_held);
        hold(g, g->held, x + r * g->cols, g->cols, n);
        if (g->left)
            hold(g, g->left, y + r * g->rows, g->rows, n);
        g->n_held += n;
        r += n;
        if (g->n_held == GRAM_ROWS)
            flush(g);
    }
    g->n += rows;
}

/* ---- the end ---- */

/* Rows [begin, end) of h become means, and are mirrored where h is symmetric. */
static void finish_rows(void *arg, int thread, size_t begin, size_t end) {
    const gram *g = arg;
    const double share = g->n ? 1.0 / (double)g->n : 0;
    (void)thread;
    for (size_t i = begin; i < end; i++)
        for (size_t j = 0; j < (g->left ? g->cols : i + 1); j++)
            g->h[i * g->cols + j] *= share;
    for (size_t j = 0; !g->left && j < end; j++)
        for (size_t i = j < begin ? begin : j + 1; i < end; i++)
            g->h[j * g->cols + i] = g->h[i * g->cols + j];
}

void gram_finish(gram *g) {
    flush(g);
    pool_for(g->team, g->rows, TILE_ROWS, finish_rows, g);
    free_held(g);
}
