/* SPDX-License-Identifier: Apache-2.0
 *
 * What models write: a format (one byte), flags (one byte), the text. However the text is cut into pieces, it
 * must read the same, and calls' arguments must be JSON objects; so too when calls are streamed, unless one
 * of them breaks off.
 */
#include "text_target.h"

#include "text/chat_parts.h"
#include "text/chat_reader_parts.h"
#include "text/text_buffer.h"

typedef struct sums {
    text_buffer text, reasoning, calls;
    text_buffer arguments; /* of the last call */
    bool streams;
    size_t n_broken;
} sums;

/* The last call is over: unless it may have broken off, its arguments are a JSON object. */
static void end_call(sums *s, bool may_break) {
    json_t *json = NULL;
    if (s->arguments.n == 0)
        return;
    (void)json_read(&json, s->arguments.bytes, s->arguments.n, "arguments", NULL);
    text_target_check(may_break || json_is_object(json));
    json_decref(json);
    s->arguments.n = 0;
}

static nib_status add(void *context, const chat_piece *piece, nib_error *err) {
    sums *s = context;
    text_buffer *to = piece->kind == CHAT_PIECE_TEXT        ? &s->text
                      : piece->kind == CHAT_PIECE_REASONING ? &s->reasoning
                                                            : &s->calls;
    text_target_check(piece->text.n > 0);
    if (piece->kind == CHAT_PIECE_ARGUMENTS)
        NIB_TRY(text_buffer_append(&s->arguments, piece->text.p, piece->text.n, err));
    if (piece->kind == CHAT_PIECE_CALL) {
        end_call(s, s->streams);
        NIB_TRY(text_buffer_append(to, "|", 1, err));
    }
    NIB_TRY(text_buffer_append(to, piece->text.p, piece->text.n, err));
    return piece->kind == CHAT_PIECE_CALL ? text_buffer_append(to, "|", 1, err) : NIB_OK;
}

/* What the readers of one answer have in common. */
typedef struct answer {
    const chat *c;
    const json_t *tools;
    const chat_prompt *prompt;
    strview text;
} answer;

static sums read_pieces(const answer *a, size_t piece, bool streams) {
    sums s = {.streams = streams};
    chat_reader *r;
    nib_error err = {""};
    text_target_check(chat_reader_open(&r, a->c, a->tools, a->prompt, add, &s, &err) == NIB_OK);
    if (streams)
        chat_reader_stream_calls(r);
    for (size_t at = 0; at < a->text.n; at += piece) {
        const size_t n = at + piece < a->text.n ? piece : a->text.n - at;
        text_target_check(chat_reader_push(r, a->text.p + at, n, &err) == NIB_OK);
    }
    text_target_check(chat_reader_end(r, &err) == NIB_OK);
    s.n_broken = r->n_broken;
    text_target_check(streams || s.n_broken == 0);
    end_call(&s, s.n_broken > 0);
    chat_reader_close(r);
    return s;
}

static bool same(const text_buffer *a, const text_buffer *b) {
    return strview_equal((strview){a->bytes, a->n}, (strview){b->bytes, b->n});
}

static void drop(sums *s) {
    text_buffer_free(&s->text);
    text_buffer_free(&s->reasoning);
    text_buffer_free(&s->calls);
    text_buffer_free(&s->arguments);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char tools_text[] =
        "[{\"function\": {\"name\": \"now\", \"parameters\": {\"properties\": {\"a\": {\"type\": "
        "\"string\"}, \"b\": {\"type\": [\"integer\", \"string\"]}}}}}]";
    static unsigned char marks[64]; /* nothing is a user's */
    size_t n_formats = 0;
    if (size < 2)
        return 0;
    while (chat_formats[n_formats].name)
        n_formats++;
    const strview text = {(const char *)data + 2, utf8_valid_prefix((const char *)data + 2, size - 2)};
    json_t *tools;
    chat *c;
    const strview none = {0};
    text_target_check(json_read(&tools, tools_text, sizeof tools_text - 1, "tools", NULL) == NIB_OK);
    text_target_check(chat_open(&c, strview_of("x"), none, none, NULL) == NIB_OK);
    c->format = &chat_formats[data[0] % n_formats];
    c->thinking = data[1] & 1 ? &chat_thinkings[(data[1] >> 4) % 6] : NULL;
    char *open = strdup(c->thinking ? c->thinking->open : "");
    const chat_prompt prompt = {open, marks, strlen(open)};
    const answer read = {c, data[1] & 2 ? tools : NULL, data[1] & 4 ? &prompt : NULL, text};
    sums whole = read_pieces(&read, text.n + 1, false);
    for (size_t piece = 1; piece < 20; piece += 3) {
        sums cut = read_pieces(&read, piece, piece % 2 == 0);
        text_target_check(cut.n_broken > 0 ||
                          (same(&whole.text, &cut.text) && same(&whole.reasoning, &cut.reasoning) &&
                           same(&whole.calls, &cut.calls)));
        drop(&cut);
    }
    drop(&whole);
    free(open);
    chat_close(c);
    json_decref(tools);
    return 0;
}
