/* SPDX-License-Identifier: Apache-2.0
 *
 * Scales of FP8 keys and values: what a caller may rely on for any vector, that the search finds the best of
 * the scales it tries, that a steered key is what the rule says, and that every rung finds the same.
 */
#include "cpu_fixture.h"

#include "cpu/kernels.h"
#include "cpu/kv.h"
#include "ops/kv_fp8.h"

enum { N = 64, LONGEST = 256, TRIALS = 200 };

/* The sum of w (x - x^)^2. */
static double squared_error(const float *x, const float *weights, size_t n, float scale) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double e = (double)e4m3_to_f32(e4m3_from_f32_sat(x[i] * (1.0f / scale))) * scale - x[i];
        sum += (weights ? weights[i] : 1) * e * e;
    }
    return sum;
}

static float largest(const float *x, size_t n) {
    float most = 0;
    for (size_t i = 0; i < n; i++)
        most = fmaxf(most, fabsf(x[i]));
    return most;
}

/* No other of the tried scales is better; and all in all much better than the smallest. */
static void test_the_best_is_found(void **state) {
    (void)state;
    uint64_t random = 5;
    double fitted = 0, plain = 0;
    for (int t = 0; t < TRIALS; t++) {
        float x[N], weights[N], smallest;
        for (size_t i = 0; i < N; i++) {
            x[i] = fixture_normal(&random) * (i % 16 == 3 ? 20.0f : 1.0f);
            weights[i] = fabsf(fixture_normal(&random)) * (i % 8 == 5 ? 30.0f : 1.0f);
        }
        const float *w = t % 2 ? weights : NULL;
        smallest = largest(x, N) / 448.0f;
        double error = squared_error(x, w, N, kvscale_fit(x, w, N));
        for (int i = 0; i < KVSCALE_STEPS; i++)
            if (error > squared_error(x, w, N, smallest * (1 + (float)i / KVSCALE_STEPS)) * 1.0001)
                fail_msg("trial %d: scale %d of %d is better", t, i, KVSCALE_STEPS);
        fitted += error;
        plain += squared_error(x, w, N, smallest);
    }
    print_message("squared error %.3f of that of the largest element at 448\n", fitted / plain);
    assert_true(fitted < 0.85 * plain);
}

static void test_weights(void **state) {
    (void)state;
    float queries[2 * 4] = {1, 2, 0, 0, 0, 2, 3, 0}, weights[4], along[4];
    kvscale_weigh(weights, along, queries, 2, 4);
    float share = weights[3];
    assert_true(share > 0);
    assert_true(weights[0] == 1 + share && weights[1] == 8 + share && weights[2] == 9 + share);
    assert_true(along[0] > 0 && along[3] == 0);
    assert_true(fabsf(along[1] - 4 * along[0]) < 1e-6f && fabsf(along[2] - 3 * along[0]) < 1e-6f);
}

/* ---- steering ---- */

static double nearest(double x) {
    return (double)e4m3_to_f32(e4m3_from_f32_sat((float)x));
}

/* The code beside x's nearest one that x lies towards, in units of the scale. */
static double other_side(double x) {
    const uint8_t code = e4m3_from_f32_sat((float)fabs(x));
    const int beside = code + (fabs(x) >= nearest(fabs(x)) ? 1 : -1);
    return copysign(beside < 0x7f ? (double)e4m3_to_f32((uint8_t)beside) : 480, x);
}

/* (sum along e)^2 of what Y [n] stores of x, in units of the scale. */
static double together(const double *x, const double *y, const float *along, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += along[i] * (y[i] - x[i]);
    return sum * sum;
}

/* sum w e^2 + (sum along e)^2 */
static double steered_error(const double *x, const double *y, const float *w, const float *along, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += w[i] * (y[i] - x[i]) * (y[i] - x[i]);
    return sum + together(x, y, along, n);
}

/* The rule of kvscale.h, of X and Y in units of the scale. */
static void steer_plainly(const double *x, double *y, const float *w, const float *along, size_t n) {
    for (size_t i = 0; i < n; i++)
        y[i] = nearest(x[i]);
    for (int turn = 0; turn < KV_FP8_TURNS; turn++) {
        double least = steered_error(x, y, w, along, n);
        size_t at = n;
        for (size_t i = 0; i < n; i++) {
            const double was = y[i];
            if (was != nearest(x[i]) || fabs(other_side(x[i])) > 448)
                continue;
            y[i] = other_side(x[i]);
            const double error = steered_error(x, y, w, along, n);
            at = error < least ? i : at;
            least = fmin(least, error);
            y[i] = was;
        }
        if (at == n)
            return;
        y[at] = other_side(x[at]);
    }
}

static void test_steering(void **state) {
    (void)state;
    uint64_t random = 9;
    double plain = 0, steered = 0;
    for (int t = 0; t < TRIALS; t++) {
        float x[N], queries[3 * N], w[N], along[N];
        double in[N], want[N], near[N], got[N];
        const size_t n = t % 3 ? N : 13;
        for (size_t i = 0; i < n; i++)
            x[i] = fixture_normal(&random) * (i % 16 == 3 ? 20.0f : i % 16 == 5 ? 0.002f : 1.0f);
        for (size_t i = 0; i < 3 * n; i++)
            queries[i] = fixture_normal(&random) * (i % n % 8 == 5 ? 5.0f : 1.0f);
        kvscale_weigh(w, along, queries, 3, n);
        const float scale = kvscale_fit(x, w, n);
        for (size_t i = 0; i < n; i++) {
            in[i] = x[i] * (1.0f / scale);
            near[i] = nearest(in[i]);
        }
        steer_plainly(in, want, w, along, n);
        kvscale_steer(x, scale, w, along, n);
        for (size_t i = 0; i < n; i++)
            got[i] = nearest(x[i] * (1.0f / scale));
        const double error = steered_error(in, got, w, along, n);
        if (fabs(error - steered_error(in, want, w, along, n)) > 1e-4 * error)
            fail_msg("trial %d: %g instead of %g", t, error, steered_error(in, want, w, along, n));
        assert_true(error <= steered_error(in, near, w, along, n) * 1.0001);
        plain += together(in, near, along, n);
        steered += together(in, got, along, n);
    }
    print_message("the square of what a steered key's mistakes add up to: %.3f of nearest codes'\n",
                  steered / plain);
    assert_true(steered < 0.5 * plain);
}

/* X [n] steered by every rung. */
static void check_steered(const float *x, float scale, const float *weights, size_t n) {
    float along[LONGEST], want[LONGEST], got[LONGEST];
    fixture_fill(along, n, PATTERN_NORMAL, 2.0f, n);
    memcpy(want, x, n * sizeof *x);
    kvscale_steer(want, scale, weights, along, n);
    for (size_t rung = 0; rung < fixture_n_rungs(); rung++) {
        cpu_kernels kernels;
        kernels_init(&kernels, fixture_rungs[rung]);
        memcpy(got, x, n * sizeof *x);
        kernels.fp8_steer(got, scale, weights, along, n);
        assert_memory_equal(got, want, n * sizeof *x);
    }
}

/* Vectors of any length, weighted or not; some tiny, some not finite. */
static void test_rungs(void **state) {
    (void)state;
    static const size_t lengths[] = {2, 7, 10, 48, 64, 100, LONGEST};
    float x[LONGEST], weights[LONGEST];
    for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++)
        for (int p = 0; p < N_PATTERNS; p++)
            for (int kind = 0; kind < 8; kind++) {
                size_t n = lengths[l];
                fixture_fill(x, n, (fixture_pattern)p, 3.0f, l + 1);
                fixture_fill(weights, n, PATTERN_NORMAL, 3.0f, l + 60);
                for (size_t i = 0; i < n; i++) {
                    weights[i] *= weights[i];
                    x[i] *= kind / 2 == 1 ? KV_FP8_TINY / 1024 : 1;
                }
                if (kind / 2 >= 2)
                    x[n / 2] = kind / 2 == 2 ? NAN : -INFINITY;
                const float *w = kind % 2 ? weights : NULL;
                float scale = kvscale_fit(x, w, n);
                assert_true((kind / 2 >= 2) == (bool)isnan(scale));
                if (!isnan(scale)) {
                    assert_true((scale == 0) == (largest(x, n) < KV_FP8_TINY));
                    assert_true(largest(x, n) <= 448.001f * scale || scale == 0);
                }
                if (w)
                    check_steered(x, scale, w, n);
                for (size_t rung = 0; rung < fixture_n_rungs(); rung++) {
                    cpu_kernels kernels;
                    kernels_init(&kernels, fixture_rungs[rung]);
                    float got = kernels.fp8_scale(x, w, n);
                    if (!(got == scale || (isnan(got) && isnan(scale))))
                        fail_msg("%s, %zu elements, pattern %d, kind %d: %.9g instead of %.9g", kernels.rung,
                                 n, p, kind, (double)got, (double)scale);
                }
            }
}

/* Scales that the model gives are those of every vector; what lies beyond 448 of them is cut off there. */
static void test_given_scales(void **state) {
    (void)state;
    enum { D = 16, ROWS = 3 };
    const float k_scale = 0.25f, v_scale = 0x1p-7f;
    backend *be = fixture_open(fixture_rungs[0], 1, NIB_ACTIVATIONS_F32);
    cache *c = fixture_cache(be, NIB_KV_FP8, 1, 1, D, FIXTURE_SEQS * FIXTURE_PAGES);
    attn_params p = {
        .n_heads = 1, .n_kv_heads = 1, .head_dim = D, .scale = 1, .k_scale = k_scale, .v_scale = v_scale};
    fixture_batch *f = test_calloc(1, sizeof *f);
    fixture_add(f, 0, 0, ROWS);
    buf *qkv = fixture_buf(be, BUF_F32, ROWS, 3 * D), *q = fixture_buf(be, BUF_F32, ROWS, D);
    float *x = fixture_vector(ROWS * 3 * D, PATTERN_NORMAL, 0, 5);
    x[2 * D] = 9;
    fixture_set(qkv, x, ROWS);
    step_begin(be, &f->b, 0);
    op_qk_norm_rope_store(be, q, qkv, &p, c);
    fixture_finish(be);
    for (size_t t = 0; t < ROWS; t++)
        for (size_t i = 0; i < D; i++) {
            float k = x[(3 * t + 1) * D + i], v = x[(3 * t + 2) * D + i];
            double want_k = (double)e4m3_to_f32(e4m3_from_f32_sat(k / k_scale)) * k_scale;
            double want_v = (double)e4m3_to_f32(e4m3_from_f32_sat(v / v_scale)) * v_scale;
            assert_true(fixture_kv_at(c, true, 0, fixture_page(0, 0), 0, t, i) == want_k);
            assert_true(fixture_kv_at(c, false, 0, fixture_page(0, 0), 0, t, i) == want_v);
        }
    test_free(x);
    test_free(f);
    be->buf_free(be, q);
    be->buf_free(be, qkv);
    be->cache_free(be, c);
    be->close(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_best_is_found), cmocka_unit_test(test_weights),
        cmocka_unit_test(test_steering),          cmocka_unit_test(test_rungs),
        cmocka_unit_test(test_given_scales),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
