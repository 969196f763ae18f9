/* SPDX-License-Identifier: Apache-2.0
 *
 * The API's conversations in full: JSON to ids through any chat template, answers to pieces. All of it is the
 * text room's; here JSON texts are read and structs of two ages meet.
 */
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "engine/engine.h"
#include "engine/sized.h"
#include "text/chat_reader.h"

struct nib_chat {
    chat *c;
    bool owned; /* not the engine's */
    const tokenizer *words;
};

struct nib_reader {
    chat_reader *r;
    json_t *tools;
    nib_piece_callback on_piece; /* of the call at hand */
    void *context;
};

/* ---- chats ---- */

/* The first token that ends an answer, for a model whose files named none. */
static strview some_end(const tokenizer *words) {
    for (size_t id = 0; id < tokenizer_vocab(words); id++)
        if (tokenizer_is_end(words, (int32_t)id))
            return tokenizer_piece(words, (int32_t)id, true);
    return (strview){0};
}

/* The model's files may be gone by now: what its own template was given is in its chat. */
static nib_status open_own(nib_chat *d, const loaded *l, const char *text, nib_error *err) {
    strview bos = {0}, eos = {0};
    if (l->chat) {
        chat_tokens_of(l->chat, &bos, &eos);
    } else {
        const int32_t id = tokenizer_bos(l->words);
        bos = id >= 0 ? tokenizer_piece(l->words, id, true) : bos;
        eos = some_end(l->words);
    }
    d->owned = true;
    return chat_open(&d->c, strview_of(text), bos, eos, err);
}

nib_status nib_chat_open(nib_chat **out, const nib_engine *e, const char *template_text, nib_error *err) {
    if (!out || !e)
        return nib_fail(err, NIB_BAD_ARGUMENT, "nib_chat_open: the engine or a place for the chat is NULL");
    *out = NULL;
    if (!template_text && !e->l->chat)
        return nib_fail(err, NIB_UNSUPPORTED, "%s", e->l->chat_problem.text);
    nib_chat *d = mem_array(1, sizeof *d);
    if (!d)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a chat");
    d->words = e->l->words;
    d->c = e->l->chat;
    if (template_text) {
        const nib_status status = open_own(d, e->l, template_text, err);
        if (status != NIB_OK) {
            mem_free(d);
            return status;
        }
    }
    *out = d;
    return NIB_OK;
}

void nib_chat_close(nib_chat *d) {
    if (!d)
        return;
    if (d->owned)
        chat_close(d->c);
    mem_free(d);
}

/* Whether MARK, or its beginning, is one token of WORDS rather than a spelling of letters. */
static nib_status has_token(const tokenizer *words, const char *mark, bool *out, nib_error *err) {
    token_list list = {0};
    const nib_status status = tokenizer_encode(words, mark, strlen(mark), 0, &list, err);
    *out = list.n == 1 || (list.n > 1 && tokenizer_is_control(words, list.ids[0]));
    token_list_free(&list);
    return status;
}

nib_status nib_chat_get_info(const nib_chat *d, nib_chat_info *info, nib_error *err) {
    if (!d)
        return nib_fail(err, NIB_BAD_ARGUMENT, "nib_chat_get_info: the chat is NULL");
    const char *mark = chat_reasoning_marker(d->c);
    bool may_reason = mark && !d->owned;
    if (mark && d->owned)
        NIB_TRY(has_token(d->words, mark, &may_reason, err));
    const nib_chat_info all = {.size = sizeof all,
                               .call_format = chat_call_format(d->c),
                               .reasoning = mark,
                               .reasoning_end = chat_reasoning_end(d->c),
                               .answer_begin = chat_answer_begin(d->c),
                               .takes_tools = chat_takes_tools(d->c),
                               .may_reason = may_reason};
    return sized_write(info, &all, sizeof all, "nib_chat_info", err);
}

void nib_chat_shape(const nib_chat_info *info, bool begun, nib_shape_options *o) {
    const bool own = o->kind == NIB_SHAPE_CALL && info->answer_begin, /* the shape says what comes before */
        none = !begun && !info->answer_begin && !info->may_reason;
    o->reasoning_begin = begun || none || info->answer_begin ? NULL : info->reasoning;
    o->reasoning_end = own || none ? NULL : info->answer_begin ? info->answer_begin : info->reasoning_end;
}

/* ---- render ---- */

static nib_status read_text(const char *text, const char *name, json_t **out, nib_error *err) {
    *out = NULL;
    return text ? json_read(out, text, strlen(text), name, err) : NIB_OK;
}

static nib_status hand_on(void *context, const chat_piece *piece, nib_error *err);

/* A reader for the answer to PROMPT; it keeps TOOLS. */
static nib_status new_reader(const nib_chat *d, json_t *tools, const chat_prompt *prompt, nib_reader **out,
                             nib_error *err) {
    nib_reader *reader = *out = mem_array(1, sizeof *reader);
    if (!reader)
        return nib_fail(err, NIB_NO_MEMORY, "no memory to read an answer");
    reader->tools = json_incref(tools);
    const nib_status status = chat_reader_open(&reader->r, d->c, tools, prompt, hand_on, reader, err);
    if (status != NIB_OK) {
        nib_reader_close(reader);
        *out = NULL;
    }
    return status;
}

static nib_status render(const nib_chat *d, const chat_request *q, json_t *tools, token_list *list,
                         nib_reader **reader, nib_error *err) {
    chat_prompt prompt;
    NIB_TRY(chat_render(d->c, q, &prompt, err));
    nib_status status = chat_encode(d->words, &prompt, list, err);
    if (status == NIB_OK && reader)
        status = new_reader(d, tools, &prompt, reader, err);
    chat_prompt_free(&prompt);
    return status;
}

nib_status nib_chat_render(const nib_chat *d, const nib_conversation *conversation, int32_t **ids,
                           size_t *n_ids, nib_reader **reader, nib_error *err) {
    nib_conversation c;
    json_t *messages = NULL, *tools = NULL, *variables = NULL;
    token_list list = {0};
    if (!d || !conversation || !ids || !n_ids)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "nib_chat_render: the chat, the conversation or a place for ids is NULL");
    *ids = NULL;
    *n_ids = 0;
    if (reader)
        *reader = NULL;
    NIB_TRY(sized_read(&c, sizeof c, conversation, "nib_conversation", err));
    if (!c.messages)
        return nib_fail(err, NIB_BAD_ARGUMENT, "nib_conversation: messages is NULL");
    nib_status status = read_text(c.messages, "messages", &messages, err);
    if (status == NIB_OK)
        status = read_text(c.tools, "tools", &tools, err);
    if (status == NIB_OK)
        status = read_text(c.variables, "variables", &variables, err);
    if (status == NIB_OK) {
        const chat_request q = {.messages = messages,
                                .tools = tools,
                                .kwargs = variables,
                                .no_generation_prompt = c.no_generation_prompt};
        status = render(d, &q, tools, &list, reader, err);
    }
    json_decref(messages);
    json_decref(tools);
    json_decref(variables);
    if (status != NIB_OK) {
        token_list_free(&list);
        return status;
    }
    *ids = list.ids;
    *n_ids = list.n;
    return NIB_OK;
}

/* ---- readers ---- */

static nib_status hand_on(void *context, const chat_piece *piece, nib_error *err) {
    const nib_reader *reader = context;
    (void)err;
    if (!reader->on_piece)
        return NIB_OK;
    const nib_piece given = {.size = sizeof given,
                             .kind = (nib_piece_kind)piece->kind,
                             .call = piece->call,
                             .text = piece->text.p,
                             .text_bytes = piece->text.n,
                             .id = piece->id.p ? piece->id.p : "",
                             .id_bytes = piece->id.n};
    _Static_assert((int)NIB_PIECE_ARGUMENTS == (int)CHAT_PIECE_ARGUMENTS &&
                       (int)NIB_PIECE_REASONING == (int)CHAT_PIECE_REASONING,
                   "the same kinds");
    reader->on_piece(reader->context, &given);
    return NIB_OK;
}

nib_status nib_reader_again(const nib_reader *unread, nib_reader **out, nib_error *err) {
    if (out)
        *out = NULL;
    if (!unread || !out)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "nib_reader_again: the reader or the place for another is NULL");
    nib_reader *reader = mem_array(1, sizeof *reader);
    if (!reader)
        return nib_fail(err, NIB_NO_MEMORY, "no memory to read an answer");
    reader->tools = json_incref(unread->tools);
    const nib_status status = chat_reader_again(&reader->r, unread->r, reader, err);
    if (status == NIB_OK)
        *out = reader;
    else
        nib_reader_close(reader);
    return status;
}

void nib_reader_stream_calls(nib_reader *reader) {
    if (reader)
        chat_reader_stream_calls(reader->r);
}

nib_status nib_reader_push(nib_reader *reader, const char *text, size_t bytes, nib_piece_callback on_piece,
                           void *context, nib_error *err) {
    if (!reader || (!text && bytes > 0))
        return nib_fail(err, NIB_BAD_ARGUMENT, "nib_reader_push: the reader or the text is NULL");
    reader->on_piece = on_piece;
    reader->context = context;
    return chat_reader_push(reader->r, text, bytes, err);
}

nib_status nib_reader_end(nib_reader *reader, nib_piece_callback on_piece, void *context, nib_error *err) {
    if (!reader)
        return nib_fail(err, NIB_BAD_ARGUMENT, "nib_reader_end: the reader is NULL");
    reader->on_piece = on_piece;
    reader->context = context;
    return chat_reader_end(reader->r, err);
}

bool nib_reader_in_reasoning(const nib_reader *reader) {
    return reader && chat_reader_in_reasoning(reader->r);
}

void nib_reader_close(nib_reader *reader) {
    if (!reader)
        return;
    chat_reader_close(reader->r);
    json_decref(reader->tools);
    mem_free(reader);
}
