/* SPDX-License-Identifier: Apache-2.0
 *
 * Roles of a conversation's messages: OpenAI's, and those that a model's template writes as they are given.
 */
#include "serve/answer_roles.h"

#include <stdio.h>
#include <string.h>

#include "serve/answer_continue.h"

#define NO_ROLE "\x01"

enum { MOST_ROLES = 16 }; /* beside OpenAI's: the prompt is rendered once more for each */

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

/* Whether the prompt stays IDS [n] when MESSAGE has a role that no template knows: then the template has
 * passed over the message, or its role. */
static bool is_passed_over(const answer *r, json_t *message, const int32_t *ids, size_t n, bool *is,
                           api_error *e) {
    json_t *role = json_incref(json_object_get(message, "role"));
    int32_t *others = NULL;
    size_t n_others = 0;
    nib_error words = {""};
    nib_status status = NIB_NO_MEMORY;
    if (json_object_set_new(message, "role", json_string(NO_ROLE)) == 0)
        status = answer_render(r, &others, &n_others, NULL, &words);
    json_object_set_new(message, "role", role);
    *is = status == NIB_OK && n == n_others && (n == 0 || memcmp(ids, others, n * sizeof *ids) == 0);
    nib_free(others);
    return status == NIB_OK || status == NIB_BAD_ARGUMENT /* the template refuses it, but not the role */ ||
           api_error_from(e, status, &words);
}

static bool check_role(const answer *r, size_t i, const int32_t *ids, size_t n, api_error *e) {
    json_t *message = json_array_get(r->ask.messages, i);
    bool passed_over;
    char name[64];
    if (!is_passed_over(r, message, ids, n, &passed_over, e))
        return false;
    snprintf(name, sizeof name, "messages[%zu].role", i);
    return !passed_over || api_error_set(e, API_INVALID, name,
                                         "'%s' is '%.40s', which the chat template does not write; expected "
                                         "system, developer, user, assistant or tool",
                                         name, role_of(message));
}

bool answer_check_roles(const answer *r, const int32_t *ids, size_t n, api_error *e) {
    json_t *seen = json_object(), *message;
    size_t i;
    bool good = seen || ask_no_memory(e);
    for (i = 0; good && i < json_array_size(r->ask.messages); i++) {
        message = json_array_get(r->ask.messages, i);
        const char *role = role_of(message);
        if (fields_among(role, ask_roles) || json_object_get(seen, role))
            continue;
        good = json_object_set_new(seen, role, json_true()) == 0 || ask_no_memory(e);
        if (good && json_object_size(seen) > MOST_ROLES)
            good = api_error_set(e, API_INVALID, "messages",
                                 "'messages' has more than %d roles beside OpenAI's", MOST_ROLES);
        good = good && check_role(r, i, ids, n, e);
    }
    json_decref(seen);
    return good;
}
