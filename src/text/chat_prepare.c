/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages as clients send them to messages as templates want them: what is wrong is said in words, calls'
 * arguments become objects, reasoning goes under the names that templates read (as in transformers).
 */
#include "text/chat_parts.h"

#include "base/utf8.h"
#include "text/normalize.h"

const char *const chat_roles[] = {"system",  "user",  "assistant",   "tool",  "developer",     "function",
                                  "ipython", "model", "observation", "tools", "tool_response", NULL};

static nib_status no_memory(nib_error *err) {
    return nib_fail(err, NIB_NO_MEMORY, "no memory for the conversation");
}

static nib_status check_role(const json_t *message, size_t i, nib_error *err) {
    if (json_is_object(message) && json_is_string(json_object_get(message, "role")))
        return NIB_OK;
    return nib_fail(err, NIB_BAD_ARGUMENT, "message %zu of the conversation is no object with a role", i);
}

static nib_status check_content(const json_t *message, size_t i, nib_error *err) {
    const json_t *content = json_object_get(message, "content");
    if (!content || json_is_null(content) || json_is_string(content))
        return NIB_OK;
    size_t k;
    const json_t *part;
    if (!json_is_array(content))
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "message %zu of the conversation has a content that is no text", i);
    json_array_foreach(content, k, part) {
        if (!json_is_object(part) && !json_is_string(part))
            return nib_fail(err, NIB_BAD_ARGUMENT, "part %zu of message %zu of the conversation is no object",
                            k, i);
    }
    return NIB_OK;
}

/* ---- arguments ---- */

/* A call's arguments given as the JSON of an object become that object; other texts stay texts. */
static nib_status parse_arguments(json_t *function, nib_error *err) {
    const json_t *text = json_object_get(function, "arguments");
    if (!json_is_string(text))
        return NIB_OK;
    json_t *parsed;
    const nib_status status =
        json_read_written(&parsed, json_string_value(text), json_string_length(text), "arguments", NULL);
    if (status == NIB_NO_MEMORY)
        return no_memory(err);
    if (status != NIB_OK)
        return NIB_OK;
    if (!json_is_object(parsed)) {
        json_decref(parsed);
        return NIB_OK;
    }
    return json_object_set_new(function, "arguments", parsed) == 0 ? NIB_OK : no_memory(err);
}

static nib_status prepare_calls(json_t *message, size_t i, nib_error *err) {
    json_t *calls = json_object_get(message, "tool_calls"), *call;
    size_t k;
    if (!calls || json_is_null(calls))
        return NIB_OK;
    if (!json_is_array(calls))
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "message %zu of the conversation has tool_calls that are no list", i);
    json_array_foreach(calls, k, call) {
        if (!json_is_object(call))
            return nib_fail(err, NIB_BAD_ARGUMENT, "call %zu of message %zu of the conversation is no object",
                            k, i);
        json_t *function = json_object_get(call, "function");
        NIB_TRY(parse_arguments(json_is_object(function) ? function : call, err));
    }
    return NIB_OK;
}

/* ---- reasoning ---- */

/* What was given under any of three names stands under "reasoning_content" and, unless that is given, under
 * "thinking", which goes in front. */
static nib_status alias_reasoning(json_t **message, nib_error *err) {
    static const char *const names[] = {"reasoning_content", "thinking", "reasoning"};
    json_t *found = NULL;
    for (size_t i = 0; i < 3 && (!found || json_is_null(found)); i++)
        found = json_object_get(*message, names[i]);
    if (!found || json_is_null(found))
        return NIB_OK;
    json_t *with = json_object();
    const bool fits = with && json_object_set(with, "thinking", found) == 0 &&
                      json_object_update(with, *message) == 0 &&
                      json_object_set(with, "reasoning_content", found) == 0;
    if (!fits) {
        json_decref(with);
        return no_memory(err);
    }
    json_decref(*message);
    *message = with;
    return NIB_OK;
}

static nib_status prepare_message(const json_t *given, size_t i, json_t *out, nib_error *err) {
    NIB_TRY(check_role(given, i, err));
    NIB_TRY(check_content(given, i, err));
    json_t *message = json_deep_copy(given);
    if (!message)
        return no_memory(err);
    nib_status status = prepare_calls(message, i, err);
    if (status == NIB_OK)
        status = alias_reasoning(&message, err);
    if (status != NIB_OK) {
        json_decref(message);
        return status;
    }
    return json_array_append_new(out, message) == 0 ? NIB_OK : no_memory(err);
}

nib_status chat_prepare(const json_t *messages, json_t **out, nib_error *err) {
    *out = NULL;
    if (!json_is_array(messages) || json_array_size(messages) == 0)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "a conversation without messages, expected a list of at least one");
    json_t *all = json_array();
    nib_status status = all ? NIB_OK : no_memory(err);
    for (size_t i = 0; status == NIB_OK && i < json_array_size(messages); i++)
        status = prepare_message(json_array_get(messages, i), i, all, err);
    if (status != NIB_OK) {
        json_decref(all);
        return status;
    }
    *out = all;
    return NIB_OK;
}

/* ---- the C API's messages ---- */

static nib_status text_json(const char *text, json_t **out, nib_error *err) {
    const size_t n = strlen(text);
    text_buffer repaired = {0};
    nib_status status = NIB_OK;
    if (utf8_valid_prefix(text, n) < n)
        status = normalize_repair(&repaired, text, n, err);
    *out = status != NIB_OK ? NULL
           : repaired.n     ? json_stringn(repaired.bytes, repaired.n)
                            : json_stringn(text, n);
    text_buffer_free(&repaired);
    return status != NIB_OK ? status : *out ? NIB_OK : no_memory(err);
}

/* A template that does not know a role may drop its message in silence: so there are no others. */
static nib_status check_known_role(const char *role, size_t i, nib_error *err) {
    for (const char *const *known = chat_roles; *known; known++)
        if (strcmp(role, *known) == 0)
            return NIB_OK;
    return nib_fail(
        err, NIB_BAD_ARGUMENT,
        "message %zu of the conversation has the role \"%.40s\", expected system, developer, user, "
        "assistant or tool",
        i, role);
}

nib_status chat_check_roles(const json_t *messages, nib_error *err) {
    size_t i;
    const json_t *message;
    json_array_foreach(messages, i, message) {
        NIB_TRY(check_role(message, i, err));
        NIB_TRY(check_known_role(json_string_value(json_object_get(message, "role")), i, err));
    }
    return NIB_OK;
}

static nib_status add_message(json_t *all, const nib_message *m, nib_error *err) {
    json_t *role, *content, *message = json_object();
    if (!message || json_array_append_new(all, message) != 0)
        return no_memory(err);
    NIB_TRY(text_json(m->role, &role, err));
    if (json_object_set_new(message, "role", role) != 0)
        return no_memory(err);
    NIB_TRY(text_json(m->content, &content, err));
    return json_object_set_new(message, "content", content) == 0 ? NIB_OK : no_memory(err);
}

nib_status chat_messages(const nib_message *messages, size_t n, json_t **out, nib_error *err) {
    *out = NULL;
    json_t *all = json_array();
    nib_status status = all ? NIB_OK : no_memory(err);
    for (size_t i = 0; status == NIB_OK && i < n; i++) {
        if (!messages[i].role || !messages[i].content)
            status =
                nib_fail(err, NIB_BAD_ARGUMENT, "message %zu of the conversation has no role or content", i);
        else
            status = check_known_role(messages[i].role, i, err);
        if (status == NIB_OK)
            status = add_message(all, &messages[i], err);
    }
    if (status != NIB_OK) {
        json_decref(all);
        return status;
    }
    *out = all;
    return NIB_OK;
}
