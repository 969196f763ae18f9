/* SPDX-License-Identifier: Apache-2.0
 *
 * Which packed form a tensor takes, and its rows, one after the other, into that form (pack.h): the codes of
 * the file's format eight to a 64-bit word, which is turned into the 32-bit words of the lines.
 */
#include "cpu/pack_form.h"

#include <string.h>

#include "base/mapfile.h"
#include "base/mem.h"
#include "num/e2m1.h"
#include "num/fp8.h"
#include "num/gguf_blocks.h"

#define MXFP4_SPAN 30 /* binades between the smallest and the largest scale that E5M3 holds */
#define MXFP4_MIN  40 /* E8M0 codes outside these would leave FP32's range beside the tensor scale */
#define MXFP4_MAX  200
#define ONES       0x0101010101010101u /* times a byte: that byte eight times */

static const int8_t e2m1_doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
static const int8_t q4_0_grid[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};

static uint32_t read_u32(const unsigned char *p) {
    uint32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static uint64_t read_u64(const unsigned char *p) {
    uint64_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

static uint16_t e5m3_of(float scale) {
    uint32_t bits = f32_bits(scale * PACK_FORM_E5M3);
    return bits >> 28 || bits & 0xfffffu ? PACK_FORM_BAD_SCALE : (uint16_t)(bits >> 20);
}

/* Low nibbles of 8 bytes, in order. */
static uint32_t low_nibbles(uint64_t x) {
    x &= 0x0f0f0f0f0f0f0f0fu;
    x = (x | x >> 4) & 0x00ff00ff00ff00ffu;
    x = (x | x >> 8) & 0x0000ffff0000ffffu;
    return (uint32_t)(x | x >> 16);
}

/* Bytes 0, 2, 4, 6 of 8. */
static uint32_t even_bytes(uint64_t x) {
    x &= 0x00ff00ff00ff00ffu;
    x = (x | x >> 8) & 0x0000ffff0000ffffu;
    return (uint32_t)(x | x >> 16);
}

static uint8_t *lane(const pack_part *p, uint8_t *group, size_t row, size_t super) {
    return group + super * p->super_bytes + row % PACK_LANES * 4;
}

static void put_line(uint8_t *lane0, size_t line, uint32_t word) {
    memcpy(lane0 + line * PACK_LINE, &word, sizeof word);
}

static uint8_t *scale_lines(const pack_part *p, uint8_t *group, size_t super) {
    return group + (super + 1) * p->super_bytes - pack_layouts[p->kind].scale_lines * PACK_LINE;
}

/* Stored scale byte of block BLOCK (16 columns), through the table. */
static uint32_t put_e5m3(const pack_source *s, uint8_t *group, size_t row, size_t block, uint8_t stored) {
    uint16_t scale = s->scale_table[stored];
    scale_lines(s->part, group, block / 4)[block % 4 * PACK_LANES + row % PACK_LANES] = (uint8_t)scale;
    return scale;
}

/* Into line LINE of the scales of superblocks of two chunks. */
static void put_f16(const pack_part *p, uint8_t *group, size_t row, size_t chunk, size_t line,
                    const unsigned char *d) {
    uint8_t *at = scale_lines(p, group, chunk / 2) + line * PACK_LINE;
    memcpy(at + (chunk % 2 * PACK_LANES + row % PACK_LANES) * 2, d, 2);
}

static uint32_t pack_split_row(const pack_source *s, size_t row, uint8_t *group) {
    const pack_part *p = s->part;
    const unsigned char *src = s->data + row * s->row_bytes;
    bool mx = p->source.dtype == DT_MXFP4;
    size_t n_blocks = p->cols / 16, n_scales = mx ? n_blocks / 2 : n_blocks;
    const uint8_t *scales = s->block_scales + row * n_scales;
    uint32_t seen = 0;
    for (size_t b = 0; b < n_blocks; b++) {
        uint8_t *dst = lane(p, group, row, b / 4);
        put_line(dst, b % 4 * 2, read_u32(src + 8 * b));
        put_line(dst, b % 4 * 2 + 1, read_u32(src + 8 * b + 4));
        seen |= put_e5m3(s, group, row, b, scales[mx ? b / 2 : b]);
    }
    return seen;
}

static uint32_t pack_gguf_nvfp4_row(const pack_source *s, size_t row, uint8_t *group) {
    const pack_part *p = s->part;
    const unsigned char *src = s->data + row * s->row_bytes;
    uint32_t seen = 0;
    for (size_t b = 0; b < p->cols / 16; b++) {
        const unsigned char *super = src + b / 4 * 36;
        uint64_t pairs = read_u64(super + 4 + b % 4 * 8);
        uint8_t *dst = lane(p, group, row, b / 4);
        put_line(dst, b % 4 * 2, low_nibbles(pairs));
        put_line(dst, b % 4 * 2 + 1, low_nibbles(pairs >> 4));
        seen |= put_e5m3(s, group, row, b, super[b % 4]);
    }
    return seen;
}

/* The codes of a row, eight to a word in the order of columns, into chunk CHUNK. */
static void put_chunk(const pack_part *p, uint8_t *group, size_t row, size_t chunk, const uint64_t codes[4]) {
    const pack_layout *at = &pack_layouts[p->kind];
    uint8_t *dst = lane(p, group, row, chunk / at->chunks) + chunk % at->chunks * at->bits * PACK_LINE;
    uint32_t fifth = 0, top[2] = {0, 0};
    for (size_t l = 0; l < 4; l++) {
        if (at->bits == 8) {
            put_line(dst, 2 * l, even_bytes(codes[l]));
            put_line(dst, 2 * l + 1, even_bytes(codes[l] >> 8));
            continue;
        }
        put_line(dst, l, low_nibbles(codes[l]));
        uint64_t high = codes[l] >> 4 & 3 * ONES;
        uint32_t even = even_bytes(high), odd = even_bytes(high >> 8);
        fifth |= even << 2 * l | odd << (2 * l + 1);
        top[l / 2] |= even << 4 * (l % 2) | odd << (4 * (l % 2) + 2);
    }
    if (at->bits == 5)
        put_line(dst, 4, fifth);
    for (size_t l = 0; at->bits == 6 && l < 2; l++)
        put_line(dst, 4 + l, top[l]);
}

/* 16 bytes of pairs (j, j + 16). */
static void pairs32(uint64_t codes[4], const unsigned char *pairs) {
    for (size_t half = 0; half < 2; half++) {
        uint64_t bytes = read_u64(pairs + 8 * half);
        codes[half] = bytes & 15 * ONES;
        codes[2 + half] = bytes >> 4 & 15 * ONES;
    }
}

/* 16 in byte i where bit i is set. */
static uint64_t fifth_bits(uint8_t bits) {
    uint64_t set = bits * ONES & 0x8040201008040201u; /* a bit or none in each byte */
    return ((set + 0x7f * ONES) >> 7 & ONES) << 4;
}

static uint32_t pack_gguf_mxfp4_row(const pack_source *s, size_t row, uint8_t *group) {
    uint32_t seen = 0;
    for (size_t b = 0; b < s->part->cols / 32; b++) {
        const unsigned char *src = s->data + row * s->row_bytes + b * 17;
        uint64_t codes[4];
        pairs32(codes, src + 1);
        put_chunk(s->part, group, row, b, codes);
        seen |= put_e5m3(s, group, row, 2 * b, src[0]);
        put_e5m3(s, group, row, 2 * b + 1, src[0]);
    }
    return seen;
}

/* Blocks of a scale, a least value where the kind has one, fifth bits of 5, and 16 bytes of pairs. */
static uint32_t pack_pairs_row(const pack_source *s, size_t row, uint8_t *group) {
    const pack_part *p = s->part;
    const pack_layout *at = &pack_layouts[p->kind];
    const unsigned char *src = s->data + row * s->row_bytes;
    for (size_t b = 0; b < p->cols / 32; b++) {
        uint64_t codes[4];
        put_f16(p, group, row, b, 0, src);
        if (at->codes == PACK_AFFINE)
            put_f16(p, group, row, b, 1, src + 2);
        src += at->codes == PACK_AFFINE ? 4 : 2;
        const unsigned char *fifth = src;
        src += at->bits == 5 ? 4 : 0;
        pairs32(codes, src);
        for (size_t i = 0; at->bits == 5 && i < 4; i++)
            codes[i] |= fifth_bits(fifth[i]);
        put_chunk(p, group, row, b, codes);
        src += 16;
    }
    return 0;
}

static uint32_t pack_q8_0_row(const pack_source *s, size_t row, uint8_t *group) {
    const unsigned char *src = s->data + row * s->row_bytes;
    for (size_t b = 0; b < s->part->cols / 32; b++, src += 34) {
        uint64_t codes[4];
        memcpy(codes, src + 2, sizeof codes);
        put_f16(s->part, group, row, b, 0, src);
        put_chunk(s->part, group, row, b, codes);
    }
    return 0;
}

/* What multiplies the scales (which 0) or least values (1) of a row's superblock. */
static void put_multiplier(uint8_t *lines, size_t row, size_t which, const unsigned char *d, uint16_t sign) {
    uint16_t bits = (uint16_t)(d[0] | d[1] << 8) ^ sign;
    memcpy(lines + PACK_K_SCALES * PACK_LINE + (which * PACK_LANES + row % PACK_LANES) * 2, &bits, 2);
}

static uint32_t pack_q45_k_row(const pack_source *s, size_t row, uint8_t *group) {
    const pack_part *p = s->part;
    bool five = p->kind == PACK_Q5_K;
    const unsigned char *src = s->data + row * s->row_bytes;
    for (size_t b = 0; b < p->cols / 256; b++, src += five ? 176 : 144) {
        uint8_t *lines = scale_lines(p, group, b), *scales = lines + row % PACK_LANES;
        const unsigned char *fifth = src + 16, *nibbles = src + (five ? 48 : 16);
        put_multiplier(lines, row, 0, src, 0);
        put_multiplier(lines, row, 1, src + 2, 0x8000);
        for (int c = 0; c < 8; c++) {
            uint64_t codes[4];
            int scale, min;
            gguf_blocks_scale_min(src + 4, c, &scale, &min);
            scales[c * PACK_LANES] = (uint8_t)scale;
            scales[c * PACK_LANES + 2 * PACK_LINE] = (uint8_t)min;
            for (int i = 0; i < 4; i++) {
                codes[i] = read_u64(nibbles + c / 2 * 32 + 8 * i) >> c % 2 * 4 & 15 * ONES;
                codes[i] |= five ? (read_u64(fifth + 8 * i) >> c & ONES) << 4 : 0;
            }
            put_chunk(p, group, row, b * 8 + (size_t)c, codes);
        }
    }
    return 0;
}

static uint32_t pack_q6_k_row(const pack_source *s, size_t row, uint8_t *group) {
    const pack_part *p = s->part;
    const unsigned char *src = s->data + row * s->row_bytes;
    for (size_t b = 0; b < p->cols / 256; b++, src += 210) {
        uint8_t *lines = scale_lines(p, group, b);
        put_multiplier(lines, row, 0, src + 208, 0);
        for (size_t i = 0; i < 16; i++)
            lines[i * PACK_LANES + row % PACK_LANES] = src[192 + i];
        for (size_t c = 0; c < 8; c++) { /* run c % 4 of half c / 4 */
            const unsigned char *low = src + c / 4 * 64 + c % 2 * 32, *top = src + 128 + c / 4 * 32;
            uint64_t codes[4];
            for (size_t i = 0; i < 4; i++)
                codes[i] = (read_u64(low + 8 * i) >> c % 4 / 2 * 4 & 15 * ONES) |
                           (read_u64(top + 8 * i) >> c % 4 * 2 & 3 * ONES) << 4;
            put_chunk(p, group, row, b * 8 + c, codes);
        }
    }
    return 0;
}

/* ---- which packed form a tensor takes ---- */

/* *low and *high, 255 and 0 before, become the smallest and the largest E8M0 scale of P. */
static nib_status mxfp4_span(const pack_part *p, uint8_t *low, uint8_t *high, nib_error *err) {
    enum { CHUNK = 17 << 10 };
    bool split = p->source.dtype == DT_MXFP4;
    const uint8_t *first = split ? p->source.block_scales : p->source.data;
    size_t step = split ? 1 : 17, bytes = p->rows * (p->cols / 32) * step;
    uint8_t *chunk = mem_alloc(CHUNK);
    if (!chunk)
        return nib_fail(err, NIB_NO_MEMORY, "no memory to pack");
    nib_status status = NIB_OK;
    for (size_t at = 0; at < bytes && status == NIB_OK; at += CHUNK) {
        size_t n = bytes - at < CHUNK ? bytes - at : CHUNK;
        status = mapfile_read(chunk, first + at, n, err);
        for (size_t i = 0; i < n && status == NIB_OK; i += step) {
            *low = chunk[i] < *low ? chunk[i] : *low;
            *high = chunk[i] > *high ? chunk[i] : *high;
        }
    }
    mem_free(chunk);
    return status;
}

/* E8M0 scales have no zero: the tensor's smallest becomes E5M3 exponent 1. *fits: all of them do. */
static nib_status mxfp4_table(pack_source *s, pack_part *p, bool *fits, nib_error *err) {
    uint8_t low = 255, high = 0;
    NIB_TRY(mxfp4_span(p, &low, &high, err));
    *fits = low >= MXFP4_MIN && high <= MXFP4_MAX && high - low <= MXFP4_SPAN;
    if (!*fits)
        return NIB_OK;
    for (unsigned e = 0; e < 256; e++)
        s->scale_table[e] = e < low || e > high ? PACK_FORM_BAD_SCALE : (uint16_t)((e - low + 1) << 3);
    /* E5M3 exponent x stands for 2^(x - 23), wanted is 2^(e - 127) = 2^(x - 1 + low - 127) */
    p->unit = f32_of_bits((uint32_t)(low - 1 + 23) << 23);
    return NIB_OK;
}

static void nvfp4_table(pack_source *s, bool gguf) {
    for (unsigned q = 0; q < 256; q++)
        s->scale_table[q] = e5m3_of(gguf ? ue4m3_to_f32((uint8_t)q) : e4m3_to_f32((uint8_t)q));
}

static void part_grid(pack_part *p, pack_kind kind, const int8_t *grid, float unit) {
    p->kind = kind;
    p->unit *= unit;
    memcpy(p->grid, grid, sizeof p->grid);
}

static void iq4_nl_grid(int8_t *grid) {
    unsigned char block[18] = {0x00, 0x3c}; /* d = 1 */
    float values[32];
    for (unsigned j = 0; j < 16; j++)
        block[2 + j] = (unsigned char)j;
    dtype_decode(DT_IQ4_NL, block, values, 32);
    for (unsigned j = 0; j < 16; j++)
        grid[j] = (int8_t)values[j];
}

static nib_status choose_mxfp4(pack_row_fn *fn, pack_source *s, pack_part *p, nib_error *err) {
    bool fits;
    NIB_TRY(mxfp4_table(s, p, &fits, err));
    if (!fits)
        return NIB_OK;
    part_grid(p, PACK_NVFP4, e2m1_doubled, 0.5f);
    *fn = p->source.dtype == DT_MXFP4 ? pack_split_row : pack_gguf_mxfp4_row;
    return NIB_OK;
}

/* Forms that only 8-bit activations have kernels for. */
static pack_row_fn choose_int8(pack_part *p) {
    static const struct {
        dtype dtype;
        pack_kind kind;
        pack_row_fn fn;
    } forms[] = {{DT_Q4_1, PACK_Q4_1, pack_pairs_row}, {DT_Q5_0, PACK_Q5_0, pack_pairs_row},
                 {DT_Q5_1, PACK_Q5_1, pack_pairs_row}, {DT_Q4_K, PACK_Q4_K, pack_q45_k_row},
                 {DT_Q5_K, PACK_Q5_K, pack_q45_k_row}, {DT_Q6_K, PACK_Q6_K, pack_q6_k_row}};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        if (forms[i].dtype == p->source.dtype) {
            p->kind = forms[i].kind;
            return forms[i].fn;
        }
    return NULL;
}

nib_status pack_form_choose(pack_row_fn *fn, pack_source *s, pack_part *p, bool int8, nib_error *err) {
    int8_t levels[16];
    *fn = NULL;
    switch (p->source.dtype) {
    case DT_NVFP4:
    case DT_GGUF_NVFP4:
        nvfp4_table(s, p->source.dtype == DT_GGUF_NVFP4);
        part_grid(p, PACK_NVFP4, e2m1_doubled, 0.5f);
        *fn = p->source.dtype == DT_NVFP4 ? pack_split_row : pack_gguf_nvfp4_row;
        return NIB_OK;
    case DT_MXFP4:
    case DT_GGUF_MXFP4:
        return choose_mxfp4(fn, s, p, err);
    case DT_Q4_0:
        part_grid(p, PACK_Q4_0, q4_0_grid, 1.0f);
        *fn = pack_pairs_row;
        return NIB_OK;
    case DT_IQ4_NL:
        iq4_nl_grid(levels);
        part_grid(p, PACK_IQ4_NL, levels, 1.0f);
        *fn = pack_pairs_row;
        return NIB_OK;
    case DT_Q8_0:
        p->kind = PACK_Q8_0;
        *fn = pack_q8_0_row;
        return NIB_OK;
    default:
        *fn = int8 ? choose_int8(p) : NULL;
        return NIB_OK;
    }
}
