/* SPDX-License-Identifier: Apache-2.0
 *
 * One walk of the source through the text; at both norms of a layer what inputs and matrices look like, some
 * held-out rows, and the search. See smoothing.h.
 */
#include "tune/smoothing.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/pool.h"
#include "base/stop.h"
#include "num/fp8.h"
#include "num/nvfp4.h"
#include "num/rounded.h"
#include "quant/scale_search.h"
#include "tune/walk.h"

enum { KEPT = 128, MAX_READERS = 3, SAMPLE_ROWS = 96, MAX_POWER = 8 };

/* What is tried beside nothing: other strengths of these rules are rarely the best. */
static const struct trial {
    smooth_rule rule;
    double strength;
} trials[] = {{SMOOTH_MOMENTS, 0.25}, {SMOOTH_MOMENTS, 0.5},     {SMOOTH_AWQ, 0.25},
              {SMOOTH_AWQ, 0.5},      {SMOOTH_SMOOTHQUANT, 0.5}, {SMOOTH_SMOOTHQUANT, 0.75}};

typedef struct smoother {
    const model_file *file;
    const tune_options *o;
    backend *be;
    walk_text text;
    walk now;
    pool *pool;
    smoothing *out;
    size_t dim;
    /* of the norm at hand */
    smooth_stats stats;
    double *factors; /* [dim] */
    float *kept;     /* [n_kept, dim] held-out rows */
    size_t n_kept;
    const tensor *readers[MAX_READERS];
    size_t n_readers;
    float *rows;    /* [threads, 3, dim] */
    double *errors; /* [SAMPLE_ROWS * MAX_READERS and more] */
    uint64_t done, total;
} smoother;

static nib_status tick(void *context, size_t i, nib_error *err) {
    smoother *s = context;
    (void)i;
    NIB_TRY(stop_check(s->o->interrupted, err));
    progress_report(&s->o->progress, "smoothing", ++s->done, s->total);
    return NIB_OK;
}

static void find_readers(smoother *s, bool mlp, int layer) {
    s->n_readers = 0;
    for (int i = 0; i < SLOT_COUNT && s->n_readers < MAX_READERS; i++) {
        const bool reads = walk_reads(mlp ? SITE_GATE_UP : SITE_QKV, (slot)i);
        const tensor *t = reads ? model_file_find(s->file, place_of((slot)i, layer)) : NULL;
        if (t)
            s->readers[s->n_readers++] = t;
    }
}

/* What inputs and matrices look like, and rows of what is held out, spread over it. */
static nib_status look(smoother *s, bool mlp, int layer, nib_error *err) {
    size_t n_held_out = 0, seen = 0;
    smooth_clear(&s->stats);
    s->n_kept = 0;
    for (size_t i = 0; i < s->text.n_batches; i++)
        n_held_out += s->text.held_out[i] ? (size_t)s->text.batches[i].n_rows : 0;
    const size_t stride = n_held_out / KEPT + 1;
    for (size_t i = 0; i < s->text.n_batches; i++) {
        const size_t rows = (size_t)s->text.batches[i].n_rows;
        const float *x;
        NIB_TRY(walk_input(&s->now, mlp ? SITE_GATE_UP : SITE_QKV, layer, i, &x, err));
        for (size_t r = 0; r < rows; r++) {
            const float *row = x + r * s->dim;
            smooth_add_input(&s->stats, row);
            if (s->text.held_out[i] && seen++ % stride == 0 && s->n_kept < KEPT)
                memcpy(s->kept + s->n_kept++ * s->dim, row, s->dim * sizeof *row);
        }
        walk_leave(&s->now, i);
        NIB_TRY(tick(s, i, err));
    }
    for (size_t i = 0; i < s->n_readers; i++)
        for (size_t r = 0; r < s->readers[i]->rows; r++) {
            tensor_decode_row(s->readers[i], r, s->rows);
            smooth_add_weights(&s->stats, s->rows);
        }
    for (size_t j = 0; j < s->dim; j++)
        if (!isfinite(s->stats.channels[j].squares))
            return nib_fail(err, NIB_BAD_FILE,
                            "%s: the inputs of layer %d are no finite numbers: a damaged model",
                            s->file->path, layer);
    return NIB_OK;
}

/* ---- the factors ---- */

static void powers_of(smoother *s, smooth_rule rule, double strength, int8_t *powers) {
    smooth_factors(&s->stats, rule, strength, s->factors);
    for (size_t j = 0; j < s->dim; j++)
        powers[j] = (int8_t)rint(fmax(-MAX_POWER, fmin(MAX_POWER, log2(s->factors[j]))));
}

/* ---- what a choice loses ---- */

typedef struct judging {
    const smoother *s;
    const tensor *t;
    size_t stride;
    const int8_t *powers;
    const float *rounding; /* [n_kept, dim] of the inputs */
    scale_search search;
    float *weights; /* [dim] of the smoothed inputs */
    double *errors; /* [rows judged] */
} judging;

/* w s, of row R. */
static void smoothed_row(const judging *g, size_t r, float *w) {
    tensor_decode_row(g->t, r, w);
    for (size_t j = 0; j < g->s->dim; j++)
        w[j] = ldexpf(w[j], g->powers[j]);
}

static void amax_rows(void *arg, int thread, size_t begin, size_t end) {
    const judging *g = arg;
    float *w = g->s->rows + (size_t)thread * 3 * g->s->dim;
    for (size_t i = begin; i < end; i++) {
        smoothed_row(g, i * g->stride, w);
        g->errors[i] = nvfp4_amax(w, g->s->dim);
    }
}

static void judge_rows(void *arg, int thread, size_t begin, size_t end) {
    const judging *g = arg;
    const size_t dim = g->s->dim;
    float *w = g->s->rows + (size_t)thread * 3 * dim, *back = w + dim;
    uint8_t *codes = (uint8_t *)(back + dim), *scales = codes + dim / 2;
    for (size_t i = begin; i < end; i++) {
        double error = 0, inputs = 0;
        smoothed_row(g, i * g->stride, w);
        scale_search_nvfp4_row(&g->search, w, dim, codes, scales);
        dtype_decode(DT_NVFP4, codes, back, dim);
        for (size_t j = 0; j < dim; j++) {
            const double d = (double)w[j] - (double)back[j] * (double)e4m3_to_f32(scales[j / NVFP4_BLOCK]) *
                                                (double)g->search.tensor_scale;
            error += (double)g->weights[j] * d * d;
        }
        for (size_t k = 0; k < g->s->n_kept; k++) {
            double sum = 0;
            for (size_t j = 0; j < dim; j++)
                sum += (double)w[j] * (double)g->rounding[k * dim + j];
            inputs += sum * sum;
        }
        g->errors[i] = error + (g->s->n_kept ? inputs / (double)g->s->n_kept : 0);
    }
}

/* Mean squared error of the outputs over some rows of the readers, added up over the readers' rows. */
static double loss(const smoother *s, const int8_t *powers, float *rounding, float *squares) {
    double total = 0;
    for (size_t k = 0; k < s->n_kept; k++) {
        float *to = rounding + k * s->dim;
        const float *x = s->kept + k * s->dim;
        for (size_t j = 0; j < s->dim; j++)
            to[j] = ldexpf(x[j], -powers[j]);
        rounded_nvfp4(to, s->dim, 0);
        for (size_t j = 0; j < s->dim; j++)
            to[j] -= ldexpf(x[j], -powers[j]);
    }
    for (size_t j = 0; j < s->dim; j++)
        squares[j] =
            ldexpf((float)(s->stats.channels[j].squares / (double)s->stats.n_inputs), -2 * powers[j]);
    for (size_t i = 0; i < s->n_readers; i++) {
        const tensor *t = s->readers[i];
        const size_t stride = t->rows > SAMPLE_ROWS ? t->rows / SAMPLE_ROWS : 1,
                     n = (t->rows + stride - 1) / stride;
        judging g = {s, t, stride, powers, rounding, {0}, squares, s->errors};
        float amax = 0;
        pool_for(s->pool, n, 4, amax_rows, &g);
        for (size_t r = 0; r < n; r++)
            amax = fmaxf(amax, (float)s->errors[r]);
        scale_search_init(&g.search, QM_WEIGHTED, amax, false, squares);
        pool_for(s->pool, n, 4, judge_rows, &g);
        for (size_t r = 0; r < n; r++) /* in their order, whoever computed them */
            total += s->errors[r] * (double)stride;
    }
    return total;
}

static nib_status search(smoother *s, smoothing_norm *out, nib_error *err) {
    int8_t *powers = mem_array(s->dim, sizeof *powers);
    float *rounding = mem_array((s->n_kept + 1), s->dim * sizeof *rounding);
    out->powers = mem_array(s->dim, sizeof *out->powers);
    if (!powers || !rounding || !out->powers) {
        mem_free(powers);
        mem_free(rounding);
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory to smooth it", s->file->path);
    }
    float *squares = rounding + s->n_kept * s->dim;
    out->error = out->before = loss(s, out->powers, rounding, squares); /* as it is: zeros */
    for (size_t k = 0; k < sizeof trials / sizeof *trials; k++) {
        powers_of(s, trials[k].rule, trials[k].strength, powers);
        const double error = loss(s, powers, rounding, squares);
        if (!(error < out->error))
            continue;
        out->error = error;
        out->rule = trials[k].rule;
        out->strength = trials[k].strength;
        memcpy(out->powers, powers, s->dim * sizeof *powers);
    }
    mem_free(powers);
    mem_free(rounding);
    return NIB_OK;
}

/* ---- the walk ---- */

static nib_status run_half(smoother *s, bool mlp, int layer, nib_error *err) {
    const half_kind kind = mlp ? HALF_MLP : HALF_ATTENTION;
    find_readers(s, mlp, layer);
    NIB_TRY(look(s, mlp, layer, err));
    NIB_TRY(search(s, &s->out->norms[2 * layer + mlp], err));
    NIB_TRY(walk_half(&s->now, kind, layer, false, tick, s, err));
    return walk_half(&s->now, kind, layer, true, tick, s, err);
}

static nib_status open_all(smoother *s, nib_error *err) {
    const hparams *hp = &s->file->hp;
    const size_t threads = (size_t)(s->o->threads > 1 ? s->o->threads : 1);
    NIB_TRY(walk_text_cut(&s->text, s->o, s->file, err));
    NIB_TRY(pool_new(&s->pool, (int)threads, err));
    s->out->norms = mem_array((size_t)hp->n_layers * 2, sizeof *s->out->norms);
    s->stats.channels = mem_array(s->dim, sizeof *s->stats.channels);
    s->factors = mem_array(s->dim, sizeof *s->factors);
    s->kept = mem_array(KEPT, s->dim * sizeof *s->kept);
    s->rows = mem_array(threads * 3, s->dim * sizeof *s->rows);
    s->errors = mem_array(2 * SAMPLE_ROWS, sizeof *s->errors); /* fewer rows are judged than twice as many */
    if (!s->out->norms || !s->stats.channels || !s->factors || !s->kept || !s->rows || !s->errors)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory to smooth it", s->file->path);
    s->out->n_layers = hp->n_layers;
    s->total = (uint64_t)s->text.n_batches * 6 * (uint64_t)hp->n_layers;
    const bool on_disk = s->text.n_rows * walk_row_floats(hp) > s->o->memory_bytes / sizeof(float);
    return walk_open(&s->now, &s->text, s->file, s->be, on_disk, s->o->journal, err);
}

static nib_status run_all(smoother *s, nib_error *err) {
    NIB_TRY(open_all(s, err));
    for (int layer = 0; layer < s->file->hp.n_layers; layer++) {
        NIB_TRY(run_half(s, false, layer, err));
        NIB_TRY(run_half(s, true, layer, err));
    }
    return NIB_OK;
}

nib_status smoothing_find(smoothing *out, const model_file *file, backend *be, const tune_options *options,
                          nib_error *err) {
    *out = (smoothing){0};
    NIB_TRY(model_file_need_network(file, err));
    bool experts = false;
    for (int layer = 0; layer < file->hp.n_layers; layer++)
        experts |= model_file_find(file, place_of(SLOT_ROUTER, layer)) != NULL;
    if (file->hp.norms == NORM_AFTER || experts)
        return nib_fail(
            err, NIB_UNSUPPORTED,
            "%s: expected a network with a norm before each half of a layer, and without experts, "
            "to be smoothed",
            file->path);
    if (file->hp.dim % NVFP4_BLOCK)
        return nib_fail(err, NIB_UNSUPPORTED, "%s: rows of %d columns are no whole number of blocks of %d",
                        file->path, file->hp.dim, NVFP4_BLOCK);
    smoother s = {.file = file, .o = options, .be = be, .out = out, .dim = (size_t)file->hp.dim};
    s.stats.cols = s.dim;
    const nib_status status = run_all(&s, err);
    walk_close(&s.now);
    walk_text_free(&s.text);
    pool_free(s.pool);
    mem_free(s.stats.channels);
    mem_free(s.factors);
    mem_free(s.kept);
    mem_free(s.rows);
    mem_free(s.errors);
    if (status != NIB_OK)
        smoothing_free(out);
    return status;
}

void smoothing_free(smoothing *s) {
    for (int i = 0; s->norms && i < 2 * s->n_layers; i++)
        mem_free(s->norms[i].powers);
    mem_free(s->norms);
    *s = (smoothing){0};
}
