/* SPDX-License-Identifier: Apache-2.0
 *
 * The body of POST /v1/responses.
 */
#include <string.h>

#include "serve/history.h"

static const char *const text_types[] = {"input_text",   "output_text",    "text",
                                         "summary_text", "reasoning_text", NULL};

static const char *text_at(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

static bool wrong(const char *name, const char *expected, api_error *e) {
    return api_error_set(e, API_INVALID, name, "'%s' must be %s", name, expected);
}

/* ---- input ---- */

static bool read_call(ask *a, const json_t *item, const char *name, api_error *e) {
    const char *id = text_at(item, "call_id"), *called = text_at(item, "name"),
               *arguments = text_at(item, "arguments");
    return id && called && arguments ? history_add_call(a, id, called, arguments, e)
                                     : wrong(name, "a function_call with call_id, name and arguments", e);
}

static bool read_output(ask *a, const json_t *item, const char *name, api_error *e) {
    const char *id = text_at(item, "call_id");
    buf text = {0};
    const bool good = id ? history_read_text(json_object_get(item, "output"), text_types, name, &text, e) &&
                               history_add_result(a, id, text.bytes, e)
                         : wrong(name, "a function_call_output with a call_id", e);
    buf_free(&text);
    return good;
}

static bool read_reasoning(ask *a, const json_t *item, const char *name, api_error *e) {
    const json_t *content = json_object_get(item, "content");
    buf text = {0};
    if (!content || json_is_null(content))
        content = json_object_get(item, "summary");
    const bool good = !content || json_is_null(content) ||
                      (history_read_text(content, text_types, name, &text, e) &&
                       (text.n == 0 || history_add_reasoning(a, text.bytes, e)));
    buf_free(&text);
    return good;
}

static bool read_turn(ask *a, const json_t *item, const char *name, api_error *e) {
    const char *role = text_at(item, "role");
    buf text = {0};
    if (!role || (strcmp(role, "user") != 0 && strcmp(role, "assistant") != 0 &&
                  strcmp(role, "system") != 0 && strcmp(role, "developer") != 0))
        return wrong(name, "a message of the role user, assistant, system or developer", e);
    const bool good = history_read_text(json_object_get(item, "content"), text_types, name, &text, e) &&
                      history_add(a, role, text.bytes, e);
    buf_free(&text);
    return good;
}

static bool read_item(ask *a, const json_t *item, size_t i, api_error *e) {
    static const struct {
        const char *type;
        bool (*read)(ask *a, const json_t *item, const char *name, api_error *e);
        const char *fields[8]; /* beside type, id and status */
    } readers[] = {{"message", read_turn, {"role", "content", "phase"}},
                   {"function_call", read_call, {"call_id", "name", "arguments"}},
                   {"function_call_output", read_output, {"call_id", "output"}},
                   {"reasoning", read_reasoning, {"content", "summary", "encrypted_content"}}};
    const char *type = text_at(item, "type");
    char name[64];
    snprintf(name, sizeof name, "input[%zu]", i);
    if (!type && json_is_object(item))
        type = "message";
    for (size_t k = 0; type && k < sizeof readers / sizeof *readers; k++)
        if (strcmp(type, readers[k].type) == 0) {
            const char *fields[12] = {"type", "id", "status"};
            memcpy(fields + 3, readers[k].fields, sizeof readers[k].fields);
            return fields_known(item, fields, name, e) && readers[k].read(a, item, name, e);
        }
    return wrong(name, "a message, function_call, function_call_output or reasoning", e);
}

static bool read_input(void *target, const json_t *value, const char *name, api_error *e) {
    size_t i;
    const json_t *item;
    if (json_is_string(value))
        return history_add(target, "user", json_string_value(value), e);
    if (!json_is_array(value) || json_array_size(value) == 0)
        return wrong(name, "a string or a list of at least one item", e);
    json_array_foreach(value, i, item) {
        if (!read_item(target, item, i, e))
            return false;
    }
    return true;
}

static bool read_instructions(void *target, const json_t *value, const char *name, api_error *e) {
    ask *a = target;
    if (!json_is_string(value))
        return wrong(name, "a string", e);
    if (!a->messages)
        a->messages = json_array();
    json_t *system = json_pack("{s:s, s:O}", "role", "system", "content", value);
    return (system && json_array_insert_new(a->messages, 0, system) == 0) || ask_no_memory(e);
}

/* ---- tools ---- */

static bool read_tools(void *target, const json_t *value, const char *name, api_error *e) {
    size_t i;
    const json_t *tool;
    if (!json_is_array(value))
        return wrong(name, "a list", e);
    json_array_foreach(value, i, tool) {
        const char *type = text_at(tool, "type"), *called = text_at(tool, "name");
        const json_t *schema = json_object_get(tool, "parameters");
        if (!type || strcmp(type, "function") != 0 || !called || !called[0] ||
            (schema && !json_is_object(schema) && !json_is_null(schema)))
            return api_error_set(e, API_INVALID, name,
                                 "tool %zu must be of type function, with a name and a schema as parameters",
                                 i);
        if (!history_add_tool(target, tool, json_is_object(schema) ? schema : NULL, e))
            return false;
    }
    return true;
}

static bool read_tool_choice(void *target, const json_t *value, const char *name, api_error *e) {
    ask *a = target;
    const char *called = text_at(value, "name");
    if (json_is_string(value))
        return ask_read_tool_choice(target, value, name, e);
    if (!called)
        return wrong(name, "auto, none, required, or name a function", e);
    a->tool_choice = ASK_TOOLS_NAMED;
    a->tool_name = called;
    return true;
}

/* ---- text, reasoning, the rest ---- */

/* {"format": {"type": "json_schema", "name", "schema"}}: as response_format, but flat. */
static bool read_text(void *target, const json_t *value, const char *name, api_error *e) {
    const json_t *format = json_object_get(value, "format"), *schema = json_object_get(format, "schema");
    const char *type = text_at(format, "type");
    (void)name;
    if (!format || (type && strcmp(type, "text") == 0))
        return true;
    if (type && strcmp(type, "json_object") == 0)
        return ask_set_shape(target, NIB_SHAPE_JSON_OBJECT, NULL, "text.format", e);
    if (!type || strcmp(type, "json_schema") != 0 || !json_is_object(schema))
        return wrong("text.format", "of type text, json_object, or json_schema with a schema", e);
    char *text = json_dumps(schema, JSON_COMPACT);
    return text ? ask_set_shape(target, NIB_SHAPE_JSON_SCHEMA, text, "text.format", e) : ask_no_memory(e);
}

static bool read_reasoning_options(void *target, const json_t *value, const char *name, api_error *e) {
    const json_t *effort = json_object_get(value, "effort");
    if (!json_is_object(value))
        return wrong(name, "an object", e);
    return !effort || json_is_null(effort) || ask_read_effort(target, effort, "reasoning.effort", e);
}

static bool read_truncation(void *target, const json_t *value, const char *name, api_error *e) {
    (void)target;
    const char *word = json_string_value(value);
    return (word && strcmp(word, "disabled") == 0) || wrong(name, "disabled: nothing is ever cut", e);
}

static bool refuse_true(void *target, const json_t *value, const char *name, api_error *e) {
    (void)target;
    return json_is_false(value) || api_error_set(e, API_INVALID, name, "'%s' is not supported", name);
}

static const field fields[] = {
    {"input", FIELD_READ, 0, 0, 0, read_input, NULL},
    {"instructions", FIELD_READ, 0, 0, 0, read_instructions, NULL},
    {"max_output_tokens", FIELD_INT, offsetof(ask, max_tokens), 1, 1 << 30, NULL, NULL},
    {"tools", FIELD_READ, 0, 0, 0, read_tools, NULL},
    {"tool_choice", FIELD_READ, 0, 0, 0, read_tool_choice, NULL},
    {"parallel_tool_calls", FIELD_READ, 0, 0, 0, ask_read_parallel, NULL},
    {"text", FIELD_READ, 0, 0, 0, read_text, NULL},
    {"reasoning", FIELD_READ, 0, 0, 0, read_reasoning_options, NULL},
    {"truncation", FIELD_READ, 0, 0, 0, read_truncation, NULL},
    {"background", FIELD_READ, 0, 0, 0, refuse_true, NULL},
    {"previous_response_id", FIELD_REFUSED, 0, 0, 0, NULL, "answers are not kept; send the conversation"},
    {"conversation", FIELD_REFUSED, 0, 0, 0, NULL, "answers are not kept; send it as input"},
    {"prompt", FIELD_REFUSED, 0, 0, 0, NULL, "there are no stored prompts"},
    {"include", FIELD_PASS, 0, 0, 0, NULL, NULL},
    {"client_metadata", FIELD_PASS, 0, 0, 0, NULL, NULL},
    FIELD_END};
const field *const ask_responses_tables[] = {fields,           ask_common,   ask_thinking_fields,
                                             ask_shape_fields, ask_harmless, NULL};

bool ask_read_responses(ask *a, const json_t *body, api_error *e) {
    static const char *const echoed[] = {"instructions", "metadata", "tools", "tool_choice", "text", NULL};
    ask_defaults(a, body);
    a->echoed = echoed;
    if (!fields_read(ask_responses_tables, a, body, "", e))
        return false;
    if (json_array_size(a->messages) == 0 || !json_object_get(body, "input"))
        return wrong("input", "a string or a list of at least one item", e);
    if (a->n != 1 || a->best_of > 1)
        return wrong("n", "1 here", e);
    return ask_check_tools(a, e) && ask_finish(a, e);
}
