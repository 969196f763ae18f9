/* SPDX-License-Identifier: Apache-2.0
 *
 * Text, reasoning and calls by the markers of a format. White space between them belongs to the format: it is
 * held back and dropped where one kind ends and another begins.
 */
#include "text/chat_reader.h"

#include <assert.h>

#include "base/mem.h"
#include "text/chat_parts.h"
#include "text/chat_reader_parts.h"

/* A call's closing marker may stand inside its own text: this often it is tried with the next one. */
#define MAX_ATTEMPTS 64

/* ---- the input ---- */

strview chat_input(const chat_reader *r) {
    return r->input.n ? (strview){r->input.bytes + r->at, r->input.n - r->at} : (strview){"", 0};
}

void chat_take(chat_reader *r, size_t n) {
    r->at += n;
    if (r->at == r->input.n)
        r->at = r->input.n = 0;
}

static bool is_blank(char c) {
    return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* ---- giving ---- */

static nib_status give(chat_reader *r, chat_piece_kind kind, strview text, nib_error *err) {
    const chat_piece piece = {.kind = kind, .text = text};
    r->given |= kind == CHAT_PIECE_TEXT;
    r->fresh = false;
    return r->sink(r->context, &piece, err);
}

nib_status chat_give(chat_reader *r, chat_piece_kind kind, size_t n, nib_error *err) {
    strview s = {chat_input(r).p, n};
    while (r->fresh && s.n && is_blank(s.p[0]))
        s = (strview){s.p + 1, s.n - 1};
    size_t solid = s.n;
    while (solid > 0 && is_blank(s.p[solid - 1]))
        solid--;
    nib_status status = NIB_OK;
    if (solid > 0) {
        r->piece.n = 0;
        NIB_TRY(text_buffer_append(&r->piece, r->spaces.bytes, r->spaces.n, err));
        NIB_TRY(text_buffer_append(&r->piece, s.p, solid, err));
        r->spaces.n = 0;
        status = give(r, kind, (strview){r->piece.bytes, r->piece.n}, err);
    }
    if (status == NIB_OK)
        status = text_buffer_append(&r->spaces, s.p + solid, s.n - solid, err);
    chat_take(r, n);
    return status;
}

nib_status chat_give_spaces(chat_reader *r, chat_piece_kind kind, nib_error *err) {
    const strview s = {r->spaces.bytes, r->spaces.n};
    if (s.n)
        NIB_TRY(give(r, kind, s, err));
    r->spaces.n = 0;
    return NIB_OK;
}

/* ---- calls, at once or while they are written ---- */

nib_status chat_give_calls(chat_reader *r, const chat_calls *calls, nib_error *err) {
    const size_t n = calls->n + calls->has_open;
    r->spaces.n = 0;
    for (size_t i = r->begun ? r->begun - 1 : 0; i < n; i++) {
        const chat_call *c = i < calls->n ? &calls->list[i] : &calls->open;
        const strview arguments = chat_calls_text(calls, c->arguments);
        if (i >= r->begun) {
            const chat_piece call = {.kind = CHAT_PIECE_CALL,
                                     .call = r->n_calls++,
                                     .text = chat_calls_text(calls, c->name),
                                     .id = chat_calls_text(calls, c->id)};
            r->begun = i + 1;
            r->argued = 0;
            NIB_TRY(r->sink(r->context, &call, err));
        }
        const chat_piece more = {.kind = CHAT_PIECE_ARGUMENTS,
                                 .call = r->n_calls - 1,
                                 .text = {arguments.p + r->argued, arguments.n - r->argued}};
        assert(arguments.n >= r->argued);
        r->argued = arguments.n;
        if (more.text.n)
            NIB_TRY(r->sink(r->context, &more, err));
    }
    return NIB_OK;
}

/* Long calls are looked at less often, so that all looks together cost a fixed multiple of the text. */
bool chat_may_peek(chat_reader *r) {
    const size_t n = chat_input(r).n;
    const bool may = r->streams && n - r->peeked > n / 256;
    r->peeked = may ? n : r->peeked;
    return may;
}

bool chat_end_calls(chat_reader *r, bool whole) {
    const bool broken = r->begun > 0 && !whole;
    r->n_broken += broken;
    if (broken)
        chat_take(r, r->told);
    r->begun = r->argued = r->peeked = r->told = 0;
    return broken;
}

/* ---- markers ---- */

/* Bytes at the end of S that may be the start of MARK. */
static size_t partial_mark(strview s, const char *mark) {
    size_t n = strlen(mark) - 1;
    for (n = n < s.n ? n : s.n; n > 0; n--)
        if (memcmp(s.p + s.n - n, mark, n) == 0)
            break;
    return n;
}

size_t chat_find_mark(strview s, const char *const *marks, const char **which) {
    size_t first = s.n, held = 0;
    *which = NULL;
    for (; *marks; marks++) {
        const char *at = s.n ? memmem(s.p, s.n, *marks, strlen(*marks)) : NULL;
        const size_t partial = partial_mark(s, *marks);
        if (at && (size_t)(at - s.p) < first) {
            first = (size_t)(at - s.p);
            *which = *marks;
        }
        held = partial > held ? partial : held;
    }
    return *which ? first : s.n - held;
}

/* What is looked for in a state: the opening or the closing of reasoning, the format's openings, WRAPPERS. */
static void marks_of(const chat_reader *r, const char *thinking, bool wrappers, const char *out[8]) {
    size_t n = 0;
    if (thinking)
        out[n++] = thinking;
    if (r->format && r->format->section_open)
        out[n++] = r->format->section_open;
    if (r->format && r->format->call_open)
        out[n++] = r->format->call_open;
    for (size_t i = 0; wrappers && r->wrappers && r->wrappers[i]; i++)
        out[n++] = r->wrappers[i];
    out[n] = NULL;
}

static void enter(chat_reader *r, chat_state state) {
    r->state = state;
    r->looked = 0;
    r->attempts = 0;
    memset(&r->scan, 0, sizeof r->scan);
}

/* ---- calls ---- */

/* Tries the first N bytes of the input as calls: given when they are whole and GIVE; *used is what they take.
 */
static nib_status try_calls(chat_reader *r, size_t n, bool last, bool give_them, chat_found *found,
                            size_t *used, nib_error *err) {
    chat_calls calls = {0};
    const strview s = {chat_input(r).p, n};
    nib_status status = chat_calls_read(r->format, r->tools, s, last, &calls, found, used, err);
    if (status == NIB_OK && *found == CHAT_WHOLE && give_them)
        status = chat_give_calls(r, &calls, err);
    chat_calls_free(&calls);
    return status;
}

static bool begins(strview s, const char *mark) {
    return mark && s.n >= strlen(mark) && memcmp(s.p, mark, strlen(mark)) == 0;
}

/* Where the JSON of a call without a closing marker begins; s.n: not yet there. */
static size_t json_start(const chat_reader *r, strview s) {
    size_t at = begins(s, r->format->call_open) ? strlen(r->format->call_open) : 0;
    at += chat_span_blank((strview){s.p + at, s.n - at});
    if (at < s.n && s.p[at] == '[')
        return at;
    const char *brace = at < s.n ? memchr(s.p + at, '{', s.n - at) : NULL;
    return brace ? (size_t)(brace - s.p) : s.n;
}

/* Whether the call at hand may be whole now: *n is up to where it would go. */
static bool has_end(chat_reader *r, size_t *n) {
    const strview s = chat_input(r);
    const char *close = begins(s, r->format->section_open) ? r->format->section_close : r->format->call_close;
    if (close) {
        const char *at =
            r->looked < s.n ? memmem(s.p + r->looked, s.n - r->looked, close, strlen(close)) : NULL;
        const size_t back = strlen(close) - 1;
        *n = at ? (size_t)(at - s.p) + strlen(close) : 0;
        r->looked = at                                     ? (size_t)(at - s.p) + 1
                    : s.n > back && s.n - back > r->looked ? s.n - back
                                                           : r->looked;
        return at != NULL;
    }
    if (!r->scan.started)
        r->looked = json_start(r, s);
    *n = s.n;
    if (r->looked == s.n && !r->scan.started)
        return s.n > 512; /* that long a name is none */
    r->looked += chat_scan_feed(&r->scan, s.p + r->looked, s.n - r->looked);
    *n = r->looked;
    return r->scan.found != CHAT_PARTIAL;
}

/* Gives what is known of the calls at hand, which go on. */
static nib_status give_open(chat_reader *r, nib_error *err) {
    chat_calls calls = {0};
    size_t end;
    if (!chat_may_peek(r))
        return NIB_OK;
    nib_status status = chat_calls_peek(r->format, r->tools, chat_input(r), &calls, &end, err);
    if (status == NIB_OK && calls.n + calls.has_open > 0) {
        r->told = end;
        status = chat_give_calls(r, &calls, err);
    }
    chat_calls_free(&calls);
    return status;
}

/* The call at hand is none: its first N bytes are what the state around it is made of. */
static nib_status give_up(chat_reader *r, size_t n, bool reasoned, nib_error *err) {
    const strview s = chat_input(r);
    const bool closes = r->format->call_close || begins(s, r->format->section_open);
    if (chat_end_calls(r, false)) { /* something of it was given: what follows that is text */
        enter(r, CHAT_IN_TEXT);
        return NIB_OK;
    }
    if (!closes && begins(s, r->format->call_open)) /* what follows the marker may hold a call yet */
        n = strlen(r->format->call_open);
    else if (!closes)
        n = 1;
    enter(r, reasoned ? CHAT_IN_REASONING : CHAT_IN_TEXT);
    r->at_start = false;
    return chat_give(r, reasoned ? CHAT_PIECE_REASONING : CHAT_PIECE_TEXT, n, err);
}

static nib_status step_call(chat_reader *r, bool last, bool *more, nib_error *err) {
    size_t n, used;
    chat_found found = CHAT_PARTIAL;
    *more = true;
    if (has_end(r, &n))
        NIB_TRY(try_calls(r, n, false, true, &found, &used, err));
    else if (last)
        NIB_TRY(try_calls(r, n = chat_input(r).n, true, true, &found, &used, err));
    else
        *more = false;
    if (!*more)
        return give_open(r, err);
    if (found == CHAT_WHOLE) {
        chat_end_calls(r, true);
        r->stray = begins(chat_input(r), r->format->section_open) ? NULL : r->format->section_close;
        chat_take(r, used);
        enter(r, CHAT_IN_TEXT);
        r->fresh = r->at_start = true;
        return NIB_OK;
    }
    if (found == CHAT_PARTIAL && ++r->attempts < MAX_ATTEMPTS)
        return NIB_OK; /* the marker was the call's own text: on to the next */
    return give_up(r, n, false, err);
}

/* A call within reasoning is one only when the reasoning never closes (it may be an example). */
static nib_status step_reasoned_call(chat_reader *r, bool last, bool *more, nib_error *err) {
    const strview s = chat_input(r);
    const char *close = s.n ? memmem(s.p, s.n, r->thinking->close, strlen(r->thinking->close)) : NULL;
    size_t n, used;
    chat_found found = CHAT_PARTIAL;
    *more = true;
    if (close) {
        enter(r, CHAT_IN_REASONING);
        NIB_TRY(chat_give(r, CHAT_PIECE_REASONING, (size_t)(close - s.p), err));
        return NIB_OK;
    }
    if (last) {
        NIB_TRY(try_calls(r, s.n, true, true, &found, &used, err));
        if (found != CHAT_WHOLE)
            return give_up(r, s.n, true, err);
        chat_end_calls(r, true);
        chat_take(r, used);
        enter(r, CHAT_IN_TEXT);
        r->fresh = true;
        return NIB_OK;
    }
    *more = false;
    if (!has_end(r, &n))
        return NIB_OK;
    NIB_TRY(try_calls(r, n, false, false, &found, &used, err));
    if (found != CHAT_BROKEN)
        return NIB_OK;
    *more = true;
    return give_up(r, n, true, err);
}

/* ---- text and reasoning ---- */

/* A bare call begins with a brace; white space may stand before it. */
static bool starts_bare(chat_reader *r, bool last, bool *wait) {
    const strview s = chat_input(r);
    const size_t blank = chat_span_blank(s);
    *wait = false;
    if (!r->at_start || !r->format || r->format->shape != CHAT_BARE)
        return false;
    if (blank == s.n) {
        *wait = !last;
        return false;
    }
    if (s.p[blank] == '{')
        return true;
    r->at_start = false;
    return false;
}

/* Steps over MARK and the white space before it at the start of the input; *wait: it may be coming. */
static bool take_mark(chat_reader *r, const char *mark, bool last, bool *wait) {
    const strview s = chat_input(r);
    const size_t blank = chat_span_blank(s), n = strlen(mark), rest = s.n - blank;
    *wait = !last && rest < n && memcmp(s.p + blank, mark, rest) == 0;
    if (rest < n || memcmp(s.p + blank, mark, n) != 0)
        return false;
    chat_take(r, blank + n);
    return true;
}

/* Models close what they did not open: reasoning at the start, a section behind a call. */
static bool closes_too_much(chat_reader *r, bool last, bool *wait) {
    const char *mark = r->stray;
    *wait = false;
    if (!mark)
        return false;
    const bool found = take_mark(r, mark, last, wait);
    if (!*wait)
        r->stray = NULL;
    r->fresh |= found;
    return found;
}

static nib_status step_text(chat_reader *r, bool last, bool *more, nib_error *err) {
    const char *marks[8], *mark;
    bool wait;
    *more = closes_too_much(r, last, &wait);
    if (*more || wait)
        return NIB_OK;
    if (starts_bare(r, last, &wait)) {
        NIB_TRY(chat_give(r, CHAT_PIECE_TEXT, chat_span_blank(chat_input(r)), err));
        enter(r, CHAT_IN_CALL);
        *more = true;
        return NIB_OK;
    }
    if (wait)
        return NIB_OK;
    marks_of(r, r->thinking ? r->thinking->open : NULL, true, marks);
    const size_t n = chat_find_mark(chat_input(r), marks, &mark);
    if (last && !mark)
        return chat_give(r, CHAT_PIECE_TEXT, chat_input(r).n, err);
    NIB_TRY(chat_give(r, CHAT_PIECE_TEXT, n, err));
    if (!mark)
        return NIB_OK;
    *more = true;
    for (size_t i = 0; r->wrappers && r->wrappers[i]; i++)
        if (mark == r->wrappers[i]) {
            chat_take(r, strlen(mark));
            return NIB_OK;
        }
    if (r->thinking && mark == r->thinking->open) {
        if (r->given)
            NIB_TRY(chat_give_spaces(r, CHAT_PIECE_TEXT, err));
        r->spaces.n = 0;
        chat_take(r, strlen(mark));
        enter(r, CHAT_IN_REASONING);
        r->fresh = true;
        return NIB_OK;
    }
    enter(r, CHAT_IN_CALL);
    return NIB_OK;
}

/* Models repeat the opening that their prompt ended with. */
static bool repeats_opening(chat_reader *r, bool last, bool *wait) {
    *wait = false;
    return r->fresh && take_mark(r, r->thinking->open, last, wait);
}

static nib_status step_reasoning(chat_reader *r, bool last, bool *more, nib_error *err) {
    const char *marks[8], *mark;
    bool wait;
    *more = false;
    if (repeats_opening(r, last, &wait)) {
        *more = true;
        return NIB_OK;
    }
    if (wait)
        return NIB_OK;
    marks_of(r, r->thinking->close, false, marks);
    const size_t n = chat_find_mark(chat_input(r), marks, &mark);
    if (last && !mark)
        return chat_give(r, CHAT_PIECE_REASONING, chat_input(r).n, err);
    NIB_TRY(chat_give(r, CHAT_PIECE_REASONING, n, err));
    if (!mark)
        return NIB_OK;
    *more = true;
    if (mark != r->thinking->close) {
        enter(r, CHAT_IN_REASONED_CALL);
        return NIB_OK;
    }
    r->spaces.n = 0;
    r->stray = NULL;
    chat_take(r, strlen(mark));
    enter(r, CHAT_IN_TEXT);
    r->fresh = r->at_start = true;
    return NIB_OK;
}

static nib_status step(chat_reader *r, bool last, bool *more, nib_error *err) {
    if (r->format && r->format->shape == CHAT_HARMONY)
        return chat_harmony_step(r, last, more, err);
    switch (r->state) {
    case CHAT_IN_TEXT:
        return step_text(r, last, more, err);
    case CHAT_IN_REASONING:
        return step_reasoning(r, last, more, err);
    case CHAT_IN_CALL:
        return step_call(r, last, more, err);
    case CHAT_IN_REASONED_CALL:
        return step_reasoned_call(r, last, more, err);
    case CHAT_IN_HEAD:
        break;
    }
    *more = false;
    return NIB_OK;
}

static nib_status run(chat_reader *r, bool last, nib_error *err) {
    for (bool more = true; more && chat_input(r).n > 0;)
        NIB_TRY(step(r, last, &more, err));
    return NIB_OK;
}

/* ---- open, push, end ---- */

/* Whether the prompt's own text ends with MARK, white space apart. */
static bool ends_with(const chat_prompt *p, const char *mark) {
    const size_t n = strlen(mark);
    size_t end = p->n, m = n;
    while (end > 0 && is_blank(p->text[end - 1]))
        end--;
    while (m > 0 && is_blank(mark[m - 1]))
        m--;
    return end >= m && memcmp(p->text + end - m, mark, m) == 0 && !memchr(p->marks + end - m, 1, m);
}

nib_status chat_reader_open(chat_reader **out, const chat *c, const json_t *tools, const chat_prompt *prompt,
                            chat_sink sink, void *context, nib_error *err) {
    chat_reader *r = *out = mem_array(1, sizeof *r);
    if (!r)
        return nib_fail(err, NIB_NO_MEMORY, "no memory to read an answer");
    const bool harmony = c->format && c->format->shape == CHAT_HARMONY;
    r->format = harmony || json_array_size(tools) ? c->format : NULL;
    r->thinking = c->thinking;
    r->wrappers = c->format ? c->format->wrappers : NULL;
    r->tools = tools;
    r->sink = sink;
    r->context = context;
    r->at_start = true;
    const bool reasoning = !harmony && r->thinking && prompt && ends_with(prompt, r->thinking->open);
    r->state = harmony ? CHAT_IN_HEAD : reasoning ? CHAT_IN_REASONING : CHAT_IN_TEXT;
    r->fresh = reasoning;
    r->stray = r->thinking ? r->thinking->close : NULL;
    return NIB_OK;
}

nib_status chat_reader_again(chat_reader **out, const chat_reader *unread, void *context, nib_error *err) {
    chat_reader *r = *out = mem_array(1, sizeof *r);
    assert(unread->input.n == 0 && unread->spaces.n == 0 && unread->n_calls == 0);
    if (!r)
        return nib_fail(err, NIB_NO_MEMORY, "no memory to read an answer");
    *r = *unread;
    r->context = context;
    return NIB_OK;
}

nib_status chat_reader_push(chat_reader *r, const char *text, size_t n, nib_error *err) {
    if (r->at > 0) { /* what was given away makes room */
        memmove(r->input.bytes, r->input.bytes + r->at, r->input.n - r->at);
        r->input.n -= r->at;
        r->at = 0;
    }
    NIB_TRY(text_buffer_append(&r->input, text, n, err));
    return run(r, false, err);
}

nib_status chat_reader_end(chat_reader *r, nib_error *err) {
    NIB_TRY(run(r, true, err));
    if (r->state == CHAT_IN_TEXT && r->n_calls == 0)
        return chat_give_spaces(r, CHAT_PIECE_TEXT, err);
    return NIB_OK;
}

void chat_reader_stream_calls(chat_reader *r) {
    assert(r->input.n == 0 && r->n_calls == 0);
    r->streams = true;
}

bool chat_reader_in_reasoning(const chat_reader *r) {
    return r->state == CHAT_IN_REASONING || r->state == CHAT_IN_REASONED_CALL;
}

void chat_reader_close(chat_reader *r) {
    if (!r)
        return;
    text_buffer_free(&r->input);
    text_buffer_free(&r->spaces);
    text_buffer_free(&r->piece);
    text_buffer_free(&r->recipient);
    mem_free(r);
}
