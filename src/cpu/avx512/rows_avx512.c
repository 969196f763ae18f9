/* SPDX-License-Identifier: Apache-2.0
 *
 * Row functions, 16 lanes; ref/rows_ref.c says what they compute. Tails are masked: a row's bits do not
 * depend on where it ends.
 */
#include "cpu/avx512/vmath512.h"
#include "cpu/kernels.h"

static inline __mmask16 mask_of(size_t n) {
    return n >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << n) - 1);
}

static float rms_factor(const float *x, float eps, size_t n) {
    __m512 a[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
    size_t i = 0;
    for (; i + 64 <= n; i += 64)
        for (size_t j = 0; j < 4; j++) {
            __m512 v = _mm512_loadu_ps(x + i + 16 * j);
            a[j] = _mm512_fmadd_ps(v, v, a[j]);
        }
    for (; i < n; i += 16) {
        __m512 v = _mm512_maskz_loadu_ps(mask_of(n - i), x + i);
        a[0] = _mm512_fmadd_ps(v, v, a[0]);
    }
    float squares = _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(a[0], a[1]), _mm512_add_ps(a[2], a[3])));
    return 1.0f / __builtin_sqrtf(squares / (float)n + eps);
}

static void rmsnorm(float *out, const float *x, const float *w, float eps, size_t n) {
    __m512 factor = _mm512_set1_ps(rms_factor(x, eps, n));
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 m = mask_of(n - i);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, x + i), factor);
        _mm512_mask_storeu_ps(out + i, m, _mm512_mul_ps(v, _mm512_maskz_loadu_ps(m, w + i)));
    }
}

static void rmsnorm_add(float *x, const float *y, const float *w, float eps, size_t n) {
    __m512 factor = _mm512_set1_ps(rms_factor(y, eps, n));
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 m = mask_of(n - i);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, y + i), factor);
        v = _mm512_fmadd_ps(v, _mm512_maskz_loadu_ps(m, w + i), _mm512_maskz_loadu_ps(m, x + i));
        _mm512_mask_storeu_ps(x + i, m, v);
    }
}

static void rope_halves(float *x, const float *cosines, const float *sines, size_t half) {
    for (size_t i = 0; i < half; i += 16) {
        __mmask16 m = mask_of(half - i);
        __m512 c = _mm512_maskz_loadu_ps(m, cosines + i), s = _mm512_maskz_loadu_ps(m, sines + i);
        __m512 a = _mm512_maskz_loadu_ps(m, x + i), b = _mm512_maskz_loadu_ps(m, x + half + i);
        _mm512_mask_storeu_ps(x + i, m, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
        _mm512_mask_storeu_ps(x + half + i, m, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
    }
}

static void rope_pairs(float *x, const float *cosines, const float *sines, size_t half) {
    const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    for (size_t i = 0; i < half; i += 8) {
        __mmask16 m8 = mask_of(half - i) & 0xff, m = mask_of(2 * (half - i));
        __m512 c = _mm512_permutexvar_ps(twice, _mm512_maskz_loadu_ps(m8, cosines + i));
        __m512 s = _mm512_permutexvar_ps(twice, _mm512_maskz_loadu_ps(m8, sines + i));
        __m512 v = _mm512_maskz_loadu_ps(m, x + 2 * i), swapped = _mm512_permute_ps(v, 0xb1);
        _mm512_mask_storeu_ps(x + 2 * i, m, _mm512_fmaddsub_ps(v, c, _mm512_mul_ps(swapped, s)));
    }
}

static void rope(float *x, const float *cosines, const float *sines, size_t half, bool interleaved) {
    (interleaved ? rope_pairs : rope_halves)(x, cosines, sines, half);
}

static void glu_silu(float *out, const float *gate, const float *up, size_t n) {
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 m = mask_of(n - i);
        __m512 g = vmath512_silu(_mm512_maskz_loadu_ps(m, gate + i));
        _mm512_mask_storeu_ps(out + i, m, _mm512_mul_ps(g, _mm512_maskz_loadu_ps(m, up + i)));
    }
}

static void glu_gelu_tanh(float *out, const float *gate, const float *up, size_t n) {
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 m = mask_of(n - i);
        __m512 g = vmath512_gelu_tanh(_mm512_maskz_loadu_ps(m, gate + i));
        _mm512_mask_storeu_ps(out + i, m, _mm512_mul_ps(g, _mm512_maskz_loadu_ps(m, up + i)));
    }
}

static void to_bf16(uint16_t *dst, const float *x, size_t n) {
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 m = mask_of(n - i);
        __m512 v = _mm512_maskz_loadu_ps(m, x + i);
        __m512i b = _mm512_castps_si512(v), odd = _mm512_srli_epi32(b, 16);
        __m512i even_up = _mm512_add_epi32(_mm512_and_si512(odd, _mm512_set1_epi32(1)),
                                           _mm512_set1_epi32(0x7fff)); /* ties to even */
        __m512i r = _mm512_srli_epi32(_mm512_add_epi32(b, even_up), 16);
        __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
        r = _mm512_mask_or_epi32(r, nan, odd, _mm512_set1_epi32(0x40));
        _mm256_mask_storeu_epi16(dst + i, m, _mm512_cvtepi32_epi16(r));
    }
}

/* e4m3_from_f32_sat of num/fp8.h, 16 lanes; |x| is below 464 here, or x is NaN: 0x7f and the sign. */
static inline __m512i e4m3(__m512 x) {
    __m512i b = _mm512_castps_si512(x), a = _mm512_and_si512(b, _mm512_set1_epi32(0x7fffffff));
    __m512i sign = _mm512_and_si512(_mm512_srli_epi32(b, 24), _mm512_set1_epi32(0x80));
    __m512i even_up = _mm512_add_epi32(_mm512_and_si512(_mm512_srli_epi32(a, 20), _mm512_set1_epi32(1)),
                                       _mm512_set1_epi32(0x7ffff));
    __m512i normal =
        _mm512_srli_epi32(_mm512_add_epi32(_mm512_sub_epi32(a, _mm512_set1_epi32(120 << 23)), even_up), 20);
    normal = _mm512_min_epu32(normal, _mm512_set1_epi32(0x7f));
    __m512 shifted = _mm512_add_ps(_mm512_castsi512_ps(a), _mm512_set1_ps(0x1p14f));
    __m512i small = _mm512_sub_epi32(_mm512_castps_si512(shifted), _mm512_set1_epi32(0x46800000));
    __mmask16 is_small = _mm512_cmplt_epu32_mask(a, _mm512_set1_epi32(0x3c800000));
    return _mm512_or_si512(sign, _mm512_mask_blend_epi32(is_small, normal, small));
}

static void to_fp8(uint8_t *dst, float factor, const float *x, size_t n) {
    const __m512 top = _mm512_set1_ps(448.0f);
    for (size_t i = 0; i < n; i += 16) {
        __mmask16 m = mask_of(n - i);
        __m512 v = _mm512_mul_ps(_mm512_maskz_loadu_ps(m, x + i), _mm512_set1_ps(factor));
        v = _mm512_max_ps(_mm512_sub_ps(_mm512_setzero_ps(), top), _mm512_min_ps(top, v)); /* NaN stays */
        _mm512_mask_cvtepi32_storeu_epi8(dst + i, m, e4m3(v));
    }
}

static uint64_t read_all(const void *src, size_t n) {
    const uint8_t *bytes = src;
    size_t part = n / 4;
    __m512i a[4] = {_mm512_setzero_si512(), _mm512_setzero_si512(), _mm512_setzero_si512(),
                    _mm512_setzero_si512()};
    for (size_t i = 0; i < part; i += 256)
        for (size_t s = 0; s < 4; s++)
            for (size_t j = 0; j < 256; j += 64)
                a[s] = _mm512_add_epi64(a[s], _mm512_loadu_si512((const void *)(bytes + s * part + i + j)));
    return (uint64_t)_mm512_reduce_add_epi64(
        _mm512_add_epi64(_mm512_add_epi64(a[0], a[1]), _mm512_add_epi64(a[2], a[3])));
}

void rows_avx512_init(cpu_kernels *k) {
    k->rmsnorm = rmsnorm;
    k->rmsnorm_add = rmsnorm_add;
    k->rope = rope;
    k->glu[GLU_SILU] = glu_silu;
    k->glu[GLU_GELU_TANH] = glu_gelu_tanh;
    k->to_bf16 = to_bf16;
    k->to_fp8 = to_fp8;
    k->read_all = read_all;
}
