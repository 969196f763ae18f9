/* SPDX-License-Identifier: Apache-2.0
 *
 * Calibrate: E[x_j^2] per input channel of every linear layer, by one pass over a text. It is what
 * the `weighted` quantization method weighs its errors with. Caller: cli quantize.
 */
#ifndef EVAL_CALIBRATE_H
#define EVAL_CALIBRATE_H

#include "base/progress.h"
#include "eval/calib_set.h"
#include "model/layerwise.h"
#include "quant/scale_search.h"
#include "text/tokenizer.h"

#define CALIBRATE_WINDOW       512 /* tokens that see each other */
#define CALIBRATE_STREAM_BYTES ((size_t)256 << 20)

/* The text written for the project, of several kinds: prose, dialogue, code, lists, other languages. */
extern const char calibration_text[];
extern const size_t calibration_text_bytes;
/* Questions that a chat model is asked, to calibrate it with its own answers. */
extern const char *const calibration_questions[];
extern const size_t n_calibration_questions;

typedef struct calibrate_options {
    const calib_set *set; /* windows of CALIBRATE_WINDOW tokens at most; NULL: the text */
    const char *text;
    size_t bytes;
    size_t max_tokens; /* of the text; 0: all */
    progress progress;
    const volatile sig_atomic_t *interrupted; /* becomes non-zero: NIB_CANCELLED; may be NULL */
} calibrate_options;

/* Runs the text through FILE's network on BE (which computes with exact activations) in windows of
 * CALIBRATE_WINDOW tokens, BOS first where the model asks for it. The matrices of half a layer are in memory
 * at a time, and the residual stream of as many windows as CALIBRATE_STREAM_BYTES hold; a longer text takes
 * several walks through the layers. OUT gets FP32 mean squares for SLOT_Q, _K, _V, _O, _GATE, _UP, _DOWN of
 * every layer, and for SLOT_HEAD and SLOT_EMBED (the input of the head) at layer 0. *n_tokens (may be NULL):
 * how many were used. calibrate_free frees what it holds. */
nib_status calibrate(importance *out, const model_file *file, backend *be, const tokenizer *words,
                     const calibrate_options *options, size_t *n_tokens, nib_error *err);
void calibrate_free(importance *i);

#endif
