/* SPDX-License-Identifier: Apache-2.0
 *
 * Two schemas into one that asks for both, keyword by keyword; and what can be seen of a schema without
 * writing its grammar. A merged schema is JSON like any other.
 */
#include <math.h>

#include "base/mem.h"
#include "text/schema_parts.h"

/* Keywords that ask something of a document. */
static const char *const constraints[] = {"$ref",
                                          "allOf",
                                          "anyOf",
                                          "oneOf",
                                          "not",
                                          "if",
                                          "enum",
                                          "const",
                                          "type",
                                          "properties",
                                          "patternProperties",
                                          "additionalProperties",
                                          "required",
                                          "propertyNames",
                                          "minProperties",
                                          "maxProperties",
                                          "dependentSchemas",
                                          "dependentRequired",
                                          "dependencies",
                                          "unevaluatedProperties",
                                          "items",
                                          "prefixItems",
                                          "additionalItems",
                                          "contains",
                                          "minItems",
                                          "maxItems",
                                          "uniqueItems",
                                          "unevaluatedItems",
                                          "minLength",
                                          "maxLength",
                                          "pattern",
                                          "$patterns",
                                          "format",
                                          "minimum",
                                          "maximum",
                                          "exclusiveMinimum",
                                          "exclusiveMaximum",
                                          "multipleOf",
                                          "$dynamicRef",
                                          "$recursiveRef"};

bool schema_constrains(const json_t *schema) {
    if (!json_is_object(schema))
        return !json_is_true(schema);
    for (size_t i = 0; i < sizeof constraints / sizeof *constraints; i++)
        if (json_object_get(schema, constraints[i]))
            return true;
    return false;
}

json_t *schema_without(schema_compiler *c, json_t *schema, const char *keyword) {
    json_t *copy = schema_own(c, json_copy(schema));
    if (copy)
        json_object_del(copy, keyword);
    return copy;
}

json_t *schema_both(schema_compiler *c, json_t *x, json_t *y) {
    if (!x || !y)
        return x ? x : y;
    return schema_own(c, json_pack("{s:[O,O]}", "allOf", x, y));
}

unsigned schema_types(schema_compiler *c, const json_t *schema) {
    json_t *type = json_object_get(schema, "type"), *one;
    unsigned types = 0;
    size_t i;
    if (!type)
        return TYPE_ALL;
    if (json_is_string(type))
        types = schema_type_of_name(json_string_value(type));
    json_array_foreach(type, i, one) {
        const unsigned t = json_is_string(one) ? schema_type_of_name(json_string_value(one)) : 0;
        types |= t;
        if (!t)
            schema_refuse(c, "type", "expected names of JSON's types");
    }
    if (!types && !json_is_array(type))
        schema_refuse(c, "type", "expected names of JSON's types");
    return types;
}

/* ---- merging; what memory fails to take makes the builder fail, so that no limit is lost ---- */

static void check(schema_compiler *c, int failed) {
    if (failed)
        grammar_fail(c->b, NIB_NO_MEMORY, "no memory for a schema");
}

/* Both take VALUE over. */
static void put(schema_compiler *c, json_t *object, const char *key, json_t *value) {
    check(c, json_object_set_new(object, key, value));
}

static void push(schema_compiler *c, json_t *list, json_t *value) {
    check(c, json_array_append_new(list, value));
}

static json_t *names_of_types(schema_compiler *c, unsigned types) {
    static const char *const names[] = {"null", "boolean", "integer", "number", "string", "array", "object"};
    json_t *list = json_array();
    for (unsigned i = 0; i < 7; i++)
        if (types >> i & 1)
            push(c, list, json_string(names[i]));
    return list;
}

static bool equal_values(const json_t *x, const json_t *y) {
    if (json_is_number(x) && json_is_number(y))
        return json_number_value(x) == json_number_value(y);
    return json_equal((json_t *)x, (json_t *)y);
}

/* The values of const or enum as a new list; NULL: there is none. */
static json_t *values_of(schema_compiler *c, const json_t *schema) {
    json_t *constant = json_object_get(schema, "const"), *list = json_object_get(schema, "enum");
    if (!constant && !json_is_array(list))
        return NULL;
    json_t *values = constant ? json_pack("[O]", constant) : json_copy(list);
    check(c, !values);
    return values;
}

/* Values that X and Y both list; X's own where only it lists any. Consumes both. */
static json_t *common_values(schema_compiler *c, json_t *x, json_t *y) {
    if (!x || !y)
        return x ? x : y;
    json_t *both = json_array(), *a, *b;
    size_t i, k;
    json_array_foreach(x, i, a) {
        json_array_foreach(y, k, b) {
            if (equal_values(a, b)) {
                push(c, both, json_incref(a));
                break;
            }
        }
    }
    json_decref(x);
    json_decref(y);
    return both;
}

static json_t *merge_numbers(schema_compiler *c, const char *key, json_t *x, json_t *y) {
    if (!json_is_number(x) || !json_is_number(y)) {
        schema_refuse(c, key, "expected a number");
        return NULL;
    }
    const double a = json_number_value(x), b = json_number_value(y);
    if (strcmp(key, "multipleOf") == 0) {
        double p = a, q = b;
        if (a != floor(a) || b != floor(b) || a < 1 || b < 1 || a > 1e6 || b > 1e6) {
            schema_refuse(c, key, "two of them cannot be held to together");
            return NULL;
        }
        while (q > 0) { /* the least common multiple */
            const double rest = fmod(p, q);
            p = q;
            q = rest;
        }
        return json_integer((json_int_t)(a / p * b));
    }
    const bool lower = strncmp(key, "min", 3) == 0 || strcmp(key, "exclusiveMinimum") == 0;
    return json_incref((a > b) == lower ? x : y);
}

static json_t *merge_required(schema_compiler *c, json_t *x, json_t *y) {
    json_t *all = json_copy(x), *name, *known;
    size_t i, k;
    json_array_foreach(y, i, name) {
        bool found = false;
        json_array_foreach(all, k, known) {
            found |= json_equal(known, name);
        }
        if (!found)
            push(c, all, json_incref(name));
    }
    return all;
}

/* What the schema asks of a property that it does not declare; NULL: nothing. */
static json_t *other_properties(const json_t *schema) {
    json_t *other = json_object_get(schema, "additionalProperties");
    return other && schema_constrains(other) ? other : NULL;
}

/* Properties of both: each name gets what either asks of it. */
static json_t *merge_properties(schema_compiler *c, const json_t *x, const json_t *y) {
    json_t *all = json_object(), *value;
    const char *name;
    json_t *const of_x = json_object_get(x, "properties"), *const of_y = json_object_get(y, "properties");
    json_object_foreach(of_x, name, value) {
        json_t *same = json_object_get(of_y, name);
        put(c, all, name, json_incref(schema_both(c, value, same ? same : other_properties(y))));
    }
    json_object_foreach(of_y, name, value) {
        if (!json_object_get(of_x, name))
            put(c, all, name, json_incref(schema_both(c, value, other_properties(x))));
    }
    return all;
}

static json_t *merge_patterns(schema_compiler *c, json_t *x, json_t *y) {
    json_t *all = json_copy(x), *value;
    const char *name;
    json_object_foreach(y, name, value) {
        put(c, all, name, json_incref(schema_both(c, value, json_object_get(x, name))));
    }
    return all;
}

/* Item I as the schema asks of it; NULL: nothing. */
static json_t *item_of(const json_t *schema, size_t i) {
    json_t *first = json_object_get(schema, "prefixItems");
    return i < json_array_size(first) ? json_array_get(first, i) : json_object_get(schema, "items");
}

static void merge_items(schema_compiler *c, json_t *out, const json_t *x, const json_t *y) {
    const size_t n_x = json_array_size(json_object_get(x, "prefixItems"));
    const size_t n_y = json_array_size(json_object_get(y, "prefixItems")), n = n_x > n_y ? n_x : n_y;
    json_t *first = json_array();
    for (size_t i = 0; i < n; i++) {
        json_t *item = schema_both(c, item_of(x, i), item_of(y, i));
        push(c, first, item ? json_incref(item) : json_true());
    }
    json_t *rest = schema_both(c, json_object_get(x, "items"), json_object_get(y, "items"));
    if (n)
        put(c, out, "prefixItems", json_incref(first));
    if (rest)
        put(c, out, "items", json_incref(rest));
    json_decref(first);
}

/* Each of X's branches with each of Y's. */
static json_t *merge_branches(schema_compiler *c, const char *key, json_t *x, json_t *y) {
    json_t *all = json_array(), *a, *b;
    size_t i, k;
    if (json_array_size(x) * json_array_size(y) > 256) {
        schema_refuse(c, key, "too many branches to put together");
        return all;
    }
    json_array_foreach(x, i, a) {
        json_array_foreach(y, k, b) {
            push(c, all, json_incref(schema_both(c, a, b)));
        }
    }
    return all;
}

/* The tuple form of items that older drafts have. */
static json_t *modern_items(schema_compiler *c, json_t *schema) {
    json_t *items = json_object_get(schema, "items"), *rest = json_object_get(schema, "additionalItems");
    if (!json_is_array(items))
        return schema;
    json_t *copy = schema_own(c, json_copy(schema));
    if (!copy)
        return NULL;
    put(c, copy, "prefixItems", json_incref(items));
    if (rest)
        put(c, copy, "items", json_incref(rest));
    else
        json_object_del(copy, "items");
    json_object_del(copy, "additionalItems");
    return copy;
}

/* SCHEMA without $ref and allOf at its top. */
static json_t *flat(schema_compiler *c, json_t *schema) {
    json_t *ref = json_object_get(schema, "$ref"), *all = json_object_get(schema, "allOf"), *branch;
    size_t i;
    if (!json_is_object(schema) || (!ref && !all) || grammar_failed(c->b))
        return schema;
    json_t *out = schema_without(c, schema, "$ref");
    out = out ? schema_without(c, out, "allOf") : NULL;
    if (out && ref) {
        json_t *to = json_is_string(ref) ? schema_resolve(c, json_string_value(ref)) : NULL;
        out = to ? schema_merge(c, out, to) : NULL;
    }
    json_array_foreach(all, i, branch) {
        out = out ? schema_merge(c, out, branch) : NULL;
    }
    return out;
}

static bool is_one_of(const char *key, const char *const *list) {
    for (; *list; list++)
        if (strcmp(*list, key) == 0)
            return true;
    return false;
}

/* KEY is in both; its merged value (new), NULL when refused. */
static json_t *merge_keyword(schema_compiler *c, const char *key, json_t *x, json_t *y) {
    static const char *const numbers[] = {
        "minimum",   "maximum",  "exclusiveMinimum", "exclusiveMaximum", "multipleOf",    "minLength",
        "maxLength", "minItems", "maxItems",         "minProperties",    "maxProperties", NULL};
    static const char *const lists[] = {"anyOf", "oneOf", NULL};
    static const char *const said[] = {
        "format", "pattern", "uniqueItems",           "propertyNames",    "contains",  "not", "if",
        "then",   "else",    "unevaluatedProperties", "unevaluatedItems", "$patterns", NULL};
    if (json_equal(x, y))
        return json_incref(x);
    if (is_one_of(key, numbers))
        return merge_numbers(c, key, x, y);
    if (is_one_of(key, lists))
        return merge_branches(c, key, x, y);
    if (strcmp(key, "required") == 0)
        return merge_required(c, x, y);
    if (strcmp(key, "additionalProperties") == 0)
        return json_incref(schema_both(c, x, y));
    if (strcmp(key, "patternProperties") == 0)
        return merge_patterns(c, x, y);
    if (is_one_of(key, said)) {
        schema_refuse(c, key, "two of them cannot be held to together");
        return NULL;
    }
    return json_incref(x); /* an annotation, or put together by merge_objects */
}

static json_t *merge_objects(schema_compiler *c, json_t *x, json_t *y) {
    json_t *out = json_copy(x), *value;
    const char *key;
    json_object_foreach(y, key, value) {
        json_t *mine = json_object_get(x, key);
        if (mine && strcmp(key, "pattern") == 0 && !json_equal(mine, value)) {
            json_t *more = json_object_get(out, "$patterns");
            more = more ? json_copy(more) : json_array();
            push(c, more, json_incref(value));
            put(c, out, "$patterns", more);
        } else if (!mine) {
            put(c, out, key, json_incref(value));
        } else {
            json_t *both = merge_keyword(c, key, mine, value);
            put(c, out, key, both ? both : json_null());
        }
    }
    if (json_object_get(x, "properties") || json_object_get(y, "properties"))
        put(c, out, "properties", merge_properties(c, x, y));
    if (json_object_get(x, "type") && json_object_get(y, "type")) {
        unsigned a = schema_types(c, x), b = schema_types(c, y);
        a |= a & TYPE_NUMBER ? TYPE_INTEGER : 0;
        b |= b & TYPE_NUMBER ? TYPE_INTEGER : 0;
        put(c, out, "type", names_of_types(c, a & b));
    }
    merge_items(c, out, x, y);
    json_t *values = common_values(c, values_of(c, x), values_of(c, y));
    if (values) {
        json_object_del(out, "const");
        put(c, out, "enum", values);
    }
    return out;
}

/* Names that one declares and patterns of the other cannot be told apart here once other names are held to
 * something. */
static bool patterns_are_clear(schema_compiler *c, const json_t *x, const json_t *y) {
    const bool patterns = json_object_get(x, "patternProperties") || json_object_get(y, "patternProperties");
    if (patterns && (other_properties(x) || other_properties(y)))
        return schema_refuse(c, "patternProperties",
                             "beside additionalProperties it cannot be put together with "
                             "another schema") != GRAMMAR_NEVER;
    if (json_object_get(y, "unevaluatedProperties") || json_object_get(y, "unevaluatedItems"))
        return schema_refuse(c, "unevaluatedProperties",
                             "inside a schema that others are put together with") != GRAMMAR_NEVER;
    return true;
}

json_t *schema_merge(schema_compiler *c, json_t *x, json_t *y) {
    json_t *merged = NULL;
    if (++c->merges > SCHEMA_MAX_MERGES || ++c->depth > GRAMMAR_MAX_NESTING) {
        schema_refuse(c, "allOf", "too many schemas to put together");
        return NULL;
    }
    x = flat(c, x);
    y = flat(c, y);
    x = x ? modern_items(c, x) : NULL;
    y = y ? modern_items(c, y) : NULL;
    if (x && y && !grammar_failed(c->b)) {
        if (json_is_false(x) || json_is_false(y))
            merged = schema_own(c, json_false());
        else if (json_is_true(x) || json_is_true(y))
            merged = json_is_true(x) ? y : x;
        else if (!json_is_object(x) || !json_is_object(y))
            schema_refuse(c, "a schema", "expected an object or a boolean");
        else if (patterns_are_clear(c, x, y))
            merged = schema_own(c, merge_objects(c, x, y));
    }
    c->depth--;
    return grammar_failed(c->b) ? NULL : merged;
}

/* ---- what cannot both hold ---- */

static unsigned types_with_values(schema_compiler *c, const json_t *schema) {
    unsigned types = schema_types(c, schema), listed = 0;
    json_t *values = values_of(c, schema), *value;
    size_t i;
    if (!values)
        return schema_with_integers(types);
    json_array_foreach(values, i, value) {
        listed |= schema_type_of_value(value);
    }
    json_decref(values);
    return listed & schema_with_integers(types);
}

/* X requires a property that Y forbids, or both require one of which they ask what cannot both hold. */
static bool objects_apart(schema_compiler *c, json_t *x, json_t *y, unsigned depth) {
    json_t *name;
    size_t i;
    json_array_foreach(json_object_get(x, "required"), i, name) {
        const char *key = json_is_string(name) ? json_string_value(name) : "";
        json_t *of_x = json_object_get(json_object_get(x, "properties"), key);
        json_t *of_y = json_object_get(json_object_get(y, "properties"), key);
        if (!of_y && json_is_false(json_object_get(y, "additionalProperties")) &&
            !json_object_get(y, "patternProperties"))
            return true;
        if (of_x && of_y && schema_apart(c, of_x, of_y, depth + 1)) {
            json_t *other;
            size_t k;
            json_array_foreach(json_object_get(y, "required"), k, other) {
                if (json_equal(other, name))
                    return true;
            }
        }
    }
    return false;
}

static bool branches_apart(schema_compiler *c, json_t *x, json_t *y, const char *key, unsigned depth) {
    json_t *branch;
    size_t i;
    json_array_foreach(json_object_get(x, key), i, branch) {
        if (!schema_apart(c, branch, y, depth + 1))
            return false;
    }
    return json_array_size(json_object_get(x, key)) > 0;
}

bool schema_apart(schema_compiler *c, json_t *x, json_t *y, unsigned depth) {
    if (depth > 8 || grammar_failed(c->b) || ++*c->work > SCHEMA_MAX_WORK)
        return false;
    x = flat(c, x);
    y = flat(c, y);
    if (!json_is_object(x) || !json_is_object(y))
        return json_is_false(x) || json_is_false(y);
    if (branches_apart(c, x, y, "anyOf", depth) || branches_apart(c, x, y, "oneOf", depth) ||
        branches_apart(c, y, x, "anyOf", depth) || branches_apart(c, y, x, "oneOf", depth))
        return true;
    const unsigned types = types_with_values(c, x) & types_with_values(c, y);
    if (types == 0)
        return true;
    json_t *of_x = values_of(c, x), *of_y = values_of(c, y);
    if (of_x && of_y) {
        json_t *both = common_values(c, of_x, of_y);
        const bool apart = json_array_size(both) == 0;
        json_decref(both);
        return apart;
    }
    json_decref(of_x);
    json_decref(of_y);
    if (types != TYPE_OBJECT)
        return false;
    return objects_apart(c, x, y, depth) || objects_apart(c, y, x, depth);
}
