/* SPDX-License-Identifier: Apache-2.0
 *
 * Parts of answers that several APIs write alike. Each gives a new reference; NULL: no memory.
 */
#ifndef SERVE_PARTS_H
#define SERVE_PARTS_H

#include "serve/answer.h"

/* What all of OpenAI's answers begin with; takes CHOICES. */
json_t *parts_head(const answer *r, const char *object, json_t *choices);
/* A whole answer: its choices in their order, each by WRITE. */
json_t *parts_whole(const answer *r, const char *object, json_t *(*write)(const answer *r, const choice *c));
/* A chunk of a stream about one choice, usage beside it where it is asked for; takes ONE, and TIMINGS, which
 * may be NULL. */
void parts_chunk(answer *r, const char *object, json_t *one, json_t *timings, buf *out);
/* The same of a choice that has TEXT and nothing else to tell, as most have: BEFORE and AFTER are the members
 * about it. Written without a tree of values, which costs more than all else that is done for a token. */
void parts_text_chunk(answer *r, const char *object, int index, const char *before, const char *text,
                      size_t n, const char *after, buf *out);
/* What ends a stream: an error, or usage where it is asked for. */
void parts_end(const answer *r, const char *object, buf *out);
json_t *parts_usage(const answer *r);
json_t *parts_timings(const answer *r); /* llama.cpp's, of the first choice */
/* vLLM's: the stop text or stop id that ended C, or null. */
json_t *parts_stop_reason(const answer *r, const choice *c);
json_t *parts_ids(const int32_t *ids, size_t n);
/* The text of a token: U+FFFD for what is no character. */
json_t *parts_token_text(const server *s, int32_t token);
/* vLLM's prompt_logprobs of P, which was scored: null, then for each token those of the most probable and its
 * own, by id. */
json_t *parts_prompt_logprobs(const server *s, const answer_prompt *p);
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

#endif
