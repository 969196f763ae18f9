/* SPDX-License-Identifier: Apache-2.0
 *
 * One page of attention with integer operands, written to be read: what the fast files are tested against. No
 * rung's table holds it, since FP32 serves scalar code as well. Layouts: kv.h.
 *
 *   k = round(key / k_step), 12 bits     q = round(query / q_step), 13 bits
 *   score = (sum of q k) * q_step * k_step * scale         (FP8 keys: times the key's scale)
 *   weight = exp(score - page maximum)
 *   w = round(weight * v_step / w_step), 8 bits, w_step = the row's largest weight * v_step, / 255
 *   v = round(value / v_step), 8 bits                      (FP8 values: v_step times the value's scale)
 *   page's values = (sum of w v) * w_step                  joined to those before as in attn_ref.c
 *
 * A vector that is not finite has the step NaN, and so has every sum that it enters.
 */
#include <math.h>

#include "cpu/attn_page.h"
#include "num/fp8.h"

/* round(x / step), rounded once: by an addition where FP32 counts in ones. All is zero where the step is 0 or
 * NaN. */
static int32_t steps_of(float x, float step) {
    const float ones = 0x1.8p23f;
    return step > 0 ? (int32_t)(fmaf(x, 1 / step, ones) - ones) : 0;
}

/* The larger of numbers >= 0, NaN the largest of all: by their bits. */
static float larger(float a, float b) {
    return f32_bits(a) > f32_bits(b) ? a : b;
}

static void quantize(int16_t *codes, float *step, const float *q, size_t d) {
    float most = 0;
    for (size_t i = 0; i < d; i++)
        most = larger(most, fabsf(q[i]));
    *step = most < INFINITY ? most / (float)ATTN_Q_MAX : NAN;
    for (size_t i = 0; i < d; i++)
        codes[i] = (int16_t)steps_of(q[i], *step);
}

static float stored(nib_kv_dtype type, const void *codes, size_t at) {
    if (type == NIB_KV_FP32)
        return ((const float *)codes)[at];
    return type == NIB_KV_FP8 ? e4m3_to_f32(((const uint8_t *)codes)[at])
                              : bf16_to_f32(((const uint16_t *)codes)[at]);
}

static float score_of(const attn_page_job *job, nib_kv_dtype type, int r, size_t t) {
    int32_t dot = 0;
    for (size_t i = 0; i < job->head_dim; i++) {
        size_t at = type == NIB_KV_FP32 ? i * KV_PAGE_TOKENS + t : (i / 2 * KV_PAGE_TOKENS + t) * 2 + i % 2;
        dot += job->q16[(size_t)r * job->head_dim + i] * steps_of(stored(type, job->k, at), job->k_steps[t]);
    }
    return (float)dot * (job->q_steps[r] * job->k_steps[t]) * job->scale *
           (type == NIB_KV_FP8 ? job->k_scale[t] : 1.0f);
}

static void attend_row(const attn_page_job *job, nib_kv_dtype type, int r) {
    float weights[KV_PAGE_TOKENS], max = -INFINITY, sum = 0, most = 0;
    size_t first = job->first[r], last = job->last[r], d = job->head_dim;
    for (size_t t = first; t < last; t++) {
        weights[t] = score_of(job, type, r, t);
        if (job->first_less && t == 0)
            weights[t] -= job->first_less[r];
        if (job->cap != 0)
            weights[t] = job->cap * tanhf(weights[t] / job->cap);
        max = weights[t] > max ? weights[t] : max;
    }
    for (size_t t = first; t < last; t++) {
        weights[t] = expf(weights[t] - max);
        sum += weights[t];
        weights[t] *= job->v_steps[t] * (type == NIB_KV_FP8 ? job->v_scale[t] : 1.0f);
        most = larger(most, weights[t]);
    }
    float step = most / 255.0f, both = job->max[r] > max ? job->max[r] : max;
    float c = expf(job->max[r] - both), c2 = expf(max - both), *acc = job->acc + (size_t)r * job->acc_stride;
    for (size_t i = 0; i < d; i++) {
        int32_t dot = 0;
        for (size_t t = first; t < last; t++)
            dot += steps_of(weights[t], step) * steps_of(stored(type, job->v, t * d + i), job->v_steps[t]);
        acc[i] = acc[i] * c + (float)dot * step * c2;
    }
    job->sum[r] = job->sum[r] * c + sum * c2;
    job->max[r] = both;
}

static void attn_page(nib_kv_dtype type, const attn_page_job *job) {
    for (int r = 0; r < job->n_rows; r++)
        attend_row(job, type, r);
}

ATTN_PAGE_TYPES

void attn_int_ref_init(cpu_kernels *k) {
    k->attn_quantize = quantize;
    attn_page_set(k->attn_page_int);
}
