/* SPDX-License-Identifier: Apache-2.0
 *
 * Descent by blocks: see gptq.h. With d = w - w^ and g = H d, what a block's 16 values v should be, all
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
    const double *u; /* [cols, 16] of the blocks */
    gptq_scales by;
    int passes;
    uint8_t *codes, *scales;
} refining;

/* G of columns [begin, end) -= H of columns [from, from + n) times E [n, LANES], but for what the shrinking
 * and the damping take from it. */
static void spread(const refining *z, double *g, size_t begin, size_t end, size_t from, const double *e,
                   size_t n) {
    if (begin < end)
        dense_subtract(g + begin * LANES, LANES,
                       (dense_view){z->m.h + from * z->m.cols + begin, 1, z->m.cols}, e, LANES, end - begin,
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
DENSE_CLONES static void aim_block(const lanes_block *b, lanes_16 g, lanes_16 w, lanes_16 v, double *loss) {
    lanes_16 t;
    memset(t, 0, sizeof t);
    memset(loss, 0, LANES * sizeof *loss);
    memcpy(v, w, sizeof(lanes_16));
    for (int j = 0; j < NVFP4_BLOCK; j++) {
        for (int k = j; k < NVFP4_BLOCK; k++)
            for (int i = 0; i < LANES; i++)
                t[j][i] += b->u[j][k] * g[k][i];
        for (int i = 0; i < LANES; i++)
            loss[i] += t[j][i] * t[j][i];
        for (int k = j; k < NVFP4_BLOCK; k++)
            for (int i = 0; i < LANES; i++)
                v[k][i] -= b->u[j][k] * t[j][i];
    }
}

/* The block at COL: W and what is stored where it is better; by how much w^ went down, times 1 - shrink, into
 * E [16, LANES]. Whether any lane is. */
static bool refine_block(const refining *z, lanes_worker *k, size_t i, size_t n, size_t col, double *e) {
    size_t cols = z->m.cols;
    lanes_block b;
    lanes_choice c;
    lanes_16 v;
    double before[LANES];
    double(*w)[LANES] = (double(*)[LANES])(k->w + col * LANES);
    bool any = false;
    lanes_block_load(&b, z->u + col * NVFP4_BLOCK, NVFP4_BLOCK);
    aim_block(&b, (double(*)[LANES])(k->g + col * LANES), w, v, before);
    lanes_choose(&b, v, z->by, &c);
    memset(e, 0, sizeof(lanes_16));
    for (size_t lane = 0; lane < n; lane++) {
        if (!(c.loss[lane] < before[lane] * LESS))
            continue;
        any = true;
        for (size_t j = 0; j < NVFP4_BLOCK; j++) {
            double now = c.q[j][lane] * c.step[lane];
            e[j * LANES + lane] = w[j][lane] - now;
            w[j][lane] = now;
        }
        lanes_store(&c, lane, z->codes + (i + lane) * cols / 2 + col / 2,
                    z->scales + (i + lane) * (cols / NVFP4_BLOCK) + col / NVFP4_BLOCK);
    }
    for (size_t j = 0; j < NVFP4_BLOCK && any; j++) {
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
        for (size_t col = from; col < end; col += NVFP4_BLOCK) {
            double *e = k->e + (col - from) * LANES;
            if (!refine_block(z, k, i, n, col, e))
                continue;
            here = true;
            spread(z, k->g, from, end, col, e, NVFP4_BLOCK);
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
        lanes_subtract(k->w, cols, n, z->by.tensor_scale, z->codes + i * (cols / 2),
                       z->scales + i * (cols / NVFP4_BLOCK));
        begin_lanes(z, k);
        memset(k->w, 0, cols * LANES * sizeof *k->w);
        lanes_subtract(k->w, cols, n, -z->by.tensor_scale, z->codes + i * (cols / 2),
                       z->scales + i * (cols / NVFP4_BLOCK));
        for (int pass = 0; pass < z->passes && pass_lanes(z, k, i, n); pass++)
            ;
    }
}

/* U of the blocks of H, shrunk. */
static nib_status factor_blocks(const refining *z, double *u, nib_error *err) {
    size_t cols = z->m.cols;
    double room[DENSE_ROOM(NVFP4_BLOCK)];
    for (size_t col = 0; col < cols; col += NVFP4_BLOCK) {
        for (size_t i = 0; i < NVFP4_BLOCK; i++)
            for (size_t j = 0; j < NVFP4_BLOCK; j++) {
                double h = z->m.h[(col + i) * cols + col + j];
                u[(col + i) * NVFP4_BLOCK + j] = i == j ? h + z->damp : (1 - z->m.shrink) * h;
            }
        if (!dense_factor(u + col * NVFP4_BLOCK, NVFP4_BLOCK, room, NULL))
            return nib_fail(err, NIB_BAD_FILE,
                            "the inputs of a layer are no finite numbers: a damaged model");
    }
    return NIB_OK;
}

nib_status gptq_refine(const gptq_rows *rows, gptq_moments m, gptq_scales by, int passes, uint8_t *codes,
                       uint8_t *scales, pool *team, nib_error *err) {
    lanes_crew c;
    double *u = mem_array(m.cols, NVFP4_BLOCK * sizeof *u);
    if (!u)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for the blocks of %zu columns", m.cols);
    refining z = {NULL, rows, m, gptq_damp(m.h, m.cols), u, by, passes, codes, scales};
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
