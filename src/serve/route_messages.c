/* SPDX-License-Identifier: Apache-2.0
 *
 * POST /v1/messages and /v1/messages/count_tokens: answers in Anthropic's words.
 */
#include <string.h>

#include "serve/parts.h"
#include "serve/routes.h"
#include "serve/tell.h"

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
    if (b->text.n == 0 || json_read_written(&input, text, b->text.n, "arguments", NULL) != NIB_OK)
        input = json_object();
    return json_pack("{s:s, s:s, s:s%, s:o}", "type", "tool_use", "id", c->calls[b->call].id, "name",
                     c->calls[b->call].name.bytes, c->calls[b->call].name.n, "input", input);
}

static json_t *whole(const teller *told) {
    const answer *r = told->answer;
    const blocks *l = &told->blocks;
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

static void write_event(teller *told, const char *name, json_t *json) {
    parts_event(told->out, name, json);
}

static void begin_block(void *context, const block *b, size_t i) {
    teller *told = context;
    const answer_call *call = &told->answer->choices[0].calls[b->call];
    json_t *json = b->kind == NIB_PIECE_TEXT ? json_pack("{s:s, s:s}", "type", "text", "text", "")
                   : b->kind == NIB_PIECE_REASONING
                       ? json_pack("{s:s, s:s, s:s}", "type", "thinking", "thinking", "", "signature", "")
                       : json_pack("{s:s, s:s, s:s%, s:{}}", "type", "tool_use", "id", call->id, "name",
                                   call->name.bytes, call->name.n, "input");
    write_event(told, "content_block_start",
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

static void begin_message(teller *told) {
    const answer *r = told->answer;
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
    write_event(told, "message_start", json_pack("{s:s, s:o}", "type", "message_start", "message", message));
}

static void end_message(teller *told) {
    const answer *r = told->answer;
    const choice *c = &r->choices[0];
    if (r->error.kind != API_NO_ERROR) {
        write_event(told, "error", api_error_json(&r->error, API_STYLE_ANTHROPIC));
        return;
    }
    blocks_end(&told->blocks);
    write_event(told, "message_delta",
                json_pack("{s:s, s:{s:s, s:s?}, s:o}", "type", "message_delta", "delta", "stop_reason",
                          stop_reason(c), "stop_sequence", stop_sequence(r, c), "usage", usage(r)));
    write_event(told, "message_stop", json_pack("{s:s}", "type", "message_stop"));
}

static void ping(teller *told) {
    write_event(told, "ping", json_pack("{s:s}", "type", "ping"));
}

/* ---- the routes ---- */

static bool read_to_answer(ask *a, const json_t *body, api_error *e) {
    return ask_read_messages(a, body, false, e);
}

static bool read_to_count(ask *a, const json_t *body, api_error *e) {
    return ask_read_messages(a, body, true, e);
}

void route_messages(exchange *x) {
    static const tell_words words = {.id_prefix = "msg_",
                                     .read = read_to_answer,
                                     .add = answer_add_conversation,
                                     .whole = whole,
                                     .begin = begin_message,
                                     .begin_block = begin_block,
                                     .more_of_block = more_of_block,
                                     .end_block = end_block,
                                     .end = end_message,
                                     .ping = ping};
    tell(x, &words);
}

void route_count_messages(exchange *x) {
    answer *r = NULL;
    const bool fits =
        answer_read(&r, x, read_to_count, "msg_", &x->error) && answer_add_conversation(r, &x->error);
    if (fits || (r && r->n_prompts > 0 && x->error.kind == API_TOO_LONG))
        http_reply_json(x, 200, json_pack("{s:I}", "input_tokens", (json_int_t)r->prompts[0].n));
    else
        http_reply_error(x, &x->error);
    answer_close(r);
}
