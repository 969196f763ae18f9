/* SPDX-License-Identifier: Apache-2.0
 *
 * Conversations as a calibration set. See calib_set.h.
 */
#include <string.h>

#include "eval/calib_set.h"

/* One line's conversation. */
static nib_status append_chat(calib_set *s, const tokenizer *words, const chat *c, const json_t *whole,
                              size_t max_tokens, nib_error *err) {
    const json_t *messages = json_is_object(whole) ? json_object_get(whole, "messages") : whole;
    chat_request q = {.messages = messages, .no_generation_prompt = true};
    chat_prompt prompt = {0};
    token_list list = {0};
    nib_status status = messages ? chat_check_roles(messages, err)
                                 : nib_fail(err, NIB_BAD_FILE, "expected an object with \"messages\"");
    if (status == NIB_OK)
        status = chat_render(c, &q, &prompt, err);
    if (status == NIB_OK)
        status = chat_encode(words, &prompt, &list, err);
    size_t room = max_tokens ? max_tokens - s->n_tokens : list.n;
    if (status == NIB_OK && list.n > 0)
        status = calib_set_append(s, list.ids, list.n < room ? list.n : room, CALIB_SET_WINDOW, -1, err);
    token_list_free(&list);
    chat_prompt_free(&prompt);
    return status;
}

nib_status calib_set_chats(calib_set *s, const tokenizer *words, const chat *c, const char *lines,
                           size_t bytes, size_t max_tokens, const char *where, nib_error *err) {
    const char *end = lines + bytes;
    const size_t n_before = s->n_tokens, first = s->n_windows;
    for (size_t line = 1; lines < end && (max_tokens == 0 || s->n_tokens < max_tokens); line++) {
        const char *stop = memchr(lines, '\n', (size_t)(end - lines));
        size_t n = (size_t)((stop ? stop : end) - lines), blanks = 0;
        nib_error problem = {{0}};
        json_t *whole = NULL;
        while (blanks < n && strchr(" \t\r", lines[blanks]))
            blanks++;
        if (blanks < n)
            NIB_TRY(json_read_line(&whole, lines, n, where, line, err));
        const nib_status status = whole ? append_chat(s, words, c, whole, max_tokens, &problem) : NIB_OK;
        json_decref(whole);
        if (status != NIB_OK)
            return nib_fail(err, status, "%s: line %zu: %s", where, line, problem.text);
        lines += n + 1;
    }
    if (s->n_tokens == n_before)
        return nib_fail(err, NIB_BAD_FILE,
                        "%s: holds no conversation; expected one a line, {\"messages\": [...]}", where);
    calib_set_join(s, first, tokenizer_adds_bos(words) ? tokenizer_bos(words) : -1);
    s->n_chats = s->n_windows;
    return NIB_OK;
}
