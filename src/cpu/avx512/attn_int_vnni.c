/* SPDX-License-Identifier: Apache-2.0
 *
 * One page of attention with integer operands, for the int8 activation mode where the machine has VNNI.
 * ref/attn_int_ref.c says what it computes; layouts: kv.h.
 *
 * The page's keys become 16-bit integers, two dimensions side by side, and a tile of up to 6 rows times 64
 * keys goes once through them: two multiply-adds for one of FP32. The softmax is FP32. Its weights, times the
 * step of each value, become bytes; values become bytes [KEYS / 4][head_dim][4] (the even, then the odd
 * dimensions of every 32): four multiply-adds for one. Integer sums are exact, so any order gives the same
 * bits; the few FP32 operations of a row are in a fixed order.
 */
#include <math.h>

#include "cpu/avx512/attn_page512.h"
#include "num/bf16.h"

enum { ROWS = 6 }; /* query rows of a tile */

/* As assembly: GCC 12 copies the sums around the intrinsics. */
INLINE __m512i dot4(__m512i sum, __m512i a, __m512i b) { /* + four products of unsigned a, signed b */
    __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
}

INLINE __m512i dot2(__m512i sum, __m512i a, __m512i b) { /* + two products */
    __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
    return sum;
}

enum { PICK = 0xca }; /* ternary logic: mask ? second : third */

INLINE __m512i pack2(__m512i a, __m512i b) { /* the low halves of a and b, side by side */
    return _mm512_ternarylogic_epi32(_mm512_set1_epi32(0xffff), a, _mm512_slli_epi32(b, 16), PICK);
}

INLINE __m512i pack4(__m512i a, __m512i b, __m512i c, __m512i d) { /* the low bytes */
    const __m512i low = _mm512_set1_epi32(0xff);
    return pack2(_mm512_ternarylogic_epi32(low, a, _mm512_slli_epi32(b, 8), PICK),
                 _mm512_ternarylogic_epi32(low, c, _mm512_slli_epi32(d, 8), PICK));
}

/* round(x * factor) in the low bits: the sum lies where FP32 counts in ones. */
INLINE __m512i to_int(__m512 x, __m512 factor) {
    return _mm512_castps_si512(_mm512_fmadd_ps(x, factor, _mm512_set1_ps(0x1.8p23f)));
}

/* 1 / step, and what loads leave out: FP8 loads give value * 2^-8. Where the step is 0 all values are 0;
 * where it is NaN the integers may be anything. */
INLINE __m512 factor_of(nib_kv_dtype type, __m512 step) {
    __mmask16 some = _mm512_cmp_ps_mask(step, _mm512_setzero_ps(), _CMP_GT_OQ);
    return _mm512_maskz_div_ps(some, _mm512_set1_ps(type == NIB_KV_FP8 ? 256.0f : 1.0f), step);
}

static void quantize(int16_t *codes, float *step, const float *q, size_t d) {
    __m512 most = _mm512_setzero_ps();
    for (size_t i = 0; i < d; i += 16)
        most = larger(most, _mm512_abs_ps(_mm512_loadu_ps(q + i)));
    float max = f32_of_bits(_mm512_reduce_max_epu32(_mm512_castps_si512(most)));
    *step = max < INFINITY ? max / (float)ATTN_Q_MAX : NAN;
    __m512 factor = factor_of(NIB_KV_FP32, _mm512_set1_ps(*step));
    for (size_t i = 0; i < d; i += 16)
        _mm256_storeu_si256((__m256i *)(codes + i),
                            _mm512_cvtepi32_epi16(to_int(_mm512_loadu_ps(q + i), factor)));
}

/* Keys of vectors [v0, v1) as integers. */
INLINE void key_ints(nib_kv_dtype type, const attn_page_job *job, size_t v0, size_t v1) {
    size_t line = 2 * KEYS * code_bytes(type);
    size_t seen = 16 * v1 * job->head_dim * code_bytes(type); /* bytes of values that are wanted */
    bool ahead = attn_prefetch_wanted(job);
    __m512 f[4];
    for (size_t v = v0; v < v1; v++)
        f[v] = factor_of(type, _mm512_loadu_ps(job->k_steps + 16 * v));
    for (size_t i = 0; i < job->head_dim / 2; i++) {
        if (ahead) {
            size_t vector = line / (KEYS / 16);
            attn_prefetch(job->k, i * line + ATTN_PREFETCH_AHEAD + v0 * vector, (v1 - v0) * vector);
            if (i * line / 2 < seen)
                attn_prefetch(job->v, i * line / 2, line / 2);
        }
        for (size_t v = v0; v < v1; v++) {
            pair k = load_keys(type, job->k, i, v);
            _mm512_store_si512(job->ints + (i * KEYS + 16 * v) * 4,
                               pack2(to_int(k.even, f[v]), to_int(k.odd, f[v])));
        }
    }
}

/* q.k of R rows and key vectors [v0, v0 + NV) into scratch. AHEAD: bytes of values to call per turn. */
INLINE void scores_tile(nib_kv_dtype type, const attn_page_job *job, int row, int R, size_t v0, int NV,
                        size_t ahead) {
    __m512i s[ROWS][4];
    const int16_t *q = job->q16 + (size_t)row * job->head_dim;
    for (int r = 0; r < R; r++)
        for (int v = 0; v < NV; v++)
            s[r][v] = _mm512_setzero_si512();
    for (size_t i = 0; i < job->head_dim / 2; i++) {
        __m512i k[4];
        if (ahead)
            attn_prefetch(job->v, (job->head_dim / 2 + i) * ahead, ahead);
        for (int v = 0; v < NV; v++)
            k[v] = _mm512_load_si512(job->ints + (i * KEYS + 16 * (v0 + (size_t)v)) * 4);
        for (int r = 0; r < R; r++) {
            int two;
            __builtin_memcpy(&two, q + (size_t)r * job->head_dim + 2 * i, 4);
            __m512i w = _mm512_set1_epi32(two);
            for (int v = 0; v < NV; v++)
                s[r][v] = dot2(s[r][v], w, k[v]);
        }
    }
    for (int r = 0; r < R; r++)
        for (int v = 0; v < NV; v++) {
            size_t key = 16 * (v0 + (size_t)v);
            __m512 step =
                _mm512_mul_ps(_mm512_set1_ps(job->q_steps[row + r]), _mm512_loadu_ps(job->k_steps + key));
            __m512 x = _mm512_mul_ps(_mm512_cvtepi32_ps(s[r][v]), step);
            x = _mm512_mul_ps(x, _mm512_set1_ps(job->scale));
            if (type == NIB_KV_FP8)
                x = _mm512_mul_ps(x, _mm512_loadu_ps(job->k_scale + key));
            _mm512_store_ps(job->scratch + (size_t)(row + r) * KEYS + key, x);
        }
}

INLINE void all_scores(nib_kv_dtype type, const attn_page_job *job, int row, int R, size_t v0, size_t v1) {
    if (v1 - v0 == 1)
        scores_tile(type, job, row, R, v0, 1, 0);
    else if (v1 - v0 == 2)
        scores_tile(type, job, row, R, v0, 2, 0);
    else if (row == 0 && attn_prefetch_wanted(job))
        scores_tile(type, job, row, R, 0, 4, KEYS * code_bytes(type));
    else
        scores_tile(type, job, row, R, 0, 4, 0);
}

/* Weights, times the step of their value, of all rows as bytes; steps [n_rows]: what a byte counts, from the
 * largest of the row. */
INLINE void weight_bytes(const attn_page_job *job, float *steps) {
    _Alignas(64) float factors[ATTN_MAX_ROWS];
    for (int row = 0; row < job->n_rows; row += 16) {
        __mmask16 m = vf_first((size_t)(job->n_rows - row));
        __m512 step = _mm512_div_ps(_mm512_maskz_loadu_ps(m, steps + row), _mm512_set1_ps(255.0f));
        _mm512_mask_storeu_ps(steps + row, m, step);
        _mm512_store_ps(factors + row, factor_of(NIB_KV_FP32, step));
    }
    for (int row = 0; row < job->n_rows; row++) {
        const float *s = job->scratch + (size_t)row * KEYS;
        __m512 factor = _mm512_set1_ps(factors[row]);
        for (int j = 0; j < 4; j++) {
            __m512i codes = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_load_ps(s + 16 * j), factor));
            _mm_storeu_si128((__m128i *)(job->weights8 + (size_t)row * KEYS + 16 * j),
                             _mm512_cvtusepi32_epi8(codes));
        }
    }
}

/* Values of keys [4 t0, 4 t1) as bytes. */
INLINE void value_bytes(nib_kv_dtype type, const attn_page_job *job, size_t t0, size_t t1) {
    size_t d = job->head_dim;
    bool ahead = job->next_k && attn_prefetch_wanted(job);
    size_t pairs = t1 - t0 == KEYS / 4 ? d / 4 : d / 2, each = (pairs + t1 - t0 - 1) / (t1 - t0);
    size_t next_line = 2 * KEYS * code_bytes(type), wanted = (job->next_keys + 15) / 16 * (next_line / 4);
    for (size_t t = t0; t < t1; t++) {
        __m512 f[4];
        for (size_t j = 0; j < 4; j++)
            f[j] = factor_of(type, _mm512_set1_ps(job->v_steps[4 * t + j]));
        for (size_t i = (t - t0) * each; ahead && i < (t - t0 + 1) * each && i < pairs; i++)
            attn_prefetch(job->next_k, i * next_line, wanted);
        for (size_t i = 0; i < d / 2; i += 16) {
            pair v[4];
            for (size_t j = 0; j < 4; j++)
                v[j] = load_values(type, job->v, d, 4 * t + j, i, 16);
            uint8_t *bytes = job->ints + (t * d + 2 * i) * 4;
            _mm512_store_si512(bytes, pack4(to_int(v[0].even, f[0]), to_int(v[1].even, f[1]),
                                            to_int(v[2].even, f[2]), to_int(v[3].even, f[3])));
            _mm512_store_si512(bytes + 64, pack4(to_int(v[0].odd, f[0]), to_int(v[1].odd, f[1]),
                                                 to_int(v[2].odd, f[2]), to_int(v[3].odd, f[3])));
        }
    }
}

/* Weighted values of R rows and dimensions [i, i + 64), joined to acc. AHEAD: bytes of the next keys. */
INLINE void values_tile(nib_kv_dtype type, const attn_page_job *job, int row, int R, size_t i, size_t t0,
                        size_t t1, const float *c, const float *c2, const float *steps, size_t ahead) {
    __m512i a[ROWS][4];
    for (int r = 0; r < R; r++)
        for (int j = 0; j < 4; j++)
            a[r][j] = _mm512_setzero_si512();
    for (size_t t = t0; t < t1; t++) {
        const uint8_t *bytes = job->ints + (t * job->head_dim + i) * 4;
        __m512i v[4];
        if (ahead)
            attn_prefetch(job->next_k, (job->head_dim / 4 + i / 4 + t) * ahead, ahead);
        for (int j = 0; j < 4; j++)
            v[j] = _mm512_load_si512(bytes + 64 * j);
        for (int r = 0; r < R; r++) {
            int four;
            __builtin_memcpy(&four, job->weights8 + (size_t)(row + r) * KEYS + 4 * t, 4);
            __m512i w = _mm512_set1_epi32(four);
            for (int j = 0; j < 4; j++)
                a[r][j] = dot4(a[r][j], w, v[j]);
        }
    }
    for (int r = 0; r < R; r++) {
        float *acc = job->acc + (size_t)(row + r) * job->acc_stride + i;
        __m512 old = _mm512_set1_ps(c[row + r]), new = _mm512_set1_ps(c2[row + r]);
        __m512 step = _mm512_set1_ps(steps[row + r]);
        for (int j = 0; j < 4; j += 2) {
            pair p = in_order(type, (pair){_mm512_mul_ps(_mm512_cvtepi32_ps(a[r][j]), step),
                                           _mm512_mul_ps(_mm512_cvtepi32_ps(a[r][j + 1]), step)});
            __m512 x = _mm512_mul_ps(_mm512_loadu_ps(acc + 16 * j), old);
            __m512 y = _mm512_mul_ps(_mm512_loadu_ps(acc + 16 * j + 16), old);
            _mm512_storeu_ps(acc + 16 * j, _mm512_fmadd_ps(p.even, new, x));
            _mm512_storeu_ps(acc + 16 * j + 16, _mm512_fmadd_ps(p.odd, new, y));
        }
    }
}

INLINE void all_values(nib_kv_dtype type, const attn_page_job *job, int row, int R, size_t t0, size_t t1,
                       const float *c, const float *c2, const float *steps) {
    bool ahead = row == 0 && job->next_k && attn_prefetch_wanted(job) && t1 - t0 == KEYS / 4;
    for (size_t i = 0; i < job->head_dim; i += 64)
        if (ahead)
            values_tile(type, job, row, R, i, t0, t1, c, c2, steps, KEYS * 2 * code_bytes(type));
        else
            values_tile(type, job, row, R, i, t0, t1, c, c2, steps, 0);
}

INLINE void attn_page(nib_kv_dtype type, const attn_page_job *job) {
    float c[ATTN_MAX_ROWS], c2[ATTN_MAX_ROWS], steps[ATTN_MAX_ROWS];
    size_t first, last;
    seen_by_any(job, &first, &last);
    size_t v0 = first / 16, v1 = (last + 15) / 16, t0 = first / 4, t1 = (last + 3) / 4;
    if (v1 - v0 > 2) /* all_scores takes all four then */
        v0 = 0, v1 = 4;
    key_ints(type, job, v0, v1);
#define SCORES(R) all_scores(type, job, row, R, v0, v1)
    BY_ROWS(SCORES, ROWS, job->n_rows);
    float values[KEYS];
    for (int j = 0; j < KEYS; j++)
        values[j] = type == NIB_KV_FP8 ? job->v_steps[j] * job->v_scale[j] : job->v_steps[j];
    softmax_page(job, values, c, c2, steps);
    weight_bytes(job, steps);
    value_bytes(type, job, t0, t1);
#define VALUES(R) all_values(type, job, row, R, t0, t1, c, c2, steps)
    BY_ROWS(VALUES, ROWS, job->n_rows);
}

ATTN_PAGE_TYPES

void attn_int_vnni_init(cpu_kernels *k) {
    k->attn_quantize = quantize;
    attn_page_set(k->attn_page_int);
}
