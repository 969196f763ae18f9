/* SPDX-License-Identifier: Apache-2.0
 *
 * Expressions of a template to values. Names are looked up from the innermost scope outwards, then among
 * what the template has set at its top, what the caller gave, and the functions there are.
 */
#include "text/jinja_builtin.h"

/* Nested expressions and calls: bounds the stack. */
#define MAX_EVAL_DEPTH 400

static bool look_up(const jinja_run *r, const jinja_scope *s, int id, jinja_value *out) {
    for (; s; s = s->parent)
        for (size_t i = s->n; i-- > 0;)
            if (s->ids[i] == id) {
                *out = s->values[i];
                return true;
            }
    if (r->has_top[id]) {
        *out = r->tops[id];
        return true;
    }
    *out = r->globals[id];
    return out->kind != JINJA_UNDEFINED;
}

static nib_status eval_name(jinja_run *r, jinja_scope *s, const jinja_node *n, jinja_value *out) {
    if (look_up(r, s, n->id, out))
        return NIB_OK;
    for (const jinja_builtin *f = jinja_functions; f->name; f++)
        if (strview_is(n->name, f->name)) {
            jinja_function *function;
            NIB_TRY(jinja_alloc(r, 1, sizeof *function, &function));
            *function = (jinja_function){f, jinja_none()};
            *out = (jinja_value){.kind = JINJA_FUNCTION, .function = function};
            return NIB_OK;
        }
    return jinja_missing_name(r, NULL, n->name, out);
}

static nib_status eval_list(jinja_run *r, jinja_scope *s, const jinja_node *n, jinja_value *out) {
    jinja_value list;
    NIB_TRY(jinja_new_list(r, n->kind == JINJA_N_TUPLE ? JINJA_TUPLE : JINJA_LIST, n->n_items, &list));
    for (size_t i = 0; i < n->n_items; i++) {
        jinja_value item;
        NIB_TRY(jinja_eval(r, s, n->items[i], &item));
        NIB_TRY(jinja_push(r, list, item));
    }
    *out = list;
    return NIB_OK;
}

static nib_status eval_dict(jinja_run *r, jinja_scope *s, const jinja_node *n, jinja_value *out) {
    jinja_value dict;
    NIB_TRY(jinja_new_dict(r, &dict));
    for (size_t i = 0; i + 1 < n->n_items; i += 2) {
        jinja_value key, value;
        NIB_TRY(jinja_eval(r, s, n->items[i], &key));
        NIB_TRY(jinja_eval(r, s, n->items[i + 1], &value));
        if (key.kind == JINJA_LIST || key.kind == JINJA_DICT)
            return jinja_fail(r, "unhashable type: '%s'", jinja_type(key));
        NIB_TRY(jinja_put(r, dict, key, value));
    }
    *out = dict;
    return NIB_OK;
}

static nib_status eval_concat(jinja_run *r, jinja_scope *s, const jinja_node *n, jinja_value *out) {
    jinja_builder b = {0};
    jinja_value items;
    size_t bytes = 0;
    NIB_TRY(jinja_new_list(r, JINJA_LIST, n->n_items, &items));
    for (size_t i = 0; i < n->n_items; i++) {
        jinja_value item;
        NIB_TRY(jinja_eval(r, s, n->items[i], &item));
        NIB_TRY(jinja_push(r, items, item));
        bytes += item.kind == JINJA_TEXT ? item.text->n : 0;
    }
    size_t first = 0;
    if (n->n_items && items.list->items[0].kind == JINJA_TEXT) {
        const jinja_text *t = items.list->items[first++].text;
        NIB_TRY(jinja_resume(r, &b, t, bytes - t->n));
    }
    for (size_t i = first; i < n->n_items; i++)
        NIB_TRY(jinja_print(r, &b, items.list->items[i]));
    return jinja_built(r, &b, out);
}

static nib_status compare(jinja_run *r, strview op, jinja_value a, jinja_value b, bool *out) {
    if (op.p[0] == 'i' || op.p[0] == 'n') { /* in, not in */
        NIB_TRY(jinja_contains(r, b, a, out));
        *out = *out == (op.p[0] == 'i');
        return NIB_OK;
    }
    if (op.n == 2 && (op.p[0] == '=' || op.p[0] == '!')) {
        NIB_TRY(jinja_equal(r, a, b, out));
        *out = *out == (op.p[0] == '=');
        return NIB_OK;
    }
    int order;
    const bool less = op.p[0] == '<', or_equal = op.n == 2;
    NIB_TRY(jinja_compare(r, a, b, less ? or_equal ? "<=" : "<" : or_equal ? ">=" : ">", &order));
    *out = (less ? order < 0 : order > 0) || (or_equal && order == 0);
    return NIB_OK;
}

/* a < b < c: every middle value is computed once. */
static nib_status eval_compare(jinja_run *r, jinja_scope *s, const jinja_node *n, jinja_value *out) {
    jinja_value left, right;
    bool holds = true;
    NIB_TRY(jinja_eval(r, s, n->a, &left));
    for (size_t i = 0; i < n->n_items && holds; i++, left = right) {
        NIB_TRY(jinja_eval(r, s, n->items[i]->a, &right));
        NIB_TRY(compare(r, n->items[i]->name, left, right, &holds));
    }
    *out = jinja_bool(holds);
    return NIB_OK;
}

static nib_status eval_unary(jinja_run *r, jinja_scope *s, const jinja_node *n, jinja_value *out) {
    jinja_value v;
    NIB_TRY(jinja_eval(r, s, n->a, &v));
    if (n->kind == JINJA_N_NOT) {
        *out = jinja_bool(!jinja_truth(v));
        return NIB_OK;
    }
    NIB_TRY(jinja_defined(r, v));
    const bool minus = n->kind == JINJA_N_NEGATE;
    if (!jinja_is_number(v) || (minus && v.kind == JINJA_INT && v.i == INT64_MIN))
        return jinja_fail(r, "bad operand type for unary %c: '%s'", minus ? '-' : '+', jinja_type(v));
    if (v.kind == JINJA_FLOAT)
        *out = jinja_float(minus ? -v.f : v.f);
    else
        *out = jinja_int(minus ? -jinja_integer(v) : jinja_integer(v));
    return NIB_OK;
}

static nib_status eval_slice(jinja_run *r, jinja_scope *s, const jinja_node *n, jinja_value *out) {
    const jinja_node *const parts[3] = {n->b, n->c, n->d};
    jinja_value v, values[3];
    const jinja_value *bounds[3] = {NULL};
    NIB_TRY(jinja_eval(r, s, n->a, &v));
    for (size_t i = 0; i < 3; i++) {
        if (!parts[i])
            continue;
        NIB_TRY(jinja_eval(r, s, parts[i], &values[i]));
        bounds[i] = values[i].kind == JINJA_NONE ? NULL : &values[i];
    }
    return jinja_slice(r, v, bounds, out);
}

static nib_status eval_choice(jinja_run *r, jinja_scope *s, const jinja_node *n, jinja_value *out) {
    jinja_value condition;
    NIB_TRY(jinja_eval(r, s, n->b, &condition));
    if (jinja_truth(condition))
        return jinja_eval(r, s, n->a, out);
    if (n->c)
        return jinja_eval(r, s, n->c, out);
    return jinja_missing_words(
        r, "the inline if-expression evaluated to false and no else section was defined.", out);
}

static nib_status eval_call(jinja_run *r, jinja_scope *s, const jinja_node *n, jinja_value *out) {
    jinja_value v;
    jinja_args args;
    NIB_TRY(jinja_eval(r, s, n->a, &v));
    NIB_TRY(jinja_arguments(r, s, n, &args));
    if (n->kind == JINJA_N_FILTER)
        return jinja_filter(r, n->id, n->name, v, &args, out);
    if (n->kind == JINJA_N_CALL)
        return jinja_call(r, v, &args, out);
    bool holds;
    NIB_TRY(jinja_test(r, n->id, n->name, v, &args, &holds));
    *out = jinja_bool(holds);
    return NIB_OK;
}

static nib_status eval_pair(jinja_run *r, jinja_scope *s, const jinja_node *n, jinja_value *out) {
    jinja_value a, b;
    NIB_TRY(jinja_eval(r, s, n->a, &a));
    if (n->kind == JINJA_N_AND || n->kind == JINJA_N_OR) {
        if (jinja_truth(a) == (n->kind == JINJA_N_AND))
            return jinja_eval(r, s, n->b, out);
        *out = a;
        return NIB_OK;
    }
    NIB_TRY(jinja_eval(r, s, n->b, &b));
    return n->kind == JINJA_N_ITEM ? jinja_item(r, a, b, out) : jinja_math(r, n->name, a, b, out);
}

static nib_status eval(jinja_run *r, jinja_scope *s, const jinja_node *n, jinja_value *out) {
    jinja_value v;
    switch (n->kind) {
    case JINJA_N_CONST:
        *out = n->value;
        return NIB_OK;
    case JINJA_N_NAME:
        return eval_name(r, s, n, out);
    case JINJA_N_LIST:
    case JINJA_N_TUPLE:
        return eval_list(r, s, n, out);
    case JINJA_N_DICT:
        return eval_dict(r, s, n, out);
    case JINJA_N_CONCAT:
        return eval_concat(r, s, n, out);
    case JINJA_N_ATTR:
        NIB_TRY(jinja_eval(r, s, n->a, &v));
        return jinja_attribute(r, v, n->name, out);
    case JINJA_N_SLICE:
        return eval_slice(r, s, n, out);
    case JINJA_N_CALL:
    case JINJA_N_FILTER:
    case JINJA_N_TEST:
        return eval_call(r, s, n, out);
    case JINJA_N_NOT:
    case JINJA_N_NEGATE:
    case JINJA_N_PLUS:
        return eval_unary(r, s, n, out);
    case JINJA_N_ITEM:
    case JINJA_N_AND:
    case JINJA_N_OR:
    case JINJA_N_MATH:
        return eval_pair(r, s, n, out);
    case JINJA_N_COMPARE:
        return eval_compare(r, s, n, out);
    case JINJA_N_CHOICE:
        return eval_choice(r, s, n, out);
    case JINJA_N_CAPTURED:
        *out = s->values[0]; /* jinja_exec.c puts it there */
        return NIB_OK;
    default:
        return jinja_fail(r, "a statement where the chat template needs a value");
    }
}

nib_status jinja_eval(jinja_run *r, jinja_scope *s, const jinja_node *n, jinja_value *out) {
    NIB_TRY(jinja_step(r, 1));
    if (r->depth >= MAX_EVAL_DEPTH)
        return jinja_fail(r, "the chat template nests its calls too deep");
    r->depth++;
    jinja_value v;
    NIB_TRY(eval(r, s, n, &v)); /* a failure ends the run: the depth does not matter then */
    r->depth--;
    *out = v;
    return NIB_OK;
}
