/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of a chat, for the files chat*.c. Private to the text room.
 */
#ifndef TEXT_CHAT_PARTS_H
#define TEXT_CHAT_PARTS_H

#include "text/chat.h"
#include "text/chat_format.h"
#include "text/jinja.h"

struct chat {
    jinja_template *code;
    char *bos, *eos;               /* NULL: none */
    const chat_format *format;     /* of calls, NULL: none was found */
    const chat_thinking *thinking; /* NULL: the template knows no reasoning */
    bool takes_tools;
};

/* Fills format and thinking by what the template makes of a call and of reasoning. Fails only without
 * memory. */
nib_status chat_probe(chat *c, strview template_text, nib_error *err);

/* Roles by their names, ending with NULL: the C API's messages have one of them, and in a prompt these names
 * are the template's own words. */
extern const char *const chat_roles[];

/* MESSAGES as templates want them: calls' arguments as objects, reasoning under every name
 * that templates know. *out is new; freed with json_decref. */
nib_status chat_prepare(const json_t *messages, json_t **out, nib_error *err);

#endif
