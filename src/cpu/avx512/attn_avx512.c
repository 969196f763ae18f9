/* SPDX-License-Identifier: Apache-2.0
 *
 * One page of attention, 16 lanes; ref/attn_ref.c says what it computes, kv.h how pages lie.
 *
 * Scores: lanes are 16 keys; a tile of up to 6 query rows times 64 keys is held in 24 registers and goes once
 * through the dimensions, two at a time: one load of keys gives both. Values: lanes are dimensions; a tile of
 * up to 6 rows times 64 dimensions goes once through the page's keys. A load of 32 values gives the even and
 * the odd dimensions apart; they are put in order at the end. BF16 and FP8 become FP32 in registers.
 *
 * Sums run over dimensions (scores) and over keys (values) in order whatever the tile, so a row's bits do not
 * depend on its neighbours.
 */
#include "cpu/avx512/attn_page512.h"

/* Raw q.k of R rows and key vectors [v0, v0 + NV) into scratch. */
INLINE void scores_tile(nib_kv_dtype type, const attn_page_job *job, int row, int R, size_t v0, int NV,
                        bool ahead) {
    __m512 s[ROWS][4];
    const float *const *q = job->q + row;
    for (int r = 0; r < R; r++)
        for (int v = 0; v < NV; v++)
            s[r][v] = _mm512_setzero_ps();
    size_t line = 2 * KEYS * code_bytes(type);
    for (size_t i = 0; i < job->head_dim / 2; i++) {
        pair k[4];
        if (ahead)
            attn_prefetch(job->v, i * line, line);
        for (int v = 0; v < NV; v++)
            k[v] = load_keys(type, job->k, i, v0 + (size_t)v);
        for (int r = 0; r < R; r++) {
            __m512 even = _mm512_set1_ps(q[r][2 * i]), odd = _mm512_set1_ps(q[r][2 * i + 1]);
            for (int v = 0; v < NV; v++) {
                s[r][v] = _mm512_fmadd_ps(even, k[v].even, s[r][v]);
                s[r][v] = _mm512_fmadd_ps(odd, k[v].odd, s[r][v]);
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < NV; v++)
            _mm512_store_ps(job->scratch + (size_t)(row + r) * KEYS + 16 * (v0 + (size_t)v), s[r][v]);
}

/* Weighted values of R rows and NC * 32 dimensions (the last N pairs of them there), joined to acc. */
INLINE void values_tile(nib_kv_dtype type, const attn_page_job *job, int row, int R, size_t i, int NC,
                        size_t n, size_t first, size_t last, const float *c, const float *c2, bool ahead) {
    pair a[ROWS][2];
    const float *weights = job->scratch + (size_t)row * KEYS;
    for (int r = 0; r < R; r++)
        for (int j = 0; j < NC; j++)
            a[r][j] = (pair){_mm512_setzero_ps(), _mm512_setzero_ps()};
    size_t line = 64 * code_bytes(type);
    for (size_t t = first; t < last; t++) {
        pair v[2];
        if (ahead)
            attn_prefetch(job->next_k, (i * 2 + t) * line, line);
        for (int j = 0; j < NC; j++)
            v[j] = load_values(type, job->v, job->head_dim, t, i + 16 * (size_t)j, j + 1 < NC ? 16 : n);
        for (int r = 0; r < R; r++) {
            __m512 w = _mm512_set1_ps(weights[(size_t)r * KEYS + t]);
            for (int j = 0; j < NC; j++) {
                a[r][j].even = _mm512_fmadd_ps(w, v[j].even, a[r][j].even);
                a[r][j].odd = _mm512_fmadd_ps(w, v[j].odd, a[r][j].odd);
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int j = 0; j < NC; j++) {
            float *acc = job->acc + (size_t)(row + r) * job->acc_stride + 2 * i + 32 * (size_t)j;
            size_t there = 2 * (j + 1 < NC ? 16 : n);
            __mmask16 m = lanes(there), m2 = there > 16 ? lanes(there - 16) : 0;
            __m512 old = _mm512_set1_ps(c[row + r]), new = _mm512_set1_ps(c2[row + r]);
            pair p = in_order(type, a[r][j]);
            __m512 x = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, acc), old);
            __m512 y = _mm512_mul_ps(_mm512_maskz_loadu_ps(m2, acc + 16), old);
            _mm512_mask_storeu_ps(acc, m, _mm512_fmadd_ps(p.even, new, x));
            _mm512_mask_storeu_ps(acc + 16, m2, _mm512_fmadd_ps(p.odd, new, y));
        }
}

INLINE void all_scores(nib_kv_dtype type, const attn_page_job *job, int row, int R, size_t first,
                       size_t last) {
    size_t v0 = first / 16, v1 = (last + 15) / 16;
    if (v1 - v0 == 1)
        scores_tile(type, job, row, R, v0, 1, false);
    else if (v1 - v0 == 2)
        scores_tile(type, job, row, R, v0, 2, false);
    else if (row == 0 && attn_prefetch_wanted(job))
        scores_tile(type, job, row, R, 0, 4, true);
    else
        scores_tile(type, job, row, R, 0, 4, false);
}

INLINE void all_values(nib_kv_dtype type, const attn_page_job *job, int row, int R, size_t first, size_t last,
                       const float *c, const float *c2) {
    size_t pairs = job->head_dim / 2, i = 0;
    bool ahead = row == 0 && job->next_k && attn_prefetch_wanted(job);
    for (; i + 32 <= pairs; i += 32)
        if (ahead)
            values_tile(type, job, row, R, i, 2, 16, first, last, c, c2, true);
        else
            values_tile(type, job, row, R, i, 2, 16, first, last, c, c2, false);
    for (; i < pairs; i += 16)
        values_tile(type, job, row, R, i, 1, pairs - i < 16 ? pairs - i : 16, first, last, c, c2, false);
}

/* Whether the values of keys [first, last) are finite: others times 0 are NaN. */
INLINE bool values_finite(nib_kv_dtype type, const attn_page_job *job, size_t first, size_t last) {
    __m512 sum = _mm512_setzero_ps(), zero = sum;
    size_t pairs = job->head_dim / 2;
    for (size_t t = first; t < last; t++)
        for (size_t i = 0; i < pairs; i += 16) {
            pair v = load_values(type, job->v, job->head_dim, t, i, pairs - i < 16 ? pairs - i : 16);
            sum = _mm512_fmadd_ps(v.odd, zero, _mm512_fmadd_ps(v.even, zero, sum));
        }
    return _mm512_cmp_ps_mask(sum, sum, _CMP_UNORD_Q) == 0;
}

INLINE void attn_page(nib_kv_dtype type, const attn_page_job *job) {
    float c[ATTN_MAX_ROWS], c2[ATTN_MAX_ROWS];
    size_t first, last;
    seen_by_any(job, &first, &last);
#define SCORES(R) all_scores(type, job, row, R, first, last)
    BY_ROWS(SCORES, ROWS, job->n_rows);
    __m512 scales[4];
    for (int j = 0; j < 4 && type == NIB_KV_FP8; j++) /* loads of FP8 give value * 2^-8 */
        scales[j] = _mm512_mul_ps(_mm512_loadu_ps(job->v_scale + 16 * j), _mm512_set1_ps(256.0f));
    softmax_page(type, job, type == NIB_KV_FP8 ? job->scale * 256 : job->scale,
                 type == NIB_KV_FP8 ? scales : NULL, c, c2, NULL);
    if (type != NIB_KV_FP8 && !all_see(job, first, last) && !values_finite(type, job, first, last)) {
        for (int row = 0; row < job->n_rows; row++) /* a weight of 0 does not hide a NaN */
            all_values(type, job, row, 1, job->first[row], job->last[row], c, c2);
        return;
    }
#define VALUES(R) all_values(type, job, row, R, first, last, c, c2)
    BY_ROWS(VALUES, ROWS, job->n_rows);
}

ATTN_PAGE_TYPES

/* With the operations of softmax_page and values_tile: the same bits. */
static void attn_join(float *acc, float *max, float *sum, const float *acc2, float max2, float sum2,
                      size_t n) {
    __m512 old_max = _mm512_set1_ps(*max), new_max = _mm512_set1_ps(max2);
    __m512 both = _mm512_max_ps(old_max, new_max);
    __m512 f = vmath_exp_negative(_mm512_sub_ps(old_max, both));
    __m512 f2 = vmath_exp_negative(_mm512_sub_ps(new_max, both));
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 m = lanes(n - i);
        __m512 x = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, acc + i), f);
        _mm512_mask_storeu_ps(acc + i, m, _mm512_fmadd_ps(_mm512_maskz_loadu_ps(m, acc2 + i), f2, x));
    }
    __m512 old_sum = _mm512_mul_ps(_mm512_set1_ps(*sum), f);
    *sum = _mm512_cvtss_f32(_mm512_fmadd_ps(_mm512_set1_ps(sum2), f2, old_sum));
    *max = _mm512_cvtss_f32(both);
}

static void attn_end(float *out, const float *acc, float sum, size_t n) {
    __m512 all = _mm512_set1_ps(sum);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 m = lanes(n - i);
        __m512 x = _mm512_div_ps(_mm512_maskz_loadu_ps(m, acc + i), all);
        _mm512_mask_storeu_ps(out + i, m, _mm512_add_ps(x, _mm512_setzero_ps()));
    }
}

void attn_avx512_init(cpu_kernels *k) {
    attn_page_set(k->attn_page);
    k->attn_join = attn_join;
    k->attn_end = attn_end;
}
