/* SPDX-License-Identifier: Apache-2.0
 *
 * What the engine tells of a choice becomes part of it. For answer.c.
 */
#ifndef SERVE_ANSWER_TAKE_H
#define SERVE_ANSWER_TAKE_H

#include "serve/answer.h"

/* One event of C, waited for up to TIMEOUT_MS; false: there was none. A failure goes to r->error. */
bool answer_take(answer *r, choice *c, int timeout_ms);

/* Whether R's time is over, which *e is told. In answer.c. */
bool answer_is_late(const answer *r, api_error *e);

/* As many choices begin as may run at a time and find room. In answer_start.c. */
bool answer_start_more(answer *r, api_error *e);
size_t answer_most_choices(const server *s); /* that can ever find room in the queue together; in answer.c */

#endif
