/* SPDX-License-Identifier: Apache-2.0
 *
 * Methods of dict, list and `loop`, and where every method is looked up.
 */
#include <stdio.h>

#include "text/jinja_builtin.h"

/* ---- dict ---- */

static nib_status items(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    (void)b;
    NIB_TRY(jinja_new_list(r, JINJA_LIST, self.dict->n, out));
    for (size_t i = 0; i < self.dict->n; i++) {
        jinja_value pair;
        NIB_TRY(jinja_step(r, 1));
        NIB_TRY(jinja_new_pair(r, self.dict->keys[i], self.dict->values[i], &pair));
        NIB_TRY(jinja_push(r, *out, pair));
    }
    return NIB_OK;
}

static nib_status one_side(jinja_run *r, const jinja_value *side, size_t n, jinja_value *out) {
    NIB_TRY(jinja_step(r, n));
    NIB_TRY(jinja_new_list(r, JINJA_LIST, n, out));
    for (size_t i = 0; i < n; i++)
        NIB_TRY(jinja_push(r, *out, side[i]));
    return NIB_OK;
}

static nib_status keys(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    (void)b;
    return one_side(r, self.dict->keys, self.dict->n, out);
}

static nib_status values(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    (void)b;
    return one_side(r, self.dict->values, self.dict->n, out);
}

static nib_status get(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    const jinja_value *found = jinja_get(r, self.dict, *b->v[0]);
    *out = found ? *found : b->v[1] ? *b->v[1] : jinja_none();
    return NIB_OK;
}

static nib_status copy_dict(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    (void)b;
    NIB_TRY(jinja_new_dict(r, out));
    for (size_t i = 0; i < self.dict->n; i++)
        NIB_TRY(jinja_put(r, *out, self.dict->keys[i], self.dict->values[i]));
    return NIB_OK;
}

static const jinja_builtin dict_methods[] = {
    {"items", items, "", 0},        {"keys", keys, "", 0},      {"values", values, "", 0},
    {"get", get, "key default", 1}, {"copy", copy_dict, "", 0}, {NULL, NULL, NULL, 0},
};

/* ---- list and tuple ---- */

static nib_status count(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    int64_t n = 0;
    for (size_t i = 0; i < self.list->n; i++) {
        bool equal;
        NIB_TRY(jinja_equal(r, self.list->items[i], *b->v[0], &equal));
        n += equal;
    }
    *out = jinja_int(n);
    return NIB_OK;
}

static nib_status list_index(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    for (size_t i = 0; i < self.list->n; i++) {
        bool equal;
        NIB_TRY(jinja_equal(r, self.list->items[i], *b->v[0], &equal));
        *out = jinja_int((int64_t)i);
        if (equal)
            return NIB_OK;
    }
    return jinja_fail(r, "the value is not in the list");
}

static nib_status copy_list(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    (void)b;
    return one_side(r, self.list->items, self.list->n, out);
}

static const jinja_builtin list_methods[] = {
    {"count", count, "value", 1},
    {"index", list_index, "value", 1},
    {"copy", copy_list, "", 0},
    {NULL, NULL, NULL, 0},
};

/* ---- loop ---- */

static nib_status cycle(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    if (b->all->n == 0)
        return jinja_fail(r, "no items for cycling given");
    *out = b->all->list[self.loop->index % b->all->n];
    return NIB_OK;
}

static nib_status changed(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    jinja_value given;
    bool equal = false;
    NIB_TRY(jinja_new_list(r, JINJA_TUPLE, b->all->n, &given));
    for (size_t i = 0; i < b->all->n; i++)
        NIB_TRY(jinja_push(r, given, b->all->list[i]));
    if (self.loop->changed.kind == JINJA_TUPLE)
        NIB_TRY(jinja_equal(r, self.loop->changed, given, &equal));
    self.loop->changed = given;
    *out = jinja_bool(!equal);
    return NIB_OK;
}

static const jinja_builtin loop_methods[] = {
    {"cycle", cycle, NULL, 0},
    {"changed", changed, NULL, 0},
    {NULL, NULL, NULL, 0},
};

/* ---- all methods ---- */

static bool is_one_of(strview name, const char *const *names) {
    for (; *names; names++)
        if (strview_is(name, *names))
            return true;
    return false;
}

/* Methods that would change a list or a dict. */
static bool is_unsafe(jinja_value v, strview name) {
    static const char *const of_list[] = {"append", "clear",   "extend", "insert", "pop",
                                          "remove", "reverse", "sort",   NULL};
    static const char *const of_dict[] = {"clear", "pop", "popitem", "setdefault", "update", NULL};
    return (v.kind == JINJA_LIST && is_one_of(name, of_list)) ||
           (v.kind == JINJA_DICT && is_one_of(name, of_dict));
}

nib_status jinja_method(jinja_run *r, jinja_value v, strview name, bool *found, jinja_value *out) {
    const jinja_builtin *m = v.kind == JINJA_TEXT                            ? jinja_text_methods
                             : v.kind == JINJA_DICT                          ? dict_methods
                             : v.kind == JINJA_LIST || v.kind == JINJA_TUPLE ? list_methods
                             : v.kind == JINJA_LOOP                          ? loop_methods
                                                                             : NULL;
    *found = false;
    while (m && m->name && !strview_is(name, m->name))
        m++;
    if (m && m->name) {
        jinja_function *method;
        NIB_TRY(jinja_alloc(r, 1, sizeof *method, &method));
        *method = (jinja_function){m, v};
        *out = (jinja_value){.kind = JINJA_FUNCTION, .function = method};
        *found = true;
        return NIB_OK;
    }
    if (!is_unsafe(v, name))
        return NIB_OK;
    *found = true;
    char words[120];
    snprintf(words, sizeof words, "access to attribute '%.*s' of '%s' object is unsafe.", (int)name.n, name.p,
             jinja_type(v));
    jinja_value held;
    NIB_TRY(jinja_new_text(r, words, strlen(words) + 1, false, &held));
    return jinja_missing_words(r, held.text->p, out);
}
