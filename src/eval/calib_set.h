/* SPDX-License-Identifier: Apache-2.0
 *
 * Calibration set: the tokens that quantizing looks at, in windows that are computed each by itself: a text
 * cut into pieces, or conversations in the form that the model's chat template gives them. Callers:
 * calibrate, cli quantize.
 */
#ifndef EVAL_CALIB_SET_H
#define EVAL_CALIB_SET_H

#include "text/chat.h"

#define CALIB_SET_WINDOW 512 /* tokens of a window at most */

typedef struct calib_set {
    int32_t *ids;
    size_t *starts; /* [n_windows + 1] window w is ids [starts[w], starts[w + 1]) */
    size_t n_windows;
    size_t n_chats;  /* windows of conversations, which stand before those of a text */
    size_t n_tokens; /* of the text: BOS of the windows not counted */
} calib_set;         /* zero-initialize; freed with calib_set_free */

/* Appends windows of the first MAX_TOKENS (0: all) of a text, BOS first where the model asks for it. A short
 * text is cut into eight. Fewer than 128 tokens: NIB_BAD_ARGUMENT. */
nib_status calib_set_text(calib_set *s, const tokenizer *words, const char *text, size_t bytes,
                          size_t max_tokens, nib_error *err);

/* Appends conversations, one JSON object or list a line: {"messages": [...]} or the messages themselves;
 * as many as fit stand in a window one behind the other, a conversation that is longer in several. Stops
 * after MAX_TOKENS (0: all). WHERE names the file in sentences. None at all: NIB_BAD_FILE. */
nib_status calib_set_chats(calib_set *s, const tokenizer *words, const chat *c, const char *lines,
                           size_t bytes, size_t max_tokens, const char *where, nib_error *err);

/* Appends N ids in windows of WINDOW at most, BOS (-1: none) first in each. */
nib_status calib_set_append(calib_set *s, const int32_t *ids, size_t n, size_t window, int32_t bos,
                            nib_error *err);

/* Joins the windows from FIRST on to full ones (a short set to an eighth of it): the first token of a window
 * is one that all others may look at for nothing, and outweighs them in what is measured, so that many short
 * windows are not like a long text. BOS (-1: none) stays in front of windows only. */
void calib_set_join(calib_set *s, size_t first, int32_t bos);

void calib_set_free(calib_set *s);

/* At least MAX_TOKENS (0: all) ids of the text, where it has them, from no more of it than that takes. */
nib_status calib_set_encode(const tokenizer *words, const char *text, size_t bytes, size_t max_tokens,
                            token_list *list, nib_error *err);

#endif
