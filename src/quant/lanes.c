/* SPDX-License-Identifier: Apache-2.0
 *
 * See lanes.h.
 */
#include "quant/lanes.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/quote.h"
#include "num/e2m1.h"
#include "num/fp8.h"
#include "quant/dense.h"

enum { BELOW = 8, ABOVE = 7, E4M3_MAX = 0x7e };

/* ---- what a thread works with ---- */

void lanes_close(lanes_crew *c) {
    for (int i = 0; c->workers && i < c->n; i++) {
        mem_free(c->workers[i].w);
        mem_free(c->workers[i].g);
        mem_free(c->workers[i].e);
        mem_free(c->workers[i].row);
    }
    mem_free(c->workers);
}

nib_status lanes_open(lanes_crew *c, size_t cols, pool *team, nib_error *err) {
    int threads = pool_threads(team);
    *c = (lanes_crew){.workers = mem_array((size_t)threads, sizeof(lanes_worker)), .n = threads};
    bool whole = c->workers;
    for (int i = 0; whole && i < threads; i++) {
        lanes_worker *k = &c->workers[i];
        k->w = mem_aligned(cols * LANES * sizeof *k->w);
        k->g = mem_aligned(cols * LANES * sizeof *k->g);
        k->e = mem_aligned(STRETCH * LANES * sizeof *k->e);
        k->row = mem_array(cols, sizeof *k->row);
        whole = k->w && k->g && k->e && k->row;
    }
    if (whole)
        return NIB_OK;
    lanes_close(c);
    return nib_fail(err, NIB_NO_MEMORY, "no memory to quantize rows of %zu columns", cols);
}

nib_status lanes_check(const lanes_crew *c, const tensor *t, nib_error *err) {
    bool bad = false;
    for (int i = 0; i < c->n; i++)
        bad |= c->workers[i].bad;
    return bad ? nib_fail(err, NIB_BAD_FILE, "tensor %s holds a NaN or an infinity", QUOTEZ(t->name))
               : NIB_OK;
}

void lanes_read(lanes_worker *k, const gptq_rows *rows, size_t i, size_t n) {
    size_t cols = rows->t->cols;
    if (n < LANES)
        memset(k->w, 0, cols * LANES * sizeof *k->w);
    for (size_t lane = 0; lane < n; lane++) {
        const float *row = rows->aims ? rows->aims + (i + lane) * cols : k->row;
        if (!rows->aims)
            tensor_decode_row(rows->t, rows->first + (i + lane) * rows->stride, k->row);
        for (size_t c = 0; c < cols; c++) {
            k->bad |= !isfinite(row[c]);
            k->w[c * LANES + lane] = (double)row[c];
        }
    }
}

void lanes_subtract(double *w, size_t cols, size_t n, float tensor_scale, const uint8_t *codes,
                    const uint8_t *scales) {
    for (size_t lane = 0; lane < n; lane++)
        for (size_t c = 0; c < cols; c++) {
            float step = e4m3_to_f32(scales[lane * (cols / NVFP4_BLOCK) + c / NVFP4_BLOCK]) * tensor_scale;
            uint8_t code = (codes[lane * cols / 2 + c / 2] >> 4 * (c & 1)) & 15;
            w[c * LANES + lane] -= (double)e2m1_to_f32(code) * (double)step;
        }
}

/* ---- one block ---- */

void lanes_block_load(lanes_block *b, const double *u, size_t row) {
    for (size_t j = 0; j < NVFP4_BLOCK; j++) {
        memcpy(b->u[j], u + j * row, sizeof b->u[j]);
        b->inverse[j] = 1.0 / b->u[j][j];
    }
}

/* Rounds V under C's steps. */
DENSE_INLINE void round_block(const lanes_block *b, lanes_16 v, lanes_choice *restrict c) {
    double inverse[LANES];
    for (int i = 0; i < LANES; i++) {
        inverse[i] = 1.0 / c->step[i];
        c->loss[i] = 0;
    }
    for (int j = 0; j < NVFP4_BLOCK; j++) {
        for (int i = 0; i < LANES; i++) {
            double y = v[j][i] * inverse[i], a = fabs(y);
            double magic = a < 2.0 ? 0x1.8p51 : a < 4.0 ? 0x1.8p52 : 0x1.8p53; /* as in scale_search.c */
            double r = (a + magic) - magic;
            r = r < 6.0 ? r : 6.0;
            c->q[j][i] = copysign(r, y);
            c->e[j][i] = (v[j][i] - c->q[j][i] * c->step[i]) * b->inverse[j];
            c->loss[i] += c->e[j][i] * c->e[j][i];
        }
        for (int k = j + 1; k < NVFP4_BLOCK; k++) {
            double u = b->u[j][k];
            for (int i = 0; i < LANES; i++)
                v[k][i] -= c->e[j][i] * u;
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

/* By the least loss; the first of equals. */
DENSE_CLONES static void choose(const lanes_block *b, lanes_16 w, gptq_scales by, lanes_choice *out) {
    double least[LANES];
    lanes_choice c;
    lanes_16 v;
    int base[LANES];
    for (int i = 0; i < LANES; i++) {
        double amax = 0;
        for (int j = 0; j < NVFP4_BLOCK; j++)
            amax = fmax(amax, fabs(w[j][i]));
        double ideal = amax / 6.0 / (double)by.tensor_scale, most = by.fp8_exact ? 64.0 : 448.0;
        base[i] = e4m3_floor(ideal < most ? (float)ideal : (float)most);
        least[i] = INFINITY;
        out->scale[i] = (uint8_t)within(base[i]);
    }
    for (int offset = -BELOW; offset <= ABOVE; offset++) {
        for (int i = 0; i < LANES; i++)
            c.step[i] = (double)(e4m3_to_f32((uint8_t)within(base[i] + offset)) * by.tensor_scale);
        memcpy(v, w, sizeof v);
        round_block(b, v, &c);
        for (int i = 0; i < LANES; i++) {
            uint8_t code = (uint8_t)within(base[i] + offset);
            if (c.loss[i] < least[i] && (!by.fp8_exact || scale_search_is_fp8_exact(code))) {
                least[i] = c.loss[i];
                out->scale[i] = code;
            }
        }
    }
    for (int i = 0; i < LANES; i++)
        out->step[i] = (double)(e4m3_to_f32(out->scale[i]) * by.tensor_scale);
    round_block(b, w, out);
}

void lanes_choose(const lanes_block *b, lanes_16 v, gptq_scales by, lanes_choice *out) {
    choose(b, v, by, out);
}

static uint8_t code_of(double q) {
    static const uint8_t codes[13] = {0, 1, 2, 3, 4, 0, 5, 0, 6, 0, 0, 0, 7}; /* by twice the magnitude */
    return (uint8_t)(codes[(int)(2 * fabs(q))] | (signbit(q) && q != 0 ? 8 : 0));
}

void lanes_store(const lanes_choice *c, size_t lane, uint8_t *codes, uint8_t *scale) {
    *scale = c->scale[lane];
    for (size_t j = 0; j < NVFP4_BLOCK; j += 2)
        codes[j / 2] = (uint8_t)(code_of(c->q[j][lane]) | code_of(c->q[j + 1][lane]) << 4);
}
