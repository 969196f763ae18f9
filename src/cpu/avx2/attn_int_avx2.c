/* SPDX-License-Identifier: Apache-2.0
 *
 * One page of attention with integer operands, for the int8 activation mode. ref/attn_int_ref.c says what it
 * computes; layouts: kv.h.
 *
 * Keys and values become 16-bit integers, two that are summed side by side, in blocks of 16 columns (keys, or
 * dimensions). A tile of 4 rows times 16 columns goes once through a block: vpmaddwd and an addition, for
 * which three ports serve, make 16 multiply-adds where FP32 has two for 16 FMAs. Integer sums are exact, so
 * any order gives the same bits; the few FP32 operations of a row are in a fixed order.
 */
#include <math.h>

#include "cpu/avx2/attn_page256.h"

enum { ROWS = 4, COLUMNS = 16 };

/* round(x * factor) in the low bits: the sum lies where FP32 counts in ones. */
INLINE __m256i to_int(__m256 x, __m256 factor) {
    return _mm256_castps_si256(_mm256_fmadd_ps(x, factor, _mm256_set1_ps(0x1.8p23f)));
}

INLINE __m256i pack2(__m256i a, __m256i b) { /* the low halves of a and b, side by side */
    return _mm256_blend_epi16(a, _mm256_slli_epi32(b, 16), 0xaa);
}

/* 1 / step, and what loads leave out: FP8 loads give value * 2^-8. Where the step is 0 all values are 0;
 * where it is NaN the integers may be anything. */
INLINE __m256 factor_of(nib_kv_dtype type, __m256 step) {
    __m256 some = _mm256_cmp_ps(step, _mm256_setzero_ps(), _CMP_GT_OQ);
    return _mm256_and_ps(_mm256_div_ps(_mm256_set1_ps(type == NIB_KV_FP8 ? 256.0f : 1.0f), step), some);
}

/* 16 integers of to_int in order. */
INLINE __m256i low_words(__m256i a, __m256i b) {
    const __m256i low = _mm256_set1_epi32(0xffff);
    __m256i words = _mm256_packus_epi32(_mm256_and_si256(a, low), _mm256_and_si256(b, low));
    return _mm256_permute4x64_epi64(words, 0xd8);
}

static void quantize(int16_t *codes, float *step, const float *q, size_t d) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 most[8] = {_mm256_setzero_ps()};
    for (size_t i = 0; i < d; i += 8)
        most[0] = larger(most[0], _mm256_andnot_ps(sign, _mm256_loadu_ps(q + i)));
    float max = _mm256_cvtss_f32(larger_across(most));
    *step = max < INFINITY ? max / (float)ATTN_Q_MAX : NAN;
    __m256 factor = factor_of(NIB_KV_FP32, _mm256_set1_ps(*step));
    for (size_t i = 0; i < d; i += 16)
        _mm256_storeu_si256((__m256i *)(codes + i), low_words(to_int(_mm256_loadu_ps(q + i), factor),
                                                              to_int(_mm256_loadu_ps(q + i + 8), factor)));
}

/* A page is called into the cache whatever the number of rows: unpacking has nothing to wait beside. Each of
 * the four loops over a page calls half of the keys or values that come after the next loop. */
INLINE bool calls_ahead(const attn_page_job *job) {
    return job->last[job->n_rows - 1] == KEYS;
}

/* The second half of a page in the loops of the first rows: 2 * head_dim turns over all blocks. */
INLINE const char *second_half(nib_kv_dtype type, const attn_page_job *job, const void *page, size_t block,
                               size_t n) {
    return (const char *)page + (KEYS / 2 * job->head_dim + block * n * COLUMNS) * code_bytes(type);
}

/* Where column block B of N pairs begins: [blocks][n][COLUMNS] pairs */
INLINE uint8_t *ints_block(const attn_page_job *job, size_t b, size_t n) {
    return job->ints + b * n * COLUMNS * 4;
}

/* Keys of blocks [b0, b1) as integers. */
INLINE void key_ints(nib_kv_dtype type, const attn_page_job *job, size_t b0, size_t b1) {
    size_t line = 2 * KEYS * code_bytes(type), n = job->head_dim / 2;
    bool ahead = calls_ahead(job);
    __m256 f[KEYS / 8];
    for (size_t v = 2 * b0; v < 2 * b1; v++)
        f[v] = factor_of(type, _mm256_loadu_ps(job->k_steps + 8 * v));
    for (size_t i = 0; i < n; i++) {
        if (ahead)
            attn_prefetch(job->v, i * line / 2, line / 2);
        for (size_t v = 2 * b0; v < 2 * b1; v++) {
            pair k = load_keys(type, job->k, i, v);
            __m256i *to = (__m256i *)ints_block(job, v / 2, n) + 2 * i + v % 2;
            _mm256_store_si256(to, pack2(to_int(k.even, f[v]), to_int(k.odd, f[v])));
        }
    }
}

/* Values of the pairs of keys [t0, t1) as integers. */
INLINE void value_ints(nib_kv_dtype type, const attn_page_job *job, size_t t0, size_t t1) {
    size_t d = job->head_dim, line = 2 * d * code_bytes(type);
    bool ahead = job->next_k && calls_ahead(job);
    for (size_t t = t0; t < t1; t++) {
        __m256 f = factor_of(type, _mm256_set1_ps(job->v_steps[2 * t]));
        __m256 f2 = factor_of(type, _mm256_set1_ps(job->v_steps[2 * t + 1]));
        if (ahead)
            attn_prefetch(job->next_k, t * line / 2, line / 2);
        for (size_t b = 0; b < d / COLUMNS; b++) {
            pair v = load_values(type, job->v, d, 2 * t, 8 * b, 8);
            pair v2 = load_values(type, job->v, d, 2 * t + 1, 8 * b, 8);
            __m256i even = pack2(to_int(v.even, f), to_int(v2.even, f2));
            __m256i odd = pack2(to_int(v.odd, f), to_int(v2.odd, f2));
            pair p = in_order(type, (pair){_mm256_castsi256_ps(even), _mm256_castsi256_ps(odd)});
            float *to = (float *)ints_block(job, b, KEYS / 2) + t * COLUMNS;
            _mm256_store_ps(to, p.even);
            _mm256_store_ps(to + 8, p.odd);
        }
    }
}

/* sum + two products; the addition as assembly: GCC 12 copies the sums around the intrinsics. */
INLINE __m256i dot2(__m256i sum, __m256i a, __m256i b) {
    __asm__("vpaddd %1, %0, %0" : "+x"(sum) : "x"(_mm256_madd_epi16(a, b)));
    return sum;
}

/* s [R][2] = sums over N pairs of a row's pair times 16 columns' pairs; rows of A lie STRIDE bytes apart.
 * AHEAD: NULL or what to call, STEP bytes per turn. */
#define DOTS(s, R, a, stride, b, n, ahead, step)                                                             \
    do {                                                                                                     \
        for (int r = 0; r < (R); r++)                                                                        \
            s[r][0] = s[r][1] = _mm256_setzero_si256();                                                      \
        for (size_t i = 0; i < (n); i++) {                                                                   \
            __m256i b0 = _mm256_load_si256((b) + 2 * i), b1 = _mm256_load_si256((b) + 2 * i + 1);            \
            if (ahead)                                                                                       \
                attn_prefetch(ahead, i *(step), 1);                                                          \
            for (int r = 0; r < (R); r++) {                                                                  \
                int two;                                                                                     \
                __builtin_memcpy(&two, (a) + (size_t)r * (stride) + 4 * i, 4);                               \
                __m256i both = _mm256_set1_epi32(two);                                                       \
                s[r][0] = dot2(s[r][0], both, b0);                                                           \
                s[r][1] = dot2(s[r][1], both, b1);                                                           \
            }                                                                                                \
        }                                                                                                    \
    } while (0)

/* Scores of R rows and the keys of a block into scratch. AHEAD: calls values. */
INLINE void scores_tile(nib_kv_dtype type, const attn_page_job *job, int row, int R, size_t block,
                        bool ahead) {
    __m256i s[ROWS][2];
    size_t n = job->head_dim / 2;
    const char *q = (const char *)(job->q16 + (size_t)row * job->head_dim);
    const __m256i *k = (const __m256i *)ints_block(job, block, n);
    const char *call = ahead ? second_half(type, job, job->v, block, n) : NULL;
    DOTS(s, R, q, job->head_dim * 2, k, n, call, COLUMNS * code_bytes(type));
    for (size_t v = 0; v < 2; v++) {
        size_t key = COLUMNS * block + 8 * v;
        __m256 k_steps = _mm256_loadu_ps(job->k_steps + key);
        for (int r = 0; r < R; r++) {
            __m256 step = _mm256_mul_ps(_mm256_set1_ps(job->q_steps[row + r]), k_steps);
            __m256 score =
                _mm256_mul_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(s[r][v]), step), _mm256_set1_ps(job->scale));
            if (type == NIB_KV_FP8)
                score = _mm256_mul_ps(score, _mm256_loadu_ps(job->k_scale + key));
            _mm256_store_ps(job->scratch + (size_t)(row + r) * KEYS + key, score);
        }
    }
}

INLINE void all_scores(nib_kv_dtype type, const attn_page_job *job, int row, int R, size_t b0, size_t b1) {
    bool ahead = row == 0 && calls_ahead(job);
    for (size_t b = b0; b < b1; b++)
        if (ahead)
            scores_tile(type, job, row, R, b, true);
        else
            scores_tile(type, job, row, R, b, false);
}

/* Weights, times the step of their value, of all rows as 16-bit integers up to 255 in the front of their row
 * of scratch; steps [n_rows]: what a one counts, from the largest of the row. */
INLINE void weight_ints(const attn_page_job *job, float *steps) {
    _Alignas(32) float factors[ATTN_MAX_ROWS];
    for (int row = 0; row < job->n_rows; row += 8) {
        __m256i m = vf_first((size_t)(job->n_rows - row));
        __m256 step = _mm256_div_ps(_mm256_maskload_ps(steps + row, m), _mm256_set1_ps(255.0f));
        _mm256_maskstore_ps(steps + row, m, step);
        _mm256_store_ps(factors + row, factor_of(NIB_KV_FP32, step));
    }
    for (int row = 0; row < job->n_rows; row++) {
        float *s = job->scratch + (size_t)row * KEYS;
        __m256 factor = _mm256_set1_ps(factors[row]);
        for (int j = 0; j < KEYS / 16; j++) {
            __m256i a = to_int(_mm256_load_ps(s + 16 * j), factor);
            __m256i b = to_int(_mm256_load_ps(s + 16 * j + 8), factor);
            _mm256_store_si256((__m256i *)s + j, low_words(a, b));
        }
    }
}

/* Weighted values of R rows and the dimensions of a block, joined to acc. AHEAD: calls the next keys. */
INLINE void values_tile(nib_kv_dtype type, const attn_page_job *job, int row, int R, size_t block, size_t t0,
                        size_t t1, const float *c, const float *c2, const float *steps, bool ahead) {
    __m256i a[ROWS][2];
    const char *w = (const char *)(job->scratch + (size_t)row * KEYS) + 4 * t0;
    const __m256i *v = (const __m256i *)ints_block(job, block, KEYS / 2) + 2 * t0;
    const char *call = ahead ? second_half(type, job, job->next_k, block, KEYS / 2) : NULL;
    DOTS(a, R, w, KEYS * sizeof(float), v, t1 - t0, call, COLUMNS * code_bytes(type));
    for (int r = 0; r < R; r++) {
        float *acc = job->acc + (size_t)(row + r) * job->acc_stride + COLUMNS * block;
        __m256 old = _mm256_set1_ps(c[row + r]), new = _mm256_set1_ps(c2[row + r]);
        __m256 step = _mm256_set1_ps(steps[row + r]);
        for (int j = 0; j < 2; j++) {
            __m256 x = _mm256_mul_ps(_mm256_loadu_ps(acc + 8 * j), old);
            __m256 y = _mm256_mul_ps(_mm256_cvtepi32_ps(a[r][j]), step);
            _mm256_storeu_ps(acc + 8 * j, _mm256_fmadd_ps(y, new, x));
        }
    }
}

INLINE void all_values(nib_kv_dtype type, const attn_page_job *job, int row, int R, size_t t0, size_t t1,
                       const float *c, const float *c2, const float *steps) {
    bool ahead = row == 0 && job->next_k && calls_ahead(job);
    for (size_t b = 0; b < job->head_dim / COLUMNS; b++)
        if (ahead)
            values_tile(type, job, row, R, b, t0, t1, c, c2, steps, true);
        else
            values_tile(type, job, row, R, b, t0, t1, c, c2, steps, false);
}

INLINE void attn_page(nib_kv_dtype type, const attn_page_job *job) {
    float c[ATTN_MAX_ROWS], c2[ATTN_MAX_ROWS], steps[ATTN_MAX_ROWS];
    _Alignas(32) float values[KEYS];
    size_t first, last;
    seen_by_any(job, &first, &last);
    size_t b0 = first / COLUMNS, b1 = (last + COLUMNS - 1) / COLUMNS, t0 = first / 2, t1 = (last + 1) / 2;
    key_ints(type, job, b0, b1);
#define SCORES(R) all_scores(type, job, row, R, b0, b1)
    BY_ROWS(SCORES, ROWS, job->n_rows);
    for (int j = 0; j < KEYS; j++)
        values[j] = type == NIB_KV_FP8 ? job->v_steps[j] * job->v_scale[j] : job->v_steps[j];
    softmax_page(job, values, c, c2, steps);
    weight_ints(job, steps);
    value_ints(type, job, t0, t1);
#define VALUES(R) all_values(type, job, row, R, t0, t1, c, c2, steps)
    BY_ROWS(VALUES, ROWS, job->n_rows);
}

ATTN_PAGE_TYPES

void attn_int_avx2_init(cpu_kernels *k) {
    if (k->features & NIB_CPU_AVX512) /* whose FP32 is as fast */
        return;
    k->attn_quantize = quantize;
    attn_page_set(k->attn_page_int);
}
