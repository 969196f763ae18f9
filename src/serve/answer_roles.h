/* SPDX-License-Identifier: Apache-2.0
 *
 * For answer.c: the roles of a conversation's messages.
 */
#ifndef SERVE_ANSWER_ROLES_H
#define SERVE_ANSWER_ROLES_H

#include "serve/answer.h"

/* "developer" is OpenAI's newer word for "system", which most templates do not know. */
void answer_rename_developers(const answer *r);

/* Roles beside OpenAI's must change the prompt, IDS [n]: else the template has passed them over. The messages
 * are as they were afterwards. */
bool answer_check_roles(const answer *r, const int32_t *ids, size_t n, api_error *e);

#endif
