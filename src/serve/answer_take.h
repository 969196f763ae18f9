/* SPDX-License-Identifier: Apache-2.0
 *
 * What the engine tells of a choice becomes part of it. For answer.c.
 */
#ifndef SERVE_ANSWER_TAKE_H
#define SERVE_ANSWER_TAKE_H

#include "serve/answer.h"

/* One event of C, waited for up to TIMEOUT_MS; false: there was none. A failure goes to r->error. */
bool answer_take(answer *r, choice *c, int timeout_ms);

#endif
