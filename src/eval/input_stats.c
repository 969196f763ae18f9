/* SPDX-License-Identifier: Apache-2.0
 *
 * See input_stats.h.
 */
#include "eval/input_stats.h"

#include "base/mem.h"

const double input_stats_shares[INPUT_STATS_PEAKS] = {1, 0.99, 0.999, 0.9999};

static nib_status no_memory(int n_layers, nib_error *err) {
    return nib_fail(err, NIB_NO_MEMORY, "no memory for the statistics of %d layers", n_layers);
}

nib_status input_stats_open(input_stats *s, int n_layers, nib_error *err) {
    *s = (input_stats){.of = mem_array((size_t)n_layers * SLOT_COUNT, sizeof *s->of), .n_layers = n_layers};
    return s->of ? NIB_OK : no_memory(n_layers, err);
}

void input_stats_free(input_stats *s) {
    for (size_t i = 0; s->of && i < (size_t)s->n_layers * SLOT_COUNT; i++) {
        mem_free(s->of[i].sums);
        mem_free(s->of[i].blocks);
    }
    mem_free(s->of);
    *s = (input_stats){0};
}

input_stat *input_stats_at(const input_stats *s, slot at, int layer) {
    return &s->of[(size_t)(layer < 0 ? 0 : layer) * SLOT_COUNT + (size_t)at];
}

slot input_stats_slot(slot s) {
    switch (s) {
    case SLOT_K:
    case SLOT_V:
    case SLOT_QKV:
        return SLOT_Q;
    case SLOT_UP:
    case SLOT_GATE_UP:
        return SLOT_GATE;
    case SLOT_EMBED: /* as a tied head */
        return SLOT_HEAD;
    default:
        return s;
    }
}

size_t input_stats_cols(const hparams *hp, slot s, int layer) {
    switch (s) {
    case SLOT_Q:
    case SLOT_GATE:
        return (size_t)hp->dim;
    case SLOT_O:
        return (size_t)hp->n_heads * (size_t)hp->head_dim;
    case SLOT_DOWN:
        return (size_t)hp->ffn_dim;
    case SLOT_HEAD:
        return layer == 0 ? (size_t)hp->dim : 0;
    default:
        return 0;
    }
}

/* ---- what quantizing takes ---- */

/* *out [n] = SUMS over COUNT; NULL where there are none. */
static bool means_of(float **out, const float *sums, float count, size_t n) {
    if (!sums || !(count > 0))
        return true;
    *out = mem_array(n, sizeof **out);
    for (size_t i = 0; *out && i < n; i++)
        (*out)[i] = sums[i] / count;
    return *out != NULL;
}

nib_status input_stats_importance(importance *out, const input_stats *s, const hparams *hp, bool blocks,
                                  nib_error *err) {
    const size_t n = (size_t)s->n_layers * SLOT_COUNT;
    *out = (importance){.mean_squares = mem_array(n, sizeof *out->mean_squares),
                        .blocks = blocks ? mem_array(n, sizeof *out->blocks) : NULL,
                        .n_layers = s->n_layers};
    bool whole = out->mean_squares && (out->blocks || !blocks);
    for (size_t i = 0; whole && i < n; i++) {
        const slot from = input_stats_slot((slot)(i % SLOT_COUNT));
        const int layer = (int)(i / SLOT_COUNT);
        const input_stat *input = input_stats_at(s, from, layer);
        const size_t cols = input_stats_cols(hp, from, layer);
        whole = means_of(&out->mean_squares[i], s->of[i].sums, s->of[i].count, cols);
        if (whole && blocks)
            whole = means_of(&out->blocks[i], input->blocks, input->blocks_count, cols * INPUT_STATS_BLOCK);
    }
    if (whole)
        return NIB_OK;
    input_stats_forget(out);
    return no_memory(s->n_layers, err);
}

void input_stats_forget(importance *i) {
    for (size_t k = 0; k < (size_t)i->n_layers * SLOT_COUNT; k++) {
        if (i->mean_squares)
            mem_free(i->mean_squares[k]);
        if (i->blocks)
            mem_free(i->blocks[k]);
    }
    mem_free(i->mean_squares);
    mem_free(i->blocks);
    *i = (importance){0};
}

nib_status input_stats_reach(float **reach, const input_stats *s, nib_error *err) {
    *reach = mem_array((size_t)s->n_layers * SLOT_COUNT, sizeof **reach);
    if (!*reach)
        return no_memory(s->n_layers, err);
    for (size_t i = 0; i < (size_t)s->n_layers * SLOT_COUNT; i++) {
        const slot from = input_stats_slot((slot)(i % SLOT_COUNT));
        (*reach)[i] = input_stats_at(s, from, (int)(i / SLOT_COUNT))->peaks[0];
    }
    return NIB_OK;
}
