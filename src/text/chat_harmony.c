/* SPDX-License-Identifier: Apache-2.0
 *
 * GPT-OSS's harmony: an answer is messages, each a head (channel, recipient) and a body:
 *   <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...
 * The prompt ends with <|start|>assistant, so the answer begins inside a head. The recipient of a call stands
 * behind the role or behind the channel.
 */
#include "base/utf8.h"
#include "text/chat_reader_parts.h"

#define MAX_HEAD 512

static const char *const head_marks[] = {"<|message|>", NULL};
static const char *const body_marks[] = {"<|end|>",   "<|call|>",    "<|return|>",
                                         "<|start|>", "<|channel|>", NULL};

/* The word behind the last MARK in HEAD; .n == 0: none. */
static strview word_after(strview head, const char *mark) {
    const char *at = NULL, *next;
    for (strview rest = head; rest.n && (next = memmem(rest.p, rest.n, mark, strlen(mark)));) {
        at = next;
        rest = (strview){next + 1, head.n - (size_t)(next + 1 - head.p)};
    }
    if (!at)
        return (strview){"", 0};
    strview word = {at + strlen(mark), head.n - (size_t)(at - head.p) - strlen(mark)};
    size_t n = 0;
    while (n < word.n && !strchr(" \n\t<", word.p[n]))
        n++;
    return (strview){word.p, n};
}

static nib_status read_head(chat_reader *r, strview head, nib_error *err) {
    const strview channel = word_after(head, "<|channel|>"), to = word_after(head, "to=");
    const strview recipient = {to.p, strview_is(to, "assistant") ? 0 : to.n};
    r->recipient.n = 0;
    r->fresh = true;
    r->spaces.n = 0;
    NIB_TRY(text_buffer_append(&r->recipient, recipient.p, recipient.n, err));
    r->state = recipient.n                       ? CHAT_IN_CALL
               : strview_is(channel, "analysis") ? CHAT_IN_REASONING
                                                 : CHAT_IN_TEXT;
    return NIB_OK;
}

/* A body that never had a head is text: a model that writes no harmony, or whose control tokens are hidden.
 */
static nib_status step_head(chat_reader *r, bool last, bool *more, nib_error *err) {
    const strview s = chat_input(r);
    const char *mark;
    const size_t n = chat_find_mark(s, head_marks, &mark);
    *more = mark || last || n > MAX_HEAD;
    if (mark && n <= MAX_HEAD) {
        NIB_TRY(read_head(r, (strview){s.p, n}, err));
        chat_take(r, n + strlen(mark));
    } else if (*more) { /* its first character is text, so that a marker there begins no head again */
        const size_t first = utf8_lead_bytes((unsigned char)s.p[0]);
        r->state = CHAT_IN_TEXT;
        return chat_give(r, CHAT_PIECE_TEXT, first < s.n ? first : s.n, err);
    }
    return NIB_OK;
}

/* The arguments that the body of a message to a function, up to N, holds or begins with; broken: it is text.
 */
static nib_status read_arguments(const chat_reader *r, size_t n, strview *value, chat_found *found,
                                 nib_error *err) {
    const strview body = {chat_input(r).p, n};
    nib_status status;
    *found = chat_span_value(body, value, &status);
    if (status == NIB_NO_MEMORY)
        return nib_fail(err, status, "no memory for the calls of an answer");
    const size_t end = (size_t)(value->p - body.p) + value->n;
    if ((value->n && value->p[0] != '{') || json_array_size(r->tools) == 0 ||
        (*found == CHAT_WHOLE && chat_span_blank((strview){body.p + end, n - end}) < n - end))
        *found = CHAT_BROKEN;
    return NIB_OK;
}

static nib_status give_call(chat_reader *r, strview arguments, nib_error *err) {
    static const char prefix[] = "functions.";
    const size_t skip = sizeof prefix - 1;
    strview name = {r->recipient.bytes, r->recipient.n};
    if (name.n > skip && memcmp(name.p, prefix, skip) == 0)
        name = (strview){name.p + skip, name.n - skip};
    chat_calls calls = {0};
    nib_status status = chat_calls_add(&calls, name, (strview){"", 0}, arguments, err);
    if (status == NIB_OK)
        status = chat_give_calls(r, &calls, err);
    chat_calls_free(&calls);
    return status;
}

/* The body of a message to a function, up to N: a call when it is a JSON object, else text. */
static nib_status give_body(chat_reader *r, size_t n, nib_error *err) {
    strview value;
    chat_found found;
    NIB_TRY(read_arguments(r, n, &value, &found, err));
    if (found == CHAT_WHOLE) {
        NIB_TRY(give_call(r, value, err));
        chat_end_calls(r, true);
        chat_take(r, n);
        return NIB_OK;
    }
    const size_t told = r->told;
    return chat_give(r, CHAT_PIECE_TEXT, chat_end_calls(r, false) ? n - told : n, err);
}

/* Gives what is known of the call whose body, up to N, goes on. */
static nib_status give_open(chat_reader *r, size_t n, nib_error *err) {
    strview value;
    chat_found found;
    if (!chat_may_peek(r))
        return NIB_OK;
    NIB_TRY(read_arguments(r, n, &value, &found, err));
    if (found == CHAT_BROKEN || value.n == 0)
        return NIB_OK;
    value.n -= found == CHAT_WHOLE; /* its last brace comes when nothing but the object was the body */
    r->told = (size_t)(value.p - chat_input(r).p) + value.n;
    return give_call(r, value, err);
}

/* Where the body of a message ends, as chat_find_mark. What looks like a mark inside a string of a call's
 * arguments is the string's, unless nothing else ends the call. */
static size_t body_end(const chat_reader *r, bool last, const char **mark) {
    const strview s = chat_input(r);
    const size_t first = chat_find_mark(s, body_marks, mark);
    const char *const first_mark = *mark;
    chat_scan scan = {0};
    size_t n = first, scanned = 0;
    while (r->state == CHAT_IN_CALL && *mark) {
        scanned += chat_scan_feed(&scan, s.p + scanned, n - scanned);
        if (scanned < n || !scan.in_string)
            return n;
        const size_t from = n + strlen(*mark);
        n = from + chat_find_mark((strview){s.p + from, s.n - from}, body_marks, mark);
    }
    if (*mark || !last || r->begun > 0) /* what was told of a call stays told */
        return n;
    chat_scan_feed(&scan, s.p + scanned, s.n - scanned);
    if (!first_mark || scan.found == CHAT_WHOLE)
        return s.n;
    *mark = first_mark;
    return first;
}

static nib_status step_body(chat_reader *r, bool last, bool *more, nib_error *err) {
    const char *mark;
    size_t n = body_end(r, last, &mark);
    *more = mark || last;
    if (r->state == CHAT_IN_CALL && !*more)
        return give_open(r, n, err);
    n = !mark && last ? chat_input(r).n : n;
    if (r->state == CHAT_IN_CALL)
        NIB_TRY(give_body(r, n, err));
    else
        NIB_TRY(chat_give(r, r->state == CHAT_IN_REASONING ? CHAT_PIECE_REASONING : CHAT_PIECE_TEXT, n, err));
    if (!mark)
        return NIB_OK;
    if (strcmp(mark, "<|channel|>") != 0) /* that one belongs to the next head */
        chat_take(r, strlen(mark));
    r->state = CHAT_IN_HEAD;
    return NIB_OK;
}

nib_status chat_harmony_step(chat_reader *r, bool last, bool *more, nib_error *err) {
    return r->state == CHAT_IN_HEAD ? step_head(r, last, more, err) : step_body(r, last, more, err);
}
