/* SPDX-License-Identifier: Apache-2.0
 *
 * POST /v1/completions: texts continued, whole or as a stream; lists of prompts; echo.
 */
#include "serve/parts.h"
#include "serve/routes.h"
#include "serve/tell.h"

#define OBJECT "text_completion"

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
    if (!p->tokens || c->begun || !r->ask.echo)
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
        if (o && r->ask.prompt_logprobs >= 0 && c->index % r->ask.n == 0) /* of each prompt once */
            parts_set(o, "prompt_logprobs", parts_prompt_logprobs(r->server, &r->prompts[c->prompt]));
    }
    buf_free(&text);
    return o;
}

static json_t *whole(const teller *told) {
    return parts_whole(told->answer, OBJECT, whole_choice);
}

/* ---- streamed ---- */

/* What most tokens bring: text, and nothing else to tell. */
static bool write_text(answer *r, const choice *c, buf *out) {
    if (c->over || r->ask.logprobs || r->ask.return_ids || (r->ask.echo && !c->begun))
        return false;
    parts_text_chunk(r, OBJECT, c->index, "\"text\":", c->fresh.bytes, c->fresh.n,
                     ",\"logprobs\":null,\"finish_reason\":null,\"stop_reason\":null}", out);
    return true;
}

static void write_all(answer *r, choice *c, buf *out) {
    buf text = {0};
    if (r->ask.echo && !c->begun && !prompt_text(r, c->prompt, &text)) {
        out->failed = true;
        buf_free(&text);
        return;
    }
    buf_add(&text, c->fresh.n ? c->fresh.bytes : "", c->fresh.n);
    json_t *logprobs = r->ask.logprobs ? with_prompt(r, c, c->tokens_told, &c->n_characters) : NULL;
    parts_chunk(r, OBJECT, one_choice(r, c, text.bytes, text.n, logprobs, c->over ? c->finish : NULL), NULL,
                out);
    buf_free(&text);
}

static void write_news(teller *told, choice *c) {
    if (c->fresh.n == 0 && (!c->over || c->end_told))
        return;
    if (!write_text(told->answer, c, told->out))
        write_all(told->answer, c, told->out);
    c->begun = true;
    c->end_told = c->over;
    answer_told(c);
}

static void write_end(teller *told) {
    parts_end(told->answer, OBJECT, told->out);
}

void route_completions(exchange *x) {
    static const tell_words words = {.id_prefix = "cmpl-",
                                     .read = ask_read_completion,
                                     .add = answer_add_prompts,
                                     .whole = whole,
                                     .news = write_news,
                                     .end = write_end};
    tell(x, &words);
}
