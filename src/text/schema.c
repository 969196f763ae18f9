/* SPDX-License-Identifier: Apache-2.0
 *
 * The walk over a schema: one rule per subschema, so that recursion and repeated $refs cost nothing. What
 * joins schemas (allOf, $ref beside other keywords, anyOf beside others) is merged into one first.
 */
#include "text/schema_parts.h"

#include <math.h>
#include <stdio.h>

#include "base/mem.h"
#include "base/utf8.h"
#include "text/automaton.h"
#include "text/chat_format.h"
#include "text/excerpt.h"

grammar_node schema_refuse(schema_compiler *c, const char *keyword, const char *what) {
    return grammar_fail(c->b, NIB_UNSUPPORTED, "the JSON schema: %s at \"#%s\": %s", keyword, c->path, what);
}

json_t *schema_own(schema_compiler *c, json_t *made) {
    if (made && json_array_append_new(c->made, made) == 0)
        return made;
    grammar_fail(c->b, NIB_NO_MEMORY, "no memory for a schema");
    return NULL;
}

bool schema_count(schema_compiler *c, const json_t *schema, const char *keyword, uint32_t *out) {
    const json_t *value = json_object_get(schema, keyword);
    if (!value)
        return true;
    const double v = json_number_value(value);
    if (!json_is_number(value) || v < 0 || v != floor(v))
        return schema_refuse(c, keyword, "expected a whole number") != GRAMMAR_NEVER;
    if (v > GRAMMAR_MAX_REPEAT)
        return schema_refuse(c, keyword, "a number above 1000000 is not supported") != GRAMMAR_NEVER;
    *out = (uint32_t)v;
    return true;
}

grammar_node schema_comma(schema_compiler *c) {
    return GRAMMAR_SEQ(c->b, grammar_byte(c->b, ',', ','), schema_blank(c));
}

/* ---- literals ---- */

static grammar_node number_literal(schema_compiler *c, const json_t *value) {
    char text[64];
    if (json_is_integer(value)) {
        snprintf(text, sizeof text, "%lld", (long long)json_integer_value(value));
        return grammar_word(c->b, text);
    }
    char *dumped = json_dumps(value, JSON_ENCODE_ANY);
    const double v = json_real_value(value);
    if (!dumped)
        return grammar_fail(c->b, NIB_NO_MEMORY, "no memory for a schema");
    grammar_node both = grammar_word(c->b, dumped);
    json_text_free(dumped);
    if (v == floor(v) && fabs(v) < 1e15) { /* 1.0 is 1 */
        snprintf(text, sizeof text, "%lld", (long long)v);
        both = GRAMMAR_ALT(c->b, both, grammar_word(c->b, text));
    }
    return both;
}

grammar_node schema_quoted(schema_compiler *c, grammar_node inside) {
    return c->manner.mode == SCHEMA_RAW ? inside : GRAMMAR_SEQ(c->b, c->quote, inside, c->quote);
}

static grammar_node string_literal(schema_compiler *c, strview text) {
    if (!schema_is_raw(c))
        return schema_quoted(c, spell_text(c->b, text, SPELL_JSON));
    return schema_is_raw_text(c, text) ? schema_quoted(c, grammar_text(c->b, text)) : GRAMMAR_NEVER;
}

grammar_node schema_name(schema_compiler *c, const char *name) {
    grammar_builder *b = c->b;
    const strview text = strview_of(name);
    if (!c->bare)
        return GRAMMAR_SEQ(b, c->quote, spell_text(b, text, SPELL_JSON), c->quote, grammar_byte(b, ':', ':'),
                           schema_blank(c));
    if (!language_has(schema_bare_names(c), text))
        return schema_refuse(c, "properties", "the model's format cannot write this name");
    return GRAMMAR_SEQ(b, grammar_text(b, text), grammar_byte(b, ':', ':'));
}

grammar_node schema_names(schema_compiler *c, const language *names) {
    grammar_builder *b = c->b;
    if (c->bare)
        return GRAMMAR_SEQ(b,
                           language_node(b, language_and(b, &c->a, names, schema_bare_names(c)), SPELL_PLAIN),
                           grammar_byte(b, ':', ':'));
    return GRAMMAR_SEQ(b, c->quote, language_node(b, names, SPELL_JSON), c->quote, grammar_byte(b, ':', ':'),
                       schema_blank(c));
}

static grammar_node list_literal(schema_compiler *c, const json_t *value) {
    const bool object = json_is_object(value);
    grammar_builder *b = c->b;
    grammar_node inside = GRAMMAR_EMPTY;
    size_t n = 0, i;
    const char *key;
    json_t *member;
    if (object) {
        json_object_foreach((json_t *)value, key, member) {
            const grammar_node pair = GRAMMAR_SEQ(b, schema_name(c, key), schema_literal(c, member));
            inside = GRAMMAR_SEQ(b, inside, n++ ? schema_comma(c) : GRAMMAR_EMPTY, pair);
        }
    } else {
        json_array_foreach(value, i, member) {
            inside = GRAMMAR_SEQ(b, inside, n++ ? schema_comma(c) : GRAMMAR_EMPTY, schema_literal(c, member));
        }
    }
    return GRAMMAR_SEQ(b, grammar_word(b, object ? "{" : "["), schema_blank(c), inside,
                       n ? schema_blank(c) : GRAMMAR_EMPTY, grammar_word(b, object ? "}" : "]"));
}

grammar_node schema_literal(schema_compiler *c, const json_t *value) {
    grammar_node x = GRAMMAR_NEVER;
    const schema_manner before = c->manner;
    if (++c->depth > GRAMMAR_MAX_NESTING)
        return schema_refuse(c, "enum", "a value that is nested too deeply");
    switch (json_typeof(value)) {
    case JSON_OBJECT:
    case JSON_ARRAY:
        c->manner.mode = SCHEMA_JSON;
        x = list_literal(c, value);
        c->manner = before;
        break;
    case JSON_STRING:
        x = string_literal(c, (strview){json_string_value(value), json_string_length(value)});
        break;
    case JSON_INTEGER:
    case JSON_REAL:
        x = number_literal(c, value);
        break;
    case JSON_TRUE:
    case JSON_FALSE:
    case JSON_NULL:
        x = grammar_word(c->b, json_is_true(value) ? "true" : json_is_false(value) ? "false" : "null");
        break;
    }
    c->depth--;
    return x;
}

/* ---- $ref ---- */

json_t *schema_resolve(schema_compiler *c, const char *ref) {
    json_t *at = schema_pointed(c->root, ref);
    if (!at) {
        char words[128];
        snprintf(words, sizeof words, "\"%s\" is no schema inside this document",
                 excerpt_of(strview_of(ref)).text);
        schema_refuse(c, "$ref", words);
        return NULL;
    }
    return at;
}

/* ---- rules of subschemas ---- */

/* The slot of SCHEMA in a manner; NULL after a failure. */
static struct schema_rule *find_rule(schema_compiler *c, const json_t *schema, schema_manner manner) {
    if (2 * c->n_rules >= c->rules_mask) {
        const size_t size = c->rules ? 2 * (c->rules_mask + 1) : 64;
        struct schema_rule *fresh = mem_array(size, sizeof *fresh), *old = c->rules;
        if (!fresh) {
            grammar_fail(c->b, NIB_NO_MEMORY, "no memory for a schema");
            return NULL;
        }
        const size_t n_old = old ? c->rules_mask + 1 : 0;
        c->rules = fresh;
        c->rules_mask = size - 1;
        for (size_t i = 0; i < n_old; i++)
            if (old[i].schema)
                *find_rule(c, old[i].schema, old[i].manner) = old[i];
        mem_free(old);
    }
    size_t i = ((uintptr_t)schema >> 4) * UINT64_C(0x9E3779B97F4A7C15) >> 32 & c->rules_mask;
    while (c->rules[i].schema &&
           (c->rules[i].schema != schema || !schema_manner_is(c->rules[i].manner, manner)))
        i = (i + 1) & c->rules_mask;
    return &c->rules[i];
}

/* ---- enum ---- */

static bool compiler_open(schema_compiler *c, grammar_builder *b, json_t *root, const schema_form *form,
                          unsigned *work);
static void compiler_close(schema_compiler *c);

/* An automaton of the documents that SCHEMA alone allows, to judge values by; NULL after a failure. */
static automaton *open_judge(schema_compiler *c, json_t *schema) {
    grammar_builder *b;
    grammar *g = NULL;
    automaton *judge = NULL;
    nib_error err = {""};
    nib_status status = grammar_builder_open(&b, &err);
    if (status == NIB_OK) {
        schema_compiler inner;
        grammar_node root = GRAMMAR_NEVER;
        if (compiler_open(&inner, b, c->root, NULL, c->work)) {
            memcpy(inner.path, c->path, sizeof inner.path);
            root = schema_node(&inner, schema, NULL, NULL);
        }
        compiler_close(&inner);
        root = GRAMMAR_ALT(b, root, grammar_byte(b, 0, 0)); /* a schema that allows nothing is fine here */
        status = grammar_compile(&g, b, root, &err);
        grammar_builder_close(b);
    }
    if (status == NIB_OK)
        status = automaton_open(&judge, g, &err);
    grammar_release(g);
    if (status != NIB_OK)
        grammar_fail(c->b, status, "%s", err.text);
    return judge;
}

static bool judge_allows(schema_compiler *c, automaton *judge, const json_t *value) {
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    if (!text) {
        grammar_fail(c->b, NIB_NO_MEMORY, "no memory for a schema");
        return false;
    }
    uint32_t state = automaton_start(judge);
    for (const char *p = text; *p && state != AUTOMATON_DEAD; p++)
        state = automaton_step(judge, state, (unsigned char)*p);
    const bool allowed = state != AUTOMATON_DEAD && judge->states[state].can_end;
    if (judge->status != NIB_OK)
        grammar_fail(c->b, judge->status, "%s", judge->err.text);
    json_text_free(text);
    return allowed;
}

/* Of the values of enum and const, those that the rest of SCHEMA allows, as a new list; NULL after a failure.
 */
static json_t *enum_values(schema_compiler *c, json_t *schema) {
    json_t *constant = json_object_get(schema, "const"), *list = json_object_get(schema, "enum"), *value;
    json_t *rest = schema_without(c, schema, "enum");
    rest = rest ? schema_without(c, rest, "const") : NULL;
    json_t *deeper = rest ? schema_without(c, rest, "type") : NULL, *all = json_array();
    json_t *from = constant ? json_pack("[O]", constant) : json_incref(list);
    if (!deeper || !all || !from)
        grammar_fail(c->b, NIB_NO_MEMORY, "no memory for a schema");
    const unsigned types = rest ? schema_with_integers(schema_types(c, rest)) & c->manner.only : 0;
    automaton *judge = deeper && schema_constrains(deeper) ? open_judge(c, rest) : NULL;
    size_t i, k;
    json_array_foreach(from, i, value) {
        bool allowed = schema_type_of_value(value) & types, listed = !constant || !list;
        for (k = 0; constant && k < json_array_size(list); k++)
            listed |= json_equal(json_array_get(list, k), value);
        if (allowed && listed && !grammar_failed(c->b) && (!judge || judge_allows(c, judge, value)) &&
            json_array_append(all, value))
            grammar_fail(c->b, NIB_NO_MEMORY, "no memory for a schema");
    }
    json_decref(from);
    automaton_close(judge);
    if (!grammar_failed(c->b))
        return all;
    json_decref(all);
    return NULL;
}

/* The string VALUE as it is written here, in the arena, when it can be spelled in one way only; else nothing.
 */
static strview plain_string(schema_compiler *c, const json_t *value) {
    strview word = {NULL, 0};
    bool plain = json_is_string(value);
    for (size_t i = 0; plain && i < json_string_length(value); i++) {
        const char byte = json_string_value(value)[i];
        plain = (unsigned char)byte >= 0x20 || strchr("\b\f\n\r\t", byte);
    }
    if (schema_is_raw(c))
        return word; /* these are few */
    char *text = plain ? json_dumps(value, JSON_ENCODE_ANY) : NULL;
    if (text)
        word = (strview){arena_text(&c->a, text, strlen(text)), strlen(text)};
    if (plain && !word.p)
        grammar_fail(c->b, NIB_NO_MEMORY, "no memory for a schema");
    json_text_free(text);
    return word;
}

static grammar_node enum_node(schema_compiler *c, json_t *schema) {
    if (json_object_get(schema, "enum") && !json_is_array(json_object_get(schema, "enum")))
        return schema_refuse(c, "enum", "expected a list");
    json_t *values = enum_values(c, schema), *value;
    const size_t n = json_array_size(values);
    strview *words = mem_array(n + 1, sizeof *words);
    grammar_node *ways = mem_array(n + 1, sizeof *ways), all = GRAMMAR_NEVER;
    size_t n_words = 0, n_ways = 0, i;
    if (!words || !ways)
        grammar_fail(c->b, NIB_NO_MEMORY, "no memory for a schema");
    json_array_foreach(values, i, value) {
        const strview word = words && ways ? plain_string(c, value) : (strview){NULL, 0};
        if (grammar_failed(c->b))
            break;
        if (word.p)
            words[n_words++] = word;
        else
            ways[n_ways++] = schema_literal(c, value);
    }
    if (!grammar_failed(c->b)) {
        ways[n_ways++] = grammar_words(c->b, words, n_words);
        all = grammar_alt(c->b, ways, n_ways);
    }
    mem_free(words);
    mem_free(ways);
    json_decref(values);
    return all;
}

/* ---- anyOf, oneOf ---- */

static grammar_node branches_node(schema_compiler *c, json_t *schema, const char *keyword) {
    json_t *branches = json_object_get(schema, keyword);
    const size_t n = json_array_size(branches);
    if (n == 0)
        return schema_refuse(c, keyword, "expected a list of schemas");
    json_t *rest = schema_without(c, schema, keyword);
    if (!rest)
        return GRAMMAR_NEVER;
    const bool one = strcmp(keyword, "oneOf") == 0, merged = schema_constrains(rest);
    grammar_node *ways = mem_array(n, sizeof *ways);
    json_t **of = mem_array(n, sizeof(json_t *));
    if (!ways || !of)
        grammar_fail(c->b, NIB_NO_MEMORY, "no memory for a schema");
    for (size_t i = 0; i < n && !grammar_failed(c->b); i++) {
        char step[24];
        snprintf(step, sizeof step, "%zu", i);
        of[i] = merged ? schema_merge(c, rest, json_array_get(branches, i)) : json_array_get(branches, i);
        for (size_t k = 0; one && of[i] && k < i; k++)
            if (!schema_apart(c, of[k], of[i], 0))
                schema_refuse(c, keyword,
                              "branches that may both hold; use anyOf, or give each its own const");
        if (of[i])
            ways[i] = schema_node(c, of[i], keyword, step);
    }
    const grammar_node all = grammar_failed(c->b) ? GRAMMAR_NEVER : grammar_alt(c->b, ways, n);
    mem_free(ways);
    mem_free(of);
    return all;
}

static grammar_node all_of_node(schema_compiler *c, json_t *schema) {
    json_t *branches = json_object_get(schema, "allOf"), *branch;
    json_t *all = schema_without(c, schema, "allOf");
    size_t i;
    if (!json_is_array(branches))
        return schema_refuse(c, "allOf", "expected a list of schemas");
    json_array_foreach(branches, i, branch) {
        all = all ? schema_merge(c, all, branch) : NULL;
    }
    return all ? schema_node(c, all, NULL, NULL) : GRAMMAR_NEVER;
}

/* ---- one schema ---- */

static grammar_node typed_node(schema_compiler *c, json_t *schema) {
    unsigned types = schema_types(c, schema);
    if (grammar_failed(c->b))
        return GRAMMAR_NEVER;
    types &= c->manner.only;
    grammar_node ways[6] = {GRAMMAR_NEVER};
    if (types & TYPE_OBJECT)
        ways[0] = schema_object(c, schema);
    if (types & TYPE_ARRAY)
        ways[1] = schema_array(c, schema);
    if (types & TYPE_STRING)
        ways[2] = schema_string(c, schema);
    if (types & (TYPE_NUMBER | TYPE_INTEGER))
        ways[3] = schema_number(c, schema, !(types & TYPE_NUMBER));
    if (types & TYPE_BOOLEAN)
        ways[4] = GRAMMAR_ALT(c->b, grammar_word(c->b, "true"), grammar_word(c->b, "false"));
    if (types & TYPE_NULL)
        ways[5] = grammar_word(c->b, "null");
    return grammar_alt(c->b, ways, 6);
}

static grammar_node refuse_unsupported(schema_compiler *c, const json_t *schema) {
    static const char *const keywords[] = {
        "not", "if", "dependentSchemas", "dependentRequired", "dependencies", "$dynamicRef", "$recursiveRef"};
    for (size_t i = 0; i < sizeof keywords / sizeof *keywords; i++)
        if (json_object_get(schema, keywords[i]))
            return schema_refuse(c, keywords[i], "this keyword is not supported");
    return GRAMMAR_EMPTY;
}

static grammar_node body_of(schema_compiler *c, json_t *schema) {
    if (refuse_unsupported(c, schema) == GRAMMAR_NEVER)
        return GRAMMAR_NEVER;
    const json_t *ref = json_object_get(schema, "$ref");
    if (ref) {
        json_t *to = json_is_string(ref) ? schema_resolve(c, json_string_value(ref)) : NULL;
        if (!to)
            return grammar_failed(c->b) ? GRAMMAR_NEVER : schema_refuse(c, "$ref", "expected a string");
        json_t *rest = schema_without(c, schema, "$ref");
        if (rest && schema_constrains(rest))
            to = schema_merge(c, rest, to);
        return rest && to ? schema_node(c, to, NULL, NULL) : GRAMMAR_NEVER;
    }
    if (json_object_get(schema, "allOf"))
        return all_of_node(c, schema);
    if (json_object_get(schema, "anyOf"))
        return branches_node(c, schema, "anyOf");
    if (json_object_get(schema, "oneOf"))
        return branches_node(c, schema, "oneOf");
    if ((json_object_get(schema, "enum") || json_object_get(schema, "const")) &&
        c->manner.mode == SCHEMA_PARAMETERS)
        return schema_refuse(c, "enum", "the model's format cannot hold all parameters to one value");
    if (json_object_get(schema, "enum") || json_object_get(schema, "const"))
        return enum_node(c, schema);
    return typed_node(c, schema);
}

/* Adds "/STEP" to the path, as far as there is room; the length before. */
static size_t path_push(schema_compiler *c, const char *step) {
    const size_t before = strlen(c->path);
    size_t n = before;
    if (!step)
        return before;
    if (n + 1 < SCHEMA_MAX_PATH)
        c->path[n++] = '/';
    for (const char *p = step; *p && n + 1 < SCHEMA_MAX_PATH; p++)
        c->path[n++] = *p;
    c->path[n] = '\0';
    c->path[utf8_valid_prefix(c->path, n)] = '\0';
    return before;
}

grammar_node schema_node(schema_compiler *c, json_t *schema, const char *step, const char *next) {
    if (grammar_failed(c->b))
        return GRAMMAR_NEVER;
    const bool is_free = json_is_true(schema) || (json_is_object(schema) && !schema_constrains(schema));
    if (is_free && c->manner.mode != SCHEMA_PARAMETERS)
        return schema_any(c);
    if (json_is_false(schema))
        return GRAMMAR_NEVER;
    const size_t before = path_push(c, step);
    path_push(c, next);
    grammar_node use = GRAMMAR_NEVER;
    struct schema_rule *known = json_is_object(schema) ? find_rule(c, schema, c->manner) : NULL;
    if (!json_is_object(schema)) {
        schema_refuse(c, "a schema", "expected an object or a boolean");
    } else if (known && known->schema) {
        use = grammar_use(c->b, known->rule);
    } else if (known) {
        const uint32_t rule = grammar_rule(c->b, (strview){"", 0});
        *known = (struct schema_rule){schema, c->manner, rule};
        c->n_rules++;
        if (++*c->work > SCHEMA_MAX_WORK)
            schema_refuse(c, "a schema", "the whole takes too long to read");
        else if (++c->depth > GRAMMAR_MAX_NESTING)
            schema_refuse(c, "a schema", "schemas are nested too deeply");
        else
            grammar_define(c->b, rule, body_of(c, schema));
        c->depth--;
        use = grammar_use(c->b, rule);
    }
    c->path[before] = '\0';
    return use;
}

/* ---- rules that all share ---- */

grammar_node schema_any(schema_compiler *c) {
    grammar_builder *b = c->b;
    const unsigned only = c->manner.only;
    if (c->manner.mode == SCHEMA_RAW && only & TYPE_STRING)
        return schema_raw_text(c, 0, GRAMMAR_NO_MAX); /* which may be any other value as well */
    if (only == TYPE_ALL)
        return grammar_use(b, c->value);
    const grammar_node ways[] = {
        only & TYPE_OBJECT ? grammar_use(b, c->object) : GRAMMAR_NEVER,
        only & TYPE_ARRAY ? grammar_use(b, c->array) : GRAMMAR_NEVER,
        only & TYPE_STRING ? grammar_use(b, c->string) : GRAMMAR_NEVER,
        only & TYPE_NUMBER ? grammar_use(b, c->number) : GRAMMAR_NEVER,
        only & TYPE_BOOLEAN ? GRAMMAR_ALT(b, grammar_word(b, "true"), grammar_word(b, "false"))
                            : GRAMMAR_NEVER,
        only & TYPE_NULL ? grammar_word(b, "null") : GRAMMAR_NEVER,
    };
    return grammar_alt(b, ways, sizeof ways / sizeof *ways);
}

static void define_shared(schema_compiler *c) {
    grammar_builder *b = c->b;
    const grammar_node blank = grammar_use(b, c->blank);
    const grammar_node value = grammar_use(b, c->value);
    const grammar_node indent = GRAMMAR_ALT(b, grammar_byte(b, ' ', ' '), grammar_byte(b, '\t', '\t'));
    const grammar_node some_blank =
        GRAMMAR_ALT(b, GRAMMAR_EMPTY, grammar_byte(b, ' ', ' '),
                    GRAMMAR_SEQ(b, grammar_byte(b, '\n', '\n'), grammar_repeat(b, indent, 0, 64)));
    const grammar_node text = c->bare ? schema_raw_text(c, 0, GRAMMAR_NO_MAX)
                                      : grammar_repeat(b, spell_free_char(b), 0, GRAMMAR_NO_MAX);
    grammar_define(b, c->blank, c->bare ? GRAMMAR_EMPTY : some_blank);
    grammar_define(b, c->string, schema_quoted(c, text));
    grammar_define(b, c->key,
                   c->bare ? schema_names(c, schema_bare_names(c))
                           : GRAMMAR_SEQ(b, grammar_use(b, c->string), grammar_byte(b, ':', ':'), blank));
    grammar_define(b, c->integer, schema_free_number(c, true));
    grammar_define(b, c->number, schema_free_number(c, false));
    const grammar_node pair = GRAMMAR_SEQ(b, grammar_use(b, c->key), value);
    const grammar_node pairs = GRAMMAR_SEQ(
        b, pair, grammar_repeat(b, GRAMMAR_SEQ(b, schema_comma(c), pair), 0, GRAMMAR_NO_MAX), blank);
    const grammar_node items = GRAMMAR_SEQ(
        b, value, grammar_repeat(b, GRAMMAR_SEQ(b, schema_comma(c), value), 0, GRAMMAR_NO_MAX), blank);
    grammar_define(b, c->object,
                   GRAMMAR_SEQ(b, grammar_byte(b, '{', '{'), blank, grammar_option(b, pairs),
                               grammar_byte(b, '}', '}')));
    grammar_define(b, c->array,
                   GRAMMAR_SEQ(b, grammar_byte(b, '[', '['), blank, grammar_option(b, items),
                               grammar_byte(b, ']', ']')));
    grammar_define(b, c->value,
                   GRAMMAR_ALT(b, grammar_use(b, c->object), grammar_use(b, c->array),
                               grammar_use(b, c->string), grammar_use(b, c->number), grammar_word(b, "true"),
                               grammar_word(b, "false"), grammar_word(b, "null")));
}

static bool compiler_open(schema_compiler *c, grammar_builder *b, json_t *root, const schema_form *form,
                          unsigned *work) {
    *c = (schema_compiler){.b = b, .root = root, .form = form, .manner = {.only = TYPE_ALL}, .work = work};
    uint32_t *const shared[] = {&c->blank,  &c->string, &c->value,   &c->key,
                                &c->object, &c->array,  &c->integer, &c->number};
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++)
        *shared[i] = grammar_rule(b, (strview){"", 0});
    c->made = json_array();
    if (!c->made)
        grammar_fail(b, NIB_NO_MEMORY, "no memory for a schema");
    schema_form_start(c);
    define_shared(c);
    return !grammar_failed(b);
}

static void compiler_close(schema_compiler *c) {
    json_decref(c->made);
    mem_free(c->rules);
    arena_free(&c->a);
}

static grammar_node read_text(grammar_builder *b, strview text, const schema_form *form,
                              schema_manner manner) {
    json_t *root = NULL;
    nib_error err = {""};
    grammar_node document = GRAMMAR_NEVER;
    if (text.n > SCHEMA_MAX_BYTES)
        return grammar_fail(b, NIB_UNSUPPORTED, "the JSON schema has more than 1 MiB");
    const nib_status status = json_read(&root, text.p, text.n, "the JSON schema", &err);
    if (status != NIB_OK)
        return grammar_fail(b, status == NIB_BAD_FILE ? NIB_BAD_ARGUMENT : status, "%s", err.text);
    schema_compiler c;
    unsigned work = 0;
    if (compiler_open(&c, b, root, form, &work)) {
        c.manner = manner;
        document = schema_node(&c, root, NULL, NULL);
    }
    compiler_close(&c);
    json_decref(root);
    return document;
}

grammar_node schema_read(grammar_builder *b, strview text) {
    return read_text(b, text, NULL, (schema_manner){.only = TYPE_ALL});
}

grammar_node schema_read_as(grammar_builder *b, strview text, const schema_form *form) {
    const schema_mode mode = form && form->marks->param_open ? SCHEMA_PARAMETERS : SCHEMA_JSON;
    return read_text(b, text, form, (schema_manner){.mode = mode, .only = TYPE_OBJECT});
}

grammar_node schema_any_object(grammar_builder *b) {
    return schema_read_as(b, strview_of("{}"), NULL);
}
