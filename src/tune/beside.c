/* SPDX-License-Identifier: Apache-2.0
 *
 * With L the branch, which reads what the network's own activations are: where W (x + d) + r is wanted, the
 * rest W - L is wanted to give (W - L) (x + d) + (r + L d). So what the residual stream lacks grows by L d
 * for this matrix alone. See beside.h.
 */
#include "tune/beside.h"

#include <string.h>

#include "base/mem.h"
#include "num/bf16.h"
#include "quant/low_rank.h"

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

/* SUMS [cols] += FACTOR times X [cols]. */
static void add_times(double *sums, double factor, const double *x, size_t cols) {
    for (size_t c = 0; c < cols; c++)
        sums[c] += factor * x[c];
}

/* FROM with r + L d in the place of r, in *ROOM: L C is up (down C). */
static nib_status pull_with(moments *out, const moments *from, const tensor *t, const tensor_branch *b,
                            double **room, nib_error *err) {
    const size_t cols = t->cols;
    *out = *from;
    if (!from->pulls)
        return NIB_OK;
    double *thin = mem_array(b->rank * cols, sizeof *thin);
    *room = mem_array(t->rows * cols, sizeof **room);
    const bool whole = thin && *room;
    for (size_t i = 0; whole && i < b->rank; i++)
        for (size_t k = 0; k < cols; k++)
            add_times(thin + i * cols, (double)bf16_to_f32(b->down[i * cols + k]), from->pull.c + k * cols,
                      cols);
    for (size_t r = 0; whole && r < t->rows; r++) {
        if (from->pull.r)
            memcpy(*room + r * cols, from->pull.r + r * cols, cols * sizeof **room);
        for (size_t k = 0; k < b->rank; k++)
            add_times(*room + r * cols, (double)bf16_to_f32(b->up[r * b->rank + k]), thin + k * cols, cols);
    }
    mem_free(thin);
    out->pull.r = *room;
    return whole ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "no memory for a matrix [%zu, %zu]", t->rows, cols);
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
    s->t = (tensor){.name = t->name,
                    .place = t->place,
                    .dtype = DT_F32,
                    .rows = t->rows,
                    .cols = t->cols,
                    .n_dims = 2,
                    .dims = {t->rows, t->cols},
                    .data = s->values,
                    .bytes = t->rows * t->cols * sizeof *s->values,
                    .tensor_scale = 1};
    s->m.t = &s->t;
    NIB_TRY(pull_with(&s->train, job->train, t, &b, &s->r[0], err));
    return pull_with(&s->test, job->held_out, t, &b, &s->r[1], err);
}

/* What M had lost before, which is the whole matrix's. */
static nib_status find_lost(const choose_job *job, const tensor *t, double *out, nib_error *err) {
    const moments *o = job->held_out;
    const gptq_rows rows = {.t = t, .stride = 1, .n = t->rows};
    *out = 0;
    return o->pulls ? gptq_lost(&rows, o->d.h, o->across.h, o->squares, job->pool, out, err) : NIB_OK;
}

static nib_status choose_rest(const choose_job *job, size_t i, nib_error *err) {
    tune_matrix *m = job->matrices[i];
    rest s;
    double lost;
    const tensor_branch b = beside_at(m, job->codes[i]);
    NIB_TRY(low_rank_find(m->t, job->train->h.h, m->rank, (uint16_t *)(uintptr_t)b.down,
                          (uint16_t *)(uintptr_t)b.up, job->pool, err));
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
        m->error = s.m.error - s.m.lost + lost;
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
