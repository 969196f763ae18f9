/* SPDX-License-Identifier: Apache-2.0
 *
 * Calls written as JSON objects, {"name": N, "arguments": {...}} in any of its spellings: whole ones, and
 * what can be told of one that is still being written.
 */
#include "base/mem.h"
#include "text/chat_calls.h"

static nib_status no_memory(nib_error *err) {
    return nib_fail(err, NIB_NO_MEMORY, "no memory for the calls of an answer");
}

bool chat_is_object(strview s) {
    return s.n > 1 && s.p[0] == '{';
}

/* The text of a JSON string, decoded into OUT. */
static nib_status decode(strview s, text_buffer *out, bool *is_string, nib_error *err) {
    json_t *json;
    const nib_status status = json_read(&json, s.p, s.n, "call", NULL);
    *is_string = false;
    if (status != NIB_OK)
        return status == NIB_NO_MEMORY ? no_memory(err) : NIB_OK;
    *is_string = json_is_string(json);
    nib_status done = NIB_OK;
    if (*is_string)
        done = text_buffer_append(out, json_string_value(json), json_string_length(json), err);
    json_decref(json);
    return done;
}

/* What an object says of a call, as JSON; the first member of a kind counts. */
typedef struct object_call {
    strview name, id, arguments; /* .p == NULL: it has none */
    bool closed;                 /* the arguments end */
} object_call;

static bool is_one_of(strview key, const char *const *names) {
    while (*names && !chat_span_is(key, *names))
        names++;
    return *names != NULL;
}

/* The members of OBJECT, which may break off. */
static object_call read_members(strview object) {
    static const char *const names[] = {"name", "tool_name", NULL},
                             *const ids[] = {"id", "tool_call_id", NULL},
                             *const arguments[] = {"arguments", "parameters", "args", NULL};
    object_call call = {.name = {0}};
    strview rest = {object.p + 1, object.n - 1}, key, value;
    while (chat_span_next(&rest, &key) == CHAT_WHOLE) {
        const bool whole = chat_span_next(&rest, &value) == CHAT_WHOLE,
                   fresh = !call.name.p && !call.arguments.p;
        strview *of = is_one_of(key, names)       ? &call.name
                      : is_one_of(key, ids)       ? &call.id
                      : is_one_of(key, arguments) ? &call.arguments
                                                  : NULL;
        if (fresh && chat_span_is(key, "function") && value.n && value.p[0] == '{') {
            const strview id = call.id;
            call = read_members(value);
            call.id = call.id.p ? call.id : id;
        } else if (of && !of->p && (whole || of == &call.arguments)) {
            *of = value;
            call.closed = of == &call.arguments ? whole : call.closed;
        }
        if (!whole)
            break;
    }
    return call;
}

/* Arguments given as a JSON string of an object are that object. */
static nib_status unwrap(strview *arguments, text_buffer *held, chat_found *found, nib_error *err) {
    nib_status status = NIB_OK;
    if (!arguments->p || strview_is(*arguments, "null")) {
        *arguments = (strview){"{}", 2};
    } else if (arguments->p[0] == '"') {
        bool is_string;
        NIB_TRY(decode(*arguments, held, &is_string, err));
        const strview text = {held->bytes, held->n};
        const chat_found whole = text.n ? chat_span_value(text, arguments, &status) : CHAT_BROKEN;
        *found = whole == CHAT_WHOLE && chat_is_object(*arguments) ? CHAT_WHOLE : CHAT_BROKEN;
    }
    if (!chat_is_object(*arguments))
        *found = CHAT_BROKEN;
    return status == NIB_NO_MEMORY ? no_memory(err) : NIB_OK;
}

/* The call of OBJECT: whole, or (OPEN) as far as it is known. */
static nib_status add_object(strview object, bool open, size_t end, chat_calls *out, chat_found *found,
                             nib_error *err) {
    object_call call = read_members(object);
    text_buffer name = {0}, id = {0}, held = {0};
    bool named = false, has_id = false;
    *found = CHAT_WHOLE;
    nib_status status = call.name.p ? decode(call.name, &name, &named, err) : NIB_OK;
    if (status == NIB_OK && call.id.p)
        status = decode(call.id, &id, &has_id, err);
    if (status == NIB_OK && !open)
        status = unwrap(&call.arguments, &held, found, err);
    const strview plain = {name.bytes, name.n}, id_text = {id.bytes, id.n};
    if (!named || !chat_is_name(plain) || (open && (!call.arguments.n || call.arguments.p[0] != '{')))
        *found = CHAT_BROKEN;
    if (open && call.closed && call.arguments.n) /* the last brace comes when the call is one */
        call.arguments.n--;
    if (status == NIB_OK && *found == CHAT_WHOLE && open) {
        end = (size_t)(call.arguments.p - object.p) + call.arguments.n + end;
        status = chat_calls_open(out, plain, id_text, call.arguments, end, err);
    } else if (status == NIB_OK && *found == CHAT_WHOLE) {
        status = chat_calls_add(out, plain, id_text, call.arguments, err);
    }
    text_buffer_free(&name);
    text_buffer_free(&id);
    text_buffer_free(&held);
    return status;
}

/* The objects of LIST, which stands at AT and may break off. */
static nib_status read_list(strview list, size_t at, chat_calls *out, chat_found *found, nib_error *err) {
    strview rest = {list.p + 1, list.n - 1}, element;
    for (;;) {
        const size_t blank = chat_span_blank(rest);
        if (blank == rest.n || rest.p[blank] == ']')
            return NIB_OK;
        const bool whole = chat_span_next(&rest, &element) == CHAT_WHOLE;
        if (element.p[0] != '{')
            *found = CHAT_BROKEN;
        else
            NIB_TRY(add_object(element, !whole, at + (size_t)(element.p - list.p), out, found, err));
        if (!whole || *found != CHAT_WHOLE)
            return NIB_OK;
    }
}

/* An object, or a list of objects, at the cursor. */
nib_status chat_objects_read(chat_cursor *c, chat_calls *out, chat_found *found, nib_error *err) {
    strview value;
    nib_status status;
    chat_found known = CHAT_WHOLE;
    *found = chat_span_value(chat_rest(c), &value, &status);
    if (status == NIB_NO_MEMORY)
        return no_memory(err);
    const size_t at = (size_t)(value.p - c->s.p);
    const bool whole = *found == CHAT_WHOLE, open = *found == CHAT_PARTIAL && !c->at_end && value.n > 0;
    if (*found == CHAT_PARTIAL)
        *found = chat_missing(c);
    if (whole)
        c->at = at + value.n;
    if (!whole && !open)
        return NIB_OK;
    if (value.p[0] == '{')
        status = add_object(value, open, at, out, &known, err);
    else if (value.p[0] == '[')
        status = read_list(value, at, out, &known, err);
    else
        known = CHAT_BROKEN;
    *found = whole ? known : *found;
    return status;
}
