/* SPDX-License-Identifier: Apache-2.0
 *
 * Filters of one value: texts, numbers, JSON, defaults. Those of sequences are in jinja_list_filters.c.
 */
#include <math.h>
#include <stdio.h>

#include "text/jinja_builtin.h"

/* ---- texts ---- */

static nib_status any_case(jinja_run *r, jinja_value in, jinja_case to, jinja_value *out) {
    const jinja_text *t;
    NIB_TRY(jinja_to_text(r, in, &t));
    return jinja_change_case(r, t, to, out);
}

static nib_status f_upper(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    (void)b;
    return any_case(r, in, JINJA_UPPER, out);
}

static nib_status f_lower(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    (void)b;
    return any_case(r, in, JINJA_LOWER, out);
}

static nib_status f_capitalize(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    (void)b;
    return any_case(r, in, JINJA_CAPITALIZE, out);
}

/* Unlike str.title, words begin after white space, -, (, {, [ and < alone. */
static nib_status f_title(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    (void)b;
    const jinja_text *t;
    const jinja_list *characters;
    jinja_builder all = {0};
    bool starts = true;
    NIB_TRY(jinja_to_text(r, in, &t));
    NIB_TRY(jinja_items(r, (jinja_value){.kind = JINJA_TEXT, .text = t}, &characters));
    for (size_t i = 0; i < characters->n; i++) {
        const jinja_text *one = characters->items[i].text;
        jinja_value changed;
        NIB_TRY(jinja_change_case(r, one, starts ? JINJA_UPPER : JINJA_LOWER, &changed));
        NIB_TRY(jinja_build_text(r, &all, changed.text));
        starts = jinja_space_after(jinja_view(one)) > 0 || (one->n == 1 && strchr("-({[<", one->p[0]));
    }
    return jinja_built(r, &all, out);
}

static nib_status f_trim(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    const jinja_text *t;
    NIB_TRY(jinja_to_text(r, in, &t));
    return jinja_strip(r, t, b->v[0], true, true, out);
}

static nib_status f_string(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    (void)b;
    const jinja_text *t;
    NIB_TRY(jinja_to_text(r, in, &t));
    *out = (jinja_value){.kind = JINJA_TEXT, .text = t};
    return NIB_OK;
}

static nib_status f_safe(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    (void)b;
    const jinja_text *t;
    NIB_TRY(jinja_to_text(r, in, &t));
    NIB_TRY(jinja_cut(r, t, 0, t->n, out));
    ((jinja_text *)out->text)->safe = true; /* made just now */
    return NIB_OK;
}

static nib_status f_replace(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    const jinja_text *t, *old, *new_text;
    int64_t most = -1;
    NIB_TRY(jinja_to_text(r, in, &t));
    NIB_TRY(jinja_to_text(r, *b->v[0], &old));
    NIB_TRY(jinja_to_text(r, *b->v[1], &new_text));
    if (b->v[2] && b->v[2]->kind != JINJA_NONE)
        NIB_TRY(jinja_want_int(r, b->v[2], "replace's count", &most));
    return jinja_replace(r, t, old, new_text, most, out);
}

static nib_status f_format(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    const jinja_text *t;
    jinja_value args;
    NIB_TRY(jinja_to_text(r, in, &t));
    NIB_TRY(jinja_new_list(r, JINJA_TUPLE, b->all->n, &args));
    for (size_t i = 0; i < b->all->n; i++)
        NIB_TRY(jinja_push(r, args, b->all->list[i]));
    return jinja_percent_format(r, t, args, out);
}

/* "width first blank": every line but the first is pushed in; empty ones only with `blank`. */
static nib_status f_indent(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    const jinja_text *t;
    jinja_value lines, ended, margin;
    jinja_builder all = {0}, source = {0};
    const bool first = b->v[1] && jinja_truth(*b->v[1]), blank = b->v[2] && jinja_truth(*b->v[2]);
    int64_t width = 4;
    if (b->v[0] && b->v[0]->kind == JINJA_TEXT) {
        margin = *b->v[0];
    } else {
        if (b->v[0])
            NIB_TRY(jinja_want_int(r, b->v[0], "indent's width", &width));
        jinja_builder spaces = {0};
        for (int64_t i = 0; i < width; i++)
            NIB_TRY(jinja_build_words(r, &spaces, " "));
        NIB_TRY(jinja_built(r, &spaces, &margin));
    }
    NIB_TRY(jinja_to_text(r, in, &t));
    NIB_TRY(jinja_build_text(r, &source, t));
    NIB_TRY(jinja_build_words(r, &source, "\n")); /* jinja2's: the last line counts even when empty */
    NIB_TRY(jinja_built(r, &source, &ended));
    NIB_TRY(jinja_lines(r, ended.text, false, &lines));
    for (size_t i = 0; i < lines.list->n; i++) {
        const jinja_text *line = lines.list->items[i].text;
        if (i)
            NIB_TRY(jinja_build_words(r, &all, "\n"));
        if (i ? blank || line->n > 0 : first)
            NIB_TRY(jinja_build_text(r, &all, margin.text));
        NIB_TRY(jinja_build_text(r, &all, line));
    }
    return jinja_built(r, &all, out);
}

/* ---- JSON ---- */

static nib_status f_tojson(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    static const char spaces[] = "                                ";
    jinja_json_style style = {.item = {", ", 2}, .key = {": ", 2}};
    jinja_builder all = {0};
    const jinja_value *indent = b->v[1], *separators = b->v[2];
    style.ensure_ascii = b->v[0] && jinja_truth(*b->v[0]);
    style.sort_keys = b->v[3] && jinja_truth(*b->v[3]);
    if (indent && indent->kind != JINJA_NONE) {
        int64_t width = 0;
        style.pretty = true;
        style.item = (strview){",", 1};
        if (indent->kind == JINJA_TEXT)
            style.indent = jinja_view(indent->text);
        else
            NIB_TRY(jinja_want_int(r, indent, "tojson's indent", &width));
        if (width > (int64_t)sizeof spaces - 1)
            return jinja_fail(r, "tojson's indent is larger than %zu", sizeof spaces - 1);
        if (indent->kind != JINJA_TEXT)
            style.indent = (strview){spaces, width > 0 ? (size_t)width : 0};
    }
    if (separators && separators->kind != JINJA_NONE) {
        const jinja_text *item, *key;
        if (!jinja_is_list(*separators) || separators->list->n != 2)
            return jinja_fail(r, "tojson's separators must be two texts");
        NIB_TRY(jinja_want_text(r, &separators->list->items[0], "tojson's separator", &item));
        NIB_TRY(jinja_want_text(r, &separators->list->items[1], "tojson's separator", &key));
        style.item = jinja_view(item);
        style.key = jinja_view(key);
    }
    NIB_TRY(jinja_json(r, &all, in, &style, 0));
    return jinja_built(r, &all, out);
}

/* Not jinja2's, but a few templates count on a server that has it. */
static nib_status f_from_json(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    (void)b;
    const jinja_text *t;
    json_t *json;
    NIB_TRY(jinja_want_text(r, &in, "from_json's input", &t));
    NIB_TRY(json_read(&json, t->p, t->n, "from_json", r->err));
    const nib_status status = jinja_from_json(r, json, out);
    json_decref(json);
    return status;
}

/* ---- numbers ---- */

/* A whole text as a number: as JSON reads it, white space and a plus sign around it apart. */
static bool read_number(jinja_value v, jinja_value *out) {
    strview s = jinja_view(v.text);
    s.n = jinja_space_before(s);
    const size_t space = jinja_space_after(s);
    s.p += space;
    s.n -= space;
    const bool minus = s.n > 0 && s.p[0] == '-';
    if (s.n > 0 && (minus || s.p[0] == '+')) {
        s.p++;
        s.n--;
    }
    while (s.n > 1 && s.p[0] == '0' && s.p[1] >= '0' && s.p[1] <= '9') {
        s.p++;
        s.n--;
    }
    json_t *json;
    if (s.n == 0 || s.p[0] < '0' || s.p[0] > '9' || json_read(&json, s.p, s.n, "number", NULL) != NIB_OK)
        return false;
    const json_int_t i = json_integer_value(json);
    const double f = json_number_value(json);
    *out = json_is_integer(json) ? jinja_int(minus ? -i : i) : jinja_float(minus ? -f : f);
    const bool number = json_is_number(json);
    json_decref(json);
    return number;
}

/* A real cut towards zero. */
static bool to_integer(double f, jinja_value *out) {
    if (!(f > -9.2e18 && f < 9.2e18))
        return false;
    *out = jinja_int((int64_t)f);
    return true;
}

static nib_status f_int(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    (void)r;
    *out = b->v[0] ? *b->v[0] : jinja_int(0);
    if (b->v[1] && !(b->v[1]->kind == JINJA_INT && b->v[1]->i == 10))
        return jinja_fail(r, "int with another base than 10 is not supported");
    if (in.kind == JINJA_TEXT) {
        jinja_value v;
        if (read_number(in, &v) && (v.kind == JINJA_INT || to_integer(v.f, &v)))
            *out = v;
    } else if (jinja_is_integer(in)) {
        *out = jinja_int(jinja_integer(in));
    } else if (in.kind == JINJA_FLOAT) {
        (void)to_integer(in.f, out);
    } else {
        NIB_TRY(jinja_defined(r, in));
    }
    return NIB_OK;
}

static nib_status f_float(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    *out = b->v[0] ? *b->v[0] : jinja_float(0);
    jinja_value v = in;
    if (in.kind == JINJA_TEXT ? read_number(in, &v) : jinja_is_number(in))
        *out = jinja_float(jinja_real(v));
    return jinja_defined(r, in);
}

static nib_status f_abs(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    (void)b;
    NIB_TRY(jinja_defined(r, in));
    if (!jinja_is_number(in) || (in.kind == JINJA_INT && in.i == INT64_MIN))
        return jinja_fail(r, "bad operand type for abs(): '%s'", jinja_type(in));
    *out = in.kind == JINJA_FLOAT ? jinja_float(fabs(in.f))
                                  : jinja_int(jinja_integer(in) < 0 ? -jinja_integer(in) : jinja_integer(in));
    return NIB_OK;
}

static nib_status f_round(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    int64_t digits = 0;
    const jinja_text *method = NULL;
    NIB_TRY(jinja_defined(r, in));
    if (b->v[0])
        NIB_TRY(jinja_want_int(r, b->v[0], "round's precision", &digits));
    if (b->v[1])
        NIB_TRY(jinja_want_text(r, b->v[1], "round's method", &method));
    if (!jinja_is_number(in) || digits < 0 || digits > 15)
        return jinja_fail(r, "round needs a number and a precision of 0 to 15");
    *out = in;
    const double scale = pow(10, (double)digits), scaled = jinja_real(in) * scale;
    if (method && strview_is(jinja_view(method), "ceil"))
        *out = jinja_float(ceil(scaled) / scale);
    else if (method && strview_is(jinja_view(method), "floor"))
        *out = jinja_float(floor(scaled) / scale);
    else if (in.kind == JINJA_FLOAT) /* half to even */
        *out = jinja_float(nearbyint(scaled) / scale);
    return NIB_OK;
}

/* ---- others ---- */

static nib_status f_default(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    const bool falsy_too = b->v[1] && jinja_truth(*b->v[1]);
    *out = in;
    if (in.kind != JINJA_UNDEFINED && !(falsy_too && !jinja_truth(in)))
        return NIB_OK;
    if (!b->v[0])
        return jinja_new_text(r, "", 0, false, out);
    *out = *b->v[0];
    return NIB_OK;
}

static nib_status f_length(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    (void)b;
    int64_t n;
    NIB_TRY(jinja_length(r, in, &n));
    *out = jinja_int(n);
    return NIB_OK;
}

static nib_status f_attr(jinja_run *r, jinja_value in, const jinja_bound *b, jinja_value *out) {
    const jinja_text *name;
    NIB_TRY(jinja_defined(r, in));
    NIB_TRY(jinja_want_text(r, b->v[0], "attr's name", &name));
    bool found; /* never an item */
    NIB_TRY(jinja_method(r, in, jinja_view(name), &found, out));
    if (!found && in.kind == JINJA_DICT)
        return jinja_missing_name(r, jinja_type_in_words(in), jinja_view(name), out);
    return found ? NIB_OK : jinja_attribute(r, in, jinja_view(name), out);
}

const jinja_builtin jinja_text_filters[] = {
    {"upper", f_upper, "", 0},
    {"lower", f_lower, "", 0},
    {"capitalize", f_capitalize, "", 0},
    {"title", f_title, "", 0},
    {"trim", f_trim, "chars", 0},
    {"string", f_string, "", 0},
    {"safe", f_safe, "", 0},
    {"replace", f_replace, "old new count", 2},
    {"format", f_format, NULL, 0},
    {"indent", f_indent, "width first blank", 0},
    {"tojson", f_tojson, "ensure_ascii indent separators sort_keys", 0},
    {"from_json", f_from_json, "", 0},
    {"int", f_int, "default base", 0},
    {"float", f_float, "default", 0},
    {"abs", f_abs, "", 0},
    {"round", f_round, "precision method", 0},
    {"default", f_default, "default_value boolean", 0},
    {"d", f_default, "default_value boolean", 0},
    {"length", f_length, "", 0},
    {"count", f_length, "", 0},
    {"attr", f_attr, "name", 1},
    {NULL, NULL, NULL, 0},
};
