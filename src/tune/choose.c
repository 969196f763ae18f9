/* SPDX-License-Identifier: Apache-2.0
 *
 * The strength of the shrinking is found on a part of the rows, since all rows of the matrices share H; what
 * is compared in the end is compared on all of them. See choose.h.
 */
#include "tune/choose.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "quant/gptq.h"
#include "quant/scale_search.h"

#define SAMPLE_ROWS 96 /* of a matrix, at least: about so many are looked at to find the strength */
#define SAMPLE_PART 8
#define PASSES      2 /* of descent after GPTQ; a third gains less than 1 % of the error */

static const double strengths[CHOOSE_STRENGTHS] = {0.02, 0.08, 0.2, 0.4, 0.65, 1};

/* Room for one matrix's codes. */
typedef struct room {
    uint8_t *codes, *scales;
} room;

static nib_status room_open(room *r, const tensor *t, nib_error *err) {
    *r = (room){mem_array(t->rows, t->cols / 2), mem_array(t->rows, t->cols / 16)};
    return r->codes && r->scales
               ? NIB_OK
               : nib_fail(err, NIB_NO_MEMORY, "no memory for the codes of a matrix [%zu, %zu]", t->rows,
                          t->cols);
}

static void room_close(room *r) {
    mem_free(r->codes);
    mem_free(r->scales);
}

static gptq_rows all_rows(const tensor *t) {
    return (gptq_rows){.t = t, .stride = 1, .n = t->rows};
}

static gptq_rows sample_rows(const tensor *t) {
    size_t n = t->rows / SAMPLE_PART > SAMPLE_ROWS ? t->rows / SAMPLE_PART : SAMPLE_ROWS;
    size_t stride = t->rows > n ? t->rows / n : 1;
    return (gptq_rows){.t = t, .stride = stride, .n = (t->rows + stride - 1) / stride};
}

static gptq_scales scales_of(const tune_matrix *m) {
    return (gptq_scales){m->tensor_scale, m->fp8_exact};
}

static nib_status check_interrupt(const choose_job *job, nib_error *err) {
    return job->interrupted && *job->interrupted ? nib_fail(err, NIB_CANCELLED, "interrupted") : NIB_OK;
}

static nib_status held_out_error(const choose_job *job, const tune_matrix *m, gptq_rows rows,
                                 const uint8_t *codes, const uint8_t *scales, double *out, nib_error *err) {
    return gptq_error(&rows, job->held_out, m->tensor_scale, codes, scales, job->pool, out, err);
}

/* ---- the sweep, which nothing may be worse than ---- */

typedef struct sweeping {
    const scale_search *search;
    gptq_rows rows;
    const room *out;
    float *x; /* [threads, cols] */
} sweeping;

static void sweep_rows(void *arg, int thread, size_t begin, size_t end) {
    const sweeping *s = arg;
    size_t cols = s->rows.t->cols;
    float *x = s->x + (size_t)thread * cols;
    for (size_t i = begin; i < end; i++) {
        tensor_decode_row(s->rows.t, s->rows.first + i * s->rows.stride, x);
        scale_search_nvfp4_row(s->search, x, cols, s->out->codes + i * (cols / 2),
                               s->out->scales + i * (cols / 16));
    }
}

static nib_status sweep(const choose_job *job, const tune_matrix *m, gptq_rows rows, const room *r,
                        nib_error *err) {
    scale_search search = {.method = QM_SWEEP, .tensor_scale = m->tensor_scale, .fp8_exact = m->fp8_exact};
    sweeping s = {&search, rows, r, mem_array((size_t)pool_threads(job->pool), m->t->cols * sizeof(float))};
    if (!s.x)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for rows of %zu columns", m->t->cols);
    pool_for(job->pool, rows.n, 8, sweep_rows, &s);
    mem_free(s.x);
    return NIB_OK;
}

/* ---- by all of H ---- */

static nib_status quantize_full(const choose_job *job, const tune_matrix *m, gptq_rows rows,
                                const gptq_factor *f, double shrink, uint8_t *codes, uint8_t *scales,
                                nib_error *err) {
    gptq_moments moments = {job->h, m->t->cols, shrink};
    NIB_TRY(gptq_quantize(&rows, f, scales_of(m), codes, scales, job->pool, err));
    if (f->reach == GPTQ_BLOCKS)
        return NIB_OK;
    return gptq_refine(&rows, moments, scales_of(m), PASSES, codes, scales, job->pool, err);
}

/* ---- the strength ---- */

/* What matrix I loses on held-out inputs, as a share of what the sweep loses, on a sample of its rows. */
static nib_status sample_loss(const choose_job *job, const gptq_factor *f, double shrink, const double *base,
                              double *sum, nib_error *err) {
    *sum = 0;
    for (size_t i = 0; i < job->n; i++) {
        const tune_matrix *m = job->matrices[i];
        gptq_rows rows = sample_rows(m->t);
        double error = 0;
        NIB_TRY(quantize_full(job, m, rows, f, shrink, job->codes[i], job->scales[i], err));
        NIB_TRY(held_out_error(job, m, rows, job->codes[i], job->scales[i], &error, err));
        *sum += base[i] > 0 ? error / base[i] : 0;
    }
    return NIB_OK;
}

/* BEST: the factor of the strength with the least loss so far, *job->strength. */
static nib_status try_strength(const choose_job *job, int k, const double *base, double *least,
                               gptq_factor *best, nib_error *err) {
    gptq_factor f;
    double loss;
    NIB_TRY(check_interrupt(job, err));
    NIB_TRY(gptq_factor_make(&f, job->h, job->matrices[0]->t->cols, GPTQ_FULL, strengths[k], job->pool, err));
    nib_status status = sample_loss(job, &f, strengths[k], base, &loss, err);
    if (status == NIB_OK && !(loss < *least)) {
        gptq_factor_free(&f);
        return NIB_OK;
    }
    gptq_factor_free(best);
    *best = f;
    *least = loss;
    *job->strength = k;
    return status;
}

/* Downhill from where the last layer's was: the loss has one valley. */
static nib_status find_strength(const choose_job *job, const double *base, gptq_factor *best,
                                nib_error *err) {
    double least = INFINITY;
    int from = *job->strength;
    NIB_TRY(try_strength(job, from, base, &least, best, err));
    for (int direction = -1; direction <= 1; direction += 2)
        for (int k = from + direction; *job->strength == k - direction && k >= 0 && k < CHOOSE_STRENGTHS;
             k += direction)
            NIB_TRY(try_strength(job, k, base, &least, best, err));
    return NIB_OK;
}

/* ---- all of it ---- */

/* Matrix I one way more: kept when it loses less than what is there. */
static nib_status try_way(const choose_job *job, size_t i, const room *r, tune_way way, double shrink,
                          nib_error *err) {
    tune_matrix *m = job->matrices[i];
    double error;
    NIB_TRY(held_out_error(job, m, all_rows(m->t), r->codes, r->scales, &error, err));
    if (way != TUNE_WAY_SWEEP && !(error < m->error))
        return NIB_OK;
    m->error = error;
    m->way = way;
    m->shrink = shrink;
    if (way == TUNE_WAY_SWEEP)
        m->sweep_error = error;
    memcpy(job->codes[i], r->codes, m->t->rows * (m->t->cols / 2));
    memcpy(job->scales[i], r->scales, m->t->rows * (m->t->cols / 16));
    return NIB_OK;
}

/* Every matrix by F; the first way of a method that has one replaces the sweep whatever it loses. */
static nib_status try_factor(const choose_job *job, const gptq_factor *f, tune_way way, double shrink,
                             nib_error *err) {
    nib_status status = NIB_OK;
    for (size_t i = 0; i < job->n && status == NIB_OK; i++) {
        tune_matrix *m = job->matrices[i];
        gptq_rows rows = all_rows(m->t);
        room r;
        status = check_interrupt(job, err);
        if (status == NIB_OK)
            status = room_open(&r, m->t, err);
        if (status != NIB_OK)
            break;
        status = quantize_full(job, m, rows, f, shrink, r.codes, r.scales, err);
        if (job->method != TUNE_BEST)
            m->error = INFINITY;
        if (status == NIB_OK)
            status = try_way(job, i, &r, way, shrink, err);
        room_close(&r);
    }
    return status;
}

static nib_status try_blocks(const choose_job *job, tune_way way, double shrink, nib_error *err) {
    gptq_factor f;
    NIB_TRY(gptq_factor_make(&f, job->h, job->matrices[0]->t->cols, GPTQ_BLOCKS, shrink, job->pool, err));
    nib_status status = try_factor(job, &f, way, shrink, err);
    gptq_factor_free(&f);
    return status;
}

/* By all of H, shrunk by as much as helps. */
static nib_status try_full(const choose_job *job, const double *base, nib_error *err) {
    gptq_factor best = {0};
    nib_status status = find_strength(job, base, &best, err);
    if (status == NIB_OK)
        status = try_factor(job, &best, TUNE_WAY_FULL, strengths[*job->strength], err);
    gptq_factor_free(&best);
    return status;
}

/* BASE [n]: what the sweep loses on the sample. */
static nib_status sweep_samples(const choose_job *job, double *base, nib_error *err) {
    for (size_t i = 0; i < job->n; i++) {
        tune_matrix *m = job->matrices[i];
        gptq_rows sample = sample_rows(m->t);
        room r;
        nib_status status = room_open(&r, m->t, err);
        if (status == NIB_OK)
            status = sweep(job, m, sample, &r, err);
        if (status == NIB_OK)
            status = held_out_error(job, m, sample, r.codes, r.scales, &base[i], err);
        room_close(&r);
        NIB_TRY(status);
    }
    return NIB_OK;
}

/* Every matrix by the sweep, to begin with. */
static nib_status keep_sweep(const choose_job *job, nib_error *err) {
    for (size_t i = 0; i < job->n; i++) {
        tune_matrix *m = job->matrices[i];
        room r;
        nib_status status = room_open(&r, m->t, err);
        if (status == NIB_OK)
            status = sweep(job, m, all_rows(m->t), &r, err);
        if (status == NIB_OK)
            status = try_way(job, i, &r, TUNE_WAY_SWEEP, 0, err);
        room_close(&r);
        NIB_TRY(status);
    }
    return NIB_OK;
}

static nib_status choose_by(const choose_job *job, double *base, nib_error *err) {
    bool full = job->method != TUNE_LOCAL;
    if (full)
        NIB_TRY(sweep_samples(job, base, err));
    NIB_TRY(keep_sweep(job, err));
    if (full)
        NIB_TRY(try_full(job, base, err));
    if (job->method != TUNE_GPTQ)
        NIB_TRY(try_blocks(job, TUNE_WAY_BLOCKS, 0.05, err));
    if (job->method == TUNE_BEST && strengths[*job->strength] < 1)
        NIB_TRY(try_blocks(job, TUNE_WAY_DIAGONAL, 1, err));
    return NIB_OK;
}

nib_status choose_codes(const choose_job *job, nib_error *err) {
    double *base = mem_array(job->n, sizeof *base);
    if (!base)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for %zu matrices", job->n);
    nib_status status = choose_by(job, base, err);
    mem_free(base);
    return status;
}
