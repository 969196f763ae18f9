/* SPDX-License-Identifier: Apache-2.0
 *
 * Rows are shared out to threads; counts are added up per thread and errors row by row, so that the result
 * does not depend on how many there are.
 */
#include "eval/survey.h"

#include <stdlib.h>
#include <string.h>

#include "base/cores.h"
#include "base/mem.h"
#include "base/pool.h"
#include "base/quote.h"
#include "nouns/family.h"
#include "num/mxfp4.h"
#include "num/nvfp4.h"

typedef struct counts {
    uint64_t scales[256], codes[16];
    float *row, *from;        /* [cols] */
    uint8_t *packed, *blocks; /* codes [cols / 2], scales [cols / 16] of a row */
} counts;

typedef struct surveying {
    survey *out;
    const model_file *file, *source;
    pool *pool;
    const survey_matrix *m;
    const tensor *of; /* the source's matrix, or NULL */
    size_t row_bytes;
    counts *counts;    /* [threads] */
    double (*sums)[2]; /* [rows] norm, error */
} surveying;

static bool is_matrix(const tensor *t) {
    return t->place.slot != SLOT_NONE && t->n_dims == 2 && t->rows > 1 && dtype_get(t->dtype)->is_weight;
}

/* ---- rows ---- */

/* Codes and scales of a row in the layout of a directory; how many scales there are. */
static size_t unpack(const surveying *s, size_t r, counts *c) {
    const tensor *t = s->m->t;
    const uint8_t *p = (const uint8_t *)t->data + r * s->row_bytes;
    const size_t n = t->cols / (s->m->mx ? MXFP4_BLOCK : NVFP4_BLOCK);
    if (t->dtype == DT_GGUF_NVFP4)
        for (size_t b = 0; b < t->cols / 64; b++)
            nvfp4_from_gguf(p + 36 * b, c->packed + 32 * b, c->blocks + 4 * b);
    else if (t->dtype == DT_GGUF_MXFP4)
        for (size_t b = 0; b < n; b++)
            mxfp4_from_gguf(p + 17 * b, c->packed + 16 * b, c->blocks + b);
    else {
        memcpy(c->packed, p, t->cols / 2);
        memcpy(c->blocks, t->block_scales + r * n, n);
    }
    return n;
}

static void count_row(const surveying *s, size_t r, counts *c) {
    const size_t n = unpack(s, r, c);
    for (size_t i = 0; i < n; i++)
        c->scales[c->blocks[i]]++;
    for (size_t i = 0; i < s->m->t->cols / 2; i++) {
        c->codes[c->packed[i] & 15]++;
        c->codes[c->packed[i] >> 4]++;
    }
}

static void survey_rows(void *arg, int thread, size_t begin, size_t end) {
    const surveying *s = arg;
    counts *c = &s->counts[thread];
    const size_t cols = s->m->t->cols;
    for (size_t r = begin; r < end; r++) {
        if (s->m->fp4)
            count_row(s, r, c);
        if (!s->of)
            continue;
        double *sums = s->sums[r];
        tensor_decode_row(s->m->t, r, c->row);
        tensor_decode_row(s->of, row_order_find(s->m->order, s->m->t->rows, r), c->from);
        sums[0] = sums[1] = 0;
        for (size_t i = 0; i < cols; i++) {
            const double w = c->from[i], d = (double)c->row[i] - w;
            sums[0] += w * w;
            sums[1] += d * d;
        }
    }
}

/* ---- matrices ---- */

static nib_status find_source(surveying *s, row_order *order, nib_error *err) {
    const tensor *t = s->m->t;
    const hparams *hp = &s->file->hp;
    s->of = s->source ? model_file_find(s->source, t->place) : NULL;
    if (s->source && !s->of && t->place.slot == SLOT_HEAD) /* it was tied */
        s->of = model_file_find(s->source, place_of(SLOT_EMBED, PLACE_NO_LAYER));
    *order = (row_order){.pairs = s->file->format == FORMAT_GGUF};
    if (!s->of)
        return NIB_OK;
    if (s->of->rows != t->rows || s->of->cols != t->cols || !dtype_get(s->of->dtype)->is_weight)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "%s: tensor %s is [%zu, %zu], and %s of %s [%zu, %zu]; expected its source",
                        s->file->path, QUOTEZ(t->name), t->rows, t->cols, QUOTEZ(s->of->name),
                        s->source->path, s->of->rows, s->of->cols);
    const bool query = t->place.slot == SLOT_Q || t->place.slot == SLOT_K;
    const bool other = (s->file->format == FORMAT_GGUF) != (s->source->format == FORMAT_GGUF);
    if (query && other && !s->file->has_network) /* in which order their rows are is not known */
        s->of = NULL;
    const bool swapped = other && s->file->has_network && family_get(hp->family)->gguf_interleaved;
    if (swapped && t->place.slot == SLOT_Q)
        order->heads = (size_t)hp->n_heads;
    if (swapped && t->place.slot == SLOT_K)
        order->heads = (size_t)hp->n_kv_heads;
    return NIB_OK;
}

static void free_counts(surveying *s) {
    for (int i = 0; s->counts && i < pool_threads(s->pool); i++) {
        mem_free(s->counts[i].row);
        mem_free(s->counts[i].from);
        mem_free(s->counts[i].packed);
        mem_free(s->counts[i].blocks);
    }
    mem_free(s->counts);
    mem_free(s->sums);
    s->counts = NULL;
    s->sums = NULL;
}

static bool new_counts(surveying *s, size_t rows, size_t cols) {
    bool ok = (s->counts = mem_array((size_t)pool_threads(s->pool), sizeof *s->counts)) &&
              (s->sums = mem_array(rows, sizeof *s->sums));
    for (int i = 0; ok && i < pool_threads(s->pool); i++) {
        counts *c = &s->counts[i];
        ok = (c->row = mem_array(cols, sizeof *c->row)) && (c->from = mem_array(cols, sizeof *c->from)) &&
             (c->packed = mem_array(cols / 2 + 1, 1)) && (c->blocks = mem_array(cols / 16 + 1, 1));
    }
    return ok;
}

static nib_status survey_one(surveying *s, survey_matrix *m, nib_error *err) {
    const tensor *t = m->t;
    const bool whole = dtype_bytes(t->dtype, t->cols, &s->row_bytes);
    s->m = m;
    NIB_TRY(find_source(s, &m->order, err));
    m->fp4 = whole && (dtype_is_nvfp4(t->dtype) || dtype_is_mxfp4(t->dtype));
    m->mx = dtype_is_mxfp4(t->dtype);
    m->of = s->of;
    if (!m->fp4 && !s->of)
        return NIB_OK;
    if (!new_counts(s, t->rows, t->cols)) {
        free_counts(s);
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for tensor %s", s->file->path, QUOTEZ(t->name));
    }
    pool_for(s->pool, t->rows, 8, survey_rows, s);
    for (int i = 0; i < pool_threads(s->pool); i++) {
        for (int k = 0; k < 256; k++)
            m->scales[k] += s->counts[i].scales[k];
        for (int k = 0; k < 16; k++)
            m->codes[k] += s->counts[i].codes[k];
    }
    for (size_t r = 0; s->of && r < t->rows; r++) {
        m->norm += s->sums[r][0];
        m->error += s->sums[r][1];
    }
    free_counts(s);
    return NIB_OK;
}

static nib_status survey_all(surveying *s, const survey_options *o, nib_error *err) {
    for (size_t i = 0; i < s->out->n; i++) {
        if (progress_stopped(&o->progress))
            return nib_fail(err, NIB_CANCELLED, "interrupted");
        NIB_TRY(survey_one(s, &s->out->matrices[i], err));
        progress_report(&o->progress, "reading tensors", i + 1, s->out->n);
    }
    return NIB_OK;
}

static int by_place(const void *a, const void *b) {
    const tensor *x = ((const survey_matrix *)a)->t, *y = ((const survey_matrix *)b)->t;
    if (x->place.layer != y->place.layer)
        return x->place.layer < y->place.layer ? -1 : 1;
    if (x->place.slot != y->place.slot)
        return x->place.slot < y->place.slot ? -1 : 1;
    return x < y ? -1 : x > y; /* experts: the file's order */
}

nib_status survey_make(survey *out, const model_file *file, const survey_options *options, nib_error *err) {
    surveying s = {.out = out, .file = file, .source = options->source};
    *out = (survey){.matrices = mem_array(file->n_tensors + 1, sizeof *out->matrices)};
    if (!out->matrices)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for %zu tensors", file->path, file->n_tensors);
    for (size_t i = 0; i < file->n_tensors; i++)
        if (is_matrix(&file->tensors[i]))
            out->matrices[out->n++] =
                (survey_matrix){.t = &file->tensors[i],
                                .elements = (uint64_t)file->tensors[i].rows * file->tensors[i].cols,
                                .bytes = tensor_total_bytes(&file->tensors[i])};
    qsort(out->matrices, out->n, sizeof *out->matrices, by_place);
    nib_status status = pool_new(&s.pool, options->threads > 0 ? options->threads : cores_physical(), err);
    if (status == NIB_OK)
        status = survey_all(&s, options, err);
    pool_free(s.pool);
    if (status != NIB_OK)
        survey_free(out);
    return status;
}

void survey_free(survey *s) {
    mem_free(s->matrices);
    *s = (survey){0};
}
