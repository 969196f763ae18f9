/* SPDX-License-Identifier: Apache-2.0
 *
 * See call_shape.h. What comes out is what chat_calls.c reads.
 */
#include "text/call_shape.h"

#include "base/json.h"
#include "text/chat_format.h"
#include "text/schema.h"
#include "text/spell.h"

/* What stands around the name and the arguments of a call. */
typedef struct call_marks {
    const char *open, *name_end, *close;
    bool repeats;
} call_marks;

static const chat_format *find_format(const char *name) {
    for (const chat_format *f = chat_formats; name && f->name; f++)
        if (strcmp(f->name, name) == 0)
            return f;
    return NULL;
}

static const char *text_of(const char *text) {
    return text ? text : "";
}

static grammar_node fail(grammar_builder *b, const char *what) {
    return grammar_fail(b, NIB_BAD_ARGUMENT, "the tools to call: %s", what);
}

/* ---- arguments ---- */

/* Arguments are objects, whatever else a schema leaves open. */
static grammar_node arguments(grammar_builder *b, const json_t *schema) {
    if (!json_is_object(schema))
        return schema_any_object(b);
    json_t *object = json_copy((json_t *)schema);
    if (object && !json_object_get(object, "type"))
        json_object_set_new(object, "type", json_string("object"));
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    if (!text)
        return grammar_fail(b, NIB_NO_MEMORY, "no memory for the schema of a tool");
    const grammar_node node = schema_read(b, strview_of(text));
    json_text_free(text);
    return node;
}

/* ---- a call ---- */

static grammar_node object_call(grammar_builder *b, const call_marks *m, strview name, const char *key,
                                grammar_node args) {
    return GRAMMAR_SEQ(b, grammar_word(b, m->open), grammar_word(b, "{\"name\": \""),
                       spell_text(b, name, SPELL_JSON), grammar_word(b, "\", \""), grammar_word(b, key),
                       grammar_word(b, "\": "), args, grammar_word(b, "}"), grammar_word(b, m->close));
}

static grammar_node named_call(grammar_builder *b, const call_marks *m, const char *before, strview name,
                               grammar_node args) {
    return GRAMMAR_SEQ(b, grammar_word(b, m->open), grammar_word(b, before), grammar_text(b, name),
                       grammar_word(b, m->name_end), args, grammar_word(b, m->close));
}

static grammar_node call(grammar_builder *b, const chat_format *f, strview name, grammar_node args) {
    const chat_shape shape = f ? f->shape : CHAT_NO_CALLS;
    call_marks m = {f ? text_of(f->call_open) : "", f ? text_of(f->name_end) : "",
                    f ? text_of(f->call_close) : "", true};
    switch (shape) {
    case CHAT_OBJECT:
        return GRAMMAR_SEQ(b, grammar_word(b, m.open), grammar_word(b, "\n"),
                           object_call(b, &(call_marks){"", "", "", false}, name, "arguments", args),
                           grammar_word(b, f->call_close ? "\n" : ""), grammar_word(b, m.close));
    case CHAT_BARE:
        return object_call(b, &(call_marks){"", "", "", false}, name, "parameters", args);
    case CHAT_MISTRAL:
        return named_call(b, &m, "", name, args);
    case CHAT_NAMED:
        return named_call(b, &m, strcmp(f->name, "kimi") == 0 ? "functions." : "", name, args);
    case CHAT_NO_CALLS:
    case CHAT_GEMMA:
    case CHAT_HARMONY:
        break;
    }
    return object_call(b, &(call_marks){"", "", "", false}, name, "arguments", args);
}

/* ---- all of them ---- */

static grammar_node one_of(grammar_builder *b, const chat_format *f, const json_t *tools,
                           const char *wanted) {
    grammar_node all = GRAMMAR_NEVER;
    size_t i, n = 0;
    const json_t *tool;
    json_array_foreach(tools, i, tool) {
        const json_t *function = json_object_get(tool, "function"), *name = json_object_get(function, "name");
        if (grammar_failed(b))
            break;
        if (!json_is_string(name) || json_string_length(name) == 0)
            return fail(b, "expected a function with a name in each");
        if (wanted && strcmp(wanted, json_string_value(name)) != 0)
            continue;
        const strview text = {json_string_value(name), json_string_length(name)};
        const grammar_node node = call(b, f, text, arguments(b, json_object_get(function, "parameters")));
        all = n++ ? GRAMMAR_ALT(b, all, node) : node;
    }
    return n > 0 ? all : fail(b, wanted ? "none has the name that was asked for" : "expected at least one");
}

static bool writes_json(const chat_format *f) {
    return f && !f->param_open && f->shape != CHAT_GEMMA && f->shape != CHAT_HARMONY;
}

static grammar_node read_object(grammar_builder *b, const json_t *json) {
    const chat_format *f = find_format(json_string_value(json_object_get(json, "format")));
    const json_t *tools = json_object_get(json, "tools");
    const char *name = json_string_value(json_object_get(json, "name"));
    f = writes_json(f) ? f : NULL;
    const bool single = name || json_is_true(json_object_get(json, "single")) || !f || f->shape == CHAT_BARE;
    const grammar_node one = one_of(b, f, tools, name);
    if (!f)
        return one;
    /* Between two calls there is a line end where they stand on lines of their own. */
    const grammar_node between = grammar_word(b, f->shape == CHAT_OBJECT ? "\n" : "");
    const grammar_node calls =
        single ? one
               : GRAMMAR_SEQ(b, one,
                             grammar_repeat(b, GRAMMAR_SEQ(b, between, one), 0, CALL_SHAPE_MAX_CALLS - 1));
    return GRAMMAR_SEQ(b, grammar_word(b, text_of(f->section_open)), calls,
                       grammar_word(b, text_of(f->section_close)));
}

grammar_node call_shape_read(grammar_builder *b, strview text) {
    json_t *json;
    nib_error err = {""};
    const nib_status status = json_read(&json, text.p, text.n, "the tools to call", &err);
    if (status != NIB_OK)
        return grammar_fail(b, status == NIB_BAD_FILE ? NIB_BAD_ARGUMENT : status, "%s", err.text);
    const grammar_node node = json_is_object(json) ? read_object(b, json) : fail(b, "expected an object");
    json_decref(json);
    return node;
}
