/* SPDX-License-Identifier: Apache-2.0
 *
 * The softmax of a page of attention, V_LANES query rows at a time, in the vectors of the rung that includes
 * this.
 */
#ifndef CPU_VEC_SOFTMAX_PAGE_H
#define CPU_VEC_SOFTMAX_PAGE_H

#include "cpu/attn_page.h"
#include "cpu/vec/vmath.h"

enum { KEY_VECTORS = KEYS / V_LANES };

/* Hides what the row does not see: scores of -infinity. */
INLINE void hide_scores(const attn_page_job *job, int row, vfloat *v) {
    float *s = job->scratch + (size_t)row * KEYS;
    for (int j = 0; j < KEY_VECTORS; j++) {
        vmask seen = vf_range(job->first[row], job->last[row], j);
        v[j] = vf_select(seen, v[j], vf_set(-__builtin_inff()));
        vf_store(s + V_LANES * j, v[j]);
    }
}

/* One of a row's vectors, by pairs: a fixed order. */
#define BY_PAIRS(name, op)                                                                                   \
    INLINE vfloat name(vfloat *v) {                                                                          \
        for (int n = KEY_VECTORS / 2; n > 0; n /= 2)                                                         \
            for (int i = 0; i < n; i++)                                                                      \
                v[i] = op(v[2 * i], v[2 * i + 1]);                                                           \
        return v[0];                                                                                         \
    }

BY_PAIRS(max_by_pairs, vf_max)
BY_PAIRS(sum_by_pairs, vf_add)

/* Maxima of the scores of N <= V_LANES rows from ROW on; caps them, and hides what they do not see. Where a
 * score is NaN the maximum may be anything: the score's weight is NaN, and so is the sum. */
INLINE vfloat score_maxima(const attn_page_job *job, int row, int n) {
    vfloat most[V_LANES];
    for (int r = 0; r < V_LANES; r++)
        most[r] = vf_zero();
    for (int r = 0; r < n; r++) {
        float *s = job->scratch + (size_t)(row + r) * KEYS;
        vfloat v[KEY_VECTORS];
        if (job->first_less && job->first[row + r] == 0)
            s[0] -= job->first_less[row + r];
        for (int j = 0; j < KEY_VECTORS; j++)
            v[j] = vf_load(s + V_LANES * j);
        for (int j = 0; j < KEY_VECTORS && job->cap != 0; j++)
            vf_store(s + V_LANES * j, v[j] = vmath_softcap(v[j], job->cap));
        if (job->last[row + r] - job->first[row + r] < KEYS)
            hide_scores(job, row + r, v);
        most[r] = max_by_pairs(v);
    }
    return max_across(most);
}

/* Scores of N <= V_LANES rows become weights exp(s - max), and those times VALUE_FACTORS (per key); returns
 * the sums of the weights and the maxima of what is stored. A hidden key's factor may be anything; a NaN of
 * any other shows, even where the weight is 0. */
INLINE vfloat make_weights(const attn_page_job *job, int row, int n, const float *max,
                           const float *value_factors, vfloat *stored_max) {
    vfloat sum[V_LANES], most[V_LANES];
    for (int r = 0; r < V_LANES; r++)
        sum[r] = most[r] = vf_zero();
    for (int r = 0; r < n; r++) {
        float *s = job->scratch + (size_t)(row + r) * KEYS;
        vfloat v[KEY_VECTORS];
        for (int j = 0; j < KEY_VECTORS; j++) {
            vfloat x = vf_sub(vf_load(s + V_LANES * j), vf_set(max[r]));
            v[j] = vmath_exp_negative(x);
            vfloat stored = v[j];
            if (value_factors)
                stored = vf_where(vf_differs(x, vf_set(-__builtin_inff())),
                                  vf_mul(stored, vf_load(value_factors + V_LANES * j)));
            vf_store(s + V_LANES * j, stored);
            most[r] = larger(most[r], stored);
        }
        sum[r] = sum_by_pairs(v);
    }
    *stored_max = larger_across(most);
    return sum_across(sum);
}

/* The softmax of a page for all rows of the job, whose scores stand in scratch. What is left there are
 * weights times VALUE_FACTORS (NULL: 1); c and c2 are the factors that go with the old values and this
 * page's; stored_max [n_rows] may be NULL. The rows' maxima and sums are joined as attn_join does. */
INLINE void softmax_page(const attn_page_job *job, const float *value_factors, float *c, float *c2,
                         float *stored_max) {
    for (int row = 0; row < job->n_rows; row += V_LANES) {
        int n = job->n_rows - row < V_LANES ? job->n_rows - row : V_LANES;
        vmask m = vf_first((size_t)n);
        vfloat max = score_maxima(job, row, n), most;
        float maxima[V_LANES];
        vf_store(maxima, max);
        vfloat sum = make_weights(job, row, n, maxima, value_factors, &most);
        vfloat old_max = vf_load_masked(job->max + row, m), both = vf_max(old_max, max);
        vfloat f = vmath_exp_negative(vf_sub(old_max, both)), f2 = vmath_exp_negative(vf_sub(max, both));
        vfloat old_sum = vf_mul(vf_load_masked(job->sum + row, m), f);
        vf_store_masked(job->max + row, m, both);
        vf_store_masked(job->sum + row, m, vf_fma(sum, f2, old_sum));
        vf_store_masked(c + row, m, f);
        vf_store_masked(c2 + row, m, f2);
        if (stored_max)
            vf_store_masked(stored_max + row, m, most);
    }
}

#endif
