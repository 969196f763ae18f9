/* SPDX-License-Identifier: Apache-2.0
 *
 * Parts of answers that several APIs write alike. Each gives a new reference; NULL: no memory.
 */
#ifndef SERVE_PARTS_H
#define SERVE_PARTS_H

#include "serve/answer.h"

/* Whether OUT is empty and nothing was said for the interval: time for a sign of life, so that nobody on the
 * way gives up. */
bool parts_ping_due(answer *r, const buf *out);
json_t *parts_usage(const answer *r);
json_t *parts_timings(const answer *r); /* llama.cpp's, of the first choice */
/* vLLM's: the stop text or stop id that ended C, or null. */
json_t *parts_stop_reason(const answer *r, const choice *c);
json_t *parts_ids(const int32_t *ids, size_t n);
/* The text of a token: U+FFFD for what is no character. */
json_t *parts_token_text(const server *s, int32_t token);
/* Log-probabilities of c->tokens FROM on, in the form of chat completions. */
json_t *parts_chat_logprobs(const server *s, const choice *c, size_t from);
/* The same in that of completions. *OFFSET: characters before them; moved on. */
json_t *parts_text_logprobs(const server *s, const choice *c, size_t from, size_t *offset);
/* Sets NAME of OBJECT unless VALUE, which is taken, is NULL; false: no memory. */
bool parts_set(json_t *object, const char *name, json_t *value);

/* A frame of a stream; takes the reference. */
void parts_frame(buf *out, json_t *json);
/* With its name in front. */
void parts_event(buf *out, const char *name, json_t *json);
void parts_error_frame(buf *out, const api_error *e);

#endif
