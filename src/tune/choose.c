/* SPDX-License-Identifier: Apache-2.0
 *
 * The strength of the shrinking is found on a part of the rows, since all rows of the matrices share H; what
 * is compared in the end is compared on all of them. See choose.h.
 */
#include "tune/choose.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/stop.h"
#include "quant/gptq.h"
#include "quant/q5_search.h"
#include "quant/scale_search.h"

#define SAMPLE_ROWS 96 /* of a matrix, at least: about so many are looked at to find the strength */
#define SAMPLE_PART 8
#define PASSES      2 /* of descent after GPTQ; a third gains less than 1 % of the error */

static const double strengths[CHOOSE_STRENGTHS] = {0.02, 0.08, 0.2, 0.4, 0.65, 1};
static const double shares[] = {0, 0.5, 1}; /* of the way to what makes good what was lost before */
enum { N_SHARES = sizeof shares / sizeof *shares };

/* Room for one matrix's codes. */
typedef struct room {
    uint8_t *codes, *scales;
} room;

static nib_status room_open(room *r, const tune_matrix *m, nib_error *err) {
    const tensor *t = m->t;
    *r = (room){mem_array(t->rows, gptq_code_bytes(m->grid, t->cols)),
                mem_array(t->rows, gptq_scale_bytes(m->grid, t->cols) + 1)};
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

static gptq_codes codes_of(const tune_matrix *m, uint8_t *codes, uint8_t *scales) {
    return (gptq_codes){{m->tensor_scale, m->fp8_exact, m->grid}, codes, scales};
}

static nib_status held_out_error(const choose_job *job, const tune_matrix *m, gptq_rows rows, uint8_t *codes,
                                 uint8_t *scales, double *out, nib_error *err) {
    const gptq_pull *pull = job->held_out->pulls ? &job->held_out->pull : NULL;
    rows.aims = NULL;
    return gptq_error(&rows, job->held_out->h.h, pull, codes_of(m, codes, scales), job->pool, out, err);
}

/* ---- the sweep, which nothing may be worse than ---- */

typedef struct sweeping {
    const scale_search *search;
    gptq_rows rows;
    gptq_codes out;
    float *x; /* [threads, cols] */
} sweeping;

static void sweep_rows(void *arg, int thread, size_t begin, size_t end) {
    const sweeping *s = arg;
    size_t cols = s->rows.t->cols;
    float *x = s->x + (size_t)thread * cols;
    for (size_t i = begin; i < end; i++) {
        tensor_decode_row(s->rows.t, s->rows.first + i * s->rows.stride, x);
        uint8_t *codes = s->out.codes + i * gptq_code_bytes(s->out.by.grid, cols);
        if (s->out.by.grid == GPTQ_Q5_0)
            q5_search_row(NULL, x, cols / Q5_BLOCK, codes);
        else
            scale_search_nvfp4_row(s->search, x, cols, codes,
                                   s->out.scales + i * gptq_scale_bytes(GPTQ_NVFP4, cols));
    }
}

static nib_status sweep(const choose_job *job, const tune_matrix *m, gptq_rows rows, const room *r,
                        nib_error *err) {
    scale_search search = {.method = QM_SWEEP, .tensor_scale = m->tensor_scale, .fp8_exact = m->fp8_exact};
    sweeping s = {&search, rows, codes_of(m, r->codes, r->scales),
                  mem_array((size_t)pool_threads(job->pool), m->t->cols * sizeof(float))};
    if (!s.x)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for rows of %zu columns", m->t->cols);
    pool_for(job->pool, rows.n, 8, sweep_rows, &s);
    mem_free(s.x);
    return NIB_OK;
}

/* ---- by all of H ---- */

/* How the codes of a site's matrices are chosen by all of H. */
typedef struct full {
    gptq_factor f;
    double shrink, share;
} full;

static nib_status quantize_aimed(const choose_job *job, const tune_matrix *m, gptq_rows rows, const full *by,
                                 uint8_t *codes, uint8_t *scales, nib_error *err) {
    gptq_moments toward = {job->train->h.h, m->t->cols, by->shrink};
    const gptq_codes out = codes_of(m, codes, scales);
    NIB_TRY(gptq_quantize(&rows, &by->f, out, job->pool, err));
    return gptq_refine(&rows, toward, PASSES, out, job->pool, err);
}

static nib_status quantize_full(const choose_job *job, const tune_matrix *m, gptq_rows rows, const full *by,
                                uint8_t *codes, uint8_t *scales, nib_error *err) {
    float *aims = NULL;
    nib_status status = NIB_OK;
    if (by->share > 0) {
        aims = mem_array(rows.n, m->t->cols * sizeof *aims);
        status = aims ? gptq_aim(&rows, &by->f, &job->train->pull, by->share, aims, job->pool, err)
                      : nib_fail(err, NIB_NO_MEMORY, "no memory for a matrix [%zu, %zu]", rows.n, m->t->cols);
        rows.aims = aims;
    }
    if (status == NIB_OK)
        status = quantize_aimed(job, m, rows, by, codes, scales, err);
    mem_free(aims);
    return status;
}

/* ---- the strength and the share ---- */

/* What the matrices lose on held-out inputs, as shares of what the sweep loses, on a sample of their rows. */
static nib_status sample_loss(const choose_job *job, const full *by, const double *base, double *sum,
                              nib_error *err) {
    *sum = 0;
    for (size_t i = 0; i < job->n; i++) {
        const tune_matrix *m = job->matrices[i];
        gptq_rows rows = sample_rows(m->t);
        double error = 0;
        NIB_TRY(quantize_full(job, m, rows, by, job->codes[i], job->scales[i], err));
        NIB_TRY(held_out_error(job, m, rows, job->codes[i], job->scales[i], &error, err));
        *sum += base[i] > 0 ? error / base[i] : 0;
    }
    return NIB_OK;
}

/* BEST: the factor of the strength with the least loss so far, *job->strength. */
static nib_status try_strength(const choose_job *job, int k, const double *base, double *least, full *best,
                               nib_error *err) {
    full by = {.shrink = strengths[k]};
    double loss;
    NIB_TRY(stop_check(job->interrupted, err));
    NIB_TRY(gptq_factor_make(&by.f, job->train->h.h, job->matrices[0]->t->cols, GPTQ_FULL, strengths[k],
                             job->pool, err));
    nib_status status = sample_loss(job, &by, base, &loss, err);
    if (status == NIB_OK && !(loss < *least)) {
        gptq_factor_free(&by.f);
        return NIB_OK;
    }
    gptq_factor_free(&best->f);
    *best = by;
    *least = loss;
    *job->strength = k;
    return status;
}

/* Downhill from where the last layer's was: the loss has one valley. */
static nib_status find_strength(const choose_job *job, const double *base, double *least, full *best,
                                nib_error *err) {
    int from = *job->strength;
    *least = INFINITY;
    NIB_TRY(try_strength(job, from, base, least, best, err));
    for (int direction = -1; direction <= 1; direction += 2)
        for (int k = from + direction; *job->strength == k - direction && k >= 0 && k < CHOOSE_STRENGTHS;
             k += direction)
            NIB_TRY(try_strength(job, k, base, least, best, err));
    return NIB_OK;
}

static nib_status find_share(const choose_job *job, const double *base, double least, full *best,
                             nib_error *err) {
    for (int k = 1; k < N_SHARES && job->train->pulls; k++) {
        full by = {best->f, best->shrink, shares[k]};
        double loss;
        NIB_TRY(stop_check(job->interrupted, err));
        NIB_TRY(sample_loss(job, &by, base, &loss, err));
        if (!(loss < least))
            break;
        least = loss;
        best->share = by.share;
    }
    return NIB_OK;
}

/* ---- all of it ---- */

/* Matrix I one way more: kept when it loses less than what is there. */
static nib_status try_way(const choose_job *job, size_t i, const room *r, tune_way way, const full *by,
                          nib_error *err) {
    tune_matrix *m = job->matrices[i];
    double error;
    NIB_TRY(held_out_error(job, m, all_rows(m->t), r->codes, r->scales, &error, err));
    error += m->lost;
    if (way != TUNE_WAY_SWEEP && !(error < m->error))
        return NIB_OK;
    m->error = error;
    m->way = way;
    m->shrink = by ? by->shrink : 0;
    m->share = by ? by->share : 0;
    if (way == TUNE_WAY_SWEEP)
        m->sweep_error = error;
    memcpy(job->codes[i], r->codes, m->t->rows * gptq_code_bytes(m->grid, m->t->cols));
    memcpy(job->scales[i], r->scales, m->t->rows * gptq_scale_bytes(m->grid, m->t->cols));
    return NIB_OK;
}

/* Every matrix whose blocks the factor has by it; TUNE_GPTQ's one way replaces the sweep whatever it
 * loses. */
static nib_status try_factor(const choose_job *job, const full *by, tune_way way, nib_error *err) {
    nib_status status = NIB_OK;
    for (size_t i = 0; i < job->n && status == NIB_OK; i++) {
        tune_matrix *m = job->matrices[i];
        room r;
        if (by->f.reach != GPTQ_FULL && by->f.reach != gptq_blocks_of(m->grid))
            continue;
        status = stop_check(job->interrupted, err);
        if (status == NIB_OK)
            status = room_open(&r, m, err);
        if (status != NIB_OK)
            break;
        gptq_rows rows = all_rows(m->t);
        status = way == TUNE_WAY_FULL
                     ? quantize_full(job, m, rows, by, r.codes, r.scales, err)
                     : gptq_quantize(&rows, &by->f, codes_of(m, r.codes, r.scales), job->pool, err);
        if (job->method == TUNE_GPTQ)
            m->error = INFINITY;
        if (status == NIB_OK)
            status = try_way(job, i, &r, way, by, err);
        room_close(&r);
    }
    return status;
}

static nib_status try_blocks_of(const choose_job *job, gptq_reach reach, tune_way way, double shrink,
                                nib_error *err) {
    full by = {.shrink = shrink};
    NIB_TRY(
        gptq_factor_make(&by.f, job->train->h.h, job->matrices[0]->t->cols, reach, shrink, job->pool, err));
    nib_status status = try_factor(job, &by, way, err);
    gptq_factor_free(&by.f);
    return status;
}

/* By blocks of H, each matrix by those of its own grid. */
static nib_status try_blocks(const choose_job *job, tune_way way, double shrink, nib_error *err) {
    bool any[] = {[GPTQ_NVFP4] = false, [GPTQ_Q5_0] = false};
    for (size_t i = 0; i < job->n; i++)
        any[job->matrices[i]->grid] = true;
    for (gptq_grid grid = GPTQ_NVFP4; grid <= GPTQ_Q5_0; grid++)
        if (any[grid])
            NIB_TRY(try_blocks_of(job, gptq_blocks_of(grid), way, shrink, err));
    return NIB_OK;
}

/* By all of H, shrunk by as much as helps. */
static nib_status try_full(const choose_job *job, const double *base, nib_error *err) {
    full best = {0};
    double least;
    nib_status status = find_strength(job, base, &least, &best, err);
    if (status == NIB_OK)
        status = find_share(job, base, least, &best, err);
    if (status == NIB_OK)
        status = try_factor(job, &best, TUNE_WAY_FULL, err);
    gptq_factor_free(&best.f);
    return status;
}

/* BASE [n]: what the sweep loses on the sample. */
static nib_status sweep_samples(const choose_job *job, double *base, nib_error *err) {
    for (size_t i = 0; i < job->n; i++) {
        tune_matrix *m = job->matrices[i];
        gptq_rows sample = sample_rows(m->t);
        room r;
        nib_status status = room_open(&r, m, err);
        if (status == NIB_OK)
            status = sweep(job, m, sample, &r, err);
        if (status == NIB_OK)
            status = gptq_error(&sample, job->held_out->h.h, NULL, codes_of(m, r.codes, r.scales), job->pool,
                                &base[i], err);
        room_close(&r);
        NIB_TRY(status);
    }
    return NIB_OK;
}

/* What the matrices lose before they are chosen, since what they read is not the source's. */
static nib_status find_lost(const choose_job *job, nib_error *err) {
    const moments *o = job->held_out;
    for (size_t i = 0; i < job->n && o->pulls; i++) {
        gptq_rows rows = all_rows(job->matrices[i]->t);
        NIB_TRY(gptq_lost(&rows, o->d.h, o->across.h, o->squares, job->pool, &job->matrices[i]->lost, err));
    }
    return NIB_OK;
}

/* Every matrix by the sweep, to begin with. */
static nib_status keep_sweep(const choose_job *job, nib_error *err) {
    for (size_t i = 0; i < job->n; i++) {
        tune_matrix *m = job->matrices[i];
        room r;
        nib_status status = room_open(&r, m, err);
        if (status == NIB_OK)
            status = sweep(job, m, all_rows(m->t), &r, err);
        if (status == NIB_OK)
            status = try_way(job, i, &r, TUNE_WAY_SWEEP, NULL, err);
        room_close(&r);
        NIB_TRY(status);
    }
    return NIB_OK;
}

static nib_status choose_by(const choose_job *job, double *base, nib_error *err) {
    NIB_TRY(sweep_samples(job, base, err));
    NIB_TRY(find_lost(job, err));
    NIB_TRY(keep_sweep(job, err));
    NIB_TRY(try_full(job, base, err));
    if (job->method == TUNE_GPTQ)
        return NIB_OK;
    NIB_TRY(try_blocks(job, TUNE_WAY_BLOCKS, GPTQ_LOCAL_SHRINK, err));
    return strengths[*job->strength] < 1 ? try_blocks(job, TUNE_WAY_DIAGONAL, 1, err) : NIB_OK;
}

nib_status choose_codes(const choose_job *job, nib_error *err) {
    double *base = mem_array(job->n, sizeof *base);
    if (!base)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for %zu matrices", job->n);
    nib_status status = choose_by(job, base, err);
    mem_free(base);
    return status;
}
