/* SPDX-License-Identifier: Apache-2.0
 *
 * A network whose linear layers are rounded to a format: FP32 stand-ins, bound half a layer at a time.
 */
#include <math.h>
#include <string.h>

#include "base/cores.h"
#include "base/mem.h"
#include "base/pool.h"
#include "base/quote.h"
#include "eval/weight_format.h"

struct weight_format_made {
    model_file view;
    const tensor **stand_ins; /* [n_tensors] */
    tensor *made;             /* [n_tensors] */
    size_t n;
};

typedef struct rounding {
    const weight_format *f;
    const tensor *t;
    float *values; /* [rows, cols] */
    float *amax;   /* [rows] */
    float *stored; /* [rows, groups] of FSCALE_DOUBLE */
    size_t groups;
    float whole;
} rounding;

static void read_rows(void *arg, int thread, size_t begin, size_t end) {
    const rounding *r = arg;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        float *x = r->values + i * r->t->cols;
        tensor_decode_row(r->t, i, x);
        r->amax[i] = 0;
        for (size_t c = 0; c < r->t->cols; c++)
            r->amax[i] = isfinite(x[c]) ? fmaxf(r->amax[i], fabsf(x[c])) : INFINITY;
    }
}

static void round_rows(void *arg, int thread, size_t begin, size_t end) {
    const rounding *r = arg;
    (void)thread;
    for (size_t i = begin; i < end; i++) {
        float *x = r->values + i * r->t->cols;
        if (r->stored)
            weight_format_row_double(r->f, x, r->t->cols, r->stored + i * r->groups);
        else
            weight_format_row(r->f, x, r->t->cols, r->whole);
    }
}

/* The scales of all groups, which are quantized together. */
static nib_status find_stored(rounding *r, nib_error *err) {
    const size_t cols = r->t->cols, group = weight_format_group(r->f, cols);
    r->groups = (cols + group - 1) / group;
    r->stored = mem_array(r->t->rows, r->groups * sizeof *r->stored);
    if (!r->stored)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for the scales of tensor %s", QUOTEZ(r->t->name));
    for (size_t i = 0; i < r->t->rows; i++)
        for (size_t c = 0; c < cols; c++) {
            float *amax = &r->stored[i * r->groups + c / group];
            *amax = fmaxf(*amax, fabsf(r->values[i * cols + c]));
        }
    weight_format_double(r->stored, r->t->rows * r->groups);
    return NIB_OK;
}

static nib_status make_one(weight_format_made *out, const weight_format *f, size_t i, pool *team,
                           nib_error *err) {
    const tensor *t = &out->view.tensors[i];
    tensor *made = &out->made[i];
    rounding r = {.f = f, .t = t};
    size_t n;
    r.values = mem_mul(t->rows, t->cols, &n) ? mem_array(n, sizeof *r.values) : NULL;
    r.amax = mem_array(t->rows, sizeof *r.amax);
    if (!r.values || !r.amax) {
        mem_free(r.values);
        mem_free(r.amax);
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for tensor %s in FP32", out->view.path,
                        QUOTEZ(t->name));
    }
    *made = tensor_beside(t, DT_F32, r.values, t->rows, t->cols);
    pool_for(team, t->rows, 8, read_rows, &r);
    for (size_t k = 0; k < t->rows; k++)
        r.whole = fmaxf(r.whole, r.amax[k]);
    mem_free(r.amax);
    if (!isfinite(r.whole))
        return nib_fail(err, NIB_BAD_FILE, "%s: tensor %s holds a number that is not finite", out->view.path,
                        QUOTEZ(t->name));
    if (f->scale == FSCALE_DOUBLE)
        NIB_TRY(find_stored(&r, err));
    pool_for(team, t->rows, 8, round_rows, &r);
    mem_free(r.stored);
    out->stand_ins[i] = made;
    return NIB_OK;
}

static nib_status make_all(weight_format_made *out, const weight_format *f, model *m, pool *team,
                           double *bits, nib_error *err) {
    double sum = 0, elements = 0;
    for (size_t i = 0; i < out->n; i++) {
        const tensor *t = &out->view.tensors[i];
        if (!place_is_linear(t->place.slot) || t->place.layer < 0)
            continue;
        NIB_TRY(make_one(out, f, i, team, err));
        sum += weight_format_bits(f, t->cols) * (double)t->rows * (double)t->cols;
        elements += (double)t->rows * (double)t->cols;
    }
    for (int layer = 0; layer < out->view.hp.n_layers; layer++)
        for (int mlp = 0; mlp < 2; mlp++)
            NIB_TRY(model_rebind(m, &out->view, layer, mlp, err));
    *bits = elements > 0 ? sum / elements : 0;
    return NIB_OK;
}

nib_status weight_format_apply(weight_format_made **out, const weight_format *f, model *m,
                               const model_file *file, int threads, double *bits, nib_error *err) {
    pool *team;
    weight_format_made *made = mem_array(1, sizeof *made);
    *out = made; /* even after a failure: the model may look at it until it is closed */
    if (!made)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for a format", file->path);
    *made = (weight_format_made){.view = *file,
                                 .stand_ins = mem_array(file->n_tensors, sizeof *made->stand_ins),
                                 .made = mem_array(file->n_tensors, sizeof *made->made)};
    if (!made->stand_ins || !made->made)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for a format", file->path);
    made->n = file->n_tensors;
    made->view.stand_ins = made->stand_ins;
    NIB_TRY(pool_new(&team, threads > 0 ? threads : cores_physical(), err));
    const nib_status status = make_all(made, f, m, team, bits, err);
    pool_free(team);
    return status;
}

void weight_format_free(weight_format_made *f) {
    if (!f)
        return;
    for (size_t i = 0; i < f->n; i++)
        mem_free((void *)(uintptr_t)f->made[i].data);
    mem_free(f->made);
    mem_free(f->stand_ins);
    mem_free(f);
}
