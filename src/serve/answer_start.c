/* SPDX-License-Identifier: Apache-2.0
 *
 * What the engine is asked for: an answer's choices when it starts, and once more where reasoning was ended
 * by its budget.
 */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/status.h"
#include "serve/answer_score.h"
#include "serve/answer_take.h"
#include "serve/shelf.h"

/* The calls that tool_choice asks for, as a shape. */
static nib_status make_call_shape(answer *r, nib_error *err) {
    const ask *a = &r->ask;
    json_t *json =
        json_pack("{s:O, s:s*, s:s*, s:b}", "tools", a->tools, "format", r->server->chat_info.call_format,
                  "name", a->tool_name, "single", (int)a->single_call);
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    r->ask.shape = (ask_shape){.wanted = true, .kind = NIB_SHAPE_CALL, .text = text};
    return text ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "out of memory for the tools");
}

static nib_status make_guide(answer *r, choice *c, nib_error *err) {
    const ask_shape *shape = &r->ask.shape;
    const nib_chat_info *chat = &r->server->chat_info;
    if (r->ask.tool_choice >= ASK_TOOLS_REQUIRED && !shape->wanted)
        NIB_TRY(make_call_shape(r, err));
    if (!shape->wanted)
        return NIB_OK;
    nib_shape_options o = {.size = sizeof o,
                           .kind = shape->kind,
                           .text = shape->text,
                           .bytes = shape->text ? strlen(shape->text) : 0};
    if (c->reader && chat->reasoning_end && c->cut != CUT_DONE) {
        o.reasoning_begin = nib_reader_in_reasoning(c->reader) ? NULL : chat->reasoning;
        o.reasoning_end = chat->reasoning_end;
    }
    return shelf_guide(r->server->shapes, r->server->engine, &o, &c->guide, err);
}

/* What every request of R has in common. */
static nib_request_options common_options(const answer *r) {
    const ask *a = &r->ask;
    const server *s = r->server;
    const bool chat = a->messages && (a->tools || s->chat_info.reasoning);
    return (nib_request_options){.size = sizeof(nib_request_options),
                                 .max_tokens =
                                     a->max_tokens >= 0 ? a->max_tokens : s->options.default_max_tokens,
                                 .min_tokens = a->min_tokens,
                                 .ignore_eos = a->ignore_eos,
                                 .stop_ids = a->stop_ids,
                                 .n_stop_ids = a->n_stop_ids,
                                 .stop_texts = a->stops,
                                 .n_stop_texts = a->n_stops,
                                 .bias = a->bias,
                                 .n_bias = a->n_bias,
                                 .logprobs = a->logprobs || a->best_of > a->n,
                                 .top_logprobs = a->top_logprobs,
                                 .priority = a->priority,
                                 .no_prefix_cache = a->no_prefix_cache,
                                 .cache_salt = r->salt,
                                 .control_text = chat || a->keep_special};
}

/* Hands C's next request to the engine, unless the client has left meanwhile. */
static nib_status submit(answer *r, choice *c, nib_request_options *o, nib_error *err) {
    nib_sampling sampling = r->ask.sampling;
    nib_request *request = NULL, *old;
    if (!sampling.random_seed)
        sampling.seed += (uint64_t)(c->index % r->ask.best_of); /* the choices of a prompt differ */
    o->sampling = &sampling;
    nib_shape_free_guide(&c->guide);
    NIB_TRY(make_guide(r, c, err));
    o->guide = c->guide.mask ? &c->guide : NULL;
    pthread_mutex_lock(&r->lock);
    nib_status status = r->cancelled ? nib_fail(err, NIB_CANCELLED, "the request was cancelled")
                                     : nib_submit(r->server->engine, o, &request, err);
    old = c->request;
    if (status == NIB_OK)
        c->request = request;
    pthread_mutex_unlock(&r->lock);
    if (status == NIB_OK)
        nib_release(old);
    return status;
}

static nib_status start_choice(answer *r, size_t i, nib_error *err) {
    choice *c = &r->choices[i];
    const size_t number = i % (size_t)r->ask.best_of; /* of its prompt's */
    nib_request_options o = common_options(r);
    o.prompt = r->prompts[c->prompt].ids;
    o.n_prompt = r->prompts[c->prompt].n;
    o.same_prompt = number > 0 ? r->choices[i - number].request : NULL;
    return submit(r, c, &o, err);
}

bool answer_start(answer *r, api_error *e) {
    nib_error words = {""};
    live_add(r->server->live, &r->live);
    r->is_live = true;
    if (r->ask.echo && r->ask.logprobs && !answer_score(r, e))
        return false;
    for (size_t i = 0; i < r->n_choices; i++) {
        if (r->ask.max_tokens == 0) { /* only the prompt is told */
            r->choices[i].finish = "length";
            r->choices[i].over = true;
            continue;
        }
        const nib_status status = start_choice(r, i, &words);
        if (status != NIB_OK)
            return api_error_from(e, status, &words);
    }
    return true;
}

/* The prompt, what C has said, and what closes its reasoning. *ids is freed with mem_free. */
static nib_status closed_prompt(const answer *r, const choice *c, const char *closing, int32_t **ids,
                                size_t *n, nib_error *err) {
    const answer_prompt *p = &r->prompts[c->prompt];
    int32_t *tail;
    size_t n_tail;
    NIB_TRY(
        nib_tokenize(r->server->engine, closing, strlen(closing), NIB_TOKENIZE_NO_BOS, &tail, &n_tail, err));
    *n = p->n + c->n_ids + n_tail;
    *ids = mem_array(*n, sizeof **ids);
    if (*ids) {
        memcpy(*ids, p->ids, p->n * sizeof **ids);
        if (c->n_ids > 0)
            memcpy(*ids + p->n, c->ids, c->n_ids * sizeof **ids);
        memcpy(*ids + p->n + c->n_ids, tail, n_tail * sizeof **ids);
    }
    nib_free(tail);
    return *ids ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "out of memory for the answer");
}

nib_status answer_resume(answer *r, choice *c, const char *closing, bool *full, nib_error *err) {
    nib_request_options o = common_options(r);
    int32_t *ids;
    NIB_TRY(closed_prompt(r, c, closing, &ids, &o.n_prompt, err));
    o.prompt = ids;
    o.max_tokens = o.max_tokens > 0 ? o.max_tokens - (int)c->n_ids : 0;
    o.min_tokens = o.min_tokens > (int)c->n_ids ? o.min_tokens - (int)c->n_ids : 0;
    *full = o.max_tokens < 0 || (o.max_tokens == 0 && r->ask.max_tokens > 0) ||
            o.n_prompt >= (size_t)r->server->info.max_model_len;
    const nib_status status = *full ? NIB_OK : submit(r, c, &o, err);
    mem_free(ids);
    return status;
}
