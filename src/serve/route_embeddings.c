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

/* ---- written vector by vector: all together may be hundreds of megabytes ---- */

typedef struct form {
    void (*begin)(const answer *r, buf *out), (*end)(const answer *r, buf *out); /* about the list */
    const char *head, *tail;                                                     /* about a vector */
} form;

typedef struct vector_stream {
    stream base;
    answer *answer;
    const form *form;
    float *unit; /* [n_numbers] */
    size_t i;    /* vectors told; n_choices + 1: all is */
} vector_stream;

static bool next_vector(stream *base, buf *out) {
    vector_stream *s = (vector_stream *)base;
    const answer *r = s->answer;
    if (s->i > r->n_choices)
        return false;
    if (s->i == 0)
        s->form->begin(r, out);
    if (s->i < r->n_choices) {
        buf_print(out, "%s{\"index\":%zu,%s", s->i ? "," : "", s->i, s->form->head);
        normalize(s->unit, r->choices[s->i].vector, r->n_numbers);
        write_vector(r, s->unit, r->n_numbers, out);
        buf_text(out, s->form->tail);
    } else {
        s->form->end(r, out);
    }
    s->i++;
    return true;
}

static void close_vectors(stream *base) {
    vector_stream *s = (vector_stream *)base;
    answer_close(s->answer);
    mem_free(s->unit);
    mem_free(s);
}

/* ---- forms ---- */

static void begin_openai(const answer *r, buf *out) {
    (void)r;
    buf_text(out, "{\"object\":\"list\",\"data\":[");
}

static void end_openai(const answer *r, buf *out) {
    const answer_usage u = answer_count(r);
    buf_text(out, "],\"model\":");
    buf_json(out, json_string(answer_model(r)));
    buf_text(out, ",\"usage\":");
    buf_json(out, json_pack("{s:i, s:i}", "prompt_tokens", u.prompt, "total_tokens", u.prompt));
    buf_text(out, "}");
}

static void begin_list(const answer *r, buf *out) {
    (void)r;
    buf_text(out, "[");
}

static void end_list(const answer *r, buf *out) {
    (void)r;
    buf_text(out, "]");
}

/* ---- the routes ---- */

static bool set_numbers(answer *r, api_error *e) {
    const int most = r->server->info.embedding_size;
    r->n_numbers = (size_t)(r->ask.dimensions ? r->ask.dimensions : most);
    return r->ask.dimensions <= most ||
           api_error_set(e, API_INVALID, "dimensions", "'dimensions' is %d; vectors of this model have %d",
                         r->ask.dimensions, most);
}

/* Vectors made in another way than the model was trained for would be wrong without a word. */
static bool check_way(const exchange *x, api_error *e) {
    return x->server->pooling != NIB_POOLING_NONE ||
           api_error_set(
               e, API_INVALID, "model",
               "the model's files name a way to make embeddings that is not known here; the server can be "
               "started with --pooling last or mean");
}

static bool embed(exchange *x, answer **out, api_error *e) {
    if (!check_way(x, e) || !answer_read(out, x, ask_read_embeddings, "embd-", e) || !set_numbers(*out, e) ||
        !answer_add_prompts(*out, e) || !answer_start(*out, e))
        return false;
    answer *r = *out;
    if (!answer_finish(r))
        *e = r->error;
    for (size_t i = 0; i < r->n_choices && e->kind == API_NO_ERROR; i++)
        if (!r->choices[i].vector)
            api_error_set(e, API_UNAVAILABLE, NULL, "the request was cancelled");
    return e->kind == API_NO_ERROR;
}

static void reply(exchange *x, const form *f) {
    answer *r = NULL;
    vector_stream *s = NULL;
    float *unit = NULL;
    if (embed(x, &r, &x->error)) {
        s = mem_array(1, sizeof *s);
        unit = mem_array(r->n_numbers, sizeof *unit);
        if (s && unit) {
            *s = (vector_stream){{next_vector, close_vectors}, r, f, unit, 0};
            http_reply_stream(x, "application/json", &s->base);
            return;
        }
        ask_no_memory(&x->error);
    }
    http_reply_error(x, &x->error);
    mem_free(s);
    mem_free(unit);
    answer_close(r);
}

void route_embeddings(exchange *x) {
    static const form openai = {begin_openai, end_openai, "\"object\":\"embedding\",\"embedding\":", "}"};
    reply(x, &openai);
}

/* A list of vectors each: without pooling it would be one for each token. */
void route_llama_embedding(exchange *x) {
    static const form llama = {begin_list, end_list, "\"embedding\":[", "]}"};
    reply(x, &llama);
}
