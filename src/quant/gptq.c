/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows lie side by side: LANES of them are transposed into [cols, LANES], and every step is done to all lanes
 * at once, which compilers vectorize. Errors travel in three ranges: inside a block of 16 at once, to the end
 * of a stretch of 128 columns after each block, to all later columns after each stretch, so that U is read
 * from memory once per stretch.
 */
#include "quant/gptq.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/quote.h"
#include "num/e2m1.h"
#include "num/fp8.h"
#include "num/nvfp4.h"
#include "quant/dense.h"

enum { LANES = 32, STRETCH = 128, BELOW = 8, ABOVE = 7, E4M3_MAX = 0x7e };
#define DAMP 1e-3

/* ---- factors ---- */

nib_status gptq_factor_make(gptq_factor *out, const double *h, size_t cols, gptq_reach reach, double shrink,
                            pool *team, nib_error *err) {
    assert(cols % NVFP4_BLOCK == 0 && shrink >= 0 && shrink <= 1);
    *out = (gptq_factor){.cols = cols, .reach = reach};
    double *room = mem_array(DENSE_ROOM(cols), sizeof *room), trace = 0;
    out->u = mem_array(cols, cols * sizeof *out->u);
    if (!out->u || !room) {
        mem_free(room);
        gptq_factor_free(out);
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a matrix of %zu x %zu", cols, cols);
    }
    for (size_t i = 0; i < cols; i++)
        trace += h[i * cols + i];
    double damp = trace > 0 ? DAMP * trace / (double)cols : 1;
    for (size_t i = 0; i < cols; i++)
        for (size_t j = i; j < cols; j++) {
            bool kept = reach == GPTQ_FULL || i / NVFP4_BLOCK == j / NVFP4_BLOCK;
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

/* ---- what a thread works with ---- */

typedef struct worker {
    double *w;  /* [cols, LANES] what is left to be represented */
    double *e;  /* [STRETCH, LANES] errors, over U_jj */
    float *row; /* [cols] */
    bool bad;
} worker;

typedef struct crew {
    worker *workers;
    int n;
} crew;

static void crew_close(crew *c) {
    for (int i = 0; c->workers && i < c->n; i++) {
        mem_free(c->workers[i].w);
        mem_free(c->workers[i].e);
        mem_free(c->workers[i].row);
    }
    mem_free(c->workers);
}

static nib_status crew_open(crew *c, size_t cols, pool *team, nib_error *err) {
    int threads = pool_threads(team);
    *c = (crew){.workers = mem_array((size_t)threads, sizeof(worker)), .n = threads};
    bool whole = c->workers;
    for (int i = 0; whole && i < threads; i++) {
        worker *k = &c->workers[i];
        k->w = mem_aligned(cols * LANES * sizeof *k->w);
        k->e = mem_aligned(STRETCH * LANES * sizeof *k->e);
        k->row = mem_array(cols, sizeof *k->row);
        whole = k->w && k->e && k->row;
    }
    if (whole)
        return NIB_OK;
    crew_close(c);
    return nib_fail(err, NIB_NO_MEMORY, "no memory to quantize rows of %zu columns", cols);
}

/* N rows from the I-th on, transposed into W; lanes past them are zeros. */
static void read_lanes(worker *k, const gptq_rows *rows, size_t i, size_t n) {
    size_t cols = rows->t->cols;
    if (n < LANES)
        memset(k->w, 0, cols * LANES * sizeof *k->w);
    for (size_t lane = 0; lane < n; lane++) {
        tensor_decode_row(rows->t, rows->first + (i + lane) * rows->stride, k->row);
        for (size_t c = 0; c < cols; c++) {
            k->bad |= !isfinite(k->row[c]);
            k->w[c * LANES + lane] = (double)k->row[c];
        }
    }
}

/* ---- one block ---- */

typedef struct block {
    double u[NVFP4_BLOCK][NVFP4_BLOCK]; /* U of the block's columns */
    double inverse[NVFP4_BLOCK];        /* 1 / U_jj */
} block;

static void block_load(block *b, const gptq_factor *f, size_t col) {
    for (size_t j = 0; j < NVFP4_BLOCK; j++) {
        memcpy(b->u[j], f->u + (col + j) * f->cols + col, sizeof b->u[j]);
        b->inverse[j] = 1.0 / b->u[j][j];
    }
}

/* Rounds the block's columns V [16, LANES] under STEP [LANES], which it leaves made good; Q: the values in
 * steps, E: the errors. Returns the sums of squared errors in LOSS. */
DENSE_INLINE void round_block(const block *b, double v[NVFP4_BLOCK][LANES], const double *restrict step,
                              double q[NVFP4_BLOCK][LANES], double e[NVFP4_BLOCK][LANES],
                              double *restrict loss) {
    double inverse[LANES];
    for (int i = 0; i < LANES; i++) {
        inverse[i] = 1.0 / step[i];
        loss[i] = 0;
    }
    for (int j = 0; j < NVFP4_BLOCK; j++) {
        for (int i = 0; i < LANES; i++) {
            double y = v[j][i] * inverse[i], a = fabs(y);
            double magic = a < 2.0 ? 0x1.8p51 : a < 4.0 ? 0x1.8p52 : 0x1.8p53; /* as in scale_search.c */
            double r = (a + magic) - magic;
            r = r < 6.0 ? r : 6.0;
            q[j][i] = copysign(r, y);
            e[j][i] = (v[j][i] - q[j][i] * step[i]) * b->inverse[j];
            loss[i] += e[j][i] * e[j][i];
        }
        for (int k = j + 1; k < NVFP4_BLOCK; k++) {
            double u = b->u[j][k];
            for (int i = 0; i < LANES; i++)
                v[k][i] -= e[j][i] * u;
        }
    }
}

static uint8_t e4m3_floor(float x) { /* 0 <= x <= 448 */
    uint8_t code = e4m3_from_f32(x);
    return code && e4m3_to_f32(code) > x ? code - 1 : code;
}

static int within(int code) {
    return code < 1 ? 1 : code > E4M3_MAX ? E4M3_MAX : code;
}

/* The scale's code of every lane, by the least loss; the first of equals. */
DENSE_CLONES static void choose_scales(const block *b, double (*w)[LANES], gptq_scales by,
                                       uint8_t best[LANES]) {
    double v[NVFP4_BLOCK][LANES], q[NVFP4_BLOCK][LANES], e[NVFP4_BLOCK][LANES];
    double step[LANES], loss[LANES], least[LANES];
    int base[LANES];
    for (int i = 0; i < LANES; i++) {
        double amax = 0;
        for (int j = 0; j < NVFP4_BLOCK; j++)
            amax = fmax(amax, fabs(w[j][i]));
        double ideal = amax / 6.0 / (double)by.tensor_scale, most = by.fp8_exact ? 64.0 : 448.0;
        base[i] = e4m3_floor(ideal < most ? (float)ideal : (float)most);
        least[i] = INFINITY;
        best[i] = (uint8_t)within(base[i]);
    }
    for (int offset = -BELOW; offset <= ABOVE; offset++) {
        for (int i = 0; i < LANES; i++)
            step[i] = (double)(e4m3_to_f32((uint8_t)within(base[i] + offset)) * by.tensor_scale);
        memcpy(v, w, sizeof v);
        round_block(b, v, step, q, e, loss);
        for (int i = 0; i < LANES; i++) {
            uint8_t code = (uint8_t)within(base[i] + offset);
            if (loss[i] < least[i] && (!by.fp8_exact || scale_search_is_fp8_exact(code))) {
                least[i] = loss[i];
                best[i] = code;
            }
        }
    }
}

static uint8_t code_of(double q) {
    static const uint8_t codes[13] = {0, 1, 2, 3, 4, 0, 5, 0, 6, 0, 0, 0, 7}; /* by twice the magnitude */
    return (uint8_t)(codes[(int)(2 * fabs(q))] | (signbit(q) && q != 0 ? 8 : 0));
}

/* ---- a chunk of rows ---- */

typedef struct quantizing {
    worker *workers;
    const gptq_rows *rows;
    const gptq_factor *f;
    gptq_scales by;
    uint8_t *codes, *scales;
} quantizing;

/* The block at COL of the lanes: codes, scales, and the errors into E [16, LANES]. */
static void quantize_block(const quantizing *z, worker *k, size_t i, size_t n, size_t col, double *errors) {
    double(*w)[LANES] = (double(*)[LANES])(k->w + col * LANES);
    double(*e)[LANES] = (double(*)[LANES])errors;
    double q[NVFP4_BLOCK][LANES], step[LANES], loss[LANES];
    size_t cols = z->f->cols;
    uint8_t best[LANES];
    block b;
    block_load(&b, z->f, col);
    choose_scales(&b, w, z->by, best);
    for (int lane = 0; lane < LANES; lane++)
        step[lane] = (double)(e4m3_to_f32(best[lane]) * z->by.tensor_scale);
    round_block(&b, w, step, q, e, loss);
    for (size_t lane = 0; lane < n; lane++) {
        uint8_t *codes = z->codes + (i + lane) * cols / 2 + col / 2;
        z->scales[(i + lane) * (cols / NVFP4_BLOCK) + col / NVFP4_BLOCK] = best[lane];
        for (size_t j = 0; j < NVFP4_BLOCK; j += 2)
            codes[j / 2] = (uint8_t)(code_of(q[j][lane]) | code_of(q[j + 1][lane]) << 4);
    }
}

static void quantize_lanes(const quantizing *z, worker *k, size_t i, size_t n) {
    size_t cols = z->f->cols;
    const double *u = z->f->u;
    read_lanes(k, z->rows, i, n);
    for (size_t from = 0; from < cols; from += STRETCH) {
        size_t end = from + STRETCH < cols ? from + STRETCH : cols;
        for (size_t col = from; col < end; col += NVFP4_BLOCK) {
            double *e = k->e + (col - from) * LANES;
            size_t rest = col + NVFP4_BLOCK;
            quantize_block(z, k, i, n, col, e);
            if (z->f->reach == GPTQ_FULL)
                dense_subtract(k->w + rest * LANES, LANES, (dense_view){u + col * cols + rest, 1, cols}, e,
                               LANES, end - rest, LANES, NVFP4_BLOCK);
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

nib_status gptq_quantize(const gptq_rows *rows, const gptq_factor *f, gptq_scales by, uint8_t *codes,
                         uint8_t *scales, pool *team, nib_error *err) {
    assert(rows->t->cols == f->cols && by.tensor_scale > 0);
    crew c;
    NIB_TRY(crew_open(&c, f->cols, team, err));
    quantizing z = {c.workers, rows, f, by, codes, scales};
    pool_for(team, (rows->n + LANES - 1) / LANES, 1, quantize_chunks, &z);
    bool bad = false;
    for (int i = 0; i < c.n; i++)
        bad |= c.workers[i].bad;
    crew_close(&c);
    return bad ? nib_fail(err, NIB_BAD_FILE, "tensor %s holds a NaN or an infinity", QUOTEZ(rows->t->name))
               : NIB_OK;
}

/* ---- what the output loses ---- */

/* w - w^ of the lanes, in the place of w. */
static void subtract_values(worker *k, size_t cols, size_t n, float tensor_scale, const uint8_t *codes,
                            const uint8_t *scales) {
    for (size_t lane = 0; lane < n; lane++)
        for (size_t c = 0; c < cols; c++) {
            float step = e4m3_to_f32(scales[lane * (cols / NVFP4_BLOCK) + c / NVFP4_BLOCK]) * tensor_scale;
            uint8_t code = (codes[lane * cols / 2 + c / 2] >> 4 * (c & 1)) & 15;
            k->w[c * LANES + lane] -= (double)e2m1_to_f32(code) * (double)step;
        }
}

/* Sum over the lanes of d H d^T, a stretch of columns at a time: twice what lies left of it, and itself. */
static double lanes_error(worker *k, size_t cols, const double *h) {
    double total = 0;
    for (size_t from = 0; from < cols; from += STRETCH) {
        size_t n = from + STRETCH < cols ? STRETCH : cols - from;
        double *d = k->w + from * LANES;
        memset(k->e, 0, n * LANES * sizeof *k->e);
        for (size_t left = 0; left < from; left += STRETCH)
            dense_subtract(k->e, LANES, (dense_view){h + left * cols + from, 1, cols}, k->w + left * LANES,
                           LANES, n, LANES, STRETCH);
        for (size_t i = 0; i < n * LANES; i++)
            k->e[i] *= 2;
        dense_subtract(k->e, LANES, (dense_view){h + from * cols + from, 1, cols}, d, LANES, n, LANES, n);
        for (size_t i = 0; i < n * LANES; i++)
            total -= k->e[i] * d[i];
    }
    return total;
}

typedef struct judging {
    worker *workers;
    const gptq_rows *rows;
    const double *h;
    float tensor_scale;
    const uint8_t *codes, *scales;
    double *sums; /* of chunks, added up in their order */
} judging;

static void judge_chunks(void *arg, int thread, size_t begin, size_t end) {
    const judging *g = arg;
    worker *k = &g->workers[thread];
    size_t cols = g->rows->t->cols;
    for (size_t chunk = begin; chunk < end; chunk++) {
        size_t i = chunk * LANES, n = g->rows->n - i < LANES ? g->rows->n - i : LANES;
        read_lanes(k, g->rows, i, n);
        subtract_values(k, cols, n, g->tensor_scale, g->codes + i * (cols / 2),
                        g->scales + i * (cols / NVFP4_BLOCK));
        g->sums[chunk] = lanes_error(k, cols, g->h);
    }
}

nib_status gptq_error(const gptq_rows *rows, const double *h, float tensor_scale, const uint8_t *codes,
                      const uint8_t *scales, pool *team, double *out, nib_error *err) {
    size_t n_chunks = (rows->n + LANES - 1) / LANES;
    double *sums = mem_array(n_chunks, sizeof *sums);
    crew c;
    if (!sums)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for %zu sums", n_chunks);
    nib_status status = crew_open(&c, rows->t->cols, team, err);
    if (status == NIB_OK) {
        judging g = {c.workers, rows, h, tensor_scale, codes, scales, sums};
        pool_for(team, n_chunks, 1, judge_chunks, &g);
        crew_close(&c);
        *out = 0;
        for (size_t chunk = 0; chunk < n_chunks; chunk++)
            *out += sums[chunk];
    }
    mem_free(sums);
    return status;
}
