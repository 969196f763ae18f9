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
 *   Q4_K  256 / 144 d, dmin, 12 B of 6-bit scales and mins, 128 B: four runs of 64, pairs (l, l+32)
 *   Q5_K  256 / 176 d, dmin, 12 B, 32 B fifth bits, 128 B
 *   Q6_K  256 / 210 128 B low nibbles, 64 B top bits, 16 i8 scales, d
 */
#include "num/gguf_blocks.h"

#include "num/e2m1.h"
#include "num/fp8.h"

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

static void decode_iq4_nl(const unsigned char *p, float *dst, size_t n_blocks) {
    static const float level[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    for (; n_blocks--; p += 18, dst += 32) {
        float d = half_at(p);
        for (int j = 0; j < 16; j++) {
            dst[j] = d * level[p[2 + j] & 15];
            dst[j + 16] = d * level[p[2 + j] >> 4];
        }
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

/* Scale and minimum I of the eight 6-bit pairs in the 12 bytes B. */
static void k_scale_min(const unsigned char *b, int i, int *scale, int *min) {
    if (i < 4) {
        *scale = b[i] & 63;
        *min = b[i + 4] & 63;
    } else {
        *scale = (b[i + 4] & 15) | (b[i - 4] >> 6) << 4;
        *min = (b[i + 4] >> 4) | (b[i] >> 6) << 4;
    }
}

static void decode_q4_k(const unsigned char *p, float *dst, size_t n_blocks) {
    for (; n_blocks--; p += 144, dst += 256) {
        float d = half_at(p), dmin = half_at(p + 2);
        for (int i = 0; i < 8; i++) { /* 32 elements each */
            int scale, min, shift = 4 * (i & 1);
            k_scale_min(p + 4, i, &scale, &min);
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
            k_scale_min(p + 4, i, &scale, &min);
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
    default:
        return NULL;
    }
}
