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
#include "cpu/pack_form.h"
#include "num/e2m1.h"
#include "num/fp8.h"

#define PARALLEL_ROWS 256
#define STRIPE_BYTES  ((size_t)1 << 19) /* of the file, read and packed at once: they fit a core's cache */

static void keep_rows(pack_part *p) {
    pack_slab_release(p->slab);
    p->slab = NULL;
    p->groups = NULL;
    p->kind = PACK_ROWS;
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

static nib_status pack_one(pack_part *p, bool int8, pool *team, nib_error *err) {
    pack_run run = {.source = {.part = p}};
    size_t bytes;
    bool whole = dtype_bytes(p->source.dtype, p->cols, &run.source.row_bytes);
    assert(whole);
    (void)whole;
    NIB_TRY(pack_form_choose(&run.pack_row, &run.source, p, int8, err));
    if (!run.pack_row) {
        keep_rows(p);
        return NIB_OK;
    }
    if (p->source.block_scales)
        run.source.row_scales = p->cols / (p->source.dtype == DT_MXFP4 ? 32 : 16);
    size_t super_cols = pack_layouts[p->kind].chunks * PACK_CHUNK;
    p->n_super = (p->cols + super_cols - 1) / super_cols;
    p->super_bytes = pack_super_lines(p->kind) * PACK_LINE;
    if (!mem_mul(p->n_super, p->super_bytes, &run.group_bytes) ||
        !mem_mul(run.group_bytes, pack_groups(p), &bytes) || !(p->groups = pack_slab_take(&p->slab, bytes)))
        return nib_fail(err, NIB_NO_MEMORY, "no memory to pack %s (%zu rows of %zu columns)",
                        p->source.name ? p->source.name : "a tensor", p->rows, p->cols);
    NIB_TRY(pack_groups_of(p, &run, team, err));
    p->scale = p->unit * p->source.tensor_scale;
    if (run.seen & PACK_FORM_BAD_SCALE)
        keep_rows(p);
    return NIB_OK;
}

/* The rows of a PACK_ROWS part in a slab, as packed groups are, in *ROWS. */
static nib_status own_rows(pack_part *p, const void **rows, nib_error *err) {
    nib_error why = {""};
    const tensor *t = &p->source;
    uint8_t *room = pack_slab_take(&p->slab, t->bytes);
    if (!room)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for tensor '%s' of %zu bytes", t->name, t->bytes);
    nib_status status = mapfile_read(room, t->data, t->bytes, &why);
    *rows = room;
    return status == NIB_OK ? NIB_OK : nib_fail(err, status, "tensor '%s': %s", t->name, why.text);
}

nib_status pack_own(packed *w, nib_error *err) {
    for (size_t i = 0; i < w->head.n_parts; i++) {
        pack_part *p = &w->parts[i];
        tensor rest = p->source;
        const void *rows = NULL;
        if (p->kind == PACK_ROWS)
            NIB_TRY(own_rows(p, &rows, err));
        else
            rest.block_scales = NULL;
        rest.data = NULL;
        rest.bytes = 0;
        if (rest.block_scales || rest.row_scales)
            NIB_TRY(tensor_read(&rest, &p->own, &rest, err));
        if (rows)
            rest.bytes = p->source.bytes;
        rest.data = rows;
        p->source = rest;
        p->row_scales = rest.row_scales;
        if (w->down[i]) {
            NIB_TRY(pack_own(w->down[i], err));
            NIB_TRY(pack_own(w->up[i], err));
        }
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
        p->source.branch = (tensor_branch){0};
        head->part_rows[head->n_parts++] = p->rows;
        head->rows += p->rows;
        nib_status status = pack_one(p, int8, team, err);
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
        pack_free(w->down[i]);
        pack_free(w->up[i]);
    }
    mem_free(w);
}

/* ---- back ---- */

static float half_at(const uint8_t *p) {
    return f16_to_f32((uint16_t)(p[0] | p[1] << 8));
}

/* Of row R of a superblock whose scales are LINES; block B of 16 columns. */
static void block_scale(const pack_part *p, const uint8_t *lines, size_t b, size_t r, float *scale,
                        float *least) {
    const uint8_t *half = lines + (b / 2 * PACK_LANES + r) * 2;
    const uint8_t *d = lines + PACK_K_SCALES * PACK_LINE + 2 * r;
    *least = 0.0f;
    switch (p->kind) {
    case PACK_NVFP4:
        *scale = f32_of_bits((uint32_t)lines[b * PACK_LANES + r] << 20) / PACK_FORM_E5M3;
        return;
    case PACK_Q4_K:
    case PACK_Q5_K:
        lines += b / 2 * PACK_LANES + r;
        *scale = half_at(d) * (float)lines[0];
        *least = half_at(d + 2 * PACK_LANES) * (float)lines[2 * PACK_LINE];
        return;
    case PACK_Q6_K:
        *scale = half_at(d) * (float)(int8_t)lines[b * PACK_LANES + r];
        return;
    case PACK_Q4_1:
    case PACK_Q5_1:
        *least = half_at(half + PACK_LINE);
        break;
    default:
        break;
    }
    *scale = half_at(half);
}

/* Code of vector K of a chunk, byte AT of its lines. */
static inline uint8_t stored_code(unsigned bits, const uint8_t *chunk, size_t k, size_t at) {
    if (bits == 8)
        return chunk[k * PACK_LINE + at];
    unsigned code = chunk[k / 2 * PACK_LINE + at] >> k % 2 * 4 & 15;
    if (bits == 5)
        code |= (chunk[4 * PACK_LINE + at] >> k & 1u) << 4;
    if (bits == 6)
        code |= (chunk[(4 + k / 4) * PACK_LINE + at] >> k % 4 * 2 & 3u) << 4;
    return (uint8_t)code;
}

static inline void stored_codes(uint8_t codes[16], unsigned bits, const uint8_t *chunk, size_t k) {
#pragma GCC unroll 16
    for (size_t i = 0; i < 16; i++)
        codes[i] = stored_code(bits, chunk, k + i / 8 * 2 + i % 2, i % 8 / 2);
}

void pack_block(const pack_part *p, size_t row, size_t block, uint8_t codes[16], float *scale, float *least) {
    assert(p->kind != PACK_ROWS && row < p->rows && block < p->cols / 16);
    const pack_layout *at = &pack_layouts[p->kind];
    size_t r = row % PACK_LANES, b = block % (2 * at->chunks);
    const uint8_t *super = pack_super(p, row / PACK_LANES, block / (2 * at->chunks));
    const uint8_t *chunk = super + b / 2 * at->bits * PACK_LINE;
    block_scale(p, super + at->chunks * at->bits * PACK_LINE, b, r, scale, least);
    chunk += 4 * r;
    switch (at->bits) { /* a constant each: the loop is unrolled */
    case 4:
        stored_codes(codes, 4, chunk, b % 2 * 4);
        break;
    case 5:
        stored_codes(codes, 5, chunk, b % 2 * 4);
        break;
    case 6:
        stored_codes(codes, 6, chunk, b % 2 * 4);
        break;
    default:
        stored_codes(codes, 8, chunk, b % 2 * 4);
    }
}

/* The operations of tensor_decode_row in its order, so that both give the same bits. */
static void unpack_part_row(const pack_part *p, size_t row, float *dst) {
    bool e2m1 = p->kind == PACK_NVFP4, affine = pack_layouts[p->kind].codes == PACK_AFFINE;
    for (size_t b = 0; b < p->cols / 16; b++) {
        uint8_t codes[16];
        float scale, least;
        pack_block(p, row, b, codes, &scale, &least);
        scale *= e2m1 ? 2.0f * p->unit : 1.0f;
        for (size_t i = 0; i < 16; i++) { /* e2m1_values has a -0 that no grid of integers has */
            float value = (e2m1 ? e2m1_values[codes[i]] : (float)pack_value(p, codes[i])) * scale;
            dst[b * 16 + i] = affine ? value + least : value;
        }
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
