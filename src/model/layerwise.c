/* SPDX-License-Identifier: Apache-2.0
 *
 * The loops of a forward turned inside out. Each batch has an x of its own; a half of a layer is bound, run
 * over all batches, and freed.
 */
#include "model/layerwise.h"

#include "base/mem.h"
#include "model/network.h"

typedef struct walk {
    const model_file *file;
    const layerwise_job *job;
    model *m;
    buf **x; /* [n_batches] F32 [rows, dim] */
    uint64_t done;
    nib_error *err;
} walk;

static nib_status open_streams(walk *w) {
    const layerwise_job *job = w->job;
    w->x = mem_array(job->n_batches, sizeof *w->x);
    if (!w->x)
        return nib_fail(w->err, NIB_NO_MEMORY, "%s: no memory to calibrate", w->file->path);
    for (size_t i = 0; i < job->n_batches; i++)
        NIB_TRY(w->m->be->buf_new(w->m->be, &w->x[i], BUF_F32, (size_t)job->batches[i].n_rows,
                                  (size_t)w->m->hp->dim, w->err));
    return NIB_OK;
}

static nib_status open_all(walk *w, backend *be) {
    NIB_TRY(network_open(&w->m, w->file, be, &w->job->limits, w->err));
    NIB_TRY(weights_bind_vectors(&w->m->w, w->file, be, w->err));
    for (int i = 0; i < w->m->hp->n_layers; i++)
        w->m->w.layers[i].attn.layer = 0; /* of the pages, which serve every layer in turn */
    NIB_TRY(network_kv(w->m, 1, w->err));
    w->m->observed = w->job->sums;
    return open_streams(w);
}

static void close_all(walk *w) {
    for (size_t i = 0; w->x && i < w->job->n_batches; i++)
        if (w->x[i])
            w->m->be->buf_free(w->m->be, w->x[i]);
    mem_free(w->x);
    if (w->m)
        w->m->x = NULL; /* one of those */
    network_close(w->m);
}

static void queue_part(model *m, weights_part part, int layer) {
    switch (part) {
    case WEIGHTS_EMBED:
        m->be->embed(m->be, m->x, m->w.embed, m->hp->embed_scale);
        break;
    case WEIGHTS_ATTENTION:
        m->layer->attention_half(m, &m->w.layers[layer], layer);
        break;
    case WEIGHTS_MLP:
        m->layer->mlp_half(m, &m->w.layers[layer], layer);
        break;
    }
}

/* One part of the network over all batches. After the last layer comes the norm that the head reads. */
static nib_status run_part(walk *w, weights_part part, int layer) {
    model *m = w->m;
    bool last = part == WEIGHTS_MLP && layer == m->hp->n_layers - 1;
    NIB_TRY(weights_bind_part(&m->w, w->file, m->be, part, layer, w->err));
    for (size_t i = 0; i < w->job->n_batches; i++) {
        const batch *b = &w->job->batches[i];
        if (w->job->interrupted && *w->job->interrupted)
            return nib_fail(w->err, NIB_CANCELLED, "interrupted");
        m->x = w->x[i];
        m->be->step_begin(m->be, b);
        queue_part(m, part, layer);
        if (last && b->n_out > 0)
            network_final_norm(m);
        NIB_TRY(m->be->step_finish(m->be, w->err));
        w->done += part == WEIGHTS_MLP ? (uint64_t)b->n_rows : 0;
        progress_report(w->job->progress, "calibrating", w->done, w->job->total);
    }
    weights_unbind_part(&m->w, w->file, m->be, part, layer);
    return NIB_OK;
}

static nib_status run_all(walk *w, backend *be) {
    NIB_TRY(open_all(w, be));
    NIB_TRY(run_part(w, WEIGHTS_EMBED, -1));
    for (int layer = 0; layer < w->m->hp->n_layers; layer++) {
        NIB_TRY(run_part(w, WEIGHTS_ATTENTION, layer));
        NIB_TRY(run_part(w, WEIGHTS_MLP, layer));
    }
    return NIB_OK;
}

nib_status layerwise_run(const model_file *file, backend *be, const layerwise_job *job, nib_error *err) {
    walk w = {.file = file, .job = job, .done = job->done, .err = err};
    nib_status status = run_all(&w, be);
    close_all(&w);
    return status;
}
