/* SPDX-License-Identifier: Apache-2.0
 *
 * AVX2: rows of block formats that are packed for 8-bit activations only (Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K)
 * to FP32, the bits of num/gguf_blocks.c. 32 elements are one register of bytes q; a value is factor * q, or
 * factor * q + offset.
 */
#include "cpu/avx2/matmul_avx2.h"
#include "num/gguf_blocks.h"

INLINE float half_at(const uint8_t *p) {
    uint16_t h;
    __builtin_memcpy(&h, p, sizeof h);
    return _cvtsh_ss(h);
}

INLINE __m256i load256(const uint8_t *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}

/* 8 of the signed bytes of Q, from byte 8 I on, as FP32. */
INLINE __m256 eight(__m256i q, int i) {
    __m128i half = i < 2 ? _mm256_castsi256_si128(q) : _mm256_extracti128_si256(q, 1);
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(i % 2 ? _mm_srli_si128(half, 8) : half));
}

/* FACTOR[0] for the first 16 elements, FACTOR[1] for the others. */
INLINE void put_scaled(float *dst, __m256i q, const float factor[2]) {
    for (int i = 0; i < 4; i++)
        _mm256_storeu_ps(dst + 8 * i, _mm256_mul_ps(eight(q, i), _mm256_set1_ps(factor[i / 2])));
}

INLINE void put_affine(float *dst, __m256i q, float factor, float offset) {
    for (int i = 0; i < 4; i++)
        _mm256_storeu_ps(dst + 8 * i, _mm256_add_ps(_mm256_mul_ps(eight(q, i), _mm256_set1_ps(factor)),
                                                    _mm256_set1_ps(offset)));
}

/* 16 bytes of pairs (j, j + 16). */
INLINE __m256i pairs(const uint8_t *p) {
    __m128i v = _mm_loadu_si128((const __m128i *)p);
    __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(v), _mm_srli_epi16(v, 4), 1);
    return _mm256_and_si256(both, _mm256_set1_epi8(15));
}

/* 16 in every byte whose bit of the 32 at P is set. */
INLINE __m256i fifth_bits(const uint8_t *p) {
    int32_t word;
    __builtin_memcpy(&word, p, sizeof word);
    const __m256i byte = _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201u);
    __m256i spread = _mm256_shuffle_epi8(_mm256_set1_epi32(word), byte);
    return _mm256_and_si256(_mm256_cmpeq_epi8(_mm256_and_si256(spread, bit), bit), _mm256_set1_epi8(16));
}

static void decode_q4_1(const void *src, float *dst, size_t n) {
    const uint8_t *p = src;
    for (size_t b = 0; b < n / 32; b++, p += 20, dst += 32)
        put_affine(dst, pairs(p + 4), half_at(p), half_at(p + 2));
}

static void decode_q5_0(const void *src, float *dst, size_t n) {
    const uint8_t *p = src;
    for (size_t b = 0; b < n / 32; b++, p += 22, dst += 32) {
        __m256i q = _mm256_or_si256(pairs(p + 6), fifth_bits(p + 2));
        const float d[2] = {half_at(p), half_at(p)};
        put_scaled(dst, _mm256_sub_epi8(q, _mm256_set1_epi8(16)), d);
    }
}

static void decode_q5_1(const void *src, float *dst, size_t n) {
    const uint8_t *p = src;
    for (size_t b = 0; b < n / 32; b++, p += 24, dst += 32)
        put_affine(dst, _mm256_or_si256(pairs(p + 8), fifth_bits(p + 4)), half_at(p), half_at(p + 2));
}

/* ---- blocks of 256: eight runs of 32 ---- */

/* Low nibbles (SHIFT 0) or high ones (4). */
INLINE __m256i nibbles(const uint8_t *p, int shift) {
    return _mm256_and_si256(_mm256_srli_epi16(load256(p), shift), _mm256_set1_epi8(15));
}

static void decode_q4_k(const void *src, float *dst, size_t n) {
    const uint8_t *p = src;
    for (size_t b = 0; b < n / 256; b++, p += 144)
        for (int i = 0; i < 8; i++, dst += 32) {
            int scale, min;
            gguf_blocks_scale_min(p + 4, i, &scale, &min);
            put_affine(dst, nibbles(p + 16 + 32 * (i / 2), 4 * (i & 1)), half_at(p) * (float)scale,
                       -(half_at(p + 2) * (float)min));
        }
}

static void decode_q5_k(const void *src, float *dst, size_t n) {
    const uint8_t *p = src;
    for (size_t b = 0; b < n / 256; b++, p += 176)
        for (int i = 0; i < 8; i++, dst += 32) {
            int scale, min;
            gguf_blocks_scale_min(p + 4, i, &scale, &min);
            const __m256i bit = _mm256_set1_epi8((char)(1 << i)), top = _mm256_set1_epi8(16);
            __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(load256(p + 16), bit), bit);
            __m256i q =
                _mm256_or_si256(nibbles(p + 48 + 32 * (i / 2), 4 * (i & 1)), _mm256_and_si256(set, top));
            put_affine(dst, q, half_at(p) * (float)scale, -(half_at(p + 2) * (float)min));
        }
}

static void decode_q6_k(const void *src, float *dst, size_t n) {
    const uint8_t *p = src;
    for (size_t b = 0; b < n / 256; b++, p += 210)
        for (int i = 0; i < 8; i++, dst += 32) {
            int half = i / 4, run = i % 4;
            __m256i low = nibbles(p + 64 * half + 32 * (run & 1), 4 * (run / 2));
            __m256i top = _mm256_srli_epi16(load256(p + 128 + 32 * half), 2 * run);
            top = _mm256_slli_epi16(_mm256_and_si256(top, _mm256_set1_epi8(3)), 4);
            __m256i q = _mm256_sub_epi8(_mm256_or_si256(low, top), _mm256_set1_epi8(32));
            const int8_t *scales = (const int8_t *)p + 192 + 2 * i;
            const float factor[2] = {half_at(p + 208) * (float)scales[0],
                                     half_at(p + 208) * (float)scales[1]};
            put_scaled(dst, q, factor);
        }
}

void matmul_decode_avx2_init(matmul_kernels *m) {
    m->decode[DT_Q4_1] = decode_q4_1;
    m->decode[DT_Q5_0] = decode_q5_0;
    m->decode[DT_Q5_1] = decode_q5_1;
    m->decode[DT_Q4_K] = decode_q4_k;
    m->decode[DT_Q5_K] = decode_q5_k;
    m->decode[DT_Q6_K] = decode_q6_k;
}
