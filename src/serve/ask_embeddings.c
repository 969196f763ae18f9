/* SPDX-License-Identifier: Apache-2.0
 *
 * The body of POST /v1/embeddings; `content` in place of `input` is llama.cpp's word.
 */
#include <string.h>

#include "serve/ask.h"

static bool read_encoding(void *target, const json_t *value, const char *name, api_error *e) {
    const char *word = json_string_value(value);
    ((ask *)target)->base64 = word && strcmp(word, "base64") == 0;
    return ((ask *)target)->base64 || (word && strcmp(word, "float") == 0) ||
           api_error_set(e, API_INVALID, name, "'%s' must be float or base64", name);
}

static bool read_input(void *target, const json_t *value, const char *name, api_error *e) {
    ask *a = target;
    if (a->prompt)
        return api_error_set(e, API_INVALID, name, "'input' and 'content' are two names of one thing");
    a->prompt = value;
    a->prompt_name = strcmp(name, "content") == 0 ? "content" : "input";
    return true;
}

#define AT(member) offsetof(ask, member)

static const field fields[] = {
    {"model", FIELD_TEXT, AT(model), 0, 0, NULL, NULL},
    {"input", FIELD_READ, 0, 0, 0, read_input, NULL},
    {"content", FIELD_READ, 0, 0, 0, read_input, NULL},
    {"encoding_format", FIELD_READ, 0, 0, 0, read_encoding, NULL},
    {"dimensions", FIELD_INT, AT(dimensions), 1, 1 << 20, NULL, NULL},
    {"request_id", FIELD_TEXT, AT(request_id), 0, 0, NULL, NULL},
    {"cache_salt", FIELD_TEXT, AT(cache_salt), 0, 0, NULL, NULL},
    {"priority", FIELD_INT, AT(priority), -1000000, 1000000, NULL, NULL},
    {"truncate_prompt_tokens", FIELD_REFUSED, 0, 0, 0, NULL, "texts are never cut"},
    {"messages", FIELD_REFUSED, 0, 0, 0, NULL, "render them with /apply-template"},
    FIELD_END};
const field *const ask_embeddings_tables[] = {fields, ask_harmless, NULL};

bool ask_read_embeddings(ask *a, const json_t *body, api_error *e) {
    ask_defaults(a, body);
    a->embeds = true;
    a->best_of = 1;
    a->prompt_name = "input";
    return fields_read(ask_embeddings_tables, a, body, "", e) && ask_check_prompt(a, ASK_MAX_INPUTS, e);
}
