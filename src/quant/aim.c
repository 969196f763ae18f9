/* SPDX-License-Identifier: Apache-2.0
 *
 * What the outputs of a matrix are wanted to be: the weights to aim at, and what a choice of codes loses. See
 * gptq.h. Products are subtracted, so that what is held is the negative of what is meant.
 */
#include <assert.h>
#include <string.h>

#include "base/mem.h"
#include "quant/dense.h"
#include "quant/gptq.h"
#include "quant/lanes.h"

/* ---- the weights to aim at ---- */

/* TO [cols, LANES] -= A [cols, cols] times FROM. */
static void product(double *to, dense_view a, const double *from, size_t cols) {
    for (size_t p = 0; p < cols; p += STRETCH)
        dense_subtract(to, LANES, (dense_view){a.at + p * a.col, a.row, a.col}, from + p * LANES, LANES, cols,
                       LANES, p + STRETCH < cols ? STRETCH : cols - p);
}

/* G = -(W C + R) for rows W. */
static void pull_lanes(const gptq_pull *pull, const gptq_rows *rows, lanes_worker *k, size_t i, size_t n) {
    size_t cols = rows->t->cols;
    memset(k->g, 0, cols * LANES * sizeof *k->g);
    if (pull->c)
        product(k->g, (dense_view){pull->c, 1, cols}, k->w, cols);
    for (size_t lane = 0; pull->r && lane < n; lane++) {
        const double *r = pull->r + (rows->first + (i + lane) * rows->stride) * cols;
        for (size_t c = 0; c < cols; c++)
            k->g[c * LANES + lane] -= r[c];
    }
}

typedef struct aiming {
    lanes_worker *workers;
    const gptq_rows *rows;
    const gptq_factor *f;
    const gptq_pull *pull;
    double share;
    float *aims;
} aiming;

static void aim_chunks(void *arg, int thread, size_t begin, size_t end) {
    const aiming *z = arg;
    lanes_worker *k = &z->workers[thread];
    size_t cols = z->f->cols;
    for (size_t i = begin * LANES; i < end * LANES && i < z->rows->n; i += LANES) {
        size_t n = z->rows->n - i < LANES ? z->rows->n - i : LANES;
        lanes_read(k, z->rows, i, n);
        for (size_t lane = 0; lane < n; lane++)
            for (size_t c = 0; c < cols; c++)
                z->aims[(i + lane) * cols + c] = (float)k->w[c * LANES + lane];
        pull_lanes(z->pull, z->rows, k, i, n);
        memset(k->w, 0, cols * LANES * sizeof *k->w); /* H^-1 = U^T U */
        product(k->w, (dense_view){z->f->u, cols, 1}, k->g, cols);
        memset(k->g, 0, cols * LANES * sizeof *k->g);
        product(k->g, (dense_view){z->f->u, 1, cols}, k->w, cols);
        for (size_t lane = 0; lane < n; lane++)
            for (size_t c = 0; c < cols; c++)
                z->aims[(i + lane) * cols + c] -= (float)(z->share * k->g[c * LANES + lane]);
    }
}

nib_status gptq_aim(const gptq_rows *rows, const gptq_factor *f, const gptq_pull *pull, double share,
                    float *aims, pool *team, nib_error *err) {
    assert(rows->t->cols == f->cols && !rows->aims);
    lanes_crew c;
    NIB_TRY(lanes_open(&c, f->cols, team, err));
    aiming z = {c.workers, rows, f, pull, share, aims};
    pool_for(team, (rows->n + LANES - 1) / LANES, 1, aim_chunks, &z);
    nib_status status = lanes_check(&c, rows->t, err);
    lanes_close(&c);
    return status;
}

/* ---- what the output loses ---- */

/* Sum over the lanes of d H d^T, a stretch of columns at a time: twice what lies left of it, and itself. */
static double lanes_error(lanes_worker *k, size_t cols, const double *h) {
    double total = 0;
    for (size_t from = 0; from < cols; from += STRETCH) {
        size_t n = from + STRETCH < cols ? STRETCH : cols - from;
        double *d = k->w + from * LANES;
        memset(k->e, 0, n * LANES * sizeof *k->e);
        for (size_t left = 0; left < from; left += STRETCH)
            dense_subtract(k->e, LANES, (dense_view){h + from * cols + left, cols, 1}, k->w + left * LANES,
                           LANES, n, LANES, STRETCH);
        for (size_t i = 0; i < n * LANES; i++)
            k->e[i] *= 2;
        dense_subtract(k->e, LANES, (dense_view){h + from * cols + from, cols, 1}, d, LANES, n, LANES, n);
        for (size_t i = 0; i < n * LANES; i++)
            total -= k->e[i] * d[i];
    }
    return total;
}

typedef struct judging {
    lanes_worker *workers;
    const gptq_rows *rows;
    const double *h;
    const gptq_pull *pull;
    gptq_codes chosen; /* codes NULL: w^ = 0 */
    double *sums;      /* of chunks, added up in their order */
} judging;

static void judge_chunks(void *arg, int thread, size_t begin, size_t end) {
    const judging *g = arg;
    lanes_worker *k = &g->workers[thread];
    size_t cols = g->rows->t->cols;
    for (size_t chunk = begin; chunk < end; chunk++) {
        size_t i = chunk * LANES, n = g->rows->n - i < LANES ? g->rows->n - i : LANES;
        lanes_read(k, g->rows, i, n);
        if (g->pull)
            pull_lanes(g->pull, g->rows, k, i, n);
        if (g->chosen.codes)
            lanes_add(k, cols, i, n, -1, g->chosen);
        g->sums[chunk] = lanes_error(k, cols, g->h);
        for (size_t j = 0; g->pull && j < cols * LANES; j++)
            g->sums[chunk] -= 2 * k->w[j] * k->g[j];
    }
}

nib_status gptq_error(const gptq_rows *rows, const double *h, const gptq_pull *pull, gptq_codes chosen,
                      pool *team, double *out, nib_error *err) {
    size_t n_chunks = (rows->n + LANES - 1) / LANES;
    double *sums = mem_array(n_chunks, sizeof *sums);
    lanes_crew c;
    assert(!rows->aims);
    if (!sums)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for %zu sums", n_chunks);
    nib_status status = lanes_open(&c, rows->t->cols, team, err);
    if (status == NIB_OK) {
        judging g = {c.workers, rows, h, pull, chosen, sums};
        pool_for(team, n_chunks, 1, judge_chunks, &g);
        lanes_close(&c);
        *out = 0;
        for (size_t chunk = 0; chunk < n_chunks; chunk++)
            *out += sums[chunk];
    }
    mem_free(sums);
    return status;
}

nib_status gptq_lost(const gptq_rows *rows, const double *d, const double *across, const double *squares,
                     pool *team, double *out, nib_error *err) {
    const gptq_pull pull = {NULL, across};
    NIB_TRY(gptq_error(rows, d, across ? &pull : NULL, (gptq_codes){.codes = NULL}, team, out, err));
    for (size_t i = 0; squares && i < rows->n; i++)
        *out += squares[rows->first + i * rows->stride];
    return NIB_OK;
}
