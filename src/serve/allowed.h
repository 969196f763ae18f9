/* SPDX-License-Identifier: Apache-2.0
 *
 * Allowed: a guide that lets only some tokens come (vLLM's allowed_token_ids), and some words not
 * (bad_words). A word of several tokens is kept away by its last one, where the others were generated. The
 * engine's thread asks it.
 */
#ifndef SERVE_ALLOWED_H
#define SERVE_ALLOWED_H

#include "serve/ask.h"

typedef struct allowed allowed;

/* *OUT NULL: A asks for neither. A word is kept away both as it begins a text and behind a space. */
nib_status allowed_open(allowed **out, nib_engine *engine, const ask *a, nib_error *err);
void allowed_close(allowed *g); /* when the request has ended; NULL is fine */
const nib_guide *allowed_guide(const allowed *g);

#endif
