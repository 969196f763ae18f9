/* SPDX-License-Identifier: Apache-2.0
 *
 * Chat templates of the families nibble knows, recognized from the model's own Jinja text. Any other template
 * is reported, never guessed.
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
    strview default_system; /* SmolLM2's template adds a system turn of its own */
    const char *note;       /* CHAT_NONE: why */
} chat_template;

void chat_recognize(chat_template *out, const token_source *source, const tokenizer *t);

/* Appends the conversation's ids with the generation prompt and BOS where the template writes one. Contents
 * are user text: control tokens in them stay text. Unknown roles and broken alternation are errors in words.
 */
nib_status chat_encode(const chat_template *c, const tokenizer *t, const nib_message *messages,
                       size_t n_messages, token_list *out, nib_error *err);

#endif
