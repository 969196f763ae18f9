/* SPDX-License-Identifier: Apache-2.0
 *
 * One page of attention for some query rows, written to be read. Layouts: kv.h.
 */
#include <math.h>

#include "cpu/attn_page.h"
#include "num/fp8.h"

static float key(const attn_page_job *job, nib_kv_dtype type, size_t t, size_t i) {
    size_t pair = (i / 2 * KV_PAGE_TOKENS + t) * 2 + i % 2;
    if (type == NIB_KV_FP32)
        return ((const float *)job->k)[i * KV_PAGE_TOKENS + t];
    return type == NIB_KV_FP8 ? e4m3_to_f32(((const uint8_t *)job->k)[pair])
                              : bf16_to_f32(((const uint16_t *)job->k)[pair]);
}

static float value(const attn_page_job *job, nib_kv_dtype type, size_t t, size_t i) {
    size_t at = t * job->head_dim + i;
    if (type == NIB_KV_FP32)
        return ((const float *)job->v)[at];
    return type == NIB_KV_FP8 ? e4m3_to_f32(((const uint8_t *)job->v)[at])
                              : bf16_to_f32(((const uint16_t *)job->v)[at]);
}

/* acc, max, sum become those of both: every weight exp(s - max) is moved to the common maximum. */
static void attn_join(float *acc, float *max, float *sum, const float *acc2, float max2, float sum2,
                      size_t n) {
    float both = *max > max2 ? *max : max2, c = expf(*max - both), c2 = expf(max2 - both);
    for (size_t i = 0; i < n; i++)
        acc[i] = acc[i] * c + acc2[i] * c2;
    *sum = *sum * c + sum2 * c2;
    *max = both;
}

static void attn_end(float *out, const float *acc, float sum, size_t n) {
    for (size_t i = 0; i < n; i++)
        out[i] = acc[i] / sum + 0.0f;
}

/* One row: scores, softmax weights of the page, weighted values; joined dimension by dimension. */
static void attend_row(const attn_page_job *job, nib_kv_dtype type, int r) {
    float weights[KV_PAGE_TOKENS], max = -INFINITY, sum = 0;
    size_t first = job->first[r], last = job->last[r];
    for (size_t t = first; t < last; t++) {
        float s = 0;
        for (size_t i = 0; i < job->head_dim; i++)
            s += job->q[r][i] * key(job, type, t, i);
        weights[t] = s * job->scale * (type == NIB_KV_FP8 ? job->k_scale[t] : 1.0f);
        if (job->first_less && t == 0)
            weights[t] -= job->first_less[r];
        if (job->cap != 0)
            weights[t] = job->cap * tanhf(weights[t] / job->cap);
        max = weights[t] > max ? weights[t] : max;
    }
    for (size_t t = first; t < last; t++) {
        weights[t] = expf(weights[t] - max);
        sum += weights[t];
        if (type == NIB_KV_FP8)
            weights[t] *= job->v_scale[t];
    }
    float *acc = job->acc + (size_t)r * job->acc_stride, all_max = job->max[r], all_sum = job->sum[r];
    for (size_t i = 0; i < job->head_dim; i++) {
        float a = 0;
        for (size_t t = first; t < last; t++)
            a += weights[t] * value(job, type, t, i);
        all_max = job->max[r], all_sum = job->sum[r];
        attn_join(acc + i, &all_max, &all_sum, &a, max, sum, 1);
    }
    job->max[r] = all_max;
    job->sum[r] = all_sum;
}

static void attn_page(nib_kv_dtype type, const attn_page_job *job) {
    for (int r = 0; r < job->n_rows; r++)
        attend_row(job, type, r);
}

ATTN_PAGE_TYPES

void attn_ref_init(cpu_kernels *k) {
    attn_page_set(k->attn_page);
    k->attn_join = attn_join;
    k->attn_end = attn_end;
}
