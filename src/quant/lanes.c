/* SPDX-License-Identifier: Apache-2.0
 *
 * See lanes.h.
 */
#include "quant/lanes.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/quote.h"
#include "num/bf16.h"
#include "num/e2m1.h"
#include "num/fp8.h"
#include "num/gguf_blocks.h"
#include "quant/dense.h"
#include "quant/q5_search.h"

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

/* W += TIMES the row at CODES, SCALES. */
static void add_nvfp4(double *w, size_t cols, double times, float tensor_scale, const uint8_t *codes,
                      const uint8_t *scales) {
    for (size_t c = 0; c < cols; c++) {
        float step = e4m3_to_f32(scales[c / NVFP4_BLOCK]) * tensor_scale;
        uint8_t code = (codes[c / 2] >> 4 * (c & 1)) & 15;
        w[c * LANES] += times * ((double)e2m1_to_f32(code) * (double)step);
    }
}

void lanes_add(lanes_worker *k, size_t cols, size_t i, size_t n, double times, gptq_codes from) {
    const gptq_grid grid = from.by.grid;
    for (size_t lane = 0; lane < n; lane++) {
        const uint8_t *codes = from.codes + (i + lane) * gptq_code_bytes(grid, cols);
        if (grid == GPTQ_NVFP4) {
            add_nvfp4(k->w + lane, cols, times, from.by.tensor_scale, codes,
                      from.scales + (i + lane) * gptq_scale_bytes(grid, cols));
            continue;
        }
        dtype_decode(DT_Q5_0, codes, k->row, cols);
        for (size_t c = 0; c < cols; c++)
            k->w[c * LANES + lane] += times * (double)k->row[c];
    }
}

/* ---- one block ---- */

size_t lanes_columns(gptq_grid grid) {
    return grid == GPTQ_Q5_0 ? Q5_BLOCK : NVFP4_BLOCK;
}

void lanes_block_load(lanes_block *b, size_t n, const double *u, size_t row) {
    b->n = n;
    for (size_t j = 0; j < n; j++) {
        memcpy(b->u[j], u + j * row, n * sizeof *u);
        b->inverse[j] = 1.0 / b->u[j][j];
    }
}

/* E2M1's magnitudes below 2 are a half apart, those below 4 one, as in scale_search.c. */
DENSE_INLINE double round_e2m1(double y) {
    double a = fabs(y), magic = a < 2.0 ? 0x1.8p51 : a < 4.0 ? 0x1.8p52 : 0x1.8p53;
    double r = (a + magic) - magic;
    return copysign(r < 6.0 ? r : 6.0, y);
}

DENSE_INLINE double round_five(double y) {
    double r = (y + 0x1.8p52) - 0x1.8p52;
    return r < -16.0 ? -16.0 : r > 15.0 ? 15.0 : r;
}

/* Rounds V [n, LANES] under C's steps. */
DENSE_INLINE void round_block(const lanes_block *b, int n, bool fives, lanes_values v,
                              lanes_choice *restrict c) {
    double inverse[LANES];
    for (int i = 0; i < LANES; i++) {
        inverse[i] = c->step[i] != 0 ? 1.0 / c->step[i] : 0;
        c->loss[i] = 0;
    }
    for (int j = 0; j < n; j++) {
        for (int i = 0; i < LANES; i++) {
            double y = v[j][i] * inverse[i];
            c->q[j][i] = fives ? round_five(y) : round_e2m1(y);
            c->e[j][i] = (v[j][i] - c->q[j][i] * c->step[i]) * b->inverse[j];
            c->loss[i] += c->e[j][i] * c->e[j][i];
        }
        for (int k = j + 1; k < n; k++) {
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
DENSE_CLONES static void choose_nvfp4(const lanes_block *b, lanes_values w, gptq_scales by,
                                      lanes_choice *out) {
    double least[LANES];
    lanes_choice c;
    lanes_values v;
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
        memcpy(v, w, NVFP4_BLOCK * sizeof *v);
        round_block(b, NVFP4_BLOCK, false, v, &c);
        for (int i = 0; i < LANES; i++) {
            uint8_t code = (uint8_t)within(base[i] + offset);
            if (c.loss[i] < least[i] && (!by.fp8_exact || scale_search_is_fp8_exact(code))) {
                least[i] = c.loss[i];
                out->scale[i] = code;
            }
        }
    }
    for (int i = 0; i < LANES; i++)
        out->step[i] = (double)(e4m3_to_f32((uint8_t)out->scale[i]) * by.tensor_scale);
    round_block(b, NVFP4_BLOCK, false, w, out);
}

/* The same of steps by which the largest magnitude lands between 12 and 20, as in q5_search.c. */
DENSE_CLONES static void choose_q5(const lanes_block *b, lanes_values w, lanes_choice *out) {
    double least[LANES], largest[LANES];
    lanes_choice c;
    lanes_values v;
    for (int i = 0; i < LANES; i++) {
        largest[i] = 0;
        for (int j = 0; j < Q5_BLOCK; j++)
            largest[i] = fabs(w[j][i]) > fabs(largest[i]) ? w[j][i] : largest[i];
        least[i] = INFINITY;
        out->scale[i] = 0;
    }
    for (int k = 0; k < Q5_STEPS; k++) {
        for (int i = 0; i < LANES; i++) {
            c.scale[i] = q5_search_step((float)(largest[i] / -(Q5_LEAST + k * Q5_APART)));
            c.step[i] = (double)f16_to_f32(c.scale[i]);
        }
        memcpy(v, w, sizeof v);
        round_block(b, Q5_BLOCK, true, v, &c);
        for (int i = 0; i < LANES; i++)
            if (c.loss[i] < least[i]) {
                least[i] = c.loss[i];
                out->scale[i] = c.scale[i];
            }
    }
    for (int i = 0; i < LANES; i++)
        out->step[i] = (double)f16_to_f32(out->scale[i]);
    round_block(b, Q5_BLOCK, true, w, out);
}

void lanes_choose(const lanes_block *b, lanes_values v, gptq_scales by, lanes_choice *out) {
    if (by.grid == GPTQ_Q5_0)
        choose_q5(b, v, out);
    else
        choose_nvfp4(b, v, by, out);
}

static uint8_t code_of(double q) {
    static const uint8_t codes[13] = {0, 1, 2, 3, 4, 0, 5, 0, 6, 0, 0, 0, 7}; /* by twice the magnitude */
    return (uint8_t)(codes[(int)(2 * fabs(q))] | (signbit(q) && q != 0 ? 8 : 0));
}

void lanes_store(const lanes_choice *c, size_t lane, gptq_codes to, size_t cols, size_t row, size_t col) {
    uint8_t *codes = to.codes + row * gptq_code_bytes(to.by.grid, cols);
    if (to.by.grid == GPTQ_Q5_0) {
        int8_t fives[Q5_BLOCK];
        for (size_t j = 0; j < Q5_BLOCK; j++)
            fives[j] = (int8_t)c->q[j][lane];
        gguf_blocks_pack_q5_0(c->scale[lane], fives, codes + col / Q5_BLOCK * Q5_BYTES);
        return;
    }
    to.scales[row * gptq_scale_bytes(to.by.grid, cols) + col / NVFP4_BLOCK] = (uint8_t)c->scale[lane];
    for (size_t j = 0; j < NVFP4_BLOCK; j += 2)
        codes[(col + j) / 2] = (uint8_t)(code_of(c->q[j][lane]) | code_of(c->q[j + 1][lane]) << 4);
}
