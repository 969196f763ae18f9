/* SPDX-License-Identifier: Apache-2.0
 *
 * Filters of sequences and dicts; and where every filter is looked up.
 */
#include "text/jinja_builtin.h"

/* ---- what several share ---- */

/* ITEM, or what its attribute PATH ("a.b", or a number) gives. */
static nib_status attribute_of(jinja_run *r, jinja_value item, const jinja_value *path, jinja_value *out) {
    *out = item;
    if (!path || path->kind == JINJA_NONE)
        return NIB_OK;
    if (path->kind != JINJA_TEXT)
        return jinja_item(r, item, *path, out);
    for (strview rest = jinja_view(path->text);;) {
        const char *dot = rest.n ? memchr(rest.p, '.', rest.n) : NULL;
        const size_t n = dot ? (size_t)(dot - rest.p) : rest.n;
        const bool number = n > 0 && n < 10 && strspn(rest.p, "0123456789") >= n;
        jinja_value key;
        int64_t index = 0;
        for (size_t i = 0; number && i < n; i++)
            index = index * 10 + (rest.p[i] - '0');
        key = jinja_int(index);
        if (!number)
            NIB_TRY(jinja_new_text(r, rest.p, n, false, &key));
        NIB_TRY(jinja_item(r, *out, key, out)); /* an item before a method, as jinja2 does here */
        if (!dot)
            return NIB_OK;
        rest = (strview){dot + 1, rest.n - n - 1};
    }
}

/* For an order that takes no notice of case. */
static nib_status without_case(jinja_run *r, jinja_value *v) {
    return v->kind == JINJA_TEXT ? jinja_change_case(r, v->text, JINJA_LOWER, v) : NIB_OK;
}

/* Stable, by KEYS [n]; both lists are put in order. */
static nib_status sort_by(jinja_run *r, jinja_value *keys, jinja_value *items, size_t n, bool reverse) {
    jinja_value *other_keys, *other_items;
    NIB_TRY(jinja_alloc(r, n, sizeof *keys, &other_keys));
    NIB_TRY(jinja_alloc(r, n, sizeof *items, &other_items));
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t low = 0; low < n; low += 2 * width) {
            const size_t middle = low + width < n ? low + width : n,
                         high = middle + width < n ? middle + width : n;
            for (size_t i = low, k = middle, at = low; at < high; at++) {
                int order = -1;
                if (i < middle && k < high)
                    NIB_TRY(jinja_compare(r, keys[k], keys[i], "<", &order));
                const bool right = k < high && (i >= middle || (reverse ? order > 0 : order < 0));
                const size_t from = right ? k++ : i++;
                other_keys[at] = keys[from];
                other_items[at] = items[from];
            }
        }
        memcpy(keys, other_keys, n * sizeof *keys);
        memcpy(items, other_items, n * sizeof *items);
    }
    return NIB_OK;
}

/* ---- order ---- */

static nib_status f_sort(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    const jinja_list *items;
    jinja_value keys;
    NIB_TRY(jinja_items(r, in, &items));
    NIB_TRY(jinja_new_list(r, JINJA_LIST, items->n, out));
    NIB_TRY(jinja_new_list(r, JINJA_LIST, items->n, &keys));
    for (size_t i = 0; i < items->n; i++) {
        jinja_value key;
        NIB_TRY(attribute_of(r, items->items[i], b->v[2], &key));
        if (!b->v[1] || !jinja_truth(*b->v[1]))
            NIB_TRY(without_case(r, &key));
        NIB_TRY(jinja_push(r, keys, key));
        NIB_TRY(jinja_push(r, *out, items->items[i]));
    }
    return sort_by(r, keys.list->items, out->list->items, items->n, b->v[0] && jinja_truth(*b->v[0]));
}

static nib_status f_dictsort(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    if (in.kind != JINJA_DICT)
        return jinja_fail(r, "dictsort of a value that is no mapping: %s", jinja_type(in));
    const bool by_value =
        b->v[1] && b->v[1]->kind == JINJA_TEXT && strview_is(jinja_view(b->v[1]->text), "value");
    jinja_value keys;
    NIB_TRY(jinja_new_list(r, JINJA_LIST, in.dict->n, out));
    NIB_TRY(jinja_new_list(r, JINJA_LIST, in.dict->n, &keys));
    for (size_t i = 0; i < in.dict->n; i++) {
        jinja_value pair, key = by_value ? in.dict->values[i] : in.dict->keys[i];
        if (!b->v[0] || !jinja_truth(*b->v[0]))
            NIB_TRY(without_case(r, &key));
        NIB_TRY(jinja_new_pair(r, in.dict->keys[i], in.dict->values[i], &pair));
        NIB_TRY(jinja_push(r, keys, key));
        NIB_TRY(jinja_push(r, *out, pair));
    }
    return sort_by(r, keys.list->items, out->list->items, in.dict->n, b->v[2] && jinja_truth(*b->v[2]));
}

static nib_status extreme(jinja_run *r, jinja_value in, const jinja_bound *b, bool most, jinja_value *out) {
    const jinja_list *items;
    jinja_value best;
    NIB_TRY(jinja_items(r, in, &items));
    if (items->n == 0)
        return jinja_missing_words(r, "No aggregated item, sequence was empty.", out);
    for (size_t i = 0; i < items->n; i++) {
        jinja_value key;
        int order = 0;
        NIB_TRY(attribute_of(r, items->items[i], b->v[1], &key));
        if (!b->v[0] || !jinja_truth(*b->v[0]))
            NIB_TRY(without_case(r, &key));
        if (i)
            NIB_TRY(jinja_compare(r, key, best, most ? ">" : "<", &order));
        if (i && !(most ? order > 0 : order < 0))
            continue;
        best = key;
        *out = items->items[i];
    }
    return NIB_OK;
}

static nib_status f_min(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    return extreme(r, in, b, false, out);
}

static nib_status f_max(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    return extreme(r, in, b, true, out);
}

static nib_status f_reverse(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    (void)b;
    const jinja_list *items;
    NIB_TRY(jinja_items(r, in, &items));
    if (in.kind == JINJA_TEXT) {
        jinja_builder all = {0};
        for (size_t i = items->n; i-- > 0;)
            NIB_TRY(jinja_build_text(r, &all, items->items[i].text));
        return jinja_built(r, &all, out);
    }
    NIB_TRY(jinja_new_list(r, JINJA_GENERATOR, items->n, out));
    for (size_t i = items->n; i-- > 0;)
        NIB_TRY(jinja_push(r, *out, items->items[i]));
    return NIB_OK;
}

static nib_status f_unique(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    const jinja_list *items;
    jinja_value seen;
    NIB_TRY(jinja_items(r, in, &items));
    NIB_TRY(jinja_new_list(r, JINJA_LIST, 0, &seen));
    NIB_TRY(jinja_new_list(r, JINJA_GENERATOR, 0, out));
    for (size_t i = 0; i < items->n; i++) {
        jinja_value key;
        bool known;
        NIB_TRY(attribute_of(r, items->items[i], b->v[1], &key));
        if (!b->v[0] || !jinja_truth(*b->v[0]))
            NIB_TRY(without_case(r, &key));
        NIB_TRY(jinja_contains(r, seen, key, &known));
        if (known)
            continue;
        NIB_TRY(jinja_push(r, seen, key));
        NIB_TRY(jinja_push(r, *out, items->items[i]));
    }
    return NIB_OK;
}

/* ---- parts and wholes ---- */

static nib_status f_list(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    (void)b;
    const jinja_list *items;
    NIB_TRY(jinja_items(r, in, &items));
    NIB_TRY(jinja_new_list(r, JINJA_LIST, items->n, out));
    for (size_t i = 0; i < items->n; i++)
        NIB_TRY(jinja_push(r, *out, items->items[i]));
    return NIB_OK;
}

static nib_status f_first(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    (void)b;
    const jinja_list *items;
    NIB_TRY(jinja_items(r, in, &items));
    if (items->n == 0)
        return jinja_missing_words(r, "No first item, sequence was empty.", out);
    *out = items->items[0];
    return NIB_OK;
}

static nib_status f_last(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    (void)b;
    const jinja_list *items;
    if (in.kind == JINJA_GENERATOR)
        return jinja_fail(r, "'generator' object is not reversible");
    NIB_TRY(jinja_items(r, in, &items));
    if (items->n == 0)
        return jinja_missing_words(r, "No last item, sequence was empty.", out);
    *out = items->items[items->n - 1];
    return NIB_OK;
}

static nib_status f_items(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    (void)b;
    NIB_TRY(jinja_new_list(r, JINJA_GENERATOR, 0, out));
    if (in.kind == JINJA_UNDEFINED)
        return NIB_OK;
    if (in.kind != JINJA_DICT)
        return jinja_fail(r, "Can only get item pairs from a mapping.");
    for (size_t i = 0; i < in.dict->n; i++) {
        jinja_value pair;
        NIB_TRY(jinja_step(r, 1));
        NIB_TRY(jinja_new_pair(r, in.dict->keys[i], in.dict->values[i], &pair));
        NIB_TRY(jinja_push(r, *out, pair));
    }
    return NIB_OK;
}

static nib_status f_join(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    static const jinja_text nothing = {"", 0, NULL, false, false, NULL};
    const jinja_text *with = &nothing;
    const jinja_list *items;
    jinja_value parts;
    NIB_TRY(jinja_items(r, in, &items));
    if (b->v[0])
        NIB_TRY(jinja_to_text(r, *b->v[0], &with));
    NIB_TRY(jinja_new_list(r, JINJA_LIST, items->n, &parts));
    for (size_t i = 0; i < items->n; i++) {
        jinja_value part;
        NIB_TRY(attribute_of(r, items->items[i], b->v[1], &part));
        NIB_TRY(jinja_push(r, parts, part));
    }
    return jinja_join(r, with, parts.list, false, out);
}

static nib_status f_sum(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    const jinja_list *items;
    jinja_value total = b->v[1] ? *b->v[1] : jinja_int(0);
    NIB_TRY(jinja_items(r, in, &items));
    for (size_t i = 0; i < items->n; i++) {
        jinja_value part;
        NIB_TRY(attribute_of(r, items->items[i], b->v[0], &part));
        NIB_TRY(jinja_math(r, (strview){"+", 1}, total, part, &total));
    }
    *out = total;
    return NIB_OK;
}

/* ---- map, select and their like: they read their arguments themselves ---- */

static const jinja_value *keyword(const jinja_args *a, const char *name) {
    for (size_t i = 0; i < a->n_keywords; i++)
        if (strview_is(a->names[i], name))
            return &a->keywords[i];
    return NULL;
}

static nib_status f_map(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    const jinja_args *a = b->all;
    const jinja_value *path = keyword(a, "attribute"), *otherwise = keyword(a, "default");
    const jinja_list *items;
    const jinja_text *name = NULL;
    jinja_args rest = *a;
    if (!jinja_truth(in)) /* none too: jinja2 does not look at it then */
        return jinja_new_list(r, JINJA_GENERATOR, 0, out);
    if (!path) {
        if (a->n == 0)
            return jinja_fail(r, "map requires a filter argument");
        NIB_TRY(jinja_want_text(r, &a->list[0], "map's filter", &name));
        rest.list++;
        rest.n--;
    }
    NIB_TRY(jinja_items(r, in, &items));
    NIB_TRY(jinja_new_list(r, JINJA_GENERATOR, items->n, out));
    for (size_t i = 0; i < items->n; i++) {
        jinja_value item;
        if (name)
            NIB_TRY(jinja_filter(r, jinja_filter_id(jinja_view(name)), jinja_view(name), items->items[i],
                                 &rest, &item));
        else
            NIB_TRY(attribute_of(r, items->items[i], path, &item));
        if (path && otherwise && item.kind == JINJA_UNDEFINED)
            item = *otherwise;
        NIB_TRY(jinja_push(r, *out, item));
    }
    return NIB_OK;
}

/* Items for which a test is KEEP; with BY_ATTRIBUTE the first argument says of what. Without a test: truth.
 */
static nib_status sift(jinja_run *r, jinja_value in, const jinja_args *a, bool by_attribute, bool keep,
                       jinja_value *out) {
    const jinja_list *items;
    const jinja_text *name = NULL;
    const size_t at = by_attribute ? 1 : 0;
    if (!jinja_truth(in)) /* none too: jinja2 does not look at it then */
        return jinja_new_list(r, JINJA_GENERATOR, 0, out);
    if (a->n < at)
        return jinja_fail(r, "Missing parameter for attribute name");
    jinja_args rest = *a;
    if (a->n > at) {
        NIB_TRY(jinja_want_text(r, &a->list[at], "the name of a test", &name));
        rest.list += at + 1;
        rest.n -= at + 1;
    }
    NIB_TRY(jinja_items(r, in, &items));
    NIB_TRY(jinja_new_list(r, JINJA_GENERATOR, 0, out));
    for (size_t i = 0; i < items->n; i++) {
        jinja_value item;
        bool holds;
        NIB_TRY(attribute_of(r, items->items[i], by_attribute ? &a->list[0] : NULL, &item));
        holds = jinja_truth(item);
        if (name)
            NIB_TRY(jinja_test(r, jinja_test_id(jinja_view(name)), jinja_view(name), item, &rest, &holds));
        if (holds == keep)
            NIB_TRY(jinja_push(r, *out, items->items[i]));
    }
    return NIB_OK;
}

static nib_status f_select(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    return sift(r, in, b->all, false, true, out);
}

static nib_status f_reject(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    return sift(r, in, b->all, false, false, out);
}

static nib_status f_selectattr(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    return sift(r, in, b->all, true, true, out);
}

static nib_status f_rejectattr(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    return sift(r, in, b->all, true, false, out);
}

const jinja_builtin jinja_list_filters[] = {
    {"sort", f_sort, "reverse case_sensitive attribute", 0},
    {"dictsort", f_dictsort, "case_sensitive by reverse", 0},
    {"min", f_min, "case_sensitive attribute", 0},
    {"max", f_max, "case_sensitive attribute", 0},
    {"reverse", f_reverse, "", 0},
    {"unique", f_unique, "case_sensitive attribute", 0},
    {"list", f_list, "", 0},
    {"first", f_first, "", 0},
    {"last", f_last, "", 0},
    {"items", f_items, "", 0},
    {"join", f_join, "d attribute", 0},
    {"sum", f_sum, "attribute start", 0},
    {"map", f_map, NULL, 0},
    {"select", f_select, NULL, 0},
    {"reject", f_reject, NULL, 0},
    {"selectattr", f_selectattr, NULL, 0},
    {"rejectattr", f_rejectattr, NULL, 0},
    {NULL, NULL, NULL, 0},
};

/* ---- all filters: the ids of the texts' come first ---- */

static int row_of(const jinja_builtin *rows, strview name) {
    for (int i = 0; rows[i].name; i++)
        if (strview_is(name, rows[i].name))
            return i;
    return -1;
}

#define LIST_FILTERS 1000

int jinja_filter_id(strview name) {
    const int text = row_of(jinja_text_filters, name), list = row_of(jinja_list_filters, name);
    return text >= 0 ? text : list >= 0 ? LIST_FILTERS + list : -1;
}

nib_status jinja_filter(jinja_run *r, int id, strview name, jinja_value in, const jinja_args *args,
                        jinja_value *out) {
    if (id < 0)
        return jinja_fail(r, "No filter named '%.*s'.", (int)(name.n < 60 ? name.n : 60), name.p);
    const jinja_builtin *row =
        id < LIST_FILTERS ? &jinja_text_filters[id] : &jinja_list_filters[id - LIST_FILTERS];
    NIB_TRY(jinja_step(r, 1));
    return jinja_run_builtin(r, row, in, args, out);
}
