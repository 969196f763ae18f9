/* SPDX-License-Identifier: Apache-2.0
 *
 * What the engine is asked for: an answer's choices.
 */
#include <stdio.h>
#include <string.h>

#include "base/status.h"
#include "serve/allowed.h"
#include "serve/answer_score.h"
#include "serve/answer_take.h"
#include "serve/budget.h"
#include "serve/shelf.h"

/* The calls that tool_choice asks for, or those that may come, as a shape. */
static nib_status make_call_shape(answer *r, nib_error *err) {
    const ask *a = &r->ask;
    json_t *json = json_pack("{s:O, s:s*, s:s*, s:b, s:b}", "tools", a->tools, "format",
                             r->server->chat_info.call_format, "name", a->tool_name, "single",
                             (int)a->single_call, "free", (int)(a->tool_choice == ASK_TOOLS_AUTO));
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    r->ask.shape = (ask_shape){.wanted = true, .kind = NIB_SHAPE_CALL, .text = text};
    return text ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "out of memory for the tools");
}

static nib_status make_guide(answer *r, choice *c, nib_error *err) {
    const ask_shape *shape = &r->ask.shape;
    const nib_chat_info *chat = &r->server->chat_info;
    if (!shape->wanted && ask_holds_calls(&r->ask))
        NIB_TRY(make_call_shape(r, err));
    if (!shape->wanted)
        return NIB_OK;
    nib_shape_options o = {.size = sizeof o,
                           .kind = shape->kind,
                           .text = shape->text,
                           .bytes = shape->text ? strlen(shape->text) : 0};
    if (c->reader && chat->reasoning_end)
        nib_chat_shape(chat, nib_reader_in_reasoning(c->reader), &o);
    return shelf_guide(r->server->shapes, r->server->engine, &o, &r->large_shape, &c->guide, err);
}

enum { EMBEDDED_AT_ONCE = 64 }; /* of one request's texts: the others wait here, not in the engine's queue */

/* What every request of R has in common. */
static nib_request_options common_options(const answer *r) {
    const ask *a = &r->ask;
    const server *s = r->server;
    if (a->embeds)
        return (nib_request_options){.size = sizeof(nib_request_options),
                                     .priority = a->priority,
                                     .cache_salt = r->salt,
                                     .pooling = s->pooling};
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
                                 .control_text = r->control_text};
}

/* The guide of the shape, or of the tokens that may come, behind the budget of reasoning where there is one.
 */
static nib_status set_guide(answer *r, choice *c, nib_request_options *o, nib_error *err) {
    const char *end = r->server->chat_info.reasoning_end;
    char closing[128];
    NIB_TRY(make_guide(r, c, err));
    NIB_TRY(allowed_open(&c->allowed, r->server->engine, &r->ask, err));
    o->guide = c->guide.mask ? &c->guide : c->allowed ? allowed_guide(c->allowed) : NULL;
    const bool bounds = r->ask.max_tokens < 0 || r->ask.reasoning_budget < r->ask.max_tokens;
    if (r->ask.reasoning_budget < 0 || !bounds || !c->reader || !end)
        return NIB_OK; /* where the answer's limit comes first, nothing has to look at every token */
    snprintf(closing, sizeof closing, "\n%s", end);
    NIB_TRY(budget_open(&c->budget, r->server->engine, c->reader, r->ask.reasoning_budget, closing, o->guide,
                        err));
    o->guide = budget_guide(c->budget);
    return NIB_OK;
}

/* Hands C's request to the engine, unless the client has left meanwhile. */
static nib_status submit(answer *r, choice *c, nib_request_options *o, nib_error *err) {
    nib_sampling sampling = r->ask.sampling;
    if (!sampling.random_seed)
        sampling.seed += (uint64_t)(c->index % r->ask.best_of); /* the choices of a prompt differ */
    o->sampling = r->ask.embeds ? NULL : &sampling;
    NIB_TRY(set_guide(r, c, o, err));
    pthread_mutex_lock(&r->lock);
    const nib_status status = r->cancelled ? nib_fail(err, NIB_CANCELLED, "the request was cancelled")
                                           : nib_submit(r->server->engine, o, &c->request, err);
    pthread_mutex_unlock(&r->lock);
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

/* How many of R's choices the engine has at a time. */
static size_t most_at_once(const answer *r) {
    const size_t most = answer_most_choices(r->server);
    return !r->ask.embeds ? r->n_choices : most < EMBEDDED_AT_ONCE ? most : EMBEDDED_AT_ONCE;
}

bool answer_start_more(answer *r, api_error *e) {
    while (r->n_started < r->n_choices && r->n_running < most_at_once(r)) {
        nib_error words = {""};
        choice *c = &r->choices[r->n_started];
        if (r->ask.max_tokens == 0) { /* only the prompt is told */
            c->finish = "length";
            c->over = true;
            r->n_started++;
            continue;
        }
        const nib_status status = start_choice(r, r->n_started, &words);
        if (status == NIB_BUSY && r->ask.embeds && r->n_started > 0)
            return true; /* later: what is done already is not thrown away */
        if (status != NIB_OK)
            return api_error_from(e, status, &words);
        r->n_started++;
        r->n_running++;
    }
    return true;
}

/* A body may be large, and an answer take long: of what was read only that stays which will be told. */
static void forget_body(answer *r) {
    static const char *const told[] = {"model", "request_id", "stop", "stop_sequences", NULL};
    ask *a = &r->ask;
    const char *name;
    json_t *value;
    void *next;
    json_decref(a->messages);
    json_decref(a->tools);
    json_decref(a->variables);
    json_text_free(a->shape.text);
    a->messages = a->tools = a->variables = NULL;
    a->shape.text = NULL;
    a->n_bad_words = 0;
    a->tool_name = a->cache_salt = NULL;
    json_object_foreach_safe(r->body, next, name, value) {
        if (!fields_among(name, told) && !(a->echoed && fields_among(name, a->echoed)) &&
            !(a->echo && value == a->prompt))
            json_object_del(r->body, name);
    }
}

bool answer_start(answer *r, api_error *e) {
    if (atomic_load(&r->server->asleep))
        return api_error_set(e, API_UNAVAILABLE, NULL, "the model sleeps; POST /wake_up wakes it");
    const bool chat = r->ask.messages && (r->ask.tools || r->server->chat_info.reasoning);
    r->control_text = chat || r->ask.keep_special;
    live_add(r->server->live, &r->live);
    r->is_live = true;
    if (((r->ask.echo && r->ask.logprobs) || r->ask.prompt_logprobs >= 0) && !answer_score(r, e))
        return false;
    if (!answer_start_more(r, e))
        return false;
    forget_body(r);
    return true;
}
