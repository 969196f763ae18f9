/* SPDX-License-Identifier: Apache-2.0
 *
 * Draft: a smaller network of the same words that says what a larger one may say next. It draws as that one
 * will, with the same seed at the same position, so that the better it knows the larger one's probabilities,
 * the more often both draw the same.
 *
 * It keeps a sequence of its own for each that it is asked about, and takes back what the larger network did
 * not share. Belongs to the engine's thread.
 */
#ifndef ENGINE_DRAFT_H
#define ENGINE_DRAFT_H

#include "engine/loaded.h"

typedef struct draft draft;
typedef struct draft_seq draft_seq;

/* The model at PATH, to guess for TARGET, with that one's options. Refused: other words. */
nib_status draft_open(draft **out, const char *path, const loaded *target, nib_error *err);
void draft_close(draft *d); /* NULL is fine */

/* A sequence that is asked about. */
typedef struct draft_ask {
    draft_seq **seq;       /* the draft's memory of it: NULL at first, and once it is forgotten */
    const int32_t *tokens; /* [n_tokens] so far */
    int32_t n_tokens, limit;
    const sample_row *how; /* of the next token */
    int32_t *guesses;      /* [n_guesses] wanted; 0: none this time, but it is remembered */
    int n_guesses;         /* afterwards those that came */
} draft_ask;

/* Guesses for ASKS [N]; sequences that are not among them are forgotten. What it has not read yet it reads
 * first, a piece at a time, and guesses nothing of it before. Where it fails it forgets who was in that step.
 */
nib_status draft_guess(draft *d, draft_ask *asks, int n, nib_error *err);
void draft_forget(draft *d, draft_seq **seq); /* *SEQ may be NULL */

bool draft_has_read(const draft *d); /* the last draft_guess read, and guessed nothing */

/* Seconds that one guess takes, and reading N tokens, moving averages; 0: not known. */
double draft_guess_seconds(const draft *d);
double draft_read_seconds(const draft *d, int n);

#endif
