/* SPDX-License-Identifier: Apache-2.0
 *
 * An answer's life. See answer.h; what a choice is told is in answer_take.c.
 */
#include "serve/answer.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/status.h"
#include "serve/allowed.h"
#include "serve/answer_continue.h"
#include "serve/answer_roles.h"
#include "serve/answer_take.h"
#include "serve/budget.h"
#include "serve/keys.h"
#include "serve/routes.h"

enum {
    TOGETHER_MS = 20
}; /* choices come in the same steps; if one stalls, the others are looked at so often */

/* ---- life ---- */

static void cancel(void *context) {
    answer *r = context;
    pthread_mutex_lock(&r->lock);
    r->cancelled = true;
    for (size_t i = 0; i < r->n_choices; i++)
        nib_cancel(r->choices[i].request);
    for (size_t i = 0; i < r->n_prompts; i++)
        nib_cancel(r->prompts[i].scoring);
    pthread_mutex_unlock(&r->lock);
}

bool answer_open(answer **out, exchange *x, ask *a, json_t *body, const char *id_prefix, api_error *e) {
    server *s = x->server;
    answer *r = *out = mem_array(1, sizeof *r);
    if (!r) {
        ask_free(a);
        json_decref(body);
        return ask_no_memory(e);
    }
    *r = (answer){.server = s, .ask = *a, .body = body, .created = time(NULL), .told_at = clock_seconds()};
    *a = (ask){0};
    pthread_mutex_init(&r->lock, NULL);
    http_new_id(r->id, sizeof r->id, id_prefix);
    r->salt = keys_salt(x, r->ask.cache_salt);
    if (s->options.request_seconds > 0)
        r->deadline = x->began + s->options.request_seconds;
    r->live = (live_request){.socket = http_socket(x),
                             .id = r->ask.request_id ? r->ask.request_id : r->id,
                             .cancel = cancel,
                             .context = r,
                             .began = x->began};
    return true;
}

bool answer_read(answer **out, exchange *x, bool (*read)(ask *, const json_t *, api_error *),
                 const char *id_prefix, api_error *e) {
    json_t *body;
    ask a = {0};
    if (!http_json(x, &body, e))
        return false;
    if (!read(&a, body, e)) {
        ask_free(&a);
        json_decref(body);
        return false;
    }
    return answer_open(out, x, &a, body, id_prefix, e) && routes_check_model(x, (*out)->ask.model, e);
}

static void wait_for_end(nib_request *request) {
    nib_event event = {.size = sizeof event};
    nib_cancel(request);
    while (event.kind != NIB_EVENT_END && nib_next_event(request, &event, -1, NULL) == NIB_OK) {
    }
}

static void close_prompt(answer_prompt *p) {
    if (p->scoring)
        wait_for_end(p->scoring);
    nib_release(p->scoring);
    nib_free(p->ids);
    mem_free(p->tokens);
}

static void choice_close(choice *c) {
    if (c->request && (c->guide.context || c->allowed || c->budget) &&
        !c->over) /* the engine asks until the end */
        wait_for_end(c->request);
    nib_release(c->request);
    budget_close(c->budget);
    allowed_close(c->allowed);
    nib_shape_free_guide(&c->guide);
    nib_reader_close(c->reader);
    for (size_t i = 0; i < c->n_calls; i++) {
        buf_free(&c->calls[i].name);
        buf_free(&c->calls[i].arguments);
    }
    mem_free(c->calls);
    buf_free(&c->text);
    buf_free(&c->reasoning);
    buf_free(&c->fresh);
    mem_free(c->ids);
    mem_free(c->tokens);
    mem_free(c->pieces);
    mem_free(c->vector);
}

void answer_close(answer *r) {
    if (!r)
        return;
    if (r->is_live)
        live_remove(r->server->live, &r->live);
    for (size_t i = 0; i < r->n_choices; i++)
        nib_cancel(r->choices[i].request);
    for (size_t i = r->n_choices; i-- > 0;)
        choice_close(&r->choices[i]);
    for (size_t i = 0; i < r->n_prompts; i++)
        close_prompt(&r->prompts[i]);
    nib_shape_release(r->large_shape);
    buf_free(&r->chunk_head);
    mem_free(r->choices);
    mem_free(r->prompts);
    pthread_mutex_destroy(&r->lock);
    ask_free(&r->ask);
    json_decref(r->body);
    mem_free(r);
}

const char *answer_model(const answer *r) {
    return r->ask.model ? r->ask.model : r->server->model_id;
}

/* ---- prompts ---- */

size_t answer_most_choices(const server *s) {
    const int waiting = s->options.compute.max_waiting;
    return waiting > 0 && waiting < ANSWER_MAX_CHOICES ? (size_t)waiting : ANSWER_MAX_CHOICES;
}

bool answer_add_prompt(answer *r, int32_t *ids, size_t n, api_error *e) {
    const int n_ctx = r->server->info.max_model_len;
    const size_t best_of = (size_t)r->ask.best_of, most = answer_most_choices(r->server);
    if (!r->ask.embeds && r->n_choices + best_of > most) { /* they would never find room in the queue */
        nib_free(ids);
        return api_error_set(e, API_INVALID, r->ask.prompt_name,
                             "the prompts ask for more than %zu answers at once", most);
    }
    answer_prompt *prompts = mem_resize(r->prompts, r->n_prompts + 1, sizeof *prompts);
    choice *choices = mem_resize(r->choices, r->n_choices + best_of, sizeof *choices);
    r->prompts = prompts ? prompts : r->prompts;
    r->choices = choices ? choices : r->choices;
    if (!prompts || !choices) {
        nib_free(ids);
        return ask_no_memory(e);
    }
    for (size_t i = 0; i < best_of; i++)
        r->choices[r->n_choices + i] = (choice){
            .index = (int)(r->n_choices + i), .prompt = r->n_prompts, .stop_text = -1, .stop_token = -1};
    r->prompts[r->n_prompts++] = (answer_prompt){.ids = ids, .n = n};
    r->n_choices += best_of;
    if (n == 0)
        return api_error_set(e, API_INVALID, r->ask.prompt_name,
                             "a prompt is empty; expected at least one token");
    if (n < (size_t)n_ctx)
        return true;
    e->n_prompt = (int)n;
    e->n_ctx = n_ctx;
    e->code = "context_length_exceeded";
    return api_error_set(
        e, API_TOO_LONG, NULL,
        "the prompt has %zu tokens, which exceeds the available context size of %d: it can have at most %d, "
        "and nothing of it is left out; the server's --max-model-len sets that size", /* clients look for
                                                                                         these words of
                                                                                         llama.cpp's */
        n, n_ctx, n_ctx - 1);
}

/* Agents send system messages in the middle, which many templates refuse: all of them become one, in front.
 * False: there was nothing to move. */
static bool hoist_systems(answer *r) {
    json_t *rest = json_array(), *message;
    buf all = {0};
    size_t i, n_moved = 0;
    json_array_foreach(r->ask.messages, i, message) {
        const char *role = json_string_value(json_object_get(message, "role"));
        const char *content = json_string_value(json_object_get(message, "content"));
        if (!role || strcmp(role, "system") != 0 || !content) {
            json_array_append(rest, message);
            continue;
        }
        n_moved += i > 0;
        if (all.n > 0)
            buf_text(&all, "\n\n");
        buf_text(&all, content);
    }
    json_t *first =
        all.n > 0 && !all.failed ? json_pack("{s:s, s:s}", "role", "system", "content", all.bytes) : NULL;
    const bool moved = n_moved > 0 && first && json_array_insert(rest, 0, first) == 0;
    if (moved) {
        json_decref(r->ask.messages);
        r->ask.messages = json_incref(rest);
    }
    json_decref(first);
    json_decref(rest);
    buf_free(&all);
    return moved;
}

static nib_status render(const answer *r, const nib_conversation *c, int32_t **ids, size_t *n,
                         nib_reader **reader, nib_error *err) {
    if (!c->messages || (r->ask.tools && !c->tools) || (r->ask.variables && !c->variables))
        return nib_fail(err, NIB_NO_MEMORY, "out of memory for the conversation");
    return nib_chat_render(r->server->chat, c, ids, n, reader, err);
}

/* The prompt, and a reader of what is answered. */
nib_status answer_render(const answer *r, int32_t **ids, size_t *n, nib_reader **reader, nib_error *err) {
    const nib_conversation c = {.size = sizeof c,
                                .messages = json_dumps(r->ask.messages, JSON_COMPACT),
                                .tools = r->ask.tools ? json_dumps(r->ask.tools, JSON_COMPACT) : NULL,
                                .variables =
                                    r->ask.variables ? json_dumps(r->ask.variables, JSON_COMPACT) : NULL,
                                .no_generation_prompt = r->ask.no_generation_prompt || r->ask.continue_last};
    const nib_status status = render(r, &c, ids, n, reader, err);
    json_text_free((char *)(size_t)c.messages);
    json_text_free((char *)(size_t)c.tools);
    json_text_free((char *)(size_t)c.variables);
    return status;
}

bool answer_add_conversation(answer *r, api_error *e) {
    const server *s = r->server;
    int32_t *ids = NULL;
    size_t n = 0;
    nib_error words = {""};
    nib_reader *reader = NULL;
    if (!s->chat)
        return api_error_set(e, API_INVALID, "messages",
                             "the model has no chat template that can be used: %.400s", s->chat_problem);
    if (r->ask.tools && !s->chat_info.call_format)
        return api_error_set(
            e, API_INVALID, "tools",
            "'tools' is not supported: this model's chat template writes no calls in a form that is "
            "known; the server's --chat-template FILE gives another, for a model that was taught its calls");
    answer_rename_developers(r);
    const size_t first = r->n_choices;
    nib_status status = answer_render(r, &ids, &n, &reader, &words);
    if (status == NIB_BAD_ARGUMENT && hoist_systems(r))
        status = answer_render(r, &ids, &n, &reader, &words);
    if (status != NIB_OK)
        return api_error_from(e, status, &words);
    if (!answer_check_roles(r, ids, n, e) ||
        (r->ask.continue_last && !answer_cut_behind_last(r, ids, &n, e))) {
        nib_free(ids);
        nib_reader_close(reader);
        return false;
    }
    if (!answer_add_prompt(r, ids, n, e)) {
        nib_reader_close(reader);
        return false;
    }
    if (r->ask.stream)
        nib_reader_stream_calls(reader);
    r->choices[first].reader = reader;
    for (size_t i = first + 1; i < r->n_choices && status == NIB_OK; i++)
        status = nib_reader_again(reader, &r->choices[i].reader, &words);
    return status == NIB_OK || api_error_from(e, status, &words);
}

/* ---- wait ---- */

bool answer_is_late(const answer *r, api_error *e) {
    if (r->deadline == 0 || clock_seconds() < r->deadline)
        return false;
    api_error_set(e, API_TOO_SLOW, NULL, "the answer was not complete after %d seconds, the server's limit",
                  r->server->options.request_seconds);
    return true;
}

/* All that has come already. */
static bool drain(answer *r, size_t *n_open, choice **open) {
    bool news = false;
    *n_open = 0;
    for (size_t i = r->n_choices; i-- > 0;) {
        choice *c = &r->choices[i];
        while (c->request && !c->over && answer_take(r, c, 0))
            news = true;
        *n_open += !c->over;
        if (c->request && !c->over)
            *open = c; /* the first one at the end */
    }
    return news;
}

bool answer_wait(answer *r, int timeout_ms) {
    size_t n_open;
    choice *first = NULL;
    bool news = drain(r, &n_open, &first);
    if (r->error.kind != API_NO_ERROR || n_open == 0 || answer_is_late(r, &r->error))
        return false;
    if (news)
        return true;
    if (r->deadline > 0) {
        const double left_ms = (r->deadline - clock_seconds()) * 1e3 + 1;
        timeout_ms = left_ms < timeout_ms ? (int)left_ms : timeout_ms;
    }
    if (n_open > 1 && timeout_ms > TOGETHER_MS)
        timeout_ms = TOGETHER_MS;
    if (!first) { /* the queue was full when those before had ended */
        nanosleep(&(struct timespec){.tv_nsec = TOGETHER_MS * 1000000L}, NULL);
        return answer_start_more(r, &r->error);
    }
    if (answer_take(r, first, timeout_ms))
        drain(r, &n_open, &first);
    for (size_t i = 0; i < r->n_choices; i++)
        if (!r->choices[i].over)
            return r->error.kind == API_NO_ERROR;
    return false;
}

bool answer_finish(answer *r) {
    while (answer_wait(r, 1000)) {
    }
    return r->error.kind == API_NO_ERROR;
}

void answer_told_pieces(choice *c) {
    buf_clear(&c->fresh);
    c->n_pieces = 0;
}

void answer_told(choice *c) {
    answer_told_pieces(c);
    c->ids_told = c->n_ids;
    c->tokens_told = c->n_tokens;
}

/* By their mean log-probability; one without a token has none. */
static bool is_better(const choice *a, const choice *b) {
    if (a->n_ids == 0 || b->n_ids == 0)
        return a->n_ids > b->n_ids;
    return a->sum_logprob * (double)b->n_ids > b->sum_logprob * (double)a->n_ids;
}

void answer_choose(answer *r) {
    const size_t best_of = (size_t)r->ask.best_of, n = (size_t)r->ask.n;
    for (size_t i = 0; best_of > n && i < r->n_choices; i++) {
        const size_t first = i / best_of * best_of;
        size_t rank = 0; /* how many are better, or as good and earlier */
        for (size_t k = first; k < first + best_of; k++)
            rank += is_better(&r->choices[k], &r->choices[i]) ||
                    (k < i && !is_better(&r->choices[i], &r->choices[k]));
        r->choices[i].index = rank < n ? (int)(i / best_of * n + rank) : -1;
    }
}

answer_usage answer_count(const answer *r) {
    answer_usage u = {0};
    for (size_t i = 0; i < r->n_prompts; i++)
        u.prompt += (int)r->prompts[i].n;
    for (size_t i = 0; i < r->n_choices; i++) {
        const choice *c = &r->choices[i];
        u.completion += (int)c->n_ids;
        u.reasoning += c->n_reasoning;
        if (i == 0 || c->prompt != r->choices[i - 1].prompt)
            u.cached += c->n_cached;
    }
    return u;
}
