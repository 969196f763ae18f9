/* SPDX-License-Identifier: Apache-2.0
 *
 * POST /v1/messages and /v1/messages/count_tokens: answers in Anthropic's words.
 */
#include <string.h>

#include "base/mem.h"
#include "serve/blocks.h"
#include "serve/parts.h"
#include "serve/routes.h"

static const char *stop_reason(const choice *c) {
    if (strcmp(c->finish, "length") == 0)
        return "max_tokens";
    if (strcmp(c->finish, "tool_calls") == 0)
        return "tool_use";
    return c->stop_text >= 0 ? "stop_sequence" : "end_turn";
}

static const char *stop_sequence(const answer *r, const choice *c) {
    return c->stop_text >= 0 ? r->ask.stops[c->stop_text] : NULL;
}

/* Their input tokens leave out those that were remembered. */
static json_t *usage(const answer *r) {
    const answer_usage u = answer_count(r);
    return json_pack("{s:i, s:i, s:i, s:i}", "input_tokens", u.prompt - u.cached,
                     "cache_creation_input_tokens", 0, "cache_read_input_tokens", u.cached, "output_tokens",
                     u.completion);
}

static json_t *head(const answer *r, json_t *content) {
    return json_pack("{s:s, s:s, s:s, s:s, s:o}", "id", r->id, "type", "message", "role", "assistant",
                     "model", answer_model(r), "content", content);
}

/* ---- whole ---- */

static json_t *block_json(const choice *c, const block *b) {
    const char *text = b->text.n ? b->text.bytes : "";
    json_t *input = NULL;
    if (b->kind == NIB_PIECE_TEXT)
        return json_pack("{s:s, s:s%}", "type", "text", "text", text, b->text.n);
    if (b->kind == NIB_PIECE_REASONING)
        return json_pack("{s:s, s:s%, s:s}", "type", "thinking", "thinking", text, b->text.n, "signature",
                         "");
    if (b->text.n == 0 || json_read(&input, text, b->text.n, "arguments", NULL) != NIB_OK)
        input = json_object();
    return json_pack("{s:s, s:s, s:s%, s:o}", "type", "tool_use", "id", c->calls[b->call].id, "name",
                     c->calls[b->call].name.bytes, c->calls[b->call].name.n, "input", input);
}

static json_t *whole(const answer *r, const blocks *l) {
    const choice *c = &r->choices[0];
    json_t *content = json_array();
    for (size_t i = 0; i < l->n; i++)
        json_array_append_new(content, block_json(c, &l->list[i]));
    json_t *o = head(r, content);
    const char *sequence = stop_sequence(r, c);
    if (o && parts_set(o, "stop_reason", json_string(stop_reason(c))) &&
        parts_set(o, "stop_sequence", sequence ? json_string(sequence) : json_null()) &&
        parts_set(o, "usage", usage(r)))
        return o;
    json_decref(o);
    return NULL;
}

/* ---- streamed ---- */

typedef struct message_stream {
    stream base;
    answer *answer;
    blocks blocks;
    buf *out; /* while a piece is written */
    bool begun, over;
} message_stream;

static void write_event(message_stream *s, const char *name, json_t *json) {
    parts_event(s->out, name, json);
}

static void begin_block(void *context, const block *b, size_t i) {
    message_stream *s = context;
    const answer_call *call = &s->answer->choices[0].calls[b->call];
    json_t *json = b->kind == NIB_PIECE_TEXT ? json_pack("{s:s, s:s}", "type", "text", "text", "")
                   : b->kind == NIB_PIECE_REASONING
                       ? json_pack("{s:s, s:s, s:s}", "type", "thinking", "thinking", "", "signature", "")
                       : json_pack("{s:s, s:s, s:s%, s:{}}", "type", "tool_use", "id", call->id, "name",
                                   call->name.bytes, call->name.n, "input");
    write_event(s, "content_block_start",
                json_pack("{s:s, s:I, s:o}", "type", "content_block_start", "index", (json_int_t)i,
                          "content_block", json));
}

static void more_of_block(void *context, const block *b, size_t i, const char *text, size_t n) {
    static const struct {
        const char *type, *key;
    } deltas[] = {[NIB_PIECE_TEXT] = {"text_delta", "text"},
                  [NIB_PIECE_REASONING] = {"thinking_delta", "thinking"},
                  [NIB_PIECE_CALL] = {"input_json_delta", "partial_json"}};
    write_event(context, "content_block_delta",
                json_pack("{s:s, s:I, s:{s:s, s:s%}}", "type", "content_block_delta", "index", (json_int_t)i,
                          "delta", "type", deltas[b->kind].type, deltas[b->kind].key, text, n));
}

static void end_block(void *context, const block *b, size_t i) {
    if (b->kind == NIB_PIECE_REASONING)
        write_event(context, "content_block_delta",
                    json_pack("{s:s, s:I, s:{s:s, s:s}}", "type", "content_block_delta", "index",
                              (json_int_t)i, "delta", "type", "signature_delta", "signature", ""));
    write_event(context, "content_block_stop",
                json_pack("{s:s, s:I}", "type", "content_block_stop", "index", (json_int_t)i));
}

static void begin_message(message_stream *s) {
    const answer *r = s->answer;
    json_t *message = head(r, json_array());
    json_t *counted =
        json_pack("{s:i, s:i, s:i, s:i}", "input_tokens", (int)r->prompts[0].n, "cache_creation_input_tokens",
                  0, "cache_read_input_tokens", 0, "output_tokens", 0);
    if (message)
        json_object_set_new(message, "stop_reason", json_null());
    if (message)
        json_object_set_new(message, "stop_sequence", json_null());
    if (message)
        parts_set(message, "usage", counted);
    write_event(s, "message_start", json_pack("{s:s, s:o}", "type", "message_start", "message", message));
    s->begun = true;
}

static void end_message(message_stream *s) {
    const answer *r = s->answer;
    const choice *c = &r->choices[0];
    if (r->error.kind != API_NO_ERROR) {
        write_event(s, "error", api_error_json(&r->error, API_STYLE_ANTHROPIC));
        return;
    }
    blocks_end(&s->blocks);
    write_event(s, "message_delta",
                json_pack("{s:s, s:{s:s, s:s?}, s:o}", "type", "message_delta", "delta", "stop_reason",
                          stop_reason(c), "stop_sequence", stop_sequence(r, c), "usage", usage(r)));
    write_event(s, "message_stop", json_pack("{s:s}", "type", "message_stop"));
}

static bool next_event(stream *base, buf *out) {
    message_stream *s = (message_stream *)base;
    s->out = out;
    if (s->over)
        return false;
    if (!s->begun) { /* at once: clients wait for it */
        begin_message(s);
        return true;
    }
    const bool more = answer_wait(s->answer, 1000 * s->answer->server->options.ping_seconds);
    if (s->answer->error.kind == API_NO_ERROR)
        blocks_take(&s->blocks, &s->answer->choices[0]);
    out->failed |= s->blocks.failed;
    if (!more) {
        end_message(s);
        s->over = true;
    } else if (parts_ping_due(s->answer, out)) {
        write_event(s, "ping", json_pack("{s:s}", "type", "ping"));
    }
    return true;
}

static void close_message_stream(stream *base) {
    message_stream *s = (message_stream *)base;
    answer_close(s->answer);
    blocks_free(&s->blocks);
    mem_free(s);
}

/* False: no memory; R is still the caller's. */
static bool stream_answer(exchange *x, answer *r) {
    message_stream *s = mem_array(1, sizeof *s);
    if (!s)
        return false;
    s->base = (stream){next_event, close_message_stream};
    s->answer = r;
    s->blocks = (blocks){.begin = begin_block, .more = more_of_block, .end = end_block, .context = s};
    http_reply_stream(x, "text/event-stream", &s->base);
    return true;
}

/* ---- the routes ---- */

static bool read(exchange *x, bool counting, answer **out, api_error *e) {
    json_t *body;
    ask a = {0};
    if (!http_json(x, &body, e))
        return false;
    if (!ask_read_messages(&a, body, counting, e)) {
        ask_free(&a);
        json_decref(body);
        return false;
    }
    return answer_open(out, x, &a, body, "msg_", e) && routes_check_model(x, (*out)->ask.model, e) &&
           answer_add_conversation(*out, e);
}

void route_messages(exchange *x) {
    answer *r = NULL;
    blocks all = {0};
    if (!read(x, false, &r, &x->error) || !answer_start(r, &x->error)) {
        http_reply_error(x, &x->error);
        answer_close(r);
        return;
    }
    if (r->ask.stream && stream_answer(x, r))
        return;
    if (r->ask.stream)
        ask_no_memory(&r->error);
    while (answer_wait(r, 1000))
        blocks_take(&all, &r->choices[0]);
    blocks_take(&all, &r->choices[0]);
    if (all.failed)
        ask_no_memory(&r->error);
    if (r->error.kind == API_NO_ERROR)
        http_reply_json(x, 200, whole(r, &all));
    else
        http_reply_error(x, &r->error);
    blocks_free(&all);
    answer_close(r);
}

void route_count_messages(exchange *x) {
    answer *r = NULL;
    if (read(x, true, &r, &x->error) || (r && r->n_prompts > 0 && x->error.kind == API_TOO_LONG))
        http_reply_json(x, 200, json_pack("{s:I}", "input_tokens", (json_int_t)r->prompts[0].n));
    else
        http_reply_error(x, &x->error);
    answer_close(r);
}
