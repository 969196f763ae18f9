/* SPDX-License-Identifier: Apache-2.0
 *
 * Norms, rotary positions, gated linear units, sums of squares and the KV cache's number formats, written to
 * be read. Sums in FP64.
 */
#include <math.h>

#include "cpu/kernels.h"
#include "num/fp8.h"

static float rms_factor(const float *x, float eps, size_t n) {
    double squares = 0;
    for (size_t i = 0; i < n; i++)
        squares += (double)x[i] * x[i];
    return 1.0f / sqrtf((float)(squares / (double)n) + eps);
}

static void rmsnorm(float *out, const float *x, const float *w, float eps, size_t n) {
    float factor = rms_factor(x, eps, n);
    for (size_t i = 0; i < n; i++)
        out[i] = x[i] * factor * w[i];
}

static void rmsnorm_add(float *x, const float *y, const float *w, float eps, size_t n) {
    float factor = rms_factor(y, eps, n);
    for (size_t i = 0; i < n; i++)
        x[i] += y[i] * factor * w[i];
}

/* (a, b) -> (a cos - b sin, b cos + a sin); pairs (2i, 2i+1) or (i, i + half) */
static void rope(float *x, const float *cosines, const float *sines, size_t half, bool interleaved) {
    for (size_t i = 0; i < half; i++) {
        float *a = interleaved ? &x[2 * i] : &x[i], *b = interleaved ? &x[2 * i + 1] : &x[i + half];
        float a0 = *a, b0 = *b;
        *a = a0 * cosines[i] - b0 * sines[i];
        *b = b0 * cosines[i] + a0 * sines[i];
    }
}

static void glu_silu(float *out, const float *gate, const float *up, size_t n) {
    for (size_t i = 0; i < n; i++) {
        double g = gate[i];
        out[i] = (float)(g / (1 + exp(-g)) * up[i]);
    }
}

/* 0.5 g (1 + tanh u) = g / (1 + exp(-2u)), u = sqrt(2 / pi) (g + 0.044715 g^3) */
static void glu_gelu_tanh(float *out, const float *gate, const float *up, size_t n) {
    for (size_t i = 0; i < n; i++) {
        double g = gate[i], u = 0.79788456080286535588 * (g + 0.044715 * g * g * g);
        out[i] = (float)(g / (1 + exp(-2 * u)) * up[i]);
    }
}

static void scale(float *x, float factor, size_t n) {
    for (size_t i = 0; i < n; i++)
        x[i] *= factor;
}

static void softcap(float *x, float cap, size_t n) {
    for (size_t i = 0; i < n; i++)
        x[i] = (float)(cap * tanh((double)x[i] / cap));
}

static void sum_squares(double *sums, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        sums[i] += (double)x[i] * x[i];
}

static void to_bf16(uint16_t *dst, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        dst[i] = bf16_from_f32(x[i]);
}

static void to_fp8(uint8_t *dst, float factor, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        dst[i] = e4m3_from_f32_sat(x[i] * factor);
}

static uint64_t read_all(const void *src, size_t n) {
    const uint64_t *words = src;
    uint64_t a = 0, b = 0, c = 0, d = 0;
    for (size_t part = n / 32, i = 0; i < part; i++) {
        a += words[i];
        b += words[part + i];
        c += words[2 * part + i];
        d += words[3 * part + i];
    }
    return a + b + c + d;
}

void rows_ref_init(cpu_kernels *k) {
    k->rmsnorm = rmsnorm;
    k->rmsnorm_add = rmsnorm_add;
    k->rope = rope;
    k->glu[GLU_SILU] = glu_silu;
    k->glu[GLU_GELU_TANH] = glu_gelu_tanh;
    k->scale = scale;
    k->softcap = softcap;
    k->sum_squares = sum_squares;
    k->to_bf16 = to_bf16;
    k->to_fp8 = to_fp8;
    k->read_all = read_all;
}
