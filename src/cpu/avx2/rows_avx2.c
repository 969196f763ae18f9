/* SPDX-License-Identifier: Apache-2.0
 *
 * Row functions, 8 lanes; ref/rows_ref.c says what they compute. Tails are masked: a row's bits do not depend
 * on where it ends.
 */
#include <string.h>

#include "cpu/avx2/vmath256.h"
#include "cpu/kernels.h"

static float rms_factor(const float *x, float eps, size_t n) {
    __m256 a[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    size_t i = 0;
    for (; i + 32 <= n; i += 32)
        for (size_t j = 0; j < 4; j++) {
            __m256 v = _mm256_loadu_ps(x + i + 8 * j);
            a[j] = _mm256_fmadd_ps(v, v, a[j]);
        }
    for (; i < n; i += 8) {
        __m256 v = _mm256_maskload_ps(x + i, vmath256_mask(n - i));
        a[0] = _mm256_fmadd_ps(v, v, a[0]);
    }
    float squares = vmath256_sum(_mm256_add_ps(_mm256_add_ps(a[0], a[1]), _mm256_add_ps(a[2], a[3])));
    return 1.0f / __builtin_sqrtf(squares / (float)n + eps);
}

static void rmsnorm(float *out, const float *x, const float *w, float eps, size_t n) {
    __m256 factor = _mm256_set1_ps(rms_factor(x, eps, n));
    for (size_t i = 0; i < n; i += 8) {
        __m256i m = vmath256_mask(n - i);
        __m256 v = _mm256_mul_ps(_mm256_maskload_ps(x + i, m), factor);
        _mm256_maskstore_ps(out + i, m, _mm256_mul_ps(v, _mm256_maskload_ps(w + i, m)));
    }
}

static void rmsnorm_add(float *x, const float *y, const float *w, float eps, size_t n) {
    __m256 factor = _mm256_set1_ps(rms_factor(y, eps, n));
    for (size_t i = 0; i < n; i += 8) {
        __m256i m = vmath256_mask(n - i);
        __m256 v = _mm256_mul_ps(_mm256_maskload_ps(y + i, m), factor);
        v = _mm256_fmadd_ps(v, _mm256_maskload_ps(w + i, m), _mm256_maskload_ps(x + i, m));
        _mm256_maskstore_ps(x + i, m, v);
    }
}

static void rope_halves(float *x, const float *cosines, const float *sines, size_t half) {
    for (size_t i = 0; i < half; i += 8) {
        __m256i m = vmath256_mask(half - i);
        __m256 c = _mm256_maskload_ps(cosines + i, m), s = _mm256_maskload_ps(sines + i, m);
        __m256 a = _mm256_maskload_ps(x + i, m), b = _mm256_maskload_ps(x + half + i, m);
        _mm256_maskstore_ps(x + i, m, _mm256_fmsub_ps(a, c, _mm256_mul_ps(b, s)));
        _mm256_maskstore_ps(x + half + i, m, _mm256_fmadd_ps(b, c, _mm256_mul_ps(a, s)));
    }
}

static void rope_pairs(float *x, const float *cosines, const float *sines, size_t half) {
    const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    for (size_t i = 0; i < half; i += 4) {
        size_t rest = half - i < 4 ? half - i : 4;
        __m256i m4 = vmath256_mask(rest), m = vmath256_mask(2 * rest);
        __m256 c = _mm256_permutevar8x32_ps(_mm256_maskload_ps(cosines + i, m4), twice);
        __m256 s = _mm256_permutevar8x32_ps(_mm256_maskload_ps(sines + i, m4), twice);
        __m256 v = _mm256_maskload_ps(x + 2 * i, m), swapped = _mm256_permute_ps(v, 0xb1);
        _mm256_maskstore_ps(x + 2 * i, m, _mm256_fmaddsub_ps(v, c, _mm256_mul_ps(swapped, s)));
    }
}

static void rope(float *x, const float *cosines, const float *sines, size_t half, bool interleaved) {
    (interleaved ? rope_pairs : rope_halves)(x, cosines, sines, half);
}

static void glu_silu(float *out, const float *gate, const float *up, size_t n) {
    for (size_t i = 0; i < n; i += 8) {
        __m256i m = vmath256_mask(n - i);
        __m256 g = vmath256_silu(_mm256_maskload_ps(gate + i, m));
        _mm256_maskstore_ps(out + i, m, _mm256_mul_ps(g, _mm256_maskload_ps(up + i, m)));
    }
}

static void glu_gelu_tanh(float *out, const float *gate, const float *up, size_t n) {
    for (size_t i = 0; i < n; i += 8) {
        __m256i m = vmath256_mask(n - i);
        __m256 g = vmath256_gelu_tanh(_mm256_maskload_ps(gate + i, m));
        _mm256_maskstore_ps(out + i, m, _mm256_mul_ps(g, _mm256_maskload_ps(up + i, m)));
    }
}

/* 8 dwords below 2^16 as words. */
static inline __m128i to_words(__m256i v) {
    return _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
}

static void to_bf16(uint16_t *dst, const float *x, size_t n) {
    for (size_t i = 0; i < n; i += 8) {
        __m256 v = _mm256_maskload_ps(x + i, vmath256_mask(n - i));
        __m256i b = _mm256_castps_si256(v), odd = _mm256_srli_epi32(b, 16);
        __m256i even_up = _mm256_add_epi32(_mm256_and_si256(odd, _mm256_set1_epi32(1)),
                                           _mm256_set1_epi32(0x7fff)); /* ties to even */
        __m256i r = _mm256_srli_epi32(_mm256_add_epi32(b, even_up), 16);
        __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
        r = _mm256_blendv_epi8(r, _mm256_or_si256(odd, _mm256_set1_epi32(0x40)), nan);
        __m128i words = to_words(r);
        memcpy(dst + i, &words, n - i < 8 ? 2 * (n - i) : 16);
    }
}

/* e4m3_from_f32_sat of num/fp8.h, 8 lanes; |x| is below 464 here, or x is NaN: 0x7f and the sign. */
static inline __m256i e4m3(__m256 x) {
    __m256i b = _mm256_castps_si256(x), a = _mm256_and_si256(b, _mm256_set1_epi32(0x7fffffff));
    __m256i sign = _mm256_and_si256(_mm256_srli_epi32(b, 24), _mm256_set1_epi32(0x80));
    __m256i even_up = _mm256_add_epi32(_mm256_and_si256(_mm256_srli_epi32(a, 20), _mm256_set1_epi32(1)),
                                       _mm256_set1_epi32(0x7ffff));
    __m256i normal =
        _mm256_srli_epi32(_mm256_add_epi32(_mm256_sub_epi32(a, _mm256_set1_epi32(120 << 23)), even_up), 20);
    normal = _mm256_min_epu32(normal, _mm256_set1_epi32(0x7f));
    __m256 shifted = _mm256_add_ps(_mm256_castsi256_ps(a), _mm256_set1_ps(0x1p14f));
    __m256i small = _mm256_sub_epi32(_mm256_castps_si256(shifted), _mm256_set1_epi32(0x46800000));
    __m256i is_small = _mm256_cmpgt_epi32(_mm256_set1_epi32(0x3c800000), a);
    return _mm256_or_si256(sign, _mm256_blendv_epi8(normal, small, is_small));
}

static void to_fp8(uint8_t *dst, float factor, const float *x, size_t n) {
    const __m256 top = _mm256_set1_ps(448.0f);
    for (size_t i = 0; i < n; i += 8) {
        __m256 v = _mm256_mul_ps(_mm256_maskload_ps(x + i, vmath256_mask(n - i)), _mm256_set1_ps(factor));
        v = _mm256_max_ps(_mm256_sub_ps(_mm256_setzero_ps(), top), _mm256_min_ps(top, v)); /* NaN stays */
        __m128i words = to_words(e4m3(v)), bytes = _mm_packus_epi16(words, words);
        memcpy(dst + i, &bytes, n - i < 8 ? n - i : 8);
    }
}

static uint64_t read_all(const void *src, size_t n) {
    const uint8_t *bytes = src;
    size_t part = n / 4;
    __m256i a[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                    _mm256_setzero_si256()};
    for (size_t i = 0; i < part; i += 256)
        for (size_t s = 0; s < 4; s++)
            for (size_t j = 0; j < 256; j += 32)
                a[s] =
                    _mm256_add_epi64(a[s], _mm256_loadu_si256((const __m256i *)(bytes + s * part + i + j)));
    uint64_t lanes[4];
    _mm256_storeu_si256((__m256i *)lanes,
                        _mm256_add_epi64(_mm256_add_epi64(a[0], a[1]), _mm256_add_epi64(a[2], a[3])));
    return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

void rows_avx2_init(cpu_kernels *k) {
    k->rmsnorm = rmsnorm;
    k->rmsnorm_add = rmsnorm_add;
    k->rope = rope;
    k->glu[GLU_SILU] = glu_silu;
    k->glu[GLU_GELU_TANH] = glu_gelu_tanh;
    k->to_bf16 = to_bf16;
    k->to_fp8 = to_fp8;
    k->read_all = read_all;
}
