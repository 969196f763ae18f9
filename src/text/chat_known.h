/* SPDX-License-Identifier: Apache-2.0
 *
 * The chat templates nibble knows, in the form that chat_recognize.c brings a template to. Private to the
 * text room; the caller is chat_recognize.c.
 */
#ifndef TEXT_CHAT_KNOWN_H
#define TEXT_CHAT_KNOWN_H

#include "text/chat.h"

typedef enum chat_bos { CHAT_BOS_NONE = 0, CHAT_BOS_IN_FRONT, CHAT_BOS_EITHER, CHAT_BOS_IN_TEXT } chat_bos;

typedef struct chat_known {
    const char *text; /* the whole template, without {{ bos_token }} in front */
    chat_kind kind;
    chat_bos bos;
    bool no_system, dated_system;
} chat_known;

extern const chat_known chat_known_list[]; /* the last has no text */

#endif
