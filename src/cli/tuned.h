/* SPDX-License-Identifier: Apache-2.0
 *
 * Tuned: what `nibble quantize --method gptq|best` does before it writes: the model is loaded, a
 * calibration text made into windows, and the codes of every matrix chosen layer by layer (tune).
 */
#ifndef CLI_TUNED_H
#define CLI_TUNED_H

#include "base/mapfile.h"
#include "cli/ui.h"
#include "convert/convert.h"
#include "engine/loaded.h"
#include "eval/calib_set.h"
#include "tune/smoothing.h"
#include "tune/tune.h"

/* Whether a calibration's file holds conversations (.jsonl). */
bool tuned_is_chats(const char *path);

/* What somebody calibrates with. */
typedef struct tuned_text {
    const char *path;               /* a text, or conversations; NULL: the text inside nibble */
    const char *name;               /* in sentences */
    bool and_text;                  /* conversations, and the text inside nibble as far as there is room */
    size_t max_tokens, chat_tokens; /* in all; of conversations */
} tuned_text;

/* Its windows by L's tokenizer, and conversations in the form of L's chat template. */
nib_status tuned_read_set(calib_set *set, const loaded *l, const tuned_text *from, nib_error *err);

typedef struct tuned {
    /* given */
    const model_file *file;
    const char *in, *out;
    tuned_text calib;
    bool even; /* the text beside conversations counts as much as they do, where it is shorter */
    tune_method method;
    int threads;
    ui_bar *bar;

    /* filled */
    tune_matrix *matrices; /* [n] */
    size_t n, n_tokens;
    double seconds;

    loaded *l;
    calib_set set;
    float *counts; /* of its windows; NULL: one each */
    tune *t;
    char *journal;
} tuned;

/* Model and text are there and the model can be computed: asked before anything is written. NIB_UNSUPPORTED:
 * nibble does not run the model. */
nib_status tuned_open(tuned *t, nib_error *err);
/* OUT.tuning, freed with mem_free; NULL: no memory. */
char *tuned_journal_of(const char *out);
/* convert's hook: CONTEXT is a tuned. */
nib_status tuned_choose(void *context, convert_matrix *matrices, size_t n, nib_error *err);
void tuned_close(tuned *t, bool done); /* DONE: the output is written, the journal is not needed */
/* Removes what a stopped run for the output OUT left, whatever its method. */
void tuned_discard(const char *out);

/* --smooth: what to move from the norms into the matrices that read them, by T, which is open. */
typedef struct tuned_smoothed {
    smoothing found;
    const int8_t **powers; /* [2 * n_layers] for convert */
    double seconds;
} tuned_smoothed;

nib_status tuned_smooth(tuned_smoothed *out, tuned *t, nib_error *err);
void tuned_smoothed_print(const tuned_smoothed *s); /* nothing where nothing was smoothed */
void tuned_smoothed_print_json(const tuned_smoothed *s);
void tuned_smoothed_free(tuned_smoothed *s);

/* For the report: by how much the held-out error of all matrices together is below the sweep's, and which
 * ways were taken. */
void tuned_print(const tuned *t);
void tuned_print_json(const tuned *t); /* an array, a line per matrix */

/* A text in UTF-8, mapped. */
nib_status tuned_open_text(mapfile *map, const char *path, nib_error *err);

#endif
