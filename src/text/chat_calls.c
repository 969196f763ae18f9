/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls out of text, by the shape of a format. Arguments that are JSON stay the bytes that the model wrote.
 */
#include "text/chat_calls.h"

#include "base/mem.h"

#define MAX_NAME 128 /* bytes of a function's name */

/* ---- the list ---- */

void chat_calls_free(chat_calls *c) {
    mem_free(c->list);
    text_buffer_free(&c->text);
    memset(c, 0, sizeof *c);
}

strview chat_calls_text(const chat_calls *c, chat_part part) {
    return (strview){c->text.bytes + part.at, part.n};
}

static nib_status keep(chat_calls *c, strview s, chat_part *out, nib_error *err) {
    *out = (chat_part){c->text.n, s.n};
    return text_buffer_append(&c->text, s.p, s.n, err);
}

static nib_status keep_call(chat_calls *c, strview name, strview id, strview arguments, chat_call *out,
                            nib_error *err) {
    NIB_TRY(keep(c, name, &out->name, err));
    NIB_TRY(keep(c, id, &out->id, err));
    return keep(c, arguments, &out->arguments, err);
}

nib_status chat_calls_open(chat_calls *c, strview name, strview id, strview arguments, size_t end,
                           nib_error *err) {
    c->has_open = true;
    c->open_end = end;
    return keep_call(c, name, id, arguments, &c->open, err);
}

nib_status chat_calls_add(chat_calls *c, strview name, strview id, strview arguments, nib_error *err) {
    if (c->n == c->capacity) {
        const size_t capacity = c->capacity ? 2 * c->capacity : 4;
        chat_call *grown = mem_resize(c->list, capacity, sizeof *grown);
        if (!grown)
            return nib_fail(err, NIB_NO_MEMORY, "no memory for the calls of an answer");
        c->list = grown;
        c->capacity = capacity;
    }
    NIB_TRY(keep_call(c, name, id, arguments, &c->list[c->n], err));
    c->n++;
    return NIB_OK;
}

/* ---- the cursor ---- */

strview chat_rest(const chat_cursor *c) {
    return (strview){c->s.p + c->at, c->s.n - c->at};
}

bool chat_at(const chat_cursor *c, const char *mark) {
    const size_t n = strlen(mark);
    return c->s.n - c->at >= n && memcmp(c->s.p + c->at, mark, n) == 0;
}

chat_found chat_missing(const chat_cursor *c) {
    return c->at_end ? CHAT_BROKEN : CHAT_PARTIAL;
}

chat_found chat_expect(chat_cursor *c, const char *mark) {
    const strview rest = chat_rest(c);
    const size_t n = strlen(mark);
    if (chat_at(c, mark)) {
        c->at += n;
        return CHAT_WHOLE;
    }
    return rest.n < n && memcmp(rest.p, mark, rest.n) == 0 ? chat_missing(c) : CHAT_BROKEN;
}

void chat_skip_blank(chat_cursor *c) {
    c->at += chat_span_blank(chat_rest(c));
}

bool chat_seek(const chat_cursor *c, const char *mark, size_t *at) {
    const strview rest = chat_rest(c);
    const char *found = rest.n ? memmem(rest.p, rest.n, mark, strlen(mark)) : NULL;
    if (found)
        *at = (size_t)(found - c->s.p);
    return found != NULL;
}

/* ---- names ---- */

static strview trim(strview s) {
    const size_t blank = chat_span_blank(s);
    s = (strview){s.p + blank, s.n - blank};
    while (s.n && strchr(" \t\r\n", s.p[s.n - 1]))
        s.n--;
    return s;
}

bool chat_is_name(strview s) {
    for (size_t i = 0; i < s.n; i++)
        if ((unsigned char)s.p[i] <= ' ' || strchr("<>{}[]\"'|", s.p[i]))
            return false;
    return s.n > 0 && s.n <= MAX_NAME;
}

/* "functions.NAME:0", Kimi's id, is a name too. */
static void split_id(strview *name, strview *id) {
    static const char prefix[] = "functions.";
    const size_t n = sizeof prefix - 1;
    if (name->n <= n || memcmp(name->p, prefix, n) != 0)
        return;
    *id = *name;
    *name = (strview){name->p + n, name->n - n};
    const char *colon = memrchr(name->p, ':', name->n);
    if (colon)
        name->n = (size_t)(colon - name->p);
}

/* ---- the shapes ---- */

/* Steps over a closing MARK, which may be missing at the end of the answer. */
static chat_found close_call(chat_cursor *c, const char *mark) {
    if (!mark)
        return CHAT_WHOLE;
    chat_skip_blank(c);
    if (c->at_end && c->at == c->s.n)
        return CHAT_WHOLE;
    return chat_expect(c, mark);
}

/* A JSON object at the cursor as the arguments of NAME. */
static nib_status json_arguments(chat_cursor *c, strview name, strview id, chat_calls *out, chat_found *found,
                                 nib_error *err) {
    strview value;
    nib_status status;
    *found = chat_span_value(chat_rest(c), &value, &status);
    if (status == NIB_NO_MEMORY)
        return nib_fail(err, status, "no memory for the calls of an answer");
    const size_t end = (size_t)(value.p - c->s.p) + value.n;
    if (*found == CHAT_PARTIAL && value.n && value.p[0] == '{')
        NIB_TRY(chat_calls_open(out, name, id, value, end, err));
    if (*found == CHAT_PARTIAL)
        *found = chat_missing(c);
    if (*found == CHAT_WHOLE && !chat_is_object(value))
        *found = CHAT_BROKEN;
    if (*found != CHAT_WHOLE)
        return NIB_OK;
    c->at = end;
    return chat_calls_add(out, name, id, value, err);
}

/* NAME up to the first of MARKS (ends with NULL), which stays. */
static chat_found read_name(chat_cursor *c, const char *const *marks, strview *name) {
    size_t end = c->s.n, at;
    bool any = false;
    for (; *marks; marks++)
        if (chat_seek(c, *marks, &at) && at <= end) {
            end = at;
            any = true;
        }
    if (!any)
        return c->s.n - c->at > MAX_NAME + 64 ? CHAT_BROKEN : chat_missing(c);
    *name = trim((strview){c->s.p + c->at, end - c->at});
    c->at = end;
    return chat_is_name(*name) ? CHAT_WHOLE : CHAT_BROKEN;
}

/* What was put together may name a key twice or hold bytes that are no text. */
static nib_status check_object(const text_buffer *object, chat_found *found, nib_error *err) {
    json_t *json;
    const nib_status status = json_read(&json, object->bytes, object->n, "call", NULL);
    *found = status == NIB_OK && json_is_object(json) ? CHAT_WHOLE : CHAT_BROKEN;
    json_decref(json);
    return status == NIB_NO_MEMORY ? nib_fail(err, status, "no memory for the calls of an answer") : NIB_OK;
}

/* The call whose arguments were put together, or as much of it as there is. */
static nib_status keep_object(const chat_cursor *c, strview name, strview id, const text_buffer *object,
                              chat_found found, chat_calls *out, nib_error *err) {
    const strview arguments = {object->bytes, object->n};
    if (found == CHAT_WHOLE)
        return chat_calls_add(out, name, id, arguments, err);
    return found == CHAT_PARTIAL && arguments.n && arguments.p[0] == '{'
               ? chat_calls_open(out, name, id, arguments, c->at, err)
               : NIB_OK;
}

static nib_status read_named(chat_cursor *c, const chat_format *f, const json_t *tools, chat_calls *out,
                             chat_found *found, nib_error *err) {
    const char *const marks[] = {f->name_end ? f->name_end : f->param_open,
                                 f->name_end ? NULL : f->call_close, NULL};
    strview name, id = {"", 0};
    *found = chat_expect(c, f->call_open);
    if (*found == CHAT_WHOLE)
        *found = read_name(c, marks, &name);
    if (*found != CHAT_WHOLE)
        return NIB_OK;
    c->at += f->name_end ? strlen(f->name_end) : 0;
    size_t head_end = c->at;
    if (f->head_end && !chat_seek(c, f->head_end, &head_end)) {
        *found = chat_missing(c);
        return NIB_OK;
    }
    c->at = head_end + (f->head_end ? strlen(f->head_end) : 0);
    split_id(&name, &id);
    if (f->param_open) {
        text_buffer object = {0};
        nib_status status = chat_tags_read(c, f, tools, name, &object, found, err);
        if (status == NIB_OK && *found == CHAT_WHOLE)
            status = check_object(&object, found, err);
        if (status == NIB_OK)
            status = keep_object(c, name, id, &object, *found, out, err);
        text_buffer_free(&object);
        return status;
    }
    NIB_TRY(json_arguments(c, name, id, out, found, err));
    if (*found == CHAT_WHOLE)
        *found = close_call(c, f->call_close);
    return NIB_OK;
}

static nib_status read_object(chat_cursor *c, const chat_format *f, chat_calls *out, chat_found *found,
                              nib_error *err) {
    *found = chat_expect(c, f->call_open);
    while (*found == CHAT_WHOLE) { /* several objects one after the other: MiniMax M1 */
        NIB_TRY(chat_objects_read(c, out, found, err));
        chat_skip_blank(c);
        if (!f->call_close || c->at == c->s.n || c->s.p[c->at] != '{')
            break;
    }
    if (*found == CHAT_WHOLE)
        *found = close_call(c, f->call_close);
    return NIB_OK;
}

static bool is_tool(const json_t *tools, strview name) {
    size_t i;
    const json_t *tool;
    json_array_foreach(tools, i, tool) {
        const json_t *function = json_object_get(tool, "function");
        const char *known = json_string_value(json_object_get(function ? function : tool, "name"));
        if (known && strview_is(name, known))
            return true;
    }
    return false;
}

/* Nothing around it says that it is a call: so only that of a tool that was offered is one. */
static nib_status read_bare(chat_cursor *c, const chat_format *f, const json_t *tools, chat_calls *out,
                            chat_found *found, nib_error *err) {
    if (chat_at(c, f->call_open))
        c->at += strlen(f->call_open);
    chat_skip_blank(c);
    NIB_TRY(chat_objects_read(c, out, found, err));
    for (size_t i = 0; i < out->n; i++)
        if (!is_tool(tools, chat_calls_text(out, out->list[i].name)))
            *found = CHAT_BROKEN;
    if (out->has_open && !is_tool(tools, chat_calls_text(out, out->open.name)))
        *found = CHAT_BROKEN;
    return NIB_OK;
}

static nib_status read_mistral(chat_cursor *c, const chat_format *f, chat_calls *out, chat_found *found,
                               nib_error *err) {
    static const char call_id[] = "[CALL_ID]";
    const char *const marks[] = {call_id, f->name_end, "{", NULL}, *const id_marks[] = {f->name_end, NULL};
    strview name, id = {"", 0};
    *found = chat_expect(c, f->call_open);
    if (*found != CHAT_WHOLE)
        return NIB_OK;
    chat_skip_blank(c);
    if (c->at < c->s.n && (c->s.p[c->at] == '[' || c->s.p[c->at] == '{'))
        return chat_objects_read(c, out, found, err);
    *found = read_name(c, marks, &name);
    if (*found == CHAT_WHOLE && chat_at(c, call_id)) {
        c->at += sizeof call_id - 1;
        *found = read_name(c, id_marks, &id);
    }
    if (*found != CHAT_WHOLE)
        return NIB_OK;
    if (chat_at(c, f->name_end))
        c->at += strlen(f->name_end);
    return json_arguments(c, name, id, out, found, err);
}

static nib_status read_gemma(chat_cursor *c, const chat_format *f, chat_calls *out, chat_found *found,
                             nib_error *err) {
    static const char *const marks[] = {"{", NULL};
    strview name;
    text_buffer object = {0};
    *found = chat_expect(c, f->call_open);
    if (*found == CHAT_WHOLE)
        *found = read_name(c, marks, &name);
    if (*found != CHAT_WHOLE)
        return NIB_OK;
    nib_status status = chat_gemma_read(c, &object, found, err);
    if (status == NIB_OK && *found == CHAT_WHOLE)
        *found = close_call(c, f->call_close);
    if (status == NIB_OK && *found == CHAT_WHOLE)
        status = check_object(&object, found, err);
    if (status == NIB_OK)
        status = keep_object(c, name, (strview){"", 0}, &object, *found, out, err);
    text_buffer_free(&object);
    return status;
}

static nib_status read_one(chat_cursor *c, const chat_format *f, const json_t *tools, chat_calls *out,
                           chat_found *found, nib_error *err) {
    switch (f->shape) {
    case CHAT_NAMED:
        return read_named(c, f, tools, out, found, err);
    case CHAT_OBJECT:
        return read_object(c, f, out, found, err);
    case CHAT_BARE:
        return read_bare(c, f, tools, out, found, err);
    case CHAT_MISTRAL:
        return read_mistral(c, f, out, found, err);
    case CHAT_GEMMA:
        return read_gemma(c, f, out, found, err);
    case CHAT_NO_CALLS:
    case CHAT_HARMONY:
        break;
    }
    *found = CHAT_BROKEN;
    return NIB_OK;
}

/* Calls until the section closes, or one where there is none around it. */
static nib_status read_all(chat_cursor *c, const chat_format *f, const json_t *tools, chat_calls *out,
                           chat_found *found, nib_error *err) {
    const bool section = f->section_open && chat_at(c, f->section_open);
    if (section)
        c->at += strlen(f->section_open);
    for (;;) {
        chat_skip_blank(c);
        if (section && chat_at(c, f->section_close)) {
            c->at += strlen(f->section_close);
            *found = out->n ? CHAT_WHOLE : CHAT_BROKEN;
            return NIB_OK;
        }
        if (section && c->at == c->s.n) {
            *found = c->at_end && out->n ? CHAT_WHOLE : chat_missing(c);
            return NIB_OK;
        }
        NIB_TRY(read_one(c, f, tools, out, found, err));
        if (*found == CHAT_BROKEN && section && chat_expect(c, f->section_close) == CHAT_PARTIAL)
            *found = CHAT_PARTIAL; /* the section's end is coming */
        if (*found != CHAT_WHOLE || !section)
            return NIB_OK;
    }
}

nib_status chat_calls_read(const chat_format *f, const json_t *tools, strview text, bool at_end,
                           chat_calls *out, chat_found *found, size_t *used, nib_error *err) {
    chat_cursor c = {.s = text, .at_end = at_end};
    const nib_status status = read_all(&c, f, tools, out, found, err);
    *used = c.at;
    out->has_open = false;
    if (status != NIB_OK || *found != CHAT_WHOLE)
        out->n = out->text.n = 0;
    return status;
}

nib_status chat_calls_peek(const chat_format *f, const json_t *tools, strview text, chat_calls *out,
                           size_t *end, nib_error *err) {
    chat_cursor c = {.s = text};
    chat_found found;
    const nib_status status = read_all(&c, f, tools, out, &found, err);
    *end = out->has_open ? out->open_end : c.at;
    if (status != NIB_OK || found == CHAT_BROKEN) {
        out->n = out->text.n = 0;
        out->has_open = false;
    }
    return status;
}
