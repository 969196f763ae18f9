/* SPDX-License-Identifier: Apache-2.0
 *
 * What models write: a format (one byte), flags (one byte), the text. However the text is cut into pieces, it
 * must read the same, and calls' arguments must be JSON objects.
 */
#include "text_target.h"

#include "text/chat_parts.h"
#include "text/chat_reader.h"
#include "text/text_buffer.h"

typedef struct sums {
    text_buffer text, reasoning, calls;
} sums;

static nib_status add(void *context, const chat_piece *piece, nib_error *err) {
    sums *s = context;
    text_buffer *to = piece->kind == CHAT_PIECE_TEXT        ? &s->text
                      : piece->kind == CHAT_PIECE_REASONING ? &s->reasoning
                                                            : &s->calls;
    if (piece->kind == CHAT_PIECE_ARGUMENTS) {
        json_t *json;
        text_target_check(json_read(&json, piece->text.p, piece->text.n, "arguments", NULL) == NIB_OK);
        text_target_check(json_is_object(json));
        json_decref(json);
    }
    if (piece->kind == CHAT_PIECE_CALL)
        text_target_check(piece->text.n > 0);
    NIB_TRY(text_buffer_append(to, piece->text.p, piece->text.n, err));
    return piece->kind >= CHAT_PIECE_CALL ? text_buffer_append(to, "|", 1, err) : NIB_OK;
}

static sums read_pieces(const chat *c, const json_t *tools, const chat_prompt *prompt, strview text,
                        size_t piece) {
    sums s = {0};
    chat_reader *r;
    nib_error err = {""};
    text_target_check(chat_reader_open(&r, c, tools, prompt, add, &s, &err) == NIB_OK);
    for (size_t at = 0; at < text.n; at += piece)
        text_target_check(chat_reader_push(r, text.p + at, at + piece < text.n ? piece : text.n - at, &err) ==
                          NIB_OK);
    text_target_check(chat_reader_end(r, &err) == NIB_OK);
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
    sums whole = read_pieces(c, data[1] & 2 ? tools : NULL, data[1] & 4 ? &prompt : NULL, text, text.n + 1);
    for (size_t piece = 1; piece < 20; piece += 6) {
        sums cut = read_pieces(c, data[1] & 2 ? tools : NULL, data[1] & 4 ? &prompt : NULL, text, piece);
        text_target_check(same(&whole.text, &cut.text) && same(&whole.reasoning, &cut.reasoning) &&
                          same(&whole.calls, &cut.calls));
        drop(&cut);
    }
    drop(&whole);
    free(open);
    chat_close(c);
    json_decref(tools);
    return 0;
}
