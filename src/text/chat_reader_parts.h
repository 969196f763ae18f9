/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of a reader, for chat_reader.c (formats with markers) and chat_harmony.c. Private to the text
 * room.
 */
#ifndef TEXT_CHAT_READER_PARTS_H
#define TEXT_CHAT_READER_PARTS_H

#include "text/chat_calls.h"
#include "text/chat_reader.h"

typedef enum chat_state {
    CHAT_IN_TEXT,
    CHAT_IN_REASONING,
    CHAT_IN_CALL,          /* the input begins with a call's marker */
    CHAT_IN_REASONED_CALL, /* the same within reasoning */
    CHAT_IN_HEAD,          /* harmony: of a message */
} chat_state;

struct chat_reader {
    const chat_format *format;     /* NULL: no calls are looked for */
    const chat_thinking *thinking; /* NULL: none */
    const char *const *wrappers;   /* of the format, with or without tools; NULL: none */
    const json_t *tools;
    chat_sink sink;
    void *context;
    chat_state state;
    text_buffer input; /* from `at` on: what has not been given away */
    size_t at;
    size_t looked;      /* bytes of a call in which its end has been looked for */
    int attempts;       /* at the call at hand */
    chat_scan scan;     /* of a call that ends with its JSON */
    bool fresh;         /* nothing of the state's kind has been given yet: white space is dropped */
    bool at_start;      /* a bare call may begin here */
    bool given;         /* some text */
    const char *stray;  /* a closing marker that may stand here without its opening, or NULL */
    text_buffer spaces; /* white space that was held back, of the kind at hand */
    text_buffer piece;
    int n_calls;
    bool streams;          /* calls are given while they are written */
    size_t begun;          /* of the calls at hand: those of which something was given */
    size_t argued;         /* bytes that were given of the last one's arguments */
    size_t peeked;         /* bytes of the input that were there when calls were last looked for in it */
    size_t told;           /* bytes of the input that what was given stands for */
    size_t n_broken;       /* calls that broke off after something of them was given */
    text_buffer recipient; /* harmony: of the message at hand; empty: none */
};

strview chat_input(const chat_reader *r); /* what has not been given away */
void chat_take(chat_reader *r, size_t n); /* gives up N bytes of it */
/* Gives N bytes of the input as KIND, white space at their end held back. */
nib_status chat_give(chat_reader *r, chat_piece_kind kind, size_t n, nib_error *err);
/* Gives of the calls at hand what was not given before. */
nib_status chat_give_calls(chat_reader *r, const chat_calls *calls, nib_error *err);
/* Is there enough more of the calls at hand to look what can be given of them? */
bool chat_may_peek(chat_reader *r);
/* The calls at hand are over. True when they broke off: the input up to r->told is taken. */
bool chat_end_calls(chat_reader *r, bool whole);
nib_status chat_give_spaces(chat_reader *r, chat_piece_kind kind, nib_error *err);
/* Bytes of S before the first of MARKS (ends with NULL) or, with *which NULL, before what may become one. */
size_t chat_find_mark(strview s, const char *const *marks, const char **which);

/* One step over the input; *more: another may follow. LAST: nothing follows the input. */
nib_status chat_harmony_step(chat_reader *r, bool last, bool *more, nib_error *err);

#endif
