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

#define OWN_QUESTIONS "the program's own questions" /* in sentences */

enum { OWN_ANSWER_TOKENS = 256 }; /* at most */

typedef struct own_asked {
    const char *path;  /* a conversation a line; NULL: the questions inside the program */
    const char *in;    /* the model */
    const char *out;   /* where it is written */
    size_t max_tokens; /* once the conversations have so many, the rest is left out */
    int threads;
    ui_bar *bar;
} own_asked;

typedef struct own_answered {
    size_t n;       /* conversations that end with a question, and were put to the model */
    size_t n_ended; /* it answered */
    double seconds;
} own_answered;

/* Where there are such, all conversations are written to OUT, a line each, blank where the model did not end
 * its answer within that. Sampled as `nibble run` does, the n-th with the seed n, so that the same model,
 * file and processor give the same answers, for any number of threads. */
nib_status own_answers(const own_asked *asked, own_answered *out, nib_error *err);

#endif
