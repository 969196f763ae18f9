/* SPDX-License-Identifier: Apache-2.0
 *
 * Parameters written as tags to a JSON object. Tags have no types: the tool's schema says what a value is, or
 * an attribute of the tag does; what no one knows is JSON when it reads as JSON, else text.
 */
#include "text/chat_calls.h"
#include "text/schema_types.h"

#include <stdio.h>

#define MAX_KEY   256 /* bytes of a parameter's name, or of what a tag says of it */
#define MAX_DEPTH 64

static nib_status add(text_buffer *out, const char *words, nib_error *err) {
    return text_buffer_append(out, words, strlen(words), err);
}

nib_status chat_quote(text_buffer *out, strview text, nib_error *err) {
    NIB_TRY(add(out, "\"", err));
    for (size_t i = 0; i < text.n; i++) {
        const unsigned char c = (unsigned char)text.p[i];
        char escape[8] = {(char)c};
        size_t n = 1;
        if (c == '"' || c == '\\')
            n = (size_t)sprintf(escape, "\\%c", c);
        else if (c == '\n' || c == '\t' || c == '\r')
            n = (size_t)sprintf(escape, "\\%c", c == '\n' ? 'n' : c == '\t' ? 't' : 'r');
        else if (c < 0x20)
            n = (size_t)sprintf(escape, "\\u%04x", c);
        NIB_TRY(text_buffer_append(out, escape, n, err));
    }
    return add(out, "\"", err);
}

/* ---- types ---- */

/* What the tool NAME says of the type of its parameter KEY; 0: nothing. */
static unsigned known_types(const json_t *tools, strview name, strview key) {
    size_t i;
    const json_t *tool;
    char text[MAX_KEY + 1];
    memcpy(text, key.p, key.n); /* at most MAX_KEY */
    text[key.n] = '\0';
    json_array_foreach(tools, i, tool) {
        const json_t *function = json_object_get(tool, "function");
        function = function ? function : tool;
        const char *known = json_string_value(json_object_get(function, "name"));
        if (known && strview_is(name, known))
            return schema_types_of_property(json_object_get(function, "parameters"), text);
    }
    return 0;
}

static bool is_integer(strview v) {
    for (size_t i = v.n && v.p[0] == '-'; i < v.n; i++)
        if (v.p[i] < '0' || v.p[i] > '9')
            return false;
    return true;
}

/* Whether the JSON value V, which is no string, is of TYPES. */
static bool allows_value(unsigned types, strview v) {
    const char c = v.p[0];
    if (c == '{' || c == '[')
        return types & (c == '{' ? TYPE_OBJECT : TYPE_ARRAY);
    if (c == 'n' || c == 't' || c == 'f')
        return types & (c == 'n' ? TYPE_NULL : TYPE_BOOLEAN);
    return c != '"' && (types & TYPE_NUMBER || (types & TYPE_INTEGER && is_integer(v)));
}

static bool has(strview s, const char *what) {
    return s.n && memmem(s.p, s.n, what, strlen(what));
}

typedef enum value_type { VALUE_UNKNOWN, VALUE_TEXT, VALUE_TEXT_OR, VALUE_JSON } value_type;

/* What a value may be: VALUE_TEXT_OR is text or a value of TYPES. */
typedef struct value_kind {
    value_type type;
    unsigned types;
} value_kind;

static value_kind kind_of(const json_t *tools, strview name, strview key, strview attributes) {
    if (has(attributes, "string=\"true\"") || has(attributes, "type=\"string\""))
        return (value_kind){VALUE_TEXT, 0};
    if (has(attributes, "string=\"false\"") || has(attributes, "type=\""))
        return (value_kind){VALUE_JSON, 0};
    const unsigned types = known_types(tools, name, key);
    return (value_kind){types == 0 ? VALUE_UNKNOWN : types & TYPE_STRING ? VALUE_TEXT_OR : VALUE_JSON, types};
}

strview chat_json_word(strview s) {
    return strview_is(s, "True")    ? strview_of("true")
           : strview_is(s, "False") ? strview_of("false")
           : strview_is(s, "None")  ? strview_of("null")
                                    : s;
}

/* RAW as JSON where it is all JSON and its type may be that; else as a text. */
static nib_status add_value(text_buffer *out, value_kind kind, strview raw, nib_error *err) {
    strview value;
    nib_status status = NIB_OK;
    const strview word = chat_json_word(raw);
    if (kind.type == VALUE_TEXT)
        return chat_quote(out, raw, err);
    const chat_found found = chat_span_value(word, &value, &status);
    if (status == NIB_NO_MEMORY)
        return nib_fail(err, status, "no memory for the calls of an answer");
    const size_t end = found == CHAT_WHOLE ? (size_t)(value.p - word.p) + value.n : 0;
    const bool all =
        found == CHAT_WHOLE && chat_span_blank((strview){word.p + end, word.n - end}) == word.n - end;
    const bool fits =
        all && (kind.type == VALUE_JSON ||
                (kind.type == VALUE_UNKNOWN ? value.p[0] != '"' : allows_value(kind.types, value)));
    return fits ? text_buffer_append(out, value.p, value.n, err) : chat_quote(out, raw, err);
}

/* ---- values made of tags: ]<]minimax[>[<a>1]<]minimax[>[</a>, lists of <item> ---- */

static bool is_nested(const chat_format *f, strview raw) {
    const size_t blank = chat_span_blank(raw), n = strlen(f->param_open);
    return strchr(f->param_close, '%') && raw.n - blank > n && memcmp(raw.p + blank, f->param_open, n) == 0 &&
           raw.p[blank + n] != '/';
}

/* ---- tags ---- */

/* param_close with the key in place of its %. */
static nib_status closing_mark(const chat_format *f, strview key, text_buffer *out, nib_error *err) {
    const char *hole = strchr(f->param_close, '%');
    if (!hole)
        return text_buffer_append(out, f->param_close, strlen(f->param_close) + 1, err);
    NIB_TRY(text_buffer_append(out, f->param_close, (size_t)(hole - f->param_close), err));
    NIB_TRY(text_buffer_append(out, key.p, key.n, err));
    return text_buffer_append(out, hole + 1, strlen(hole + 1) + 1, err);
}

/* The value up to a closing mark behind which the call goes on or ends: others are the value's own text. */
static chat_found read_value(chat_cursor *c, const chat_format *f, const char *mark, strview *value) {
    const size_t from = c->at;
    chat_cursor seek = *c;
    for (size_t at; chat_seek(&seek, mark, &at); seek.at = at + 1) {
        chat_cursor after = *c;
        after.at = at + strlen(mark);
        chat_skip_blank(&after);
        const bool ends = after.at == after.s.n;
        if (ends && !c->at_end)
            return CHAT_PARTIAL;
        const chat_found next = ends ? CHAT_WHOLE : chat_expect(&after, f->param_open);
        const chat_found close = ends ? CHAT_WHOLE : chat_expect(&after, f->call_close);
        if (next == CHAT_PARTIAL || close == CHAT_PARTIAL)
            return CHAT_PARTIAL;
        if (next != CHAT_WHOLE && close != CHAT_WHOLE)
            continue;
        *value = (strview){c->s.p + from, at - from};
        c->at = at + strlen(mark);
        return CHAT_WHOLE;
    }
    return chat_missing(c);
}

static nib_status add_any(text_buffer *out, const chat_format *f, value_kind kind, strview raw, int depth,
                          nib_error *err);

/* A key and what its tag holds; false: the text goes on with no such tag. */
static nib_status take_tag(chat_cursor *c, const chat_format *f, strview *key, strview *value, bool *found,
                           nib_error *err) {
    size_t key_at, end;
    text_buffer mark = {0};
    chat_skip_blank(c);
    *found = chat_expect(c, f->param_open) == CHAT_WHOLE && chat_seek(c, f->key_end, &key_at);
    if (!*found)
        return NIB_OK;
    *key = (strview){c->s.p + c->at, key_at - c->at};
    c->at = key_at + strlen(f->key_end);
    const nib_status status = closing_mark(f, *key, &mark, err);
    *found = status == NIB_OK && key->n > 0 && key->n <= MAX_KEY && chat_seek(c, mark.bytes, &end);
    if (*found) {
        *value = (strview){c->s.p + c->at, end - c->at};
        c->at = end + strlen(mark.bytes);
    }
    text_buffer_free(&mark);
    return status;
}

static nib_status add_nested(text_buffer *out, const chat_format *f, strview raw, int depth, nib_error *err) {
    chat_cursor c = {.s = raw, .at_end = true};
    bool list = false, found = true;
    for (size_t n = 0;; n++) {
        strview key, value;
        NIB_TRY(take_tag(&c, f, &key, &value, &found, err));
        if (!found)
            break;
        if (n == 0) {
            list = strview_is(key, "item");
            NIB_TRY(add(out, list ? "[" : "{", err));
        } else {
            NIB_TRY(add(out, ", ", err));
        }
        if (!list) {
            NIB_TRY(chat_quote(out, key, err));
            NIB_TRY(add(out, ": ", err));
        }
        NIB_TRY(add_any(out, f, (value_kind){VALUE_UNKNOWN, 0}, value, depth + 1, err));
    }
    return add(out, list ? "]" : "}", err);
}

static nib_status add_any(text_buffer *out, const chat_format *f, value_kind kind, strview raw, int depth,
                          nib_error *err) {
    const bool text =
        kind.type == VALUE_TEXT || (kind.type == VALUE_TEXT_OR && !(kind.types & (TYPE_OBJECT | TYPE_ARRAY)));
    return !text && is_nested(f, raw) && depth < MAX_DEPTH ? add_nested(out, f, raw, depth, err)
                                                           : add_value(out, kind, raw, err);
}

static strview without_lines(strview s) {
    if (s.n && s.p[0] == '\n')
        s = (strview){s.p + 1, s.n - 1};
    if (s.n && s.p[s.n - 1] == '\n')
        s.n--;
    return s;
}

/* One parameter; the cursor stands behind param_open. */
static nib_status read_parameter(chat_cursor *c, const chat_format *f, const json_t *tools, strview name,
                                 text_buffer *out, chat_found *found, nib_error *err) {
    size_t key_at, value_at;
    *found = chat_missing(c);
    if (!chat_seek(c, f->key_end, &key_at))
        return NIB_OK;
    const strview key = {c->s.p + c->at, key_at - c->at};
    c->at = key_at + strlen(f->key_end);
    if (!chat_seek(c, f->value_open, &value_at))
        return NIB_OK;
    const strview attributes = {c->s.p + c->at, value_at - c->at};
    if (key.n == 0 || key.n > MAX_KEY || attributes.n > MAX_KEY) {
        *found = CHAT_BROKEN;
        return NIB_OK;
    }
    c->at = value_at + strlen(f->value_open);
    text_buffer mark = {0};
    strview value = {0};
    nib_status status = closing_mark(f, key, &mark, err);
    if (status == NIB_OK)
        *found = read_value(c, f, mark.bytes, &value);
    text_buffer_free(&mark);
    if (status != NIB_OK || *found != CHAT_WHOLE)
        return status;
    NIB_TRY(chat_quote(out, key, err));
    NIB_TRY(add(out, ": ", err));
    return add_any(out, f, kind_of(tools, name, key, attributes),
                   f->value_lines ? without_lines(value) : value, 0, err);
}

nib_status chat_tags_read(chat_cursor *c, const chat_format *f, const json_t *tools, strview name,
                          text_buffer *out, chat_found *found, nib_error *err) {
    NIB_TRY(add(out, "{", err));
    for (size_t n = 0;; n++) {
        chat_skip_blank(c);
        *found = chat_expect(c, f->call_close);
        if (*found == CHAT_WHOLE || (c->at_end && c->at == c->s.n)) {
            *found = CHAT_WHOLE;
            return add(out, "}", err);
        }
        if (*found == CHAT_PARTIAL) /* the opening of a parameter may be a part of it */
            return NIB_OK;
        *found = chat_expect(c, f->param_open);
        if (*found != CHAT_WHOLE)
            return NIB_OK;
        if (n)
            NIB_TRY(add(out, ", ", err));
        NIB_TRY(read_parameter(c, f, tools, name, out, found, err));
        if (*found != CHAT_WHOLE)
            return NIB_OK;
    }
}
