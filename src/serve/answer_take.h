/* SPDX-License-Identifier: Apache-2.0
 *
 * What the engine tells of a choice becomes part of it. For answer.c.
 */
#ifndef SERVE_ANSWER_TAKE_H
#define SERVE_ANSWER_TAKE_H

#include "serve/answer.h"

/* One event of C, waited for up to TIMEOUT_MS; false: there was none. A failure goes to r->error. */
bool answer_take(answer *r, choice *c, int timeout_ms);

/* Goes on behind C's reasoning, which the text CLOSING ends; its request before has ended. *full: there is no
 * room, or no token left, to go on with. In answer_start.c. */
nib_status answer_resume(answer *r, choice *c, const char *closing, bool *full, nib_error *err);

#endif
