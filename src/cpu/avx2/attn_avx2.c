/* SPDX-License-Identifier: Apache-2.0
 *
 * One page of attention, 8 lanes; ref/attn_ref.c says what it computes, kv.h how pages lie. As the AVX-512
 * file, with smaller tiles for 16 registers: scores of 4 rows times 16 keys (or 2 times 32), values of 6 rows
 * times 16 dimensions.
 *
 * Sums run over dimensions (scores) and over keys (values) in order whatever the tile, so a row's bits do not
 * depend on its neighbours.
 */
#include "cpu/avx2/attn_page256.h"

enum { SCORE_ROWS = 4, VALUE_ROWS = 6 };

/* Scores of R rows and key vectors [v0, v0 + NV) into scratch. AHEAD: the first time through the page. */
INLINE void scores_tile(nib_kv_dtype type, const attn_page_job *job, int row, int R, size_t v0, int NV,
                        bool ahead) {
    __m256 s[SCORE_ROWS][4];
    const float *const *q = job->q + row;
    for (int r = 0; r < R; r++)
        for (int v = 0; v < NV; v++)
            s[r][v] = _mm256_setzero_ps();
    size_t line = 2 * KEYS * code_bytes(type);
    for (size_t i = 0; i < job->head_dim / 2; i++) {
        pair k[4];
        if (ahead)
            attn_prefetch(job->v, i * line, line);
        for (int v = 0; v < NV; v++)
            k[v] = load_keys(type, job->k, i, v0 + (size_t)v);
        for (int r = 0; r < R; r++) {
            __m256 even = _mm256_set1_ps(q[r][2 * i]), odd = _mm256_set1_ps(q[r][2 * i + 1]);
            for (int v = 0; v < NV; v++) {
                s[r][v] = _mm256_fmadd_ps(even, k[v].even, s[r][v]);
                s[r][v] = _mm256_fmadd_ps(odd, k[v].odd, s[r][v]);
            }
        }
    }
    __m256 factor[4];
    for (int v = 0; v < NV; v++) {
        factor[v] = _mm256_set1_ps(type == NIB_KV_FP8 ? job->scale * 256 : job->scale);
        if (type == NIB_KV_FP8)
            factor[v] = _mm256_mul_ps(factor[v], _mm256_loadu_ps(job->k_scale + 8 * (v0 + (size_t)v)));
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < NV; v++)
            _mm256_store_ps(job->scratch + (size_t)(row + r) * KEYS + 8 * (v0 + (size_t)v),
                            _mm256_mul_ps(s[r][v], factor[v]));
}

/* Weighted values of R rows and N <= 8 pairs of dimensions from pair I on, joined to acc. */
INLINE void values_tile(nib_kv_dtype type, const attn_page_job *job, int row, int R, size_t i, size_t n,
                        size_t first, size_t last, const float *c, const float *c2, bool ahead) {
    pair a[VALUE_ROWS];
    const float *weights = job->scratch + (size_t)row * KEYS;
    for (int r = 0; r < R; r++)
        a[r] = (pair){_mm256_setzero_ps(), _mm256_setzero_ps()};
    size_t line = 16 * code_bytes(type);
    for (size_t t = first; t < last; t++) {
        if (ahead)
            attn_prefetch(job->next_k, i * KEYS * 2 * code_bytes(type) + t * line, line);
        pair v = load_values(type, job->v, job->head_dim, t, i, n);
        for (int r = 0; r < R; r++) {
            __m256 w = _mm256_set1_ps(weights[(size_t)r * KEYS + t]);
            a[r].even = _mm256_fmadd_ps(w, v.even, a[r].even);
            a[r].odd = _mm256_fmadd_ps(w, v.odd, a[r].odd);
        }
    }
    __m256i m = vf_first(2 * n), m2 = vf_first(n > 4 ? 2 * n - 8 : 0);
    for (int r = 0; r < R; r++) {
        float *acc = job->acc + (size_t)(row + r) * job->acc_stride + 2 * i;
        __m256 old = _mm256_set1_ps(c[row + r]), new = _mm256_set1_ps(c2[row + r]);
        pair p = in_order(type, a[r]);
        __m256 x = _mm256_mul_ps(_mm256_maskload_ps(acc, m), old);
        __m256 y = _mm256_mul_ps(_mm256_maskload_ps(acc + 8, m2), old);
        _mm256_maskstore_ps(acc, m, _mm256_fmadd_ps(p.even, new, x));
        _mm256_maskstore_ps(acc + 8, m2, _mm256_fmadd_ps(p.odd, new, y));
    }
}

INLINE void all_scores(nib_kv_dtype type, const attn_page_job *job, int row, int R, size_t first,
                       size_t last) {
    size_t step = R <= 2 ? 4 : 2, start = first / (8 * step) * step;
    for (size_t v = start; v < (last + 7) / 8; v += step)
        if (row == 0 && v == start && attn_prefetch_wanted(job))
            scores_tile(type, job, row, R, v, R <= 2 ? 4 : 2, true);
        else
            scores_tile(type, job, row, R, v, R <= 2 ? 4 : 2, false);
}

INLINE void all_values(nib_kv_dtype type, const attn_page_job *job, int row, int R, size_t first, size_t last,
                       const float *c, const float *c2) {
    size_t pairs = job->head_dim / 2, i = 0;
    bool ahead = row == 0 && job->next_k && attn_prefetch_wanted(job);
    for (; i + 8 <= pairs; i += 8)
        if (ahead)
            values_tile(type, job, row, R, i, 8, first, last, c, c2, true);
        else
            values_tile(type, job, row, R, i, 8, first, last, c, c2, false);
    if (i < pairs)
        values_tile(type, job, row, R, i, pairs - i, first, last, c, c2, false);
}

/* Whether the values of keys [first, last) are finite: others times 0 are NaN. */
INLINE bool values_finite(nib_kv_dtype type, const attn_page_job *job, size_t first, size_t last) {
    __m256 sum = _mm256_setzero_ps(), zero = sum;
    size_t pairs = job->head_dim / 2;
    for (size_t t = first; t < last; t++)
        for (size_t i = 0; i < pairs; i += 8) {
            pair v = load_values(type, job->v, job->head_dim, t, i, pairs - i < 8 ? pairs - i : 8);
            sum = _mm256_fmadd_ps(v.odd, zero, _mm256_fmadd_ps(v.even, zero, sum));
        }
    return _mm256_movemask_ps(_mm256_cmp_ps(sum, sum, _CMP_UNORD_Q)) == 0;
}

INLINE void attn_page(nib_kv_dtype type, const attn_page_job *job) {
    float c[ATTN_MAX_ROWS], c2[ATTN_MAX_ROWS];
    size_t first, last;
    seen_by_any(job, &first, &last);
#define SCORES(R) all_scores(type, job, row, R, first, last)
    BY_ROWS(SCORES, SCORE_ROWS, job->n_rows);
    _Alignas(32) float factors[KEYS];
    for (size_t t = 0; t < KEYS; t++)
        factors[t] = type == NIB_KV_FP8 ? job->v_scale[t] * 256 : 1;
    softmax_page(job, type == NIB_KV_FP8 ? factors : NULL, c, c2, NULL);
    if (type != NIB_KV_FP8 && !all_see(job, first, last) && !values_finite(type, job, first, last)) {
        for (int row = 0; row < job->n_rows; row++) /* a weight of 0 does not hide a NaN */
            all_values(type, job, row, 1, job->first[row], job->last[row], c, c2);
        return;
    }
#define VALUES(R) all_values(type, job, row, R, first, last, c, c2)
    BY_ROWS(VALUES, VALUE_ROWS, job->n_rows);
}

ATTN_PAGE_TYPES

static void attn_join(float *acc, float *max, float *sum, const float *acc2, float max2, float sum2,
                      size_t n) {
    float both = *max > max2 ? *max : max2;
    __m256 both8 = _mm256_set1_ps(both);
    __m256 c = vmath_exp_negative(_mm256_sub_ps(_mm256_set1_ps(*max), both8));
    __m256 c2 = vmath_exp_negative(_mm256_sub_ps(_mm256_set1_ps(max2), both8));
    for (size_t i = 0; i < n; i += 8) {
        __m256i m = vf_first(n - i);
        __m256 x = _mm256_mul_ps(_mm256_maskload_ps(acc + i, m), c);
        x = _mm256_fmadd_ps(_mm256_maskload_ps(acc2 + i, m), c2, x);
        _mm256_maskstore_ps(acc + i, m, x);
    }
    *sum =
        _mm256_cvtss_f32(_mm256_fmadd_ps(_mm256_set1_ps(sum2), c2, _mm256_mul_ps(_mm256_set1_ps(*sum), c)));
    *max = both;
}

static void attn_end(float *out, const float *acc, float sum, size_t n) {
    for (size_t i = 0; i < n; i += 8) {
        __m256i m = vf_first(n - i);
        __m256 x = _mm256_div_ps(_mm256_maskload_ps(acc + i, m), _mm256_set1_ps(sum));
        _mm256_maskstore_ps(out + i, m, _mm256_add_ps(x, _mm256_setzero_ps()));
    }
}

void attn_avx2_init(cpu_kernels *k) {
    attn_page_set(k->attn_page);
    k->attn_join = attn_join;
    k->attn_end = attn_end;
}
