/* SPDX-License-Identifier: Apache-2.0
 *
 * Matrix products, cut into units. Kernels do the arithmetic (ref/matmul_ref.c defines it); here is who takes
 * which rows.
 *
 * One row of activations, and a few where the rung has a kernel for them: a unit is a group of 16 weight
 * rows, streamed straight from packed memory. More rows: a unit is a tile of 32 weight rows times up to
 * MATMUL_TOKENS rows; the tile is unpacked once, a stretch of columns at a time, and multiplied by all of
 * them. A row's sums run over the columns in one order whatever the path, so the paths give the same bits.
 *
 * A gated product takes the same rows of gate and up in one unit, so that f(gate) * up is formed, and
 * quantized, while the sums are in the cache.
 */
#include "cpu/matmul.h"

#include <assert.h>
#include <string.h>

#include "cpu/kernels.h"

static size_t min(size_t a, size_t b) {
    return a < b ? a : b;
}

static size_t tiles_of(const pack_part *p) {
    return (p->rows + MATMUL_TILE - 1) / MATMUL_TILE;
}

static size_t chunks_of(const matmul_job *job) {
    return (job->n_rows + MATMUL_TOKENS - 1) / MATMUL_TOKENS;
}

static bool is_int8(const matmul_job *job, const pack_part *p) {
    return job->w->int8 && p->kind != PACK_ROWS;
}

static bool has_direct(const matmul_job *job, const pack_part *p) {
    return is_int8(job, p) && job->k->matmul.direct8[p->kind];
}

/* The kernel for one row of activations and P's rows as the file has them, if the rung has one. */
static bool has_gemv_rows(const matmul_job *job, const pack_part *p) {
    return p->kind == PACK_ROWS && !p->source.tile_scales && job->k->matmul.gemv_rows[p->source.dtype];
}

/* Rows of activations that P is multiplied with group by group. */
static size_t group_rows(const matmul_job *job, const pack_part *p) {
    return has_direct(job, p) ? job->k->matmul.direct_rows : has_gemv_rows(job, p) ? MATMUL_IN_TURN : 1;
}

/* Whether part P (gated: and the part after it) is multiplied group by group. */
static bool by_groups(const matmul_job *job, const pack_part *p) {
    return job->n_rows <= group_rows(job, p) && (!job->gated || job->n_rows <= group_rows(job, p + 1));
}

static size_t part_units(const matmul_job *job, const pack_part *p) {
    return by_groups(job, p) ? pack_groups(p) : tiles_of(p) * chunks_of(job);
}

size_t matmul_units(const matmul_job *job) {
    size_t units = 0;
    for (size_t i = 0; i < (job->gated ? 1 : job->w->head.n_parts); i++)
        units += part_units(job, &job->w->parts[i]);
    return units;
}

static size_t padded(size_t cols) {
    return (cols + PACK_COLS - 1) / PACK_COLS * PACK_COLS;
}

size_t pack_scratch_bytes(const packed *w) {
    size_t tile8 = MATMUL_TILE8_CODES + MATMUL_TILE8_SCALES;
    size_t tile32 = MATMUL_TILE32_VALUES + MATMUL_TILE32_SCALES;
    size_t rows = MATMUL_ROWS * padded(w->head.cols) * sizeof(float);
    size_t most = tile8 > tile32 ? tile8 : tile32;
    return 2 * MATMUL_ACC_BYTES + (rows > most ? rows : most);
}

/* ---- where sums go; acc [n_tokens, MATMUL_TILE] of rows [first, first + n), n <= MATMUL_TILE ---- */

static void row_factors(const pack_part *p, size_t first, size_t n, float factors[MATMUL_TILE]) {
    assert(n <= MATMUL_TILE);
    for (size_t i = 0; i < n; i++)
        factors[i] = p->row_scales ? p->scale * p->row_scales[first + i] : p->scale;
}

/* out [n] += what P's branch, if it has one, gives rows [first, first + n) with TOKEN */
static void add_start(const matmul_job *job, const pack_part *p, size_t first, size_t n, size_t token,
                      float *out) {
    if (!job->start || !job->w->up[p - job->w->parts])
        return;
    const float *start = job->start + token * job->w->head.rows + p->row0 + first;
    for (size_t i = 0; i < n; i++)
        out[i] += start[i];
}

/* out[token, rows of the part from FIRST on] = or += sums * scale (+ bias); rows of acc lie STRIDE apart */
static void put(const matmul_job *job, const pack_part *p, size_t first, size_t n, size_t token,
                size_t n_tokens, const float *acc, size_t stride) {
    float factors[MATMUL_TILE];
    row_factors(p, first, n, factors);
    for (size_t t = 0; t < n_tokens; t++, acc += stride) {
        float *out = job->out + (token + t) * job->out_stride + p->row0 + first;
        if (job->add)
            for (size_t i = 0; i < n; i++)
                out[i] += acc[i] * factors[i];
        else
            for (size_t i = 0; i < n; i++)
                out[i] = acc[i] * factors[i];
        for (size_t i = 0; job->bias && i < n; i++)
            out[i] += job->bias[p->row0 + first + i];
        add_start(job, p, first, n, token + t, out);
    }
}

/* acc [n_tokens, MATMUL_TILE] times the scales of rows [first, first + n) */
static void scale_tile(const matmul_job *job, const pack_part *p, size_t first, size_t n, size_t n_tokens,
                       float *acc) {
    float factors[MATMUL_TILE];
    if (!p->row_scales) {
        job->k->scale(acc, p->scale, n_tokens * MATMUL_TILE);
        return;
    }
    row_factors(p, first, n, factors);
    for (size_t t = 0; t < n_tokens; t++, acc += MATMUL_TILE)
        for (size_t i = 0; i < n; i++)
            acc[i] *= factors[i];
}

/* gated[token, FIRST..] = f(sums of gate * scale) * (sums of up * scale), formed and quantized in one piece
 * in GATE and BLOCKS ([n_tokens, MATMUL_TILE / ACT_BLOCK], scratch) and then copied to the rows. */
static void put_gated(const matmul_job *job, size_t first, size_t n, size_t token, size_t n_tokens,
                      float *gate, float *up, act_block *blocks) {
    enum { TILE_BLOCKS = MATMUL_TILE / ACT_BLOCK };
    scale_tile(job, &job->w->parts[0], first, n, n_tokens, gate);
    scale_tile(job, &job->w->parts[1], first, n, n_tokens, up);
    for (size_t t = 0; job->start && t < n_tokens; t++) {
        add_start(job, &job->w->parts[0], first, n, token + t, gate + t * MATMUL_TILE);
        add_start(job, &job->w->parts[1], first, n, token + t, up + t * MATMUL_TILE);
    }
    job->k->glu[job->glu](gate, gate, up, n_tokens * MATMUL_TILE);
    bool codes = job->gated->blocks;
    if (codes)
        job->k->matmul.quantize_act(blocks, gate, n_tokens * MATMUL_TILE);
    for (size_t t = 0; t < n_tokens; t++, gate += MATMUL_TILE, blocks += TILE_BLOCKS) {
        float *row = act_row(job->gated, token + t) + first;
        act_block *row_blocks = codes ? act_blocks(job->gated, token + t) + first / ACT_BLOCK : NULL;
        if (n == MATMUL_TILE) { /* sizes that the compiler knows */
            memcpy(row, gate, MATMUL_TILE * sizeof *gate);
            if (codes)
                memcpy(row_blocks, blocks, TILE_BLOCKS * sizeof *blocks);
        } else {
            memcpy(row, gate, n * sizeof *gate);
            if (codes)
                memcpy(row_blocks, blocks, (n + ACT_BLOCK - 1) / ACT_BLOCK * sizeof *blocks);
        }
    }
}

/* The same for one row of activations, TOKEN, and any number of rows: GATE and UP are [n]. */
static void put_gated_row(const matmul_job *job, size_t first, size_t n, size_t token, float *gate,
                          float *up) {
    float *out = act_row(job->gated, token) + first;
    for (size_t i = 0; i < n; i += MATMUL_TILE) {
        float gate_factors[MATMUL_TILE], up_factors[MATMUL_TILE];
        size_t few = min(MATMUL_TILE, n - i);
        row_factors(&job->w->parts[0], first + i, few, gate_factors);
        row_factors(&job->w->parts[1], first + i, few, up_factors);
        for (size_t j = 0; j < few; j++) {
            gate[i + j] *= gate_factors[j];
            up[i + j] *= up_factors[j];
        }
    }
    add_start(job, &job->w->parts[0], first, n, token, gate);
    add_start(job, &job->w->parts[1], first, n, token, up);
    job->k->glu[job->glu](out, gate, up, n);
    if (job->gated->blocks) /* behind the last column the row is zero up to a whole block */
        job->k->matmul.quantize_act(act_blocks(job->gated, token) + first / ACT_BLOCK, out,
                                    (n + ACT_BLOCK - 1) / ACT_BLOCK * ACT_BLOCK);
}

/* Asks for the lines of out (or gated) that put will write, far from each other as they lie. */
static void expect(const matmul_job *job, const pack_part *p, size_t first, size_t n, size_t token,
                   size_t n_tokens) {
    for (size_t t = token; t < token + n_tokens; t++) {
        const float *out =
            job->gated ? act_row(job->gated, t) + first : job->out + t * job->out_stride + p->row0 + first;
        for (size_t i = 0; i < n; i += 16)
            __builtin_prefetch(out + i, 1);
        if (job->gated && job->gated->blocks)
            __builtin_prefetch(act_blocks(job->gated, t) + first / ACT_BLOCK, 1);
    }
}

/* ---- sums ---- */

/* Rows [first, first + n) of a packed part, n <= MATMUL_TILE, times rows [token, token + n_tokens). */
static void sum_tile(const matmul_job *job, const pack_part *p, size_t first, size_t n, size_t token,
                     size_t n_tokens, float *acc, void *scratch) {
    const matmul_kernels *m = &job->k->matmul;
    bool int8 = is_int8(job, p);
    uint8_t *tile = scratch;
    float *scales = (float *)(tile + (int8 ? MATMUL_TILE8_CODES : MATMUL_TILE32_VALUES));
    size_t stretch = int8 ? MATMUL_BLOCKS8 : MATMUL_BLOCKS32, n_blocks = pack_blocks(p);
    matmul_cut cut = {.part = p, .group = first / PACK_LANES, .n_groups = n > PACK_LANES ? 2 : 1};
    memset(acc, 0, n_tokens * MATMUL_TILE * sizeof *acc);
    for (cut.block = 0; cut.block < n_blocks; cut.block += stretch) {
        cut.n_blocks = min(stretch, n_blocks - cut.block);
        if (cut.block + cut.n_blocks == n_blocks && !(job->gated && p == job->w->parts))
            expect(job, p, first, n, token, n_tokens);
        if (int8) {
            m->tile8[p->kind](tile, scales, &cut);
            m->mul8[pack_layouts[p->kind].codes](acc, tile, scales, cut.n_groups, cut.n_blocks,
                                                 act_blocks(job->a, token) + cut.block,
                                                 job->a->stride / ACT_BLOCK, n_tokens);
        } else {
            m->tile32[p->kind]((float *)tile, scales, &cut);
            m->mul32(acc, (float *)tile, scales, cut.n_groups, cut.n_blocks,
                     act_row(job->a, token) + cut.block * 16, job->a->stride, n_tokens);
        }
    }
}

/* The same for rows that lie in the file as they are, n <= MATMUL_ROWS, through an FP32 copy. */
static void sum_rows(const matmul_job *job, const pack_part *p, size_t first, size_t n, size_t token,
                     size_t n_tokens, float *acc, void *scratch) {
    const matmul_kernels *m = &job->k->matmul;
    tensor bare = p->source; /* scales of rows and of the tensor come last */
    bare.row_scales = NULL;
    bare.tensor_scale = 1.0f;
    size_t row_bytes, n_padded = padded(p->cols);
    bool whole = dtype_bytes(bare.dtype, p->cols, &row_bytes);
    assert(whole);
    (void)whole;
    float *w = scratch;
    for (size_t i = 0; i < n; i++) {
        float *dst = w + i * n_padded;
        if (m->decode[bare.dtype] && !bare.block_scales && !bare.tile_scales)
            m->decode[bare.dtype]((const uint8_t *)bare.data + (first + i) * row_bytes, dst, p->cols);
        else
            tensor_decode_row(&bare, first + i, dst);
        memset(dst + p->cols, 0, (n_padded - p->cols) * sizeof *dst);
    }
    m->mul_rows(acc, w, n_padded, n, act_row(job->a, token), job->a->stride, n_tokens, n_padded);
}

/* Rows of either kind, STEP at a time where they lie in the file as they are. */
static void sum_any(const matmul_job *job, const pack_part *p, size_t first, size_t n, size_t token,
                    size_t n_tokens, size_t step, float *acc, void *scratch) {
    if (p->kind != PACK_ROWS) {
        sum_tile(job, p, first, n, token, n_tokens, acc, scratch);
        return;
    }
    memset(acc, 0, n_tokens * MATMUL_TILE * sizeof *acc);
    for (size_t i = 0; i < n; i += step)
        sum_rows(job, p, first + i, min(step, n - i), token, n_tokens, acc + i, scratch);
}

/* The kernel that takes groups of P straight from memory, if the rung has one; sums of ROWS rows with one row
 * of activations into ACC. */
static bool gemv(const matmul_job *job, const pack_part *p, size_t group, size_t n_groups, size_t rows,
                 const float *x, float *acc) {
    const matmul_kernels *m = &job->k->matmul;
    size_t row_bytes;
    if (is_int8(job, p))
        return false;
    if (p->kind != PACK_ROWS) {
        if (m->gemv32[p->kind])
            m->gemv32[p->kind](acc, p, group, n_groups, x);
        return m->gemv32[p->kind];
    }
    if (!has_gemv_rows(job, p) || !dtype_bytes(p->source.dtype, p->cols, &row_bytes))
        return false;
    const uint8_t *w = (const uint8_t *)p->source.data + group * PACK_LANES * row_bytes;
    m->gemv_rows[p->source.dtype](acc, w, row_bytes, rows, x, p->cols);
    return true;
}

/* Groups [group, group + n_groups) of a part, ROWS rows, times all rows of activations: acc [n_rows, stride].
 */
static void sum_groups(const matmul_job *job, const pack_part *p, size_t group, size_t n_groups, size_t rows,
                       float *acc, size_t stride, void *scratch) {
    if (has_direct(job, p)) {
        job->k->matmul.direct8[p->kind](acc, stride, p, group, n_groups, job->a->blocks,
                                        job->a->stride / ACT_BLOCK, job->n_rows);
        return;
    }
    if (job->n_rows > 1) { /* in turn, while a group is in the cache */
        for (size_t i = 0; i < rows; i += PACK_LANES)
            for (size_t t = 0; t < job->n_rows; t++)
                gemv(job, p, group + i / PACK_LANES, 1, min(PACK_LANES, rows - i), act_row(job->a, t),
                     acc + t * stride + i);
        return;
    }
    if (gemv(job, p, group, n_groups, rows, job->a->f32, acc))
        return;
    for (size_t i = 0; i < rows; i += MATMUL_TILE)
        sum_any(job, p, group * PACK_LANES + i, min(MATMUL_TILE, rows - i), 0, 1, MATMUL_FEW, acc + i,
                scratch);
}

/* ---- units ---- */

/* Groups [group, group + n) of part P (gated: and of the part after it), all rows of activations. */
static void run_groups(const matmul_job *job, const pack_part *p, size_t group, size_t n, void *scratch) {
    float *acc = scratch, *acc2 = (float *)((uint8_t *)scratch + MATMUL_ACC_BYTES);
    void *rest = (uint8_t *)scratch + 2 * MATMUL_ACC_BYTES;
    for (size_t step; n > 0; group += step, n -= step) {
        step = min(n, job->n_rows == 1 ? MATMUL_GROUPS : 2 * MATMUL_GROUPS / job->n_rows);
        size_t first = group * PACK_LANES, rows = min(step * PACK_LANES, p->rows - first);
        size_t stride = step * PACK_LANES;
        sum_groups(job, p, group, step, rows, acc, stride, rest);
        if (job->gated)
            sum_groups(job, p + 1, group, step, rows, acc2, stride, rest);
        for (size_t t = 0; job->gated && t < job->n_rows; t++)
            put_gated_row(job, first, rows, t, acc + t * stride, acc2 + t * stride);
        for (size_t i = 0; !job->gated && i < rows; i += MATMUL_TILE)
            put(job, p, first + i, min(MATMUL_TILE, rows - i), 0, job->n_rows, acc + i, stride);
    }
}

/* A tile of part P (gated: and of the part after it) times a chunk of the activations' rows. */
static void run_chunk(const matmul_job *job, const pack_part *p, size_t tile, size_t chunk, void *scratch) {
    size_t first = tile * MATMUL_TILE, n = min(MATMUL_TILE, p->rows - first);
    size_t token = chunk * MATMUL_TOKENS, n_tokens = min(MATMUL_TOKENS, job->n_rows - token);
    float *acc = scratch, *acc2 = (float *)((uint8_t *)scratch + MATMUL_ACC_BYTES);
    void *rest = (uint8_t *)scratch + 2 * MATMUL_ACC_BYTES;
    sum_any(job, p, first, n, token, n_tokens, MATMUL_ROWS, acc, rest);
    if (!job->gated) {
        put(job, p, first, n, token, n_tokens, acc, MATMUL_TILE);
        return;
    }
    sum_any(job, p + 1, first, n, token, n_tokens, MATMUL_ROWS, acc2, rest);
    put_gated(job, first, n, token, n_tokens, acc, acc2, rest);
}

void matmul_run(const matmul_job *job, size_t begin, size_t end, void *scratch) {
    const packed *w = job->w;
    assert(job->a->head.cols == w->head.cols && job->a->stride >= padded(w->head.cols) &&
           job->n_rows <= job->a->head.max_rows);
    size_t chunks = chunks_of(job), unit = 0;
    for (size_t i = 0; i < w->head.n_parts && unit < end; i++) {
        const pack_part *p = &w->parts[i];
        size_t n = part_units(job, p);
        size_t from = begin > unit ? begin - unit : 0, to = min(n, end - unit);
        if (from < to && by_groups(job, p))
            run_groups(job, p, from, to - from, scratch);
        else
            for (size_t u = from; u < to; u++)
                run_chunk(job, p, u / chunks, u % chunks, scratch);
        unit += n;
    }
}
