/* SPDX-License-Identifier: Apache-2.0
 *
 * How the families of models write calls of tools and reasoning: one table of markers. A row is data; what
 * differs in kind is its shape. Private to the text room.
 */
#ifndef TEXT_CHAT_FORMAT_H
#define TEXT_CHAT_FORMAT_H

#include "text/chat.h"

typedef enum chat_shape {
    CHAT_NO_CALLS = 0,
    CHAT_NAMED,   /* call_open NAME name_end ARGUMENTS call_close; arguments are JSON, or tags (param_open) */
    CHAT_OBJECT,  /* call_open {"name": N, "arguments": {...}}, or several of these, call_close */
    CHAT_BARE,    /* the same object with nothing around it, at the start of the answer or after call_open */
    CHAT_MISTRAL, /* call_open NAME [CALL_ID]ID [ARGS]{...}, or (first) call_open and a list of objects */
    CHAT_GEMMA,   /* call_open NAME {key:value,...} call_close */
    CHAT_HARMONY, /* messages with a channel and a recipient in their heads */
} chat_shape;

typedef struct chat_format {
    const char *name;
    chat_shape shape;
    const char *section_open, *section_close; /* around all calls of an answer, or NULL */
    const char *call_open, *call_close;       /* call_close NULL: a call ends with its JSON */
    const char *name_end;                     /* CHAT_NAMED */
    const char *head_end;                     /* what follows the name up to here says nothing; or NULL */
    /* Tags: param_open KEY key_end ... value_open VALUE param_close. What stands before value_open may name
     * the value's type: string="true". A % in param_close is the key. */
    const char *param_open, *key_end, *value_open, *param_close;
    const char *quote;       /* CHAT_GEMMA: around strings */
    const char *wrappers[5]; /* marks around the text of an answer, ending with NULL: dropped */
    bool value_lines;        /* one line end at either end of a value is the format's */
    /* How the model writes what readers take in several ways (call_form.c); a % is the function's name, a # a
     * number, a @ nine letters or digits. */
    const char *name_form;           /* NULL: "%" */
    const char *head;                /* what stands before head_end */
    const char *object, *object_end; /* around a call's arguments; NULL: {"name": "%", "arguments": ... } */
    const char *first, *next, *last; /* before, between (NULL: there is one) and behind the objects of a call,
                                      * or (last) behind its arguments */
    const char *types;               /* the attribute of a tag that says what its value is; or NULL */
    bool section_each;               /* a section around every call */
} chat_format;

extern const chat_format chat_formats[]; /* ends with a NULL name */

/* Markers around reasoning. */
typedef struct chat_thinking {
    const char *open, *close;
} chat_thinking;

extern const chat_thinking chat_thinkings[]; /* ends with NULLs */

#endif
