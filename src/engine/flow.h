/* SPDX-License-Identifier: Apache-2.0
 *
 * Flow: tokens to text as it is streamed: whole characters only, up to where a stop text begins. What may
 * become a stop text is held back until it is clear that it does not.
 *
 * The same tokens give the same text and the same end, so the engine's thread can watch for the end with one
 * flow and the caller's thread tell the text with another.
 */
#ifndef ENGINE_FLOW_H
#define ENGINE_FLOW_H

#include "engine/stops.h"
#include "text/tokenizer.h"

typedef struct flow {
    const stop_texts *stops;
    detokenizer detokenizer;
    char *text; /* what the last call gave, with a NUL behind */
    size_t n_text;
    char *held; /* [stops->longest] may become a stop text */
    size_t n_held;
    uint16_t *matched; /* [stops->n] see stops_feed */
    size_t room;
    bool control; /* control tokens are their text */
} flow;

/* LONGEST_PIECE: bytes of the vocabulary's longest. TEXTS outlive the flow. */
nib_status flow_open(flow *f, const stop_texts *texts, size_t longest_piece, nib_error *err);
void flow_close(flow *f); /* safe on a zeroed struct */

/* f->text becomes what TOKEN adds. Returns the number of the stop text that it completes, or -1; nothing
 * follows it. Ids without a piece (the head may have rows to spare) add nothing. */
int flow_push(flow *f, const tokenizer *words, int32_t token);
/* f->text becomes all that was held back. */
void flow_end(flow *f);

#endif
