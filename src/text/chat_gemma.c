/* SPDX-License-Identifier: Apache-2.0
 *
 * Gemma 4's arguments, {key:<|"|>text<|"|>,n:42,o:{...},l:[...]}, to JSON.
 */
#include "text/chat_calls.h"

#define QUOTE_MARK "<|\"|>"
#define MAX_DEPTH  64

static nib_status add(text_buffer *out, const char *words, nib_error *err) {
    return text_buffer_append(out, words, strlen(words), err);
}

static nib_status read_value(chat_cursor *c, text_buffer *out, int depth, chat_found *found, nib_error *err);

/* Text between two marks. */
static nib_status read_text(chat_cursor *c, text_buffer *out, chat_found *found, nib_error *err) {
    size_t end;
    c->at += strlen(QUOTE_MARK);
    *found = chat_missing(c);
    if (!chat_seek(c, QUOTE_MARK, &end))
        return NIB_OK;
    *found = CHAT_WHOLE;
    const strview text = {c->s.p + c->at, end - c->at};
    c->at = end + strlen(QUOTE_MARK);
    return chat_quote(out, text, err);
}

static nib_status read_key(chat_cursor *c, text_buffer *out, chat_found *found, nib_error *err) {
    size_t end;
    if (chat_at(c, QUOTE_MARK)) {
        NIB_TRY(read_text(c, out, found, err));
        if (*found == CHAT_WHOLE)
            *found = chat_expect(c, ":");
        return NIB_OK;
    }
    *found = chat_missing(c);
    if (!chat_seek(c, ":", &end))
        return NIB_OK;
    const strview key = {c->s.p + c->at, end - c->at};
    *found = key.n && key.n <= 256 ? CHAT_WHOLE : CHAT_BROKEN;
    c->at = end + 1;
    return *found == CHAT_WHOLE ? chat_quote(out, key, err) : NIB_OK;
}

/* A number or a word: as far as JSON's letters go. */
static nib_status read_scalar(chat_cursor *c, text_buffer *out, chat_found *found, nib_error *err) {
    const size_t from = c->at;
    strview value;
    nib_status status = NIB_OK;
    while (c->at < c->s.n && !strchr(",}]<", c->s.p[c->at]))
        c->at++;
    *found = chat_missing(c);
    if (c->at == c->s.n)
        return NIB_OK;
    const strview raw = chat_json_word((strview){c->s.p + from, c->at - from});
    *found = raw.n ? chat_span_value(raw, &value, &status) : CHAT_BROKEN;
    if (status == NIB_NO_MEMORY)
        return nib_fail(err, status, "no memory for the calls of an answer");
    if (*found != CHAT_WHOLE || value.p + value.n != raw.p + raw.n) {
        *found = CHAT_BROKEN;
        return NIB_OK;
    }
    return text_buffer_append(out, value.p, value.n, err);
}

/* {...} or [...]; the cursor stands on the bracket. */
static nib_status read_group(chat_cursor *c, text_buffer *out, int depth, chat_found *found, nib_error *err) {
    const bool object = c->s.p[c->at] == '{';
    const char *close = object ? "}" : "]";
    c->at++;
    NIB_TRY(add(out, object ? "{" : "[", err));
    for (size_t n = 0;; n++) {
        *found = chat_missing(c);
        if (c->at == c->s.n)
            return NIB_OK;
        if (chat_at(c, close)) {
            c->at++;
            *found = CHAT_WHOLE;
            return add(out, close, err);
        }
        if (n) {
            *found = chat_expect(c, ",");
            if (*found != CHAT_WHOLE)
                return NIB_OK;
            NIB_TRY(add(out, ", ", err));
        }
        chat_skip_blank(c);
        *found = CHAT_WHOLE;
        if (object)
            NIB_TRY(read_key(c, out, found, err));
        if (object && *found == CHAT_WHOLE)
            NIB_TRY(add(out, ": ", err));
        if (*found == CHAT_WHOLE)
            NIB_TRY(read_value(c, out, depth + 1, found, err));
        if (*found != CHAT_WHOLE)
            return NIB_OK;
    }
}

static nib_status read_value(chat_cursor *c, text_buffer *out, int depth, chat_found *found, nib_error *err) {
    chat_skip_blank(c);
    *found = depth > MAX_DEPTH ? CHAT_BROKEN : chat_missing(c);
    if (depth > MAX_DEPTH || c->at == c->s.n)
        return NIB_OK;
    if (c->s.p[c->at] == '{' || c->s.p[c->at] == '[')
        return read_group(c, out, depth, found, err);
    if (chat_at(c, QUOTE_MARK))
        return read_text(c, out, found, err);
    *found = chat_expect(c, QUOTE_MARK);
    return *found == CHAT_PARTIAL ? NIB_OK : read_scalar(c, out, found, err);
}

nib_status chat_gemma_read(chat_cursor *c, text_buffer *out, chat_found *found, nib_error *err) {
    return read_value(c, out, 0, found, err);
}
