/* SPDX-License-Identifier: Apache-2.0
 *
 * One page of attention in the vectors of the rung that includes this; ref/attn_ref.c says what it computes,
 * kv.h how pages lie.
 *
 * Scores: lanes are keys; a tile of query rows times keys is held in registers and goes once through the
 * dimensions, two at a time: one load of keys gives both. Values: lanes are dimensions; a tile of rows times
 * dimensions goes once through the page's keys. A load of values gives the even and the odd dimensions apart;
 * they are put in order at the end. BF16 and FP8 become FP32 in registers.
 *
 * Sums run over dimensions (scores) and over keys (values) in order whatever the tile, so a row's bits do not
 * depend on its neighbours.
 *
 * From the rung, beside its page loads: SCORE_ROWS, VALUE_ROWS, rows of a tile; VALUE_PAIRS, vectors of pairs
 * of dimensions in a tile of values; MOST_VECTORS of keys in a tile of scores; all_scores, which cuts the
 * keys [first, last) into such tiles.
 */

/* Scores of R rows and key vectors [v0, v0 + NV) into scratch. AHEAD: the first time through the page. */
INLINE void scores_tile(nib_kv_dtype type, const attn_page_job *job, int row, int R, size_t v0, int NV,
                        bool ahead) {
    vfloat s[SCORE_ROWS][MOST_VECTORS];
    const float *const *q = job->q + row;
    for (int r = 0; r < R; r++)
        for (int v = 0; v < NV; v++)
            s[r][v] = vf_zero();
    size_t line = 2 * KEYS * code_bytes(type);
    for (size_t i = 0; i < job->head_dim / 2; i++) {
        pair k[MOST_VECTORS];
        if (ahead)
            attn_prefetch(job->v, i * line, line);
        for (int v = 0; v < NV; v++)
            k[v] = load_keys(type, job->k, i, v0 + (size_t)v);
        for (int r = 0; r < R; r++) {
            vfloat even = vf_set(q[r][2 * i]), odd = vf_set(q[r][2 * i + 1]);
            for (int v = 0; v < NV; v++) {
                s[r][v] = vf_fma(even, k[v].even, s[r][v]);
                s[r][v] = vf_fma(odd, k[v].odd, s[r][v]);
            }
        }
    }
    vfloat factor[MOST_VECTORS];
    for (int v = 0; v < NV; v++) {
        factor[v] = vf_set(type == NIB_KV_FP8 ? job->scale * 256 : job->scale);
        if (type == NIB_KV_FP8) /* whose loads give value * 2^-8 */
            factor[v] = vf_mul(factor[v], vf_load(job->k_scale + V_LANES * (v0 + (size_t)v)));
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < NV; v++)
            vf_store(job->scratch + (size_t)(row + r) * KEYS + V_LANES * (v0 + (size_t)v),
                     vf_mul(s[r][v], factor[v]));
}

INLINE void all_scores(nib_kv_dtype type, const attn_page_job *job, int row, int R, size_t first,
                       size_t last);

/* Weighted values of R rows and NC vectors of pairs of dimensions from pair I on (the last with N pairs),
 * joined to acc. */
INLINE void values_tile(nib_kv_dtype type, const attn_page_job *job, int row, int R, size_t i, int NC,
                        size_t n, size_t first, size_t last, const float *c, const float *c2, bool ahead) {
    pair a[VALUE_ROWS][VALUE_PAIRS];
    const float *weights = job->scratch + (size_t)row * KEYS;
    for (int r = 0; r < R; r++)
        for (int j = 0; j < NC; j++)
            a[r][j] = (pair){vf_zero(), vf_zero()};
    size_t line = 2 * V_LANES * VALUE_PAIRS * code_bytes(type); /* of the next page, per turn */
    for (size_t t = first; t < last; t++) {
        pair v[VALUE_PAIRS];
        if (ahead)
            attn_prefetch(job->next_k, i * KEYS * 2 * code_bytes(type) + t * line, line);
        for (int j = 0; j < NC; j++)
            v[j] = load_values(type, job->v, job->head_dim, t, i + V_LANES * (size_t)j,
                               j + 1 < NC ? V_LANES : n);
        for (int r = 0; r < R; r++) {
            vfloat w = vf_set(weights[(size_t)r * KEYS + t]);
            for (int j = 0; j < NC; j++) {
                a[r][j].even = vf_fma(w, v[j].even, a[r][j].even);
                a[r][j].odd = vf_fma(w, v[j].odd, a[r][j].odd);
            }
        }
    }
    for (int r = 0; r < R; r++)
        for (int j = 0; j < NC; j++) {
            float *acc = job->acc + (size_t)(row + r) * job->acc_stride + 2 * (i + V_LANES * (size_t)j);
            size_t there = 2 * (j + 1 < NC ? V_LANES : n);
            vmask m = vf_first(there), m2 = vf_first(there > V_LANES ? there - V_LANES : 0);
            vfloat old = vf_set(c[row + r]), new = vf_set(c2[row + r]);
            pair p = in_order(type, a[r][j]);
            vfloat x = vf_mul(vf_load_masked(acc, m), old);
            vfloat y = vf_mul(vf_load_masked(acc + V_LANES, m2), old);
            vf_store_masked(acc, m, vf_fma(p.even, new, x));
            vf_store_masked(acc + V_LANES, m2, vf_fma(p.odd, new, y));
        }
}

INLINE void all_values(nib_kv_dtype type, const attn_page_job *job, int row, int R, size_t first, size_t last,
                       const float *c, const float *c2) {
    size_t pairs = job->head_dim / 2, i = 0, step = VALUE_PAIRS * V_LANES;
    bool ahead = row == 0 && job->next_k && attn_prefetch_wanted(job);
    for (; i + step <= pairs; i += step)
        if (ahead)
            values_tile(type, job, row, R, i, VALUE_PAIRS, V_LANES, first, last, c, c2, true);
        else
            values_tile(type, job, row, R, i, VALUE_PAIRS, V_LANES, first, last, c, c2, false);
    for (; i < pairs; i += V_LANES)
        values_tile(type, job, row, R, i, 1, pairs - i < V_LANES ? pairs - i : V_LANES, first, last, c, c2,
                    false);
}

/* Whether the values of keys [first, last) are finite: others times 0 are NaN. */
INLINE bool values_finite(nib_kv_dtype type, const attn_page_job *job, size_t first, size_t last) {
    vfloat sum = vf_zero(), zero = sum;
    size_t pairs = job->head_dim / 2;
    for (size_t t = first; t < last; t++)
        for (size_t i = 0; i < pairs; i += V_LANES) {
            pair v =
                load_values(type, job->v, job->head_dim, t, i, pairs - i < V_LANES ? pairs - i : V_LANES);
            sum = vf_fma(v.odd, zero, vf_fma(v.even, zero, sum));
        }
    return !vf_any(vf_is_nan(sum));
}

INLINE void attn_page(nib_kv_dtype type, const attn_page_job *job) {
    float c[ATTN_MAX_ROWS], c2[ATTN_MAX_ROWS], factors[KEYS];
    size_t first, last;
    seen_by_any(job, &first, &last);
#define SCORES(R) all_scores(type, job, row, R, first, last)
    BY_ROWS(SCORES, SCORE_ROWS, job->n_rows);
    for (size_t t = 0; t < KEYS && type == NIB_KV_FP8; t++)
        factors[t] = job->v_scale[t] * 256;
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

/* With the operations of softmax_page and values_tile: the same bits. */
static void attn_join(float *acc, float *max, float *sum, const float *acc2, float max2, float sum2,
                      size_t n) {
    vfloat old_max = vf_set(*max), new_max = vf_set(max2), both = vf_max(old_max, new_max);
    vfloat f = vmath_exp_negative(vf_sub(old_max, both)), f2 = vmath_exp_negative(vf_sub(new_max, both));
    for (size_t i = 0; i < n; i += V_LANES) {
        vmask m = vf_first(n - i);
        vfloat x = vf_mul(vf_load_masked(acc + i, m), f);
        vf_store_masked(acc + i, m, vf_fma(vf_load_masked(acc2 + i, m), f2, x));
    }
    *sum = vf_lane0(vf_fma(vf_set(sum2), f2, vf_mul(vf_set(*sum), f)));
    *max = vf_lane0(both);
}

static void attn_end(float *out, const float *acc, float sum, size_t n) {
    vfloat all = vf_set(sum);
    for (size_t i = 0; i < n; i += V_LANES) {
        vmask m = vf_first(n - i);
        vf_store_masked(out + i, m, vf_add(vf_div(vf_load_masked(acc + i, m), all), vf_zero()));
    }
}

void V_RUNG(attn_init)(cpu_kernels *k) {
    attn_page_set(k->attn_page);
    k->attn_join = attn_join;
    k->attn_end = attn_end;
}
