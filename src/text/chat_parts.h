/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of a chat, for the files chat*.c. Private to the text room.
 */
#ifndef TEXT_CHAT_PARTS_H
#define TEXT_CHAT_PARTS_H

#include "text/chat.h"
#include "text/jinja.h"

struct chat {
    jinja_template *code;
    char *bos, *eos; /* NULL: none */
};

/* Roles by their names, ending with NULL; a message has one of them. */
extern const char *const chat_roles[];

/* MESSAGES as templates want them: roles checked, calls' arguments as objects, reasoning under every name
 * that templates know. *out is new; freed with json_decref. */
nib_status chat_prepare(const json_t *messages, json_t **out, nib_error *err);

#endif
