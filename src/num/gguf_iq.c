/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocks of 256 elements, byte by byte; numbers are little-endian, d is IEEE half. A code numbers a vector of
 * the format's grid (gguf_grids.h): of 8 elements for IQ1 and IQ2, of 4 for IQ3. A sign byte holds the sign
 * of element j in bit j; where only 7 are stored, the eighth makes their number even.
 *
 *   IQ2_XXS  66  d; per 32: 4 code bytes, u32: 4 x 7 signs, 4-bit scale on top       d (s + 1/2) / 4
 *   IQ2_XS   74  d; 32 u16: 9-bit code, 7 signs; 8 bytes of 4-bit scales per 16      d (s + 1/2) / 4
 *   IQ2_S    82  d; 32 code bytes; 32 sign bytes; 8 bytes: 2 more bits of each code; 8 of scales per 16
 *   IQ3_XXS  98  d; 64 code bytes; per 32 a u32 as in IQ2_XXS                        d (s + 1/2) / 2
 *   IQ3_S   110  d; 64 code bytes; 8 bytes: ninth bits; 32 sign bytes; 4 of scales per 32     d (2 s + 1)
 *   IQ1_S    50  d; 32 code bytes; per 32 a u16: 4 x 3 more bits, 3-bit scale, sign of the shift by 1/8
 *   IQ1_M    56  32 code bytes; 16 bytes: per code 3 more bits and the shift's sign; 4 u16: four 3-bit scales
 *                per 16 each, on top four bits of d
 */
#include "num/gguf_iq.h"

#include "num/bf16.h"
#include "num/gguf_grids.h"

static uint32_t u16_at(const unsigned char *p) {
    return (uint32_t)(p[0] | p[1] << 8);
}

static uint32_t u32_at(const unsigned char *p) {
    return u16_at(p) | u16_at(p + 2) << 16;
}

static float half_at(const unsigned char *p) {
    return f16_to_f32((uint16_t)u16_at(p));
}

/* Seven signs and the eighth. */
static unsigned even_signs(uint32_t seven) {
    seven &= 127;
    return seven | (unsigned)(__builtin_popcount(seven) & 1) << 7;
}

static void put8(float *dst, float scale, uint16_t vector, unsigned signs) {
    static const float level[4] = {8, 25, 43, 0};
    for (int j = 0; j < 8; j++) {
        float v = scale * level[vector >> 2 * j & 3];
        dst[j] = signs >> j & 1 ? -v : v;
    }
}

static void put4(float *dst, const float *level, float scale, uint16_t vector, unsigned signs) {
    for (int j = 0; j < 4; j++) {
        float v = scale * level[vector >> 3 * j & 7];
        dst[j] = signs >> j & 1 ? -v : v;
    }
}

static const float iq3_xxs_level[8] = {4, 12, 20, 28, 36, 44, 52, 62};
static const float iq3_s_level[8] = {1, 3, 5, 7, 9, 11, 13, 15};

static void decode_iq2_xxs(const unsigned char *p, float *dst, size_t n_blocks) {
    for (; n_blocks--; p += 66, dst += 256) {
        float d = half_at(p);
        for (int i = 0; i < 8; i++) { /* 32 elements each */
            const unsigned char *codes = p + 2 + 8 * i;
            uint32_t rest = u32_at(codes + 4);
            float scale = d * (0.5f + (float)(rest >> 28)) * 0.25f;
            for (int k = 0; k < 4; k++)
                put8(dst + 32 * i + 8 * k, scale, gguf_grids_iq2_xxs[codes[k]], even_signs(rest >> 7 * k));
        }
    }
}

/* Scale of the 16 elements I, four bits each. */
static float scale16(float d, const unsigned char *scales, int i) {
    return d * (0.5f + (float)(scales[i / 2] >> 4 * (i & 1) & 15)) * 0.25f;
}

static void decode_iq2_xs(const unsigned char *p, float *dst, size_t n_blocks) {
    for (; n_blocks--; p += 74, dst += 256) {
        float d = half_at(p);
        for (int k = 0; k < 32; k++) { /* 8 elements each */
            uint32_t code = u16_at(p + 2 + 2 * k);
            put8(dst + 8 * k, scale16(d, p + 66, k / 2), gguf_grids_iq2_xs[code & 511],
                 even_signs(code >> 9));
        }
    }
}

static void decode_iq2_s(const unsigned char *p, float *dst, size_t n_blocks) {
    for (; n_blocks--; p += 82, dst += 256) {
        float d = half_at(p);
        const unsigned char *codes = p + 2, *signs = p + 34, *high = p + 66;
        for (int k = 0; k < 32; k++) {
            unsigned code = codes[k] | (high[k / 4] >> 2 * (k % 4) & 3u) << 8;
            put8(dst + 8 * k, scale16(d, p + 74, k / 2), gguf_grids_iq2_s[code], signs[k]);
        }
    }
}

static void decode_iq3_xxs(const unsigned char *p, float *dst, size_t n_blocks) {
    for (; n_blocks--; p += 98, dst += 256) {
        float d = half_at(p);
        for (int i = 0; i < 8; i++) {
            uint32_t rest = u32_at(p + 66 + 4 * i);
            float scale = d * (0.5f + (float)(rest >> 28)) * 0.5f;
            for (int k = 0; k < 8; k++) { /* 4 elements each */
                unsigned signs = even_signs(rest >> 7 * (k / 2)) >> 4 * (k & 1);
                put4(dst + 32 * i + 4 * k, iq3_xxs_level, scale, gguf_grids_iq3_xxs[p[2 + 8 * i + k]], signs);
            }
        }
    }
}

static void decode_iq3_s(const unsigned char *p, float *dst, size_t n_blocks) {
    for (; n_blocks--; p += 110, dst += 256) {
        float d = half_at(p);
        const unsigned char *codes = p + 2, *high = p + 66, *signs = p + 74, *scales = p + 106;
        for (int k = 0; k < 64; k++) {
            unsigned code = codes[k] | (high[k / 8] >> k % 8 & 1u) << 8;
            float scale = d * (float)(1 + 2 * (scales[k / 16] >> 4 * (k / 8 & 1) & 15));
            put4(dst + 4 * k, iq3_s_level, scale, gguf_grids_iq3_s[code], signs[k / 2] >> 4u * (k & 1));
        }
    }
}

/* Vectors of -1, 0 and 1, shifted by an eighth either way. */
static void put_iq1(float *dst, float scale, unsigned code, bool down) {
    for (int j = 0; j < 8; j++)
        dst[j] = scale * ((float)(gguf_grids_iq1[code] >> 2 * j & 3) - 1 + (down ? -0.125f : 0.125f));
}

static void decode_iq1_s(const unsigned char *p, float *dst, size_t n_blocks) {
    for (; n_blocks--; p += 50, dst += 256) {
        float d = half_at(p);
        for (int i = 0; i < 8; i++) {
            uint32_t rest = u16_at(p + 34 + 2 * i);
            float scale = d * (float)(2 * (rest >> 12 & 7) + 1);
            for (int k = 0; k < 4; k++)
                put_iq1(dst + 32 * i + 8 * k, scale, p[2 + 4 * i + k] | (rest >> 3 * k & 7) << 8, rest >> 15);
        }
    }
}

static void decode_iq1_m(const unsigned char *p, float *dst, size_t n_blocks) {
    for (; n_blocks--; p += 56, dst += 256) {
        const unsigned char *high = p + 32, *scales = p + 48;
        uint32_t bits = 0;
        for (int i = 0; i < 4; i++)
            bits |= u16_at(scales + 2 * i) >> 12 << 4 * i;
        float d = f16_to_f32((uint16_t)bits);
        for (int k = 0; k < 32; k++) { /* 8 elements each */
            unsigned rest = high[k / 2] >> 4 * (k & 1);
            float scale = d * (float)(2 * (u16_at(scales + k / 8 * 2) >> 3 * (k / 2 % 4) & 7) + 1);
            put_iq1(dst + 8 * k, scale, p[k] | (rest & 7) << 8, rest & 8);
        }
    }
}

gguf_block_decoder gguf_iq_decoder(dtype t) {
    switch (t) {
    case DT_IQ1_S:
        return decode_iq1_s;
    case DT_IQ1_M:
        return decode_iq1_m;
    case DT_IQ2_XXS:
        return decode_iq2_xxs;
    case DT_IQ2_XS:
        return decode_iq2_xs;
    case DT_IQ2_S:
        return decode_iq2_s;
    case DT_IQ3_XXS:
        return decode_iq3_xxs;
    case DT_IQ3_S:
        return decode_iq3_s;
    default:
        return NULL;
    }
}
