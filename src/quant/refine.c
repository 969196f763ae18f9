/* SPDX-License-Identifier: Apache-2.0
 *
 * Descent by blocks: see gptq.h. With d = w - w^ and g = H d, what a block's values v should be, all
 * others as they are, is w^ + A^-1 g for the block's own A = H_bb; e = v - w^ costs e^T A e. So the same
 * choice of scale and codes serves as for a block of GPTQ, with A's own U. What is held is -g, so that
 * products are subtracted.
 */
#include <string.h>

#include "base/mem.h"
#include "quant/dense.h"
#include "quant/gptq.h"
#include "quant/lanes.h"

#define LESS (1 - 1e-9) /* of the loss before: rounding errors are no gain */

typedef struct refining {
    lanes_worker *workers;
    const gptq_rows *rows;
    gptq_moments m;
    double damp;
    size_t block;    /* columns of one */
    const double *u; /* [cols, block] of the blocks */
    int passes;
    gptq_codes out;
} refining;

/* What the shrinking and the damping put on H's diagonal at column C. */
static double own_of(const refining *z, size_t c) {
    return z->m.shrink * z->m.h[c * z->m.cols + c] + z->damp;
}

/* -g = -H d of columns [from, from + n) into E. */
static void multiply_stretch(const refining *z, const lanes_worker *k, size_t from, size_t n) {
    const size_t cols = z->m.cols;
    const double *d = k->g;
    memset(k->e, 0, n * LANES * sizeof *k->e);
    for (size_t p = 0; p < cols; p += STRETCH)
        dense_subtract(k->e, LANES, (dense_view){z->m.h + from * cols + p, cols, 1}, d + p * LANES, LANES, n,
                       LANES, p + STRETCH < cols ? STRETCH : cols - p);
    for (size_t c = 0; c < n; c++) {
        double own = own_of(z, from + c);
        for (size_t i = 0; i < LANES; i++)
            k->e[c * LANES + i] = (1 - z->m.shrink) * k->e[c * LANES + i] - own * d[(from + c) * LANES + i];
    }
}

/* V = w^ + A^-1 g; the loss of w^ as it is. */
DENSE_CLONES static void aim_block(const lanes_block *b, lanes_values g, lanes_values w, lanes_values v,
                                   double *loss) {
    const int n = (int)b->n;
    lanes_values t;
    memset(t, 0, b->n * sizeof *t);
    memset(loss, 0, LANES * sizeof *loss);
    memcpy(v, w, b->n * sizeof *v);
    for (int j = 0; j < n; j++) {
        for (int k = j; k < n; k++)
            for (int i = 0; i < LANES; i++)
                t[j][i] += b->u[j][k] * g[k][i];
        for (int i = 0; i < LANES; i++)
            loss[i] += t[j][i] * t[j][i];
        for (int k = j; k < n; k++)
            for (int i = 0; i < LANES; i++)
                v[k][i] -= b->u[j][k] * t[j][i];
    }
}

/* The block at COL, whose -g is G: W, d and what is stored where it is better; by how much w^ went down,
 * times 1 - shrink, into DOWN [block, LANES]. Whether any lane is. */
static bool refine_block(const refining *z, lanes_worker *k, size_t i, size_t n, size_t col, double *g,
                         double *down) {
    lanes_block b;
    lanes_choice c;
    lanes_values v;
    double before[LANES];
    double(*w)[LANES] = (double(*)[LANES])(k->w + col * LANES), *d = k->g + col * LANES;
    bool any = false;
    lanes_block_load(&b, z->block, z->u + col * z->block, z->block);
    aim_block(&b, (double(*)[LANES])g, w, v, before);
    lanes_choose(&b, v, z->out.by, &c);
    memset(down, 0, z->block * LANES * sizeof *down);
    for (size_t lane = 0; lane < n; lane++) {
        if (!(c.loss[lane] < before[lane] * LESS))
            continue;
        any = true;
        for (size_t j = 0; j < z->block; j++) {
            double now = c.q[j][lane] * c.step[lane], by = w[j][lane] - now;
            w[j][lane] = now;
            d[j * LANES + lane] += by;
            down[j * LANES + lane] = (1 - z->m.shrink) * by;
        }
        lanes_store(&c, lane, z->out, z->m.cols, i + lane, col);
    }
    return any;
}

/* A stretch takes its g when its turn comes, so that what changes in others needs to be told to none. */
static bool pass_lanes(const refining *z, lanes_worker *k, size_t i, size_t n) {
    const size_t cols = z->m.cols;
    double down[LANES_COLUMNS * LANES];
    bool any = false;
    for (size_t from = 0; from < cols; from += STRETCH) {
        size_t end = from + STRETCH < cols ? from + STRETCH : cols;
        multiply_stretch(z, k, from, end - from);
        for (size_t col = from; col < end; col += z->block) {
            size_t rest = col + z->block;
            if (!refine_block(z, k, i, n, col, k->e + (col - from) * LANES, down))
                continue;
            any = true;
            dense_subtract(k->e + (rest - from) * LANES, LANES,
                           (dense_view){z->m.h + rest * cols + col, cols, 1}, down, LANES, end - rest, LANES,
                           z->block);
        }
    }
    return any;
}

/* W becomes w^, G d = w - w^. */
static void refine_chunks(void *arg, int thread, size_t begin, size_t end) {
    const refining *z = arg;
    lanes_worker *k = &z->workers[thread];
    size_t cols = z->m.cols;
    for (size_t i = begin * LANES; i < end * LANES && i < z->rows->n; i += LANES) {
        size_t n = z->rows->n - i < LANES ? z->rows->n - i : LANES;
        lanes_read(k, z->rows, i, n);
        lanes_add(k, cols, i, n, -1, z->out);
        double *d = k->w;
        k->w = k->g;
        k->g = d;
        memset(k->w, 0, cols * LANES * sizeof *k->w);
        lanes_add(k, cols, i, n, 1, z->out);
        for (int pass = 0; pass < z->passes && pass_lanes(z, k, i, n); pass++)
            ;
    }
}

/* U of the blocks of H, shrunk. */
static nib_status factor_blocks(const refining *z, double *u, nib_error *err) {
    const size_t cols = z->m.cols, block = z->block;
    double room[DENSE_ROOM(LANES_COLUMNS)];
    for (size_t col = 0; col < cols; col += block) {
        for (size_t i = 0; i < block; i++)
            for (size_t j = 0; j < block; j++) {
                double h = z->m.h[(col + i) * cols + col + j];
                u[(col + i) * block + j] = i == j ? h + z->damp : (1 - z->m.shrink) * h;
            }
        if (!dense_factor(u + col * block, block, room, NULL))
            return nib_fail(err, NIB_BAD_FILE,
                            "the inputs of a layer are no finite numbers: a damaged model");
    }
    return NIB_OK;
}

nib_status gptq_refine(const gptq_rows *rows, gptq_moments m, int passes, gptq_codes out, pool *team,
                       nib_error *err) {
    const size_t block = lanes_columns(out.by.grid);
    lanes_crew c;
    double *u = mem_array(m.cols, block * sizeof *u);
    if (!u)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for the blocks of %zu columns", m.cols);
    refining z = {NULL, rows, m, gptq_damp(m.h, m.cols), block, u, passes, out};
    nib_status status = factor_blocks(&z, u, err);
    if (status == NIB_OK)
        status = lanes_open(&c, m.cols, team, err);
    if (status == NIB_OK) {
        z.workers = c.workers;
        pool_for(team, (rows->n + LANES - 1) / LANES, 1, refine_chunks, &z);
        status = lanes_check(&c, rows->t, err);
        lanes_close(&c);
    }
    mem_free(u);
    return status;
}
