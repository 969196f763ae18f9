/* SPDX-License-Identifier: Apache-2.0
 *
 * The calls in a stretch of a model's answer. Private to the text room; callers: chat_reader.c, chat_probe.c.
 */
#ifndef TEXT_CHAT_CALLS_H
#define TEXT_CHAT_CALLS_H

#include "text/chat_format.h"
#include "text/chat_span.h"
#include "text/text_buffer.h"

typedef struct chat_part { /* of chat_calls.text */
    size_t at, n;
} chat_part;

typedef struct chat_call {
    chat_part name, id, arguments; /* arguments: a JSON object; id: empty where the format has none */
} chat_call;

typedef struct chat_calls {
    chat_call *list;
    size_t n, capacity;
    text_buffer text;
    chat_call open; /* has_open: one that is not whole yet, its arguments as far as they are known */
    bool has_open;
    size_t open_end; /* what is behind those in the text that was read */
} chat_calls;        /* zero-initialize; freed with chat_calls_free */

void chat_calls_free(chat_calls *c);
strview chat_calls_text(const chat_calls *c, chat_part part);

/* Reads the calls at the start of TEXT, which begins with a marker of F: one call, or a section of them.
 * *found CHAT_WHOLE: they are in OUT and take *used bytes; else OUT is empty. AT_END: nothing follows TEXT,
 * so closing markers may be missing. TOOLS (a list, or NULL) say what type a value has. Fails only without
 * memory. */
nib_status chat_calls_read(const chat_format *f, const json_t *tools, strview text, bool at_end,
                           chat_calls *out, chat_found *found, size_t *used, nib_error *err);

/* What can be told already of calls that TEXT only begins: OUT has those that are whole and the open one, up
 * to *end in TEXT. More text adds to that and changes none of it, unless the calls turn out to be none. */
nib_status chat_calls_peek(const chat_format *f, const json_t *tools, strview text, chat_calls *out,
                           size_t *end, nib_error *err);

/* A call with ARGUMENTS, a JSON object, whatever the format. */
nib_status chat_calls_add(chat_calls *c, strview name, strview id, strview arguments, nib_error *err);
/* The call that is not whole yet; END: where ARGUMENTS end in the text. */
nib_status chat_calls_open(chat_calls *c, strview name, strview id, strview arguments, size_t end,
                           nib_error *err);

/* ---- shared by chat_calls.c, chat_objects.c, chat_tags.c and chat_gemma.c ---- */

typedef struct chat_cursor {
    strview s;
    size_t at;
    bool at_end;
} chat_cursor;

strview chat_rest(const chat_cursor *c); /* the text from the cursor on */
bool chat_at(const chat_cursor *c, const char *mark);
/* Steps over MARK; CHAT_PARTIAL when the text ends within it. */
chat_found chat_expect(chat_cursor *c, const char *mark);
void chat_skip_blank(chat_cursor *c);
/* What is missing at the end of the text: CHAT_PARTIAL, or CHAT_BROKEN when nothing follows. */
chat_found chat_missing(const chat_cursor *c);
/* Where MARK stands at or after the cursor; false: nowhere. */
bool chat_seek(const chat_cursor *c, const char *mark, size_t *at);

bool chat_is_name(strview s);   /* of a function */
bool chat_is_object(strview s); /* of valid JSON */

/* Calls as JSON: an object, or a list of objects. */
nib_status chat_objects_read(chat_cursor *c, chat_calls *out, chat_found *found, nib_error *err);
/* The parameters of a call written as tags, as a JSON object appended to OUT; the cursor stands behind the
 * name and then behind call_close. */
nib_status chat_tags_read(chat_cursor *c, const chat_format *f, const json_t *tools, strview name,
                          text_buffer *out, chat_found *found, nib_error *err);
/* Gemma's {key:value}, as a JSON object. */
nib_status chat_gemma_read(chat_cursor *c, text_buffer *out, chat_found *found, nib_error *err);
/* JSON's word for Python's True, False, None; any other text as it is. */
strview chat_json_word(strview s);
/* TEXT as a JSON string. */
nib_status chat_quote(text_buffer *out, strview text, nib_error *err);

#endif
