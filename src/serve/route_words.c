/* SPDX-License-Identifier: Apache-2.0
 *
 * Words: texts to tokens and back, conversations to prompts, without running the model.
 */
#include "base/mem.h"
#include "serve/parts.h"
#include "serve/routes.h"

typedef struct words_ask {
    const char *model;
    const json_t *text, *tokens;
    bool add_special, no_special, parse_special, with_pieces, with_texts, has_special;
} words_ask;

static bool read_special(void *target, const json_t *value, const char *name, api_error *e) {
    words_ask *a = target;
    if (!json_is_boolean(value))
        return api_error_set(e, API_INVALID, name, "'%s' must be true or false", name);
    a->add_special = json_is_true(value);
    a->has_special = true;
    return true;
}

#define AT(member) offsetof(words_ask, member)

static const field words_fields[] = {{"model", FIELD_TEXT, AT(model), 0, 0, NULL, NULL},
                                     {"content", FIELD_JSON, AT(text), 0, 0, NULL, NULL},
                                     {"prompt", FIELD_JSON, AT(text), 0, 0, NULL, NULL},
                                     {"tokens", FIELD_LIST, AT(tokens), 0, 0, NULL, NULL},
                                     {"add_special", FIELD_READ, 0, 0, 0, read_special, NULL},
                                     {"add_special_tokens", FIELD_READ, 0, 0, 0, read_special, NULL},
                                     {"parse_special", FIELD_BOOL, AT(parse_special), 0, 0, NULL, NULL},
                                     {"with_pieces", FIELD_BOOL, AT(with_pieces), 0, 0, NULL, NULL},
                                     {"return_token_strs", FIELD_BOOL, AT(with_texts), 0, 0, NULL, NULL},
                                     FIELD_END};
const field *const route_words_tables[] = {words_fields, NULL};

/* The body's conversation as ids, freed with nib_free. */
static bool conversation_ids(exchange *x, json_t *body, int32_t **ids, size_t *n, api_error *e) {
    ask a = {0};
    answer *r = NULL;
    if (!ask_read_chat(&a, body, e)) {
        ask_free(&a);
        return false;
    }
    const bool good = answer_open(&r, x, &a, json_incref(body), "", e) &&
                      routes_check_model(x, r->ask.model, e) && answer_add_conversation(r, e);
    if (r && r->n_prompts > 0) {
        *ids = r->prompts[0].ids;
        *n = r->prompts[0].n;
        r->prompts[0].ids = NULL;
    }
    answer_close(r);
    return good || (*ids && e->kind == API_TOO_LONG); /* it may still be counted */
}

static bool text_ids(exchange *x, const words_ask *a, bool from_content, int32_t **ids, size_t *n,
                     api_error *e) {
    nib_error words = {""};
    const bool bos = a->has_special ? a->add_special : !from_content; /* llama.cpp's default, and vLLM's */
    if (!json_is_string(a->text))
        return api_error_set(e, API_INVALID, from_content ? "content" : "prompt", "'%s' must be a string",
                             from_content ? "content" : "prompt");
    const unsigned flags = bos ? 0 : NIB_TOKENIZE_NO_BOS;
    const nib_status status =
        nib_tokenize(x->server->engine, json_string_value(a->text), json_string_length(a->text),
                     flags | (a->parse_special ? 0 : NIB_TOKENIZE_NO_SPECIAL), ids, n, &words);
    return status == NIB_OK || api_error_from(e, status, &words);
}

static json_t *pieces(const server *s, const int32_t *ids, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(
            list, json_pack("{s:i, s:o}", "id", (int)ids[i], "piece", parts_token_text(s, ids[i])));
    return list;
}

static void reply_ids(exchange *x, const words_ask *a, const int32_t *ids, size_t n) {
    json_t *o =
        json_pack("{s:I, s:i, s:o}", "count", (json_int_t)n, "max_model_len", x->server->info.max_model_len,
                  "tokens", a->with_pieces ? pieces(x->server, ids, n) : parts_ids(ids, n));
    if (o && a->with_texts) {
        json_t *texts = json_array();
        for (size_t i = 0; i < n; i++)
            json_array_append_new(texts, parts_token_text(x->server, ids[i]));
        parts_set(o, "token_strs", texts);
    }
    http_reply_json(x, 200, o);
}

static bool tokenize(exchange *x, json_t *body, words_ask *a, int32_t **ids, size_t *n, api_error *e) {
    a->parse_special = true;
    if (json_object_get(body, "messages"))
        return conversation_ids(x, body, ids, n, e);
    return fields_read(route_words_tables, a, body, "", e) && routes_check_model(x, a->model, e) &&
           text_ids(x, a, json_object_get(body, "content") != NULL, ids, n, e);
}

void route_tokenize(exchange *x) {
    json_t *body = NULL;
    int32_t *ids = NULL;
    size_t n = 0;
    words_ask a = {0};
    if (http_json(x, &body, &x->error) && tokenize(x, body, &a, &ids, &n, &x->error))
        reply_ids(x, &a, ids, n);
    else
        http_reply_error(x, &x->error);
    nib_free(ids);
    json_decref(body);
}

/* POST /v1/chat/completions/input_tokens */
void route_count(exchange *x) {
    json_t *body = NULL;
    int32_t *ids = NULL;
    size_t n = 0;
    if (http_json(x, &body, &x->error) && conversation_ids(x, body, &ids, &n, &x->error))
        http_reply_json(
            x, 200,
            json_pack("{s:s, s:I}", "object", "response.input_tokens", "input_tokens", (json_int_t)n));
    else
        http_reply_error(x, &x->error);
    nib_free(ids);
    json_decref(body);
}

/* POST /apply-template: the prompt, control tokens as their names. */
void route_template(exchange *x) {
    json_t *body = NULL;
    int32_t *ids = NULL;
    size_t n = 0, n_bytes;
    const char *bytes;
    buf text = {0};
    if (http_json(x, &body, &x->error) && conversation_ids(x, body, &ids, &n, &x->error)) {
        for (size_t i = 0; i < n; i++)
            if (nib_token_bytes(x->server->engine, ids[i], &bytes, &n_bytes, NULL) == NIB_OK)
                buf_add(&text, bytes, n_bytes);
        http_reply_json(x, 200,
                        text.failed ? NULL : json_pack("{s:s%}", "prompt", text.n ? text.bytes : "", text.n));
    } else {
        http_reply_error(x, &x->error);
    }
    buf_free(&text);
    nib_free(ids);
    json_decref(body);
}

static bool detokenize(exchange *x, const words_ask *a, char **text, size_t *n, api_error *e) {
    const size_t n_ids = json_array_size(a->tokens);
    nib_error words = {""};
    int32_t *ids = mem_array(n_ids + 1, sizeof *ids);
    if (!ids)
        return ask_no_memory(e);
    bool good = a->tokens != NULL;
    for (size_t i = 0; i < n_ids; i++) {
        const json_t *id = json_array_get(a->tokens, i);
        const json_int_t value = json_integer_value(id);
        good = good && json_is_integer(id) && value >= 0 && value <= INT32_MAX;
        ids[i] = good ? (int32_t)value : 0;
    }
    if (!good)
        api_error_set(e, API_INVALID, "tokens", "'tokens' must be a list of token ids");
    else {
        const nib_status status = nib_detokenize(x->server->engine, ids, n_ids, text, n, &words);
        good = status == NIB_OK || api_error_from(e, status, &words);
    }
    mem_free(ids);
    return good;
}

void route_detokenize(exchange *x) {
    json_t *body = NULL;
    char *text = NULL;
    size_t n = 0;
    words_ask a = {0};
    if (http_json(x, &body, &x->error) && fields_read(route_words_tables, &a, body, "", &x->error) &&
        routes_check_model(x, a.model, &x->error) && detokenize(x, &a, &text, &n, &x->error))
        http_reply_json(x, 200, json_pack("{s:s%, s:s%}", "content", text, n, "prompt", text, n));
    else
        http_reply_error(x, &x->error);
    nib_free(text);
    json_decref(body);
}
