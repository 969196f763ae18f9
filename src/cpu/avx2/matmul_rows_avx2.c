/* SPDX-License-Identifier: Apache-2.0
 *
 * AVX2: weights by rows, as they lie in the file, times FP32 activations, see ref/matmul_ref.c. The 16 lanes
 * of a row's sum are two registers. Stored numbers widen to FP32 exactly: BF16 by a shift, F16 by F16C, FP8
 * through F16 (E4M3 moved to F16's place is value * 2^-8, its NaN is put back).
 */
#include "cpu/avx2/matmul_avx2.h"
#include "num/fp8.h"

#define GEMV_ROWS 4

INLINE __m256 load_f32(const uint8_t *p) {
    return _mm256_loadu_ps((const float *)p);
}

INLINE __m256 load_f16(const uint8_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

INLINE __m256 load_bf16(const uint8_t *p) {
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p)), 16));
}

INLINE __m256 load_e4m3(const uint8_t *p) {
    __m128i v = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)p));
    __m128i size = _mm_and_si128(v, _mm_set1_epi16(0x7f));
    __m128i sign = _mm_slli_epi16(_mm_andnot_si128(_mm_set1_epi16(0x7f), v), 8);
    __m128i nan = _mm_and_si128(_mm_cmpeq_epi16(size, _mm_set1_epi16(0x7f)), _mm_set1_epi16(0x7e00));
    __m128i half = _mm_or_si128(_mm_or_si128(_mm_slli_epi16(size, 7), sign), nan);
    return _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(256.0f));
}

INLINE __m256 load_e5m2(const uint8_t *p) {
    __m128i v = _mm_cvtepu8_epi16(_mm_loadl_epi64((const __m128i *)p));
    return _mm256_cvtph_ps(_mm_slli_epi16(v, 8));
}

typedef __m256 (*load_fn)(const uint8_t *p);

INLINE void decode(load_fn load, size_t size, dtype t, const void *src, float *dst, size_t n) {
    const uint8_t *p = src;
    size_t c = 0;
    for (; c + 8 <= n; c += 8)
        _mm256_storeu_ps(dst + c, load(p + c * size));
    if (c < n)
        dtype_decode(t, p + c * size, dst + c, n - c);
}

/* Lanes l and l + 8, then l + 4, l + 2, l + 1. */
INLINE float lanes_sum(__m256 low, __m256 high) {
    __m256 v = _mm256_add_ps(low, high);
    __m128 w = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    w = _mm_add_ps(w, _mm_movehl_ps(w, w));
    return _mm_cvtss_f32(_mm_add_ss(w, _mm_movehdup_ps(w)));
}

/* R rows of weights, T of activations; N a whole number of 16 */
INLINE void mul_some(float *acc, const float *w, size_t w_stride, const float *x, size_t x_stride, size_t n,
                     size_t r_n, size_t t_n) {
    __m256 low[6], high[6];
    for (size_t i = 0; i < r_n * t_n; i++)
        low[i] = high[i] = _mm256_setzero_ps();
    for (size_t c = 0; c < n; c += 16)
        for (size_t r = 0; r < r_n; r++) {
            __m256 a = _mm256_loadu_ps(w + r * w_stride + c), b = _mm256_loadu_ps(w + r * w_stride + c + 8);
            for (size_t t = 0; t < t_n; t++) {
                const float *xc = x + t * x_stride + c;
                low[r * t_n + t] = _mm256_fmadd_ps(a, _mm256_loadu_ps(xc), low[r * t_n + t]);
                high[r * t_n + t] = _mm256_fmadd_ps(b, _mm256_loadu_ps(xc + 8), high[r * t_n + t]);
            }
        }
    for (size_t t = 0; t < t_n; t++)
        for (size_t r = 0; r < r_n; r++)
            acc[t * MATMUL_TILE + r] = lanes_sum(low[r * t_n + t], high[r * t_n + t]);
}

static void mul_rows(float *acc, const float *w, size_t w_stride, size_t n_w, const float *x, size_t x_stride,
                     size_t n_tokens, size_t n) {
    size_t t = 0;
    for (; t + 3 <= n_tokens; t += 3) {
        size_t r = 0;
        for (; r + 2 <= n_w; r += 2)
            mul_some(acc + t * MATMUL_TILE + r, w + r * w_stride, w_stride, x + t * x_stride, x_stride, n, 2,
                     3);
        if (r < n_w)
            mul_some(acc + t * MATMUL_TILE + r, w + r * w_stride, w_stride, x + t * x_stride, x_stride, n, 1,
                     3);
    }
    for (; t < n_tokens; t++) {
        size_t r = 0;
        for (; r + 4 <= n_w; r += 4)
            mul_some(acc + t * MATMUL_TILE + r, w + r * w_stride, w_stride, x + t * x_stride, x_stride, n, 4,
                     1);
        for (; r < n_w; r++)
            mul_some(acc + t * MATMUL_TILE + r, w + r * w_stride, w_stride, x + t * x_stride, x_stride, n, 1,
                     1);
    }
}

/* Up to GEMV_ROWS rows straight from the file; the last columns through a copy, so that nothing past the row
 * is read. */
INLINE void gemv_some(load_fn load, size_t size, float *acc, const uint8_t *w, size_t row_bytes,
                      const float *x, size_t n, size_t r_n, const uint8_t *stop) {
    const uint8_t *next =
        w + r_n * row_bytes < stop ? w + r_n * row_bytes : w; /* rows to ask for meanwhile */
    __m256 low[GEMV_ROWS], high[GEMV_ROWS];
    for (size_t r = 0; r < r_n; r++)
        low[r] = high[r] = _mm256_setzero_ps();
    size_t c = 0;
    for (; c + 16 <= n; c += 16) {
        __m256 a = _mm256_loadu_ps(x + c), b = _mm256_loadu_ps(x + c + 8);
        for (size_t line = 0; line < 16 * size * r_n; line += PACK_LINE)
            MATMUL_ASK(next + c * size * r_n + line);
        for (size_t r = 0; r < r_n; r++) {
            const uint8_t *p = w + r * row_bytes + c * size;
            low[r] = _mm256_fmadd_ps(load(p), a, low[r]);
            high[r] = _mm256_fmadd_ps(load(p + 8 * size), b, high[r]);
        }
    }
    for (size_t r = 0; r < r_n && c < n; r++) {
        uint8_t tail[16 * 4] = {0};
        __builtin_memcpy(tail, w + r * row_bytes + c * size, (n - c) * size);
        low[r] = _mm256_fmadd_ps(load(tail), _mm256_loadu_ps(x + c), low[r]);
        high[r] = _mm256_fmadd_ps(load(tail + 8 * size), _mm256_loadu_ps(x + c + 8), high[r]);
    }
    for (size_t r = 0; r < r_n; r++)
        acc[r] = lanes_sum(low[r], high[r]);
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

#define FORMAT(name, type, size)                                                                             \
    static void decode_##name(const void *src, float *dst, size_t n) {                                       \
        decode(load_##name, size, type, src, dst, n);                                                        \
    }                                                                                                        \
    static void gemv_##name(float *acc, const void *w, size_t row_bytes, size_t n_w, const float *x,         \
                            size_t n) {                                                                      \
        gemv(load_##name, size, acc, w, row_bytes, n_w, x, n);                                               \
    }

FORMAT(f32, DT_F32, 4)
FORMAT(f16, DT_F16, 2)
FORMAT(bf16, DT_BF16, 2)
FORMAT(e4m3, DT_F8_E4M3, 1)
FORMAT(e5m2, DT_F8_E5M2, 1)

void matmul_rows_avx2_init(matmul_kernels *m) {
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
