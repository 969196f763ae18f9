/* SPDX-License-Identifier: Apache-2.0
 *
 * FP8 scales and the rounding of FP8 keys, 8 tokens at a time: the serial sums of kvscale.c stay as they are
 * and a token is a lane, so the bits are those of kvscale.c. Few tokens (decode) are left to it.
 */
#include <immintrin.h>
#include <math.h>

#include "cpu/kernels.h"

#define INLINE static inline __attribute__((always_inline))

enum { TOKENS = 8, WORTH_IT = 3 };

/* rows of A become columns */
INLINE void transpose8(__m256 a[8]) {
    __m256 b[8], c[8];
    for (int i = 0; i < 8; i += 2) {
        b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
        b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
    for (int i = 0; i < 8; i += 4)
        for (int j = 0; j < 2; j++) {
            c[i + 2 * j] = _mm256_shuffle_ps(b[i + j], b[i + j + 2], 0x44);
            c[i + 2 * j + 1] = _mm256_shuffle_ps(b[i + j], b[i + j + 2], 0xee);
        }
    for (int i = 0; i < 4; i++) {
        a[i] = _mm256_permute2f128_ps(c[i], c[i + 4], 0x20);
        a[i + 4] = _mm256_permute2f128_ps(c[i], c[i + 4], 0x31);
    }
}

/* dst [n][TOKENS] from vectors of N_TOKENS tokens, STRIDE apart; the last one stands for those that are
 * missing. */
static void gather(float *dst, const float *x, size_t stride, size_t n_tokens, size_t n) {
    const float *rows[TOKENS];
    for (size_t t = 0; t < TOKENS; t++)
        rows[t] = x + (t < n_tokens ? t : n_tokens - 1) * stride;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 a[8];
        for (size_t t = 0; t < 8; t++)
            a[t] = _mm256_loadu_ps(rows[t] + i);
        transpose8(a);
        for (size_t j = 0; j < 8; j++)
            _mm256_storeu_ps(dst + (i + j) * TOKENS, a[j]);
    }
    for (; i < n; i++)
        for (size_t t = 0; t < TOKENS; t++)
            dst[i * TOKENS + t] = rows[t][i];
}

/* The way back: x [n_tokens, n] */
static void scatter(float *x, const float *src, size_t n_tokens, size_t n) {
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 a[8];
        for (size_t j = 0; j < 8; j++)
            a[j] = _mm256_loadu_ps(src + (i + j) * TOKENS);
        transpose8(a);
        for (size_t t = 0; t < n_tokens; t++)
            _mm256_storeu_ps(x + t * n + i, a[t]);
    }
    for (; i < n; i++)
        for (size_t t = 0; t < n_tokens; t++)
            x[t * n + i] = src[i * TOKENS + t];
}

INLINE __m256 power_of(__m256 v) {
    const __m256 exponent = _mm256_castsi256_ps(_mm256_set1_epi32(0x7f800000));
    return _mm256_max_ps(_mm256_and_ps(v, exponent), _mm256_set1_ps(0x1p-6f));
}

INLINE __m256 round_e4m3(__m256 v, __m256 power) {
    __m256 magic = _mm256_mul_ps(power, _mm256_set1_ps(0x1.8p20f));
    return _mm256_sub_ps(_mm256_add_ps(v, magic), magic);
}

INLINE __m256 clamp(__m256 v) { /* NaN stays */
    return _mm256_max_ps(_mm256_set1_ps(-448.0f), _mm256_min_ps(_mm256_set1_ps(448.0f), v));
}

INLINE __m256 load(const float *x, size_t i) {
    return _mm256_loadu_ps(x + i * TOKENS);
}

INLINE __m256 squared_error(const float *x, const float *weights, size_t n, __m256 factor) {
    __m256 sums[8];
    for (int l = 0; l < 8; l++)
        sums[l] = _mm256_setzero_ps();
    for (size_t i = 0; i < n; i += 8)
#pragma GCC unroll 8
        for (size_t l = 0; l < 8; l++) {
            if (i + l == n)
                break;
            __m256 v = _mm256_mul_ps(load(x, i + l), factor);
            __m256 e = _mm256_sub_ps(round_e4m3(v, power_of(v)), v);
            __m256 square = _mm256_mul_ps(e, e);
            if (weights)
                square = _mm256_mul_ps(load(weights, i + l), square);
            sums[l] = _mm256_add_ps(sums[l], square);
        }
    __m256 sum = _mm256_setzero_ps();
    for (int l = 0; l < 8; l++)
        sum = _mm256_add_ps(sum, sums[l]);
    return sum;
}

INLINE __m256 fit(const float *x, const float *weights, size_t n) {
    __m256i bits = _mm256_setzero_si256();
    for (size_t i = 0; i < n; i++) {
        __m256i magnitude = _mm256_and_si256(_mm256_castps_si256(load(x, i)), _mm256_set1_epi32(0x7fffffff));
        bits = _mm256_max_epu32(bits, magnitude);
    }
    const __m256 top = _mm256_set1_ps(448.0f);
    __m256 most = _mm256_castsi256_ps(bits), unit = _mm256_div_ps(most, top),
           per_unit = _mm256_div_ps(top, most);
    __m256 best = unit, best_error = _mm256_set1_ps(INFINITY);
    for (int i = 0; i < KVSCALE_STEPS; i++) {
        __m256 f = _mm256_set1_ps(kvscale_factors[i]);
        __m256 error = squared_error(x, weights, n, _mm256_div_ps(per_unit, f));
        error = _mm256_mul_ps(error, _mm256_mul_ps(f, f));
        __m256 less = _mm256_cmp_ps(error, best_error, _CMP_LT_OQ);
        best_error = _mm256_blendv_ps(best_error, error, less);
        best = _mm256_blendv_ps(best, _mm256_mul_ps(unit, f), less);
    }
    best = _mm256_and_ps(best, _mm256_cmp_ps(most, _mm256_set1_ps(KV_FP8_TINY), _CMP_GE_OQ));
    return _mm256_blendv_ps(_mm256_set1_ps(NAN), best,
                            _mm256_cmp_ps(most, _mm256_set1_ps(INFINITY), _CMP_LT_OQ));
}

/* weights [n][TOKENS]; the first KVSCALE_QUERIES queries [][n][TOKENS] stay, room is for one more */
static void weigh(float *weights, float *queries, const kvscale_job *job, size_t t0, size_t n_tokens) {
    size_t n = job->n;
    __m256 sum = _mm256_setzero_ps();
    for (size_t i = 0; i < n; i++)
        _mm256_storeu_ps(weights + i * TOKENS, sum);
    for (size_t h = 0; h < job->n_queries; h++) {
        float *q = queries + (h < KVSCALE_QUERIES ? h : KVSCALE_QUERIES) * n * TOKENS;
        gather(q, job->queries + t0 * job->q_stride + h * n, job->q_stride, n_tokens, n);
        for (size_t i = 0; i < n; i++) {
            __m256 square = _mm256_mul_ps(load(q, i), load(q, i));
            _mm256_storeu_ps(weights + i * TOKENS, _mm256_add_ps(load(weights, i), square));
            sum = _mm256_add_ps(sum, square);
        }
    }
    __m256 share =
        _mm256_div_ps(_mm256_mul_ps(_mm256_set1_ps(KVSCALE_MEAN_SHARE), sum), _mm256_set1_ps((float)n));
    for (size_t i = 0; i < n; i++)
        _mm256_storeu_ps(weights + i * TOKENS, _mm256_add_ps(load(weights, i), share));
}

INLINE void round_along(float *x, __m256 scale, const float *weights, const float *queries, size_t n_queries,
                        size_t n, bool interleaved) {
    const __m256 sign = _mm256_set1_ps(-0.0f), zero = _mm256_setzero_ps(),
                 steer = _mm256_set1_ps(KVSCALE_STEER);
    __m256 factor =
        _mm256_and_ps(_mm256_div_ps(_mm256_set1_ps(1), scale), _mm256_cmp_ps(scale, zero, _CMP_GT_OQ));
    __m256 scores[KVSCALE_QUERIES];
    for (size_t h = 0; h < n_queries; h++)
        scores[h] = zero;
    for (size_t j = 0; j < n; j++) {
        size_t i = interleaved ? j : j % 2 * (n / 2) + j / 2;
        __m256 v = clamp(_mm256_mul_ps(load(x, i), factor)), power = power_of(v), near = round_e4m3(v, power);
        __m256 step = _mm256_or_ps(_mm256_mul_ps(power, _mm256_set1_ps(0.125f)), _mm256_and_ps(v, sign));
        __m256 inward = _mm256_cmp_ps(_mm256_andnot_ps(sign, near), _mm256_andnot_ps(sign, v), _CMP_GT_OQ);
        __m256 far = clamp(_mm256_add_ps(near, _mm256_xor_ps(step, _mm256_and_ps(inward, sign))));
        __m256 up = _mm256_max_ps(near, far), down = _mm256_min_ps(far, near), slope = zero, energy = zero;
        for (size_t h = 0; h < n_queries; h++) {
            __m256 q = load(queries, h * n + i);
            slope = _mm256_add_ps(slope, _mm256_mul_ps(scores[h], q));
            energy = _mm256_add_ps(energy, _mm256_mul_ps(q, q));
        }
        __m256 stiffness = _mm256_add_ps(load(weights, i), _mm256_mul_ps(steer, energy));
        __m256 wanted = _mm256_mul_ps(slope, _mm256_div_ps(_mm256_xor_ps(steer, sign), stiffness));
        wanted = _mm256_and_ps(wanted, _mm256_cmp_ps(stiffness, zero, _CMP_GT_OQ));
        __m256 middle = _mm256_add_ps(_mm256_sub_ps(up, v), _mm256_sub_ps(down, v));
        middle = _mm256_mul_ps(middle, _mm256_set1_ps(0.5f));
        __m256 y = _mm256_blendv_ps(near, down, _mm256_cmp_ps(wanted, middle, _CMP_LT_OQ));
        y = _mm256_blendv_ps(y, up, _mm256_cmp_ps(wanted, middle, _CMP_GT_OQ));
        _mm256_storeu_ps(x + i * TOKENS, y);
        for (size_t h = 0; h < n_queries; h++)
            scores[h] =
                _mm256_add_ps(scores[h], _mm256_mul_ps(load(queries, h * n + i), _mm256_sub_ps(y, v)));
    }
}

/* Scores of few queries stay in registers. */
static void round_keys(float *x, __m256 scale, const float *weights, const float *queries,
                       const kvscale_job *job) {
    switch (job->n_queries) {
    case 1:
        round_along(x, scale, weights, queries, 1, job->n, job->interleaved);
        break;
    case 2:
        round_along(x, scale, weights, queries, 2, job->n, job->interleaved);
        break;
    case 3:
        round_along(x, scale, weights, queries, 3, job->n, job->interleaved);
        break;
    case 4:
        round_along(x, scale, weights, queries, 4, job->n, job->interleaved);
        break;
    default:
        round_along(x, scale, weights, queries,
                    job->n_queries < KVSCALE_QUERIES ? job->n_queries : KVSCALE_QUERIES, job->n,
                    job->interleaved);
    }
}

static void store_scales(float *scales, __m256 s, size_t n_tokens) {
    float all[TOKENS];
    _mm256_storeu_ps(all, s);
    __builtin_memcpy(scales, all, n_tokens * sizeof *all);
}

static void fp8_keys(const kvscale_job *job) {
    size_t t = 0, n = job->n;
    float *x = job->room, *weights = x + n * TOKENS, *queries = weights + n * TOKENS;
    for (; t + WORTH_IT <= job->n_tokens; t += TOKENS) {
        size_t there = job->n_tokens - t < TOKENS ? job->n_tokens - t : TOKENS;
        weigh(weights, queries, job, t, there);
        gather(x, job->k + t * n, n, there, n);
        __m256 scale = fit(x, weights, n);
        round_keys(x, scale, weights, queries, job);
        scatter(job->k + t * n, x, there, n);
        store_scales(job->scales + t, scale, there);
    }
    if (t < job->n_tokens) {
        kvscale_job rest = *job;
        rest.k += t * n;
        rest.scales += t;
        rest.queries += t * job->q_stride;
        rest.n_tokens -= t;
        kvscale_keys(&rest);
    }
}

static void fp8_scales(float *scales, const float *x, size_t x_stride, size_t n_tokens, size_t n,
                       float *room) {
    size_t t = 0;
    for (; t + WORTH_IT <= n_tokens; t += TOKENS) {
        size_t there = n_tokens - t < TOKENS ? n_tokens - t : TOKENS;
        gather(room, x + t * x_stride, x_stride, there, n);
        store_scales(scales + t, fit(room, NULL, n), there);
    }
    if (t < n_tokens)
        kvscale_scales(scales + t, x + t * x_stride, x_stride, n_tokens - t, n, room);
}

void kvscale_avx2_init(cpu_kernels *k) {
    k->fp8_keys = fp8_keys;
    k->fp8_scales = fp8_scales;
}
