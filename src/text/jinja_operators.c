/* SPDX-License-Identifier: Apache-2.0
 *
 * Arithmetic, slices, attributes and items, as Python and jinja2's sandbox have them.
 */
#include <math.h>

#include "text/jinja_builtin.h"

/* ---- arithmetic ---- */

static nib_status bad_operands(jinja_run *r, strview op, jinja_value a, jinja_value b) {
    NIB_TRY(jinja_defined(r, a));
    NIB_TRY(jinja_defined(r, b));
    if (op.p[0] == '+' && a.kind == JINJA_TEXT)
        return jinja_fail(r, "can only concatenate str (not \"%s\") to str", jinja_type(b));
    return jinja_fail(r, "unsupported operand type(s) for %.*s: '%s' and '%s'", (int)op.n, op.p,
                      jinja_type(a), jinja_type(b));
}

static nib_status too_large(jinja_run *r) {
    return jinja_fail(r, "an integer of the chat template is too large");
}

static nib_status power(jinja_run *r, jinja_value a, jinja_value b, jinja_value *out) {
    if (a.kind == JINJA_FLOAT || b.kind == JINJA_FLOAT || jinja_integer(b) < 0) {
        *out = jinja_float(pow(jinja_real(a), jinja_real(b)));
        return NIB_OK;
    }
    int64_t value = 1;
    for (int64_t i = 0; i < jinja_integer(b); i++) {
        NIB_TRY(jinja_step(r, 1));
        if (__builtin_mul_overflow(value, jinja_integer(a), &value))
            return too_large(r);
    }
    *out = jinja_int(value);
    return NIB_OK;
}

static nib_status divide_integers(jinja_run *r, strview op, int64_t x, int64_t y, jinja_value *out) {
    if (y == 0)
        return jinja_fail(r, op.p[0] == '%' ? "integer modulo by zero"
                             : op.n == 2    ? "integer division or modulo by zero"
                                            : "division by zero");
    if (op.n == 1 && op.p[0] == '/') {
        *out = jinja_float((double)x / (double)y);
        return NIB_OK;
    }
    if (y == -1) { /* no overflow of INT64_MIN */
        if (x == INT64_MIN && op.p[0] == '/')
            return too_large(r);
        *out = jinja_int(op.p[0] == '/' ? -x : 0);
        return NIB_OK;
    }
    int64_t quotient = x / y, rest = x % y;
    if (rest != 0 && (rest < 0) != (y < 0)) { /* towards minus infinity */
        quotient--;
        rest += y;
    }
    *out = jinja_int(op.p[0] == '/' ? quotient : rest);
    return NIB_OK;
}

static nib_status integers(jinja_run *r, strview op, int64_t x, int64_t y, jinja_value *out) {
    int64_t value = 0;
    bool overflow = false;
    switch (op.p[0]) {
    case '+':
        overflow = __builtin_add_overflow(x, y, &value);
        break;
    case '-':
        overflow = __builtin_sub_overflow(x, y, &value);
        break;
    case '*':
        overflow = __builtin_mul_overflow(x, y, &value);
        break;
    default:
        return divide_integers(r, op, x, y, out);
    }
    *out = jinja_int(value);
    return overflow ? too_large(r) : NIB_OK;
}

static nib_status reals(jinja_run *r, strview op, double x, double y, jinja_value *out) {
    const bool divides = op.p[0] == '/' || op.p[0] == '%';
    if (divides && y == 0)
        return jinja_fail(r, "float division by zero");
    double rest = divides ? fmod(x, y) : 0;
    if (rest != 0 && (rest < 0) != (y < 0))
        rest += y;
    *out = jinja_float(op.p[0] == '+'   ? x + y
                       : op.p[0] == '-' ? x - y
                       : op.p[0] == '*' ? x * y
                       : op.p[0] == '%' ? rest
                       : op.n == 2      ? floor(x / y)
                                        : x / y);
    return NIB_OK;
}

static nib_status repeat(jinja_run *r, jinja_value v, int64_t times, jinja_value *out) {
    if (v.kind == JINJA_TEXT) {
        jinja_builder b = {0};
        for (int64_t i = 0; i < times && v.text->n; i++) {
            NIB_TRY(jinja_step(r, 1));
            NIB_TRY(jinja_build_text(r, &b, v.text));
        }
        return jinja_built(r, &b, out);
    }
    NIB_TRY(jinja_new_list(r, v.kind, 0, out));
    for (int64_t i = 0; i < times && v.list->n; i++)
        for (size_t k = 0; k < v.list->n; k++) {
            NIB_TRY(jinja_step(r, 1));
            NIB_TRY(jinja_push(r, *out, v.list->items[k]));
        }
    return NIB_OK;
}

static nib_status add_lists(jinja_run *r, jinja_value a, jinja_value b, jinja_value *out) {
    NIB_TRY(jinja_step(r, a.list->n + b.list->n));
    NIB_TRY(jinja_new_list(r, a.kind, a.list->n + b.list->n, out));
    for (size_t i = 0; i < a.list->n; i++)
        NIB_TRY(jinja_push(r, *out, a.list->items[i]));
    for (size_t i = 0; i < b.list->n; i++)
        NIB_TRY(jinja_push(r, *out, b.list->items[i]));
    return NIB_OK;
}

static bool repeats(jinja_value v) {
    return v.kind == JINJA_TEXT || v.kind == JINJA_LIST || v.kind == JINJA_TUPLE;
}

static nib_status escape_html(jinja_run *r, jinja_builder *b, const jinja_text *t) {
    static const char *const escapes[] = {"&&amp;", "<&lt;", ">&gt;", "'&#39;", "\"&#34;"};
    for (size_t i = 0; i < t->n; i++) {
        const char *p = t->p + i;
        size_t n = 1;
        for (size_t k = 0; k < 5; k++)
            if (escapes[k][0] == t->p[i]) {
                p = escapes[k] + 1;
                n = strlen(p);
            }
        NIB_TRY(jinja_build(r, b, p, n, t->marks ? t->marks[i] : t->user));
    }
    return NIB_OK;
}

/* Only what `safe` gave escapes: there is no autoescape. */
static nib_status add_texts(jinja_run *r, const jinja_text *a, const jinja_text *b, jinja_value *out) {
    jinja_builder both = {0};
    if (!a->safe && !b->safe)
        NIB_TRY(jinja_resume(r, &both, a, b->n));
    else
        NIB_TRY(b->safe && !a->safe ? escape_html(r, &both, a) : jinja_build_text(r, &both, a));
    NIB_TRY(a->safe && !b->safe ? escape_html(r, &both, b) : jinja_build_text(r, &both, b));
    NIB_TRY(jinja_built(r, &both, out));
    ((jinja_text *)out->text)->safe = a->safe || b->safe; /* made just now */
    return NIB_OK;
}

nib_status jinja_math(jinja_run *r, strview op, jinja_value a, jinja_value b, jinja_value *out) {
    if (jinja_is_number(a) && jinja_is_number(b)) {
        if (op.n == 2 && op.p[0] == '*')
            return power(r, a, b, out);
        if (a.kind == JINJA_FLOAT || b.kind == JINJA_FLOAT)
            return reals(r, op, jinja_real(a), jinja_real(b), out);
        return integers(r, op, jinja_integer(a), jinja_integer(b), out);
    }
    if (strview_is(op, "%") && a.kind == JINJA_TEXT)
        return jinja_percent_format(r, a.text, b, out);
    if (strview_is(op, "*") && repeats(a) && jinja_is_integer(b))
        return repeat(r, a, jinja_integer(b), out);
    if (strview_is(op, "*") && repeats(b) && jinja_is_integer(a))
        return repeat(r, b, jinja_integer(a), out);
    if (!strview_is(op, "+") || a.kind != b.kind || !repeats(a))
        return bad_operands(r, op, a, b);
    if (a.kind != JINJA_TEXT)
        return add_lists(r, a, b, out);
    return add_texts(r, a.text, b.text, out);
}

/* ---- slices ---- */

/* A bound of a slice over N things, as Python's slice.indices has it. */
static int64_t clamp(const jinja_value *bound, int64_t n, int64_t step, int64_t missing) {
    if (!bound)
        return missing;
    int64_t i = jinja_integer(*bound);
    if (i < 0)
        i = i < -n ? (step < 0 ? -1 : 0) : i + n;
    else if (i >= n)
        i = step < 0 ? n - 1 : n;
    return i;
}

static nib_status slice_text(jinja_run *r, const jinja_text *t, int64_t from, int64_t to, int64_t step,
                             jinja_value *out) {
    const strview s = jinja_view(t);
    if (step == 1) {
        const size_t begin = jinja_offset(s, (size_t)from);
        const strview rest = {s.p + begin, s.n - begin};
        return jinja_cut(r, t, begin, from < to ? begin + jinja_offset(rest, (size_t)(to - from)) : begin,
                         out);
    }
    const jinja_list *characters;
    NIB_TRY(jinja_items(r, (jinja_value){.kind = JINJA_TEXT, .text = t}, &characters));
    jinja_builder b = {0};
    for (int64_t i = from; step > 0 ? i < to : i > to; i += step)
        NIB_TRY(jinja_build_text(r, &b, characters->items[i].text));
    return jinja_built(r, &b, out);
}

nib_status jinja_slice(jinja_run *r, jinja_value v, const jinja_value *bounds[3], jinja_value *out) {
    NIB_TRY(jinja_defined(r, v));
    if (!repeats(v))
        return jinja_fail(r, "'%s' object is not subscriptable", jinja_type(v));
    for (size_t i = 0; i < 3; i++)
        if (bounds[i] && !jinja_is_integer(*bounds[i]))
            return jinja_fail(r, "slice indices must be integers or None");
    int64_t n, step = bounds[2] ? jinja_integer(*bounds[2]) : 1;
    NIB_TRY(jinja_length(r, v, &n));
    NIB_TRY(jinja_step(r, (uint64_t)n / 16 + 1));
    if (step == 0)
        return jinja_fail(r, "slice step cannot be zero");
    if (step > n + 1 || step < -n - 1)
        step = step > 0 ? n + 1 : -n - 1; /* no overflow */
    const int64_t from = clamp(bounds[0], n, step, step < 0 ? n - 1 : 0);
    const int64_t to = clamp(bounds[1], n, step, step < 0 ? -1 : n);
    if (v.kind == JINJA_TEXT)
        return slice_text(r, v.text, from, to, step, out);
    NIB_TRY(jinja_new_list(r, v.kind, 0, out));
    for (int64_t i = from; step > 0 ? i < to : i > to; i += step)
        NIB_TRY(jinja_push(r, *out, v.list->items[i]));
    return NIB_OK;
}

/* ---- attributes and items ---- */

static nib_status loop_attribute(jinja_run *r, const jinja_loop *l, strview name, jinja_value *out) {
    const size_t n = l->items->n, i = l->index;
    const struct {
        const char *name;
        jinja_value value;
    } numbers[] = {
        {"index", jinja_int((int64_t)i + 1)},
        {"index0", jinja_int((int64_t)i)},
        {"revindex", jinja_int((int64_t)(n - i))},
        {"revindex0", jinja_int((int64_t)(n - i) - 1)},
        {"first", jinja_bool(i == 0)},
        {"last", jinja_bool(i + 1 == n)},
        {"length", jinja_int((int64_t)n)},
        {"depth", jinja_int(l->depth)},
        {"depth0", jinja_int(l->depth - 1)},
    };
    for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++)
        if (strview_is(name, numbers[k].name)) {
            *out = numbers[k].value;
            return NIB_OK;
        }
    const bool previous = strview_is(name, "previtem"), next = strview_is(name, "nextitem");
    if ((previous && i > 0) || (next && i + 1 < n))
        *out = l->items->items[previous ? i - 1 : i + 1];
    else if (previous || next)
        return jinja_missing_words(r, previous ? "there is no previous item" : "there is no next item", out);
    else
        return jinja_missing_name(r, "loop object", name, out);
    return NIB_OK;
}

nib_status jinja_attribute(jinja_run *r, jinja_value v, strview name, jinja_value *out) {
    NIB_TRY(jinja_defined(r, v));
    bool found;
    const jinja_value *value = NULL;
    NIB_TRY(jinja_method(r, v, name, &found, out));
    if (found)
        return NIB_OK;
    if (v.kind == JINJA_LOOP)
        return loop_attribute(r, v.loop, name, out);
    if (v.kind == JINJA_MACRO && strview_is(name, "name"))
        return jinja_new_text(r, v.macro->node->name.p, v.macro->node->name.n, false, out);
    if (v.kind == JINJA_DICT || v.kind == JINJA_NAMESPACE)
        value = jinja_get_name(r, v.dict, name);
    if (!value)
        return jinja_missing_name(r, jinja_type_in_words(v), name, out);
    *out = *value;
    return NIB_OK;
}

static nib_status indexed(jinja_run *r, jinja_value v, int64_t i, jinja_value *out) {
    int64_t n;
    NIB_TRY(jinja_length(r, v, &n));
    if (i < 0)
        i += n;
    if (i < 0 || i >= n)
        return jinja_missing_words(r, "an index of the chat template is out of range", out);
    if (v.kind != JINJA_TEXT) {
        *out = v.list->items[i];
        return NIB_OK;
    }
    const strview s = jinja_view(v.text);
    NIB_TRY(jinja_step(r, s.n / 64));
    const size_t from = jinja_offset(s, (size_t)i), to = jinja_offset(s, (size_t)i + 1);
    return jinja_cut(r, v.text, from, to, out);
}

nib_status jinja_item(jinja_run *r, jinja_value v, jinja_value key, jinja_value *out) {
    NIB_TRY(jinja_defined(r, v));
    if (v.kind == JINJA_DICT) {
        const jinja_value *value = jinja_get(r, v.dict, key);
        if (value) {
            *out = *value;
            return NIB_OK;
        }
    }
    if (repeats(v) && jinja_is_integer(key))
        return indexed(r, v, jinja_integer(key), out);
    if (key.kind == JINJA_TEXT)
        return jinja_attribute(r, v, jinja_view(key.text), out);
    return jinja_missing_words(r, "an item of the chat template is undefined", out);
}
