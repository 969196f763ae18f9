/* SPDX-License-Identifier: Apache-2.0
 *
 * The chat templates nibble knows. Private to the text room; callers: chat_recognize.c and its test.
 */
#ifndef TEXT_CHAT_KNOWN_H
#define TEXT_CHAT_KNOWN_H

#include "text/chat.h"

typedef enum chat_bos { CHAT_BOS_NONE = 0, CHAT_BOS_IN_FRONT, CHAT_BOS_EITHER, CHAT_BOS_IN_TEXT } chat_bos;

typedef struct chat_known {
    const char *name;
    uint64_t form; /* chat_form of it */
    chat_kind kind;
    chat_bos bos;
    bool no_system, dated_system; /* see chat.h */
} chat_known;

extern const chat_known chat_known_list[]; /* the last has no name */

/* FNV-1a of the template's one form, without {{ bos_token }} in front; 0 for a text that has none. */
uint64_t chat_form(strview jinja);

#endif
