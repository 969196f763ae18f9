/* SPDX-License-Identifier: Apache-2.0
 *
 * See parts.h.
 */
#include "serve/parts.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/utf8.h"

bool parts_set(json_t *object, const char *name, json_t *value) {
    return value && json_object_set_new(object, name, value) == 0;
}

json_t *parts_usage(const answer *r) {
    const answer_usage u = answer_count(r);
    return json_pack("{s:i, s:i, s:i, s:{s:i}, s:{s:i}}", "prompt_tokens", u.prompt, "completion_tokens",
                     u.completion, "total_tokens", u.prompt + u.completion, "prompt_tokens_details",
                     "cached_tokens", u.cached, "completion_tokens_details", "reasoning_tokens", u.reasoning);
}

static double rate(double n, double ms) {
    return ms > 0 ? n * 1e3 / ms : 0;
}

json_t *parts_timings(const answer *r) {
    const choice *c = &r->choices[0];
    const int n_prompt = (int)r->prompts[0].n - c->n_cached, n = (int)c->n_ids;
    const double prompt_ms = c->prompt_ms - c->queue_ms > 0 ? c->prompt_ms - c->queue_ms : 0;
    json_t *o = json_pack("{s:i, s:i, s:f, s:f, s:f, s:i, s:f, s:f, s:f}", "cache_n", c->n_cached, "prompt_n",
                          n_prompt, "prompt_ms", prompt_ms, "prompt_per_token_ms",
                          n_prompt ? prompt_ms / n_prompt : 0.0, "prompt_per_second",
                          rate(n_prompt, prompt_ms), "predicted_n", n, "predicted_ms", c->generate_ms,
                          "predicted_per_token_ms", n > 1 ? c->generate_ms / (n - 1) : 0.0,
                          "predicted_per_second", rate(n - 1, c->generate_ms));
    if (o && c->n_guessed > 0) {
        parts_set(o, "draft_n", json_integer(c->n_guessed));
        parts_set(o, "draft_n_accepted", json_integer(c->n_right_guesses));
    }
    return o;
}

json_t *parts_ids(const int32_t *ids, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; list && i < n; i++)
        json_array_append_new(list, json_integer(ids[i]));
    return list;
}

json_t *parts_stop_reason(const answer *r, const choice *c) {
    if (c->stop_text >= 0)
        return json_string(r->ask.stops[c->stop_text]);
    for (size_t i = 0; i < r->ask.n_stop_ids; i++)
        if (c->stop_token == r->ask.stop_ids[i])
            return json_integer(c->stop_token);
    return json_null();
}

/* ---- log-probabilities ---- */

static double told(float logprob) { /* JSON knows no infinity */
    return logprob > -9999 ? (double)logprob : -9999;
}

json_t *parts_token_text(const server *s, int32_t token) {
    const char *bytes;
    char *text;
    size_t n;
    if (nib_token_bytes(s->engine, token, &bytes, &n, NULL) != NIB_OK)
        return json_string("");
    if (utf8_valid_prefix(bytes, n) == n)
        return json_stringn(bytes, n);
    if (nib_detokenize(s->engine, &token, 1, &text, &n, NULL) != NIB_OK)
        return NULL;
    json_t *json = json_stringn(text, n);
    nib_free(text);
    return json;
}

static json_t *token_bytes(const server *s, int32_t token) {
    const char *bytes;
    size_t n;
    json_t *list = json_array();
    if (nib_token_bytes(s->engine, token, &bytes, &n, NULL) != NIB_OK)
        return list;
    for (size_t i = 0; list && i < n; i++)
        json_array_append_new(list, json_integer((unsigned char)bytes[i]));
    return list;
}

static json_t *chat_token(const server *s, int32_t token, float logprob) {
    return json_pack("{s:o, s:f, s:o}", "token", parts_token_text(s, token), "logprob", told(logprob),
                     "bytes", token_bytes(s, token));
}

json_t *parts_chat_logprobs(const server *s, const choice *c, size_t from) {
    json_t *content = json_array();
    for (size_t i = from; content && i < c->n_tokens; i++) {
        const answer_token *t = &c->tokens[i];
        json_t *entry = chat_token(s, t->token, t->logprob), *top = json_array();
        for (int k = 0; top && k < t->n_top; k++)
            json_array_append_new(top, chat_token(s, t->top[k].token, t->top[k].logprob));
        if (!entry || !parts_set(entry, "top_logprobs", top) || json_array_append_new(content, entry) != 0)
            return json_decref(content), NULL;
    }
    return json_pack("{s:o}", "content", content);
}

static size_t count_characters(const json_t *text) {
    size_t n = 0;
    const char *p = json_string_value(text);
    for (size_t i = 0; p && i < json_string_length(text); i++)
        n += ((unsigned char)p[i] & 0xC0) != 0x80;
    return n;
}

/* {"token": logprob, ...} of the most probable, the one that came among them. */
static json_t *top_by_text(const server *s, const answer_token *t) {
    json_t *top = json_object();
    for (int k = 0; top && k < t->n_top; k++) {
        json_t *text = parts_token_text(s, t->top[k].token);
        if (text && !json_object_get(top, json_string_value(text)))
            json_object_set_new(top, json_string_value(text), json_real(told(t->top[k].logprob)));
        json_decref(text);
    }
    json_t *own = parts_token_text(s, t->token);
    if (top && own)
        json_object_set_new(top, json_string_value(own), json_real(told(t->logprob)));
    json_decref(own);
    return top;
}

json_t *parts_text_logprobs(const server *s, const choice *c, size_t from, size_t *offset) {
    json_t *tokens = json_array(), *logprobs = json_array(), *top = json_array(), *offsets = json_array();
    for (size_t i = from; i < c->n_tokens; i++) {
        const answer_token *t = &c->tokens[i];
        json_t *text = parts_token_text(s, t->token);
        json_array_append_new(offsets, json_integer((json_int_t)*offset));
        *offset += count_characters(text);
        json_array_append_new(tokens, text);
        json_array_append_new(logprobs, isnan(t->logprob) ? json_null() : json_real(told(t->logprob)));
        json_array_append_new(top, isnan(t->logprob) ? json_null() : top_by_text(s, t));
    }
    return json_pack("{s:o, s:o, s:o, s:o}", "tokens", tokens, "token_logprobs", logprobs, "top_logprobs",
                     top, "text_offset", offsets);
}

/* RANK 0: not among the most probable, and not known. */
static bool set_ranked(const server *s, json_t *of, int32_t token, float logprob, int rank) {
    char id[16];
    snprintf(id, sizeof id, "%d", token);
    return parts_set(of, id,
                     json_pack("{s:f, s:o, s:o}", "logprob", told(logprob), "rank",
                               rank ? json_integer(rank) : json_null(), "decoded_token",
                               parts_token_text(s, token)));
}

json_t *parts_prompt_logprobs(const server *s, const answer_prompt *p) {
    json_t *list = json_pack("[n]");
    for (size_t i = 1; list && i < p->n; i++) {
        const answer_token *t = &p->tokens[i];
        json_t *of = json_object();
        int rank = 0;
        for (int k = 0; k < t->n_top; k++) {
            set_ranked(s, of, t->top[k].token, t->top[k].logprob, k + 1);
            rank = t->top[k].token == t->token ? k + 1 : rank;
        }
        if (!set_ranked(s, of, t->token, t->logprob, rank) || json_array_append_new(list, of) != 0)
            return json_decref(list), NULL;
    }
    return list;
}

/* ---- answers ---- */

json_t *parts_head(const answer *r, const char *object, json_t *choices) {
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:o}", "id", r->id, "object", object, "created",
                     (json_int_t)r->created, "model", answer_model(r), "system_fingerprint",
                     r->server->fingerprint, "choices", choices);
}

static bool set_counts(const answer *r, json_t *o) {
    return o && parts_set(o, "usage", parts_usage(r)) && parts_set(o, "timings", parts_timings(r));
}

json_t *parts_whole(const answer *r, const char *object, json_t *(*write)(const answer *r, const choice *c)) {
    json_t *choices = json_array();
    for (int index = 0; choices && index < (int)r->n_prompts * r->ask.n; index++)
        for (size_t i = 0; i < r->n_choices; i++)
            if (r->choices[i].index == index && json_array_append_new(choices, write(r, &r->choices[i])) != 0)
                return json_decref(choices), NULL;
    json_t *o = parts_head(r, object, choices);
    if (set_counts(r, o))
        return o;
    json_decref(o);
    return NULL;
}

/* Up to the first choice. */
static void begin_chunk(answer *r, const char *object, buf *out) {
    static const char end[] = "]}";
    buf *head = &r->chunk_head;
    if (head->n == 0) {
        buf_text(head, "data: ");
        buf_json(head, parts_head(r, object, json_array()));
        head->n -= head->failed ? 0 : strlen(end);
    }
    out->failed |= head->failed;
    buf_add(out, head->bytes, head->n);
}

static void end_chunk(const answer *r, json_t *timings, buf *out) {
    buf_text(out, "]");
    if (r->ask.continuous_usage) {
        buf_text(out, ",\"usage\":");
        buf_json(out, parts_usage(r));
    } else if (r->ask.include_usage) {
        buf_text(out, ",\"usage\":null");
    }
    if (timings) {
        buf_text(out, ",\"timings\":");
        buf_json(out, timings);
    }
    buf_text(out, "}\n\n");
}

void parts_chunk(answer *r, const char *object, json_t *one, json_t *timings, buf *out) {
    begin_chunk(r, object, out);
    buf_json(out, one);
    end_chunk(r, timings, out);
}

void parts_text_chunk(answer *r, const char *object, int index, const char *before, const char *text,
                      size_t n, const char *after, buf *out) {
    begin_chunk(r, object, out);
    buf_print(out, "{\"index\":%d,", index);
    buf_text(out, before);
    buf_json_text(out, text, n);
    buf_text(out, after);
    end_chunk(r, NULL, out);
}

void parts_end(const answer *r, const char *object, buf *out) {
    if (r->error.kind != API_NO_ERROR) {
        parts_frame(out, api_error_json(&r->error, API_STYLE_OPENAI));
    } else if (r->ask.include_usage) {
        json_t *chunk = parts_head(r, object, json_array());
        set_counts(r, chunk);
        parts_frame(out, chunk);
    }
    buf_text(out, "data: [DONE]\n\n");
}

/* ---- frames ---- */

void parts_frame(buf *out, json_t *json) {
    buf_text(out, "data: ");
    buf_json(out, json);
    buf_text(out, "\n\n");
}

void parts_event(buf *out, const char *name, json_t *json) {
    buf_print(out, "event: %s\n", name);
    parts_frame(out, json);
}
