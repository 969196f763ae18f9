/* SPDX-License-Identifier: Apache-2.0
 *
 * Scales and rounding of FP8 keys: what a caller may rely on for any vector, and that rounding does what it
 * is for: mistakes cancel along the queries, at little cost elsewhere.
 */
#include "cpu_fixture.h"

#include "cpu/kernels.h"
#include "cpu/kv.h"

enum { N = 64, QUERIES = 3, TRIALS = 500 };

typedef struct key {
    float x[N], weights[N], queries[QUERIES * N];
} key;

/* Some dimensions far larger than the others, in keys as in queries. */
static key random_key(uint64_t *state) {
    key k = {.weights = {0}};
    for (size_t i = 0; i < N; i++) {
        k.x[i] = fixture_normal(state) * (i % 16 == 3 ? 20.0f : 1.0f);
        for (size_t h = 0; h < QUERIES; h++) {
            float q = k.queries[h * N + i] = fixture_normal(state) * (i % 8 == 5 ? 6.0f : 1.0f);
            k.weights[i] += q * q;
        }
    }
    return k;
}

/* The mean over queries of (q e)^2, and in *SQUARES the sum of w e^2. */
static double score_error(const key *k, const float *rounded, float scale, double *squares) {
    double mean = 0;
    *squares = 0;
    for (size_t h = 0; h < QUERIES; h++) {
        double sum = 0;
        for (size_t i = 0; i < N; i++)
            sum += (double)k->queries[h * N + i] * ((double)rounded[i] * scale - k->x[i]);
        mean += sum * sum / QUERIES;
    }
    for (size_t i = 0; i < N; i++) {
        double e = (double)rounded[i] * scale - k->x[i];
        *squares += k->weights[i] * e * e;
    }
    return mean;
}

static void test_mistakes_cancel(void **state) {
    (void)state;
    uint64_t random = 5;
    for (int interleaved = 0; interleaved < 2; interleaved++) {
        double nearest = 0, steered = 0, nearest_squares = 0, steered_squares = 0, squares;
        for (int t = 0; t < TRIALS; t++) {
            key k = random_key(&random);
            float scale = kvscale_fit(k.x, k.weights, N), rounded[N];
            for (size_t i = 0; i < N; i++)
                rounded[i] = e4m3_to_f32(e4m3_from_f32_sat(k.x[i] / scale));
            nearest += score_error(&k, rounded, scale, &squares);
            nearest_squares += squares;
            memcpy(rounded, k.x, sizeof rounded);
            kvscale_round(rounded, scale, k.weights, k.queries, QUERIES, N, interleaved);
            steered += score_error(&k, rounded, scale, &squares);
            steered_squares += squares;
        }
        print_message("error along queries %.3f of nearest rounding's, squared error %.3f\n",
                      steered / nearest, steered_squares / nearest_squares);
        assert_true(steered < 0.5 * nearest);
        assert_true(steered_squares < 1.5 * nearest_squares);
    }
}

/* Whatever the vector: E4M3 values, no farther than a step; no query, nearest rounding. */
static void test_within_a_step(void **state) {
    (void)state;
    for (int p = 0; p < N_PATTERNS; p++)
        for (size_t n_queries = 0; n_queries <= QUERIES; n_queries++) {
            key k;
            fixture_fill(k.x, N, (fixture_pattern)p, 3.0f, 1);
            fixture_fill(k.queries, QUERIES * N, (fixture_pattern)p, 3.0f, 2);
            for (size_t i = 0; i < N; i++)
                k.weights[i] = k.queries[i] * k.queries[i];
            float scale = kvscale_fit(k.x, k.weights, N), rounded[N];
            memcpy(rounded, k.x, sizeof rounded);
            kvscale_round(rounded, scale, k.weights, k.queries, n_queries, N, false);
            for (size_t i = 0; i < N; i++) {
                double v = scale > 0 ? (double)k.x[i] / scale : 0, step = fmax(fabs(v) * 0x1p-3, 0x1p-9);
                assert_true(fabs(v) <= 448.001);
                assert_true(e4m3_to_f32(e4m3_from_f32(rounded[i])) == rounded[i]);
                if (!(fabs(rounded[i] - v) <= (n_queries ? 1 : 0.5) * step * 1.00001))
                    fail_msg("pattern %d, %zu queries: %g became %g", p, n_queries, v, (double)rounded[i]);
            }
        }
}

/* No E4M3 value lies between an element and what it became; half of the elements are powers of two. */
static void test_neighbours(void **state) {
    (void)state;
    uint64_t random = 6;
    for (int t = 0; t < TRIALS; t++) {
        key k = random_key(&random);
        float rounded[N];
        for (size_t i = 0; i < N; i++)
            k.x[i] = i % 2 ? k.x[i] : ldexpf(k.x[i] < 0 ? -1 : 1, (int)(i % 17) - 8);
        memcpy(rounded, k.x, sizeof rounded);
        kvscale_round(rounded, 1, k.weights, k.queries, QUERIES, N, t % 2);
        for (size_t i = 0; i < N; i++)
            for (int code = 0; code < 256; code++) {
                float v = e4m3_to_f32((uint8_t)code);
                if (v > fminf(k.x[i], rounded[i]) && v < fmaxf(k.x[i], rounded[i]))
                    fail_msg("%g became %g", (double)k.x[i], (double)rounded[i]);
            }
    }
}

enum { MOST_TOKENS = 19, MOST_QUERIES = KVSCALE_QUERIES + 3, LONGEST = 256, STRIDE = MOST_QUERIES * LONGEST };

/* One token is tiny, one is not finite. */
static void fill_tokens(float *k, float *queries, size_t n_tokens, size_t n) {
    for (size_t t = 0; t < n_tokens; t++) {
        fixture_fill(k + t * n, n, (fixture_pattern)(t % N_PATTERNS), 3.0f, t + 1);
        fixture_fill(queries + t * STRIDE, STRIDE, t % 5 ? PATTERN_NORMAL : PATTERN_OUTLIERS, 3.0f, t + 60);
        for (size_t i = 0; i < n && t == 6; i++)
            k[t * n + i] *= KV_FP8_TINY / 1024;
        if (t == 11)
            k[t * n + n / 2] = n % 16 ? NAN : -INFINITY;
        if (t == 13)
            queries[t * STRIDE + n / 2] = NAN;
    }
}

/* Codes of K in units of SCALES of all tokens whose scale is a number. */
static void to_codes(const cpu_kernels *k, uint8_t *codes, const kvscale_job *job) {
    for (size_t t = 0; t < job->n_tokens; t++)
        if (!isnan(job->scales[t]))
            k->to_fp8(codes + t * job->n, 1, job->k + t * job->n, job->n);
}

/* Every rung stores the same. */
static void test_rungs(void **state) {
    (void)state;
    static float k[MOST_TOKENS * LONGEST], queries[MOST_TOKENS * STRIDE], room[KVSCALE_ROOM * LONGEST];
    static uint8_t codes[2][MOST_TOKENS * LONGEST];
    static const size_t lengths[] = {10, 48, 64, LONGEST}, counts[] = {1, 2, 3, 4, 5, MOST_QUERIES};
    float scales[2][MOST_TOKENS], v_scales[2][MOST_TOKENS];
    for (size_t c = 0; c < 4 * 6; c++)
        for (size_t n_tokens = 1; n_tokens <= MOST_TOKENS; n_tokens += 1 + n_tokens / 4)
            for (size_t rung = 0; rung < fixture_n_rungs(); rung++) {
                size_t at = rung > 0;
                cpu_kernels kernels;
                kernels_init(&kernels, fixture_rungs[rung]);
                kvscale_job job = {.k = k,
                                   .scales = scales[at],
                                   .queries = queries,
                                   .q_stride = STRIDE,
                                   .n_queries = counts[c % 6],
                                   .n_tokens = n_tokens,
                                   .n = lengths[c / 6],
                                   .interleaved = n_tokens % 2,
                                   .room = room};
                fill_tokens(k, queries, n_tokens, job.n);
                memset(codes[at], 0, sizeof codes[at]);
                kernels.fp8_scales(v_scales[at], k, job.n, n_tokens, job.n, room);
                kernels.fp8_keys(&job);
                to_codes(&kernels, codes[at], &job);
                assert_memory_equal(codes[at], codes[0], sizeof codes[at]);
                for (size_t t = 0; t < n_tokens; t++) {
                    assert_true((t == 11) == (bool)isnan(scales[at][t]));
                    assert_true((t == 11) == (bool)isnan(v_scales[at][t]));
                    assert_true(t == 11 || scales[at][t] == scales[0][t]);
                    assert_true(t == 11 || v_scales[at][t] == v_scales[0][t]);
                }
            }
}

static void test_tiny(void **state) {
    (void)state;
    float x[N], weights[N] = {0}, queries[N] = {0};
    for (size_t i = 0; i < N; i++)
        x[i] = KV_FP8_TINY / 2;
    assert_true(kvscale_fit(x, weights, N) == 0);
    kvscale_round(x, 0, weights, queries, 1, N, true);
    for (size_t i = 0; i < N; i++)
        assert_true(x[i] == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mistakes_cancel),
        cmocka_unit_test(test_within_a_step),
        cmocka_unit_test(test_neighbours),
        cmocka_unit_test(test_rungs),
        cmocka_unit_test(test_tiny),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
