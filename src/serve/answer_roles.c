/* SPDX-License-Identifier: Apache-2.0
 *
 * Roles of a conversation's messages: OpenAI's, and those that a model's template writes as they are given.
 */
#include "serve/answer_roles.h"

#include <stdio.h>
#include <string.h>

#include "serve/answer_continue.h"

static const char *role_of(const json_t *message) {
    return json_string_value(json_object_get(message, "role"));
}

void answer_rename_developers(const answer *r) {
    const char *format = r->server->chat_info.call_format;
    size_t i;
    json_t *message;
    if (format && strcmp(format, "harmony") == 0)
        return;
    json_array_foreach(r->ask.messages, i, message) {
        const char *role = role_of(message);
        if (role && strcmp(role, "developer") == 0)
            json_object_set_new(message, "role", json_string("system"));
    }
}

bool answer_check_roles(const answer *r, const int32_t *ids, size_t n, api_error *e) {
    buf text = {0};
    size_t i;
    json_t *message;
    bool good = true;
    char name[64];
    json_array_foreach(r->ask.messages, i, message) {
        const char *role = role_of(message);
        if (fields_among(role, ask_roles))
            continue;
        if (!text.bytes)
            answer_write_ids(r, ids, n, &text);
        snprintf(name, sizeof name, "messages[%zu].role", i);
        if (!text.failed && !(text.n && strstr(text.bytes, role)))
            good = api_error_set(e, API_INVALID, name,
                                 "'%s' is '%.40s', which the chat template does not write; expected system, "
                                 "developer, user, assistant or tool",
                                 name, role);
        if (!good || text.failed)
            break;
    }
    if (text.failed)
        good = ask_no_memory(e);
    buf_free(&text);
    return good;
}
