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

/* G of columns [begin, end) -= H of columns [from, from + n) times E [n, LANES], but for what the shrinking
 * and the damping take from it. */
static void spread(const refining *z, double *g, size_t begin, size_t end, size_t from, const double *e,
                   size_t n) {
    if (begin < end)
        dense_subtract(g + begin * LANES, LANES,
                       (dense_view){z->m.h + begin * z->m.cols + from, z->m.cols, 1}, e, LANES, end - begin,
                       LANES, n);
}

/* -g = -H d for d in W. */
static void begin_lanes(const refining *z, lanes_worker *k) {
    size_t cols = z->m.cols;
    memset(k->g, 0, cols * LANES * sizeof *k->g);
    for (size_t from = 0; from < cols; from += STRETCH)
        spread(z, k->g, 0, cols, from, k->w + from * LANES, from + STRETCH < cols ? STRETCH : cols - from);
    for (size_t c = 0; c < cols; c++) {
        double own = z->m.shrink * z->m.h[c * cols + c] + z->damp;
        for (size_t i = 0; i < LANES; i++)
            k->g[c * LANES + i] = (1 - z->m.shrink) * k->g[c * LANES + i] - own * k->w[c * LANES + i];
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

/* The block at COL: W and what is stored where it is better; by how much w^ went down, times 1 - shrink, into
 * E [block, LANES]. Whether any lane is. */
static bool refine_block(const refining *z, lanes_worker *k, size_t i, size_t n, size_t col, double *e) {
    size_t cols = z->m.cols;
    lanes_block b;
    lanes_choice c;
    lanes_values v;
    double before[LANES];
    double(*w)[LANES] = (double(*)[LANES])(k->w + col * LANES);
    bool any = false;
    lanes_block_load(&b, z->block, z->u + col * z->block, z->block);
    aim_block(&b, (double(*)[LANES])(k->g + col * LANES), w, v, before);
    lanes_choose(&b, v, z->out.by, &c);
    memset(e, 0, z->block * LANES * sizeof *e);
    for (size_t lane = 0; lane < n; lane++) {
        if (!(c.loss[lane] < before[lane] * LESS))
            continue;
        any = true;
        for (size_t j = 0; j < z->block; j++) {
            double now = c.q[j][lane] * c.step[lane];
            e[j * LANES + lane] = w[j][lane] - now;
            w[j][lane] = now;
        }
        lanes_store(&c, lane, z->out, cols, i + lane, col);
    }
    for (size_t j = 0; j < z->block && any; j++) {
        double own = z->m.shrink * z->m.h[(col + j) * cols + col + j] + z->damp;
        for (size_t lane = 0; lane < LANES; lane++) {
            k->g[(col + j) * LANES + lane] -= own * e[j * LANES + lane];
            e[j * LANES + lane] *= 1 - z->m.shrink;
        }
    }
    return any;
}

static bool pass_lanes(const refining *z, lanes_worker *k, size_t i, size_t n) {
    size_t cols = z->m.cols;
    bool any = false;
    for (size_t from = 0; from < cols; from += STRETCH) {
        size_t end = from + STRETCH < cols ? from + STRETCH : cols;
        bool here = false;
        for (size_t col = from; col < end; col += z->block) {
            double *e = k->e + (col - from) * LANES;
            if (!refine_block(z, k, i, n, col, e))
                continue;
            here = true;
            spread(z, k->g, from, end, col, e, z->block);
        }
        if (!here)
            continue;
        any = true;
        spread(z, k->g, 0, from, from, k->e, end - from);
        spread(z, k->g, end, cols, from, k->e, end - from);
    }
    return any;
}

static void refine_chunks(void *arg, int thread, size_t begin, size_t end) {
    const refining *z = arg;
    lanes_worker *k = &z->workers[thread];
    size_t cols = z->m.cols;
    for (size_t i = begin * LANES; i < end * LANES && i < z->rows->n; i += LANES) {
        size_t n = z->rows->n - i < LANES ? z->rows->n - i : LANES;
        lanes_read(k, z->rows, i, n);
        lanes_add(k, cols, i, n, -1, z->out);
        begin_lanes(z, k);
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
