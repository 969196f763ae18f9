/* SPDX-License-Identifier: Apache-2.0
 *
 * See fields.h.
 */
#include "serve/fields.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/nearest.h"

enum { MAX_FIELDS = 256 }; /* of one body */

static const field *find(const field *const *tables, const char *name) {
    for (; *tables; tables++)
        for (const field *f = *tables; f->name; f++)
            if (strcmp(f->name, name) == 0)
                return f;
    return NULL;
}

static bool expected(const char *name, const char *what, api_error *e) {
    return api_error_set(e, API_INVALID, name, "'%s' must be %s", name, what);
}

static bool read_number(const field *f, char *to, const json_t *value, const char *name, api_error *e) {
    const bool whole = f->kind != FIELD_REAL;
    const double x = json_number_value(value);
    if (!(whole ? json_is_integer(value) : json_is_number(value)) || !(x >= f->min && x <= f->max))
        return api_error_set(e, API_INVALID, name, "'%s' must be a %snumber from %.15g to %.15g", name,
                             whole ? "whole " : "", f->min, f->max);
    if (f->kind == FIELD_INT)
        *(int *)(void *)to = (int)json_integer_value(value);
    else if (f->kind == FIELD_INT64)
        *(int64_t *)(void *)to = json_integer_value(value);
    else
        *(float *)(void *)to = (float)x;
    return true;
}

static bool read_text(char *to, const json_t *value, const char *name, api_error *e) {
    if (!json_is_string(value))
        return expected(name, "a string", e);
    *(const char **)(void *)to = json_string_value(value);
    return true;
}

static bool read_bool(char *to, const json_t *value, const char *name, api_error *e) {
    if (!json_is_boolean(value))
        return expected(name, "true or false", e);
    *(bool *)(void *)to = json_is_true(value);
    return true;
}

static bool check_only(const field *f, const json_t *value, const char *name, api_error *e) {
    if (f->max == 1)
        return (json_is_boolean(value) && json_is_true(value) == (f->min == 1)) ||
               api_error_set(e, API_INVALID, name, "'%s' must be %s, with which it changes nothing: %s", name,
                             f->min == 1 ? "true" : "false", f->why);
    return (json_is_number(value) && json_number_value(value) == f->min) ||
           api_error_set(e, API_INVALID, name, "'%s' must be %g, with which it changes nothing: %s", name,
                         f->min, f->why);
}

static bool read_json(const field *f, char *to, const json_t *value, const char *name, api_error *e) {
    if (f->kind == FIELD_OBJECT && !json_is_object(value))
        return expected(name, "an object", e);
    if (f->kind == FIELD_LIST && !json_is_array(value))
        return expected(name, "a list", e);
    *(const json_t **)(void *)to = value;
    return true;
}

static bool read_field(const field *f, void *target, const json_t *value, const char *name, api_error *e) {
    char *to = (char *)target + f->at;
    switch (f->kind) {
    case FIELD_BOOL:
        return read_bool(to, value, name, e);
    case FIELD_INT:
    case FIELD_INT64:
    case FIELD_REAL:
        return read_number(f, to, value, name, e);
    case FIELD_TEXT:
        return read_text(to, value, name, e);
    case FIELD_OBJECT:
    case FIELD_LIST:
    case FIELD_JSON:
        return read_json(f, to, value, name, e);
    case FIELD_READ:
        return f->read(target, value, name, e);
    case FIELD_PASS:
        return true;
    case FIELD_ONLY:
        return check_only(f, value, name, e);
    case FIELD_REFUSED:
        break;
    }
    return api_error_set(e, API_INVALID, name, "'%s' is not supported%s%s", name, f->why ? ": " : "",
                         f->why ? f->why : "");
}

/* WHERE goes before NAME, and before the nearest of KNOWN (ends with NULL). */
static bool unrecognized(const char *where, const char *name, const char *const *known, api_error *e) {
    char path[160], meant[200] = "";
    const char *near = nearest_name(name, known);
    snprintf(path, sizeof path, "%s%s", where, name);
    if (near)
        snprintf(meant, sizeof meant, "; did you mean '%s%s'?", where, near);
    return api_error_set(e, API_INVALID, path,
                         "unrecognized field '%s': it may change the answer, so it is not passed over%s",
                         path, meant);
}

/* NAMES [MAX_FIELDS + 1] of all fields. */
static void list_names(const field *const *tables, const char **names) {
    size_t n = 0;
    for (; *tables; tables++)
        for (const field *f = *tables; f->name && n < MAX_FIELDS; f++)
            if (f->kind != FIELD_REFUSED)
                names[n++] = f->name;
    names[n] = NULL;
}

bool fields_among(const char *name, const char *const *names) {
    while (*names && strcmp(*names, name) != 0)
        names++;
    return *names != NULL;
}

bool fields_known(const json_t *object, const char *const *names, const char *where, api_error *e) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value) {
        if (json_is_null(value) || fields_among(key, names))
            continue;
        char inside[128];
        snprintf(inside, sizeof inside, "%s.", where);
        return unrecognized(inside, key, names, e);
    }
    return true;
}

bool fields_read(const field *const *tables, void *target, const json_t *object, const char *where,
                 api_error *e) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value) {
        char name[160];
        const field *f = find(tables, key);
        snprintf(name, sizeof name, "%s%s", where, key);
        if (json_is_null(value))
            continue;
        if (!f) {
            const char *names[MAX_FIELDS + 1];
            list_names(tables, names);
            return unrecognized(where, key, names, e);
        }
        if (!read_field(f, target, value, name, e))
            return false;
    }
    return true;
}
