/* SPDX-License-Identifier: Apache-2.0
 *
 * POST /v1/chat/completions: an answer in OpenAI's words, whole or as a stream.
 */
#include "serve/parts.h"
#include "serve/routes.h"
#include "serve/tell.h"

#define CHUNK "chat.completion.chunk"

static const char *reasoning_name(const answer *r) {
    return r->server->options.reasoning_field ? "reasoning" : "reasoning_content";
}

/* ---- whole ---- */

static json_t *all_calls(const choice *c) {
    json_t *calls = json_array();
    for (size_t i = 0; i < c->n_calls; i++)
        json_array_append_new(calls, json_pack("{s:s, s:s, s:{s:s%, s:s%}}", "id", c->calls[i].id, "type",
                                               "function", "function", "name", c->calls[i].name.bytes,
                                               c->calls[i].name.n, "arguments",
                                               c->calls[i].arguments.n ? c->calls[i].arguments.bytes : "",
                                               c->calls[i].arguments.n));
    return calls;
}

static json_t *message(const answer *r, const choice *c) {
    json_t *m = json_pack("{s:s}", "role", "assistant");
    json_t *content = c->n_calls > 0 && c->text.n == 0
                          ? json_null()
                          : json_stringn(c->text.n ? c->text.bytes : "", c->text.n);
    bool fits = m && parts_set(m, "content", content);
    if (fits && c->reasoning.n > 0)
        fits = parts_set(m, reasoning_name(r), json_stringn(c->reasoning.bytes, c->reasoning.n));
    if (fits && c->n_calls > 0)
        fits = parts_set(m, "tool_calls", all_calls(c));
    if (fits)
        return m;
    json_decref(m);
    return NULL;
}

static json_t *whole_choice(const answer *r, const choice *c) {
    json_t *logprobs = r->ask.logprobs ? parts_chat_logprobs(r->server, c, 0) : json_null();
    json_t *o =
        json_pack("{s:i, s:o, s:o, s:s, s:o}", "index", c->index, "message", message(r, c), "logprobs",
                  logprobs, "finish_reason", c->finish, "stop_reason", parts_stop_reason(r, c));
    if (o && r->ask.return_ids)
        parts_set(o, "token_ids", parts_ids(c->ids, c->n_ids));
    return o;
}

static json_t *whole(const teller *told) {
    const answer *r = told->answer;
    json_t *o = parts_whole(r, "chat.completion", whole_choice);
    if (o && r->ask.return_ids)
        parts_set(o, "prompt_token_ids", parts_ids(r->prompts[0].ids, r->prompts[0].n));
    if (o && r->ask.prompt_logprobs >= 0)
        parts_set(o, "prompt_logprobs", parts_prompt_logprobs(r->server, &r->prompts[0]));
    return o;
}

/* ---- streamed ---- */

static json_t *delta_of(const answer *r, const choice *c, const answer_piece *p, const char *text) {
    const answer_call *call = &c->calls[p->call];
    switch (p->kind) {
    case NIB_PIECE_TEXT:
        return json_pack("{s:s%}", "content", text, p->n);
    case NIB_PIECE_REASONING:
        return json_pack("{s:s%}", reasoning_name(r), text, p->n);
    case NIB_PIECE_CALL:
        return json_pack("{s:[{s:i, s:s, s:s, s:{s:s%, s:s}}]}", "tool_calls", "index", p->call, "id",
                         call->id, "type", "function", "function", "name", text, p->n, "arguments", "");
    case NIB_PIECE_ARGUMENTS:
        return json_pack("{s:[{s:i, s:{s:s%}}]}", "tool_calls", "index", p->call, "function", "arguments",
                         text, p->n);
    }
    return NULL;
}

/* LOGPROBS may be NULL; both are taken. */
static void write_chunk(answer *r, choice *c, json_t *delta, json_t *logprobs, const char *finish, buf *out) {
    json_t *one = json_pack("{s:i, s:o, s:o, s:s?}", "index", c->index, "delta", delta, "logprobs",
                            logprobs ? logprobs : json_null(), "finish_reason", finish);
    if (one && finish)
        parts_set(one, "stop_reason", parts_stop_reason(r, c));
    if (one && r->ask.return_ids && c->n_ids > c->ids_told)
        parts_set(one, "token_ids", parts_ids(c->ids + c->ids_told, c->n_ids - c->ids_told));
    c->ids_told = c->n_ids;
    parts_chunk(r, CHUNK, one, finish ? parts_timings(r) : NULL, out);
}

/* A piece that is text and comes alone. */
static bool write_text(answer *r, const choice *c, const answer_piece *p, const char *text, buf *out) {
    const bool is_text = p->kind == NIB_PIECE_TEXT || p->kind == NIB_PIECE_REASONING;
    if (!is_text || r->ask.logprobs || r->ask.return_ids)
        return false;
    parts_text_chunk(r, CHUNK, c->index,
                     p->kind == NIB_PIECE_TEXT            ? "\"delta\":{\"content\":"
                     : r->server->options.reasoning_field ? "\"delta\":{\"reasoning\":"
                                                          : "\"delta\":{\"reasoning_content\":",
                     text, p->n, "},\"logprobs\":null,\"finish_reason\":null}", out);
    return true;
}

static json_t *fresh_logprobs(const answer *r, choice *c) {
    if (!r->ask.logprobs || c->tokens_told == c->n_tokens)
        return NULL;
    json_t *logprobs = parts_chat_logprobs(r->server, c, c->tokens_told);
    c->tokens_told = c->n_tokens;
    return logprobs;
}

static void write_news(teller *told, choice *c) {
    answer *r = told->answer;
    const char *text = c->fresh.bytes;
    buf *out = told->out;
    if (!c->begun && (c->n_pieces > 0 || c->over)) {
        write_chunk(r, c, json_pack("{s:s, s:s}", "role", "assistant", "content", ""), NULL, NULL, out);
        c->begun = true;
    }
    for (size_t i = 0; i < c->n_pieces; i++) {
        const answer_piece *p = &c->pieces[i];
        if (!write_text(r, c, p, text, out))
            write_chunk(r, c, delta_of(r, c, p, text), fresh_logprobs(r, c), NULL, out);
        text += p->n;
    }
    if (c->over && !c->end_told) {
        write_chunk(r, c, json_object(), fresh_logprobs(r, c), c->finish, out);
        c->end_told = true;
    }
    answer_told_pieces(c);
}

static void write_end(teller *told) {
    parts_end(told->answer, CHUNK, told->out);
}

void route_chat(exchange *x) {
    static const tell_words words = {.id_prefix = "chatcmpl-",
                                     .read = ask_read_chat,
                                     .add = answer_add_conversation,
                                     .whole = whole,
                                     .news = write_news,
                                     .end = write_end};
    tell(x, &words);
}
