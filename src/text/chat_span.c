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
    *status = json_read_written(&json, out->p, out->n, "call", NULL);
    if (*status != NIB_OK)
        return CHAT_BROKEN;
    json_decref(json);
    return CHAT_WHOLE;
}

/* Steps over BYTES at the start of TEXT. */
static void skip(strview *text, size_t bytes) {
    *text = (strview){text->p + bytes, text->n - bytes};
}

chat_found chat_span_next(strview *text, strview *value) {
    chat_scan s = {0};
    skip(text, chat_span_blank(*text));
    const size_t n = chat_scan_feed(&s, text->p, text->n);
    *value = (strview){text->p, n};
    skip(text, n);
    skip(text, chat_span_blank(*text));
    if (text->n && (text->p[0] == ',' || text->p[0] == ':'))
        skip(text, 1);
    return s.started ? s.found : CHAT_PARTIAL;
}

strview chat_span_member(strview object, const char *name) {
    strview rest = {object.p + 1, object.n - 2}, key, value; /* without the braces */
    while (chat_span_blank(rest) < rest.n) {
        chat_span_next(&rest, &key);
        chat_span_next(&rest, &value);
        if (chat_span_is(key, name))
            return value;
    }
    return (strview){0};
}

bool chat_span_is(strview text, const char *word) {
    const size_t n = strlen(word);
    return text.n == n + 2 && text.p[0] == '"' && memcmp(text.p + 1, word, n) == 0;
}
