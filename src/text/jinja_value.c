/* SPDX-License-Identifier: Apache-2.0
 *
 * Lists, dicts and what Python says of values: truth, equality, order, membership, what a loop meets.
 */
#include "text/jinja_value.h"

#include "base/utf8.h"

/* ---- containers ---- */

nib_status jinja_new_list(jinja_run *r, jinja_kind kind, size_t capacity, jinja_value *out) {
    jinja_list *list;
    NIB_TRY(jinja_alloc(r, 1, sizeof *list, &list));
    NIB_TRY(jinja_alloc(r, capacity, sizeof *list->items, &list->items));
    list->capacity = capacity;
    *out = (jinja_value){.kind = kind, .list = list};
    return NIB_OK;
}

nib_status jinja_push(jinja_run *r, jinja_value list, jinja_value item) {
    jinja_list *l = list.list;
    if (l->n == l->capacity) {
        const size_t capacity = l->capacity ? 2 * l->capacity : 8;
        jinja_value *grown;
        NIB_TRY(jinja_alloc(r, capacity, sizeof *grown, &grown));
        if (l->n)
            memcpy(grown, l->items, l->n * sizeof *grown);
        l->items = grown;
        l->capacity = capacity;
    }
    l->items[l->n++] = item;
    return NIB_OK;
}

nib_status jinja_new_pair(jinja_run *r, jinja_value a, jinja_value b, jinja_value *out) {
    NIB_TRY(jinja_new_list(r, JINJA_TUPLE, 2, out));
    NIB_TRY(jinja_push(r, *out, a));
    return jinja_push(r, *out, b);
}

nib_status jinja_new_dict(jinja_run *r, jinja_value *out) {
    jinja_dict *d;
    NIB_TRY(jinja_alloc(r, 1, sizeof *d, &d));
    *out = (jinja_value){.kind = JINJA_DICT, .dict = d};
    return NIB_OK;
}

static bool same_text(jinja_value a, jinja_value b) {
    return a.kind == JINJA_TEXT && b.kind == JINJA_TEXT &&
           strview_equal(jinja_view(a.text), jinja_view(b.text));
}

/* Keys are texts, numbers, none or tuples; those of one kind are equal as values are. */
static jinja_value *find_key(jinja_run *r, const jinja_dict *d, jinja_value key) {
    for (size_t i = 0; i < d->n; i++) {
        bool equal = same_text(d->keys[i], key);
        if (!equal && key.kind != JINJA_TEXT && jinja_equal(r, d->keys[i], key, &equal) != NIB_OK)
            return NULL;
        if (equal)
            return &d->values[i];
    }
    return NULL;
}

static nib_status add_key(jinja_run *r, jinja_dict *d, jinja_value key, jinja_value value) {
    if (d->n == d->capacity) {
        const size_t capacity = d->capacity ? 2 * d->capacity : 8;
        jinja_value *keys, *values;
        NIB_TRY(jinja_alloc(r, capacity, sizeof *keys, &keys));
        NIB_TRY(jinja_alloc(r, capacity, sizeof *values, &values));
        if (d->n) {
            memcpy(keys, d->keys, d->n * sizeof *keys);
            memcpy(values, d->values, d->n * sizeof *values);
        }
        d->keys = keys;
        d->values = values;
        d->capacity = capacity;
    }
    d->keys[d->n] = key;
    d->values[d->n++] = value;
    return NIB_OK;
}

nib_status jinja_put(jinja_run *r, jinja_value dict, jinja_value key, jinja_value value) {
    NIB_TRY(jinja_step(r, 1 + dict.dict->n / 16));
    jinja_value *found = find_key(r, dict.dict, key);
    if (found) {
        *found = value;
        return NIB_OK;
    }
    return add_key(r, dict.dict, key, value);
}

nib_status jinja_put_name(jinja_run *r, jinja_value dict, const char *name, jinja_value value) {
    jinja_value key;
    NIB_TRY(jinja_new_text(r, name, strlen(name), false, &key));
    return jinja_put(r, dict, key, value);
}

const jinja_value *jinja_get(jinja_run *r, const jinja_dict *d, jinja_value key) {
    return jinja_step(r, d->n / 16) == NIB_OK ? find_key(r, d, key) : NULL;
}

const jinja_value *jinja_get_name(jinja_run *r, const jinja_dict *d, strview name) {
    if (jinja_step(r, d->n / 16) != NIB_OK)
        return NULL;
    for (size_t i = 0; i < d->n; i++)
        if (d->keys[i].kind == JINJA_TEXT && strview_equal(jinja_view(d->keys[i].text), name))
            return &d->values[i];
    return NULL;
}

/* ---- what Python says of a value ---- */

bool jinja_truth(jinja_value v) {
    switch (v.kind) {
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        return false;
    case JINJA_BOOL:
        return v.b;
    case JINJA_INT:
        return v.i != 0;
    case JINJA_FLOAT:
        return v.f != 0;
    case JINJA_TEXT:
        return v.text->n > 0;
    case JINJA_LIST:
    case JINJA_TUPLE:
        return v.list->n > 0;
    case JINJA_DICT:
        return v.dict->n > 0;
    case JINJA_GENERATOR:
    case JINJA_NAMESPACE:
    case JINJA_LOOP:
    case JINJA_MACRO:
    case JINJA_FUNCTION:
        return true;
    }
    return false;
}

const char *jinja_type(jinja_value v) {
    static const char *const names[] = {"Undefined", "NoneType",    "bool",  "int",       "float",
                                        "str",       "list",        "tuple", "generator", "dict",
                                        "Namespace", "LoopContext", "Macro", "function"};
    return names[v.kind];
}

const char *jinja_type_in_words(jinja_value v) {
    static const char *const names[] = {
        "Undefined",        "None",        "bool object",  "int object",       "float object",
        "str object",       "list object", "tuple object", "generator object", "dict object",
        "namespace object", "loop object", "macro object", "function object"};
    return names[v.kind];
}

static nib_status equal_dicts(jinja_run *r, const jinja_dict *a, const jinja_dict *b, bool *out) {
    *out = a->n == b->n;
    for (size_t i = 0; *out && i < a->n; i++) {
        const jinja_value *other = jinja_get(r, b, a->keys[i]);
        *out = other != NULL;
        if (other)
            NIB_TRY(jinja_equal(r, a->values[i], *other, out));
    }
    return NIB_OK;
}

nib_status jinja_equal(jinja_run *r, jinja_value a, jinja_value b, bool *out) {
    *out = false;
    NIB_TRY(jinja_step(r, 1));
    if (jinja_is_number(a) && jinja_is_number(b)) {
        *out = a.kind == JINJA_FLOAT || b.kind == JINJA_FLOAT ? jinja_real(a) == jinja_real(b)
                                                              : jinja_integer(a) == jinja_integer(b);
        return NIB_OK;
    }
    if (a.kind != b.kind)
        return NIB_OK;
    switch (a.kind) {
    case JINJA_TEXT:
        *out = same_text(a, b);
        return jinja_step(r, a.text->n / 256);
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        *out = true;
        return NIB_OK;
    case JINJA_LIST:
    case JINJA_TUPLE:
    case JINJA_DICT:
        break;
    default:
        *out = a.list == b.list; /* one and the same */
        return NIB_OK;
    }
    if (++r->depth > JINJA_MAX_DEPTH)
        return jinja_fail(r, "the chat template compares values nested too deep");
    nib_status status = NIB_OK;
    if (a.kind == JINJA_DICT) {
        status = equal_dicts(r, a.dict, b.dict, out);
    } else {
        *out = a.list->n == b.list->n;
        for (size_t i = 0; status == NIB_OK && *out && i < a.list->n; i++)
            status = jinja_equal(r, a.list->items[i], b.list->items[i], out);
    }
    r->depth--;
    return status;
}

static int sign_of(double d) {
    return (d > 0) - (d < 0);
}

nib_status jinja_compare(jinja_run *r, jinja_value a, jinja_value b, const char *op, int *out) {
    NIB_TRY(jinja_step(r, 1));
    *out = 0;
    if (jinja_is_integer(a) && jinja_is_integer(b)) {
        *out = (jinja_integer(a) > jinja_integer(b)) - (jinja_integer(a) < jinja_integer(b));
        return NIB_OK;
    }
    if (jinja_is_number(a) && jinja_is_number(b)) {
        *out = sign_of(jinja_real(a) - jinja_real(b));
        return NIB_OK;
    }
    if (a.kind == JINJA_TEXT && b.kind == JINJA_TEXT) {
        const size_t n = a.text->n < b.text->n ? a.text->n : b.text->n;
        const int order = n ? memcmp(a.text->p, b.text->p, n) : 0;
        *out = order ? order : (a.text->n > b.text->n) - (a.text->n < b.text->n);
        return NIB_OK;
    }
    if (a.kind == b.kind && (a.kind == JINJA_LIST || a.kind == JINJA_TUPLE)) {
        for (size_t i = 0; i < a.list->n && i < b.list->n; i++) {
            bool equal;
            NIB_TRY(jinja_equal(r, a.list->items[i], b.list->items[i], &equal));
            if (!equal)
                return jinja_compare(r, a.list->items[i], b.list->items[i], op, out);
        }
        *out = (a.list->n > b.list->n) - (a.list->n < b.list->n);
        return NIB_OK;
    }
    NIB_TRY(jinja_defined(r, a));
    NIB_TRY(jinja_defined(r, b));
    return jinja_fail(r, "'%s' not supported between instances of '%s' and '%s'", op, jinja_type(a),
                      jinja_type(b));
}

nib_status jinja_contains(jinja_run *r, jinja_value container, jinja_value item, bool *out) {
    *out = false;
    if (container.kind == JINJA_TEXT) {
        if (item.kind == JINJA_UNDEFINED)
            NIB_TRY(jinja_defined(r, item));
        if (item.kind != JINJA_TEXT)
            return jinja_fail(r, "'in <string>' requires string as left operand, not %s", jinja_type(item));
        *out = jinja_find(jinja_view(container.text), jinja_view(item.text), 0) <= container.text->n;
        return jinja_step(r, container.text->n / 64);
    }
    if (container.kind == JINJA_DICT) {
        *out = jinja_get(r, container.dict, item) != NULL;
        return NIB_OK;
    }
    const jinja_list *items;
    NIB_TRY(jinja_items(r, container, &items));
    for (size_t i = 0; i < items->n && !*out; i++)
        NIB_TRY(jinja_equal(r, items->items[i], item, out));
    return NIB_OK;
}

static nib_status characters_of(jinja_run *r, const jinja_text *t, jinja_value list) {
    for (size_t i = 0; i < t->n;) {
        const size_t bytes = utf8_lead_bytes((unsigned char)t->p[i]);
        jinja_value one;
        NIB_TRY(jinja_cut(r, t, i, i + bytes, &one));
        NIB_TRY(jinja_push(r, list, one));
        i += bytes;
    }
    return NIB_OK;
}

nib_status jinja_items(jinja_run *r, jinja_value v, const jinja_list **out) {
    static const jinja_list nothing;
    *out = &nothing;
    jinja_value list;
    switch (v.kind) {
    case JINJA_UNDEFINED:
        return NIB_OK;
    case JINJA_LIST:
    case JINJA_TUPLE:
        *out = v.list;
        return NIB_OK;
    case JINJA_GENERATOR:
        NIB_TRY(jinja_new_list(r, JINJA_LIST, 0, &list));
        *list.list = *v.list;
        *v.list = nothing;
        *out = list.list;
        return NIB_OK;
    case JINJA_TEXT:
        NIB_TRY(jinja_new_list(r, JINJA_LIST, v.text->n, &list));
        NIB_TRY(characters_of(r, v.text, list));
        *out = list.list;
        return NIB_OK;
    case JINJA_DICT:
        NIB_TRY(jinja_new_list(r, JINJA_LIST, v.dict->n, &list));
        for (size_t i = 0; i < v.dict->n; i++)
            NIB_TRY(jinja_push(r, list, v.dict->keys[i]));
        *out = list.list;
        return NIB_OK;
    default:
        return jinja_fail(r, "'%s' object is not iterable", jinja_type(v));
    }
}

nib_status jinja_length(jinja_run *r, jinja_value v, int64_t *out) {
    *out = 0;
    switch (v.kind) {
    case JINJA_UNDEFINED:
        return NIB_OK;
    case JINJA_TEXT:
        *out = (int64_t)jinja_characters(jinja_view(v.text));
        return jinja_step(r, v.text->n / 64);
    case JINJA_LIST:
    case JINJA_TUPLE:
        *out = (int64_t)v.list->n;
        return NIB_OK;
    case JINJA_DICT:
        *out = (int64_t)v.dict->n;
        return NIB_OK;
    case JINJA_LOOP:
        *out = (int64_t)v.loop->items->n;
        return NIB_OK;
    default:
        return jinja_fail(r, "object of type '%s' has no len()", jinja_type(v));
    }
}

/* ---- undefined ---- */

nib_status jinja_defined(jinja_run *r, jinja_value v) {
    if (v.kind != JINJA_UNDEFINED)
        return NIB_OK;
    const jinja_missing *m = v.missing;
    if (!m || (!m->words && !m->name.p))
        return jinja_fail(r, "a value of the chat template is undefined");
    const int n = (int)(m->name.n < 100 ? m->name.n : 100);
    if (m->words)
        return jinja_fail(r, "%s", m->words);
    if (m->owner)
        return jinja_fail(r, "'%s' has no attribute '%.*s'", m->owner, n, m->name.p);
    return jinja_fail(r, "'%.*s' is undefined", n, m->name.p);
}

static nib_status missing(jinja_run *r, jinja_missing what, jinja_value *out) {
    jinja_missing *m;
    NIB_TRY(jinja_alloc(r, 1, sizeof *m, &m));
    *m = what;
    *out = (jinja_value){.kind = JINJA_UNDEFINED, .missing = m};
    return NIB_OK;
}

nib_status jinja_missing_name(jinja_run *r, const char *owner, strview name, jinja_value *out) {
    return missing(r, (jinja_missing){owner, name, NULL}, out);
}

nib_status jinja_missing_words(jinja_run *r, const char *words, jinja_value *out) {
    return missing(r, (jinja_missing){.words = words}, out);
}

/* ---- JSON ---- */

static nib_status from_object(jinja_run *r, const json_t *json, jinja_value *out) {
    NIB_TRY(jinja_new_dict(r, out));
    const char *name;
    json_t *item;
    json_object_foreach((json_t *)json, name, item) {
        jinja_value key, value;
        NIB_TRY(jinja_new_text(r, name, strlen(name), true, &key));
        NIB_TRY(jinja_from_json(r, item, &value));
        NIB_TRY(add_key(r, out->dict, key, value)); /* jansson has no key twice */
    }
    return NIB_OK;
}

nib_status jinja_from_json(jinja_run *r, const json_t *json, jinja_value *out) {
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        return from_object(r, json, out); /* depth: jansson's own bound */
    case JSON_ARRAY:
        NIB_TRY(jinja_new_list(r, JINJA_LIST, json_array_size(json), out));
        for (size_t i = 0; i < json_array_size(json); i++)
            NIB_TRY(jinja_from_json(r, json_array_get(json, i), &out->list->items[out->list->n++]));
        return NIB_OK;
    case JSON_STRING:
        return jinja_new_text(r, json_string_value(json), json_string_length(json), true, out);
    case JSON_INTEGER:
        *out = jinja_int(json_integer_value(json));
        return NIB_OK;
    case JSON_REAL:
        *out = jinja_float(json_real_value(json));
        return NIB_OK;
    case JSON_TRUE:
    case JSON_FALSE:
        *out = jinja_bool(json_is_true(json));
        return NIB_OK;
    case JSON_NULL:
        break;
    }
    *out = jinja_none();
    return NIB_OK;
}
