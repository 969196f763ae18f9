/* SPDX-License-Identifier: Apache-2.0
 *
 * GET /openapi.json: the routes and the fields of their bodies, written from the tables that read them.
 */
#include <string.h>

#include "serve/parts.h"
#include "serve/routes.h"

/* Of fields that functions read: what they take at the top, in JSON with ' for ". What is deeper is judged as
 * well. */
static const struct {
    const char *name, *schema;
} forms[] = {
    {"messages",
     "{'type': 'array', 'minItems': 1, 'items': {'type': 'object', 'required': ['role', 'content'], "
     "'properties': {'role': {'type': 'string'}, 'name': {'type': ['string', 'null']}, "
     "'tool_calls': {'type': ['array', 'null']}, 'tool_call_id': {'type': ['string', 'null']}, "
     "'reasoning_content': {'type': ['string', 'null']}, "
     "'content': {'anyOf': [{'type': 'string'}, {'type': 'array', 'items': {'type': 'object', "
     "'required': ['type', 'text'], 'properties': {'type': {'const': 'text'}, "
     "'text': {'type': 'string'}}}}]}}}}"},
    {"prompt", "{'type': ['string', 'array', 'null']}"},
    {"input", "{'type': ['string', 'array', 'null']}"},
    {"content", "{'type': ['string', 'array', 'null']}"},
    {"stop", "{'type': ['string', 'array', 'null'], 'items': {'type': 'string'}}"},
    {"stop_sequences", "{'type': ['array', 'null'], 'items': {'type': 'string'}}"},
    {"stop_token_ids", "{'type': ['array', 'null'], 'items': {'type': 'integer', 'minimum': 0}}"},
    {"allowed_token_ids",
     "{'type': ['array', 'null'], 'minItems': 1, 'items': {'type': 'integer', 'minimum': 0}}"},
    {"bad_words",
     "{'type': ['array', 'null'], 'maxItems': 64, 'items': {'type': 'string', 'pattern': '[^ ]'}}"},
    {"top_n_sigma", "{'type': ['number', 'null'], 'maximum': 0}"},
    {"repeat_last_n", "{'type': ['integer', 'null']}"},
    {"n_predict", "{'type': ['integer', 'null'], 'minimum': -1, 'maximum': 1073741824}"},
    {"logit_bias", "{'type': ['object', 'array', 'null']}"},
    {"seed", "{'type': ['integer', 'null']}"},
    {"top_p", "{'type': ['number', 'null'], 'minimum': 0, 'maximum': 1}"},
    {"top_k", "{'type': ['integer', 'null'], 'minimum': -1}"},
    {"tools", "{'type': ['array', 'null'], 'items': {'type': 'object'}}"},
    {"tool_choice", "{'type': ['string', 'object', 'null']}"},
    {"parallel_tool_calls", "{'type': ['boolean', 'null']}"},
    {"stream_options",
     "{'type': ['object', 'null'], 'properties': {'include_usage': {'type': ['boolean', 'null']}, "
     "'continuous_usage_stats': {'type': ['boolean', 'null']}}}"},
    {"response_format", "{'type': ['object', 'null'], 'required': ['type'], "
                        "'properties': {'type': {'enum': ['text', 'json_object', 'json_schema']}}}"},
    {"structured_outputs", "{'type': ['object', 'null']}"},
    {"json_schema", "{'type': ['object', 'boolean', 'string', 'null']}"},
    {"grammar", "{'type': ['string', 'null']}"},
    {"reasoning_effort", "{'enum': ['none', 'minimal', 'low', 'medium', 'high', 'xhigh', 'max', null]}"},
    {"chat_template_kwargs", "{'type': ['object', 'null']}"},
    {"encoding_format", "{'enum': ['float', 'base64', null]}"},
    {"cache_prompt", "{'type': ['boolean', 'null']}"},
    {"skip_special_tokens", "{'type': ['boolean', 'null']}"},
    {"add_generation_prompt", "{'type': ['boolean', 'null']}"},
};

/* What a body cannot do without. */
static const struct {
    const field *const *body;
    const char *name;
} required[] = {{ask_chat_tables, "messages"},
                {ask_messages_tables, "messages"},
                {ask_completion_tables, "prompt"},
                {ask_responses_tables, "input"}};

static json_t *form_schema(const char *name) {
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        if (strcmp(forms[i].name, name) != 0)
            continue;
        char text[1024];
        snprintf(text, sizeof text, "%s", forms[i].schema);
        for (char *quote = text; (quote = strchr(quote, '\''));)
            *quote = '"';
        return json_loads(text, 0, NULL);
    }
    return json_object();
}

static json_t *field_schema(const field *f) {
    switch (f->kind) {
    case FIELD_BOOL:
        return json_pack("{s:[s,s]}", "type", "boolean", "null");
    case FIELD_INT:
    case FIELD_INT64:
        return json_pack("{s:[s,s], s:I, s:I}", "type", "integer", "null", "minimum", (json_int_t)f->min,
                         "maximum", (json_int_t)f->max);
    case FIELD_REAL:
        return json_pack("{s:[s,s], s:f, s:f}", "type", "number", "null", "minimum", f->min, "maximum",
                         f->max);
    case FIELD_TEXT:
        return json_pack("{s:[s,s]}", "type", "string", "null");
    case FIELD_OBJECT:
        return json_pack("{s:[s,s]}", "type", "object", "null");
    case FIELD_LIST:
        return json_pack("{s:[s,s]}", "type", "array", "null");
    case FIELD_JSON:
    case FIELD_READ:
        return form_schema(f->name);
    case FIELD_PASS:
        return json_object();
    case FIELD_ONLY: /* without fractions */
        return f->max == 1 ? json_pack("{s:[b, n]}", "enum", (int)f->min)
                           : json_pack("{s:[I, n]}", "enum", (json_int_t)f->min);
    case FIELD_REFUSED:
        break;
    }
    return json_pack("{s:s}", "type", "null");
}

static json_t *body_schema(const field *const *tables) {
    json_t *properties = json_object(), *needed = json_array();
    for (size_t i = 0; i < sizeof required / sizeof *required; i++)
        if (required[i].body == tables)
            json_array_append_new(needed, json_string(required[i].name));
    for (; *tables; tables++)
        for (const field *f = *tables; f->name; f++)
            if (!json_object_get(properties, f->name))
                json_object_set_new(properties, f->name, field_schema(f));
    return json_pack("{s:s, s:o, s:o, s:b}", "type", "object", "properties", properties, "required", needed,
                     "additionalProperties", 0);
}

static json_t *json_content(json_t *schema) {
    return json_pack("{s:{s:o}}", "application/json", "schema", schema);
}

/* A star is a name here. */
static void path_of(const route *r, char *out, size_t size) {
    const size_t n = strlen(r->path);
    if (r->path[n - 1] == '*')
        snprintf(out, size, "%.*s{name}", (int)n - 1, r->path);
    else
        snprintf(out, size, "%s", r->path);
}

static json_t *operation(const route *r) {
    json_t *error =
        json_pack("{s:s, s:o}", "description", "what is wrong", "content", json_content(json_object()));
    json_t *o = json_pack("{s:s, s:{s:{s:s}, s:o}}", "summary", r->summary, "responses", "200", "description",
                          "an answer", "default", error);
    if (o && r->body)
        parts_set(o, "requestBody",
                  json_pack("{s:b, s:o}", "required", 1, "content", json_content(body_schema(r->body))));
    if (o && strchr(r->path, '*'))
        parts_set(o, "parameters",
                  json_pack("[{s:s, s:s, s:b, s:{s:s}}]", "name", "name", "in", "path", "required", 1,
                            "schema", "type", "string"));
    if (o && !(r->flags & ROUTE_PUBLIC))
        parts_set(o, "security", json_pack("[{s:[]}]", "key"));
    return o;
}

void route_openapi(exchange *x) {
    json_t *paths = json_object();
    for (const route *r = routes_table; r->path; r++) {
        char path[96];
        path_of(r, path, sizeof path);
        json_t *methods = json_object_get(paths, path);
        if (!methods)
            json_object_set_new(paths, path, methods = json_object());
        json_object_set_new(methods, strcmp(r->method, "GET") == 0 ? "get" : "post", operation(r));
    }
    http_reply_json(x, 200,
                    json_pack("{s:s, s:{s:s, s:s}, s:o, s:{s:{s:{s:s, s:s}}}}", "openapi", "3.1.0", "info",
                              "title", "nibble", "version", nib_version(), "paths", paths, "components",
                              "securitySchemes", "key", "type", "http", "scheme", "bearer"));
}
