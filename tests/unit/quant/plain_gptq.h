/* SPDX-License-Identifier: Apache-2.0
 *
 * GPTQ and its descent in plain FP64, written to be read and by another road than the program's: the inverse
 * by Gauss and Jordan, its Cholesky factor, one column of one row at a time. Included by test_gptq.c and
 * test_refine.c.
 */
#ifndef PLAIN_GPTQ_H
#define PLAIN_GPTQ_H

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "num/e2m1.h"
#include "num/fp8.h"
#include "num/nvfp4.h"
#include "quant/gptq.h"

enum { MAX_COLS = 320, MAX_ROWS = 100, SAMPLES = 900 };

static float weights[MAX_ROWS * MAX_COLS];
static double hessian[MAX_COLS * MAX_COLS];
static uint8_t codes[MAX_ROWS * MAX_COLS / 2], scales[MAX_ROWS * MAX_COLS / 16];

/* ---- numbers ---- */

static uint64_t state;

static double uniform(void) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return ((double)(state >> 11) + 0.5) * 0x1p-53;
}

static double gauss(void) {
    return sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform());
}

/* H = E[x x^T] of inputs that share directions, some channels much larger than others. */
static void draw_hessian(double *h, size_t cols, size_t samples) {
    static double mix[8][MAX_COLS], x[MAX_COLS];
    uint64_t kept = state;
    state = 7;
    for (size_t k = 0; k < 8; k++)
        for (size_t c = 0; c < cols; c++)
            mix[k][c] = gauss();
    state = kept;
    memset(h, 0, cols * cols * sizeof *h);
    for (size_t s = 0; s < samples; s++) {
        double f[8];
        for (size_t k = 0; k < 8; k++)
            f[k] = gauss();
        for (size_t c = 0; c < cols; c++) {
            x[c] = 0.5 * gauss();
            for (size_t k = 0; k < 8; k++)
                x[c] += f[k] * mix[k][c];
            x[c] *= c % 37 == 5 ? 10 : 1;
        }
        for (size_t i = 0; i < cols; i++)
            for (size_t j = 0; j < cols; j++)
                h[i * cols + j] += x[i] * x[j] / (double)samples;
    }
}

static inline tensor draw(size_t rows, size_t cols) {
    state = 1;
    for (size_t i = 0; i < rows * cols; i++)
        weights[i] = (float)(0.05 * gauss());
    draw_hessian(hessian, cols, SAMPLES);
    return (tensor){.name = "w",
                    .dtype = DT_F32,
                    .rows = rows,
                    .cols = cols,
                    .data = weights,
                    .bytes = rows * cols * sizeof *weights,
                    .tensor_scale = 1};
}

static bool fp8_exact;

static float scale_of(const tensor *t) {
    scale_search s;
    (fp8_exact ? scale_search_init_fp8_exact
               : scale_search_init)(&s, QM_WEIGHTED, nvfp4_amax(weights, t->rows * t->cols), false, NULL);
    return s.tensor_scale;
}

static inline gptq_codes into(const tensor *t, uint8_t *to, uint8_t *with) {
    return (gptq_codes){{.tensor_scale = scale_of(t), .fp8_exact = fp8_exact}, to, with};
}

/* ---- the plain one ---- */

static inline void plain_inverse(const double *h, double *inverse, size_t n) {
    static double a[MAX_COLS][2 * MAX_COLS];
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++) {
            a[i][j] = h[i * n + j];
            a[i][n + j] = i == j;
        }
    for (size_t p = 0; p < n; p++) {
        double pivot = a[p][p];
        for (size_t j = 0; j < 2 * n; j++)
            a[p][j] /= pivot;
        for (size_t i = 0; i < n; i++) {
            double f = a[i][p];
            for (size_t j = 0; i != p && j < 2 * n; j++)
                a[i][j] -= f * a[p][j];
        }
    }
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            inverse[i * n + j] = a[i][n + j];
}

/* U upper, A = U^T U */
static inline void plain_cholesky(const double *a, double *u, size_t n) {
    memset(u, 0, n * n * sizeof *u);
    for (size_t i = 0; i < n; i++)
        for (size_t j = i; j < n; j++) {
            double sum = a[i * n + j];
            for (size_t k = 0; k < i; k++)
                sum -= u[k * n + i] * u[k * n + j];
            u[i * n + j] = i == j ? sqrt(sum) : sum / u[i * n + i];
        }
}

static inline double nearest(double y, uint8_t *code) {
    *code = 0;
    for (uint8_t c = 1; c < 8; c++) {
        double off = fabs(fabs(y) - (double)e2m1_to_f32(c));
        double least = fabs(fabs(y) - (double)e2m1_to_f32(*code));
        if (off < least || (off == least && c % 2 == 0))
            *code = c;
    }
    double q = (double)e2m1_to_f32(*code);
    if (y < 0 && *code)
        *code |= 8;
    return y < 0 ? -q : q;
}

/* Rounds columns [col, end) of W under one scale; errors over U_jj reach columns below REACH. */
static inline double plain_round(double *w, const double *u, size_t n, size_t col, size_t end, size_t reach,
                                 double step, uint8_t *out) {
    double loss = 0;
    for (size_t j = col; j < end; j++) {
        double q = nearest(w[j] / step, &out[j - col]), e = (w[j] - q * step) / u[j * n + j];
        loss += e * e;
        for (size_t k = j + 1; k < reach; k++)
            w[k] -= e * u[j * n + k];
    }
    return loss;
}

/* Scale and codes of the block at COL; what is left to represent of later columns below REACH into W. */
static inline double plain_block(double *w, const double *u, size_t n, size_t col, size_t reach,
                                 float tensor_scale, uint8_t *block_codes, uint8_t *scale) {
    double copy[MAX_COLS], amax = 0, least = INFINITY;
    uint8_t c[16];
    for (size_t j = col; j < col + 16; j++)
        amax = fmax(amax, fabs(w[j]));
    float ideal = (float)fmin(amax / 6 / (double)tensor_scale, fp8_exact ? 64 : 448);
    int base = e4m3_from_f32(ideal), best = 0;
    base -= base && e4m3_to_f32((uint8_t)base) > ideal;
    for (int code = base - 8; code <= base + 7; code++) {
        int inside = code < 1 ? 1 : code > 0x7e ? 0x7e : code;
        if (fp8_exact && (inside > 0x68 || inside % 2 || (inside >= 8 && inside % 8 == 6)))
            continue;
        memcpy(copy, w, n * sizeof *w);
        double step = (double)(e4m3_to_f32((uint8_t)inside) * tensor_scale);
        double loss = plain_round(copy, u, n, col, col + 16, col + 16, step, c);
        if (loss < least) {
            least = loss;
            best = inside;
        }
    }
    plain_round(w, u, n, col, col + 16, reach, (double)(e4m3_to_f32((uint8_t)best) * tensor_scale), c);
    *scale = (uint8_t)best;
    for (size_t j = 0; j < 16; j += 2)
        block_codes[j / 2] = (uint8_t)(c[j] | c[j + 1] << 4);
    return least;
}

static inline double plain_value(const uint8_t *row_codes, const uint8_t *row_scales, size_t c,
                                 float tensor_scale) {
    return (double)e2m1_to_f32((row_codes[c / 2] >> 4 * (c & 1)) & 15) *
           (double)(e4m3_to_f32(row_scales[c / 16]) * tensor_scale);
}

/* H shrunk and damped. */
static inline void plain_moments(double *h, size_t n, gptq_reach reach, double shrink) {
    double mean = 0;
    for (size_t i = 0; i < n; i++)
        mean += hessian[i * n + i] / (double)n;
    for (size_t i = 0; i < n; i++)
        for (size_t j = 0; j < n; j++)
            h[i * n + j] = i == j                                         ? hessian[i * n + j] + 1e-3 * mean
                           : reach == GPTQ_FULL || i / reach == j / reach ? (1 - shrink) * hessian[i * n + j]
                                                                          : 0;
}

#endif
