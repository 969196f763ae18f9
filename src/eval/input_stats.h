/* SPDX-License-Identifier: Apache-2.0
 *
 * Input stats: what a text's activations look like where linear layers read them, as calibrate gathers it and
 * imatrix stores it; and what quantizing takes from it. q, k and v read one input, so do gate and up: what is
 * known of the input itself stands at SLOT_Q, SLOT_O, SLOT_GATE, SLOT_DOWN and, of the head, SLOT_HEAD at
 * layer 0 (input_stats_slot). Callers: calibrate, imatrix, cli.
 */
#ifndef EVAL_INPUT_STATS_H
#define EVAL_INPUT_STATS_H

#include "base/status.h"
#include "nouns/hparams.h"
#include "quant/scale_search.h"

enum { INPUT_STATS_BLOCK = 16, INPUT_STATS_PEAKS = 4 };
extern const double input_stats_shares[INPUT_STATS_PEAKS]; /* 1, 0.99, 0.999, 0.9999 */

typedef struct input_stat {
    float count;        /* rows that were added up; 0: none */
    float *sums;        /* [cols] of x_j^2; NULL: not known. Of every slot of linear layers */
    float *blocks;      /* [cols, INPUT_STATS_BLOCK] sums of x_i x_j, j of i's block; NULL: not known */
    float blocks_count; /* rows of theirs */
    /* What that share of all |x| does not exceed: the largest, and at most a 128th more than the smallest
     * such number. Also at SLOT_K_SCALE and SLOT_V_SCALE, where they are keys' (as a cache stores them) and
     * values', the largest alone. */
    float peaks[INPUT_STATS_PEAKS];
    bool has_peaks;
} input_stat;

typedef struct input_stats {
    input_stat *of; /* [n_layers * SLOT_COUNT] */
    int n_layers;
} input_stats; /* zero-initialize */

nib_status input_stats_open(input_stats *s, int n_layers, nib_error *err);
void input_stats_free(input_stats *s);
input_stat *input_stats_at(const input_stats *s, slot at, int layer); /* layer -1, the head's: 0 */

/* The slot that stands for the input of a linear layer or head in S, any other itself; and the columns of one
 * that stands for an input, 0 of all others. */
slot input_stats_slot(slot s);
size_t input_stats_cols(const hparams *hp, slot s, int layer);

/* Means of the sums, and of the blocks where BLOCKS. OUT is freed with input_stats_forget. */
nib_status input_stats_importance(importance *out, const input_stats *s, const hparams *hp, bool blocks,
                                  nib_error *err);
void input_stats_forget(importance *i);
/* *reach [n_layers * SLOT_COUNT], freed with mem_free: the largest input of each linear layer, and keys' and
 * values'; 0: not known. */
nib_status input_stats_reach(float **reach, const input_stats *s, nib_error *err);

#endif
