/* SPDX-License-Identifier: Apache-2.0
 *
 * What o and down give is added to the residual stream, so they can make good what it has lost: r. Where a
 * norm stands between (Gemma), they cannot. See moments.h.
 */
#include "tune/moments.h"

#include "base/mem.h"

typedef struct gathering {
    const moments_job *job;
    size_t cols, dim;
    bool with_r;
    float *x, *d, *r; /* [WALK_MAX_ROWS, cols], the same, [WALK_MAX_ROWS, dim] */
} gathering;

static nib_status no_memory(const gathering *g, nib_error *err) {
    return nib_fail(err, NIB_NO_MEMORY, "no memory for second moments of %zu inputs", g->cols);
}

static nib_status open_moments(moments *m, const gathering *g, nib_error *err) {
    pool *team = g->job->team;
    NIB_TRY(gram_open(&m->h, team, 0, g->cols, err));
    if (!g->job->source)
        return NIB_OK;
    NIB_TRY(gram_open(&m->c, team, g->cols, g->cols, err));
    if (g->with_r)
        NIB_TRY(gram_open(&m->r, team, g->dim, g->cols, err));
    if (m == g->job->train)
        return NIB_OK;
    NIB_TRY(gram_open(&m->d, team, 0, g->cols, err));
    if (!g->with_r)
        return NIB_OK;
    m->squares = mem_array(g->dim, sizeof *m->squares);
    return m->squares ? gram_open(&m->across, team, g->dim, g->cols, err) : no_memory(g, err);
}

static void finish_moments(moments *m, const gathering *g) {
    gram_finish(&m->h);
    if (!g->job->source)
        return;
    gram_finish(&m->c);
    if (m == g->job->test)
        gram_finish(&m->d);
    if (g->with_r)
        gram_finish(&m->r);
    if (m->squares) {
        for (size_t j = 0; j < g->dim; j++)
            m->squares[j] /= (double)m->across.n;
        gram_finish(&m->across);
    }
    m->pulls = true;
    m->pull = (gptq_pull){m->c.h, m->r.h};
}

static nib_status add_batch(const gathering *g, size_t i, nib_error *err) {
    const walk_text *text = g->job->now->text;
    const size_t rows = (size_t)text->batches[i].n_rows;
    const float by = text->by[i], *read, *wanted;
    moments *m = text->held_out[i] ? g->job->test : g->job->train;
    float *x = g->x;
    NIB_TRY(walk_input(g->job->now, g->job->at, g->job->layer, i, &read, err));
    for (size_t j = 0; j < rows * g->cols; j++)
        x[j] = read[j] * by;
    gram_add(&m->h, NULL, x, rows);
    if (!g->job->source)
        return NIB_OK;
    NIB_TRY(walk_input(g->job->source, g->job->at, g->job->layer, i, &wanted, err));
    for (size_t j = 0; j < rows * g->cols; j++)
        g->d[j] = (wanted[j] - read[j]) * by;
    gram_add(&m->c, g->d, x, rows);
    if (m == g->job->test)
        gram_add(&m->d, NULL, g->d, rows);
    if (!g->with_r)
        return NIB_OK;
    const float *to = walk_residual(g->job->source, i), *from = walk_residual(g->job->now, i);
    for (size_t j = 0; j < rows * g->dim; j++)
        g->r[j] = (to[j] - from[j]) / g->job->hp->residual_scale * by;
    gram_add(&m->r, g->r, x, rows);
    if (m != g->job->test)
        return NIB_OK;
    for (size_t j = 0; j < rows * g->dim; j++)
        m->squares[j % g->dim] += (double)g->r[j] * (double)g->r[j];
    gram_add(&m->across, g->r, g->d, rows);
    return NIB_OK;
}

static nib_status gather(const gathering *g, nib_error *err) {
    const moments_job *job = g->job;
    if (!g->x || (job->source && (!g->d || !g->r)))
        return no_memory(g, err);
    NIB_TRY(open_moments(job->train, g, err));
    NIB_TRY(open_moments(job->test, g, err));
    for (size_t i = 0; i < job->now->text->n_batches; i++) {
        NIB_TRY(add_batch(g, i, err));
        walk_leave(job->now, i);
        if (job->source)
            walk_leave(job->source, i);
        NIB_TRY(job->tick(job->context, err));
    }
    finish_moments(job->train, g);
    finish_moments(job->test, g);
    return NIB_OK;
}

nib_status moments_gather(const moments_job *job, nib_error *err) {
    gathering g = {.job = job,
                   .cols = job->cols,
                   .dim = (size_t)job->hp->dim,
                   .with_r = (job->at == SITE_O || job->at == SITE_DOWN) && job->hp->norms == NORM_BEFORE};
    g.x = mem_array(g.cols, WALK_MAX_ROWS * sizeof *g.x);
    if (job->source) {
        g.d = mem_array(g.cols, WALK_MAX_ROWS * sizeof *g.d);
        g.r = mem_array(g.dim, WALK_MAX_ROWS * sizeof *g.r);
    }
    nib_status status = gather(&g, err);
    mem_free(g.x);
    mem_free(g.d);
    mem_free(g.r);
    return status;
}

void moments_close(moments *m) {
    gram_close(&m->h);
    gram_close(&m->c);
    gram_close(&m->r);
    gram_close(&m->d);
    gram_close(&m->across);
    mem_free(m->squares);
    *m = (moments){0};
}
