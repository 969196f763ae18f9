/* SPDX-License-Identifier: Apache-2.0
 *
 * Two walks side by side; at every site some rows of the inputs are kept as columns, and each row of a matrix
 * is multiplied with all of them. Sums are added up row by row: the result does not depend on the number of
 * threads. See outputs.h.
 */
#include "tune/outputs.h"

#include "base/mem.h"
#include "base/pool.h"
#include "base/stop.h"
#include "tune/walk.h"

enum { KEPT = 128 };

typedef struct comparing {
    outputs_pair *pairs; /* [n] */
    size_t n;
    const tune_options *o;
    walk_text text;
    walk now, source;
    pool *pool;
    size_t stride, n_kept;  /* one row in so many, n_kept of them */
    float *inputs, *wanted; /* [widest, KEPT] what is read in the file's network, in the source's */
    float *rows;            /* [threads, widest] */
    double (*sums)[2];      /* [most rows of a matrix] */
    const outputs_pair *at; /* the pair at hand */
    uint64_t done, total;
} comparing;

static nib_status tick(void *context, size_t i, nib_error *err) {
    comparing *c = context;
    (void)i;
    NIB_TRY(stop_check(c->o->interrupted, err));
    progress_report(&c->o->progress, "comparing outputs", ++c->done, c->total);
    return NIB_OK;
}

/* ---- a site ---- */

static bool reads_site(const comparing *c, const outputs_pair *p, walk_site at, int layer) {
    const slot s = p->t->place.slot;
    if (!p->of || !walk_reads(at, s) || (at != SITE_HEAD && p->t->place.layer != layer))
        return false;
    bool has_head = false;
    for (size_t i = 0; i < c->n && s == SLOT_EMBED; i++)
        has_head |= c->pairs[i].t->place.slot == SLOT_HEAD;
    return !has_head;
}

/* Rows of W's inputs at a site as columns: of a text of more than KEPT not a window's first, which is like no
 * other. */
static nib_status keep(comparing *c, walk *w, walk_site at, int layer, size_t cols, float *to,
                       nib_error *err) {
    c->n_kept = 0;
    for (size_t i = 0; i < c->text.n_batches; i++) {
        const float *x;
        NIB_TRY(walk_input(w, at, layer, i, &x, err));
        for (size_t r = 0; r < (size_t)c->text.batches[i].n_rows; r++) {
            if ((c->text.first_row[i] + r) % c->stride != c->stride / 2)
                continue;
            for (size_t j = 0; j < cols; j++)
                to[j * KEPT + c->n_kept] = x[r * cols + j];
            c->n_kept++;
        }
        walk_leave(w, i);
    }
    return NIB_OK;
}

/* y [KEPT] = W's row times the kept inputs. */
static void multiply(float *y, const float *w, const float *inputs, size_t cols) {
    for (size_t k = 0; k < KEPT; k++)
        y[k] = 0;
    for (size_t j = 0; j < cols; j++)
        for (size_t k = 0; k < KEPT; k++)
            y[k] += w[j] * inputs[j * KEPT + k];
}

static void compare_rows(void *arg, int thread, size_t begin, size_t end) {
    const comparing *c = arg;
    const outputs_pair *p = c->at;
    const size_t cols = p->t->cols;
    float *w = c->rows + (size_t)thread * cols, y[KEPT], want[KEPT];
    for (size_t r = begin; r < end; r++) {
        double *sums = c->sums[r];
        tensor_decode_row(p->t, r, w);
        multiply(y, w, c->inputs, cols);
        tensor_decode_row(p->of, row_order_find(p->order, p->t->rows, r), w);
        multiply(want, w, c->wanted, cols);
        sums[0] = sums[1] = 0;
        for (size_t k = 0; k < c->n_kept; k++) {
            const double d = (double)want[k] - (double)y[k];
            sums[0] += (double)want[k] * (double)want[k];
            sums[1] += d * d;
        }
    }
}

static nib_status compare_site(comparing *c, walk_site at, int layer, nib_error *err) {
    bool kept = false;
    for (size_t i = 0; i < c->n; i++) {
        outputs_pair *p = &c->pairs[i];
        if (!reads_site(c, p, at, layer))
            continue;
        if (!kept) {
            NIB_TRY(keep(c, &c->now, at, layer, p->t->cols, c->inputs, err));
            NIB_TRY(keep(c, &c->source, at, layer, p->t->cols, c->wanted, err));
        }
        kept = true;
        c->at = p;
        pool_for(c->pool, p->t->rows, 8, compare_rows, c);
        for (size_t r = 0; r < p->t->rows; r++) {
            p->norm += c->sums[r][0];
            p->error += c->sums[r][1];
        }
        NIB_TRY(stop_check(c->o->interrupted, err));
    }
    return NIB_OK;
}

/* ---- the walk ---- */

static nib_status run_layer(comparing *c, int layer, nib_error *err) {
    static const walk_site sites[] = {SITE_QKV, SITE_O, SITE_GATE_UP, SITE_DOWN};
    for (int k = 0; k < 4; k++) {
        const half_kind kind = k < 2 ? HALF_ATTENTION : HALF_MLP;
        NIB_TRY(compare_site(c, sites[k], layer, err));
        NIB_TRY(walk_half(&c->now, kind, layer, k % 2, tick, c, err));
        NIB_TRY(walk_half(&c->source, kind, layer, k % 2, tick, c, err));
    }
    return NIB_OK;
}

static nib_status open_all(comparing *c, const model_file *file, const model_file *source, backend *be,
                           nib_error *err) {
    const size_t threads = (size_t)(c->o->threads > 1 ? c->o->threads : 1);
    size_t widest = 1, most = 1;
    NIB_TRY(walk_text_cut(&c->text, c->o, source, err));
    NIB_TRY(pool_new(&c->pool, (int)threads, err));
    for (size_t i = 0; i < c->n; i++) {
        widest = c->pairs[i].t->cols > widest ? c->pairs[i].t->cols : widest;
        most = c->pairs[i].t->rows > most ? c->pairs[i].t->rows : most;
    }
    c->inputs = mem_array(widest, KEPT * sizeof *c->inputs);
    c->wanted = mem_array(widest, KEPT * sizeof *c->wanted);
    c->rows = mem_array(threads, widest * sizeof *c->rows);
    c->sums = mem_array(most, sizeof *c->sums);
    if (!c->inputs || !c->wanted || !c->rows || !c->sums)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory to compare what its layers give", file->path);
    c->stride = (c->text.n_rows + KEPT - 1) / KEPT;
    c->total = (uint64_t)c->text.n_batches * 8 * (uint64_t)file->hp.n_layers;
    NIB_TRY(walk_open(&c->now, &c->text, file, be, false, file->path, err));
    return walk_open(&c->source, &c->text, source, be, false, source->path, err);
}

static nib_status run_all(comparing *c, const model_file *file, const model_file *source, backend *be,
                          nib_error *err) {
    NIB_TRY(open_all(c, file, source, be, err));
    for (int layer = 0; layer < file->hp.n_layers; layer++)
        NIB_TRY(run_layer(c, layer, err));
    return compare_site(c, SITE_HEAD, 0, err);
}

static nib_status check_shapes(const model_file *file, const model_file *source, nib_error *err) {
    const hparams *a = &file->hp, *b = &source->hp;
    NIB_TRY(model_file_need_network(file, err));
    NIB_TRY(model_file_need_network(source, err));
    if (a->n_layers == b->n_layers && a->dim == b->dim && a->ffn_dim == b->ffn_dim &&
        a->n_heads == b->n_heads && a->head_dim == b->head_dim && a->vocab == b->vocab)
        return NIB_OK;
    return nib_fail(err, NIB_BAD_ARGUMENT, "%s: a network of another shape than %s; expected its source",
                    file->path, source->path);
}

nib_status outputs_compare(outputs_pair *pairs, size_t n, const model_file *file, const model_file *source,
                           backend *be, const tune_options *options, nib_error *err) {
    NIB_TRY(check_shapes(file, source, err));
    comparing c = {.pairs = pairs, .n = n, .o = options};
    const nib_status status = run_all(&c, file, source, be, err);
    walk_close(&c.now);
    walk_close(&c.source);
    walk_text_free(&c.text);
    pool_free(c.pool);
    mem_free(c.inputs);
    mem_free(c.wanted);
    mem_free(c.rows);
    mem_free(c.sums);
    return status;
}
