/* SPDX-License-Identifier: Apache-2.0
 *
 * History: other APIs' conversations written down as OpenAI's messages, which templates are given. Part of
 * the pure readers of bodies.
 */
#ifndef SERVE_HISTORY_H
#define SERVE_HISTORY_H

#include "serve/ask.h"
#include "serve/buf.h"

/* Each adds to a->messages, made on demand; false: no memory. What one turn of the assistant says in several
 * parts becomes one message. */
bool history_add(ask *a, const char *role, const char *text, api_error *e);
bool history_add_reasoning(ask *a, const char *text, api_error *e);
bool history_add_call(ask *a, const char *id, const char *name, const char *arguments, api_error *e);
bool history_add_result(ask *a, const char *id, const char *text, api_error *e);
/* A tool as OpenAI's list has it: GIVEN has a name, a text, and maybe a description and strict; PARAMETERS
 * may be NULL. */
bool history_add_tool(ask *a, const json_t *given, const json_t *parameters, api_error *e);

/* The texts of CONTENT, a string or a list of parts of one of TYPES (ends with NULL), joined by line ends
 * into *out, freed with buf_free. NAME is for sentences. */
bool history_read_text(const json_t *content, const char *const *types, const char *name, buf *out,
                       api_error *e);

#endif
