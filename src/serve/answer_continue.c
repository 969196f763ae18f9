/* SPDX-License-Identifier: Apache-2.0
 *
 * A conversation whose last message, the assistant's, is to be gone on with: of the prompt that the template
 * renders, all behind that message's text is cut.
 */
#include "serve/answer_continue.h"

#include <string.h>

#include "base/mem.h"

static const char *last_content(const answer *r) {
    const json_t *last = json_array_get(r->ask.messages, json_array_size(r->ask.messages) - 1);
    const char *role = json_string_value(json_object_get(last, "role"));
    return role && strcmp(role, "assistant") == 0 && !json_object_get(last, "tool_calls")
               ? json_string_value(json_object_get(last, "content"))
               : NULL;
}

/* Where the last place of TEXT [n] in ALL ends; 0: there is none. */
static size_t end_of_last(const buf *all, const char *text, size_t n) {
    for (size_t at = all->n + 1; n > 0 && n <= all->n && at-- > n;)
        if (memcmp(all->bytes + at - n, text, n) == 0)
            return at;
    return 0;
}

bool answer_cut_behind_last(const answer *r, const int32_t *ids, size_t *n, api_error *e) {
    const char *text = last_content(r), *bytes;
    size_t n_text = text ? strlen(text) : 0, end, n_bytes, k = 0;
    buf all = {0};
    if (n_text == 0)
        return api_error_set(
            e, API_INVALID, "messages",
            "there is no answer to go on with: the last message must be the assistant's, a text");
    for (size_t i = 0; i < *n; i++)
        if (nib_token_bytes(r->server->engine, ids[i], &bytes, &n_bytes, NULL) == NIB_OK)
            buf_add(&all, bytes, n_bytes);
    end = end_of_last(&all, text, n_text);
    while (end == 0 && n_text > 0 && strchr(" \n\t\r", text[n_text - 1])) /* templates trim */
        end = end_of_last(&all, text, --n_text);
    const bool failed = all.failed;
    buf_free(&all);
    for (size_t at = 0; at < end; k++)
        if (nib_token_bytes(r->server->engine, ids[k], &bytes, &n_bytes, NULL) == NIB_OK &&
            (at += n_bytes) > end)
            end = 0; /* a token goes beyond it */
    if (failed)
        return ask_no_memory(e);
    if (end == 0)
        return api_error_set(
            e, API_INVALID, "messages",
            "the chat template does not write the last message so that it can be gone on with");
    *n = k;
    return true;
}
