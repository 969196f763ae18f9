/* SPDX-License-Identifier: Apache-2.0
 *
 * POST /v1/completions: texts continued, whole or as a stream; lists of prompts; echo.
 */
#include <string.h>

#include "base/mem.h"
#include "serve/parts.h"
#include "serve/routes.h"

static json_t *head(const answer *r, json_t *choices) {
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:o}", "id", r->id, "object", "text_completion", "created",
                     (json_int_t)r->created, "model", answer_model(r), "system_fingerprint",
                     r->server->fingerprint, "choices", choices);
}

/* ---- echo ---- */

/* The text of prompt I. */
static bool prompt_text(const answer *r, size_t i, buf *out) {
    const json_t *given = json_is_string(r->ask.prompt) ? r->ask.prompt : json_array_get(r->ask.prompt, i);
    char *text;
    size_t n;
    if (json_is_string(given)) {
        buf_add(out, json_string_value(given), json_string_length(given));
        return !out->failed;
    }
    if (nib_detokenize(r->server->engine, r->prompts[i].ids, r->prompts[i].n, &text, &n, NULL) != NIB_OK)
        return false;
    buf_add(out, text, n);
    nib_free(text);
    return !out->failed;
}

/* ---- log-probabilities ---- */

/* The prompt's own, in front of those that C has from FROM on. */
static json_t *with_prompt(const answer *r, const choice *c, size_t from, size_t *offset) {
    const answer_prompt *p = &r->prompts[c->prompt];
    if (!p->tokens || c->begun)
        return parts_text_logprobs(r->server, c, from, offset);
    const choice all = {.tokens = p->tokens, .n_tokens = p->n};
    json_t *first = parts_text_logprobs(r->server, &all, 0, offset);
    json_t *rest = parts_text_logprobs(r->server, c, from, offset);
    const char *key;
    json_t *list;
    json_object_foreach(first, key, list) json_array_extend(list, json_object_get(rest, key));
    json_decref(rest);
    return first;
}

/* ---- choices ---- */

static json_t *one_choice(const answer *r, const choice *c, const char *text, size_t n, json_t *logprobs,
                          const char *finish) {
    json_t *o = json_pack("{s:i, s:s%, s:o, s:s?, s:o}", "index", c->index, "text", text ? text : "", n,
                          "logprobs", logprobs ? logprobs : json_null(), "finish_reason", finish,
                          "stop_reason", c->over ? parts_stop_reason(r, c) : json_null());
    if (o && r->ask.return_ids)
        parts_set(o, "token_ids", parts_ids(c->ids + c->ids_told, c->n_ids - c->ids_told));
    if (o && r->ask.return_ids && !c->begun)
        parts_set(o, "prompt_token_ids", parts_ids(r->prompts[c->prompt].ids, r->prompts[c->prompt].n));
    return o;
}

static json_t *whole_choice(const answer *r, const choice *c) {
    buf text = {0};
    size_t offset = 0;
    json_t *o = NULL;
    if (!r->ask.echo || prompt_text(r, c->prompt, &text)) {
        buf_add(&text, c->text.n ? c->text.bytes : "", c->text.n);
        if (!text.failed)
            o = one_choice(r, c, text.bytes, text.n, r->ask.logprobs ? with_prompt(r, c, 0, &offset) : NULL,
                           c->finish);
    }
    buf_free(&text);
    return o;
}

static json_t *whole(const answer *r) {
    json_t *choices = json_array();
    for (int index = 0; choices && index < (int)r->n_prompts * r->ask.n; index++)
        for (size_t i = 0; i < r->n_choices; i++)
            if (r->choices[i].index == index &&
                json_array_append_new(choices, whole_choice(r, &r->choices[i])) != 0)
                return json_decref(choices), NULL;
    json_t *o = head(r, choices);
    if (o && parts_set(o, "usage", parts_usage(r)) && parts_set(o, "timings", parts_timings(r)))
        return o;
    json_decref(o);
    return NULL;
}

/* ---- streamed ---- */

typedef struct text_stream {
    stream base;
    answer *answer;
    size_t *offsets; /* [n_choices] characters told */
    bool over;
} text_stream;

static void write_choice(const answer *r, choice *c, size_t *offset, buf *out) {
    const bool news = c->fresh.n > 0 || (c->over && !c->end_told);
    buf text = {0};
    if (!news)
        return;
    if (r->ask.echo && !c->begun && !prompt_text(r, c->prompt, &text)) {
        out->failed = true;
        return;
    }
    buf_add(&text, c->fresh.n ? c->fresh.bytes : "", c->fresh.n);
    json_t *logprobs = r->ask.logprobs ? with_prompt(r, c, c->tokens_told, offset) : NULL;
    json_t *chunk =
        head(r, json_pack("[o]", one_choice(r, c, text.bytes, text.n, logprobs, c->over ? c->finish : NULL)));
    buf_free(&text);
    if (chunk && r->ask.continuous_usage)
        parts_set(chunk, "usage", parts_usage(r));
    else if (chunk && r->ask.include_usage)
        parts_set(chunk, "usage", json_null());
    parts_frame(out, chunk);
    c->begun = true;
    c->end_told = c->over;
    answer_told(c);
}

static void write_end(const answer *r, buf *out) {
    if (r->error.kind != API_NO_ERROR) {
        parts_error_frame(out, &r->error);
    } else if (r->ask.include_usage) {
        json_t *chunk = head(r, json_array());
        if (chunk)
            parts_set(chunk, "usage", parts_usage(r));
        parts_frame(out, chunk);
    }
    buf_text(out, "data: [DONE]\n\n");
}

static bool next_chunk(stream *base, buf *out) {
    text_stream *s = (text_stream *)base;
    answer *r = s->answer;
    if (s->over)
        return false;
    const bool more = answer_wait(r, 1000 * r->server->options.ping_seconds);
    for (size_t i = 0; i < r->n_choices && r->error.kind == API_NO_ERROR; i++)
        write_choice(r, &r->choices[i], &s->offsets[i], out);
    if (!more) {
        write_end(r, out);
        s->over = true;
    } else if (parts_ping_due(r, out)) {
        buf_text(out, ":\n\n");
    }
    return true;
}

static void close_text_stream(stream *base) {
    text_stream *s = (text_stream *)base;
    answer_close(s->answer);
    mem_free(s->offsets);
    mem_free(s);
}

/* False: no memory; R is still the caller's. */
static bool stream_answer(exchange *x, answer *r) {
    text_stream *s = mem_array(1, sizeof *s);
    size_t *offsets = mem_array(r->n_choices + 1, sizeof *offsets);
    if (!s || !offsets) {
        mem_free(s);
        mem_free(offsets);
        return false;
    }
    *s = (text_stream){{next_chunk, close_text_stream}, r, offsets, false};
    http_reply_stream(x, "text/event-stream", &s->base);
    return true;
}

/* ---- the route ---- */

static bool start(exchange *x, answer **out, api_error *e) {
    return answer_read(out, x, ask_read_completion, "cmpl-", e) && answer_add_prompts(*out, e) &&
           answer_start(*out, e);
}

void route_completions(exchange *x) {
    answer *r = NULL;
    if (!start(x, &r, &x->error)) {
        http_reply_error(x, &x->error);
        answer_close(r);
        return;
    }
    if (r->ask.stream && stream_answer(x, r))
        return;
    if (r->ask.stream)
        ask_no_memory(&r->error);
    if (answer_finish(r)) {
        answer_choose(r);
        http_reply_json(x, 200, whole(r));
    } else {
        http_reply_error(x, &r->error);
    }
    answer_close(r);
}
