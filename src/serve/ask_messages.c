/* SPDX-License-Identifier: Apache-2.0
 *
 * The body of POST /v1/messages, in Anthropic's form.
 */
#include <string.h>

#include "serve/history.h"

static const char *const text_types[] = {"text", NULL};

static const char *text_at(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

static bool wrong(const char *name, const char *expected, api_error *e) {
    return api_error_set(e, API_INVALID, name, "'%s' must be %s", name, expected);
}

/* ---- system ---- */

/* Coding agents put a line in front that differs in every request, which would make every prompt a new one.
 */
static const char *without_billing(const char *text) {
    static const char head[] = "x-anthropic-billing-header:";
    if (strncmp(text, head, sizeof head - 1) != 0)
        return text;
    const char *end = strchr(text, '\n');
    return end ? end + 1 + strspn(end + 1, "\n") : "";
}

static bool read_system(void *target, const json_t *value, const char *name, api_error *e) {
    buf text = {0}, all = {0};
    size_t i;
    const json_t *part;
    bool good = true;
    if (json_is_string(value)) {
        good = history_read_text(value, text_types, name, &text, e);
        buf_text(&all, good ? without_billing(text.bytes) : "");
    }
    json_array_foreach(value, i, part) { /* the line may be a part of its own */
        json_t *one = json_pack("[O]", part);
        buf_clear(&text);
        good = good && history_read_text(one, text_types, name, &text, e);
        json_decref(one);
        const char *kept = good ? without_billing(text.bytes) : "";
        if (all.n > 0 && kept[0])
            buf_text(&all, "\n");
        buf_text(&all, kept);
    }
    if (!json_is_string(value) && !json_is_array(value))
        good = wrong(name, "a string or a list of text blocks", e);
    if (good && all.failed)
        good = ask_no_memory(e);
    ask *a = target;
    if (good && all.n > 0) { /* before the messages, wherever it stands in the body */
        json_t *system = json_pack("{s:s, s:s}", "role", "system", "content", all.bytes);
        if (!a->messages)
            a->messages = json_array();
        good = (system && json_array_insert_new(a->messages, 0, system) == 0) || ask_no_memory(e);
    }
    buf_free(&text);
    buf_free(&all);
    return good;
}

/* ---- messages ---- */

static bool read_call(ask *a, const char *role, const json_t *block, const char *name, api_error *e) {
    (void)role;
    const char *id = text_at(block, "id"), *called = text_at(block, "name");
    const json_t *input = json_object_get(block, "input");
    if (!id || !called || !json_is_object(input))
        return wrong(name, "tool_use blocks with an id, a name and an input", e);
    char *arguments = json_dumps(input, JSON_COMPACT);
    const bool good = arguments ? history_add_call(a, id, called, arguments, e) : ask_no_memory(e);
    json_text_free(arguments);
    return good;
}

static bool read_result(ask *a, const char *role, const json_t *block, const char *name, api_error *e) {
    (void)role;
    const char *id = text_at(block, "tool_use_id");
    const json_t *content = json_object_get(block, "content");
    buf text = {0};
    buf_add(&text, "", 0);
    bool good = id || wrong(name, "tool_result blocks with a tool_use_id", e);
    if (good && content)
        good = history_read_text(content, text_types, name, &text, e);
    good = good && (text.failed ? ask_no_memory(e) : history_add_result(a, id, text.bytes, e));
    buf_free(&text);
    return good;
}

static bool read_text(ask *a, const char *role, const json_t *block, const char *name, api_error *e) {
    const char *text = text_at(block, "text");
    return text ? history_add(a, role, text, e) : wrong(name, "text blocks with a text", e);
}

static bool read_reasoning(ask *a, const char *role, const json_t *block, const char *name, api_error *e) {
    const char *text = text_at(block, "thinking");
    (void)role;
    return text ? history_add_reasoning(a, text, e) : wrong(name, "thinking blocks with a text", e);
}

/* Nobody here can read it. */
static bool pass_over(ask *a, const char *role, const json_t *block, const char *name, api_error *e) {
    (void)a, (void)role, (void)block, (void)name, (void)e;
    return true;
}

/* Blocks by their type, with the fields that they may have. */
static const struct {
    const char *type;
    bool (*read)(ask *a, const char *role, const json_t *block, const char *name, api_error *e);
    const char *fields[8]; /* beside type and cache_control */
} block_types[] = {{"text", read_text, {"text", "citations"}},
                   {"thinking", read_reasoning, {"thinking", "signature"}},
                   {"redacted_thinking", pass_over, {"data"}},
                   {"tool_use", read_call, {"id", "name", "input", "caller"}},
                   {"tool_result", read_result, {"tool_use_id", "content", "is_error"}}};

static bool read_block(ask *a, const char *role, const json_t *block, const char *name, api_error *e) {
    const char *type = text_at(block, "type");
    for (size_t i = 0; type && i < sizeof block_types / sizeof *block_types; i++) {
        const char *fields[12] = {"type", "cache_control"};
        if (strcmp(type, block_types[i].type) != 0)
            continue;
        memcpy(fields + 2, block_types[i].fields, sizeof block_types[i].fields);
        return fields_known(block, fields, name, e) && block_types[i].read(a, role, block, name, e);
    }
    return api_error_set(e, API_INVALID, name,
                         "'%s' has a block of type '%.40s'; this model takes text alone", name,
                         type ? type : "");
}

/* Of answers that are sent back as they came all but role and content is passed over. */
static const char *const message_fields[] = {
    "role",          "content",      "id",    "type",      "model", "stop_reason",
    "stop_sequence", "stop_details", "usage", "container", NULL};

static bool read_message(ask *a, const json_t *message, size_t i, api_error *e) {
    char name[64];
    const char *role = text_at(message, "role");
    const json_t *content = json_object_get(message, "content"), *block;
    size_t k;
    snprintf(name, sizeof name, "messages[%zu]", i);
    if (!role || (strcmp(role, "user") != 0 && strcmp(role, "assistant") != 0 && strcmp(role, "system") != 0))
        return wrong(name, "an object with the role user, assistant or system", e);
    if (!fields_known(message, message_fields, name, e))
        return false;
    if (json_is_string(content))
        return history_add(a, role, json_string_value(content), e);
    if (!json_is_array(content))
        return wrong(name, "an object with a content, a string or a list of blocks", e);
    json_array_foreach(content, k, block) {
        if (!read_block(a, role, block, name, e))
            return false;
    }
    return true;
}

static bool read_messages(void *target, const json_t *value, const char *name, api_error *e) {
    size_t i;
    const json_t *message;
    if (!json_is_array(value) || json_array_size(value) == 0)
        return wrong(name, "a list of at least one message", e);
    json_array_foreach(value, i, message) {
        if (!read_message(target, message, i, e))
            return false;
    }
    return true;
}

/* ---- tools ---- */

static bool read_tools(void *target, const json_t *value, const char *name, api_error *e) {
    size_t i;
    const json_t *tool;
    if (!json_is_array(value))
        return wrong(name, "a list", e);
    json_array_foreach(value, i, tool) {
        const char *type = text_at(tool, "type"), *called = text_at(tool, "name");
        const json_t *schema = json_object_get(tool, "input_schema");
        if ((type && strcmp(type, "custom") != 0) || !called || !called[0] || !json_is_object(schema))
            return api_error_set(
                e, API_INVALID, name,
                "tool %zu must have a name and an input_schema; tools that a server runs are not here", i);
        if (!history_add_tool(target, tool, schema, e))
            return false;
    }
    return true;
}

static bool read_tool_choice(void *target, const json_t *value, const char *name, api_error *e) {
    static const struct {
        const char *word;
        ask_tool_choice choice;
    } words[] = {{"auto", ASK_TOOLS_AUTO},
                 {"any", ASK_TOOLS_REQUIRED},
                 {"tool", ASK_TOOLS_NAMED},
                 {"none", ASK_TOOLS_NONE}};
    ask *a = target;
    const char *type = text_at(value, "type");
    for (size_t i = 0; type && i < sizeof words / sizeof *words; i++)
        if (strcmp(type, words[i].word) == 0) {
            a->tool_choice = words[i].choice;
            a->tool_name = text_at(value, "name");
            a->single_call = json_is_true(json_object_get(value, "disable_parallel_tool_use"));
            return a->tool_choice != ASK_TOOLS_NAMED || a->tool_name ||
                   wrong(name, "of type tool with a name", e);
        }
    return wrong(name, "an object of type auto, any, tool or none", e);
}

/* ---- thinking, output ---- */

static bool set_thinking(ask *a, bool on, api_error *e) {
    if (!a->variables)
        a->variables = json_object();
    return (json_object_set_new(a->variables, "enable_thinking", json_boolean(on)) == 0 &&
            json_object_set_new(a->variables, "thinking", json_boolean(on)) == 0) ||
           ask_no_memory(e);
}

static bool read_thinking(void *target, const json_t *value, const char *name, api_error *e) {
    ask *a = target;
    const char *type = text_at(value, "type");
    const json_t *budget = json_object_get(value, "budget_tokens");
    if (type && strcmp(type, "disabled") == 0)
        return set_thinking(a, false, e);
    if (!type || (strcmp(type, "enabled") != 0 && strcmp(type, "adaptive") != 0))
        return wrong(name, "of type enabled, disabled or adaptive", e);
    if (budget && (!json_is_integer(budget) || json_integer_value(budget) < 1024 ||
                   json_integer_value(budget) > 1 << 30))
        return wrong("thinking.budget_tokens", "a whole number of at least 1024", e);
    if (budget)
        a->reasoning_budget = (int)json_integer_value(budget);
    return set_thinking(a, true, e);
}

static bool read_output(void *target, const json_t *value, const char *name, api_error *e) {
    const json_t *format = json_object_get(value, "format"), *schema = json_object_get(format, "schema");
    const char *type = text_at(format, "type");
    if (!json_is_object(value))
        return wrong(name, "an object", e);
    if (!format || json_is_null(format))
        return true; /* effort has no measure here */
    if (!type || strcmp(type, "json_schema") != 0 || !json_is_object(schema))
        return wrong("output_config.format", "of type json_schema with a schema", e);
    char *text = json_dumps(schema, JSON_COMPACT);
    return text ? ask_set_shape(target, NIB_SHAPE_JSON_SCHEMA, text, name, e) : ask_no_memory(e);
}

/* ---- the body ---- */

static const field fields[] = {
    {"messages", FIELD_READ, 0, 0, 0, read_messages, NULL},
    {"system", FIELD_READ, 0, 0, 0, read_system, NULL},
    {"max_tokens", FIELD_INT, offsetof(ask, max_tokens), 1, 1 << 30, NULL, NULL},
    {"stop_sequences", FIELD_READ, 0, 0, 0, ask_read_stop, NULL},
    {"tools", FIELD_READ, 0, 0, 0, read_tools, NULL},
    {"tool_choice", FIELD_READ, 0, 0, 0, read_tool_choice, NULL},
    {"thinking", FIELD_READ, 0, 0, 0, read_thinking, NULL},
    {"output_config", FIELD_READ, 0, 0, 0, read_output, NULL},
    {"context_management", FIELD_PASS, 0, 0, 0, NULL, NULL}, /* nothing is cleared here */
    {"cache_control", FIELD_PASS, 0, 0, 0, NULL, NULL},      /* prompts are always remembered */
    FIELD_END};
const field *const ask_messages_tables[] = {fields,           ask_common,   ask_thinking_fields,
                                            ask_shape_fields, ask_harmless, NULL};

/* Anthropic's clients begin the answer themselves, as a last message of the assistant's. */
static bool ends_with_a_text(const ask *a) {
    const json_t *last = json_array_get(a->messages, json_array_size(a->messages) - 1);
    const char *role = text_at(last, "role"), *content = text_at(last, "content");
    return role && strcmp(role, "assistant") == 0 && !json_object_get(last, "tool_calls") && content &&
           content[0];
}

bool ask_read_messages(ask *a, const json_t *body, bool counting, api_error *e) {
    ask_defaults(a, body);
    if (!fields_read(ask_messages_tables, a, body, "", e))
        return false;
    if (!a->messages)
        return wrong("messages", "a list of at least one message", e);
    if (a->max_tokens < 0 && !counting)
        return wrong("max_tokens", "given", e);
    if (a->n != 1 || a->best_of > 1)
        return wrong("n", "1 here", e);
    a->continue_last = ends_with_a_text(a);
    return ask_check_tools(a, e) && ask_finish(a, e);
}
