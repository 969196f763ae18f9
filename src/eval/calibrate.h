/* SPDX-License-Identifier: Apache-2.0
 *
 * Calibrate: E[x_j^2] per input channel of every linear layer, by one forward pass over a text. It is what
 * the `weighted` quantization method weighs its errors with. Caller: cli quantize.
 */
#ifndef EVAL_CALIBRATE_H
#define EVAL_CALIBRATE_H

#include "base/progress.h"
#include "model/model.h"
#include "quant/convert.h"
#include "text/tokenizer.h"

#define CALIBRATE_WINDOW 512 /* tokens that see each other */

/* The text written for the project, of several kinds: prose, dialogue, code, lists, other languages. */
extern const char calibration_text[];
extern const size_t calibration_text_bytes;

/* What model_open needs for calibrate. */
model_limits calibrate_limits(void);

/* Runs TEXT through M in windows of CALIBRATE_WINDOW tokens (BOS first where the model asks for it), at most
 * MAX_TOKENS (0: all). OUT gets FP32 mean squares for SLOT_Q, _K, _V, _O, _GATE, _UP, _DOWN of every layer,
 * and for SLOT_HEAD and SLOT_EMBED (the input of the head) at layer 0. *n_tokens (may be NULL): how many were
 * used. calibrate_free frees what it holds. */
nib_status calibrate(importance *out, model *m, const tokenizer *words, const char *text, size_t bytes,
                     size_t max_tokens, const progress *p, size_t *n_tokens, nib_error *err);
void calibrate_free(importance *i);

#endif
