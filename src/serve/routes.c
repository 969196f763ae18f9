/* SPDX-License-Identifier: Apache-2.0
 *
 * The table of routes, and what is judged before any of them is asked.
 */
#include "serve/routes.h"

#include <stdio.h>
#include <string.h>

#include "serve/keys.h"

const route routes_table[] = {
    {"GET", "/", ROUTE_PUBLIC | ROUTE_EARLY, route_page},
    {"GET", "/about", 0, route_about},
    {"GET", "/health", ROUTE_PUBLIC | ROUTE_EARLY, route_health},
    {"GET", "/v1/health", ROUTE_PUBLIC | ROUTE_EARLY, route_health},
    {"GET", "/version", ROUTE_EARLY, route_version},
    {"GET", "/load", 0, route_load},
    {"GET", "/v1/models", 0, route_models},
    {"GET", "/models", 0, route_models},
    {"GET", "/v1/models/*", 0, route_model},
    {"POST", "/v1/chat/completions", 0, route_chat},
    {"POST", "/chat/completions", 0, route_chat},
    {"POST", "/v1/completions", 0, route_completions},
    {"POST", "/completions", 0, route_completions},
    {NULL, NULL, 0, NULL},
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

void routes_find(exchange *x) {
    find(x);
    if (strcmp(x->method, "OPTIONS") == 0) /* a browser asks what it may; without a key */
        return;
    if (!x->route && x->allow_text[0])
        api_error_set(&x->error, API_WRONG_METHOD, NULL, "%.20s is not for this path; expected %s", x->method,
                      x->allow_text);
    else if (!x->route)
        api_error_set(&x->error, API_NOT_FOUND, NULL, "there is nothing at %.200s", x->path);
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

bool server_knows_model(const server *s, const char *name) {
    if (strcmp(name, s->model_id) == 0)
        return true;
    for (size_t i = 0; i < s->options.n_names; i++)
        if (strcmp(name, s->options.names[i]) == 0)
            return true;
    return false;
}

bool routes_check_model(exchange *x, const char *name, api_error *e) {
    if (!name || server_knows_model(x->server, name))
        return true;
    e->code = "model_not_found";
    return api_error_set(e, API_NOT_FOUND, "model", "the model '%.200s' is not served here; it is '%s'", name,
                         x->server->model_id);
}
