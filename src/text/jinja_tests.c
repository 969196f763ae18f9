/* SPDX-License-Identifier: Apache-2.0
 *
 * Tests: what stands after `is`, and in select and its like.
 */
#include <utf8proc.h>

#include "base/utf8.h"
#include "text/jinja_builtin.h"

typedef enum test_kind {
    T_DEFINED,
    T_UNDEFINED,
    T_NONE,
    T_BOOLEAN,
    T_TRUE,
    T_FALSE,
    T_INTEGER,
    T_FLOAT,
    T_NUMBER,
    T_STRING,
    T_MAPPING,
    T_ITERABLE,
    T_SEQUENCE,
    T_CALLABLE,
    T_ODD,
    T_EVEN,
    T_LOWER,
    T_UPPER,
    T_FILTER,
    T_TEST,
    T_WITH_ARGUMENT, /* from here on */
    T_SAMEAS,
    T_DIVISIBLE,
    T_IN,
    T_EQ,
    T_NE,
    T_LT,
    T_LE,
    T_GT,
    T_GE
} test_kind;

static const struct {
    const char *name;
    test_kind kind;
} tests[] = {
    {"defined", T_DEFINED},
    {"undefined", T_UNDEFINED},
    {"none", T_NONE},
    {"boolean", T_BOOLEAN},
    {"true", T_TRUE},
    {"false", T_FALSE},
    {"integer", T_INTEGER},
    {"float", T_FLOAT},
    {"number", T_NUMBER},
    {"string", T_STRING},
    {"mapping", T_MAPPING},
    {"iterable", T_ITERABLE},
    {"sequence", T_SEQUENCE},
    {"callable", T_CALLABLE},
    {"odd", T_ODD},
    {"even", T_EVEN},
    {"lower", T_LOWER},
    {"upper", T_UPPER},
    {"filter", T_FILTER},
    {"test", T_TEST},
    {"sameas", T_SAMEAS},
    {"divisibleby", T_DIVISIBLE},
    {"in", T_IN},
    {"eq", T_EQ},
    {"==", T_EQ},
    {"equalto", T_EQ},
    {"ne", T_NE},
    {"!=", T_NE},
    {"lt", T_LT},
    {"<", T_LT},
    {"lessthan", T_LT},
    {"le", T_LE},
    {"<=", T_LE},
    {"gt", T_GT},
    {">", T_GT},
    {"greaterthan", T_GT},
    {"ge", T_GE},
    {">=", T_GE},
};

int jinja_test_id(strview name) {
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (strview_is(name, tests[i].name))
            return (int)i;
    return -1;
}

/* str.islower and str.isupper: a cased character, and none of the other case. */
static nib_status all_in_case(jinja_run *r, jinja_value in, bool upper, bool *out) {
    const jinja_text *t;
    bool cased = false;
    NIB_TRY(jinja_to_text(r, in, &t));
    *out = true;
    for (size_t i = 0; i < t->n && *out;) {
        unsigned bytes;
        const uint32_t code = utf8_read((const unsigned char *)t->p + i, &bytes);
        const utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)code);
        const bool is_upper = c == UTF8PROC_CATEGORY_LU, is_lower = c == UTF8PROC_CATEGORY_LL;
        *out = c != UTF8PROC_CATEGORY_LT && !(upper ? is_lower : is_upper);
        cased |= is_upper || is_lower;
        i += bytes;
    }
    *out = *out && cased;
    return NIB_OK;
}

static nib_status is_odd(jinja_run *r, jinja_value in, bool odd, bool *out) {
    int64_t i;
    NIB_TRY(jinja_want_int(r, &in, "an odd or even number", &i));
    *out = (i % 2 != 0) == odd;
    return NIB_OK;
}

static nib_status test_alone(jinja_run *r, test_kind kind, jinja_value v, bool *out) {
    const bool boolean = v.kind == JINJA_BOOL, items = jinja_is_list(v) || v.kind == JINJA_TEXT ||
                                                       v.kind == JINJA_DICT || v.kind == JINJA_UNDEFINED;
    switch (kind) {
    case T_DEFINED:
    case T_UNDEFINED:
        *out = (v.kind != JINJA_UNDEFINED) == (kind == T_DEFINED);
        return NIB_OK;
    case T_NONE:
        *out = v.kind == JINJA_NONE;
        return NIB_OK;
    case T_BOOLEAN:
    case T_TRUE:
    case T_FALSE:
        *out = boolean && (kind == T_BOOLEAN || v.b == (kind == T_TRUE));
        return NIB_OK;
    case T_INTEGER:
        *out = v.kind == JINJA_INT;
        return NIB_OK;
    case T_FLOAT:
        *out = v.kind == JINJA_FLOAT;
        return NIB_OK;
    case T_NUMBER:
        *out = jinja_is_number(v);
        return NIB_OK;
    case T_STRING:
        *out = v.kind == JINJA_TEXT;
        return NIB_OK;
    case T_MAPPING:
        *out = v.kind == JINJA_DICT;
        return NIB_OK;
    case T_ITERABLE:
        *out = items || v.kind == JINJA_LOOP;
        return NIB_OK;
    case T_SEQUENCE:
        *out = items && v.kind != JINJA_GENERATOR;
        return NIB_OK;
    case T_CALLABLE:
        *out = v.kind == JINJA_MACRO || v.kind == JINJA_FUNCTION || v.kind == JINJA_UNDEFINED;
        return NIB_OK;
    case T_ODD:
    case T_EVEN:
        return is_odd(r, v, kind == T_ODD, out);
    case T_LOWER:
    case T_UPPER:
        return all_in_case(r, v, kind == T_UPPER, out);
    case T_FILTER:
    case T_TEST:
        *out = v.kind == JINJA_TEXT && (kind == T_FILTER ? jinja_filter_id(jinja_view(v.text))
                                                         : jinja_test_id(jinja_view(v.text))) >= 0;
        return NIB_OK;
    default:
        return jinja_fail(r, "a test needs an argument");
    }
}

/* Python's `is`: the same small value, or the very same list, dict or function. */
static bool is_same(jinja_value a, jinja_value b) {
    if (a.kind != b.kind)
        return false;
    switch (a.kind) {
    case JINJA_UNDEFINED:
    case JINJA_NONE:
        return true;
    case JINJA_BOOL:
        return a.b == b.b;
    case JINJA_INT:
        return a.i == b.i;
    case JINJA_FLOAT:
        return a.f == b.f;
    case JINJA_TEXT:
        return strview_equal(jinja_view(a.text), jinja_view(b.text));
    default:
        return a.list == b.list;
    }
}

static nib_status test_with(jinja_run *r, test_kind kind, jinja_value v, jinja_value with, bool *out) {
    static const char *const signs[] = {"<", "<=", ">", ">="};
    int order;
    int64_t a, b;
    switch (kind) {
    case T_SAMEAS:
        *out = is_same(v, with);
        return NIB_OK;
    case T_DIVISIBLE:
        NIB_TRY(jinja_want_int(r, &v, "a divisible number", &a));
        NIB_TRY(jinja_want_int(r, &with, "a divisor", &b));
        if (b == 0)
            return jinja_fail(r, "integer modulo by zero");
        *out = b == -1 || a % b == 0;
        return NIB_OK;
    case T_IN:
        return jinja_contains(r, with, v, out);
    case T_EQ:
    case T_NE:
        NIB_TRY(jinja_equal(r, v, with, out));
        *out = *out == (kind == T_EQ);
        return NIB_OK;
    default:
        NIB_TRY(jinja_compare(r, v, with, signs[kind - T_LT], &order));
        *out = kind == T_LT ? order < 0 : kind == T_LE ? order <= 0 : kind == T_GT ? order > 0 : order >= 0;
        return NIB_OK;
    }
}

nib_status jinja_test(jinja_run *r, int id, strview name, jinja_value in, const jinja_args *args, bool *out) {
    if (id < 0)
        return jinja_fail(r, "No test named '%.*s'.", (int)(name.n < 60 ? name.n : 60), name.p);
    const test_kind kind = tests[id].kind;
    const size_t wanted = kind > T_WITH_ARGUMENT ? 1 : 0;
    NIB_TRY(jinja_step(r, 1));
    if (args->n != wanted || args->n_keywords)
        return jinja_fail(r, "the test '%s' takes %zu arguments", tests[id].name, wanted);
    return wanted ? test_with(r, kind, in, args->list[0], out) : test_alone(r, kind, in, out);
}
