/* SPDX-License-Identifier: Apache-2.0
 *
 * What a model writes, taken apart as it comes: text, reasoning, calls of tools. The pieces of one kind, put
 * together, are the plain answer: there is no other.
 *
 * A call is held back until it is whole, because what turns out to be no call must become text, and what has
 * been given away cannot be taken back; unless calls are asked for while they are written. Of the rest only
 * what may still become a marker is held.
 */
#ifndef TEXT_CHAT_READER_H
#define TEXT_CHAT_READER_H

#include "text/chat.h"

typedef enum chat_piece_kind {
    CHAT_PIECE_TEXT,
    CHAT_PIECE_REASONING,
    CHAT_PIECE_CALL,     /* a call begins: name and id */
    CHAT_PIECE_ARGUMENTS /* more of its arguments' JSON */
} chat_piece_kind;

typedef struct chat_piece {
    chat_piece_kind kind;
    int call;     /* which one, from 0: CALL, ARGUMENTS */
    strview text; /* the name of the function for CALL */
    strview id;   /* CALL: as the model gave it; empty where the format has none */
} chat_piece;

/* Takes one piece, which lives during the call; what it returns ends the reading. */
typedef nib_status (*chat_sink)(void *context, const chat_piece *piece, nib_error *err);

typedef struct chat_reader chat_reader;

/* C and TOOLS live longer than the reader. TOOLS: the list that the model was offered; without any, calls are
 * text. PROMPT is what the answer follows: it may already have begun the reasoning. */
nib_status chat_reader_open(chat_reader **out, const chat *c, const json_t *tools, const chat_prompt *prompt,
                            chat_sink sink, void *context, nib_error *err);
/* Another one like UNREAD, which was told nothing yet (asserted). */
nib_status chat_reader_again(chat_reader **out, const chat_reader *unread, void *context, nib_error *err);
/* From here on (before the first text) calls are given while they are written: the name when it is known,
 * then the arguments as they grow, those of tags as each value closes. A call that breaks off stays as far as
 * it was given, its arguments no JSON; what follows is text. */
void chat_reader_stream_calls(chat_reader *r);
/* More of the answer: valid UTF-8, control tokens as their text, without the token that ends it. */
nib_status chat_reader_push(chat_reader *r, const char *text, size_t n, nib_error *err);
nib_status chat_reader_end(chat_reader *r, nib_error *err); /* nothing follows */
bool chat_reader_in_reasoning(const chat_reader *r);
void chat_reader_close(chat_reader *r); /* NULL is fine */

/* A whole answer at once. Everything is allocated; freed with chat_answer_free. */
typedef struct chat_answer {
    char *text, *reasoning; /* never NULL */
    struct chat_answer_call {
        char *name, *id, *arguments;
    } * calls;
    size_t n_calls;
} chat_answer;

nib_status chat_read(const chat *c, const json_t *tools, const chat_prompt *prompt, const char *text,
                     size_t n, chat_answer *out, nib_error *err);
void chat_answer_free(chat_answer *a);

#endif
