/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocks: an answer as Anthropic's and the Responses API tell it, a list of texts, stretches of reasoning and
 * calls, each of which begins, grows and ends.
 */
#ifndef SERVE_BLOCKS_H
#define SERVE_BLOCKS_H

#include "serve/answer.h"

typedef struct block {
    nib_piece_kind kind; /* TEXT, REASONING, CALL */
    int call;            /* of CALL: which of the choice's */
    char id[64];
    buf text; /* so far; of a call: its arguments */
} block;

typedef struct blocks {
    block *list; /* [n] */
    size_t n;
    bool open; /* the last one */
    bool failed;
    /* Who is told, each may be NULL. I: the block's number. */
    void (*begin)(void *context, const block *b, size_t i);
    void (*more)(void *context, const block *b, size_t i, const char *text, size_t n);
    void (*end)(void *context, const block *b, size_t i);
    void *context;
} blocks; /* zero-initialize but for who is told */

void blocks_take(blocks *l, choice *c); /* what is new in C, which becomes old */
void blocks_end(blocks *l);             /* nothing follows */
void blocks_free(blocks *l);

#endif
