/* SPDX-License-Identifier: Apache-2.0
 *
 * GGUF's block formats, byte by byte. All numbers are little-endian; d and m are IEEE half; a nibble pair
 * (j, j + 16) means: low nibble element j, high nibble element j + 16.
 *
 *   Q4_0   32 / 18  d, 16 pairs (j, j+16)                         (q - 8) * d
 *   Q4_1   32 / 20  d, m, 16 pairs                                 q * d + m
 *   Q5_0   32 / 22  d, u32 fifth bits, 16 pairs                   (q - 16) * d
 *   Q5_1   32 / 24  d, m, u32 fifth bits, 16 pairs                 q * d + m
 *   Q8_0   32 / 34  d, 32 i8                                       q * d
 *   IQ4_NL 32 / 18  d, 16 pairs                                    level[q] * d
 *   MXFP4  32 / 17  E8M0 e, 16 pairs                               e2m1(q) * 2^(e - 127)
 *   NVFP4  64 / 36  4 UE4M3, 32 bytes; 16-block s owns bytes 8s..8s+7, pairs (j, j+8)
 *   Q2_K  256 / 84  16 bytes: 4-bit scale, 4-bit min per 16; 64 B; d, dmin        (d s) q - dmin m
 *   Q3_K  256 / 110 32 B third bits (set: no -4), 64 B, 12 B of 6-bit scales per 16, d
 *                   both: two runs of 128; element 32 k + l of a run is bits 2k of byte l
 *   Q4_K  256 / 144 d, dmin, 12 B of 6-bit scales and mins, 128 B: four runs of 64, pairs (l, l+32)
 *   Q5_K  256 / 176 d, dmin, 12 B, 32 B fifth bits, 128 B
 *   Q6_K  256 / 210 128 B low nibbles, 64 B top bits, 16 i8 scales, d
 *   IQ4_XS 256 / 136 d, u16 and 4 B: 6-bit scales per 32, 128 B as IQ4_NL         (s - 32) d level[q]
 *   TQ1_0 256 / 54  48 B and 4 B of base-3 digits (five, four to a byte), d       (q - 1) d
 *   TQ2_0 256 / 66  64 B as Q2_K's, d                                             (q - 1) d
 * Formats whose codes number vectors: gguf_iq.c.
 */
#include "num/gguf_blocks.h"

#include <math.h>

#include "num/e2m1.h"
#include "num/fp8.h"
#include "num/gguf_iq.h"

#define F16_MAX 65504.0f

static float half_at(const unsigned char *p) {
    return f16_to_f32((uint16_t)(p[0] | p[1] << 8));
}

static uint32_t u32_at(const unsigned char *p) {
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void decode_q4_0(const unsigned char *p, float *dst, size_t n_blocks) {
    for (; n_blocks--; p += 18, dst += 32) {
        float d = half_at(p);
        for (int j = 0; j < 16; j++) {
            dst[j] = d * (float)((p[2 + j] & 15) - 8);
            dst[j + 16] = d * (float)((p[2 + j] >> 4) - 8);
        }
    }
}

static void decode_q4_1(const unsigned char *p, float *dst, size_t n_blocks) {
    for (; n_blocks--; p += 20, dst += 32) {
        float d = half_at(p), m = half_at(p + 2);
        for (int j = 0; j < 16; j++) {
            dst[j] = d * (float)(p[4 + j] & 15) + m;
            dst[j + 16] = d * (float)(p[4 + j] >> 4) + m;
        }
    }
}

static void decode_q5_0(const unsigned char *p, float *dst, size_t n_blocks) {
    for (; n_blocks--; p += 22, dst += 32) {
        float d = half_at(p);
        uint32_t fifth = u32_at(p + 2);
        for (int j = 0; j < 16; j++) {
            dst[j] = d * (float)((int)((p[6 + j] & 15) | (fifth >> j & 1) << 4) - 16);
            dst[j + 16] = d * (float)((int)((p[6 + j] >> 4) | (fifth >> (j + 16) & 1) << 4) - 16);
        }
    }
}

static void decode_q5_1(const unsigned char *p, float *dst, size_t n_blocks) {
    for (; n_blocks--; p += 24, dst += 32) {
        float d = half_at(p), m = half_at(p + 2);
        uint32_t fifth = u32_at(p + 4);
        for (int j = 0; j < 16; j++) {
            dst[j] = d * (float)((p[8 + j] & 15) | (fifth >> j & 1) << 4) + m;
            dst[j + 16] = d * (float)((p[8 + j] >> 4) | (fifth >> (j + 16) & 1) << 4) + m;
        }
    }
}

static void decode_q8_0(const unsigned char *p, float *dst, size_t n_blocks) {
    for (; n_blocks--; p += 34, dst += 32) {
        float d = half_at(p);
        for (int j = 0; j < 32; j++)
            dst[j] = (float)(int8_t)p[2 + j] * d;
    }
}

void gguf_blocks_encode_q8_0(const float *x, unsigned char *out, size_t n_blocks) {
    for (; n_blocks--; x += 32, out += 34) {
        float amax = 0;
        for (int j = 0; j < 32; j++)
            amax = fmaxf(amax, fabsf(x[j]));
        const float step = fminf(amax / 127.0f, F16_MAX), inverse = step > 0 ? 1.0f / step : 0.0f;
        const uint16_t half = f16_from_f32(step);
        out[0] = (unsigned char)half;
        out[1] = (unsigned char)(half >> 8);
        for (int j = 0; j < 32; j++)
            out[2 + j] = (unsigned char)(int8_t)fmaxf(-127, fminf(127, roundf(x[j] * inverse)));
    }
}

void gguf_blocks_pack_q5_0(uint16_t step, const int8_t *codes, unsigned char *out) {
    uint32_t fifth = 0;
    for (int j = 0; j < 32; j++)
        fifth |= (uint32_t)((codes[j] + 16) >> 4 & 1) << j;
    out[0] = (unsigned char)step;
    out[1] = (unsigned char)(step >> 8);
    for (int i = 0; i < 4; i++)
        out[2 + i] = (unsigned char)(fifth >> 8 * i);
    for (int j = 0; j < 16; j++)
        out[6 + j] = (unsigned char)(((codes[j] + 16) & 15) | ((codes[j + 16] + 16) & 15) << 4);
}

static const float iq4_level[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static void decode_iq4_nl(const unsigned char *p, float *dst, size_t n_blocks) {
    for (; n_blocks--; p += 18, dst += 32) {
        float d = half_at(p);
        for (int j = 0; j < 16; j++) {
            dst[j] = d * iq4_level[p[2 + j] & 15];
            dst[j + 16] = d * iq4_level[p[2 + j] >> 4];
        }
    }
}

static void decode_iq4_xs(const unsigned char *p, float *dst, size_t n_blocks) {
    for (; n_blocks--; p += 136, dst += 256) {
        float d = half_at(p);
        unsigned high = (unsigned)(p[2] | p[3] << 8);
        for (int i = 0; i < 8; i++) { /* 32 elements each */
            const unsigned char *q = p + 8 + 16 * i;
            int scale = (p[4 + i / 2] >> 4 * (i & 1) & 15) | (int)(high >> 2 * i & 3) << 4;
            float ds = d * (float)(scale - 32);
            for (int j = 0; j < 16; j++) {
                dst[32 * i + j] = ds * iq4_level[q[j] & 15];
                dst[32 * i + j + 16] = ds * iq4_level[q[j] >> 4];
            }
        }
    }
}

static void decode_q2_k(const unsigned char *p, float *dst, size_t n_blocks) {
    for (; n_blocks--; p += 84, dst += 256) {
        float d = half_at(p + 80), dmin = half_at(p + 82);
        for (int i = 0; i < 16; i++) { /* 16 elements each */
            const unsigned char *q = p + 16 + 32 * (i / 8) + 16 * (i & 1);
            float ds = d * (float)(p[i] & 15), m = dmin * (float)(p[i] >> 4);
            for (int l = 0; l < 16; l++)
                dst[16 * i + l] = ds * (float)(q[l] >> 2 * (i / 2 % 4) & 3) - m;
        }
    }
}

static void decode_q3_k(const unsigned char *p, float *dst, size_t n_blocks) {
    for (; n_blocks--; p += 110, dst += 256) {
        float d = half_at(p + 108);
        const unsigned char *third = p, *scales = p + 96;
        for (int i = 0; i < 16; i++) { /* 16 elements each */
            const unsigned char *q = p + 32 + 32 * (i / 8) + 16 * (i & 1), *t = third + 16 * (i & 1);
            int scale = (scales[i % 8] >> 4 * (i / 8) & 15) | (scales[8 + i % 4] >> 2 * (i / 4) & 3) << 4;
            float ds = d * (float)(scale - 32);
            for (int l = 0; l < 16; l++)
                dst[16 * i + l] = ds * (float)((q[l] >> 2 * (i / 2 % 4) & 3) - (t[l] >> i / 2 & 1 ? 0 : 4));
        }
    }
}

/* Digit K of the base-3 fraction that byte B holds. */
static float ternary(unsigned char b, int k) {
    static const uint8_t power[5] = {1, 3, 9, 27, 81};
    return (float)((uint8_t)(b * power[k]) * 3 >> 8) - 1;
}

static void decode_tq1_0(const unsigned char *p, float *dst, size_t n_blocks) {
    for (; n_blocks--; p += 54, dst += 256) {
        float d = half_at(p + 52);
        for (int i = 0; i < 160; i++)
            dst[i] = d * ternary(p[i % 32], i / 32);
        for (int i = 0; i < 80; i++)
            dst[160 + i] = d * ternary(p[32 + i % 16], i / 16);
        for (int i = 0; i < 16; i++)
            dst[240 + i] = d * ternary(p[48 + i % 4], i / 4);
    }
}

static void decode_tq2_0(const unsigned char *p, float *dst, size_t n_blocks) {
    for (; n_blocks--; p += 66, dst += 256) {
        float d = half_at(p + 64);
        for (int i = 0; i < 256; i++)
            dst[i] = d * (float)((p[i / 128 * 32 + i % 32] >> 2 * (i / 32 % 4) & 3) - 1);
    }
}

/* ggml halves the scale and doubles the elements, so that e = 255 stays a number; so it is here. */
static void decode_mxfp4(const unsigned char *p, float *dst, size_t n_blocks) {
    for (; n_blocks--; p += 17, dst += 32) {
        float half_scale = p[0] == 0 ? 0x1p-128f : e8m0_to_f32((uint8_t)(p[0] - 1));
        for (int j = 0; j < 16; j++) {
            dst[j] = half_scale * (2.0f * e2m1_to_f32(p[1 + j] & 15));
            dst[j + 16] = half_scale * (2.0f * e2m1_to_f32(p[1 + j] >> 4));
        }
    }
}

static void decode_nvfp4(const unsigned char *p, float *dst, size_t n_blocks) {
    for (; n_blocks--; p += 36, dst += 64)
        for (int s = 0; s < 4; s++) {
            float scale = ue4m3_to_f32(p[s]);
            for (int j = 0; j < 8; j++) {
                dst[16 * s + j] = scale * e2m1_to_f32(p[4 + 8 * s + j] & 15);
                dst[16 * s + j + 8] = scale * e2m1_to_f32(p[4 + 8 * s + j] >> 4);
            }
        }
}

static void decode_q4_k(const unsigned char *p, float *dst, size_t n_blocks) {
    for (; n_blocks--; p += 144, dst += 256) {
        float d = half_at(p), dmin = half_at(p + 2);
        for (int i = 0; i < 8; i++) { /* 32 elements each */
            int scale, min, shift = 4 * (i & 1);
            gguf_blocks_scale_min(p + 4, i, &scale, &min);
            const unsigned char *q = p + 16 + 32 * (i / 2);
            float ds = d * (float)scale, m = dmin * (float)min;
            for (int l = 0; l < 32; l++)
                dst[32 * i + l] = ds * (float)(q[l] >> shift & 15) - m;
        }
    }
}

static void decode_q5_k(const unsigned char *p, float *dst, size_t n_blocks) {
    for (; n_blocks--; p += 176, dst += 256) {
        float d = half_at(p), dmin = half_at(p + 2);
        const unsigned char *fifth = p + 16;
        for (int i = 0; i < 8; i++) {
            int scale, min, shift = 4 * (i & 1);
            gguf_blocks_scale_min(p + 4, i, &scale, &min);
            const unsigned char *q = p + 48 + 32 * (i / 2);
            float ds = d * (float)scale, m = dmin * (float)min;
            for (int l = 0; l < 32; l++)
                dst[32 * i + l] = ds * (float)((q[l] >> shift & 15) | (fifth[l] >> i & 1) << 4) - m;
        }
    }
}

static void decode_q6_k(const unsigned char *p, float *dst, size_t n_blocks) {
    for (; n_blocks--; p += 210, dst += 256) {
        float d = half_at(p + 208);
        for (int i = 0; i < 8; i++) { /* 32 elements: run i % 4 of half i / 4 */
            int half = i / 4, run = i % 4;
            const unsigned char *low = p + 64 * half + 32 * (run & 1), *top = p + 128 + 32 * half;
            const unsigned char *scales = p + 192 + 2 * i;
            for (int l = 0; l < 32; l++) {
                int q = (low[l] >> 4 * (run / 2) & 15) | (top[l] >> 2 * run & 3) << 4;
                dst[32 * i + l] = d * (float)(int8_t)scales[l / 16] * (float)(q - 32);
            }
        }
    }
}

gguf_block_decoder gguf_blocks_decoder(dtype t) {
    switch (t) {
    case DT_Q4_0:
        return decode_q4_0;
    case DT_Q4_1:
        return decode_q4_1;
    case DT_Q5_0:
        return decode_q5_0;
    case DT_Q5_1:
        return decode_q5_1;
    case DT_Q8_0:
        return decode_q8_0;
    case DT_IQ4_NL:
        return decode_iq4_nl;
    case DT_GGUF_MXFP4:
        return decode_mxfp4;
    case DT_GGUF_NVFP4:
        return decode_nvfp4;
    case DT_Q4_K:
        return decode_q4_k;
    case DT_Q5_K:
        return decode_q5_k;
    case DT_Q6_K:
        return decode_q6_k;
    case DT_Q2_K:
        return decode_q2_k;
    case DT_Q3_K:
        return decode_q3_k;
    case DT_IQ4_XS:
        return decode_iq4_xs;
    case DT_TQ1_0:
        return decode_tq1_0;
    case DT_TQ2_0:
        return decode_tq2_0;
    default:
        return gguf_iq_decoder(t);
    }
}
