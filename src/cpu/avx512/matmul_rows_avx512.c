/* SPDX-License-Identifier: Apache-2.0
 *
 * AVX-512: weights by rows, as they lie in the file, times FP32 activations, see ref/matmul_ref.c. The 16
 * lanes of a row's sum are one register.
 */
#include "cpu/avx512/matmul_avx512.h"

#define GEMV_ROWS 8
#define ROWS      4 /* of a block of products, times TOKENS */
#define TOKENS    6

INLINE __m512 load_f32(const uint8_t *p, __mmask16 some) {
    return _mm512_maskz_loadu_ps(some, p);
}

INLINE __m512 load_f16(const uint8_t *p, __mmask16 some) {
    return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(some, p));
}

INLINE __m512 load_bf16(const uint8_t *p, __mmask16 some) {
    __m256i v = _mm256_maskz_loadu_epi16(some, p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(v), 16));
}

/* Through F16: E4M3 moved to F16's place is value * 2^-8; its NaN is put back. */
INLINE __m512 load_e4m3(const uint8_t *p, __mmask16 some) {
    __m256i v = _mm256_cvtepu8_epi16(_mm_maskz_loadu_epi8(some, p));
    __m256i size = _mm256_and_si256(v, _mm256_set1_epi16(0x7f));
    __m256i sign = _mm256_slli_epi16(_mm256_andnot_si256(_mm256_set1_epi16(0x7f), v), 8);
    __mmask16 nan = _mm256_cmpeq_epi16_mask(size, _mm256_set1_epi16(0x7f));
    __m256i half = _mm256_or_si256(_mm256_slli_epi16(size, 7), sign);
    half = _mm256_or_si256(half, _mm256_maskz_set1_epi16(nan, 0x7e00));
    return _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(256.0f));
}

INLINE __m512 load_e5m2(const uint8_t *p, __mmask16 some) {
    __m256i v = _mm256_cvtepu8_epi16(_mm_maskz_loadu_epi8(some, p));
    return _mm512_cvtph_ps(_mm256_slli_epi16(v, 8));
}

typedef __m512 (*load_fn)(const uint8_t *p, __mmask16 some);

INLINE void decode(load_fn load, size_t size, const void *src, float *dst, size_t n) {
    const uint8_t *p = src;
    size_t c = 0;
    for (; c + 16 <= n; c += 16)
        _mm512_storeu_ps(dst + c, load(p + c * size, 0xffff));
    if (c < n) {
        __mmask16 some = (__mmask16)((1u << (n - c)) - 1);
        _mm512_mask_storeu_ps(dst + c, some, load(p + c * size, some));
    }
}

/* Lanes l and l + 8, then l + 4, l + 2, l + 1. */
INLINE float lanes_sum(__m512 v) {
    __m256 h = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}

/* R rows of weights, T of activations; N a whole number of 16 */
INLINE void mul_some(float *acc, const float *w, size_t w_stride, const float *x, size_t x_stride, size_t n,
                     size_t r_n, size_t t_n) {
    __m512 sums[ROWS * TOKENS], wr[ROWS];
    for (size_t i = 0; i < r_n * t_n; i++)
        sums[i] = _mm512_setzero_ps();
    for (size_t c = 0; c < n; c += 16) {
        for (size_t r = 0; r < r_n; r++)
            wr[r] = _mm512_loadu_ps(w + r * w_stride + c);
        for (size_t t = 0; t < t_n; t++) {
            __m512 xt = _mm512_loadu_ps(x + t * x_stride + c);
            for (size_t r = 0; r < r_n; r++)
                sums[t * r_n + r] = _mm512_fmadd_ps(wr[r], xt, sums[t * r_n + r]);
        }
    }
    for (size_t t = 0; t < t_n; t++)
        for (size_t r = 0; r < r_n; r++)
            acc[t * MATMUL_TILE + r] = lanes_sum(sums[t * r_n + r]);
}

INLINE void mul_tokens(float *acc, const float *w, size_t w_stride, size_t n_w, const float *x,
                       size_t x_stride, size_t n, size_t t_n) {
    size_t r = 0;
    for (; r + ROWS <= n_w; r += ROWS)
        mul_some(acc + r, w + r * w_stride, w_stride, x, x_stride, n, ROWS, t_n);
    for (; r < n_w; r++)
        mul_some(acc + r, w + r * w_stride, w_stride, x, x_stride, n, 1, t_n);
}

static void mul_rows(float *acc, const float *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride,
                     size_t n_tokens, size_t n) {
    size_t t = 0;
    for (; t + TOKENS <= n_tokens; t += TOKENS)
        mul_tokens(acc + t * MATMUL_TILE, w, w_stride, n_w, x + t * x_stride, x_stride, n, TOKENS);
    for (; t + 2 <= n_tokens; t += 2)
        mul_tokens(acc + t * MATMUL_TILE, w, w_stride, n_w, x + t * x_stride, x_stride, n, 2);
    if (t < n_tokens)
        mul_tokens(acc + t * MATMUL_TILE, w, w_stride, n_w, x + t * x_stride, x_stride, n, 1);
}

/* R rows straight from the file. */
INLINE void gemv_some(load_fn load, size_t size, float *acc, const uint8_t *w, size_t row_bytes,
                      const float *x, size_t n, size_t r_n, const uint8_t *stop) {
    const uint8_t *next =
        w + r_n * row_bytes < stop ? w + r_n * row_bytes : w; /* rows to ask for meanwhile */
    __m512 sums[GEMV_ROWS];
    for (size_t r = 0; r < r_n; r++)
        sums[r] = _mm512_setzero_ps();
    size_t c = 0;
    for (; c + 16 <= n; c += 16) {
        __m512 xc = _mm512_loadu_ps(x + c);
        for (size_t line = 0; line < 16 * size * r_n; line += PACK_LINE)
            MATMUL_ASK(next + c * size * r_n + line);
        for (size_t r = 0; r < r_n; r++) {
            const uint8_t *p = w + r * row_bytes + c * size;
            sums[r] = _mm512_fmadd_ps(load(p, 0xffff), xc, sums[r]);
        }
    }
    if (c < n) {
        __mmask16 some = (__mmask16)((1u << (n - c)) - 1);
        for (size_t r = 0; r < r_n; r++)
            sums[r] =
                _mm512_fmadd_ps(load(w + r * row_bytes + c * size, some), _mm512_loadu_ps(x + c), sums[r]);
    }
    for (size_t r = 0; r < r_n; r++)
        acc[r] = lanes_sum(sums[r]);
}

INLINE void gemv(load_fn load, size_t size, float *acc, const uint8_t *w, size_t row_bytes, size_t n_w,
                 const float *x, size_t n) {
    const uint8_t *stop = w + n_w * row_bytes;
    size_t r = 0;
    for (; r + GEMV_ROWS <= n_w; r += GEMV_ROWS)
        gemv_some(load, size, acc + r, w + r * row_bytes, row_bytes, x, n, GEMV_ROWS, stop);
    for (; r < n_w; r++)
        gemv_some(load, size, acc + r, w + r * row_bytes, row_bytes, x, n, 1, stop);
}

#define FORMAT(name, size)                                                                                   \
    static void decode_##name(const void *src, float *dst, size_t n) {                                       \
        decode(load_##name, size, src, dst, n);                                                              \
    }                                                                                                        \
    static void gemv_##name(float *acc, const void *w, size_t row_bytes, size_t n_w, const float *x,         \
                            size_t n) {                                                                      \
        gemv(load_##name, size, acc, w, row_bytes, n_w, x, n);                                               \
    }

FORMAT(f32, 4)
FORMAT(f16, 2)
FORMAT(bf16, 2)
FORMAT(e4m3, 1)
FORMAT(e5m2, 1)

void matmul_rows_avx512_init(matmul_kernels *m) {
    m->mul_rows = mul_rows;
    m->decode[DT_F32] = decode_f32;
    m->decode[DT_F16] = decode_f16;
    m->decode[DT_BF16] = decode_bf16;
    m->decode[DT_F8_E4M3] = decode_e4m3;
    m->decode[DT_F8_E5M2] = decode_e5m2;
    m->gemv_rows[DT_F32] = gemv_f32;
    m->gemv_rows[DT_F16] = gemv_f16;
    m->gemv_rows[DT_BF16] = gemv_bf16;
    m->gemv_rows[DT_F8_E4M3] = gemv_e4m3;
    m->gemv_rows[DT_F8_E5M2] = gemv_e5m2;
}
