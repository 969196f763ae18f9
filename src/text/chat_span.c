/* SPDX-License-Identifier: Apache-2.0
 *
 * Spans of JSON values. Brackets and quotes find the end; jansson says whether what lies between is JSON.
 */
#include "text/chat_span.h"

#include "base/json.h"

static bool is_blank(char c) {
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

size_t chat_span_blank(strview text) {
    size_t n = 0;
    while (n < text.n && is_blank(text.p[n]))
        n++;
    return n;
}

static void open_bracket(chat_scan *s, char closing) {
    if (s->depth == sizeof s->open)
        s->found = CHAT_BROKEN;
    else
        s->open[s->depth++] = closing;
}

static void feed_string(chat_scan *s, char c) {
    if (s->escaped)
        s->escaped = false;
    else if (c == '\\')
        s->escaped = true;
    else if (c == '"') {
        s->in_string = false;
        if (s->depth == 0)
            s->found = CHAT_WHOLE;
    }
}

/* One byte outside strings, the value being under way. */
static void feed_byte(chat_scan *s, char c) {
    if (c == '"') {
        s->in_string = true;
    } else if (c == '{' || c == '[') {
        open_bracket(s, c == '{' ? '}' : ']');
    } else if (c == '}' || c == ']') {
        if (s->depth == 0 || s->open[s->depth - 1] != c)
            s->found = CHAT_BROKEN;
        else if (--s->depth == 0)
            s->found = CHAT_WHOLE;
    } else if (s->depth == 0) {
        s->scalar = true;
    }
}

size_t chat_scan_feed(chat_scan *s, const char *text, size_t n) {
    size_t i = 0;
    for (; i < n; i++) {
        const char c = text[i];
        if (!s->started) {
            if (is_blank(c))
                continue;
            s->started = true;
            s->found = CHAT_PARTIAL;
        }
        if (s->found != CHAT_PARTIAL)
            break;
        if (s->scalar && (is_blank(c) || strchr(",]}", c))) { /* a number or a word has ended */
            s->found = CHAT_WHOLE;
            break;
        }
        if (s->in_string)
            feed_string(s, c);
        else
            feed_byte(s, c);
    }
    return i;
}

chat_found chat_span_value(strview text, strview *out, nib_status *status) {
    chat_scan s = {0};
    const size_t end = chat_scan_feed(&s, text.p, text.n), blank = chat_span_blank(text);
    *out = (strview){text.p + blank, end - blank};
    *status = NIB_OK;
    if (!s.started)
        return CHAT_PARTIAL;
    if (s.found != CHAT_WHOLE && !(s.found == CHAT_PARTIAL && s.scalar))
        return s.found;
    json_t *json;
    *status = json_read(&json, out->p, out->n, "call", NULL);
    if (*status != NIB_OK)
        return CHAT_BROKEN;
    json_decref(json);
    return CHAT_WHOLE;
}

/* Valid JSON: the value at TEXT's start, and what follows it and its comma. */
static strview take_value(strview *text) {
    chat_scan s = {0};
    const size_t blank = chat_span_blank(*text);
    *text = (strview){text->p + blank, text->n - blank};
    const size_t n = chat_scan_feed(&s, text->p, text->n);
    const strview value = {text->p, n};
    *text = (strview){text->p + n, text->n - n};
    const size_t after = chat_span_blank(*text);
    *text = (strview){text->p + after, text->n - after};
    if (text->n && (text->p[0] == ',' || text->p[0] == ':'))
        *text = (strview){text->p + 1, text->n - 1};
    return value;
}

strview chat_span_member(strview object, const char *name) {
    const size_t n = strlen(name);
    strview rest = {object.p + 1, object.n - 2}; /* without the braces */
    while (chat_span_blank(rest) < rest.n) {
        const strview key = take_value(&rest), value = take_value(&rest);
        if (key.n == n + 2 && memcmp(key.p + 1, name, n) == 0)
            return value;
    }
    return (strview){0};
}

strview chat_span_element(strview list, size_t at) {
    strview rest = {list.p + 1, list.n - 2};
    while (chat_span_blank(rest) < rest.n) {
        const strview value = take_value(&rest);
        if (at-- == 0)
            return value;
    }
    return (strview){0};
}
