/* SPDX-License-Identifier: Apache-2.0
 *
 * Chat templates of the families nibble knows, recognized from the model's own Jinja text. Any other template
 * is reported, never guessed; so is a model without one (a base model has the same tokens as a chat model).
 */
#ifndef TEXT_CHAT_H
#define TEXT_CHAT_H

#include "text/tokenizer.h"

typedef enum chat_kind {
    CHAT_NONE = 0,
    CHAT_CHATML,
    CHAT_GEMMA,
    CHAT_LLAMA2,
    CHAT_LLAMA3,
    CHAT_QWEN3
} chat_kind;

typedef struct chat_template {
    chat_kind kind;
    strview
        default_system; /* SmolLM2's template adds a system turn of its own; lives as long as the source */
    const char *note;   /* CHAT_NONE: why */
    bool with_bos;      /* the template itself writes the beginning-of-sequence token */
    bool no_system;     /* Gemma 1 and 2 refuse a system message */
    bool dated_system;  /* Llama 3.1 and later: a system turn with two dates in any case */
    strview date;       /* the second of them, as the template states it */
} chat_template;

void chat_recognize(chat_template *out, const token_source *source, const tokenizer *t);

/* Appends the conversation's ids with the generation prompt and BOS where the template writes one. Contents
 * are user text: control tokens in them stay text. Unknown roles and broken alternation are errors in words.
 */
nib_status chat_encode(const chat_template *c, const tokenizer *t, const nib_message *messages,
                       size_t n_messages, token_list *out, nib_error *err);

#endif
