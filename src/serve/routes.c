/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of routes, and what is judged before any of them is asked.
 */
#include "serve/routes.h"

#include <stdio.h>
#include <string.h>

#include "base/nearest.h"
#include "serve/keys.h"
#include "serve/origin.h"

const route routes_table[] = {
    {"GET", "/", ROUTE_PUBLIC | ROUTE_EARLY, route_page, "a page to talk to the model", NULL},
    {"GET", "/about", 0, route_about, "what the page shows of the model", NULL},
    {"GET", "/health", ROUTE_PUBLIC | ROUTE_EARLY, route_health, "whether the model is there", NULL},
    {"GET", "/v1/health", ROUTE_PUBLIC | ROUTE_EARLY, route_health, "whether the model is there", NULL},
    {"GET", "/openapi.json", ROUTE_PUBLIC | ROUTE_EARLY, route_openapi, "these routes", NULL},
    {"GET", "/version", ROUTE_EARLY, route_version, "the program's version", NULL},
    {"GET", "/v1/models", 0, route_models, "the names of the model", NULL},
    {"GET", "/models", 0, route_models, "the names of the model", NULL},
    {"GET", "/v1/models/*", 0, route_model, "one of them", NULL},
    {"POST", "/v1/chat/completions", 0, route_chat, "an answer to a conversation", ask_chat_tables},
    {"POST", "/chat/completions", 0, route_chat, "an answer to a conversation", ask_chat_tables},
    {"POST", "/v1/chat/completions/input_tokens", 0, route_count, "tokens of a conversation",
     ask_chat_tables},
    {"POST", "/chat/completions/input_tokens", 0, route_count, "tokens of a conversation", ask_chat_tables},
    {"POST", "/v1/completions", 0, route_completions, "a text continued", ask_completion_tables},
    {"POST", "/completions", 0, route_completions, "a text continued", ask_completion_tables},
    {"POST", "/v1/embeddings", 0, route_embeddings, "texts as vectors", ask_embeddings_tables},
    {"POST", "/embeddings", 0, route_embeddings, "texts as vectors", ask_embeddings_tables},
    {"POST", "/embedding", 0, route_llama_embedding, "the same in llama.cpp's form", ask_embeddings_tables},
    {"POST", "/v1/responses", 0, route_responses, "an answer, in the words of the Responses API",
     ask_responses_tables},
    {"POST", "/v1/messages", ROUTE_ANTHROPIC, route_messages, "an answer, in Anthropic's words",
     ask_messages_tables},
    {"POST", "/v1/messages/count_tokens", ROUTE_ANTHROPIC, route_count_messages, "tokens of a conversation",
     ask_messages_tables},
    {"POST", "/tokenize", 0, route_tokenize, "tokens of a text or conversation", route_words_tables},
    {"POST", "/detokenize", 0, route_detokenize, "the text of tokens", route_words_tables},
    {"POST", "/apply-template", 0, route_template, "the prompt of a conversation", ask_chat_tables},
    {"GET", "/metrics", 0, route_metrics, "counters for Prometheus", NULL},
    {"GET", "/load", 0, route_load, "how much runs and waits", NULL},
    {"GET", "/slots", 0, route_slots, "the requests that run", NULL},
    {"GET", "/props", 0, route_props, "settings", NULL},
    {"POST", "/abort_request", 0, route_abort, "end requests", route_abort_tables},
    {"POST", "/reset_prefix_cache", 0, route_forget, "forget remembered prompts", NULL},
    {"POST", "/pause", 0, route_pause,
     "compute nothing: ?mode=abort, wait or keep says what becomes of what runs", NULL},
    {"POST", "/resume", 0, route_resume, "go on computing", NULL},
    {"GET", "/is_paused", 0, route_is_paused, "whether nothing is computed", NULL},
    {"POST", "/sleep", 0, route_sleep, "end what runs and give the model's memory back", NULL},
    {"POST", "/wake_up", 0, route_wake_up, "read the model anew", NULL},
    {"GET", "/is_sleeping", 0, route_is_sleeping, "whether the model sleeps", NULL},
    {NULL, NULL, 0, NULL, NULL, NULL},
};

/* Whether PATH is R's; *rest: what its star takes. */
static bool fits(const route *r, const char *path, const char **rest) {
    const size_t n = strlen(r->path) - 1;
    if (r->path[n] != '*')
        return strcmp(r->path, path) == 0;
    if (strncmp(r->path, path, n) != 0 || !path[n])
        return false;
    *rest = path + n;
    return true;
}

/* HEAD is GET without the body, which libmicrohttpd leaves out. */
static bool is_method(const route *r, const char *method) {
    return strcmp(r->method, method) == 0 || (strcmp(method, "HEAD") == 0 && strcmp(r->method, "GET") == 0);
}

static void add_allowed(exchange *x, const char *method) {
    const size_t n = strlen(x->allow_text);
    snprintf(x->allow_text + n, sizeof x->allow_text - n, "%s%s", n ? ", " : "", method);
}

static void find(exchange *x) {
    for (const route *r = routes_table; r->path; r++) {
        if (!fits(r, x->path, &x->rest))
            continue;
        if (is_method(r, x->method)) {
            x->route = r;
            return;
        }
        add_allowed(x, r->method);
        if (strcmp(r->method, "GET") == 0)
            add_allowed(x, "HEAD");
    }
}

static void not_found(exchange *x) {
    const char *paths[sizeof routes_table / sizeof *routes_table] = {NULL}, *near;
    for (size_t i = 0; routes_table[i].path; i++)
        paths[i] = routes_table[i].path;
    near = nearest_name(x->path, paths);
    api_error_set(&x->error, API_NOT_FOUND, NULL, "there is nothing at %.200s%s%s%s", x->path,
                  near ? "; did you mean " : "", near ? near : "", near ? "?" : "");
}

void routes_find(exchange *x) {
    find(x);
    if (!origin_allowed(x)) {
        api_error_set(
            &x->error, API_FORBIDDEN, NULL,
            "the request comes from a page of another site, or by another name of this machine; start the "
            "server with --api-key, --cors-allow-origins or --allow-anonymous to allow that");
        return;
    }
    if (strcmp(x->method, "OPTIONS") == 0) /* a browser asks what it may; without a key */
        return;
    if (!x->route && x->allow_text[0])
        api_error_set(&x->error, API_WRONG_METHOD, NULL, "%.20s is not for this path; expected %s", x->method,
                      x->allow_text);
    else if (!x->route)
        not_found(x);
    else if (!(x->route->flags & ROUTE_PUBLIC) && !keys_allow(x))
        api_error_set(&x->error, API_UNAUTHORIZED, NULL,
                      "no valid API key was brought; expected Authorization: Bearer KEY");
}

void routes_answer(exchange *x) {
    const server_state state = (server_state)atomic_load(&x->server->state);
    if (x->error.kind == API_NO_ERROR && strcmp(x->method, "OPTIONS") == 0) {
        buf nothing = {0};
        http_reply(x, 204, "text/plain", &nothing);
        return;
    }
    if (x->error.kind == API_NO_ERROR && state != SERVER_READY && !(x->route->flags & ROUTE_EARLY))
        api_error_set(&x->error, API_UNAVAILABLE, NULL,
                      state == SERVER_LOADING ? "the model is being loaded" : "the server is going down");
    if (x->error.kind != API_NO_ERROR)
        http_reply_error(x, &x->error);
    else
        x->route->answer(x);
}

/* The last part of the model's path, with its suffix or without. */
static bool is_file_name(const char *path, const char *name) {
    const char *file = strrchr(path, '/');
    file = file && file[1] ? file + 1 : path;
    const char *suffix = strrchr(file, '.');
    const size_t n = strlen(name);
    return strcmp(file, name) == 0 || (suffix && (size_t)(suffix - file) == n && strncmp(file, name, n) == 0);
}

bool server_knows_model(const server *s, const char *name) {
    if (strcmp(name, s->model_id) == 0)
        return true;
    if (s->options.n_names == 0 && (is_file_name(s->options.model, name) || strcmp(name, s->info.name) == 0))
        return true;
    for (size_t i = 0; i < s->options.n_names; i++)
        if (strcmp(name, s->options.names[i]) == 0)
            return true;
    return false;
}

bool routes_check_model(exchange *x, const char *name, api_error *e) {
    if (!name || server_knows_model(x->server, name))
        return true;
    const serve_options *o = &x->server->options;
    const char *names[SERVE_MAX_NAMES + 1] = {x->server->model_id}, *near;
    for (size_t i = 1; i < o->n_names && i < SERVE_MAX_NAMES; i++)
        names[i] = o->names[i];
    near = nearest_name(name, names);
    e->code = "model_not_found";
    return api_error_set(e, API_NOT_FOUND, "model", "the model '%.200s' is not served here; %s '%s'%s", name,
                         near ? "did you mean" : "it is", near ? near : x->server->model_id, near ? "?" : "");
}
