/* SPDX-License-Identifier: Apache-2.0
 *
 * Conversations to prompts: any model's own Jinja template, rendered as transformers renders it, with the
 * bytes that came from users marked, so that no text of theirs becomes a control token.
 *
 * A chat is immutable once open: any thread may use it.
 */
#ifndef TEXT_CHAT_H
#define TEXT_CHAT_H

#include "base/json.h"
#include "text/tokenizer.h"

typedef struct chat chat;

/* TEMPLATE is copied. BOS and EOS are the texts of the model's tokens; .p == NULL: it has none. NIB_BAD_FILE:
 * no Jinja; NIB_UNSUPPORTED: Jinja that chat templates do not use (jinja.h). */
nib_status chat_open(chat **out, strview template_text, strview bos, strview eos, nib_error *err);
/* The model's own template; BOS and EOS are its own where .p == NULL. NIB_UNSUPPORTED too when it has none.
 */
nib_status chat_open_model(chat **out, const token_source *source, const tokenizer *t, strview bos,
                           strview eos, nib_error *err);
void chat_close(chat *c);                                       /* NULL is fine */
void chat_tokens_of(const chat *c, strview *bos, strview *eos); /* as it was opened */

/* How the model writes calls ("hermes", "harmony" ...; chat_format.c) and what opens its reasoning; NULL:
 * nothing of the kind was found in the template. */
const char *chat_call_format(const chat *c);
const char *chat_reasoning_marker(const chat *c);
const char *chat_reasoning_end(const chat *c); /* what closes it, control tokens as their text */
/* What the answer itself begins with, reasoning or none before it, where that is more than the end of
 * reasoning; else NULL. */
const char *chat_answer_begin(const chat *c);
/* Does the template say anything of tools? Else they are left out of every prompt. */
bool chat_takes_tools(const chat *c);

/* What a template is given. */
typedef struct chat_request {
    /* A list of objects, as in OpenAI's API: role, content (a string, null or a list of parts), tool_calls,
     * tool_call_id, name, reasoning_content (or reasoning, or thinking). A call's arguments may be an object
     * or its JSON as a string. */
    const json_t *messages;
    const json_t *tools;  /* a list of {type, function}, or NULL */
    const json_t *kwargs; /* an object: further variables (enable_thinking ...), or NULL */
    bool no_generation_prompt;
    int64_t now;        /* seconds since 1970 for templates that write the date; 0: the clock's */
    uint64_t max_steps; /* of the template; 0: 20 million */
    size_t max_bytes;   /* of memory while it renders; 0: 512 MiB */
} chat_request;

/* A rendered conversation. */
typedef struct chat_prompt {
    char *text;           /* valid UTF-8, NUL-terminated */
    unsigned char *marks; /* [n], 1: this byte came from a user */
    size_t n;
} chat_prompt;

/* NIB_BAD_ARGUMENT: messages that are none, or what the template raised, in its own words. */
nib_status chat_render(const chat *c, const chat_request *request, chat_prompt *out, nib_error *err);
void chat_prompt_free(chat_prompt *p);

/* Appends the prompt's ids. Control tokens are looked for in the template's bytes alone. */
nib_status chat_encode(const tokenizer *t, const chat_prompt *p, token_list *out, nib_error *err);

/* Whether every message of a list has a role that somebody's template knows: NIB_BAD_ARGUMENT names the first
 * that has none. */
nib_status chat_check_roles(const json_t *messages, nib_error *err);

/* The messages of the C API (nibble.h) as JSON; freed with json_decref. Contents may be any bytes. */
nib_status chat_messages(const nib_message *messages, size_t n, json_t **out, nib_error *err);

/* Render and encode at once, with the generation prompt. */
nib_status chat_tokens(const chat *c, const tokenizer *t, const nib_message *messages, size_t n_messages,
                       token_list *out, nib_error *err);

#endif
