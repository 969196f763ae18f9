/* SPDX-License-Identifier: Apache-2.0
 *
 * See history.h.
 */
#include "serve/history.h"

#include <string.h>

static bool add(ask *a, json_t *message, api_error *e) {
    if (!a->messages)
        a->messages = json_array();
    return (message && json_array_append_new(a->messages, message) == 0) || ask_no_memory(e);
}

/* The last message where it is the assistant's; else a new one of its. NULL: no memory. */
static json_t *assistant(ask *a, api_error *e) {
    const size_t n = json_array_size(a->messages);
    json_t *last = n ? json_array_get(a->messages, n - 1) : NULL;
    const char *role = json_string_value(json_object_get(last, "role"));
    if (role && strcmp(role, "assistant") == 0)
        return last;
    return add(a, json_pack("{s:s, s:s}", "role", "assistant", "content", ""), e)
               ? json_array_get(a->messages, n)
               : NULL;
}

static bool append(json_t *object, const char *key, const char *text, api_error *e) {
    const char *old = json_string_value(json_object_get(object, key));
    buf all = {0};
    buf_text(&all, old ? old : "");
    if (old && old[0] && text[0])
        buf_text(&all, "\n");
    buf_text(&all, text);
    const bool fits = !all.failed && json_object_set_new(object, key, json_stringn(all.bytes, all.n)) == 0;
    buf_free(&all);
    return fits || ask_no_memory(e);
}

bool history_add(ask *a, const char *role, const char *text, api_error *e) {
    if (strcmp(role, "assistant") == 0) {
        json_t *message = assistant(a, e);
        return message && append(message, "content", text, e);
    }
    return add(a, json_pack("{s:s, s:s}", "role", role, "content", text), e);
}

bool history_add_reasoning(ask *a, const char *text, api_error *e) {
    json_t *message = assistant(a, e);
    return message && append(message, "reasoning_content", text, e);
}

bool history_add_call(ask *a, const char *id, const char *name, const char *arguments, api_error *e) {
    json_t *message = assistant(a, e);
    if (!message)
        return false;
    json_t *calls = json_object_get(message, "tool_calls");
    if (!calls && json_object_set_new(message, "tool_calls", calls = json_array()) != 0)
        return ask_no_memory(e);
    json_t *call = json_pack("{s:s, s:s, s:{s:s, s:s}}", "id", id, "type", "function", "function", "name",
                             name, "arguments", arguments);
    return (call && json_array_append_new(calls, call) == 0) || ask_no_memory(e);
}

bool history_add_result(ask *a, const char *id, const char *text, api_error *e) {
    return add(a, json_pack("{s:s, s:s, s:s}", "role", "tool", "tool_call_id", id, "content", text), e);
}

/* The member NAME of OBJECT where it is a text; else NULL. */
static json_t *text_of(const json_t *object, const char *name) {
    json_t *text = json_object_get(object, name);
    return json_is_string(text) ? text : NULL;
}

bool history_add_tool(ask *a, const json_t *given, const json_t *parameters, api_error *e) {
    if (!a->tools)
        a->tools = json_array();
    json_t *tool =
        json_pack("{s:s, s:{s:O, s:O*, s:O*, s:o*}}", "type", "function", "function", "name",
                  json_object_get(given, "name"), "description", text_of(given, "description"), "parameters",
                  parameters, "strict", json_is_true(json_object_get(given, "strict")) ? json_true() : NULL);
    return (tool && json_array_append_new(a->tools, tool) == 0) || ask_no_memory(e);
}

bool history_read_text(const json_t *content, const char *const *types, const char *name, buf *out,
                       api_error *e) {
    size_t i;
    const json_t *part;
    buf_add(out, "", 0);
    if (json_is_string(content)) {
        buf_add(out, json_string_value(content), json_string_length(content));
        return !out->failed || ask_no_memory(e);
    }
    if (!json_is_array(content))
        return api_error_set(e, API_INVALID, name, "'%s' must be a string or a list of parts", name);
    json_array_foreach(content, i, part) {
        const char *type = json_string_value(json_object_get(part, "type"));
        const char *text = json_string_value(json_object_get(part, "text"));
        if (!type || !fields_among(type, types) || !text)
            return api_error_set(e, API_INVALID, name,
                                 "part %zu of '%s' is of type '%.40s'; this model takes text alone", i, name,
                                 type ? type : "");
        if (!fields_known(part, ask_part_fields, name, e))
            return false;
        if (i > 0)
            buf_text(out, "\n");
        buf_text(out, text);
    }
    return !out->failed || ask_no_memory(e);
}
