/* SPDX-License-Identifier: Apache-2.0
 *
 * One matrix product's worth of a network after the other is bound anew through stand-ins
 * (model_file.stand_ins), the text computed, and the part bound as it was. See sensitivity.h.
 */
#include "eval/sensitivity.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/cores.h"
#include "base/mem.h"
#include "base/pool.h"
#include "base/stop.h"
#include "num/fp8.h"
#include "num/gguf_blocks.h"
#include "num/nvfp4.h"
#include "quant/q5_search.h"

typedef struct stand_in {
    tensor t;
    uint8_t *codes, *scales;
} stand_in;

typedef struct measuring {
    model *m;
    model_file view;          /* the file, with what stands in */
    const tensor **stand_ins; /* [n_tensors] */
    stand_in *made;           /* [n_tensors] */
    const sensitivity_options *o;
    sensitivity *out;
    pool *pool;
} measuring;

/* ---- parts ---- */

/* Linear layers in the order of the network, and the parts that they belong to. */
static const struct {
    slot slot;
    int part;
} linears[] = {{SLOT_Q, 0},    {SLOT_K, 0},  {SLOT_V, 0},       {SLOT_QKV, 0}, {SLOT_O, 1},
               {SLOT_GATE, 2}, {SLOT_UP, 2}, {SLOT_GATE_UP, 2}, {SLOT_DOWN, 3}};
enum { N_LINEARS = sizeof linears / sizeof *linears, FIRST_MLP = 2, N_PARTS = 4 };

/* Is T of part PART, or, where matrices stand apart, the PART-th linear layer? */
static bool belongs(const measuring *s, const tensor *t, int part) {
    if (s->o->apart)
        return t->place.slot == linears[part].slot;
    for (int i = 0; i < N_LINEARS; i++)
        if (t->place.slot == linears[i].slot)
            return linears[i].part == part;
    return false;
}

static nib_status list_parts(measuring *s, nib_error *err) {
    const model_file *f = &s->view;
    const int most = s->o->apart ? N_LINEARS : N_PARTS;
    s->out->parts = mem_array((size_t)f->hp.n_layers * (size_t)most, sizeof *s->out->parts);
    if (!s->out->parts)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for its parts", f->path);
    for (int layer = 0; layer < f->hp.n_layers; layer++)
        for (int part = 0; part < most; part++) {
            sensitivity_part p = {.layer = layer,
                                  .mlp = (s->o->apart ? linears[part].part : part) >= FIRST_MLP};
            bool fits = true;
            for (size_t i = 0; i < f->n_tensors; i++) {
                const tensor *t = &f->tensors[i];
                if (t->place.layer != layer || !belongs(s, t, part) || p.n == SENSITIVITY_MATRICES)
                    continue;
                fits &= t->cols % (s->o->to_gguf ? 64 : 16) == 0;
                p.matrices[p.n++] = t;
                p.elements += (uint64_t)t->rows * t->cols;
            }
            if (fits && p.n > 0)
                s->out->parts[s->out->n++] = p;
        }
    return NIB_OK;
}

/* ---- NVFP4 of a part ---- */

typedef struct encoding {
    const tensor *t;
    stand_in *to;
    scale_search search;
    const sensitivity_options *o;
    float fp8_scale;
    float *rows;       /* [threads, 4 * cols] */
    double (*sums)[3]; /* [rows] errors of NVFP4, Q5_0 and 8 bits */
    size_t cols;
} encoding;

/* X in 8 bits, and BACK; ROOM for codes. */
static void round_to_eight(const encoding *e, const float *x, float *back, unsigned char *room) {
    if (e->o->to_gguf) {
        gguf_blocks_encode_q8_0(x, room, e->cols / 32);
        dtype_decode(DT_Q8_0, room, back, e->cols);
        return;
    }
    for (size_t c = 0; c < e->cols; c++)
        back[c] = e4m3_to_f32(e4m3_from_f32_sat(x[c] / e->fp8_scale)) * e->fp8_scale;
}

static double error_of(const encoding *e, const float *x, const float *back) {
    double sum = 0;
    for (size_t c = 0; c < e->cols; c++) {
        const double w = e->search.weights ? (double)e->search.weights[c] : 1;
        sum += w * ((double)back[c] - x[c]) * ((double)back[c] - x[c]);
    }
    return sum;
}

static void encode_rows(void *arg, int thread, size_t begin, size_t end) {
    const encoding *e = arg;
    float *x = e->rows + (size_t)thread * 4 * e->cols, *back = x + e->cols;
    unsigned char *room = (unsigned char *)(back + e->cols);
    for (size_t r = begin; r < end; r++) {
        tensor_decode_row(e->t, r, x);
        scale_search_nvfp4_row(&e->search, x, e->cols, e->to->codes + r * (e->cols / 2),
                               e->to->scales + r * (e->cols / 16));
        tensor_decode_row(&e->to->t, r, back);
        e->sums[r][0] = error_of(e, x, back);
        e->sums[r][1] = 0;
        if (e->o->to_gguf) {
            q5_search_row(e->search.weights, x, e->cols / Q5_BLOCK, room);
            dtype_decode(DT_Q5_0, room, back, e->cols);
            e->sums[r][1] = error_of(e, x, back);
        }
        round_to_eight(e, x, back, room);
        e->sums[r][2] = error_of(e, x, back);
    }
}

static void amax_rows(void *arg, int thread, size_t begin, size_t end) {
    const encoding *e = arg;
    float *x = e->rows + (size_t)thread * 4 * e->cols;
    for (size_t r = begin; r < end; r++) {
        tensor_decode_row(e->t, r, x);
        e->sums[r][0] = nvfp4_amax(x, e->cols);
    }
}

static void free_stand_in(stand_in *s) {
    mem_free(s->codes);
    mem_free(s->scales);
    *s = (stand_in){0};
}

static const float *weights_of(const measuring *s, const tensor *t) {
    const importance *i = s->o->heed;
    if (!i || !i->mean_squares || t->place.layer >= i->n_layers)
        return NULL;
    return i->mean_squares[t->place.layer * SLOT_COUNT + (int)t->place.slot];
}

static nib_status encode(measuring *s, const tensor *t, sensitivity_part *p, nib_error *err) {
    stand_in *to = &s->made[t - s->view.tensors];
    const float *weights = weights_of(s, t);
    encoding e = {.t = t, .to = to, .o = s->o, .cols = t->cols};
    to->codes = mem_array(t->rows, t->cols / 2);
    to->scales = mem_array(t->rows, t->cols / 16);
    e.rows = mem_array((size_t)pool_threads(s->pool) * 4, t->cols * sizeof *e.rows);
    e.sums = mem_array(t->rows, sizeof *e.sums);
    nib_status status = NIB_OK;
    if (!to->codes || !to->scales || !e.rows || !e.sums) {
        status = nib_fail(err, NIB_NO_MEMORY, "%s: no memory for tensor '%s'", s->view.path, t->name);
    } else {
        float amax = 0;
        pool_for(s->pool, t->rows, 8, amax_rows, &e);
        for (size_t r = 0; r < t->rows; r++)
            amax = fmaxf(amax, (float)e.sums[r][0]);
        scale_search_init(&e.search, weights ? QM_WEIGHTED : QM_SWEEP, amax, false, weights);
        e.fp8_scale = amax > 0 ? amax / 448.0f : 1;
        to->t = *t;
        to->t.dtype = DT_NVFP4;
        to->t.data = to->codes;
        to->t.bytes = t->rows * (t->cols / 2);
        to->t.block_scales = to->scales;
        to->t.row_scales = to->t.tile_scales = NULL;
        to->t.tensor_scale = e.search.tensor_scale;
        pool_for(s->pool, t->rows, 8, encode_rows, &e);
        for (size_t r = 0; r < t->rows; r++) {
            p->error4 += e.sums[r][0];
            p->error5 += e.sums[r][1];
            p->error8 += e.sums[r][2];
        }
        s->stand_ins[t - s->view.tensors] = &to->t;
    }
    mem_free(e.rows);
    mem_free(e.sums);
    return status;
}

/* ---- measuring ---- */

static nib_status tick(const measuring *s, size_t done, nib_error *err) {
    NIB_TRY(stop_check(s->o->eval.stop, err));
    progress_report(&s->o->eval.progress, "sensitivity", done, s->out->n + 1);
    return NIB_OK;
}

static nib_status divergence(const measuring *s, double *kld, nib_error *err) {
    eval_options o = s->o->eval;
    eval_kld_result r;
    o.progress = (progress){0};
    NIB_TRY(eval_kld_against_file(s->m, s->o->text, s->o->base, &o, &r, err));
    *kld = r.kld.value;
    return NIB_OK;
}

/* Part P as it is, its stand-ins kept for the last measurement. */
static nib_status measure_part(measuring *s, sensitivity_part *p, nib_error *err) {
    for (int i = 0; i < p->n; i++)
        NIB_TRY(encode(s, p->matrices[i], p, err));
    NIB_TRY(model_rebind(s->m, &s->view, p->layer, p->mlp, err));
    NIB_TRY(divergence(s, &p->kld, err));
    for (int i = 0; i < p->n; i++)
        s->stand_ins[p->matrices[i] - s->view.tensors] = NULL;
    return model_rebind(s->m, &s->view, p->layer, p->mlp, err);
}

static nib_status rebind_all(measuring *s, bool nvfp4, nib_error *err) {
    for (size_t i = 0; i < s->view.n_tensors; i++)
        s->stand_ins[i] = nvfp4 && s->made[i].codes ? &s->made[i].t : NULL;
    for (size_t i = 0; i < s->out->n; i++)
        NIB_TRY(model_rebind(s->m, &s->view, s->out->parts[i].layer, s->out->parts[i].mlp, err));
    return NIB_OK;
}

static nib_status run(measuring *s, nib_error *err) {
    eval_options quiet = s->o->eval;
    eval_ppl_result ppl;
    quiet.progress = (progress){0};
    NIB_TRY(list_parts(s, err));
    NIB_TRY(tick(s, 0, err));
    NIB_TRY(eval_kld_save(s->m, s->o->text, s->o->base, &quiet, &ppl, err));
    for (size_t i = 0; i < s->out->n; i++) {
        NIB_TRY(measure_part(s, &s->out->parts[i], err));
        NIB_TRY(tick(s, i + 1, err));
    }
    NIB_TRY(rebind_all(s, true, err));
    NIB_TRY(divergence(s, &s->out->kld_all, err));
    return rebind_all(s, false, err);
}

nib_status sensitivity_measure(sensitivity *out, model *m, const model_file *file,
                               const sensitivity_options *options, nib_error *err) {
    const double from = clock_seconds();
    const int threads = options->eval.threads > 0 ? options->eval.threads : cores_physical();
    measuring s = {.m = m, .view = *file, .o = options, .out = out};
    *out = (sensitivity){0};
    s.stand_ins = mem_array(file->n_tensors, sizeof *s.stand_ins);
    s.made = mem_array(file->n_tensors, sizeof *s.made);
    s.view.stand_ins = s.stand_ins;
    nib_status status = s.stand_ins && s.made
                            ? pool_new(&s.pool, threads, err)
                            : nib_fail(err, NIB_NO_MEMORY, "%s: no memory for its parts", file->path);
    if (status == NIB_OK)
        status = run(&s, err);
    pool_free(s.pool);
    for (size_t i = 0; s.made && i < file->n_tensors; i++)
        free_stand_in(&s.made[i]);
    mem_free(s.made);
    mem_free(s.stand_ins);
    out->seconds = clock_seconds() - from;
    if (status != NIB_OK)
        sensitivity_free(out);
    return status;
}

void sensitivity_free(sensitivity *s) {
    mem_free(s->parts);
    *s = (sensitivity){0};
}
