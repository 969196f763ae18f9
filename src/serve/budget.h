/* SPDX-License-Identifier: Apache-2.0
 *
 * Budget: so many tokens of reasoning, then the model is made to close it. A guide in front of another one
 * (or none), so that the request keeps its place and its pages. The engine's thread asks it.
 */
#ifndef SERVE_BUDGET_H
#define SERVE_BUDGET_H

#include "nibble.h"

typedef struct budget budget;

/* INNER (may be NULL) and ENGINE outlive it. UNREAD is a reader of the conversation that was told nothing
 * yet; reasoning ends with the text CLOSING. */
nib_status budget_open(budget **out, nib_engine *engine, const nib_reader *unread, int n_tokens,
                       const char *closing, const nib_guide *inner, nib_error *err);
/* When the request has ended, before the readers' chat; NULL is fine. */
void budget_close(budget *b);
const nib_guide *budget_guide(const budget *b);

#endif
