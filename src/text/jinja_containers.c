/* SPDX-License-Identifier: Apache-2.0
 *
 * Methods of dict, list and `loop`, and where every method is looked up.
 */
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

/* ---- what changes a dict or a list: jinja2 has it, transformers' sandbox alone forbids it ---- */

static nib_status update(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    const jinja_args *a = b->all;
    *out = jinja_none();
    if (a->n > 1 || (a->n == 1 && a->list[0].kind != JINJA_DICT))
        return jinja_fail(r, "update() takes one dict, then keywords");
    for (size_t i = 0; a->n && i < a->list[0].dict->n; i++)
        NIB_TRY(jinja_put(r, self, a->list[0].dict->keys[i], a->list[0].dict->values[i]));
    for (size_t i = 0; i < a->n_keywords; i++) {
        jinja_value key;
        NIB_TRY(jinja_new_text(r, a->names[i].p, a->names[i].n, false, &key));
        NIB_TRY(jinja_put(r, self, key, a->keywords[i]));
    }
    return NIB_OK;
}

static nib_status pop_key(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    const jinja_value *found = jinja_get(r, self.dict, *b->v[0]);
    jinja_dict *d = self.dict;
    if (!found && !b->v[1])
        return jinja_fail(r, "pop() of a key that is not in the dict");
    *out = found ? *found : *b->v[1];
    if (!found)
        return NIB_OK;
    const size_t i = (size_t)(found - d->values), after = d->n - i - 1;
    memmove(d->keys + i, d->keys + i + 1, after * sizeof *d->keys);
    memmove(d->values + i, d->values + i + 1, after * sizeof *d->values);
    d->n--;
    return jinja_step(r, after / 16);
}

static nib_status setdefault(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    const jinja_value *found = jinja_get(r, self.dict, *b->v[0]);
    *out = found ? *found : b->v[1] ? *b->v[1] : jinja_none();
    return found ? NIB_OK : jinja_put(r, self, *b->v[0], *out);
}

static nib_status append(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    *out = jinja_none();
    return jinja_push(r, self, *b->v[0]);
}

static nib_status extend(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    const jinja_list *more;
    NIB_TRY(jinja_items(r, *b->v[0], &more));
    const size_t n = more->n; /* it may be the list itself */
    for (size_t i = 0; i < n; i++)
        NIB_TRY(jinja_push(r, self, more->items[i]));
    *out = jinja_none();
    return jinja_step(r, n);
}

/* Where an index of the list is; false: out of it. */
static bool place(const jinja_list *l, int64_t i, size_t *at) {
    if (i < 0)
        i += (int64_t)l->n;
    *at = (size_t)i;
    return i >= 0 && (size_t)i < l->n;
}

static nib_status pop_item(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    jinja_list *l = self.list;
    int64_t i = -1;
    size_t at;
    if (b->v[0])
        NIB_TRY(jinja_want_int(r, b->v[0], "pop()'s index", &i));
    if (!place(l, i, &at))
        return jinja_fail(r, l->n ? "pop index out of range" : "pop from empty list");
    *out = l->items[at];
    memmove(l->items + at, l->items + at + 1, (l->n - at - 1) * sizeof *l->items);
    l->n--;
    return jinja_step(r, (l->n - at) / 16);
}

static nib_status insert(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    jinja_list *l = self.list;
    int64_t i;
    size_t at;
    NIB_TRY(jinja_want_int(r, b->v[0], "insert()'s index", &i));
    if (!place(l, i, &at))
        at = i < 0 ? 0 : l->n;
    NIB_TRY(jinja_push(r, self, *b->v[1]));
    memmove(l->items + at + 1, l->items + at, (l->n - at - 1) * sizeof *l->items);
    l->items[at] = *b->v[1];
    *out = jinja_none();
    return jinja_step(r, (l->n - at) / 16);
}

static const jinja_builtin dict_methods[] = {
    {"items", items, "", 0},
    {"keys", keys, "", 0},
    {"values", values, "", 0},
    {"get", get, "key default", 1},
    {"copy", copy_dict, "", 0},
    {"update", update, NULL, 0},
    {"pop", pop_key, "key default", 1},
    {"setdefault", setdefault, "key default", 1},
    {NULL, NULL, NULL, 0},
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
    {"append", append, "object", 1},   {"extend", extend, "iterable", 1},
    {"pop", pop_item, "index", 0},     {"insert", insert, "index object", 2},
    {"copy", copy_list, "", 0},        {"count", count, "value", 1},
    {"index", list_index, "value", 1}, {NULL, NULL, NULL, 0},
};

static const jinja_builtin tuple_methods[] = {
    {"count", count, "value", 1},
    {"index", list_index, "value", 1},
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

nib_status jinja_method(jinja_run *r, jinja_value v, strview name, bool *found, jinja_value *out) {
    const jinja_builtin *m = v.kind == JINJA_TEXT    ? jinja_text_methods
                             : v.kind == JINJA_DICT  ? dict_methods
                             : v.kind == JINJA_LIST  ? list_methods
                             : v.kind == JINJA_TUPLE ? tuple_methods
                             : v.kind == JINJA_LOOP  ? loop_methods
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
    return NIB_OK;
}
