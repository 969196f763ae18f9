/* SPDX-License-Identifier: Apache-2.0
 *
 * The body of POST /v1/chat/completions.
 */
#include <string.h>

#include "base/nearest.h"
#include "serve/ask.h"
#include "serve/buf.h"

/* ---- messages ---- */

/* What a message may hold. Templates are given all of it; of the rest, what clients send back of answers or
 * say about caches changes nothing. */
static const char *const message_fields[] = {"role",
                                             "content",
                                             "name",
                                             "tool_calls",
                                             "tool_call_id",
                                             "reasoning_content",
                                             "reasoning",
                                             "thinking",
                                             "refusal",
                                             "annotations",
                                             "id",
                                             "cache_control",
                                             "reasoning_details",
                                             "provider_specific_fields",
                                             NULL};
const char *const ask_part_fields[] = {"type",     "text",      "refusal",       "annotations",
                                       "logprobs", "citations", "cache_control", NULL};
static const char *const call_fields[] = {"id", "type", "function", "index", "provider_specific_fields",
                                          NULL};
static const char *const function_fields[] = {"name", "arguments", NULL};

static bool is_text_part(const json_t *part) {
    static const char *const types[] = {"text", "input_text", "output_text", "refusal", NULL};
    const char *type = json_string_value(json_object_get(part, "type"));
    return type ? fields_among(type, types) : json_is_string(part);
}

static const char *part_text(const json_t *part) {
    const json_t *text = json_object_get(part, "text");
    return json_string_value(json_is_string(part) ? part : text ? text : json_object_get(part, "refusal"));
}

/* Parts become one text, a line each, as templates for text want it. */
static bool join_parts(json_t *message, const json_t *parts, const char *name, api_error *e) {
    buf all = {0};
    size_t k;
    const json_t *part;
    json_array_foreach(parts, k, part) {
        const char *text = is_text_part(part) ? part_text(part) : NULL;
        if (!text) {
            const char *type = json_string_value(json_object_get(part, "type"));
            buf_free(&all);
            return api_error_set(e, API_INVALID, name,
                                 "part %zu of '%s' is of type '%.40s'; this model takes text alone", k, name,
                                 type ? type : "");
        }
        if (!fields_known(part, ask_part_fields, name, e)) {
            buf_free(&all);
            return false;
        }
        if (k > 0)
            buf_text(&all, "\n");
        buf_text(&all, text);
    }
    buf_add(&all, "", 0);
    const bool fits =
        !all.failed && json_object_set_new(message, "content", json_stringn(all.bytes, all.n)) == 0;
    buf_free(&all);
    return fits || ask_no_memory(e);
}

static bool check_calls(const json_t *calls, const char *where, api_error *e) {
    char name[96];
    size_t i;
    const json_t *call;
    snprintf(name, sizeof name, "%s.tool_calls", where);
    if (calls && !json_is_null(calls) && !json_is_array(calls))
        return api_error_set(e, API_INVALID, name, "'%s' must be a list", name);
    json_array_foreach(calls, i, call) {
        const json_t *function = json_object_get(call, "function");
        snprintf(name, sizeof name, "%s.tool_calls[%zu]", where, i);
        if (!json_is_string(json_object_get(function, "name")))
            return api_error_set(e, API_INVALID, name, "'%s' must have a function with a name", name);
        if (!fields_known(call, call_fields, name, e))
            return false;
        snprintf(name, sizeof name, "%s.tool_calls[%zu].function", where, i);
        if (!fields_known(function, function_fields, name, e))
            return false;
    }
    return true;
}

/* A template would write whatever it is. */
static bool check_texts(const json_t *message, size_t i, api_error *e) {
    static const char *const texts[] = {"name", "tool_call_id", "reasoning_content", "reasoning"};
    char name[64];
    for (size_t k = 0; k < sizeof texts / sizeof *texts; k++) {
        const json_t *text = json_object_get(message, texts[k]);
        snprintf(name, sizeof name, "messages[%zu].%s", i, texts[k]);
        if (text && !json_is_null(text) && !json_is_string(text))
            return api_error_set(e, API_INVALID, name, "'%s' must be a string", name);
    }
    return true;
}

const char *const ask_roles[] = {"system", "developer", "user", "assistant", "tool", "function", NULL};

/* A role that no API has may be one of the model's (answer_roles.h), but hardly when it looks like one of
 * these, and is not numbered (user1). */
static bool check_role(const char *role, size_t i, api_error *e) {
    const bool is_own = fields_among(role, ask_roles) || strpbrk(role, "0123456789");
    const char *near = is_own ? NULL : nearest_name(role, ask_roles);
    char name[64];
    snprintf(name, sizeof name, "messages[%zu].role", i);
    return !near ||
           api_error_set(e, API_INVALID, name, "'%s' is '%.40s'; did you mean '%s'?", name, role, near);
}

static bool check_message(json_t *message, size_t i, api_error *e) {
    char name[64];
    const json_t *content = json_object_get(message, "content");
    snprintf(name, sizeof name, "messages[%zu]", i);
    if (!json_is_object(message) || !json_is_string(json_object_get(message, "role")))
        return api_error_set(e, API_INVALID, name, "'%s' must be an object with a role", name);
    if (!fields_known(message, message_fields, name, e) || !check_texts(message, i, e) ||
        !check_calls(json_object_get(message, "tool_calls"), name, e))
        return false;
    const char *role = json_string_value(json_object_get(message, "role"));
    if (!check_role(role, i, e))
        return false;
    snprintf(name, sizeof name, "messages[%zu].content", i);
    if (json_is_array(content))
        return join_parts(message, content, name, e);
    const bool may_be_empty = strcmp(role, "assistant") == 0;
    if (json_is_string(content) || (may_be_empty && (!content || json_is_null(content))))
        return true;
    return api_error_set(e, API_INVALID, name, "'%s' must be a string or a list of parts", name);
}

static bool read_messages(void *target, const json_t *value, const char *name, api_error *e) {
    ask *a = target;
    size_t i;
    json_t *message;
    if (!json_is_array(value) || json_array_size(value) == 0)
        return api_error_set(e, API_INVALID, name, "'%s' must be a list of at least one message", name);
    a->messages = json_deep_copy(value);
    if (!a->messages)
        return ask_no_memory(e);
    json_array_foreach(a->messages, i, message) if (!check_message(message, i, e)) return false;
    return true;
}

/* ---- tools ---- */

static bool read_tools(void *target, const json_t *value, const char *name, api_error *e) {
    ask *a = target;
    size_t i;
    const json_t *tool;
    if (!json_is_array(value))
        return api_error_set(e, API_INVALID, name, "'%s' must be a list", name);
    json_array_foreach(value, i, tool) {
        const json_t *function = json_object_get(tool, "function"), *parameters;
        const char *called = json_string_value(json_object_get(function, "name"));
        const char *type = json_string_value(json_object_get(tool, "type"));
        char where[64];
        snprintf(where, sizeof where, "tools[%zu]", i);
        if (!type || strcmp(type, "function") != 0 || !called || !called[0])
            return api_error_set(e, API_INVALID, where,
                                 "'%s' must be of type function, and its function have a name", where);
        parameters = json_object_get(function, "parameters");
        if (parameters && !json_is_object(parameters) && !json_is_null(parameters))
            return api_error_set(e, API_INVALID, where, "the parameters of '%s' must be a JSON schema",
                                 where);
    }
    if (json_array_size(value) > 0)
        a->tools = json_incref((json_t *)value);
    return true;
}

bool ask_read_tool_choice(void *target, const json_t *value, const char *name, api_error *e) {
    static const char *const words[] = {"auto", "none", "required"};
    ask *a = target;
    for (int i = 0; json_is_string(value) && i < 3; i++)
        if (strcmp(json_string_value(value), words[i]) == 0) {
            a->tool_choice = (ask_tool_choice)i;
            return true;
        }
    a->tool_name = json_string_value(json_object_get(json_object_get(value, "function"), "name"));
    a->tool_choice = ASK_TOOLS_NAMED;
    return a->tool_name ||
           api_error_set(e, API_INVALID, name, "'%s' must be auto, none, required, or name a function", name);
}

bool ask_read_parallel(void *target, const json_t *value, const char *name, api_error *e) {
    if (!json_is_boolean(value))
        return api_error_set(e, API_INVALID, name, "'%s' must be true or false", name);
    ((ask *)target)->single_call = json_is_false(value);
    return true;
}

static bool has_tool(const ask *a, const char *name) {
    size_t i;
    const json_t *tool;
    json_array_foreach(a->tools, i, tool) {
        const json_t *called = json_object_get(json_object_get(tool, "function"), "name");
        if (strcmp(json_string_value(called), name) == 0)
            return true;
    }
    return false;
}

bool ask_check_tools(ask *a, api_error *e) {
    if (a->tool_choice >= ASK_TOOLS_REQUIRED && !a->tools)
        return api_error_set(e, API_INVALID, "tool_choice",
                             "'tool_choice' asks for a call, but there are no tools");
    if (a->tool_choice == ASK_TOOLS_NAMED && !has_tool(a, a->tool_name))
        return api_error_set(e, API_INVALID, "tool_choice",
                             "'tool_choice' names the function '%.80s', which is no tool", a->tool_name);
    if (a->tool_choice >= ASK_TOOLS_REQUIRED && a->shape.wanted)
        return api_error_set(
            e, API_INVALID, "tool_choice",
            "'tool_choice' asks for a call, and another field for an answer of a given shape");
    if (a->tool_choice == ASK_TOOLS_NONE) { /* what a model does not know of it does not call */
        json_decref(a->tools);
        a->tools = NULL;
    }
    return true;
}

bool ask_holds_calls(const ask *a) {
    size_t i;
    const json_t *tool;
    if (a->tool_choice >= ASK_TOOLS_REQUIRED)
        return true;
    json_array_foreach(a->tools, i, tool) {
        if (json_is_true(json_object_get(json_object_get(tool, "function"), "strict")))
            return true;
    }
    return false;
}

/* ---- the template's variables ---- */

static bool set_variable(ask *a, const char *name, json_t *value, api_error *e) {
    if (!a->variables)
        a->variables = json_object();
    return json_object_set_new(a->variables, name, value) == 0 || ask_no_memory(e);
}

static bool read_kwargs(void *target, const json_t *value, const char *name, api_error *e) {
    ask *a = target;
    static const char *const taken[] = {"messages", "tools", "bos_token", "eos_token",
                                        "add_generation_prompt"};
    if (!json_is_object(value))
        return api_error_set(e, API_INVALID, name, "'%s' must be an object", name);
    for (size_t i = 0; i < sizeof taken / sizeof *taken; i++)
        if (json_object_get(value, taken[i]))
            return api_error_set(e, API_INVALID, name, "'%s' cannot give '%s', which the server gives", name,
                                 taken[i]);
    if (!a->variables)
        a->variables = json_object();
    return (a->variables && json_object_update(a->variables, (json_t *)value) == 0) || ask_no_memory(e);
}

static bool read_documents(void *target, const json_t *value, const char *name, api_error *e) {
    if (!json_is_array(value))
        return api_error_set(e, API_INVALID, name, "'%s' must be a list", name);
    return set_variable(target, "documents", json_incref((json_t *)value), e);
}

/* Templates know the effort under its name; "none" turns thinking off where a template can. */
bool ask_read_effort(void *target, const json_t *value, const char *name, api_error *e) {
    static const char *const words[] = {"none", "minimal", "low", "medium", "high", "xhigh", "max", NULL};
    ask *a = target;
    const char *text = json_string_value(value);
    int i = 0;
    while (words[i] && (!text || strcmp(words[i], text) != 0))
        i++;
    if (!words[i])
        return api_error_set(e, API_INVALID, name,
                             "'%s' must be none, minimal, low, medium, high, xhigh or max", name);
    if (i == 0)
        return set_variable(a, "enable_thinking", json_false(), e) &&
               set_variable(a, "thinking", json_false(), e);
    return set_variable(a, "reasoning_effort", json_string(text), e);
}

static bool read_generation_prompt(void *target, const json_t *value, const char *name, api_error *e) {
    if (!json_is_boolean(value))
        return api_error_set(e, API_INVALID, name, "'%s' must be true or false", name);
    ((ask *)target)->no_generation_prompt = json_is_false(value);
    return true;
}

static bool refuse_true(void *target, const json_t *value, const char *name, api_error *e) {
    (void)target;
    return json_is_false(value) || api_error_set(e, API_INVALID, name, "'%s' is not supported", name);
}

/* ["text"] is what there is. */
static bool read_modalities(void *target, const json_t *value, const char *name, api_error *e) {
    const char *only = json_array_size(value) == 1 ? json_string_value(json_array_get(value, 0)) : NULL;
    (void)target;
    return (only && strcmp(only, "text") == 0) ||
           api_error_set(e, API_INVALID, name, "'%s' must be [\"text\"]: this model writes text alone", name);
}

#define AT(member) offsetof(ask, member)

const field ask_thinking_fields[] = {
    {"thinking_token_budget", FIELD_INT, AT(reasoning_budget), 0, 1 << 30, NULL, NULL},
    {"thinking_budget_tokens", FIELD_INT, AT(reasoning_budget), 0, 1 << 30, NULL, NULL},
    {"reasoning_budget_tokens", FIELD_INT, AT(reasoning_budget), 0, 1 << 30, NULL, NULL},
    FIELD_END};

static const field fields[] = {
    {"messages", FIELD_READ, 0, 0, 0, read_messages, NULL},
    {"max_tokens", FIELD_INT, AT(max_tokens), 1, 1 << 30, NULL, NULL},
    {"max_completion_tokens", FIELD_INT, AT(max_tokens), 1, 1 << 30, NULL, NULL},
    {"logprobs", FIELD_BOOL, AT(logprobs), 0, 0, NULL, NULL},
    {"top_logprobs", FIELD_INT, AT(top_logprobs), 0, NIB_MAX_LOGPROBS, NULL, NULL},
    {"prompt_logprobs", FIELD_INT, AT(prompt_logprobs), 0, NIB_MAX_LOGPROBS, NULL, NULL},
    {"add_special_tokens", FIELD_ONLY, 0, false, true, NULL, "the template gives them"},
    {"tools", FIELD_READ, 0, 0, 0, read_tools, NULL},
    {"tool_choice", FIELD_READ, 0, 0, 0, ask_read_tool_choice, NULL},
    {"parallel_tool_calls", FIELD_READ, 0, 0, 0, ask_read_parallel, NULL},
    {"reasoning_effort", FIELD_READ, 0, 0, 0, ask_read_effort, NULL},
    {"chat_template_kwargs", FIELD_READ, 0, 0, 0, read_kwargs, NULL},
    {"documents", FIELD_READ, 0, 0, 0, read_documents, NULL},
    {"add_generation_prompt", FIELD_READ, 0, 0, 0, read_generation_prompt, NULL},
    {"continue_final_message", FIELD_BOOL, AT(continue_last), 0, 0, NULL, NULL},
    {"echo", FIELD_READ, 0, 0, 0, refuse_true, NULL},
    {"modalities", FIELD_READ, 0, 0, 0, read_modalities, NULL},
    {"chat_template", FIELD_REFUSED, 0, 0, 0, NULL, "the server's is used (--chat-template)"},
    {"functions", FIELD_REFUSED, 0, 0, 0, NULL, "use tools"},
    {"function_call", FIELD_REFUSED, 0, 0, 0, NULL, "use tool_choice"},
    {"audio", FIELD_REFUSED, 0, 0, 0, NULL, NULL},
    {"prediction", FIELD_PASS, 0, 0, 0, NULL, NULL}, /* makes an answer come sooner, at best */
    {"web_search_options", FIELD_REFUSED, 0, 0, 0, NULL, NULL},
    {"verbosity", FIELD_REFUSED, 0, 0, 0, NULL, NULL},
    FIELD_END};
const field *const ask_chat_tables[] = {fields,           ask_common,   ask_ways, ask_thinking_fields,
                                        ask_shape_fields, ask_harmless, NULL};

bool ask_read_chat(ask *a, const json_t *body, api_error *e) {
    ask_defaults(a, body);
    if (!fields_read(ask_chat_tables, a, body, "", e))
        return false;
    if (!a->messages)
        return api_error_set(e, API_INVALID, "messages", "'messages' must be a list of at least one message");
    if (a->top_logprobs > 0 && !a->logprobs)
        return api_error_set(e, API_INVALID, "top_logprobs", "'top_logprobs' needs 'logprobs' to be true");
    if (a->continue_last && json_is_true(json_object_get(body, "add_generation_prompt")))
        return api_error_set(e, API_INVALID, "continue_final_message",
                             "'continue_final_message' beside 'add_generation_prompt', which begins another");
    return ask_check_tools(a, e) && ask_finish(a, e);
}
