/* SPDX-License-Identifier: Apache-2.0
 *
 * POST /v1/responses: answers in the words of OpenAI's Responses API. Nothing is stored.
 */
#include <float.h>
#include <string.h>

#include "serve/parts.h"
#include "serve/routes.h"
#include "serve/tell.h"

/* ---- the answer ---- */

static json_t *usage(const answer *r) {
    const answer_usage u = answer_count(r);
    return json_pack("{s:i, s:{s:i}, s:i, s:{s:i}, s:i}", "input_tokens", u.prompt, "input_tokens_details",
                     "cached_tokens", u.cached, "output_tokens", u.completion, "output_tokens_details",
                     "reasoning_tokens", u.reasoning, "total_tokens", u.prompt + u.completion);
}

static json_t *text_part(const block *b) {
    const char *text = b->text.n ? b->text.bytes : "";
    return b->kind == NIB_PIECE_TEXT
               ? json_pack("{s:s, s:s%, s:[], s:[]}", "type", "output_text", "text", text, b->text.n,
                           "annotations", "logprobs")
               : json_pack("{s:s, s:s%}", "type", "reasoning_text", "text", text, b->text.n);
}

/* Whether B, of blocks L, was cut off: the last one by the limit, a call in any way. */
static bool is_incomplete(const answer *r, const blocks *l, const block *b) {
    const choice *c = &r->choices[0];
    if (b->kind == NIB_PIECE_CALL && !answer_call_is_whole(&c->calls[b->call]))
        return true;
    return b == &l->list[l->n - 1] && c->finish && strcmp(c->finish, "length") == 0;
}

/* A block as an item; without what it holds when it has just BEGUN. */
static json_t *item(const answer *r, const blocks *l, const block *b, bool begun) {
    const char *status = begun ? "in_progress" : is_incomplete(r, l, b) ? "incomplete" : "completed";
    json_t *content = begun ? json_array() : json_pack("[o]", text_part(b));
    if (b->kind == NIB_PIECE_TEXT)
        return json_pack("{s:s, s:s, s:s, s:s, s:o}", "id", b->id, "type", "message", "status", status,
                         "role", "assistant", "content", content);
    if (b->kind == NIB_PIECE_REASONING)
        return json_pack("{s:s, s:s, s:s, s:[], s:o}", "id", b->id, "type", "reasoning", "status", status,
                         "summary", "content", content);
    json_decref(content);
    const answer_call *call = &r->choices[0].calls[b->call];
    return json_pack("{s:s, s:s, s:s, s:s, s:s%, s:s%}", "id", b->id, "type", "function_call", "status",
                     status, "call_id", call->id, "name", call->name.bytes, call->name.n, "arguments",
                     b->text.n && !begun ? b->text.bytes : "", begun ? (size_t)0 : b->text.n);
}

static json_t *output(const answer *r, const blocks *l) {
    json_t *list = json_array();
    for (size_t i = 0; i < l->n; i++)
        json_array_append_new(list, item(r, l, &l->list[i], false));
    return list;
}

static json_t *given(const answer *r, const char *name, json_t *otherwise) {
    json_t *value = json_object_get(r->body, name);
    if (!value || json_is_null(value))
        return otherwise;
    json_decref(otherwise);
    return json_incref(value);
}

/* STATUS: in_progress, completed, incomplete, failed. */
static json_t *response(const answer *r, const blocks *l, const char *status) {
    const bool failed = strcmp(status, "failed") == 0, over = strcmp(status, "in_progress") != 0;
    json_t *error =
        failed ? json_pack("{s:s, s:s}", "code", "server_error", "message", r->error.message) : json_null();
    json_t *why =
        strcmp(status, "incomplete") == 0 ? json_pack("{s:s}", "reason", "max_output_tokens") : json_null();
    json_t *o = json_pack("{s:s, s:s, s:I, s:s, s:o, s:o, s:s, s:o}", "id", r->id, "object", "response",
                          "created_at", (json_int_t)r->created, "status", status, "error", error,
                          "incomplete_details", why, "model", answer_model(r), "output", output(r, l));
    if (!o)
        return NULL;
    parts_set(o, "instructions", given(r, "instructions", json_null()));
    parts_set(o, "metadata", given(r, "metadata", json_object()));
    parts_set(o, "tools", given(r, "tools", json_array()));
    parts_set(o, "tool_choice", given(r, "tool_choice", json_string("auto")));
    parts_set(o, "text", given(r, "text", json_pack("{s:{s:s}}", "format", "type", "text")));
    parts_set(o, "parallel_tool_calls", json_boolean(!r->ask.single_call));
    parts_set(o, "temperature", json_real((double)r->ask.sampling.temperature));
    parts_set(o, "top_p", json_real(r->ask.sampling.top_p > FLT_MIN ? (double)r->ask.sampling.top_p : 0));
    parts_set(o, "max_output_tokens", r->ask.max_tokens < 0 ? json_null() : json_integer(r->ask.max_tokens));
    parts_set(o, "previous_response_id", json_null());
    parts_set(o, "truncation", json_string("disabled"));
    parts_set(o, "store", json_false());
    parts_set(o, "usage", over && !failed ? usage(r) : json_null());
    return o;
}

static const char *final_status(const answer *r) {
    if (r->error.kind != API_NO_ERROR)
        return "failed";
    return strcmp(r->choices[0].finish, "length") == 0 ? "incomplete" : "completed";
}

static json_t *whole(const teller *told) {
    return response(told->answer, &told->blocks, final_status(told->answer));
}

/* ---- streamed ---- */

/* Adds type and number to JSON and writes it. */
static void write_event(teller *told, const char *type, json_t *json) {
    json_t *event = json_pack("{s:s, s:I}", "type", type, "sequence_number", told->sequence++);
    if (event && json && json_object_update(event, json) == 0) {
        parts_event(told->out, type, event);
    } else {
        json_decref(event);
        told->out->failed = true;
    }
    json_decref(json);
}

/* An event about the text of block I: the delta or the whole, as KEY. */
static void write_text(teller *told, const char *type, const block *b, size_t i, const char *key,
                       const char *text, size_t n) {
    json_t *json = json_pack("{s:s, s:I, s:s%}", "item_id", b->id, "output_index", (json_int_t)i, key,
                             text ? text : "", n);
    if (json && b->kind != NIB_PIECE_CALL)
        parts_set(json, "content_index", json_integer(0));
    if (json && b->kind == NIB_PIECE_TEXT)
        parts_set(json, "logprobs", json_array());
    write_event(told, type, json);
}

static void write_part(teller *told, const char *type, const block *b, size_t i, const block *shown) {
    write_event(told, type,
                json_pack("{s:s, s:I, s:i, s:o}", "item_id", b->id, "output_index", (json_int_t)i,
                          "content_index", 0, "part", text_part(shown)));
}

static void begin_item(void *context, const block *b, size_t i) {
    teller *told = context;
    const block nothing = {.kind = b->kind};
    write_event(told, "response.output_item.added",
                json_pack("{s:I, s:o}", "output_index", (json_int_t)i, "item",
                          item(told->answer, &told->blocks, b, true)));
    if (b->kind != NIB_PIECE_CALL)
        write_part(told, "response.content_part.added", b, i, &nothing);
}

static const char *const delta_events[] = {[NIB_PIECE_TEXT] = "response.output_text.delta",
                                           [NIB_PIECE_REASONING] = "response.reasoning_text.delta",
                                           [NIB_PIECE_CALL] = "response.function_call_arguments.delta"};
static const char *const done_events[] = {[NIB_PIECE_TEXT] = "response.output_text.done",
                                          [NIB_PIECE_REASONING] = "response.reasoning_text.done",
                                          [NIB_PIECE_CALL] = "response.function_call_arguments.done"};

static void more_of_item(void *context, const block *b, size_t i, const char *text, size_t n) {
    write_text(context, delta_events[b->kind], b, i, "delta", text, n);
}

static void end_item(void *context, const block *b, size_t i) {
    teller *told = context;
    const bool call = b->kind == NIB_PIECE_CALL;
    write_text(told, done_events[b->kind], b, i, call ? "arguments" : "text", b->text.bytes, b->text.n);
    if (!call)
        write_part(told, "response.content_part.done", b, i, b);
    write_event(told, "response.output_item.done",
                json_pack("{s:I, s:o}", "output_index", (json_int_t)i, "item",
                          item(told->answer, &told->blocks, b, false)));
}

static void write_response(teller *told, const char *type, const char *status) {
    write_event(told, type, json_pack("{s:o}", "response", response(told->answer, &told->blocks, status)));
}

static void end_response(teller *told) {
    static const char *const types[] = {"response.completed", "response.incomplete", "response.failed"};
    const char *status = final_status(told->answer);
    const int which = strcmp(status, "completed") == 0 ? 0 : strcmp(status, "incomplete") == 0 ? 1 : 2;
    blocks_end(&told->blocks);
    write_response(told, types[which], status);
}

static void begin_response(teller *told) {
    write_response(told, "response.created", "in_progress");
    write_response(told, "response.in_progress", "in_progress");
}

void route_responses(exchange *x) {
    static const tell_words words = {.id_prefix = "resp_",
                                     .read = ask_read_responses,
                                     .add = answer_add_conversation,
                                     .whole = whole,
                                     .begin = begin_response,
                                     .begin_block = begin_item,
                                     .more_of_block = more_of_item,
                                     .end_block = end_item,
                                     .end = end_response};
    tell(x, &words);
}
