/* SPDX-License-Identifier: Apache-2.0
 *
 * POST /v1/chat/completions: an answer in OpenAI's words, whole or as a stream.
 */
#include <string.h>

#include "base/mem.h"
#include "serve/parts.h"
#include "serve/routes.h"

static const char *reasoning_name(const answer *r) {
    return r->server->options.reasoning_field ? "reasoning" : "reasoning_content";
}

static json_t *head(const answer *r, const char *object, json_t *choices) {
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:o}", "id", r->id, "object", object, "created",
                     (json_int_t)r->created, "model", answer_model(r), "system_fingerprint",
                     r->server->fingerprint, "choices", choices);
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

static json_t *whole(const answer *r) {
    json_t *choices = json_array();
    for (int index = 0; index < r->ask.n; index++)
        for (size_t i = 0; i < r->n_choices; i++)
            if (r->choices[i].index == index &&
                json_array_append_new(choices, whole_choice(r, &r->choices[i])) != 0)
                return json_decref(choices), NULL;
    json_t *o = head(r, "chat.completion", choices);
    if (o && r->ask.return_ids)
        parts_set(o, "prompt_token_ids", parts_ids(r->prompts[0].ids, r->prompts[0].n));
    if (o && parts_set(o, "usage", parts_usage(r)) && parts_set(o, "timings", parts_timings(r)))
        return o;
    json_decref(o);
    return NULL;
}

/* ---- streamed ---- */

typedef struct chat_stream {
    stream base;
    answer *answer;
    bool over;
} chat_stream;

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
static void write_chunk(const answer *r, choice *c, json_t *delta, json_t *logprobs, const char *finish,
                        buf *out) {
    json_t *one = json_pack("{s:i, s:o, s:o, s:s?}", "index", c->index, "delta", delta, "logprobs",
                            logprobs ? logprobs : json_null(), "finish_reason", finish);
    if (one && finish)
        parts_set(one, "stop_reason", parts_stop_reason(r, c));
    if (one && r->ask.return_ids && c->n_ids > c->ids_told)
        parts_set(one, "token_ids", parts_ids(c->ids + c->ids_told, c->n_ids - c->ids_told));
    c->ids_told = c->n_ids;
    json_t *chunk = head(r, "chat.completion.chunk", json_pack("[o]", one));
    if (chunk && r->ask.continuous_usage)
        parts_set(chunk, "usage", parts_usage(r));
    else if (chunk && r->ask.include_usage)
        parts_set(chunk, "usage", json_null());
    if (chunk && finish)
        parts_set(chunk, "timings", parts_timings(r));
    parts_frame(out, chunk);
}

static json_t *fresh_logprobs(const answer *r, choice *c) {
    if (!r->ask.logprobs || c->tokens_told == c->n_tokens)
        return NULL;
    json_t *logprobs = parts_chat_logprobs(r->server, c, c->tokens_told);
    c->tokens_told = c->n_tokens;
    return logprobs;
}

static void write_choice(const answer *r, choice *c, buf *out) {
    const char *text = c->fresh.bytes;
    if (!c->begun && (c->n_pieces > 0 || c->over)) {
        write_chunk(r, c, json_pack("{s:s, s:s}", "role", "assistant", "content", ""), NULL, NULL, out);
        c->begun = true;
    }
    for (size_t i = 0; i < c->n_pieces; i++) {
        const answer_piece *p = &c->pieces[i];
        write_chunk(r, c, delta_of(r, c, p, text), fresh_logprobs(r, c), NULL, out);
        text += p->n;
    }
    if (c->over && !c->end_told) {
        write_chunk(r, c, json_object(), fresh_logprobs(r, c), c->finish, out);
        c->end_told = true;
        answer_told(c);
    }
    buf_clear(&c->fresh);
    c->n_pieces = 0;
}

static void write_end(const answer *r, buf *out) {
    if (r->error.kind != API_NO_ERROR) {
        parts_error_frame(out, &r->error);
    } else if (r->ask.include_usage) {
        json_t *chunk = head(r, "chat.completion.chunk", json_array());
        if (chunk)
            parts_set(chunk, "usage", parts_usage(r));
        if (chunk)
            parts_set(chunk, "timings", parts_timings(r));
        parts_frame(out, chunk);
    }
    buf_text(out, "data: [DONE]\n\n");
}

static bool next_chunk(stream *base, buf *out) {
    chat_stream *s = (chat_stream *)base;
    answer *r = s->answer;
    if (s->over)
        return false;
    const bool more = answer_wait(r, 1000 * r->server->options.ping_seconds);
    for (size_t i = 0; i < r->n_choices && r->error.kind == API_NO_ERROR; i++)
        write_choice(r, &r->choices[i], out);
    if (!more) {
        write_end(r, out);
        s->over = true;
    } else if (parts_ping_due(r, out)) {
        buf_text(out, ":\n\n");
    }
    return true;
}

static void close_chat_stream(stream *base) {
    answer_close(((chat_stream *)base)->answer);
    mem_free(base);
}

/* ---- the route ---- */

static bool start(exchange *x, answer **out, api_error *e) {
    return answer_read(out, x, ask_read_chat, "chatcmpl-", e) && answer_add_conversation(*out, e) &&
           answer_start(*out, e);
}

void route_chat(exchange *x) {
    answer *r = NULL;
    chat_stream *s;
    if (!start(x, &r, &x->error)) {
        http_reply_error(x, &x->error);
        answer_close(r);
        return;
    }
    if (r->ask.stream) {
        s = mem_array(1, sizeof *s);
        if (s) {
            *s = (chat_stream){{next_chunk, close_chat_stream}, r, false};
            http_reply_stream(x, "text/event-stream", &s->base);
            return;
        }
        ask_no_memory(&r->error);
    }
    if (answer_finish(r)) {
        answer_choose(r);
        http_reply_json(x, 200, whole(r));
    } else {
        http_reply_error(x, &r->error);
    }
    answer_close(r);
}
