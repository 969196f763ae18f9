/* SPDX-License-Identifier: Apache-2.0
 *
 * Packing: tensors of a file into the layout of pack.h, and back. Groups of rows are packed by several
 * threads.
 */
#include "cpu/pack.h"

#include <assert.h>
#include <stdatomic.h>
#include <string.h>

#include "base/mapfile.h"
#include "base/mem.h"
#include "cpu/matmul.h"
#include "num/e2m1.h"
#include "num/fp8.h"

#define BAD_SCALE     0x100u /* an entry of the scale table that E5M3 does not hold */
#define E5M3_UNIT     0x1p-104f
#define MXFP4_SPAN    30 /* binades between the smallest and the largest scale that E5M3 holds */
#define MXFP4_MIN     40 /* E8M0 codes outside these would leave FP32's range beside the tensor scale */
#define MXFP4_MAX     200
#define PARALLEL_ROWS 256
#define STRIPE_BYTES  ((size_t)1 << 19) /* of the file, read and packed at once: they fit a core's cache */

static const int8_t e2m1_doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
static const int8_t q4_0_grid[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};

/* What a row packer needs to know beside the row. */
typedef struct pack_source {
    const pack_part *part;
    const unsigned char *data; /* of row 0, though only a stripe's rows are there */
    const uint8_t *block_scales;
    size_t row_bytes, row_scales; /* bytes of a row of each */
    uint16_t scale_table[256];    /* stored scale byte -> E5M3, or BAD_SCALE */
} pack_source;

/* Packs row ROW into lane ROW % 16 of its group GROUP (zeroed); returns the or of its scale table entries. */
typedef uint32_t (*pack_row_fn)(const pack_source *s, size_t row, uint8_t *group);

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
    uint32_t bits = f32_bits(scale * E5M3_UNIT);
    return bits >> 28 || bits & 0xfffffu ? BAD_SCALE : (uint16_t)(bits >> 20);
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

static uint8_t *scale_line(const pack_part *p, uint8_t *group, size_t super) {
    return group + (super + 1) * p->super_bytes - PACK_LINE;
}

/* Stored scale byte of block BLOCK (16 columns), through the table. */
static uint32_t put_e5m3(const pack_source *s, uint8_t *group, size_t row, size_t block, uint8_t stored) {
    uint16_t scale = s->scale_table[stored];
    scale_line(s->part, group, block / 4)[block % 4 * PACK_LANES + row % PACK_LANES] = (uint8_t)scale;
    return scale;
}

static void put_f16(const pack_part *p, uint8_t *group, size_t row, size_t block32, const unsigned char *d) {
    memcpy(scale_line(p, group, block32 / 2) + (block32 % 2 * PACK_LANES + row % PACK_LANES) * 2, d, 2);
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

/* Blocks of 32 as pairs (j, j + 16): MXFP4, Q4_0, IQ4_NL. */
static void put_pairs32(const pack_part *p, uint8_t *group, size_t row, size_t block32,
                        const unsigned char *pairs) {
    uint8_t *dst = lane(p, group, row, block32 / 2);
    for (size_t half = 0; half < 2; half++) {
        uint64_t bytes = read_u64(pairs + 8 * half);
        put_line(dst, block32 % 2 * 4 + half, low_nibbles(bytes));
        put_line(dst, block32 % 2 * 4 + 2 + half, low_nibbles(bytes >> 4));
    }
}

static uint32_t pack_gguf_mxfp4_row(const pack_source *s, size_t row, uint8_t *group) {
    uint32_t seen = 0;
    for (size_t b = 0; b < s->part->cols / 32; b++) {
        const unsigned char *src = s->data + row * s->row_bytes + b * 17;
        put_pairs32(s->part, group, row, b, src + 1);
        seen |= put_e5m3(s, group, row, 2 * b, src[0]);
        put_e5m3(s, group, row, 2 * b + 1, src[0]);
    }
    return seen;
}

static uint32_t pack_nibble_row(const pack_source *s, size_t row, uint8_t *group) {
    for (size_t b = 0; b < s->part->cols / 32; b++) {
        const unsigned char *src = s->data + row * s->row_bytes + b * 18;
        put_f16(s->part, group, row, b, src);
        put_pairs32(s->part, group, row, b, src + 2);
    }
    return 0;
}

static uint32_t pack_byte_row(const pack_source *s, size_t row, uint8_t *group) {
    for (size_t b = 0; b < s->part->cols / 32; b++) {
        const unsigned char *src = s->data + row * s->row_bytes + b * 34;
        uint8_t *dst = lane(s->part, group, row, b / 2);
        put_f16(s->part, group, row, b, src);
        for (size_t i = 0; i < 4; i++) {
            uint64_t bytes = read_u64(src + 2 + 8 * i);
            put_line(dst, b % 2 * 8 + 2 * i, even_bytes(bytes));
            put_line(dst, b % 2 * 8 + 2 * i + 1, even_bytes(bytes >> 8));
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
        s->scale_table[e] = e < low || e > high ? BAD_SCALE : (uint16_t)((e - low + 1) << 3);
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

/* Chooses the packed form of P and fills S; *fn NULL: the tensor stays where it is. */
static nib_status choose(pack_row_fn *fn, pack_source *s, pack_part *p, nib_error *err) {
    int8_t levels[16];
    bool fits;
    *fn = NULL;
    switch (p->source.dtype) {
    case DT_NVFP4:
        nvfp4_table(s, false);
        part_grid(p, PACK_NVFP4, e2m1_doubled, 0.5f);
        *fn = pack_split_row;
        return NIB_OK;
    case DT_GGUF_NVFP4:
        nvfp4_table(s, true);
        part_grid(p, PACK_NVFP4, e2m1_doubled, 0.5f);
        *fn = pack_gguf_nvfp4_row;
        return NIB_OK;
    case DT_MXFP4:
    case DT_GGUF_MXFP4:
        NIB_TRY(mxfp4_table(s, p, &fits, err));
        if (!fits)
            return NIB_OK;
        part_grid(p, PACK_NVFP4, e2m1_doubled, 0.5f);
        *fn = p->source.dtype == DT_MXFP4 ? pack_split_row : pack_gguf_mxfp4_row;
        return NIB_OK;
    case DT_Q4_0:
        part_grid(p, PACK_NIBBLE, q4_0_grid, 1.0f);
        *fn = pack_nibble_row;
        return NIB_OK;
    case DT_IQ4_NL:
        iq4_nl_grid(levels);
        part_grid(p, PACK_NIBBLE, levels, 1.0f);
        p->wide = true;
        *fn = pack_nibble_row;
        return NIB_OK;
    case DT_Q8_0:
        p->kind = PACK_BYTE;
        p->wide = true;
        *fn = pack_byte_row;
        return NIB_OK;
    default:
        return NIB_OK;
    }
}

static void keep_rows(pack_part *p) {
    pack_slab_release(p->slab);
    p->slab = NULL;
    p->groups = NULL;
    p->kind = PACK_ROWS;
    p->wide = false;
    p->unit = 1.0f;
    p->scale = p->source.tensor_scale;
}

/* Rows of group G; the or of their scale entries. */
static uint32_t pack_group(const pack_source *s, pack_row_fn pack_row, size_t g, size_t group_bytes) {
    const pack_part *p = s->part;
    uint8_t *group = p->groups + g * group_bytes;
    size_t end = (g + 1) * PACK_LANES < p->rows ? (g + 1) * PACK_LANES : p->rows;
    uint32_t seen = 0;
    if (end % PACK_LANES || p->cols % PACK_COLS)
        memset(group, 0, group_bytes);
    for (size_t r = g * PACK_LANES; r < end; r++)
        seen |= pack_row(s, r, group);
    return seen;
}

/* What the threads that pack a part share. */
typedef struct pack_run {
    pack_source source;
    pack_row_fn pack_row;
    size_t n_groups, group_bytes, stripe; /* groups of a stripe */
    unsigned char *room;                  /* [threads, room_bytes] the file's part of a stripe */
    size_t room_bytes;
    atomic_uint seen; /* the or of every scale entry */
    atomic_bool failed;
    nib_status status; /* of the first that failed, as the next */
    nib_error error;
} pack_run;

/* Groups [first, last) out of the file. */
static nib_status pack_stripe(pack_run *run, unsigned char *room, size_t first, size_t last, nib_error *err) {
    pack_source s = run->source;
    const tensor *t = &s.part->source;
    size_t row = first * PACK_LANES,
           end = last * PACK_LANES < s.part->rows ? last * PACK_LANES : s.part->rows;
    size_t data_bytes = (end - row) * s.row_bytes, scale_bytes = (end - row) * s.row_scales;
    NIB_TRY(mapfile_read(room, (const unsigned char *)t->data + row * s.row_bytes, data_bytes, err));
    if (scale_bytes)
        NIB_TRY(mapfile_read(room + data_bytes, t->block_scales + row * s.row_scales, scale_bytes, err));
    s.data = room - row * s.row_bytes;
    s.block_scales = room + data_bytes - row * s.row_scales;
    uint32_t seen = 0;
    for (size_t g = first; g < last; g++)
        seen |= pack_group(&s, run->pack_row, g, run->group_bytes);
    atomic_fetch_or(&run->seen, seen);
    return NIB_OK;
}

/* Stripes [begin, end) of groups. */
static void pack_stripes(void *arg, int thread, size_t begin, size_t end) {
    pack_run *run = arg;
    for (size_t i = begin; i < end; i++) {
        size_t first = i * run->stripe, last = first + run->stripe;
        nib_error err = {""};
        nib_status status = pack_stripe(run, run->room + (size_t)thread * run->room_bytes, first,
                                        last < run->n_groups ? last : run->n_groups, &err);
        if (status != NIB_OK && !atomic_exchange(&run->failed, true)) {
            run->status = status;
            run->error = err;
        }
    }
}

/* All groups of P, by TEAM; *seen: the or of every scale entry. */
static nib_status pack_groups_of(pack_part *p, pack_run *run, pool *team, nib_error *err) {
    const pack_source *s = &run->source;
    const char *name = p->source.name ? p->source.name : "";
    team = p->rows >= PARALLEL_ROWS ? team : NULL;
    run->n_groups = pack_groups(p);
    run->stripe = STRIPE_BYTES / (PACK_LANES * s->row_bytes) + 1;
    run->room_bytes = run->stripe * PACK_LANES * (s->row_bytes + s->row_scales);
    run->room = mem_array((size_t)pool_threads(team), run->room_bytes);
    if (!run->room)
        return nib_fail(err, NIB_NO_MEMORY, "no memory to pack %s", name);
    pool_for(team, (run->n_groups + run->stripe - 1) / run->stripe, 1, pack_stripes, run);
    mem_free(run->room);
    return run->failed ? nib_fail(err, run->status, "tensor '%s': %s", name, run->error.text) : NIB_OK;
}

static nib_status pack_one(pack_part *p, pool *team, nib_error *err) {
    pack_run run = {.source = {.part = p}};
    size_t bytes;
    bool whole = dtype_bytes(p->source.dtype, p->cols, &run.source.row_bytes);
    assert(whole);
    (void)whole;
    NIB_TRY(choose(&run.pack_row, &run.source, p, err));
    if (!run.pack_row) {
        keep_rows(p);
        return NIB_OK;
    }
    if (p->source.block_scales)
        run.source.row_scales = p->cols / (p->source.dtype == DT_MXFP4 ? 32 : 16);
    p->n_super = (p->cols + PACK_COLS - 1) / PACK_COLS;
    p->super_bytes = (p->kind == PACK_BYTE ? 17 : 9) * PACK_LINE;
    if (!mem_mul(p->n_super, p->super_bytes, &run.group_bytes) ||
        !mem_mul(run.group_bytes, pack_groups(p), &bytes) || !(p->groups = pack_slab_take(&p->slab, bytes)))
        return nib_fail(err, NIB_NO_MEMORY, "no memory to pack %s (%zu rows of %zu columns)",
                        p->source.name ? p->source.name : "a tensor", p->rows, p->cols);
    NIB_TRY(pack_groups_of(p, &run, team, err));
    p->scale = p->unit * p->source.tensor_scale;
    if (run.seen & BAD_SCALE)
        keep_rows(p);
    return NIB_OK;
}

nib_status pack_own(packed *w, nib_error *err) {
    for (size_t i = 0; i < w->head.n_parts; i++) {
        pack_part *p = &w->parts[i];
        tensor needed = p->source;
        if (p->kind != PACK_ROWS) {
            needed.data = needed.block_scales = NULL;
            needed.bytes = 0;
        }
        if (!needed.data && !needed.row_scales)
            continue;
        NIB_TRY(tensor_read(&p->source, &p->own, &needed, err));
        p->row_scales = p->source.row_scales;
    }
    return NIB_OK;
}

static size_t part_bytes(const pack_part *p) {
    return p->kind == PACK_ROWS ? tensor_total_bytes(&p->source)
                                : pack_groups(p) * p->n_super * p->super_bytes;
}

nib_status pack_weight(packed **out, const tensor *const *parts, size_t n_parts, bool int8, pool *team,
                       nib_error *err) {
    assert(n_parts > 0 && n_parts <= WEIGHT_MAX_PARTS);
    packed *w = mem_array(1, sizeof *w);
    if (!w)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a weight of %zu tensors", n_parts);
    weight *head = &w->head;
    head->cols = parts[0]->cols;
    w->int8 = int8;
    for (size_t i = 0; i < n_parts; i++) {
        assert(parts[i]->cols == head->cols && parts[i]->rows > 0);
        pack_part *p = &w->parts[i];
        *p = (pack_part){.source = *parts[i], .row0 = head->rows, .rows = parts[i]->rows, .cols = head->cols};
        p->unit = 1.0f;
        p->row_scales = p->source.row_scales;
        head->part_rows[head->n_parts++] = p->rows;
        head->rows += p->rows;
        nib_status status = pack_one(p, team, err);
        if (status != NIB_OK) {
            pack_free(w);
            return status;
        }
        head->bytes += part_bytes(p);
    }
    *out = w;
    return NIB_OK;
}

void pack_free(packed *w) {
    if (!w)
        return;
    for (size_t i = 0; i < w->head.n_parts; i++) {
        pack_slab_release(w->parts[i].slab);
        mem_free(w->parts[i].own);
    }
    mem_free(w);
}

/* ---- back ---- */

void pack_block(const pack_part *p, size_t row, size_t block, uint8_t codes[16], float *scale) {
    assert(p->kind != PACK_ROWS && row < p->rows && block < p->cols / 16);
    size_t r = row % PACK_LANES, b = block % 4;
    const uint8_t *super = pack_super(p, row / PACK_LANES, block / 4);
    const uint8_t *scales = super + p->super_bytes - PACK_LINE;
    if (p->kind == PACK_NVFP4) {
        *scale = f32_of_bits((uint32_t)scales[b * PACK_LANES + r] << 20) / E5M3_UNIT;
    } else {
        scales += (b / 2 * PACK_LANES + r) * 2;
        *scale = f16_to_f32((uint16_t)(scales[0] | scales[1] << 8));
    }
    for (size_t i = 0; i < 16; i++) {
        size_t line = 2 * b + i / 8, n = i % 8;
        if (p->kind == PACK_BYTE)
            codes[i] = super[(2 * line + n % 2) * PACK_LINE + 4 * r + n / 2];
        else
            codes[i] = super[line * PACK_LINE + 4 * r + n / 2] >> n % 2 * 4 & 15;
    }
}

/* The multiplications of tensor_decode_row in its order, so that both give the same bits. */
static void unpack_part_row(const pack_part *p, size_t row, float *dst) {
    float values[16]; /* of the codes: e2m1_values has a -0 that no integer grid has */
    for (size_t i = 0; i < 16; i++)
        values[i] = p->kind == PACK_NVFP4 ? e2m1_values[i] : (float)p->grid[i];
    float unit = p->kind == PACK_NVFP4 ? 2.0f * p->unit : 1.0f;
    for (size_t b = 0; b < p->cols / 16; b++) {
        uint8_t codes[16];
        float scale;
        pack_block(p, row, b, codes, &scale);
        scale *= unit;
        for (size_t i = 0; i < 16; i++)
            dst[b * 16 + i] = (p->kind == PACK_BYTE ? (float)(int8_t)codes[i] : values[codes[i]]) * scale;
    }
    if (p->row_scales)
        for (size_t c = 0; c < p->cols; c++)
            dst[c] *= p->row_scales[row];
    if (p->source.tensor_scale != 1.0f)
        for (size_t c = 0; c < p->cols; c++)
            dst[c] *= p->source.tensor_scale;
}

void pack_unpack_row(const packed *w, size_t row, float *dst) {
    assert(row < w->head.rows);
    const pack_part *p = w->parts;
    while (row >= p->row0 + p->rows)
        p++;
    if (p->kind == PACK_ROWS)
        tensor_decode_row(&p->source, row - p->row0, dst);
    else
        unpack_part_row(p, row - p->row0, dst);
}
