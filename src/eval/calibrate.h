/* SPDX-License-Identifier: Apache-2.0
 *
 * Calibrate: what the inputs of every linear layer look like, by one pass over a text: E[x_j^2] per channel,
 * which the `weighted` method weighs its errors with, and, where asked for, what `local` and static scales
 * need. Callers: cli quantize, cli calibrate.
 */
#ifndef EVAL_CALIBRATE_H
#define EVAL_CALIBRATE_H

#include "base/pool.h"
#include "base/progress.h"
#include "eval/calib_set.h"
#include "eval/input_stats.h"
#include "model/layerwise.h"

#define CALIBRATE_STREAM_BYTES ((size_t)256 << 20)

/* The text written for the project, of several kinds: prose, dialogue, code, lists, other languages. */
extern const char calibration_text[];
extern const size_t calibration_text_bytes;
/* Questions that a chat model is asked, to calibrate it with its own answers. */
extern const char *const calibration_questions[];
extern const size_t n_calibration_questions;

typedef struct calibrate_options {
    bool looks;  /* at rows: blocks of second moments and peaks, too */
    int threads; /* that look */
    progress progress;
    const volatile sig_atomic_t *interrupted; /* becomes non-zero: NIB_CANCELLED; may be NULL */
} calibrate_options;

/* Runs the windows of SET, one at least, through FILE's network on BE, which computes with exact activations.
 * The matrices of half a layer are in memory at a time, and the residual stream of as many windows as
 * CALIBRATE_STREAM_BYTES hold; a longer text takes several walks through the layers. OUT gets sums for
 * SLOT_Q, _K, _V, _O, _GATE, _UP, _DOWN (and joined ones) of every layer, and for SLOT_HEAD and SLOT_EMBED
 * (the input of the head, of some rows) at layer 0; by LOOKS blocks and peaks. It is freed with
 * input_stats_free. */
nib_status calibrate(input_stats *out, const model_file *file, backend *be, const calib_set *set,
                     const calibrate_options *options, nib_error *err);

#endif
