/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls: arguments, macros, rows of the tables; and the functions that every template has.
 */
#include <time.h>

#include "text/jinja_builtin.h"

/* ---- arguments ---- */

static nib_status spread(jinja_run *r, jinja_scope *s, const jinja_node *n, jinja_args *a) {
    jinja_value more;
    if (n->star) {
        const jinja_list *items;
        NIB_TRY(jinja_eval(r, s, n->star, &more));
        NIB_TRY(jinja_items(r, more, &items));
        jinja_value *list;
        NIB_TRY(jinja_alloc(r, a->n + items->n, sizeof *list, &list));
        if (a->n)
            memcpy(list, a->list, a->n * sizeof *list);
        if (items->n)
            memcpy(list + a->n, items->items, items->n * sizeof *list);
        a->list = list;
        a->n += items->n;
    }
    if (!n->star_star)
        return NIB_OK;
    NIB_TRY(jinja_eval(r, s, n->star_star, &more));
    if (more.kind != JINJA_DICT)
        return jinja_fail(r, "argument after ** must be a mapping, not %s", jinja_type(more));
    const jinja_args before = *a;
    NIB_TRY(jinja_alloc(r, a->n_keywords + more.dict->n, sizeof *a->names, &a->names));
    NIB_TRY(jinja_alloc(r, a->n_keywords + more.dict->n, sizeof *a->keywords, &a->keywords));
    for (size_t i = 0; i < before.n_keywords; i++) {
        a->names[i] = before.names[i];
        a->keywords[i] = before.keywords[i];
    }
    for (size_t i = 0; i < more.dict->n; i++) {
        if (more.dict->keys[i].kind != JINJA_TEXT)
            return jinja_fail(r, "keywords must be strings");
        a->names[a->n_keywords] = jinja_view(more.dict->keys[i].text);
        a->keywords[a->n_keywords++] = more.dict->values[i];
    }
    return NIB_OK;
}

nib_status jinja_arguments(jinja_run *r, jinja_scope *s, const jinja_node *n, jinja_args *out) {
    memset(out, 0, sizeof *out);
    if (n->n_items)
        NIB_TRY(jinja_alloc(r, n->n_items, sizeof *out->list, &out->list));
    for (; out->n < n->n_items; out->n++)
        NIB_TRY(jinja_eval(r, s, n->items[out->n], &out->list[out->n]));
    if (n->n_keys) {
        NIB_TRY(jinja_alloc(r, n->n_keys, sizeof *out->names, &out->names));
        NIB_TRY(jinja_alloc(r, n->n_keys, sizeof *out->keywords, &out->keywords));
    }
    for (size_t i = 0; i < n->n_keys; i++) {
        out->names[i] = n->keys[i].name;
        NIB_TRY(jinja_eval(r, s, n->keys[i].value, &out->keywords[i]));
        out->n_keywords++;
    }
    return spread(r, s, n, out);
}

/* ---- rows of the tables ---- */

/* Which parameter of "old new count" NAME is; -1: none. */
static int parameter_of(const char *parameters, strview name) {
    int k = 0;
    for (const char *p = parameters; *p; k++) {
        const size_t n = strcspn(p, " ");
        if (n == name.n && memcmp(p, name.p, n) == 0)
            return k;
        p += n + (p[n] == ' ');
    }
    return -1;
}

static int count_parameters(const char *parameters) {
    int n = parameters[0] != '\0';
    for (; *parameters; parameters++)
        n += *parameters == ' ';
    return n;
}

static nib_status bind(jinja_run *r, const jinja_builtin *b, const jinja_args *args, jinja_bound *out) {
    const int n = count_parameters(b->parameters);
    if (args->n > (size_t)n)
        return jinja_fail(r, "%s() takes at most %d arguments (%zu given)", b->name, n, args->n);
    for (size_t i = 0; i < args->n; i++)
        out->v[i] = &args->list[i];
    for (size_t i = 0; i < args->n_keywords; i++) {
        const int k = parameter_of(b->parameters, args->names[i]);
        if (k < 0 || out->v[k])
            return jinja_fail(r, "%s() got %s keyword argument '%.*s'", b->name,
                              k < 0 ? "an unexpected" : "a second value for the",
                              (int)(args->names[i].n < 60 ? args->names[i].n : 60), args->names[i].p);
        out->v[k] = &args->keywords[i];
    }
    for (int k = 0; k < b->n_required; k++)
        if (!out->v[k])
            return jinja_fail(r, "%s() is missing a required argument (of: %s)", b->name, b->parameters);
    return NIB_OK;
}

nib_status jinja_run_builtin(jinja_run *r, const jinja_builtin *b, jinja_value self, const jinja_args *args,
                             jinja_value *out) {
    jinja_bound bound = {.all = args};
    if (b->parameters)
        NIB_TRY(bind(r, b, args, &bound));
    return b->call(r, self, &bound, out);
}

/* ---- macros ---- */

static bool names_any(const jinja_run *r, strview name, int *id) {
    for (size_t i = 0; i < r->code->n_names; i++)
        if (strview_equal(r->code->names[i], name)) {
            *id = (int)i;
            return true;
        }
    return false;
}

/* Keywords that are no parameters: `caller` is known to every macro, others to one that names `kwargs`. */
static nib_status bind_keywords(jinja_run *r, jinja_scope *s, const jinja_node *n, const jinja_args *args,
                                bool *given) {
    jinja_value rest;
    int id;
    NIB_TRY(jinja_new_dict(r, &rest));
    for (size_t i = 0; i < args->n_keywords; i++) {
        size_t k = 0;
        while (k < n->n_keys && !strview_equal(n->keys[k].name, args->names[i]))
            k++;
        if (k < n->n_keys && given[k])
            return jinja_fail(r, "macro '%.*s' got two values for '%.*s'", (int)n->name.n, n->name.p,
                              (int)n->keys[k].name.n, n->keys[k].name.p);
        if (k < n->n_keys) {
            given[k] = true;
            NIB_TRY(jinja_set(r, s, n->keys[k].id, args->keywords[i]));
        } else if (strview_is(args->names[i], "caller")) {
            if (names_any(r, args->names[i], &id))
                NIB_TRY(jinja_set(r, s, id, args->keywords[i]));
        } else {
            jinja_value key;
            NIB_TRY(jinja_new_text(r, args->names[i].p, args->names[i].n, false, &key));
            NIB_TRY(jinja_put(r, rest, key, args->keywords[i]));
        }
    }
    if (names_any(r, (strview){"kwargs", 6}, &id))
        return jinja_set(r, s, id, rest);
    if (rest.dict->n)
        return jinja_fail(r, "macro '%.*s' takes no keyword argument '%.*s'", (int)n->name.n, n->name.p,
                          (int)rest.dict->keys[0].text->n, rest.dict->keys[0].text->p);
    return NIB_OK;
}

static nib_status bind_more(jinja_run *r, jinja_scope *s, const jinja_node *n, const jinja_args *args) {
    int id;
    if (!names_any(r, (strview){"varargs", 7}, &id)) {
        if (args->n > n->n_keys)
            return jinja_fail(r, "macro '%.*s' takes not more than %zu argument(s)", (int)n->name.n,
                              n->name.p, n->n_keys);
        return NIB_OK;
    }
    jinja_value rest;
    NIB_TRY(jinja_new_list(r, JINJA_TUPLE, 0, &rest));
    for (size_t i = n->n_keys; i < args->n; i++)
        NIB_TRY(jinja_push(r, rest, args->list[i]));
    return jinja_set(r, s, id, rest);
}

static nib_status bind_macro(jinja_run *r, jinja_scope *s, const jinja_node *n, const jinja_args *args) {
    bool *given;
    NIB_TRY(jinja_alloc(r, n->n_keys, sizeof *given, &given));
    NIB_TRY(bind_more(r, s, n, args));
    for (size_t k = 0; k < n->n_keys && k < args->n; k++) {
        given[k] = true;
        NIB_TRY(jinja_set(r, s, n->keys[k].id, args->list[k]));
    }
    NIB_TRY(bind_keywords(r, s, n, args, given));
    for (size_t k = 0; k < n->n_keys; k++) {
        jinja_value v;
        if (given[k])
            continue;
        if (n->keys[k].value)
            NIB_TRY(jinja_eval(r, s, n->keys[k].value, &v)); /* sees the parameters before it */
        else
            NIB_TRY(jinja_missing_words(r, "a parameter of a macro was not provided", &v));
        NIB_TRY(jinja_set(r, s, n->keys[k].id, v));
    }
    return NIB_OK;
}

static nib_status call_macro(jinja_run *r, const jinja_macro *m, const jinja_args *args, jinja_value *out) {
    jinja_scope *scope;
    jinja_builder body = {0};
    NIB_TRY(jinja_alloc(r, 1, sizeof *scope, &scope));
    scope->parent = m->scope;
    NIB_TRY(bind_macro(r, scope, m->node, args));
    NIB_TRY(jinja_exec(r, scope, m->node, &body));
    return jinja_built(r, &body, out);
}

nib_status jinja_call(jinja_run *r, jinja_value callee, const jinja_args *args, jinja_value *out) {
    if (callee.kind == JINJA_FUNCTION)
        return jinja_run_builtin(r, callee.function->builtin, callee.function->self, args, out);
    if (callee.kind == JINJA_MACRO)
        return call_macro(r, callee.macro, args, out);
    NIB_TRY(jinja_defined(r, callee));
    return jinja_fail(r, "'%s' object is not callable", jinja_type(callee));
}

/* ---- functions ---- */

nib_status jinja_want_text(jinja_run *r, const jinja_value *v, const char *what, const jinja_text **out) {
    *out = NULL;
    NIB_TRY(jinja_defined(r, *v));
    if (v->kind != JINJA_TEXT)
        return jinja_fail(r, "%s must be str, not %s", what, jinja_type(*v));
    *out = v->text;
    return NIB_OK;
}

nib_status jinja_want_int(jinja_run *r, const jinja_value *v, const char *what, int64_t *out) {
    *out = 0;
    NIB_TRY(jinja_defined(r, *v));
    if (!jinja_is_integer(*v))
        return jinja_fail(r, "%s must be an integer, not %s", what, jinja_type(*v));
    *out = jinja_integer(*v);
    return NIB_OK;
}

static nib_status call_range(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    (void)self;
    int64_t first, from = 0, to, step = 1;
    NIB_TRY(jinja_want_int(r, b->v[0], "range()'s argument", &first));
    to = first;
    if (b->v[1]) {
        from = first;
        NIB_TRY(jinja_want_int(r, b->v[1], "range()'s argument", &to));
    }
    if (b->v[2])
        NIB_TRY(jinja_want_int(r, b->v[2], "range()'s argument", &step));
    if (step == 0)
        return jinja_fail(r, "range() arg 3 must not be zero");
    NIB_TRY(jinja_new_list(r, JINJA_LIST, 0, out));
    for (int64_t i = from; step > 0 ? i < to : i > to;) {
        if (out->list->n >= 100000)
            return jinja_fail(r, "Range too big. The sandbox blocks ranges larger than MAX_RANGE (100000).");
        NIB_TRY(jinja_push(r, *out, jinja_int(i)));
        if (__builtin_add_overflow(i, step, &i))
            break;
    }
    return NIB_OK;
}

static nib_status call_raise(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    (void)self;
    (void)out;
    const jinja_text *words;
    NIB_TRY(jinja_to_text(r, *b->v[0], &words));
    return jinja_fail(r, "%.*s", (int)(words->n < 500 ? words->n : 500), words->p);
}

static nib_status call_strftime(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    (void)self;
    const jinja_text *format;
    NIB_TRY(jinja_want_text(r, b->v[0], "strftime_now()'s argument", &format));
    char pattern[128], text[512];
    struct tm parts;
    const time_t now = (time_t)r->now;
    if (format->n >= sizeof pattern || memchr(format->p, 0, format->n) || !localtime_r(&now, &parts))
        return jinja_fail(r, "strftime_now() of a format that is too long");
    memcpy(pattern, format->p, format->n);
    pattern[format->n] = '\0';
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    const size_t n = strftime(text, sizeof text, pattern, &parts);
#pragma GCC diagnostic pop
    return jinja_new_text(r, text, n, false, out);
}

/* dict(...) and namespace(...): what is given as a dict, then as keywords. */
static nib_status fill(jinja_run *r, const jinja_args *args, jinja_value to) {
    if (args->n > 1 || (args->n == 1 && args->list[0].kind != JINJA_DICT))
        return jinja_fail(r, "dict() and namespace() take one dict, then keywords");
    for (size_t i = 0; args->n && i < args->list[0].dict->n; i++)
        NIB_TRY(jinja_put(r, to, args->list[0].dict->keys[i], args->list[0].dict->values[i]));
    for (size_t i = 0; i < args->n_keywords; i++) {
        jinja_value key;
        NIB_TRY(jinja_new_text(r, args->names[i].p, args->names[i].n, false, &key));
        NIB_TRY(jinja_put(r, to, key, args->keywords[i]));
    }
    return NIB_OK;
}

static nib_status call_dict(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    (void)self;
    NIB_TRY(jinja_new_dict(r, out));
    return fill(r, b->all, *out);
}

static nib_status call_namespace(jinja_run *r, jinja_value self, const jinja_bound *b, jinja_value *out) {
    NIB_TRY(call_dict(r, self, b, out));
    for (size_t i = 0; i < out->dict->n; i++) {
        const jinja_value key = out->dict->keys[i];
        if (key.kind != JINJA_TEXT || (key.text->n && key.text->p[0] == '_'))
            return jinja_fail(r, "a namespace takes no name that begins with an underscore");
    }
    out->kind = JINJA_NAMESPACE;
    return NIB_OK;
}

const jinja_builtin jinja_functions[] = {
    {"range", call_range, "start stop step", 1},  {"raise_exception", call_raise, "message", 1},
    {"strftime_now", call_strftime, "format", 1}, {"dict", call_dict, NULL, 0},
    {"namespace", call_namespace, NULL, 0},       {NULL, NULL, NULL, 0},
};
