/* SPDX-License-Identifier: Apache-2.0
 *
 * POST /v1/embeddings and llama.cpp's /embedding: texts as vectors of unit length. Numbers are written
 * without a JSON object each: there may be millions.
 */
#include <math.h>

#include "base/mem.h"
#include "serve/answer.h"
#include "serve/parts.h"
#include "serve/routes.h"

/* The first N numbers of FROM at unit length; a vector of zeros stays one. */
static void normalize(float *to, const float *from, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)from[i] * (double)from[i];
    for (size_t i = 0; i < n; i++)
        to[i] = sum > 0 ? (float)((double)from[i] / sqrt(sum)) : 0;
}

static void write_vector(const answer *r, const float *vector, size_t n, buf *out) {
    _Static_assert(sizeof(float) == 4 && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "as clients read base64");
    if (r->ask.base64) {
        buf_text(out, "\"");
        buf_base64(out, vector, n * sizeof *vector);
        buf_text(out, "\"");
        return;
    }
    for (size_t i = 0; i < n; i++)
        buf_print(out, "%s%.9g", i ? "," : "[", (double)vector[i]);
    buf_text(out, "]");
}

/* An object for each input in their order: after its number come HEAD, the vector and TAIL. */
static void write_list(const answer *r, const char *head, const char *tail, buf *out) {
    const size_t n = r->ask.dimensions ? (size_t)r->ask.dimensions : (size_t)r->server->info.embedding_size;
    float *vector = mem_array(n, sizeof *vector);
    out->failed |= !vector;
    buf_text(out, "[");
    for (size_t i = 0; i < r->n_choices && !out->failed; i++) {
        buf_print(out, "%s{\"index\":%zu,%s", i ? "," : "", i, head);
        normalize(vector, r->choices[i].embedding, n);
        write_vector(r, vector, n, out);
        buf_text(out, tail);
    }
    buf_text(out, "]");
    mem_free(vector);
}

static void write_openai(const answer *r, buf *out) {
    const answer_usage u = answer_count(r);
    buf_text(out, "{\"object\":\"list\",\"data\":");
    write_list(r, "\"object\":\"embedding\",\"embedding\":", "}", out);
    buf_text(out, ",\"model\":");
    buf_json(out, json_string(answer_model(r)));
    buf_text(out, ",\"usage\":");
    buf_json(out, json_pack("{s:i, s:i}", "prompt_tokens", u.prompt, "total_tokens", u.prompt));
    buf_text(out, "}");
}

/* A list of vectors each: without pooling it would be one for each token. */
static void write_llama(const answer *r, buf *out) {
    write_list(r, "\"embedding\":[", "]}", out);
}

static bool check_dimensions(const answer *r, api_error *e) {
    const int most = r->server->info.embedding_size;
    return r->ask.dimensions <= most ||
           api_error_set(e, API_INVALID, "dimensions", "'dimensions' is %d; vectors of this model have %d",
                         r->ask.dimensions, most);
}

static bool embed(exchange *x, answer **out, api_error *e) {
    if (!answer_read(out, x, ask_read_embeddings, "embd-", e) || !check_dimensions(*out, e) ||
        !answer_add_prompts(*out, e) || !answer_start(*out, e))
        return false;
    answer *r = *out;
    if (!answer_finish(r))
        *e = r->error;
    for (size_t i = 0; i < r->n_choices && e->kind == API_NO_ERROR; i++)
        if (!r->choices[i].embedding) /* its request was cancelled */
            api_error_set(e, API_UNAVAILABLE, NULL, "the request was cancelled");
    return e->kind == API_NO_ERROR;
}

static void reply(exchange *x, void (*write)(const answer *r, buf *out)) {
    answer *r = NULL;
    buf text = {0};
    if (embed(x, &r, &x->error)) {
        write(r, &text);
        http_reply(x, 200, "application/json", &text);
    } else {
        http_reply_error(x, &x->error);
    }
    answer_close(r);
}

void route_embeddings(exchange *x) {
    reply(x, write_openai);
}

void route_llama_embedding(exchange *x) {
    reply(x, write_llama);
}
