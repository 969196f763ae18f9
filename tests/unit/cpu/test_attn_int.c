/* SPDX-License-Identifier: Apache-2.0
 *
 * Integer attention, one page: the kernels of every rung against the readable ones of ref/attn_int_ref.c, at
 * the largest sums there are, and with operands that are not finite.
 */
#include "cpu_fixture.h"

#include "cpu/kernels.h"

static const nib_kv_dtype kv_types[] = {NIB_KV_BF16, NIB_KV_FP8, NIB_KV_FP32};

enum { D = ATTN_INT_MAX_DIM, PAGE_ROWS = 13 };

/* A page of one head with stored keys and values of TYPE, and what integer attention wants beside them. */
typedef struct page {
    _Alignas(64) float k[D * KV_PAGE_TOKENS], v[D * KV_PAGE_TOKENS]; /* room for any format */
    float k_scales[KV_PAGE_TOKENS], v_scales[KV_PAGE_TOKENS], k_steps[KV_PAGE_TOKENS],
        v_steps[KV_PAGE_TOKENS];
    float q[PAGE_ROWS][D];
} page;

static double store_code(nib_kv_dtype type, void *codes, size_t at, float x) {
    if (type == NIB_KV_FP32)
        return ((float *)codes)[at] = x;
    if (type == NIB_KV_BF16)
        return bf16_to_f32(((uint16_t *)codes)[at] = bf16_from_f32(x));
    return e4m3_to_f32(((uint8_t *)codes)[at] = e4m3_from_f32_sat(x));
}

static void fill_page(page *p, nib_kv_dtype type) {
    uint64_t state = 1234567;
    memset(p, 0, sizeof *p);
    for (size_t t = 0; t < KV_PAGE_TOKENS; t++) {
        double k_most = 0, v_most = 0;
        float size = t == 20 ? 0 : 1 + (float)(t % 7); /* one token of zeros */
        for (size_t i = 0; i < D; i++) {
            size_t at =
                type == NIB_KV_FP32 ? i * KV_PAGE_TOKENS + t : (i / 2 * KV_PAGE_TOKENS + t) * 2 + i % 2;
            k_most = fmax(k_most, fabs(store_code(type, p->k, at, size * fixture_normal(&state))));
            v_most = fmax(v_most, fabs(store_code(type, p->v, t * D + i, size * fixture_normal(&state))));
        }
        p->k_steps[t] = (float)k_most / KV_K_MAX;
        p->v_steps[t] = (float)v_most / KV_V_MAX;
        p->k_scales[t] = 0.5f + (float)t / 64;
        p->v_scales[t] = 1.5f - (float)t / 64;
    }
    for (size_t r = 0; r < PAGE_ROWS; r++)
        fixture_fill(p->q[r], D, r == 3 ? PATTERN_ZEROS : PATTERN_NORMAL, 0, r + 50);
}

/* Two passes over the page with kernels K; values, maxima and sums of the rows. */
static void attend_page_twice(const cpu_kernels *k, nib_kv_dtype type, const page *p, float *acc, float *max,
                              float *sum) {
    static _Alignas(64) float scratch[ATTN_MAX_ROWS * KV_PAGE_TOKENS];
    static _Alignas(64) uint8_t ints[KV_PAGE_TOKENS * D * 2], weights8[ATTN_MAX_ROWS * KV_PAGE_TOKENS];
    int16_t q16[PAGE_ROWS][D];
    float q_steps[PAGE_ROWS];
    uint8_t first[PAGE_ROWS], last[PAGE_ROWS];
    for (size_t r = 0; r < PAGE_ROWS; r++) {
        k->attn_quantize(q16[r], &q_steps[r], p->q[r], D);
        max[r] = -INFINITY;
        sum[r] = 0;
    }
    memset(acc, 0, PAGE_ROWS * D * sizeof *acc);
    for (int pass = 0; pass < 2; pass++) {
        for (size_t r = 0; r < PAGE_ROWS; r++) {
            first[r] = (uint8_t)(pass ? 3 * r : 0);
            last[r] = (uint8_t)(pass ? KV_PAGE_TOKENS : 1 + r);
        }
        attn_page_job job = {.k = p->k,
                             .v = p->v,
                             .k_scale = p->k_scales,
                             .v_scale = p->v_scales,
                             .head_dim = D,
                             .n_rows = PAGE_ROWS,
                             .first = first,
                             .last = last,
                             .scale = 0.1f,
                             .acc = acc,
                             .acc_stride = D,
                             .max = max,
                             .sum = sum,
                             .scratch = scratch,
                             .q16 = q16[0],
                             .q_steps = q_steps,
                             .k_steps = p->k_steps,
                             .v_steps = p->v_steps,
                             .ints = ints,
                             .weights8 = weights8};
        k->attn_page_int[type](&job);
    }
}

/* Kernels of every rung that has them against the readable ones. Scores are exact integers times steps, so
 * maxima are equal. EXACT: so is all else; otherwise exp is computed otherwise, which may move a byte by one.
 */
static void check_int_kernels(const page *p, nib_kv_dtype type, bool exact) {
    static float got[PAGE_ROWS * D], want[PAGE_ROWS * D], max[2][PAGE_ROWS], sum[2][PAGE_ROWS];
    cpu_kernels fast, ref;
    memset(&ref, 0, sizeof ref);
    attn_int_ref_init(&ref);
    attend_page_twice(&ref, type, p, want, max[1], sum[1]);
    for (size_t rung = 0; rung < fixture_n_rungs(); rung++) {
        kernels_init(&fast, fixture_rungs[rung]);
        if (!fast.attn_quantize)
            continue;
        attend_page_twice(&fast, type, p, got, max[0], sum[0]);
        for (size_t r = 0; r < PAGE_ROWS; r++) {
            double want64[D];
            for (size_t i = 0; i < D; i++)
                want64[i] = want[r * D + i];
            double e = fabs((double)sum[0][r] - (double)sum[1][r]) / (double)sum[1][r];
            double e2 = fixture_error(OP_ERROR_L2, got + r * D, want64, D);
            if (max[0][r] != max[1][r] || !(e <= (exact ? 0 : 3e-6) && e2 <= (exact ? 0 : 2e-3)))
                fail_msg("%s, KV %d, row %zu: maximum %g, not %g, sum %g off, values %g", fast.rung,
                         (int)type, r, (double)max[0][r], (double)max[1][r], e, e2);
        }
    }
}

static page *page_new(void **memory) {
    *memory = test_calloc(1, sizeof(page) + 64);
    return (page *)(((uintptr_t)*memory + 63) & ~(uintptr_t)63);
}

static void test_int_kernels(void **state) {
    (void)state;
    void *memory;
    page *p = page_new(&memory);
    for (size_t t = 0; t < 3; t++) {
        fill_page(p, kv_types[t]);
        check_int_kernels(p, kv_types[t], false);
    }
    test_free(memory);
}

/* The largest sums there are, of both signs, in queries and keys and in weights and values. */
static void test_int_largest(void **state) {
    (void)state;
    void *memory;
    page *p = page_new(&memory);
    for (size_t type = 0; type < 3; type++) {
        memset(p, 0, sizeof *p);
        for (size_t t = 0; t < KV_PAGE_TOKENS; t++) {
            for (size_t i = 0; i < D; i++) {
                size_t at = kv_types[type] == NIB_KV_FP32 ? i * KV_PAGE_TOKENS + t
                                                          : (i / 2 * KV_PAGE_TOKENS + t) * 2 + i % 2;
                store_code(kv_types[type], p->k, at, i % 3 ? 1 : -1);
                store_code(kv_types[type], p->v, t * D + i, i % 5 ? 1 : -1);
            }
            p->k_steps[t] = 1.0f / KV_K_MAX;
            p->v_steps[t] = 1.0f / KV_V_MAX;
            p->k_scales[t] = p->v_scales[t] = 1;
        }
        for (size_t r = 0; r < PAGE_ROWS; r++)
            for (size_t i = 0; i < D; i++)
                p->q[r][i] = (i % 3 ? 1.0f : -1.0f) * (r % 2 ? -1.0f : 1.0f);
        check_int_kernels(p, kv_types[type], true);
    }
    test_free(memory);
}

/* A key or value that is not finite reaches every row that sees it; the readable kernels too. */
static void test_int_nan(void **state) {
    (void)state;
    enum { ROW = 2, TOKEN = 30 };
    static float acc[PAGE_ROWS * D], max[PAGE_ROWS], sum[PAGE_ROWS];
    void *memory;
    page *p = page_new(&memory);
    for (size_t type = 0; type < 3; type++)
        for (int what = 0; what < 4; what++)
            for (size_t rung = 0; rung <= fixture_n_rungs(); rung++) {
                cpu_kernels k;
                memset(&k, 0, sizeof k);
                if (rung < fixture_n_rungs())
                    kernels_init(&k, fixture_rungs[rung]);
                else
                    attn_int_ref_init(&k);
                if (!k.attn_quantize)
                    continue;
                fill_page(p, kv_types[type]);
                if (what == 0)
                    p->q[ROW][77] = NAN;
                else if (what == 1)
                    p->q[ROW][77] = -INFINITY;
                else
                    (what == 2 ? p->k_steps : p->v_steps)[TOKEN] = NAN;
                attend_page_twice(&k, kv_types[type], p, acc, max, sum);
                for (size_t r = 0; r < PAGE_ROWS; r++) /* sees [3 r, KV_PAGE_TOKENS) */
                    if ((bool)isnan(acc[r * D] / sum[r]) != (what < 2 ? r == ROW : 3 * r <= TOKEN))
                        fail_msg("rung %zu, KV %d, damage %d, row %zu: %g", rung, (int)kv_types[type], what,
                                 r, (double)(acc[r * D] / sum[r]));
            }
    test_free(memory);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_int_kernels), cmocka_unit_test(test_int_largest),
                                       cmocka_unit_test(test_int_nan)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
