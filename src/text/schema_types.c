/* SPDX-License-Identifier: Apache-2.0
 *
 * A walk over types alone: what joins schemas joins their types.
 */
#include "text/schema_types.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH 16
#define MAX_WORK  20000 /* schemas looked at for one answer */

unsigned schema_type_of_name(const char *name) {
    static const char *const names[] = {"null", "boolean", "integer", "number", "string", "array", "object"};
    for (unsigned i = 0; i < 7; i++)
        if (strcmp(name, names[i]) == 0)
            return 1u << i;
    return 0;
}

unsigned schema_type_of_value(const json_t *value) {
    static const unsigned of_kind[] = {
        [JSON_OBJECT] = TYPE_OBJECT,   [JSON_ARRAY] = TYPE_ARRAY, [JSON_STRING] = TYPE_STRING,
        [JSON_INTEGER] = TYPE_INTEGER, [JSON_REAL] = TYPE_NUMBER, [JSON_TRUE] = TYPE_BOOLEAN,
        [JSON_FALSE] = TYPE_BOOLEAN,   [JSON_NULL] = TYPE_NULL};
    const bool whole = json_is_real(value) && json_real_value(value) == floor(json_real_value(value));
    return of_kind[json_typeof(value)] | (whole ? TYPE_INTEGER : 0);
}

/* ---- pointers ---- */

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

json_t *schema_pointed(const json_t *root, const char *ref) {
    const json_t *id = json_object_get(root, "$id");
    const char *p = ref;
    if (json_is_string(id) && strncmp(p, json_string_value(id), json_string_length(id)) == 0)
        p += json_string_length(id);
    json_t *at = (json_t *)root;
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
    return json_is_object(at) || json_is_boolean(at) ? at : NULL;
}

/* ---- types; 0: nothing is said ---- */

static unsigned both(unsigned x, unsigned y) {
    return !x || !y ? x | y : x & y;
}

static unsigned of_keyword(const json_t *type) {
    unsigned types = json_is_string(type) ? schema_type_of_name(json_string_value(type)) : 0;
    size_t i;
    const json_t *one;
    json_array_foreach(type, i, one) {
        types |= json_is_string(one) ? schema_type_of_name(json_string_value(one)) : 0;
    }
    return schema_with_integers(types);
}

static unsigned of_values(const json_t *schema) {
    const json_t *constant = json_object_get(schema, "const"), *list = json_object_get(schema, "enum"), *one;
    unsigned types = constant ? schema_type_of_value(constant) : 0;
    size_t i;
    json_array_foreach(list, i, one) {
        types |= constant ? 0 : schema_type_of_value(one);
    }
    return types;
}

/* What is asked of a schema: its own types, or those of one of its properties. */
typedef struct question {
    const json_t *root;
    const char *key; /* NULL: its own */
    unsigned *work;
} question;

static unsigned answer(const question *q, const json_t *schema, int depth);

static unsigned of_branches(const question *q, const json_t *branches, bool all, int depth) {
    unsigned types = 0;
    size_t i;
    const json_t *one;
    json_array_foreach(branches, i, one) {
        const unsigned of_one = answer(q, one, depth);
        if (!all && of_one == 0 && !json_is_false(one))
            return 0;
        types = all ? both(types, of_one) : types | of_one;
    }
    return types;
}

static unsigned of_property(const question *q, const json_t *schema, int depth) {
    const question own = {q->root, NULL, q->work};
    const json_t *property = json_object_get(json_object_get(schema, "properties"), q->key);
    const json_t *other = json_object_get(schema, "additionalProperties");
    return answer(&own, property ? property : other, depth);
}

static unsigned answer(const question *q, const json_t *schema, int depth) {
    if (!json_is_object(schema) || depth > MAX_DEPTH || ++*q->work > MAX_WORK)
        return 0;
    const json_t *ref = json_object_get(schema, "$ref");
    unsigned types = q->key ? of_property(q, schema, depth + 1)
                            : both(of_keyword(json_object_get(schema, "type")), of_values(schema));
    if (json_is_string(ref))
        types = both(types, answer(q, schema_pointed(q->root, json_string_value(ref)), depth + 1));
    types = both(types, of_branches(q, json_object_get(schema, "allOf"), true, depth + 1));
    types = both(types, of_branches(q, json_object_get(schema, "anyOf"), false, depth + 1));
    return both(types, of_branches(q, json_object_get(schema, "oneOf"), false, depth + 1));
}

unsigned schema_types_of(const json_t *root, const json_t *schema) {
    unsigned work = 0;
    return answer(&(question){root, NULL, &work}, schema, 0);
}

unsigned schema_types_of_property(const json_t *root, const char *key) {
    unsigned work = 0;
    return answer(&(question){root, key, &work}, root, 0);
}
