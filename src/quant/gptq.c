/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows lie side by side: LANES of them are transposed into [cols, LANES], and every step is done to all lanes
 * at once, which compilers vectorize. Errors travel in three ranges: inside a block at once, to the end
 * of a stretch of 128 columns after each block, to all later columns after each stretch, so that U is read
 * from memory once per stretch.
 */
#include "quant/gptq.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "quant/dense.h"
#include "quant/lanes.h"
#include "quant/q5_search.h"

#define DAMP 1e-3

/* ---- factors ---- */

static double damp_of(double trace, size_t cols) {
    return trace > 0 ? DAMP * trace / (double)cols : 1;
}

double gptq_damp(const double *h, size_t cols) {
    double trace = 0;
    for (size_t i = 0; i < cols; i++)
        trace += h[i * cols + i];
    return damp_of(trace, cols);
}

static nib_status open_factor(gptq_factor *out, size_t cols, gptq_reach reach, double shrink,
                              nib_error *err) {
    assert(cols % NVFP4_BLOCK == 0 && shrink >= 0 && shrink <= 1 && (!reach || cols % reach == 0));
    *out = (gptq_factor){.cols = cols, .reach = reach};
    out->u = mem_array(cols, (reach ? reach : cols) * sizeof *out->u);
    return out->u ? NIB_OK
                  : nib_fail(err, NIB_NO_MEMORY, "no memory for a matrix of %zu x %zu", cols,
                             reach ? reach : cols);
}

static nib_status no_numbers(gptq_factor *out, nib_error *err) {
    gptq_factor_free(out);
    return nib_fail(err, NIB_BAD_FILE, "the inputs of a layer are no finite numbers: a damaged model");
}

/* OUT's blocks hold H's: shrunk, damped, factored. */
static nib_status factor_blocks(gptq_factor *out, double shrink, nib_error *err) {
    const size_t n = out->reach;
    double room[DENSE_ROOM(GPTQ_WIDE_BLOCKS)], trace = 0;
    for (size_t i = 0; i < out->cols; i++)
        trace += out->u[i * n + i % n];
    for (size_t i = 0; i < out->cols; i++)
        for (size_t j = 0; j < n; j++)
            if (j == i % n)
                out->u[i * n + j] += damp_of(trace, out->cols);
            else
                out->u[i * n + j] *= 1 - shrink;
    for (size_t first = 0; first < out->cols; first += n)
        if (!dense_factor(out->u + first * n, n, room, NULL))
            return no_numbers(out, err);
    return NIB_OK;
}

nib_status gptq_factor_of_blocks(gptq_factor *out, const float *blocks, size_t cols, gptq_reach reach,
                                 double shrink, nib_error *err) {
    NIB_TRY(open_factor(out, cols, reach, shrink, err));
    for (size_t i = 0; i < cols; i++)
        for (size_t j = 0; j < GPTQ_BLOCKS; j++)
            out->u[i * reach + i % reach / GPTQ_BLOCKS * GPTQ_BLOCKS + j] =
                (double)blocks[i * GPTQ_BLOCKS + j];
    return factor_blocks(out, shrink, err);
}

nib_status gptq_factor_make(gptq_factor *out, const double *h, size_t cols, gptq_reach reach, double shrink,
                            pool *team, nib_error *err) {
    NIB_TRY(open_factor(out, cols, reach, shrink, err));
    if (reach != GPTQ_FULL) {
        for (size_t i = 0; i < cols; i++)
            memcpy(out->u + i * reach, h + i * cols + i / reach * reach, reach * sizeof *h);
        return factor_blocks(out, shrink, err);
    }
    double *room = mem_array(DENSE_ROOM(cols), sizeof *room);
    if (!room) {
        gptq_factor_free(out);
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a matrix of %zu x %zu", cols, cols);
    }
    const double damp = gptq_damp(h, cols);
    for (size_t i = 0; i < cols; i++)
        for (size_t j = i; j < cols; j++) {
            const double v = h[i * cols + j];
            out->u[i * cols + j] = i == j ? v + damp : (1 - shrink) * v;
        }
    const bool done = dense_factor(out->u, cols, room, team);
    mem_free(room);
    return done ? NIB_OK : no_numbers(out, err);
}

void gptq_factor_free(gptq_factor *f) {
    mem_free(f->u);
    *f = (gptq_factor){0};
}

/* ---- a chunk of rows ---- */

size_t gptq_code_bytes(gptq_grid grid, size_t cols) {
    return grid == GPTQ_Q5_0 ? cols / Q5_BLOCK * Q5_BYTES : cols / 2;
}

size_t gptq_scale_bytes(gptq_grid grid, size_t cols) {
    return grid == GPTQ_Q5_0 ? 0 : cols / NVFP4_BLOCK;
}

typedef struct quantizing {
    lanes_worker *workers;
    const gptq_rows *rows;
    const gptq_factor *f;
    gptq_codes out;
    size_t block; /* columns */
} quantizing;

/* The block at COL of the lanes: codes, scales, and the errors into E [block, LANES]. */
static void quantize_block(const quantizing *z, lanes_worker *k, size_t i, size_t n, size_t col, double *e) {
    size_t cols = z->f->cols;
    lanes_block b;
    lanes_choice c;
    if (z->f->reach == GPTQ_FULL)
        lanes_block_load(&b, z->block, z->f->u + col * cols + col, cols);
    else
        lanes_block_load(&b, z->block, z->f->u + col * z->f->reach + col % z->f->reach, z->f->reach);
    lanes_choose(&b, (double(*)[LANES])(k->w + col * LANES), z->out.by, &c);
    memcpy(e, c.e, z->block * sizeof *c.e);
    for (size_t lane = 0; lane < n; lane++)
        lanes_store(&c, lane, z->out, cols, i + lane, col);
}

static void quantize_lanes(const quantizing *z, lanes_worker *k, size_t i, size_t n) {
    size_t cols = z->f->cols;
    const double *u = z->f->u;
    lanes_read(k, z->rows, i, n);
    for (size_t from = 0; from < cols; from += STRETCH) {
        size_t end = from + STRETCH < cols ? from + STRETCH : cols;
        for (size_t col = from; col < end; col += z->block) {
            double *e = k->e + (col - from) * LANES;
            size_t rest = col + z->block;
            quantize_block(z, k, i, n, col, e);
            if (z->f->reach == GPTQ_FULL)
                dense_subtract(k->w + rest * LANES, LANES, (dense_view){u + col * cols + rest, 1, cols}, e,
                               LANES, end - rest, LANES, z->block);
        }
        if (z->f->reach == GPTQ_FULL)
            dense_subtract(k->w + end * LANES, LANES, (dense_view){u + from * cols + end, 1, cols}, k->e,
                           LANES, cols - end, LANES, end - from);
    }
}

static void quantize_chunks(void *arg, int thread, size_t begin, size_t end) {
    const quantizing *z = arg;
    for (size_t i = begin * LANES; i < end * LANES && i < z->rows->n; i += LANES)
        quantize_lanes(z, &z->workers[thread], i, z->rows->n - i < LANES ? z->rows->n - i : LANES);
}

nib_status gptq_quantize(const gptq_rows *rows, const gptq_factor *f, gptq_codes out, pool *team,
                         nib_error *err) {
    const size_t block = lanes_columns(out.by.grid);
    assert(rows->t->cols == f->cols && f->cols % block == 0 && f->reach % block == 0);
    assert(out.by.grid || out.by.tensor_scale > 0);
    lanes_crew c;
    NIB_TRY(lanes_open(&c, f->cols, team, err));
    quantizing z = {c.workers, rows, f, out, block};
    pool_for(team, (rows->n + LANES - 1) / LANES, 1, quantize_chunks, &z);
    nib_status status = lanes_check(&c, rows->t, err);
    lanes_close(&c);
    return status;
}
