/* SPDX-License-Identifier: Apache-2.0
 *
 * Python's two ways to put values into a text: "%s" % value, and "{}".format(value). What has no use in a
 * template (alignment, padding of braces) is refused in words.
 */
#include <stdio.h>

#include "text/jinja_builtin.h"

/* ---- percent ---- */

/* "%5.2f" without the percent sign: flags, width, precision, letter. */
typedef struct percent {
    char spec[16]; /* "%5.2" for snprintf */
    char letter;
} percent;

static nib_status read_percent(jinja_run *r, strview s, size_t *at, percent *out) {
    size_t n = 0;
    out->spec[n++] = '%';
    while (*at < s.n && strchr("-+ 0#.123456789", s.p[*at]) && n < 8)
        out->spec[n++] = s.p[(*at)++];
    out->spec[n] = '\0';
    if (*at >= s.n || !strchr("sdifrxXeg", s.p[*at]))
        return jinja_fail(r, "an unsupported format character in a '%%' format");
    out->letter = s.p[(*at)++];
    return NIB_OK;
}

static nib_status put_number(jinja_run *r, jinja_builder *b, const percent *p, jinja_value v) {
    char format[24], text[400];
    if (!jinja_is_number(v))
        return jinja_fail(r, "%%%c format: a real number is required, not %s", p->letter, jinja_type(v));
    const bool real = strchr("feg", p->letter) != NULL;
    if (!real && v.kind == JINJA_FLOAT && !(v.f > -9.2e18 && v.f < 9.2e18))
        return jinja_fail(r, "%%%c format: the number is too large", p->letter);
    snprintf(format, sizeof format, real ? "%s%c" : "%sll%c", p->spec, p->letter == 'i' ? 'd' : p->letter);
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    if (real)
        snprintf(text, sizeof text, format, jinja_real(v));
    else
        snprintf(text, sizeof text, format,
                 (long long)(v.kind == JINJA_FLOAT ? (int64_t)v.f : jinja_integer(v)));
#pragma GCC diagnostic pop
    return jinja_build_words(r, b, text);
}

static nib_status put_percent(jinja_run *r, jinja_builder *b, const percent *p, jinja_value v) {
    if (p->letter != 's' && p->letter != 'r')
        return put_number(r, b, p, v);
    if (p->spec[1])
        return jinja_fail(r, "a width in a '%%s' format is not supported");
    return p->letter == 's' ? jinja_print(r, b, v) : jinja_repr(r, b, v, 0);
}

/* The bytes of F from *at up to the next MARK or the end. */
static nib_status put_plain(jinja_run *r, jinja_builder *b, const jinja_text *f, const char *marks,
                            size_t *at) {
    const size_t from = *at;
    while (*at < f->n && !strchr(marks, f->p[*at]))
        ++*at;
    const jinja_text part = {f->p + from, *at - from, f->marks ? f->marks + from : NULL,
                             f->user,     false,      NULL};
    return jinja_build_text(r, b, &part);
}

nib_status jinja_percent_format(jinja_run *r, const jinja_text *format, jinja_value args, jinja_value *out) {
    const strview s = jinja_view(format);
    const bool many = args.kind == JINJA_TUPLE;
    const size_t n = many ? args.list->n : 1;
    size_t used = 0;
    jinja_builder b = {0};
    for (size_t at = 0; at < s.n;) {
        NIB_TRY(put_plain(r, &b, format, "%", &at));
        if (at >= s.n)
            break;
        at++;
        if (at < s.n && s.p[at] == '%') {
            NIB_TRY(jinja_build_words(r, &b, "%"));
            at++;
            continue;
        }
        percent p;
        NIB_TRY(read_percent(r, s, &at, &p));
        if (used >= n)
            return jinja_fail(r, "not enough arguments for format string");
        NIB_TRY(put_percent(r, &b, &p, many ? args.list->items[used] : args));
        used++;
    }
    if (many ? used < n : used == 0 && args.kind != JINJA_DICT && args.kind != JINJA_LIST)
        return jinja_fail(r, "not all arguments converted during string formatting");
    return jinja_built(r, &b, out);
}

/* ---- braces ---- */

/* The value of a field "", "0" or "name". */
static nib_status field_value(jinja_run *r, strview field, const jinja_args *args, size_t *next,
                              jinja_value *out) {
    size_t index = 0;
    bool number = field.n > 0 && field.n < 10;
    for (size_t i = 0; i < field.n && number; i++) {
        number = field.p[i] >= '0' && field.p[i] <= '9';
        index = index * 10 + (size_t)(field.p[i] - '0');
    }
    if (field.n == 0)
        index = (*next)++;
    if (field.n == 0 || number) {
        if (index >= args->n)
            return jinja_fail(r, "Replacement index %zu out of range for positional args tuple", index);
        *out = args->list[index];
        return NIB_OK;
    }
    for (size_t i = 0; i < args->n_keywords; i++)
        if (strview_equal(args->names[i], field)) {
            *out = args->keywords[i];
            return NIB_OK;
        }
    return jinja_fail(r, "format() has no value for the field '%.*s'", (int)(field.n < 60 ? field.n : 60),
                      field.p);
}

static nib_status put_field(jinja_run *r, jinja_builder *b, const jinja_text *format, size_t *at,
                            const jinja_args *args, size_t *next) {
    const char *begin = format->p + *at, *end = memchr(begin, '}', format->n - *at);
    if (!end)
        return jinja_fail(r, "expected '}' before end of string");
    const strview field = {begin, (size_t)(end - begin)};
    if (field.n &&
        (memchr(begin, ':', field.n) || memchr(begin, '!', field.n) || memchr(begin, '.', field.n) ||
         memchr(begin, '[', field.n) || memchr(begin, '{', field.n)))
        return jinja_fail(r, "a field with a format of its own is not supported in format()");
    jinja_value v;
    NIB_TRY(field_value(r, field, args, next, &v));
    *at += field.n + 1;
    return jinja_print(r, b, v);
}

nib_status jinja_brace_format(jinja_run *r, const jinja_text *format, const jinja_args *args,
                              jinja_value *out) {
    jinja_builder b = {0};
    size_t next = 0;
    for (size_t at = 0; at < format->n;) {
        NIB_TRY(put_plain(r, &b, format, "{}", &at));
        if (at >= format->n)
            break;
        const char c = format->p[at++];
        if (at < format->n && format->p[at] == c) {
            NIB_TRY(jinja_build(r, &b, &c, 1, false));
            at++;
        } else if (c == '{') {
            NIB_TRY(put_field(r, &b, format, &at, args, &next));
        } else {
            return jinja_fail(r, "Single '}' encountered in format string");
        }
    }
    return jinja_built(r, &b, out);
}
