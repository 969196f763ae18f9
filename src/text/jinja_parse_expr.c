/* SPDX-License-Identifier: Apache-2.0
 *
 * Expressions of a template, by the grammar of jinja2's parser (jinja2 3.1, parser.py): each function is one
 * level of precedence and bears that parser's name for it.
 */
#include "base/mem.h"
#include "text/jinja_ast.h"
#include "text/jinja_builtin.h"
#include "text/jinja_lexer.h"

static nib_status parse_unary(jinja_parser *p, bool with_filter, jinja_node **out);

static nib_status binary(jinja_parser *p, jinja_node_kind kind, strview op, jinja_node *a, jinja_node *b,
                         jinja_node **out) {
    NIB_TRY(jinja_new_node(p, kind, out));
    (*out)->name = op;
    (*out)->a = a;
    (*out)->b = b;
    return NIB_OK;
}

/* ---- literals ---- */

static nib_status constant(jinja_parser *p, jinja_value v, jinja_node **out) {
    NIB_TRY(jinja_new_node(p, JINJA_N_CONST, out));
    (*out)->value = v;
    return NIB_OK;
}

static nib_status new_text(jinja_parser *p, strview s, jinja_value *out) {
    jinja_text *t = arena_alloc(&p->t->memory, 1, sizeof *t);
    if (!t)
        return nib_fail(p->err, NIB_NO_MEMORY, "no memory for the chat template");
    *t = (jinja_text){s.p, s.n, NULL, false, false, NULL};
    *out = (jinja_value){.kind = JINJA_TEXT, .text = t};
    return NIB_OK;
}

/* 'a' 'b' is 'ab'. */
static nib_status parse_string(jinja_parser *p, jinja_node **out) {
    strview s = p->at->text;
    p->at++;
    if (p->at->kind == JINJA_T_STRING) {
        size_t n = s.n;
        for (const jinja_token *t = p->at; t->kind == JINJA_T_STRING; t++)
            n += t->text.n;
        char *joined = arena_alloc(&p->t->memory, n + 1, 1);
        if (!joined)
            return nib_fail(p->err, NIB_NO_MEMORY, "no memory for the chat template");
        memcpy(joined, s.p, s.n);
        for (n = s.n; p->at->kind == JINJA_T_STRING; p->at++) {
            memcpy(joined + n, p->at->text.p, p->at->text.n);
            n += p->at->text.n;
        }
        s = (strview){joined, n};
    }
    jinja_value v;
    NIB_TRY(new_text(p, s, &v));
    return constant(p, v, out);
}

/* JSON reads it: exact, whatever the locale. */
static nib_status parse_number(jinja_parser *p, jinja_node **out) {
    const jinja_token *t = p->at++;
    char digits[64];
    size_t n = 0;
    for (size_t i = 0; i < t->text.n && n < sizeof digits - 1; i++)
        if (t->text.p[i] != '_')
            digits[n++] = t->text.p[i];
    digits[n] = '\0';
    if (n == sizeof digits - 1)
        return jinja_parse_error(p, "a number is too long");
    if (t->kind == JINJA_T_INTEGER) {
        int64_t value = 0;
        const bool hex = n > 1 && (digits[1] == 'x' || digits[1] == 'X');
        for (size_t i = hex ? 2 : 0; i < n; i++) {
            const char c = digits[i];
            const int digit = c <= '9' ? c - '0' : (c | 32) - 'a' + 10;
            if (__builtin_mul_overflow(value, hex ? 16 : 10, &value) ||
                __builtin_add_overflow(value, digit, &value))
                return jinja_parse_error(p, "an integer is too large");
        }
        return constant(p, jinja_int(value), out);
    }
    json_t *json;
    size_t zeros = 0; /* JSON takes none in front */
    while (digits[zeros] == '0' && digits[zeros + 1] >= '0' && digits[zeros + 1] <= '9')
        zeros++;
    NIB_TRY(json_read(&json, digits + zeros, n - zeros, "chat template", p->err));
    const double value = json_number_value(json);
    json_decref(json);
    return constant(p, jinja_float(value), out);
}

/* A list, or a dict of pairs, up to CLOSE. */
static nib_status parse_items(jinja_parser *p, jinja_node_kind kind, const char *close, jinja_node **out) {
    NIB_TRY(jinja_new_node(p, kind, out));
    p->at++;
    while (!jinja_at_operator(p, close)) {
        if ((*out)->n_items)
            NIB_TRY(jinja_want_operator(p, ","));
        if (jinja_at_operator(p, close))
            break;
        jinja_node *item;
        NIB_TRY(jinja_parse_expression(p, &item));
        NIB_TRY(jinja_add_item(p, *out, item));
        if (kind == JINJA_N_LIST)
            continue;
        NIB_TRY(jinja_want_operator(p, ":"));
        NIB_TRY(jinja_parse_expression(p, &item));
        NIB_TRY(jinja_add_item(p, *out, item));
    }
    return jinja_want_operator(p, close);
}

static nib_status parse_parentheses(jinja_parser *p, jinja_node **out) {
    p->at++;
    if (jinja_skip_operator(p, ")"))
        return jinja_new_node(p, JINJA_N_TUPLE, out);
    NIB_TRY(jinja_parse_tuple(p, true, NULL, out));
    return jinja_want_operator(p, ")");
}

static nib_status parse_name(jinja_parser *p, jinja_node **out) {
    const strview name = p->at->text;
    p->at++;
    if (strview_is(name, "true") || strview_is(name, "True"))
        return constant(p, jinja_bool(true), out);
    if (strview_is(name, "false") || strview_is(name, "False"))
        return constant(p, jinja_bool(false), out);
    if (strview_is(name, "none") || strview_is(name, "None"))
        return constant(p, jinja_none(), out);
    NIB_TRY(jinja_new_node(p, JINJA_N_NAME, out));
    (*out)->name = name;
    return jinja_name_id(p, name, &(*out)->id);
}

static nib_status parse_primary(jinja_parser *p, jinja_node **out) {
    switch (p->at->kind) {
    case JINJA_T_NAME:
        return parse_name(p, out);
    case JINJA_T_STRING:
        return parse_string(p, out);
    case JINJA_T_INTEGER:
    case JINJA_T_FLOAT:
        return parse_number(p, out);
    default:
        break;
    }
    if (jinja_at_operator(p, "("))
        return parse_parentheses(p, out);
    if (jinja_at_operator(p, "["))
        return parse_items(p, JINJA_N_LIST, "]", out);
    if (jinja_at_operator(p, "{"))
        return parse_items(p, JINJA_N_DICT, "}", out);
    return jinja_parse_error(p, "unexpected '%.*s', expected an expression", (int)p->at->text.n,
                             p->at->text.p);
}

/* ---- what follows a value ---- */

static nib_status parse_argument(jinja_parser *p, jinja_node *call) {
    if (jinja_skip_operator(p, "*"))
        return call->star || call->star_star
                   ? jinja_parse_error(p, "invalid syntax for function call expression")
                   : jinja_parse_expression(p, &call->star);
    if (jinja_skip_operator(p, "**"))
        return call->star_star ? jinja_parse_error(p, "invalid syntax for function call expression")
                               : jinja_parse_expression(p, &call->star_star);
    const bool keyword =
        p->at->kind == JINJA_T_NAME && p->at[1].kind == JINJA_T_OPERATOR && strview_is(p->at[1].text, "=");
    if (call->star_star || (!keyword && (call->n_keys || call->star)))
        return jinja_parse_error(p, "invalid syntax for function call expression");
    jinja_key key = {.name = p->at->text};
    if (keyword)
        p->at += 2;
    NIB_TRY(jinja_parse_expression(p, &key.value));
    return keyword ? jinja_add_key(p, call, key) : jinja_add_item(p, call, key.value);
}

/* "( ... )" into CALL. */
static nib_status parse_arguments(jinja_parser *p, jinja_node *call) {
    NIB_TRY(jinja_want_operator(p, "("));
    for (bool first = true; !jinja_at_operator(p, ")"); first = false) {
        if (!first) {
            NIB_TRY(jinja_want_operator(p, ","));
            if (jinja_at_operator(p, ")"))
                break;
        }
        NIB_TRY(parse_argument(p, call));
    }
    return jinja_want_operator(p, ")");
}

static nib_status parse_call(jinja_parser *p, jinja_node *a, jinja_node **out) {
    NIB_TRY(jinja_new_node(p, JINJA_N_CALL, out));
    (*out)->a = a;
    return parse_arguments(p, *out);
}

static bool ends_slice_part(const jinja_parser *p) {
    return jinja_at_operator(p, ":") || jinja_at_operator(p, "]");
}

static nib_status parse_brackets(jinja_parser *p, jinja_node *a, jinja_node **out) {
    jinja_node *parts[3] = {NULL};
    size_t n = 0;
    p->at++;
    for (;; n++) {
        if (!ends_slice_part(p))
            NIB_TRY(jinja_parse_expression(p, &parts[n]));
        if (n == 2 || !jinja_skip_operator(p, ":"))
            break;
    }
    NIB_TRY(jinja_want_operator(p, "]"));
    NIB_TRY(jinja_new_node(p, n ? JINJA_N_SLICE : JINJA_N_ITEM, out));
    (*out)->a = a;
    (*out)->b = parts[0];
    (*out)->c = parts[1];
    (*out)->d = parts[2];
    return n || parts[0] ? NIB_OK : jinja_parse_error(p, "an empty subscript");
}

static nib_status parse_dot(jinja_parser *p, jinja_node *a, jinja_node **out) {
    p->at++;
    if (p->at->kind == JINJA_T_INTEGER) {
        NIB_TRY(jinja_new_node(p, JINJA_N_ITEM, out));
        (*out)->a = a;
        return parse_number(p, &(*out)->b);
    }
    if (p->at->kind != JINJA_T_NAME)
        return jinja_parse_error(p, "expected name or number");
    NIB_TRY(jinja_new_node(p, JINJA_N_ATTR, out));
    (*out)->a = a;
    (*out)->name = p->at++->text;
    return NIB_OK;
}

static nib_status parse_postfix(jinja_parser *p, jinja_node *a, jinja_node **out) {
    for (;;) {
        if (jinja_at_operator(p, "."))
            NIB_TRY(parse_dot(p, a, &a));
        else if (jinja_at_operator(p, "["))
            NIB_TRY(parse_brackets(p, a, &a));
        else if (jinja_at_operator(p, "("))
            NIB_TRY(parse_call(p, a, &a));
        else
            break;
    }
    *out = a;
    return NIB_OK;
}

nib_status jinja_parse_filters(jinja_parser *p, jinja_node *a, bool is_inline, jinja_node **out) {
    while (is_inline || jinja_at_operator(p, "|")) {
        if (!is_inline)
            p->at++;
        is_inline = false;
        if (p->at->kind != JINJA_T_NAME)
            return jinja_parse_error(p, "expected the name of a filter");
        jinja_node *f;
        NIB_TRY(jinja_new_node(p, JINJA_N_FILTER, &f));
        f->a = a;
        f->name = p->at++->text;
        f->id = jinja_filter_id(f->name);
        if (jinja_at_operator(p, "("))
            NIB_TRY(parse_arguments(p, f));
        a = f;
    }
    *out = a;
    return NIB_OK;
}

/* A test's one argument may stand without parentheses. */
static bool at_bare_argument(const jinja_parser *p) {
    switch (p->at->kind) {
    case JINJA_T_NAME:
        return !jinja_at_name(p, "else") && !jinja_at_name(p, "or") && !jinja_at_name(p, "and");
    case JINJA_T_STRING:
    case JINJA_T_INTEGER:
    case JINJA_T_FLOAT:
        return true;
    default:
        return jinja_at_operator(p, "[") || jinja_at_operator(p, "{");
    }
}

static nib_status parse_test(jinja_parser *p, jinja_node *a, jinja_node **out) {
    p->at++;
    const bool negated = jinja_skip_name(p, "not");
    if (p->at->kind != JINJA_T_NAME)
        return jinja_parse_error(p, "expected the name of a test");
    jinja_node *t;
    NIB_TRY(jinja_new_node(p, JINJA_N_TEST, &t));
    t->a = a;
    t->name = p->at++->text;
    t->id = jinja_test_id(t->name);
    if (jinja_at_operator(p, "(")) {
        NIB_TRY(parse_arguments(p, t));
    } else if (at_bare_argument(p)) {
        if (jinja_at_name(p, "is"))
            return jinja_parse_error(p, "You cannot chain multiple tests with is");
        jinja_node *argument;
        NIB_TRY(parse_primary(p, &argument));
        NIB_TRY(parse_postfix(p, argument, &argument));
        NIB_TRY(jinja_add_item(p, t, argument));
    }
    *out = t;
    return negated ? binary(p, JINJA_N_NOT, t->name, t, NULL, out) : NIB_OK;
}

static nib_status parse_filter_expr(jinja_parser *p, jinja_node *a, jinja_node **out) {
    for (;;) {
        if (jinja_at_operator(p, "|"))
            NIB_TRY(jinja_parse_filters(p, a, false, &a));
        else if (jinja_at_name(p, "is"))
            NIB_TRY(parse_test(p, a, &a));
        else if (jinja_at_operator(p, "("))
            NIB_TRY(parse_call(p, a, &a));
        else
            break;
    }
    *out = a;
    return NIB_OK;
}

/* ---- precedence ---- */

static nib_status parse_unary(jinja_parser *p, bool with_filter, jinja_node **out) {
    if (++p->depth > JINJA_MAX_NESTING)
        return jinja_parse_error(p, "nested too deep");
    const strview op = p->at->text;
    const bool minus = jinja_at_operator(p, "-");
    jinja_node *a;
    if (minus || jinja_at_operator(p, "+")) {
        p->at++;
        NIB_TRY(parse_unary(p, false, &a));
        NIB_TRY(binary(p, minus ? JINJA_N_NEGATE : JINJA_N_PLUS, op, a, NULL, &a));
    } else {
        NIB_TRY(parse_primary(p, &a));
    }
    NIB_TRY(parse_postfix(p, a, &a));
    if (with_filter)
        NIB_TRY(parse_filter_expr(p, a, &a));
    *out = a;
    p->depth--;
    return NIB_OK;
}

static nib_status parse_pow(jinja_parser *p, jinja_node **out) {
    NIB_TRY(parse_unary(p, true, out));
    while (jinja_at_operator(p, "**")) {
        const strview op = p->at++->text;
        jinja_node *right;
        NIB_TRY(parse_unary(p, true, &right));
        NIB_TRY(binary(p, JINJA_N_MATH, op, *out, right, out));
    }
    return NIB_OK;
}

static nib_status parse_math2(jinja_parser *p, jinja_node **out) {
    NIB_TRY(parse_pow(p, out));
    while (jinja_at_operator(p, "*") || jinja_at_operator(p, "/") || jinja_at_operator(p, "//") ||
           jinja_at_operator(p, "%")) {
        const strview op = p->at++->text;
        jinja_node *right;
        NIB_TRY(parse_pow(p, &right));
        NIB_TRY(binary(p, JINJA_N_MATH, op, *out, right, out));
    }
    return NIB_OK;
}

static nib_status parse_concat(jinja_parser *p, jinja_node **out) {
    NIB_TRY(parse_math2(p, out));
    if (!jinja_at_operator(p, "~"))
        return NIB_OK;
    jinja_node *all;
    NIB_TRY(jinja_new_node(p, JINJA_N_CONCAT, &all));
    NIB_TRY(jinja_add_item(p, all, *out));
    while (jinja_skip_operator(p, "~")) {
        jinja_node *item;
        NIB_TRY(parse_math2(p, &item));
        NIB_TRY(jinja_add_item(p, all, item));
    }
    *out = all;
    return NIB_OK;
}

static nib_status parse_math1(jinja_parser *p, jinja_node **out) {
    NIB_TRY(parse_concat(p, out));
    while (jinja_at_operator(p, "+") || jinja_at_operator(p, "-")) {
        const strview op = p->at++->text;
        jinja_node *right;
        NIB_TRY(parse_concat(p, &right));
        NIB_TRY(binary(p, JINJA_N_MATH, op, *out, right, out));
    }
    return NIB_OK;
}

/* The comparison at hand, eaten; .n == 0: there is none. */
static strview comparison(jinja_parser *p) {
    static const char *const operators[] = {"==", "!=", "<", "<=", ">", ">="};
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++)
        if (jinja_skip_operator(p, operators[i]))
            return strview_of(operators[i]);
    if (jinja_skip_name(p, "in"))
        return strview_of("in");
    const bool not_in =
        jinja_at_name(p, "not") && p->at[1].kind == JINJA_T_NAME && strview_is(p->at[1].text, "in");
    if (!not_in)
        return (strview){"", 0};
    p->at += 2;
    return strview_of("not in");
}

static nib_status parse_compare(jinja_parser *p, jinja_node **out) {
    NIB_TRY(parse_math1(p, out));
    jinja_node *all = NULL;
    for (strview op = comparison(p); op.n; op = comparison(p)) {
        jinja_node *operand;
        if (!all) {
            NIB_TRY(binary(p, JINJA_N_COMPARE, op, *out, NULL, &all));
            *out = all;
        }
        NIB_TRY(binary(p, JINJA_N_OPERAND, op, NULL, NULL, &operand));
        NIB_TRY(parse_math1(p, &operand->a));
        NIB_TRY(jinja_add_item(p, all, operand));
    }
    return NIB_OK;
}

static nib_status parse_not(jinja_parser *p, jinja_node **out) {
    const strview op = p->at->text;
    if (!jinja_skip_name(p, "not"))
        return parse_compare(p, out);
    if (++p->depth > JINJA_MAX_NESTING)
        return jinja_parse_error(p, "nested too deep");
    jinja_node *a;
    NIB_TRY(parse_not(p, &a));
    p->depth--;
    return binary(p, JINJA_N_NOT, op, a, NULL, out);
}

static nib_status parse_and(jinja_parser *p, jinja_node **out) {
    NIB_TRY(parse_not(p, out));
    while (jinja_at_name(p, "and")) {
        const strview op = p->at++->text;
        jinja_node *right;
        NIB_TRY(parse_not(p, &right));
        NIB_TRY(binary(p, JINJA_N_AND, op, *out, right, out));
    }
    return NIB_OK;
}

static nib_status parse_or(jinja_parser *p, jinja_node **out) {
    NIB_TRY(parse_and(p, out));
    while (jinja_at_name(p, "or")) {
        const strview op = p->at++->text;
        jinja_node *right;
        NIB_TRY(parse_and(p, &right));
        NIB_TRY(binary(p, JINJA_N_OR, op, *out, right, out));
    }
    return NIB_OK;
}

nib_status jinja_parse_expression(jinja_parser *p, jinja_node **out) {
    if (++p->depth > JINJA_MAX_NESTING)
        return jinja_parse_error(p, "nested too deep");
    NIB_TRY(parse_or(p, out));
    while (jinja_skip_name(p, "if")) {
        jinja_node *choice;
        NIB_TRY(jinja_new_node(p, JINJA_N_CHOICE, &choice));
        choice->a = *out;
        NIB_TRY(parse_or(p, &choice->b));
        if (jinja_skip_name(p, "else"))
            NIB_TRY(jinja_parse_expression(p, &choice->c));
        *out = choice;
    }
    p->depth--;
    return NIB_OK;
}

/* ---- tuples and targets ---- */

static bool ends_tuple(const jinja_parser *p, const char *stop) {
    return p->at->kind == JINJA_T_VARIABLE_END || p->at->kind == JINJA_T_BLOCK_END ||
           jinja_at_operator(p, ")") || (stop && jinja_at_name(p, stop));
}

static nib_status parse_target_part(jinja_parser *p, bool with_namespace, jinja_node **out) {
    if (jinja_at_operator(p, "(")) {
        p->at++;
        if (++p->depth > JINJA_MAX_NESTING)
            return jinja_parse_error(p, "nested too deep");
        NIB_TRY(jinja_parse_target(p, with_namespace, NULL, out));
        p->depth--;
        return jinja_want_operator(p, ")");
    }
    if (p->at->kind != JINJA_T_NAME)
        return jinja_parse_error(p, "can't assign to '%.*s'", (int)p->at->text.n, p->at->text.p);
    NIB_TRY(parse_name(p, out));
    if ((*out)->kind == JINJA_N_CONST)
        return jinja_parse_error(p, "can't assign to 'const'");
    if (!with_namespace || !jinja_skip_operator(p, "."))
        return NIB_OK;
    if (p->at->kind != JINJA_T_NAME)
        return jinja_parse_error(p, "expected the name of an attribute");
    (*out)->kind = JINJA_N_NAMESPACE_ATTR;
    (*out)->name = p->at++->text;
    return NIB_OK;
}

nib_status jinja_parse_target(jinja_parser *p, bool with_namespace, const char *stop, jinja_node **out) {
    NIB_TRY(parse_target_part(p, with_namespace, out));
    if (!jinja_at_operator(p, ","))
        return NIB_OK;
    jinja_node *all, *item;
    NIB_TRY(jinja_new_node(p, JINJA_N_TUPLE, &all));
    NIB_TRY(jinja_add_item(p, all, *out));
    while (jinja_skip_operator(p, ",") && !ends_tuple(p, stop)) {
        NIB_TRY(parse_target_part(p, with_namespace, &item));
        NIB_TRY(jinja_add_item(p, all, item));
    }
    *out = all;
    return NIB_OK;
}

nib_status jinja_parse_tuple(jinja_parser *p, bool with_choice, const char *stop, jinja_node **out) {
    NIB_TRY(with_choice ? jinja_parse_expression(p, out) : parse_or(p, out));
    if (!jinja_at_operator(p, ","))
        return NIB_OK;
    jinja_node *all, *item;
    NIB_TRY(jinja_new_node(p, JINJA_N_TUPLE, &all));
    NIB_TRY(jinja_add_item(p, all, *out));
    while (jinja_skip_operator(p, ",") && !ends_tuple(p, stop)) {
        NIB_TRY(with_choice ? jinja_parse_expression(p, &item) : parse_or(p, &item));
        NIB_TRY(jinja_add_item(p, all, item));
    }
    *out = all;
    return NIB_OK;
}
