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

static grammar_node list_literal(schema_compiler *c, const json_t *value) {
    const bool object = json_is_object(value);
    grammar_builder *b = c->b;
    grammar_node inside = GRAMMAR_EMPTY;
    size_t n = 0, i;
    const char *key;
    json_t *member;
    if (object) {
        json_object_foreach((json_t *)value, key, member) {
            const grammar_node pair =
                GRAMMAR_SEQ(b, grammar_byte(b, '"', '"'), spell_text(b, strview_of(key), SPELL_JSON),
                            grammar_word(b, "\":"), schema_blank(c), schema_literal(c, member));
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
    if (++c->depth > GRAMMAR_MAX_NESTING)
        return schema_refuse(c, "enum", "a value that is nested too deeply");
    switch (json_typeof(value)) {
    case JSON_OBJECT:
    case JSON_ARRAY:
        x = list_literal(c, value);
        break;
    case JSON_STRING:
        x = GRAMMAR_SEQ(
            c->b, grammar_byte(c->b, '"', '"'),
            spell_text(c->b, (strview){json_string_value(value), json_string_length(value)}, SPELL_JSON),
            grammar_byte(c->b, '"', '"'));
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

/* One step of a JSON pointer, ~0 ~1 and %XX read; its end in *REST. False when it is too long. */
static bool pointer_step(const char *p, char *out, size_t room, const char **rest) {
    size_t n = 0;
    for (; *p && *p != '/'; p++) {
        unsigned code;
        char byte = *p;
        if (n + 1 >= room)
            return false;
        if (p[0] == '~' && (p[1] == '0' || p[1] == '1')) {
            byte = *++p == '0' ? '~' : '/';
        } else if (p[0] == '%' && p[1] && p[2] && sscanf(p + 1, "%2x", &code) == 1) {
            byte = (char)code;
            p += 2;
        }
        out[n++] = byte;
    }
    out[n] = '\0';
    *rest = p;
    return true;
}

json_t *schema_resolve(schema_compiler *c, const char *ref) {
    const json_t *id = json_object_get(c->root, "$id");
    const char *p = ref;
    if (json_is_string(id) && strncmp(p, json_string_value(id), json_string_length(id)) == 0)
        p += json_string_length(id);
    json_t *at = c->root;
    if (*p == '#')
        p++;
    else if (*p || p == ref)
        at = NULL;
    while (at && *p) {
        char step[512];
        if (*p != '/' || !pointer_step(p + 1, step, sizeof step, &p))
            at = NULL;
        else if (json_is_array(at))
            at =
                step[0] >= '0' && step[0] <= '9' ? json_array_get(at, (size_t)strtoul(step, NULL, 10)) : NULL;
        else
            at = json_object_get(at, step);
    }
    if (!at || !(json_is_object(at) || json_is_boolean(at))) {
        char words[128];
        snprintf(words, sizeof words, "\"%s\" is no schema inside this document",
                 excerpt_of(strview_of(ref)).text);
        schema_refuse(c, "$ref", words);
        return NULL;
    }
    return at;
}

/* ---- rules of subschemas ---- */

/* The slot of SCHEMA; NULL after a failure. */
static struct schema_rule *find_rule(schema_compiler *c, const json_t *schema) {
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
                *find_rule(c, old[i].schema) = old[i];
        mem_free(old);
    }
    size_t i = ((uintptr_t)schema >> 4) * UINT64_C(0x9E3779B97F4A7C15) >> 32 & c->rules_mask;
    while (c->rules[i].schema && c->rules[i].schema != schema)
        i = (i + 1) & c->rules_mask;
    return &c->rules[i];
}

/* ---- enum ---- */

static bool json_fits_type(const json_t *value, unsigned types) {
    switch (json_typeof(value)) {
    case JSON_NULL:
        return types & TYPE_NULL;
    case JSON_TRUE:
    case JSON_FALSE:
        return types & TYPE_BOOLEAN;
    case JSON_INTEGER:
        return types & (TYPE_INTEGER | TYPE_NUMBER);
    case JSON_REAL:
        return types & (json_real_value(value) == floor(json_real_value(value)) ? TYPE_INTEGER | TYPE_NUMBER
                                                                                : TYPE_NUMBER);
    case JSON_STRING:
        return types & TYPE_STRING;
    case JSON_ARRAY:
        return types & TYPE_ARRAY;
    case JSON_OBJECT:
        return types & TYPE_OBJECT;
    }
    return false;
}

static bool compiler_open(schema_compiler *c, grammar_builder *b, json_t *root, unsigned *work);
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
        if (compiler_open(&inner, b, c->root, c->work)) {
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
    const unsigned types = rest ? schema_types(c, rest) : 0;
    automaton *judge = deeper && schema_constrains(deeper) ? open_judge(c, rest) : NULL;
    size_t i, k;
    json_array_foreach(from, i, value) {
        bool allowed = json_fits_type(value, types), listed = !constant || !list;
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

/* VALUE as JSON, in the arena, when it is a string that can be spelled in one way only; else nothing. */
static strview plain_string(schema_compiler *c, const json_t *value) {
    strview word = {NULL, 0};
    bool plain = json_is_string(value);
    for (size_t i = 0; plain && i < json_string_length(value); i++) {
        const char byte = json_string_value(value)[i];
        plain = (unsigned char)byte >= 0x20 || strchr("\b\f\n\r\t", byte);
    }
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
    const unsigned types = schema_types(c, schema);
    if (grammar_failed(c->b))
        return GRAMMAR_NEVER;
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
    if (json_is_true(schema) || (json_is_object(schema) && !schema_constrains(schema)))
        return grammar_use(c->b, c->value);
    if (json_is_false(schema))
        return GRAMMAR_NEVER;
    const size_t before = path_push(c, step);
    path_push(c, next);
    grammar_node use = GRAMMAR_NEVER;
    struct schema_rule *known = json_is_object(schema) ? find_rule(c, schema) : NULL;
    if (!json_is_object(schema)) {
        schema_refuse(c, "a schema", "expected an object or a boolean");
    } else if (known && known->schema) {
        use = grammar_use(c->b, known->rule);
    } else if (known) {
        const uint32_t rule = grammar_rule(c->b, (strview){"", 0});
        *known = (struct schema_rule){schema, rule};
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

static void define_shared(schema_compiler *c) {
    grammar_builder *b = c->b;
    const grammar_node quote = grammar_byte(b, '"', '"'), blank = grammar_use(b, c->blank);
    const grammar_node value = grammar_use(b, c->value);
    const grammar_node indent = GRAMMAR_ALT(b, grammar_byte(b, ' ', ' '), grammar_byte(b, '\t', '\t'));
    grammar_define(
        b, c->blank,
        GRAMMAR_ALT(b, GRAMMAR_EMPTY, grammar_byte(b, ' ', ' '),
                    GRAMMAR_SEQ(b, grammar_byte(b, '\n', '\n'), grammar_repeat(b, indent, 0, 64))));
    grammar_define(b, c->string,
                   GRAMMAR_SEQ(b, quote, grammar_repeat(b, spell_free_char(b), 0, GRAMMAR_NO_MAX), quote));
    grammar_define(b, c->key, GRAMMAR_SEQ(b, grammar_use(b, c->string), grammar_byte(b, ':', ':'), blank));
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

static bool compiler_open(schema_compiler *c, grammar_builder *b, json_t *root, unsigned *work) {
    *c = (schema_compiler){.b = b, .root = root, .work = work};
    uint32_t *const shared[] = {&c->blank,  &c->string, &c->value,   &c->key,
                                &c->object, &c->array,  &c->integer, &c->number};
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++)
        *shared[i] = grammar_rule(b, (strview){"", 0});
    c->made = json_array();
    if (!c->made)
        grammar_fail(b, NIB_NO_MEMORY, "no memory for a schema");
    define_shared(c);
    return !grammar_failed(b);
}

static void compiler_close(schema_compiler *c) {
    json_decref(c->made);
    mem_free(c->rules);
    arena_free(&c->a);
}

grammar_node schema_read(grammar_builder *b, strview text) {
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
    if (compiler_open(&c, b, root, &work))
        document = schema_node(&c, root, NULL, NULL);
    compiler_close(&c);
    json_decref(root);
    return document;
}

grammar_node schema_any_object(grammar_builder *b) {
    schema_compiler c;
    unsigned work = 0;
    grammar_node object = GRAMMAR_NEVER;
    if (compiler_open(&c, b, NULL, &work))
        object = grammar_use(b, c.object);
    compiler_close(&c);
    return object;
}
