/* SPDX-License-Identifier: Apache-2.0
 *
 * The fields that hold an answer to a shape: OpenAI's response_format, vLLM's structured_outputs, llama.cpp's
 * json_schema and grammar.
 */
#include <string.h>

#include "serve/ask.h"

bool ask_set_shape(ask *a, nib_shape_kind kind, char *text, const char *name, api_error *e) {
    if (a->shape.wanted) {
        json_text_free(text);
        return api_error_set(e, API_INVALID, name,
                             "'%s' is a second shape for the answer; only one can be held to", name);
    }
    a->shape = (ask_shape){.wanted = true, .kind = kind, .text = text};
    return true;
}

/* The JSON VALUE as the text of a shape; a schema may also come as a string. */
static bool set_json(ask *a, nib_shape_kind kind, const json_t *value, const char *name, api_error *e) {
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    return text ? ask_set_shape(a, kind, text, name, e) : ask_no_memory(e);
}

static bool set_text(ask *a, nib_shape_kind kind, const json_t *value, const char *name, api_error *e) {
    if (!json_is_string(value))
        return api_error_set(e, API_INVALID, name, "'%s' must be a string", name);
    char *text = strdup(json_string_value(value));
    return text ? ask_set_shape(a, kind, text, name, e) : ask_no_memory(e);
}

static bool read_schema(void *target, const json_t *value, const char *name, api_error *e) {
    if (json_is_string(value))
        return set_text(target, NIB_SHAPE_JSON_SCHEMA, value, name, e);
    if (!json_is_object(value) && !json_is_boolean(value))
        return api_error_set(e, API_INVALID, name, "'%s' must be a JSON schema", name);
    return set_json(target, NIB_SHAPE_JSON_SCHEMA, value, name, e);
}

static bool read_grammar(void *target, const json_t *value, const char *name, api_error *e) {
    return set_text(target, NIB_SHAPE_GBNF, value, name, e);
}

static bool read_regex(void *target, const json_t *value, const char *name, api_error *e) {
    return set_text(target, NIB_SHAPE_REGEX, value, name, e);
}

static bool read_choice(void *target, const json_t *value, const char *name, api_error *e) {
    if (!json_is_array(value))
        return api_error_set(e, API_INVALID, name, "'%s' must be a list of strings", name);
    return set_json(target, NIB_SHAPE_CHOICE, value, name, e);
}

static bool read_any_object(void *target, const json_t *value, const char *name, api_error *e) {
    if (!json_is_boolean(value))
        return api_error_set(e, API_INVALID, name, "'%s' must be true or false", name);
    return json_is_false(value) || ask_set_shape(target, NIB_SHAPE_JSON_OBJECT, NULL, name, e);
}

static bool read_structured(void *target, const json_t *value, const char *name, api_error *e) {
    static const field fields[] = {{"json", FIELD_READ, 0, 0, 0, read_schema, NULL},
                                   {"json_object", FIELD_READ, 0, 0, 0, read_any_object, NULL},
                                   {"regex", FIELD_READ, 0, 0, 0, read_regex, NULL},
                                   {"choice", FIELD_READ, 0, 0, 0, read_choice, NULL},
                                   {"grammar", FIELD_READ, 0, 0, 0, read_grammar, NULL},
                                   {"structural_tag", FIELD_REFUSED, 0, 0, 0, NULL, NULL},
                                   FIELD_END};
    static const field *const tables[] = {fields, NULL};
    if (!json_is_object(value))
        return api_error_set(e, API_INVALID, name, "'%s' must be an object", name);
    return fields_read(tables, target, value, "structured_outputs.", e);
}

/* {"type": "text"}, {"type": "json_object"[, "schema": ...]}, {"type": "json_schema", "json_schema": {...}}
 */
typedef struct format {
    const char *type, *name, *description;
    const json_t *schema, *json_schema;
    bool strict;
} format;

static bool read_json_schema(ask *a, const json_t *value, api_error *e) {
    static const field fields[] = {
        {"name", FIELD_TEXT, offsetof(format, name), 0, 0, NULL, NULL},
        {"description", FIELD_TEXT, offsetof(format, description), 0, 0, NULL, NULL},
        {"strict", FIELD_BOOL, offsetof(format, strict), 0, 0, NULL, NULL}, /* always held to */
        {"schema", FIELD_JSON, offsetof(format, schema), 0, 0, NULL, NULL},
        FIELD_END};
    static const field *const tables[] = {fields, NULL};
    format f = {0};
    if (!fields_read(tables, &f, value, "response_format.json_schema.", e))
        return false;
    if (!f.schema)
        return api_error_set(e, API_INVALID, "response_format.json_schema.schema",
                             "'response_format.json_schema' must have a schema");
    return read_schema(a, f.schema, "response_format.json_schema.schema", e);
}

static bool read_format(void *target, const json_t *value, const char *name, api_error *e) {
    static const field fields[] = {
        {"type", FIELD_TEXT, offsetof(format, type), 0, 0, NULL, NULL},
        {"schema", FIELD_JSON, offsetof(format, schema), 0, 0, NULL, NULL},
        {"json_schema", FIELD_OBJECT, offsetof(format, json_schema), 0, 0, NULL, NULL},
        FIELD_END};
    static const field *const tables[] = {fields, NULL};
    format f = {0};
    if (!json_is_object(value))
        return api_error_set(e, API_INVALID, name, "'%s' must be an object", name);
    if (!fields_read(tables, &f, value, "response_format.", e))
        return false;
    if (f.type && strcmp(f.type, "text") == 0)
        return true;
    if (f.type && strcmp(f.type, "json_object") == 0)
        return f.schema ? read_schema(target, f.schema, "response_format.schema", e)
                        : ask_set_shape(target, NIB_SHAPE_JSON_OBJECT, NULL, name, e);
    if (f.type && strcmp(f.type, "json_schema") == 0)
        return f.json_schema ? read_json_schema(target, f.json_schema, e)
                             : api_error_set(e, API_INVALID, "response_format.json_schema",
                                             "'response_format.json_schema' must be an object");
    return api_error_set(e, API_INVALID, "response_format.type",
                         "'response_format.type' must be text, json_object or json_schema");
}

const field ask_shape_fields[] = {{"response_format", FIELD_READ, 0, 0, 0, read_format, NULL},
                                  {"structured_outputs", FIELD_READ, 0, 0, 0, read_structured, NULL},
                                  {"json_schema", FIELD_READ, 0, 0, 0, read_schema, NULL},
                                  {"grammar", FIELD_READ, 0, 0, 0, read_grammar, NULL},
                                  FIELD_END};
