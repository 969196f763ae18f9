/* SPDX-License-Identifier: Apache-2.0
 *
 * Values as text: Python's str() and repr(), and json.dumps as transformers' tojson calls it.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <utf8proc.h>

#include "base/utf8.h"
#include "text/jinja_value.h"

/* ---- numbers ---- */

/* The shortest digits that read back as F; the locale's decimal point is skipped. Returns the exponent of the
 * first digit. */
static int shortest_digits(double f, char digits[20]) {
    char text[40];
    for (int precision = 0;; precision++) {
        snprintf(text, sizeof text, "%.*e", precision, f);
        if (precision == 16 || strtod(text, NULL) == f)
            break;
    }
    int n = 0;
    const char *p = text;
    for (; *p && *p != 'e'; p++)
        if (*p >= '0' && *p <= '9')
            digits[n++] = *p;
    while (n > 1 && digits[n - 1] == '0')
        n--;
    digits[n] = '\0';
    return atoi(p + 1);
}

void jinja_float_repr(double f, char out[32]) {
    if (isnan(f) || isinf(f)) {
        strcpy(out, isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
        return;
    }
    char digits[20];
    const int exponent = shortest_digits(fabs(f), digits), n = (int)strlen(digits);
    char *p = out;
    if (signbit(f))
        *p++ = '-';
    if (exponent < -4 || exponent >= 16) {
        *p++ = digits[0];
        p += n > 1 ? sprintf(p, ".%s", digits + 1) : 0;
        sprintf(p, "e%c%02d", exponent < 0 ? '-' : '+', abs(exponent));
    } else if (exponent < 0) {
        sprintf(p, "0.%.*s%s", -exponent - 1, "0000", digits);
    } else {
        for (int i = 0; i <= exponent; i++)
            *p++ = i < n ? digits[i] : '0';
        sprintf(p, ".%s", exponent + 1 < n ? digits + exponent + 1 : "0");
    }
}

static nib_status print_number(jinja_run *r, jinja_builder *b, jinja_value v) {
    char text[40];
    if (v.kind == JINJA_FLOAT)
        jinja_float_repr(v.f, text);
    else
        snprintf(text, sizeof text, "%lld", (long long)v.i);
    return jinja_build_words(r, b, text);
}

/* ---- str() and repr() ---- */

/* As Python's str.isprintable has it. */
static bool is_printable(uint32_t code) {
    switch (utf8proc_category((utf8proc_int32_t)code)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return false;
    case UTF8PROC_CATEGORY_ZS:
        return code == ' ';
    default:
        return true;
    }
}

static bool byte_is_users(const jinja_text *t, size_t i) {
    return t->marks ? t->marks[i] : t->user;
}

static nib_status escape_code(jinja_run *r, jinja_builder *b, uint32_t code, bool user) {
    char text[12];
    const int n = code == '\n'     ? sprintf(text, "\\n")
                  : code == '\t'   ? sprintf(text, "\\t")
                  : code == '\r'   ? sprintf(text, "\\r")
                  : code < 0x100   ? sprintf(text, "\\x%02x", code)
                  : code < 0x10000 ? sprintf(text, "\\u%04x", code)
                                   : sprintf(text, "\\U%08x", code);
    return jinja_build(r, b, text, (size_t)n, user);
}

static nib_status repr_text(jinja_run *r, jinja_builder *b, const jinja_text *t) {
    const bool single = t->n && memchr(t->p, '\'', t->n) && !memchr(t->p, '"', t->n);
    const char quote = single ? '"' : '\'';
    NIB_TRY(jinja_build(r, b, &quote, 1, false));
    for (size_t i = 0; i < t->n;) {
        unsigned bytes;
        const uint32_t code = utf8_read((const unsigned char *)t->p + i, &bytes);
        const bool user = byte_is_users(t, i);
        if (code == (unsigned char)quote || code == '\\') {
            const char two[2] = {'\\', (char)code};
            NIB_TRY(jinja_build(r, b, two, 2, user));
        } else if (!is_printable(code)) {
            NIB_TRY(escape_code(r, b, code, user));
        } else {
            NIB_TRY(jinja_build(r, b, t->p + i, bytes, user));
        }
        i += bytes;
    }
    return jinja_build(r, b, &quote, 1, false);
}

static nib_status repr_list(jinja_run *r, jinja_builder *b, jinja_value v, int depth) {
    const bool tuple = v.kind == JINJA_TUPLE;
    NIB_TRY(jinja_build_words(r, b, tuple ? "(" : "["));
    for (size_t i = 0; i < v.list->n; i++) {
        if (i)
            NIB_TRY(jinja_build_words(r, b, ", "));
        NIB_TRY(jinja_repr(r, b, v.list->items[i], depth + 1));
    }
    return jinja_build_words(r, b, tuple ? (v.list->n == 1 ? ",)" : ")") : "]");
}

static nib_status repr_dict(jinja_run *r, jinja_builder *b, jinja_value v, int depth) {
    NIB_TRY(jinja_build_words(r, b, v.kind == JINJA_NAMESPACE ? "<Namespace {" : "{"));
    for (size_t i = 0; i < v.dict->n; i++) {
        if (i)
            NIB_TRY(jinja_build_words(r, b, ", "));
        NIB_TRY(jinja_repr(r, b, v.dict->keys[i], depth + 1));
        NIB_TRY(jinja_build_words(r, b, ": "));
        NIB_TRY(jinja_repr(r, b, v.dict->values[i], depth + 1));
    }
    return jinja_build_words(r, b, v.kind == JINJA_NAMESPACE ? "}>" : "}");
}

nib_status jinja_repr(jinja_run *r, jinja_builder *b, jinja_value v, int depth) {
    NIB_TRY(jinja_step(r, 1));
    if (depth > JINJA_MAX_DEPTH)
        return jinja_fail(r, "the chat template prints values nested too deep");
    switch (v.kind) {
    case JINJA_UNDEFINED:
        return jinja_build_words(r, b, "Undefined");
    case JINJA_NONE:
        return jinja_build_words(r, b, "None");
    case JINJA_BOOL:
        return jinja_build_words(r, b, v.b ? "True" : "False");
    case JINJA_INT:
    case JINJA_FLOAT:
        return print_number(r, b, v);
    case JINJA_TEXT:
        return repr_text(r, b, v.text);
    case JINJA_LIST:
    case JINJA_TUPLE:
        return repr_list(r, b, v, depth);
    case JINJA_DICT:
    case JINJA_NAMESPACE:
        return repr_dict(r, b, v, depth);
    case JINJA_GENERATOR:
    case JINJA_LOOP:
    case JINJA_MACRO:
    case JINJA_FUNCTION:
        break; /* Python prints an address */
    }
    NIB_TRY(jinja_build_words(r, b, "<"));
    NIB_TRY(jinja_build_words(r, b, jinja_type(v)));
    return jinja_build_words(r, b, ">");
}

nib_status jinja_print(jinja_run *r, jinja_builder *b, jinja_value v) {
    if (v.kind == JINJA_TEXT)
        return jinja_build_text(r, b, v.text);
    return v.kind == JINJA_UNDEFINED ? NIB_OK : jinja_repr(r, b, v, 0);
}

nib_status jinja_to_text(jinja_run *r, jinja_value v, const jinja_text **out) {
    if (v.kind != JINJA_TEXT) {
        jinja_builder b = {0};
        NIB_TRY(jinja_print(r, &b, v));
        NIB_TRY(jinja_built(r, &b, &v));
    }
    *out = v.text;
    return NIB_OK;
}

/* ---- json.dumps ---- */

/* The escape of CODE into TEXT; 0 bytes: it stands for itself. */
static int json_escape(uint32_t code, bool ensure_ascii, char text[16]) {
    static const char letters[] = "\"\"\\\\\bb\ff\nn\rr\tt";
    for (size_t i = 0; code < 0x80 && i + 1 < sizeof letters; i += 2)
        if ((unsigned char)letters[i] == code)
            return sprintf(text, "\\%c", letters[i + 1]);
    if (code < 0x20 || (ensure_ascii && code >= 0x7F && code < 0x10000))
        return sprintf(text, "\\u%04x", code);
    if (ensure_ascii && code >= 0x10000)
        return sprintf(text, "\\u%04x\\u%04x", 0xD800 + ((code - 0x10000) >> 10),
                       0xDC00 + ((code - 0x10000) & 0x3FF));
    return 0;
}

static nib_status json_text(jinja_run *r, jinja_builder *b, const jinja_text *t, bool ensure_ascii) {
    NIB_TRY(jinja_build_words(r, b, "\""));
    size_t plain = 0; /* where what needs no escape began */
    for (size_t i = 0; i < t->n;) {
        unsigned bytes;
        char text[16];
        const uint32_t code = utf8_read((const unsigned char *)t->p + i, &bytes);
        const int n = json_escape(code, ensure_ascii, text);
        if (n) {
            const jinja_text run = {t->p + plain, i - plain, t->marks ? t->marks + plain : NULL,
                                    t->user,      false,     NULL};
            NIB_TRY(jinja_build_text(r, b, &run));
            NIB_TRY(jinja_build(r, b, text, (size_t)n, byte_is_users(t, i)));
            plain = i + bytes;
        }
        i += bytes;
    }
    const jinja_text rest = {t->p + plain, t->n - plain, t->marks ? t->marks + plain : NULL,
                             t->user,      false,        NULL};
    NIB_TRY(jinja_build_text(r, b, &rest));
    return jinja_build_words(r, b, "\"");
}

static nib_status json_break(jinja_run *r, jinja_builder *b, const jinja_json_style *style, int depth) {
    if (!style->pretty)
        return NIB_OK;
    NIB_TRY(jinja_build_words(r, b, "\n"));
    for (int i = 0; i < depth; i++)
        NIB_TRY(jinja_build(r, b, style->indent.p, style->indent.n, false));
    return NIB_OK;
}

static nib_status json_list(jinja_run *r, jinja_builder *b, const jinja_list *l,
                            const jinja_json_style *style, int depth) {
    if (l->n == 0)
        return jinja_build_words(r, b, "[]");
    NIB_TRY(jinja_build_words(r, b, "["));
    for (size_t i = 0; i < l->n; i++) {
        if (i)
            NIB_TRY(jinja_build(r, b, style->item.p, style->item.n, false));
        NIB_TRY(json_break(r, b, style, depth + 1));
        NIB_TRY(jinja_json(r, b, l->items[i], style, depth + 1));
    }
    NIB_TRY(json_break(r, b, style, depth));
    return jinja_build_words(r, b, "]");
}

static nib_status json_key(jinja_run *r, jinja_builder *b, jinja_value key, const jinja_json_style *style) {
    if (key.kind == JINJA_TEXT)
        return json_text(r, b, key.text, style->ensure_ascii);
    if (!jinja_is_number(key) && key.kind != JINJA_NONE)
        return jinja_fail(r, "keys must be str, int, float, bool or None, not %s", jinja_type(key));
    NIB_TRY(jinja_build_words(r, b, "\""));
    NIB_TRY(jinja_json(r, b, key, style, 0));
    return jinja_build_words(r, b, "\"");
}

/* The order of d's keys into ORDER: insertion sort, as there are few. */
static nib_status sort_keys(jinja_run *r, const jinja_dict *d, size_t *order) {
    for (size_t i = 0; i < d->n; i++) {
        size_t k = i;
        for (; k > 0; k--) {
            int c;
            NIB_TRY(jinja_compare(r, d->keys[i], d->keys[order[k - 1]], "<", &c));
            if (c >= 0)
                break;
            order[k] = order[k - 1];
        }
        order[k] = i;
    }
    return NIB_OK;
}

static nib_status json_dict(jinja_run *r, jinja_builder *b, const jinja_dict *d,
                            const jinja_json_style *style, int depth) {
    if (d->n == 0)
        return jinja_build_words(r, b, "{}");
    size_t *order = NULL;
    if (style->sort_keys) {
        NIB_TRY(jinja_alloc(r, d->n, sizeof *order, &order));
        NIB_TRY(sort_keys(r, d, order));
    }
    NIB_TRY(jinja_build_words(r, b, "{"));
    for (size_t i = 0; i < d->n; i++) {
        const size_t k = order ? order[i] : i;
        if (i)
            NIB_TRY(jinja_build(r, b, style->item.p, style->item.n, false));
        NIB_TRY(json_break(r, b, style, depth + 1));
        NIB_TRY(json_key(r, b, d->keys[k], style));
        NIB_TRY(jinja_build(r, b, style->key.p, style->key.n, false));
        NIB_TRY(jinja_json(r, b, d->values[k], style, depth + 1));
    }
    NIB_TRY(json_break(r, b, style, depth));
    return jinja_build_words(r, b, "}");
}

nib_status jinja_json(jinja_run *r, jinja_builder *b, jinja_value v, const jinja_json_style *style,
                      int depth) {
    NIB_TRY(jinja_step(r, 1));
    if (depth > JINJA_MAX_DEPTH)
        return jinja_fail(r, "tojson of a value nested too deep");
    switch (v.kind) {
    case JINJA_NONE:
        return jinja_build_words(r, b, "null");
    case JINJA_BOOL:
        return jinja_build_words(r, b, v.b ? "true" : "false");
    case JINJA_FLOAT:
        if (isnan(v.f) || isinf(v.f))
            return jinja_build_words(r, b, isnan(v.f) ? "NaN" : v.f < 0 ? "-Infinity" : "Infinity");
        return print_number(r, b, v);
    case JINJA_INT:
        return print_number(r, b, v);
    case JINJA_TEXT:
        return json_text(r, b, v.text, style->ensure_ascii);
    case JINJA_LIST:
    case JINJA_TUPLE:
        return json_list(r, b, v.list, style, depth);
    case JINJA_DICT:
        return json_dict(r, b, v.dict, style, depth);
    default:
        return jinja_fail(r, "Object of type %s is not JSON serializable", jinja_type(v));
    }
}
