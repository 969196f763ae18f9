/* SPDX-License-Identifier: Apache-2.0
 *
 * A conversation whose last message, the assistant's, is to be gone on with. Where that message ends in the
 * prompt is seen by rendering it once more with a mark behind it: there the two differ.
 */
#include "serve/answer_continue.h"

#include <string.h>

#define MARK  "\x01" /* which no template writes */
#define SPACE " \t\r\n"

static json_t *last_message(const answer *r) {
    return json_array_get(r->ask.messages, json_array_size(r->ask.messages) - 1);
}

static const char *last_content(const answer *r) {
    const json_t *last = last_message(r);
    const char *role = json_string_value(json_object_get(last, "role"));
    return role && strcmp(role, "assistant") == 0 && !json_object_get(last, "tool_calls")
               ? json_string_value(json_object_get(last, "content"))
               : NULL;
}

void answer_write_ids(const answer *r, const int32_t *ids, size_t n, buf *out) {
    const char *bytes;
    size_t n_bytes;
    for (size_t i = 0; i < n; i++)
        if (nib_token_bytes(r->server->engine, ids[i], &bytes, &n_bytes, NULL) == NIB_OK)
            buf_add(out, bytes, n_bytes);
}

/* The prompt with the mark. The messages are as they were afterwards. */
static bool write_marked(const answer *r, buf *out, api_error *e) {
    json_t *last = last_message(r), *content = json_incref(json_object_get(last, "content"));
    buf marked = {0};
    int32_t *ids = NULL;
    size_t n = 0;
    nib_error words = {""};
    buf_text(&marked, json_string_value(content));
    buf_text(&marked, MARK);
    nib_status status = NIB_NO_MEMORY;
    if (!marked.failed && json_object_set_new(last, "content", json_stringn(marked.bytes, marked.n)) == 0)
        status = answer_render(r, &ids, &n, NULL, &words);
    json_object_set_new(last, "content", content);
    buf_free(&marked);
    answer_write_ids(r, ids, n, out);
    nib_free(ids);
    return status == NIB_OK || api_error_from(e, status, &words);
}

/* Whether TEXT [n] ends with CONTENT, white space about it apart. */
static bool ends_with(const char *text, size_t n, const char *content) {
    content += strspn(content, SPACE);
    size_t n_content = strlen(content);
    while (n_content > 0 && strchr(SPACE, content[n_content - 1]))
        n_content--;
    while (n > 0 && strchr(SPACE, text[n - 1]))
        n--;
    return n_content > 0 && n >= n_content && memcmp(text + n - n_content, content, n_content) == 0;
}

/* How many of IDS make up the first BYTES of their text; 0: none do. */
static size_t ids_of(const answer *r, const int32_t *ids, size_t n, size_t bytes) {
    const char *piece;
    size_t n_piece, at = 0, k = 0;
    for (; k < n && at < bytes; k++)
        if (nib_token_bytes(r->server->engine, ids[k], &piece, &n_piece, NULL) == NIB_OK)
            at += n_piece;
    return at == bytes ? k : 0;
}

bool answer_cut_behind_last(const answer *r, const int32_t *ids, size_t *n, api_error *e) {
    const char *content = last_content(r);
    buf plain = {0}, marked = {0};
    size_t end = 0, k = 0;
    if (!content || !content[strspn(content, SPACE)])
        return api_error_set(
            e, API_INVALID, "messages",
            "there is no answer to go on with: the last message must be the assistant's, a text");
    answer_write_ids(r, ids, *n, &plain);
    bool good = write_marked(r, &marked, e);
    if (good && (plain.failed || marked.failed))
        good = ask_no_memory(e);
    while (good && end < plain.n && end < marked.n && plain.bytes[end] == marked.bytes[end])
        end++;
    if (good && end > 0 && ends_with(plain.bytes, end, content))
        k = ids_of(r, ids, *n, end);
    buf_free(&plain);
    buf_free(&marked);
    if (good && k == 0)
        good =
            api_error_set(e, API_INVALID, "messages",
                          "the chat template does not write the last message so that it can be gone on with");
    *n = good ? k : *n;
    return good;
}
