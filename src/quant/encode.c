/* SPDX-License-Identifier: Apache-2.0
 *
 * Tensors by chunks of whole rows: a chunk is decoded, put in the output's order, encoded and summed up by
 * all threads, then written by one. Caller: convert.
 *
 * A row is one thread's, and sums are added up in the order of rows: the bytes and the reported errors are
 * the same for every number of threads. Between chunks the mapped source is given back, so memory stays
 * small.
 */
#include "quant/encode.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "base/mapfile.h"
#include "base/mem.h"
#include "base/quote.h"
#include "base/stop.h"
#include "num/fp8.h"
#include "num/gguf_blocks.h"
#include "num/mxfp4.h"
#include "num/nvfp4.h"
#include "quant/gptq.h"
#include "quant/q5_search.h"

#define CHUNK_ELEMENTS ((size_t)4 << 20)
#define WORTH_WAKING   ((size_t)1 << 17) /* elements from which on waking other threads pays */
#define GRAIN          8                 /* rows */

typedef struct measure {
    float amax;
    bool bf16, f16, finite;
} measure;

/* What one thread works with. */
typedef struct bench {
    float *x, *back;         /* [cols] values, values as they will be read */
    uint8_t *codes, *scales; /* a row in the Hugging Face layout */
    measure seen;
} bench;

typedef struct workshop {
    const encode_job *job;
    size_t rows, cols, row_bytes; /* row_bytes of the output */
    size_t chunk_rows;
    pool *pool;
    int threads;            /* of the pool */
    bench *benches;         /* [threads] */
    unsigned char *out;     /* [chunk_rows, row_bytes] */
    encode_error *row_sums; /* [chunk_rows]: added up in row order */
    bool *row_bad;
} workshop;

/* ---- rows of the source ---- */

/* Row R of the output is this row of the source: Llama's q and k lie in halves (i, i + D/2) in a Hugging Face
 * file and in pairs (2i, 2i + 1) in a GGUF file. */
static size_t source_row(const encode_item *item, size_t r) {
    if (item->heads == 0)
        return r;
    size_t d = item->t->rows / (size_t)item->heads, head = r / d, i = r % d;
    return head * d + (item->interleave ? i % 2 * (d / 2) + i / 2 : i % (d / 2) * 2 + i / (d / 2));
}

static void read_row(const encode_item *item, size_t r, float *x) {
    tensor_decode_row(item->t, source_row(item, r), x);
    if (item->shift != 0.0f)
        for (size_t c = 0; c < item->t->cols; c++)
            x[c] += item->shift;
    for (size_t c = 0; item->powers && c < item->t->cols; c++)
        x[c] = ldexpf(x[c], item->divides ? -item->powers[c] : item->powers[c]);
}

static void report(const encode_job *job, uint64_t elements) {
    *job->done += elements;
    progress_report(&job->progress, slot_name(job->item->slot), *job->done, job->total);
}

/* ---- workshop ---- */

static void workshop_close(workshop *w) {
    for (int i = 0; w->benches && i < w->threads; i++) {
        mem_free(w->benches[i].x);
        mem_free(w->benches[i].back);
        mem_free(w->benches[i].codes);
        mem_free(w->benches[i].scales);
    }
    mem_free(w->benches);
    mem_free(w->out);
    mem_free(w->row_sums);
    mem_free(w->row_bad);
    *w = (workshop){0};
}

static nib_status workshop_open(workshop *w, const encode_job *job, size_t row_bytes, nib_error *err) {
    const tensor *t = job->item->t;
    *w = (workshop){.job = job, .rows = t->rows, .cols = t->cols, .row_bytes = row_bytes};
    w->pool = t->rows * t->cols >= WORTH_WAKING ? job->pool : NULL;
    w->threads = pool_threads(w->pool);
    w->chunk_rows = t->cols < CHUNK_ELEMENTS ? CHUNK_ELEMENTS / (t->cols ? t->cols : 1) : 1;
    if (w->chunk_rows > t->rows)
        w->chunk_rows = t->rows;
    w->benches = mem_array((size_t)w->threads, sizeof *w->benches);
    w->out = mem_array(w->chunk_rows, row_bytes);
    w->row_sums = mem_array(w->chunk_rows, sizeof *w->row_sums);
    w->row_bad = mem_array(w->chunk_rows, sizeof *w->row_bad);
    bool whole = w->benches && w->out && w->row_sums && w->row_bad;
    for (int i = 0; whole && i < w->threads; i++) {
        bench *b = &w->benches[i];
        b->x = mem_array(t->cols, sizeof *b->x);
        b->back = mem_array(t->cols, sizeof *b->back);
        b->codes = mem_array(t->cols / 2 + 1, 1);
        b->scales = mem_array(t->cols / 16 + 1, 1);
        whole = b->x && b->back && b->codes && b->scales;
    }
    if (whole)
        return NIB_OK;
    workshop_close(w);
    return nib_fail(err, NIB_NO_MEMORY, "%s: no memory to convert %s", job->where, QUOTEZ(t->name));
}

/* ---- measuring ---- */

static bool row_is_f16(const float *x, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (f16_to_f32(f16_from_f32(x[i])) != x[i])
            return false;
    return true;
}

static void measure_row(const float *x, size_t n, measure *m) {
    float amax = 0;
    bool bf16 = true, finite = true;
    for (size_t i = 0; i < n; i++) {
        float a = fabsf(x[i]);
        amax = a > amax ? a : amax;
        finite &= a <= FLT_MAX; /* false for NaN */
        bf16 &= (f32_bits(x[i]) & 0xffffu) == 0;
    }
    m->amax = amax > m->amax ? amax : m->amax;
    m->bf16 &= bf16;
    m->f16 = m->f16 && row_is_f16(x, n);
    m->finite &= finite;
}

static void measure_rows(void *arg, int thread, size_t begin, size_t end) {
    const workshop *w = arg;
    bench *b = &w->benches[thread];
    for (size_t r = begin; r < end; r++) {
        read_row(w->job->item, r, b->x);
        measure_row(b->x, w->cols, &b->seen);
    }
}

static measure measure_all(workshop *w) {
    measure all = {0, true, true, true};
    for (int i = 0; i < w->threads; i++)
        w->benches[i].seen = all;
    pool_for(w->pool, w->rows, GRAIN, measure_rows, w);
    for (int i = 0; i < w->threads; i++) {
        const measure *one = &w->benches[i].seen;
        all.amax = one->amax > all.amax ? one->amax : all.amax;
        all.bf16 &= one->bf16;
        all.f16 &= one->f16;
        all.finite &= one->finite;
    }
    return all;
}

nib_status encode_measure(const encode_job *job, float *amax, dtype *exact, nib_error *err) {
    workshop w;
    NIB_TRY(stop_check(job->interrupted, err));
    NIB_TRY(workshop_open(&w, job, 1, err));
    measure m = measure_all(&w);
    workshop_close(&w);
    if (!m.finite && job->item->action == ENCODE_QUANTIZE)
        return nib_fail(err, NIB_BAD_FILE, "%s: tensor %s holds a NaN or an infinity", job->where,
                        QUOTEZ(job->item->t->name));
    *amax = m.amax;
    *exact = m.bf16 ? DT_BF16 : m.f16 ? DT_F16 : DT_F32;
    report(job, (uint64_t)job->item->t->rows * job->item->t->cols);
    mapfile_forget(job->item->t->data, job->item->t->bytes);
    return NIB_OK;
}

/* ---- encoding ---- */

/* Codes and scales of row R of the source, moved into the Hugging Face layout of one row. */
static bool unpack_fp4(const tensor *t, size_t row, uint8_t *codes, uint8_t *scales) {
    size_t bytes = 0;
    bool ok = dtype_bytes(t->dtype, t->cols, &bytes);
    const uint8_t *p = (const uint8_t *)t->data + row * bytes;
    if (t->dtype == DT_NVFP4 || t->dtype == DT_MXFP4) {
        size_t n = t->cols / (t->dtype == DT_NVFP4 ? 16 : 32);
        memcpy(codes, p, bytes);
        memcpy(scales, t->block_scales + row * n, n);
    }
    if (t->dtype == DT_GGUF_NVFP4)
        for (size_t b = 0; b < t->cols / 64; b++)
            ok &= nvfp4_from_gguf(p + 36 * b, codes + 32 * b, scales + 4 * b);
    if (t->dtype == DT_GGUF_MXFP4)
        for (size_t b = 0; b < t->cols / 32; b++)
            ok &= mxfp4_from_gguf(p + 17 * b, codes + 16 * b, scales + b);
    return ok;
}

/* A row in the Hugging Face layout to the output's. */
static bool pack_fp4(dtype to, size_t cols, const bench *b, unsigned char *out, uint8_t *scales) {
    bool ok = true;
    switch (to) {
    case DT_NVFP4:
    case DT_MXFP4:
        memcpy(out, b->codes, cols / 2);
        memcpy(scales, b->scales, cols / (to == DT_NVFP4 ? 16 : 32));
        return true;
    case DT_GGUF_NVFP4:
        for (size_t i = 0; i < cols / 64; i++)
            ok &= nvfp4_to_gguf(b->codes + 32 * i, b->scales + 4 * i, out + 36 * i);
        return ok;
    case DT_GGUF_MXFP4:
        for (size_t i = 0; i < cols / 32; i++)
            ok &= mxfp4_to_gguf(b->codes + 16 * i, b->scales[i], out + 17 * i);
        return ok;
    default:
        assert(!"no FP4 format");
        return false;
    }
}

/* What a reader will make of a row in the Hugging Face layout. */
static void decode_fp4(bool mx, size_t cols, float tensor_scale, bench *b) {
    size_t block = mx ? 32 : 16;
    dtype_decode(mx ? DT_MXFP4 : DT_NVFP4, b->codes, b->back, cols);
    for (size_t i = 0; i < cols; i++)
        b->back[i] = b->back[i] *
                     (mx ? e8m0_to_f32(b->scales[i / block]) : e4m3_to_f32(b->scales[i / block])) *
                     tensor_scale;
}

static void cast_row(dtype to, const float *x, size_t n, unsigned char *out) {
    uint16_t *halves = (uint16_t *)(void *)out;
    if (to == DT_F32)
        memcpy(out, x, n * sizeof *x);
    for (size_t i = 0; i < n && to == DT_BF16; i++)
        halves[i] = bf16_from_f32(x[i]);
    for (size_t i = 0; i < n && to == DT_F16; i++)
        halves[i] = f16_from_f32(x[i]);
}

/* ROW: of the source. */
static bool quantize_row(const workshop *w, bench *b, size_t row, unsigned char *out, uint8_t *scales) {
    const encode_item *item = w->job->item;
    const scale_search *s = &item->search;
    switch (item->to) {
    case DT_NVFP4:
    case DT_GGUF_NVFP4:
        if (item->codes) {
            memcpy(b->codes, item->codes + row * (w->cols / 2), w->cols / 2);
            memcpy(b->scales, item->scales + row * (w->cols / 16), w->cols / 16);
        } else {
            scale_search_nvfp4_row(s, b->x, w->cols, b->codes, b->scales);
        }
        decode_fp4(false, w->cols, s->tensor_scale, b);
        return pack_fp4(item->to, w->cols, b, out, scales);
    case DT_MXFP4:
    case DT_GGUF_MXFP4:
        scale_search_mxfp4_row(s, b->x, w->cols, b->codes, b->scales);
        decode_fp4(true, w->cols, 1.0f, b);
        return pack_fp4(item->to, w->cols, b, out, scales);
    case DT_Q5_0:
        if (item->codes)
            memcpy(out, item->codes + row * w->row_bytes, w->row_bytes);
        else
            q5_search_row(item->weights, b->x, w->cols / Q5_BLOCK, out);
        dtype_decode(DT_Q5_0, out, b->back, w->cols);
        return true;
    case DT_Q8_0:
        gguf_blocks_encode_q8_0(b->x, out, w->cols / 32);
        dtype_decode(DT_Q8_0, out, b->back, w->cols);
        return true;
    case DT_F8_E4M3:
        for (size_t i = 0; i < w->cols; i++) {
            out[i] = e4m3_from_f32_sat(b->x[i] / s->tensor_scale);
            b->back[i] = e4m3_to_f32(out[i]) * s->tensor_scale;
        }
        return true;
    default:
        cast_row(item->to, b->x, w->cols, out);
        dtype_decode(item->to, out, b->back, w->cols);
        return true;
    }
}

static encode_error row_error(const encode_item *item, const float *x, const float *back, size_t n) {
    encode_error e = {0};
    for (size_t i = 0; i < n; i++) {
        double d = (double)x[i] - (double)back[i];
        e.norm += (double)x[i] * (double)x[i];
        e.error += d * d;
        e.changed += d != 0;
        if (item->weights) {
            e.weighted_norm += (double)item->weights[i] * (double)x[i] * (double)x[i];
            e.weighted_error += (double)item->weights[i] * d * d;
        }
    }
    return e;
}

/* One row of the output; false when a block's scale has no place in it. */
static bool encode_row(const workshop *w, bench *b, size_t r, unsigned char *out, uint8_t *scales,
                       encode_error *sums) {
    const encode_item *item = w->job->item;
    const tensor *t = item->t;
    size_t from = source_row(item, r);
    if (item->action == ENCODE_REPACK && (dtype_is_nvfp4(t->dtype) || dtype_is_mxfp4(t->dtype)))
        return unpack_fp4(t, from, b->codes, b->scales) && pack_fp4(item->to, w->cols, b, out, scales);
    if (item->action == ENCODE_REPACK) { /* FP8, or a block format beside a scale: the bytes stay */
        memcpy(out, (const unsigned char *)t->data + from * w->row_bytes, w->row_bytes);
        return true;
    }
    read_row(item, r, b->x);
    if (item->action == ENCODE_CAST) {
        cast_row(item->to, b->x, w->cols, out);
        return true;
    }
    if (!quantize_row(w, b, from, out, scales))
        return false;
    if (item->branch.rank)
        tensor_branch_add(&item->branch, w->cols, from, b->back);
    *sums = row_error(item, b->x, b->back, w->cols);
    return true;
}

/* Rows of a chunk. */
typedef struct chunk {
    workshop *w;
    size_t first, scale_cols;
    uint8_t *scales;
} chunk;

static void encode_rows(void *arg, int thread, size_t begin, size_t end) {
    const chunk *c = arg;
    workshop *w = c->w;
    for (size_t i = begin; i < end; i++) {
        w->row_sums[i] = (encode_error){0};
        w->row_bad[i] =
            !encode_row(w, &w->benches[thread], c->first + i, w->out + i * w->row_bytes,
                        c->scales ? c->scales + (c->first + i) * c->scale_cols : NULL, &w->row_sums[i]);
    }
}

static nib_status encode_chunk(workshop *w, size_t first, size_t n, uint8_t *scales, encode_error *sums,
                               nib_error *err) {
    const encode_item *item = w->job->item;
    chunk c = {.w = w, .first = first, .scales = scales};
    c.scale_cols = item->to == DT_NVFP4 ? w->cols / 16 : item->to == DT_MXFP4 ? w->cols / 32 : 0;
    pool_for(n * w->cols >= WORTH_WAKING ? w->pool : NULL, n, GRAIN, encode_rows, &c);
    for (size_t i = 0; i < n; i++) {
        if (w->row_bad[i])
            return nib_fail(err, NIB_BAD_FILE, "%s: row %zu of tensor %s has a block scale that is no number",
                            w->job->where, first + i, QUOTEZ(item->t->name));
        sums->norm += w->row_sums[i].norm;
        sums->error += w->row_sums[i].error;
        sums->changed += w->row_sums[i].changed;
        sums->weighted_norm += w->row_sums[i].weighted_norm;
        sums->weighted_error += w->row_sums[i].weighted_error;
    }
    return NIB_OK;
}

/* The tensor as it lies in the source. */
static nib_status copy_bytes(const encode_job *job, encode_sink sink, nib_error *err) {
    const tensor *t = job->item->t;
    const unsigned char *p = t->data;
    const size_t piece = (size_t)16 << 20;
    for (size_t done = 0; done < t->bytes; done += piece) {
        size_t n = t->bytes - done < piece ? t->bytes - done : piece;
        NIB_TRY(stop_check(job->interrupted, err));
        NIB_TRY(sink.write(sink.context, p + done, n, err));
        mapfile_forget(p + done, n);
    }
    report(job, (uint64_t)t->rows * t->cols);
    return NIB_OK;
}

static nib_status encode_rows_of(const encode_job *job, encode_sink sink, uint8_t *scales, encode_error *sums,
                                 nib_error *err) {
    const tensor *t = job->item->t;
    size_t row_bytes;
    workshop w;
    bool whole = dtype_bytes(job->item->to, t->cols, &row_bytes);
    assert(whole);
    (void)whole;
    NIB_TRY(workshop_open(&w, job, row_bytes, err));
    nib_status status = NIB_OK;
    for (size_t r = 0; r < t->rows && status == NIB_OK; r += w.chunk_rows) {
        size_t n = t->rows - r < w.chunk_rows ? t->rows - r : w.chunk_rows;
        status = stop_check(job->interrupted, err);
        if (status == NIB_OK)
            status = encode_chunk(&w, r, n, scales, sums, err);
        if (status == NIB_OK)
            status = sink.write(sink.context, w.out, n * row_bytes, err);
        report(job, (uint64_t)n * w.cols);
    }
    workshop_close(&w);
    mapfile_forget(t->data, t->bytes);
    return status;
}

/* ---- codes by blocks of second moments ---- */

/* By all rows of the source at once; then they are encoded as codes that somebody else has chosen. */
static nib_status encode_by_blocks(const encode_job *job, encode_sink sink, uint8_t *scales,
                                   encode_error *sums, nib_error *err) {
    const encode_item *item = job->item;
    const tensor *t = item->t;
    const gptq_grid grid = item->to == DT_Q5_0 ? GPTQ_Q5_0 : GPTQ_NVFP4;
    const gptq_rows rows = {.t = t, .stride = 1, .n = t->rows};
    uint8_t *codes = mem_array(t->rows, gptq_code_bytes(grid, t->cols));
    uint8_t *code_scales = mem_array(t->rows, gptq_scale_bytes(grid, t->cols) + 1);
    const gptq_codes out = {{item->search.tensor_scale, item->search.fp8_exact, grid}, codes, code_scales};
    gptq_factor f = {0};
    nib_status status =
        codes && code_scales
            ? gptq_factor_of_blocks(&f, item->blocks, t->cols, gptq_blocks_of(grid), GPTQ_LOCAL_SHRINK, err)
            : nib_fail(err, NIB_NO_MEMORY, "%s: no memory to convert %s", job->where, QUOTEZ(t->name));
    if (status == NIB_OK)
        status = gptq_quantize(&rows, &f, out, job->pool, err);
    encode_item chosen = *item;
    encode_job with = *job;
    chosen.codes = codes;
    chosen.scales = code_scales;
    with.item = &chosen;
    if (status == NIB_OK)
        status = encode_rows_of(&with, sink, scales, sums, err);
    gptq_factor_free(&f);
    mem_free(codes);
    mem_free(code_scales);
    return status;
}

nib_status encode_run(const encode_job *job, encode_sink sink, uint8_t *scales, encode_error *sums,
                      nib_error *err) {
    const encode_item *item = job->item;
    *sums = (encode_error){0};
    if (item->action == ENCODE_CARRY)
        return copy_bytes(job, sink, err);
    NIB_TRY(stop_check(job->interrupted, err));
    return item->action == ENCODE_QUANTIZE && item->blocks && !item->codes
               ? encode_by_blocks(job, sink, scales, sums, err)
               : encode_rows_of(job, sink, scales, sums, err);
}
