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

double gptq_damp(const double *h, size_t cols) {
    double trace = 0;
    for (size_t i = 0; i < cols; i++)
        trace += h[i * cols + i];
    return trace > 0 ? DAMP * trace / (double)cols : 1;
}

nib_status gptq_factor_make(gptq_factor *out, const double *h, size_t cols, gptq_reach reach, double shrink,
                            pool *team, nib_error *err) {
    assert(cols % NVFP4_BLOCK == 0 && shrink >= 0 && shrink <= 1);
    *out = (gptq_factor){.cols = cols, .reach = reach};
    double *room = mem_array(DENSE_ROOM(cols), sizeof *room);
    out->u = mem_array(cols, cols * sizeof *out->u);
    if (!out->u || !room) {
        mem_free(room);
        gptq_factor_free(out);
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a matrix of %zu x %zu", cols, cols);
    }
    double damp = gptq_damp(h, cols);
    for (size_t i = 0; i < cols; i++)
        for (size_t j = i; j < cols; j++) {
            bool kept = reach == GPTQ_FULL || i / reach == j / reach;
            double v = h[i * cols + j];
            out->u[i * cols + j] = i == j ? v + damp : kept ? (1 - shrink) * v : 0;
        }
    bool done = dense_factor(out->u, cols, room, team);
    mem_free(room);
    if (done)
        return NIB_OK;
    gptq_factor_free(out);
    return nib_fail(err, NIB_BAD_FILE, "the inputs of a layer are no finite numbers: a damaged model");
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
    lanes_block_load(&b, z->block, z->f->u + col * cols + col, cols);
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
    assert(rows->t->cols == f->cols && f->cols % block == 0 && (out.by.grid || out.by.tensor_scale > 0));
    lanes_crew c;
    NIB_TRY(lanes_open(&c, f->cols, team, err));
    quantizing z = {c.workers, rows, f, out, block};
    pool_for(team, (rows->n + LANES - 1) / LANES, 1, quantize_chunks, &z);
    nib_status status = lanes_check(&c, rows->t, err);
    lanes_close(&c);
    return status;
}
