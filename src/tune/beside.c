/* SPDX-License-Identifier: Apache-2.0
 *
 * With L the branch, which reads what the network's own activations are: where W (x + d) + r is wanted, the
 * rest W - L is wanted to give (W - L) (x + d) + (r + L d). So what the residual stream lacks grows by L d
 * for this matrix alone. See beside.h.
 */
#include "tune/beside.h"

#include <string.h>

#include "base/mem.h"
#include "base/quote.h"
#include "num/bf16.h"
#include "quant/low_rank.h"

enum { COLUMNS = 64, ROWS = 16 }; /* that a thread takes at a time */

size_t beside_bytes(const tune_matrix *m) {
    return m->rank * (m->t->rows + m->t->cols) * sizeof(uint16_t);
}

tensor_branch beside_at(const tune_matrix *m, const uint8_t *codes) {
    const uint16_t *down = (const void *)(codes + m->t->rows * gptq_code_bytes(m->grid, m->t->cols));
    return (tensor_branch){m->rank, down, down + m->rank * m->t->cols, 1};
}

/* What stands in for one matrix while its codes are chosen. */
typedef struct rest {
    tensor t; /* FP32 [rows, cols] W - L */
    float *values;
    double *r[2]; /* [rows, cols] E[(r + L d) x^T], of the calibration and of what is held out; or NULL */
    moments train, test;
    tune_matrix m;
} rest;

static void rest_close(rest *s) {
    mem_free(s->values);
    mem_free(s->r[0]);
    mem_free(s->r[1]);
}

typedef struct pulling {
    const gptq_pull *pull;
    const tensor_branch *b;
    size_t cols;
    double *thin; /* [rank, cols] down C */
    double *r;    /* [rows, cols] */
} pulling;

/* SUMS [n] += FACTOR times X [n]. */
static void add_times(double *sums, uint16_t factor, const double *x, size_t n) {
    const double f = (double)bf16_to_f32(factor);
    for (size_t i = 0; i < n; i++)
        sums[i] += f * x[i];
}

static void thin_columns(void *arg, int thread, size_t begin, size_t end) {
    const pulling *p = arg;
    (void)thread;
    for (size_t k = 0; k < p->cols; k++)
        for (size_t i = 0; i < p->b->rank; i++)
            add_times(p->thin + i * p->cols + begin, p->b->down[i * p->cols + k],
                      p->pull->c + k * p->cols + begin, end - begin);
}

static void pull_rows(void *arg, int thread, size_t begin, size_t end) {
    const pulling *p = arg;
    (void)thread;
    if (p->pull->r)
        memcpy(p->r + begin * p->cols, p->pull->r + begin * p->cols, (end - begin) * p->cols * sizeof *p->r);
    for (size_t r = begin; r < end; r++)
        for (size_t k = 0; k < p->b->rank; k++)
            add_times(p->r + r * p->cols, p->b->up[r * p->b->rank + k], p->thin + k * p->cols, p->cols);
}

/* FROM with r + L d in the place of r, in *ROOM: L C is up (down C). Each sum in one order. */
static nib_status pull_with(moments *out, const moments *from, const tensor *t, const tensor_branch *b,
                            double **room, pool *team, nib_error *err) {
    *out = *from;
    if (!from->pulls)
        return NIB_OK;
    pulling p = {&from->pull, b, t->cols, mem_array(b->rank * t->cols, sizeof *p.thin),
                 mem_array(t->rows * t->cols, sizeof *p.r)};
    const bool whole = p.thin && p.r;
    if (whole) {
        pool_for(team, t->cols, COLUMNS, thin_columns, &p);
        pool_for(team, t->rows, ROWS, pull_rows, &p);
    }
    mem_free(p.thin);
    out->pull.r = *room = p.r;
    return whole ? NIB_OK
                 : nib_fail(err, NIB_NO_MEMORY, "no memory for a matrix [%zu, %zu]", t->rows, t->cols);
}

/* W - L of M, whose branch lies behind CODES. */
static nib_status rest_open(rest *s, const choose_job *job, const tune_matrix *m, const uint8_t *codes,
                            nib_error *err) {
    const tensor *t = m->t;
    const tensor_branch b = beside_at(m, codes);
    tensor_branch less = b;
    less.scale = -1;
    *s = (rest){.m = *m, .t = *t, .values = mem_array(t->rows * t->cols, sizeof *s->values)};
    if (!s->values)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a matrix [%zu, %zu]", t->rows, t->cols);
    for (size_t i = 0; i < t->rows; i++) {
        tensor_decode_row(t, i, s->values + i * t->cols);
        tensor_branch_add(&less, t->cols, i, s->values + i * t->cols);
    }
    s->t = tensor_beside(t, DT_F32, s->values, t->rows, t->cols);
    s->m.t = &s->t;
    NIB_TRY(pull_with(&s->train, job->train, t, &b, &s->r[0], job->pool, err));
    return pull_with(&s->test, job->held_out, t, &b, &s->r[1], job->pool, err);
}

/* What M had lost before, which is the whole matrix's. */
static nib_status find_lost(const choose_job *job, const tensor *t, double *out, nib_error *err) {
    const moments *o = job->held_out;
    const gptq_rows rows = {.t = t, .stride = 1, .n = t->rows};
    *out = 0;
    return o->pulls ? gptq_lost(&rows, o->d.h, o->across.h, o->squares, job->pool, out, err) : NIB_OK;
}

/* ---- the branch once more, beside the codes ---- */

/* What codes and branch of M are to give together: W, or on the way to the source that S's codes went. */
static nib_status wanted(const choose_job *job, const tune_matrix *m, const rest *s, float *values,
                         nib_error *err) {
    const tensor *t = m->t;
    const gptq_rows rows = {.t = t, .stride = 1, .n = t->rows};
    gptq_factor f;
    if (!(s->m.share > 0)) {
        for (size_t r = 0; r < t->rows; r++)
            tensor_decode_row(t, r, values + r * t->cols);
        return NIB_OK;
    }
    NIB_TRY(gptq_factor_make(&f, job->train->h.h, t->cols, GPTQ_FULL, s->m.shrink, job->pool, err));
    const nib_status status = gptq_aim(&rows, &f, &job->train->pull, s->m.share, values, job->pool, err);
    gptq_factor_free(&f);
    return status;
}

/* VALUES less what the codes stand for. */
static void take_codes(const tune_matrix *m, const uint8_t *codes, const uint8_t *scales, float *values,
                       float *row) {
    const tensor q = {.dtype = DT_NVFP4,
                      .rows = m->t->rows,
                      .cols = m->t->cols,
                      .data = codes,
                      .block_scales = scales,
                      .tensor_scale = m->tensor_scale};
    for (size_t r = 0; r < q.rows; r++) {
        tensor_decode_row(&q, r, row);
        for (size_t c = 0; c < q.cols; c++)
            values[r * q.cols + c] -= row[c];
    }
}

/* The branch of what the codes lack, in ROOM, where codes would lie before it; *loss on held-out inputs. */
static nib_status find_again(const choose_job *job, size_t i, rest *s, uint8_t *room, double *loss,
                             nib_error *err) {
    const tune_matrix *m = job->matrices[i];
    const tensor_branch b = beside_at(m, room);
    rest again = {0};
    float *row = mem_array(m->t->cols, sizeof *row);
    if (!row)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a row of %zu columns", m->t->cols);
    nib_status status = wanted(job, m, s, s->values, err);
    if (status == NIB_OK)
        take_codes(m, job->codes[i], job->scales[i], s->values, row);
    mem_free(row);
    if (status == NIB_OK)
        status = low_rank_find(&s->t, job->train->h.h, m->rank, (uint16_t *)(uintptr_t)b.down,
                               (uint16_t *)(uintptr_t)b.up, job->pool, job->interrupted, err);
    if (status == NIB_OK)
        status = rest_open(&again, job, m, room, err);
    const gptq_rows rows = {.t = &again.t, .stride = 1, .n = m->t->rows};
    const gptq_codes codes = {{m->tensor_scale, m->fp8_exact, m->grid}, job->codes[i], job->scales[i]};
    if (status == NIB_OK)
        status = gptq_error(&rows, again.test.h.h, again.test.pulls ? &again.test.pull : NULL, codes,
                            job->pool, loss, err);
    rest_close(&again);
    return status;
}

/* The branch of what the codes lack where that loses less than *loss, what there is. */
static nib_status refit(const choose_job *job, size_t i, rest *s, double *loss, nib_error *err) {
    const tune_matrix *m = job->matrices[i];
    const size_t n = m->t->rows * gptq_code_bytes(m->grid, m->t->cols);
    uint8_t *room = mem_array(n + beside_bytes(m), 1);
    double now;
    if (!room)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a branch of %s", QUOTEZ(m->t->name));
    const nib_status status = find_again(job, i, s, room, &now, err);
    if (status == NIB_OK && now < *loss) {
        memcpy(job->codes[i] + n, room + n, beside_bytes(m));
        *loss = now;
    }
    mem_free(room);
    return status;
}

/* ---- all of it ---- */

static nib_status choose_rest(const choose_job *job, size_t i, nib_error *err) {
    tune_matrix *m = job->matrices[i];
    rest s;
    double lost;
    const tensor_branch b = beside_at(m, job->codes[i]);
    NIB_TRY(low_rank_find(m->t, job->train->h.h, m->rank, (uint16_t *)(uintptr_t)b.down,
                          (uint16_t *)(uintptr_t)b.up, job->pool, job->interrupted, err));
    NIB_TRY(find_lost(job, m->t, &lost, err));
    nib_status status = rest_open(&s, job, m, job->codes[i], err);
    if (status == NIB_OK) {
        tune_matrix *one = &s.m;
        choose_job sub = *job;
        sub.matrices = &one;
        sub.codes = &job->codes[i];
        sub.scales = &job->scales[i];
        sub.n = 1;
        sub.train = &s.train;
        sub.held_out = &s.test;
        status = choose_codes(&sub, err);
        m->way = s.m.way;
        m->shrink = s.m.shrink;
        m->share = s.m.share;
        double loss = s.m.error - s.m.lost;
        if (status == NIB_OK)
            status = refit(job, i, &s, &loss, err);
        m->error = loss + lost;
        m->sweep_error = s.m.sweep_error - s.m.lost + lost;
        m->lost = lost;
    }
    rest_close(&s);
    return status;
}

nib_status beside_choose_codes(const choose_job *job, nib_error *err) {
    if (job->matrices[0]->rank == 0) /* all matrices of a site have a branch, or none has */
        return choose_codes(job, err);
    for (size_t i = 0; i < job->n; i++)
        NIB_TRY(choose_rest(job, i, err));
    return NIB_OK;
}
