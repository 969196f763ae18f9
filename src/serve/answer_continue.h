/* SPDX-License-Identifier: Apache-2.0
 *
 * For answer.c: prompts that end within the assistant's last message.
 */
#ifndef SERVE_ANSWER_CONTINUE_H
#define SERVE_ANSWER_CONTINUE_H

#include "serve/answer.h"

/* R's conversation as the template writes it, and a reader of what is answered (READER may be NULL). In
 * answer.c. */
nib_status answer_render(const answer *r, int32_t **ids, size_t *n, nib_reader **reader, nib_error *err);

/* IDS as text, control tokens too. */
void answer_write_ids(const answer *r, const int32_t *ids, size_t n, buf *out);

/* Of IDS [*n], the rendered conversation, what is behind the last message's text is left out. */
bool answer_cut_behind_last(const answer *r, const int32_t *ids, size_t *n, api_error *e);

#endif
