/* SPDX-License-Identifier: Apache-2.0
 *
 * Objects and arrays. Declared properties come in the schema's order, those that are not required may be left
 * out; a rule per property and number of those written so far keeps that linear. Others come after them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "base/mem.h"
#include "text/schema_parts.h"

#define MAX_NAME_PATTERNS 3
#define MAX_CHAIN         20000 /* rules of one object's properties */

typedef struct property {
    const char *name;
    json_t *schema;
    bool required;
    grammar_node pair; /* "name": value */
} property;

typedef struct object {
    schema_compiler *c;
    json_t *schema;
    property *list; /* [n], in the arena */
    size_t n, n_required;
    uint32_t min, max;
    const language *patterns[MAX_NAME_PATTERNS];
    json_t *of_pattern[MAX_NAME_PATTERNS];
    size_t n_patterns;
    const language *names; /* that propertyNames allows, NULL: all */
    json_t *rest;          /* of the properties that nothing names; NULL: any value */
    grammar_node other;    /* a pair that is not declared, GRAMMAR_NEVER: none */
    uint32_t *rules;       /* [n + 1, counts]: what follows, by property and pairs so far */
    uint32_t counts;       /* numbers of pairs that are told apart */
    bool tags;             /* the members are tags */
} object;

/* ---- reading ---- */

static bool read_patterns(object *o) {
    schema_compiler *c = o->c;
    json_t *patterns = json_object_get(o->schema, "patternProperties"), *value;
    const char *pattern;
    if (patterns && !json_is_object(patterns))
        return schema_refuse(c, "patternProperties", "expected an object") != GRAMMAR_NEVER;
    json_object_foreach(patterns, pattern, value) {
        char where[SCHEMA_MAX_PATH + 32];
        if (o->n_patterns == MAX_NAME_PATTERNS)
            return schema_refuse(c, "patternProperties", "more than 3 patterns are not supported") !=
                   GRAMMAR_NEVER;
        snprintf(where, sizeof where, "patternProperties at \"#%s\"", c->path);
        const regex *r = regex_read(c->b, &c->a, strview_of(pattern), false, where);
        o->patterns[o->n_patterns] = language_of_regex(c->b, &c->a, r);
        o->of_pattern[o->n_patterns++] = value;
        if (grammar_failed(c->b))
            return false;
    }
    return true;
}

/* The strings of a list of names as a language. */
static const language *listed_names(schema_compiler *c, json_t *list) {
    const size_t n = json_array_size(list);
    strview *words = arena_alloc(&c->a, n + 1, sizeof *words);
    size_t n_words = 0, i;
    json_t *one;
    if (!words) {
        grammar_fail(c->b, NIB_NO_MEMORY, "no memory for a schema");
        return NULL;
    }
    json_array_foreach(list, i, one) {
        if (json_is_string(one))
            words[n_words++] = (strview){json_string_value(one), json_string_length(one)};
    }
    return language_of_words(c->b, &c->a, words, n_words);
}

/* propertyNames: a schema of strings. */
static bool read_names(object *o) {
    schema_compiler *c = o->c;
    json_t *names = json_object_get(o->schema, "propertyNames");
    json_t *list = json_object_get(names, "enum");
    static const char *const said[] = {"enum",      "pattern", "format",   "minLength",
                                       "maxLength", "type",    "$patterns"};
    bool is_free = true;
    if (!names || !schema_constrains(names))
        return true;
    json_t *rest = names;
    for (size_t i = 0; rest && i < sizeof said / sizeof *said; i++)
        rest = json_is_object(rest) ? schema_without(c, rest, said[i]) : NULL;
    if (!rest || schema_constrains(rest) || !(schema_types(c, names) & TYPE_STRING))
        return schema_refuse(c, "propertyNames", "only enum, pattern, format and lengths are supported") !=
               GRAMMAR_NEVER;
    o->names = schema_string_language(c, names, &is_free);
    if (list && (is_free || o->names)) {
        const language *listed = listed_names(c, list);
        o->names = is_free ? listed : language_and(c->b, &c->a, o->names, listed);
        is_free = false;
    }
    return is_free || o->names;
}

/* What the patterns ask of the property NAME beside SCHEMA (NULL: nothing); only theirs when it is not
 * declared. */
static json_t *with_patterns(object *o, const char *name, json_t *schema) {
    for (size_t i = 0; i < o->n_patterns; i++)
        if (language_has(o->patterns[i], strview_of(name)))
            schema = schema_both(o->c, schema, o->of_pattern[i]);
    return schema;
}

static bool is_required(const json_t *required, const char *name) {
    size_t i;
    json_t *one;
    json_array_foreach(required, i, one) {
        if (json_is_string(one) && strcmp(json_string_value(one), name) == 0)
            return true;
    }
    return false;
}

static void add_property(object *o, const char *name, json_t *schema, bool required) {
    json_t *all = with_patterns(o, name, schema);
    property *p = &o->list[o->n++];
    *p = (property){name, all ? all : o->rest, required, GRAMMAR_NEVER};
    o->n_required += required;
    if (o->names && !language_has(o->names, strview_of(name)))
        return; /* may not stand here: stays GRAMMAR_NEVER */
    grammar_builder *b = o->c->b;
    if (o->tags) {
        p->pair = schema_parameter(o->c, name, p->schema);
        return;
    }
    const grammar_node value =
        p->schema ? schema_node(o->c, p->schema, "properties", name) : schema_any(o->c);
    p->pair = GRAMMAR_SEQ(b, schema_name(o->c, name), value);
}

static bool read_properties(object *o) {
    schema_compiler *c = o->c;
    json_t *declared = json_object_get(o->schema, "properties"),
           *required = json_object_get(o->schema, "required"), *value;
    const char *name;
    size_t i;
    if ((declared && !json_is_object(declared)) || (required && !json_is_array(required)))
        return schema_refuse(c, declared && !json_is_object(declared) ? "properties" : "required",
                             "expected an object of schemas, and a list of names") != GRAMMAR_NEVER;
    o->list = arena_alloc(&c->a, json_object_size(declared) + json_array_size(required) + 1, sizeof *o->list);
    if (!o->list)
        return grammar_fail(c->b, NIB_NO_MEMORY, "no memory for a schema") != GRAMMAR_NEVER;
    json_object_foreach(declared, name, value) {
        add_property(o, name, value, is_required(required, name));
    }
    json_array_foreach(required, i, value) {
        bool known = !json_is_string(value);
        for (size_t k = 0; k < o->n && !known; k++)
            known = strcmp(o->list[k].name, json_string_value(value)) == 0;
        if (!known)
            add_property(o, json_string_value(value), NULL, true);
    }
    return !grammar_failed(c->b);
}

/* ---- properties that are not declared ---- */

static grammar_node other_pair(object *o, const language *names, json_t *schema, const char *keyword) {
    grammar_builder *b = o->c->b;
    if (!names || language_is_empty(&o->c->a, names))
        return GRAMMAR_NEVER;
    const grammar_node value = schema ? schema_node(o->c, schema, keyword, NULL) : schema_any(o->c);
    return value == GRAMMAR_NEVER ? value : GRAMMAR_SEQ(b, schema_names(o->c, names), value);
}

/* One tag at most that is not declared, and none beside those that are: a reader refuses a name that comes
 * twice. */
static void find_other_tag(object *o) {
    if (o->n_patterns > 0 || o->names)
        schema_refuse(o->c, o->names ? "propertyNames" : "patternProperties",
                      "not supported for parameters in the model's format");
    else if (o->n == 0 && !json_is_false(o->rest)) {
        o->other = schema_parameter(o->c, NULL, o->rest);
        o->max = o->c->form->repeats || o->max == 0 ? o->max : 1;
    }
}

/* Each name that is not declared belongs to one set of patterns, and must do what they all ask. */
static void find_other(object *o) {
    schema_compiler *c = o->c;
    grammar_builder *b = c->b;
    grammar_node ways[1 << MAX_NAME_PATTERNS];
    if (o->tags) {
        find_other_tag(o);
        return;
    }
    if (o->n == 0 && o->n_patterns == 0 && !o->names) {
        const grammar_node value =
            o->rest ? schema_node(c, o->rest, "additionalProperties", NULL) : schema_any(c);
        o->other = GRAMMAR_SEQ(b, grammar_use(b, c->key), value);
        return;
    }
    if (json_is_false(o->rest) && o->n_patterns == 0)
        return;
    strview *names = arena_alloc(&c->a, o->n + 1, sizeof *names);
    if (!names) {
        grammar_fail(b, NIB_NO_MEMORY, "no memory for a schema");
        return;
    }
    for (size_t i = 0; i < o->n; i++)
        names[i] = strview_of(o->list[i].name);
    const language *open = language_not(b, &c->a, language_of_words(b, &c->a, names, o->n));
    if (o->names)
        open = language_and(b, &c->a, open, o->names);
    for (size_t set = 0; set < (size_t)1 << o->n_patterns; set++) {
        const language *mine = open;
        json_t *schema = set ? NULL : o->rest;
        for (size_t i = 0; i < o->n_patterns; i++) {
            const bool in = set >> i & 1;
            mine = language_and(b, &c->a, mine, in ? o->patterns[i] : language_not(b, &c->a, o->patterns[i]));
            if (in)
                schema = schema_both(c, schema, o->of_pattern[i]);
        }
        ways[set] = json_is_false(schema)
                        ? GRAMMAR_NEVER
                        : other_pair(o, mine, schema, set ? "patternProperties" : "additionalProperties");
    }
    o->other = grammar_alt(b, ways, (size_t)1 << o->n_patterns);
}

/* ---- the chain of properties ---- */

static grammar_node comma_of(const object *o) {
    return o->tags ? GRAMMAR_EMPTY : schema_comma(o->c);
}

/* What follows when the properties before I have been passed and COUNT pairs (o->counts - 1: so many or more)
 * are written, as a rule; the properties behind I have theirs already. */
static grammar_node chain_body(object *o, size_t i, uint32_t count) {
    grammar_builder *b = o->c->b;
    const uint32_t next = count + 1 < o->counts ? count + 1 : count;
    const grammar_node comma = count ? comma_of(o) : GRAMMAR_EMPTY;
    const grammar_node blank = o->tags ? GRAMMAR_EMPTY : schema_blank(o->c);
    if (i < o->n) {
        const property *p = &o->list[i];
        grammar_node with = GRAMMAR_NEVER, without = GRAMMAR_NEVER;
        if (o->max == GRAMMAR_NO_MAX || count < o->max)
            with = GRAMMAR_SEQ(b, comma, p->pair, grammar_use(b, o->rules[(i + 1) * o->counts + next]));
        if (!p->required)
            without = grammar_use(b, o->rules[(i + 1) * o->counts + count]);
        return GRAMMAR_ALT(b, with, without);
    }
    if (count > o->max)
        return GRAMMAR_NEVER;
    const uint32_t least = o->min > count ? o->min - count : 0;
    const uint32_t most = o->max == GRAMMAR_NO_MAX ? GRAMMAR_NO_MAX : o->max - count;
    const grammar_node more = GRAMMAR_SEQ(b, comma_of(o), o->other);
    if (count)
        return GRAMMAR_SEQ(b, grammar_repeat(b, more, least, most), blank);
    grammar_node some = GRAMMAR_NEVER;
    if (most > 0)
        some = GRAMMAR_SEQ(
            b, o->other,
            grammar_repeat(b, more, least ? least - 1 : 0, most == GRAMMAR_NO_MAX ? most : most - 1), blank);
    return GRAMMAR_ALT(b, least ? GRAMMAR_NEVER : GRAMMAR_EMPTY, some);
}

static grammar_node chain(object *o) {
    schema_compiler *c = o->c;
    const uint32_t bound = o->max == GRAMMAR_NO_MAX ? o->min : o->max;
    const uint32_t told = bound < o->n ? bound : (uint32_t)o->n;
    o->counts = (told > 1 ? told : 1) + 1;
    if ((o->n + 1) * o->counts > MAX_CHAIN)
        return schema_refuse(c, "minProperties", "too many properties to count");
    o->rules = arena_alloc(&c->a, (o->n + 1) * o->counts, sizeof *o->rules);
    if (!o->rules)
        return grammar_fail(c->b, NIB_NO_MEMORY, "no memory for a schema");
    for (size_t i = 0; i < (o->n + 1) * o->counts; i++)
        o->rules[i] = grammar_rule(c->b, (strview){"", 0});
    for (size_t i = 0; i <= o->n; i++)
        for (uint32_t count = 0; count < o->counts; count++)
            grammar_define(c->b, o->rules[i * o->counts + count], chain_body(o, i, count));
    return grammar_use(c->b, o->rules[0]);
}

static bool refuse_of_objects(schema_compiler *c, const json_t *schema) {
    const json_t *other = json_object_get(schema, "unevaluatedProperties");
    if (other && !json_is_true(other) && !json_is_false(other))
        return schema_refuse(c, "unevaluatedProperties", "only true and false are supported") !=
               GRAMMAR_NEVER;
    return true;
}

/* The order in which Gemma's template puts names. */
static int compare_names(const void *x, const void *y) {
    const property *a = x, *b = y;
    const int order = strcasecmp(a->name, b->name);
    return order ? order : strcmp(a->name, b->name);
}

static grammar_node object_node(object *o) {
    schema_compiler *c = o->c;
    o->rest = json_object_get(o->schema, "additionalProperties");
    if (!o->rest)
        o->rest = json_object_get(o->schema, "unevaluatedProperties");
    if (json_is_true(o->rest))
        o->rest = NULL;
    if (!refuse_of_objects(c, o->schema) || !schema_count(c, o->schema, "minProperties", &o->min) ||
        !schema_count(c, o->schema, "maxProperties", &o->max) || !read_patterns(o) || !read_names(o) ||
        !read_properties(o))
        return GRAMMAR_NEVER;
    if (c->bare)
        qsort(o->list, o->n, sizeof *o->list, compare_names);
    find_other(o);
    if (o->min > 1 && o->min > o->n_required && o->other != GRAMMAR_NEVER)
        return schema_refuse(c, "minProperties",
                             "names that are not declared could repeat, so they cannot be counted");
    if (grammar_failed(c->b))
        return GRAMMAR_NEVER;
    return o->tags ? chain(o)
                   : GRAMMAR_SEQ(c->b, grammar_byte(c->b, '{', '{'), schema_blank(c), chain(o),
                                 grammar_byte(c->b, '}', '}'));
}

grammar_node schema_object(schema_compiler *c, json_t *schema) {
    const schema_manner before = c->manner;
    object o = {.c = c, .schema = schema, .max = GRAMMAR_NO_MAX, .tags = before.mode == SCHEMA_PARAMETERS};
    c->manner = (schema_manner){.mode = SCHEMA_JSON, .only = TYPE_ALL};
    const grammar_node node = object_node(&o);
    c->manner = before;
    return node;
}

/* ---- arrays ---- */

static bool refuse_of_arrays(schema_compiler *c, const json_t *schema) {
    static const char *const keywords[] = {"contains", "unevaluatedItems", "uniqueItems"};
    for (size_t i = 0; i < sizeof keywords / sizeof *keywords; i++) {
        const json_t *value = json_object_get(schema, keywords[i]);
        if (value && !(i == 2 && json_is_false(value)) && !(i == 1 && json_is_true(value)))
            return schema_refuse(c, keywords[i], "this keyword is not supported") != GRAMMAR_NEVER;
    }
    return true;
}

typedef struct items {
    json_t *first, *rest; /* a list of schemas; NULL: any value */
    size_t n_first;
    uint32_t min, max;
} items;

static bool read_items(schema_compiler *c, const json_t *schema, items *a) {
    a->first = json_object_get(schema, "prefixItems");
    a->rest = json_object_get(schema, "items");
    if (json_is_array(a->rest)) { /* older drafts */
        a->first = a->rest;
        a->rest = json_object_get(schema, "additionalItems");
    }
    if (a->first && !json_is_array(a->first))
        return schema_refuse(c, "prefixItems", "expected a list") != GRAMMAR_NEVER;
    a->n_first = json_array_size(a->first);
    if (a->n_first > 1000)
        return schema_refuse(c, "prefixItems", "more than 1000 are not supported") != GRAMMAR_NEVER;
    return schema_count(c, schema, "minItems", &a->min) && schema_count(c, schema, "maxItems", &a->max);
}

static grammar_node array_node(schema_compiler *c, json_t *schema) {
    grammar_builder *b = c->b;
    items a = {.max = GRAMMAR_NO_MAX};
    if (!refuse_of_arrays(c, schema) || !read_items(c, schema, &a))
        return GRAMMAR_NEVER;
    const size_t n = a.max < a.n_first ? a.max : a.n_first;
    const grammar_node item = a.max <= a.n_first ? GRAMMAR_NEVER
                              : a.rest           ? schema_node(c, a.rest, "items", NULL)
                                                 : schema_any(c);
    const grammar_node comma = schema_comma(c);
    /* from behind: what may follow item I, then that item */
    grammar_node tail = grammar_repeat(b, GRAMMAR_SEQ(b, comma, item), a.min > n ? a.min - (uint32_t)n : 0,
                                       a.max == GRAMMAR_NO_MAX ? a.max : a.max - (uint32_t)n);
    for (size_t i = n; i > 1; i--) {
        char step[24];
        snprintf(step, sizeof step, "%zu", i - 1);
        const grammar_node one = schema_node(c, json_array_get(a.first, i - 1), "prefixItems", step);
        tail = GRAMMAR_ALT(b, a.min < i ? GRAMMAR_EMPTY : GRAMMAR_NEVER, GRAMMAR_SEQ(b, comma, one, tail));
    }
    grammar_node some;
    if (n > 0)
        some = GRAMMAR_SEQ(b, schema_node(c, json_array_get(a.first, 0), "prefixItems", "0"), tail);
    else
        some = GRAMMAR_SEQ(b, item,
                           grammar_repeat(b, GRAMMAR_SEQ(b, comma, item), a.min ? a.min - 1 : 0,
                                          a.max == GRAMMAR_NO_MAX ? a.max
                                          : a.max                 ? a.max - 1
                                                                  : 0));
    if (a.max == 0)
        some = GRAMMAR_NEVER;
    return GRAMMAR_SEQ(
        b, grammar_byte(b, '[', '['), schema_blank(c),
        GRAMMAR_ALT(b, a.min ? GRAMMAR_NEVER : GRAMMAR_EMPTY, GRAMMAR_SEQ(b, some, schema_blank(c))),
        grammar_byte(b, ']', ']'));
}

grammar_node schema_array(schema_compiler *c, json_t *schema) {
    const schema_manner before = c->manner;
    c->manner = (schema_manner){.mode = SCHEMA_JSON, .only = TYPE_ALL};
    const grammar_node node = array_node(c, schema);
    c->manner = before;
    return node;
}
