/* SPDX-License-Identifier: Apache-2.0
 *
 * Where a JSON value ends in a text that may go on or break off: so that calls keep the bytes that the model
 * wrote. Private to the text room.
 */
#ifndef TEXT_CHAT_SPAN_H
#define TEXT_CHAT_SPAN_H

#include "base/status.h"
#include "base/strview.h"

typedef enum chat_found {
    CHAT_WHOLE,   /* it is there */
    CHAT_PARTIAL, /* what is there may still become it */
    CHAT_BROKEN   /* it never will */
} chat_found;

/* A value fed byte by byte; brackets and strings alone are counted. Zero-initialize. */
typedef struct chat_scan {
    char open[128]; /* closing brackets that are awaited */
    size_t depth;
    bool in_string, escaped, started, scalar;
    chat_found found; /* of no use before `started` */
} chat_scan;

/* Bytes of TEXT that belong to the value (white space before it included); found says what it came to. */
size_t chat_scan_feed(chat_scan *s, const char *text, size_t n);

/* The value at the start of TEXT: *out is it, without white space before it. CHAT_WHOLE: valid JSON too. */
chat_found chat_span_value(strview text, strview *out, nib_status *status);
/* The value of NAME in the valid JSON object OBJECT; .p == NULL: none. */
strview chat_span_member(strview object, const char *name);
/* The value at the start of TEXT, which moves behind it and the comma or colon after it. CHAT_PARTIAL: it
 * breaks off. */
chat_found chat_span_next(strview *text, strview *value);
/* Is the JSON value TEXT the string WORD, without escapes? */
bool chat_span_is(strview text, const char *word);
size_t chat_span_blank(strview text); /* bytes of JSON's white space at its start */

#endif
