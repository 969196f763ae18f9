/* SPDX-License-Identifier: Apache-2.0
 *
 * A whole answer: the sum of a reader's pieces.
 */
#include "base/mem.h"
#include "text/chat_reader.h"
#include "text/text_buffer.h"

typedef struct sums {
    text_buffer text, reasoning;
    text_buffer arguments; /* of the last call */
    chat_answer *out;
    size_t capacity;
} sums;

static nib_status keep(char **out, strview s, nib_error *err) {
    *out = mem_copy_text(s.p ? s.p : "", s.n);
    return *out ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "no memory for an answer");
}

static nib_status add_call(sums *s, const chat_piece *piece, nib_error *err) {
    chat_answer *a = s->out;
    if (a->n_calls == s->capacity) {
        const size_t capacity = s->capacity ? 2 * s->capacity : 4;
        struct chat_answer_call *grown = mem_resize(a->calls, capacity, sizeof *grown);
        if (!grown)
            return nib_fail(err, NIB_NO_MEMORY, "no memory for an answer");
        a->calls = grown;
        s->capacity = capacity;
    }
    struct chat_answer_call *c = &a->calls[a->n_calls++];
    memset(c, 0, sizeof *c);
    s->arguments.n = 0;
    NIB_TRY(keep(&c->name, piece->text, err));
    return keep(&c->id, piece->id, err);
}

static nib_status add_arguments(sums *s, const chat_piece *piece, nib_error *err) {
    struct chat_answer_call *c = &s->out->calls[s->out->n_calls - 1];
    NIB_TRY(text_buffer_append(&s->arguments, piece->text.p, piece->text.n, err));
    mem_free(c->arguments);
    return keep(&c->arguments, (strview){s->arguments.bytes, s->arguments.n}, err);
}

static nib_status add(void *context, const chat_piece *piece, nib_error *err) {
    sums *s = context;
    switch (piece->kind) {
    case CHAT_PIECE_TEXT:
        return text_buffer_append(&s->text, piece->text.p, piece->text.n, err);
    case CHAT_PIECE_REASONING:
        return text_buffer_append(&s->reasoning, piece->text.p, piece->text.n, err);
    case CHAT_PIECE_CALL:
        return add_call(s, piece, err);
    case CHAT_PIECE_ARGUMENTS:
        return add_arguments(s, piece, err);
    }
    return NIB_OK;
}

nib_status chat_read(const chat *c, const json_t *tools, const chat_prompt *prompt, const char *text,
                     size_t n, chat_answer *out, nib_error *err) {
    sums s = {.out = out};
    chat_reader *r;
    memset(out, 0, sizeof *out);
    nib_status status = chat_reader_open(&r, c, tools, prompt, add, &s, err);
    if (status == NIB_OK)
        status = chat_reader_push(r, text, n, err);
    if (status == NIB_OK)
        status = chat_reader_end(r, err);
    if (status == NIB_OK)
        status = keep(&out->text, (strview){s.text.bytes, s.text.n}, err);
    if (status == NIB_OK)
        status = keep(&out->reasoning, (strview){s.reasoning.bytes, s.reasoning.n}, err);
    if (status != NIB_OK)
        chat_answer_free(out);
    chat_reader_close(r);
    text_buffer_free(&s.text);
    text_buffer_free(&s.reasoning);
    text_buffer_free(&s.arguments);
    return status;
}

void chat_answer_free(chat_answer *a) {
    for (size_t i = 0; i < a->n_calls; i++) {
        mem_free(a->calls[i].name);
        mem_free(a->calls[i].id);
        mem_free(a->calls[i].arguments);
    }
    mem_free(a->calls);
    mem_free(a->text);
    mem_free(a->reasoning);
    memset(a, 0, sizeof *a);
}
