/* SPDX-License-Identifier: Apache-2.0
 *
 * Tell: an answer from its request to its last byte, whole or as a stream, whichever API asked. What differs
 * between the APIs are their words: a table each, in the files route_*.
 */
#ifndef SERVE_TELL_H
#define SERVE_TELL_H

#include "serve/blocks.h"

typedef struct teller {
    stream base;
    const struct tell_words *words;
    answer *answer;
    blocks blocks; /* of APIs that tell blocks */
    buf *out;      /* while a stream's piece is written */
    json_int_t sequence;
    bool begun, over;
} teller;

typedef struct tell_words {
    const char *id_prefix;
    bool (*read)(ask *a, const json_t *body, api_error *e);
    bool (*add)(answer *r, api_error *e); /* its prompts */

    /* The whole answer, its blocks complete; NULL: no memory. */
    json_t *(*whole)(const teller *t);

    /* A stream, written into t->out. At once, if not NULL, for clients wait for it: */
    void (*begin)(teller *t);
    /* What is new in a choice, which becomes old; NULL: blocks are told, by the three that follow. */
    void (*news)(teller *t, choice *c);
    void (*begin_block)(void *t, const block *b, size_t i);
    void (*more_of_block)(void *t, const block *b, size_t i, const char *text, size_t n);
    void (*end_block)(void *t, const block *b, size_t i);
    void (*end)(teller *t);  /* also of an answer that has failed: r->error */
    void (*ping)(teller *t); /* a sign of life; NULL: a comment */
} tell_words;

/* Answers X, as WORDS say. */
void tell(exchange *x, const tell_words *words);

#endif
