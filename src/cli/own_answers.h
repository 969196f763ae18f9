/* SPDX-License-Identifier: Apache-2.0
 *
 * Own answers: conversations to calibrate with that end with a user's turn get the answer that the model
 * itself gives, so that what it would write decides what its file may lose; above all where such an
 * answer ends (docs/notes/gptq.md). Caller: cli quantize. A client of nibble.h.
 */
#ifndef CLI_OWN_ANSWERS_H
#define CLI_OWN_ANSWERS_H

#include "cli/ui.h"
#include "nibble.h"

enum { OWN_ANSWER_TOKENS = 256 }; /* at most */

/* A conversation a line in PATH. *n is how many are unanswered; where there are such all lines are written to
 * OUT, blank where the model IN did not end its answer within that, and *n_ended are answered. Sampled
 * as `nibble run` does, the n-th with the seed n, so that the same model, file and processor give the same
 * answers. */
nib_status own_answers(const char *path, const char *in, int threads, const char *out, ui_bar *bar, size_t *n,
                       size_t *n_ended, nib_error *err);

#endif
