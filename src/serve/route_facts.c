/* SPDX-License-Identifier: Apache-2.0
 *
 * What the server says of itself: health, models, version.
 */
#include <string.h>

#include "serve/routes.h"

void route_health(exchange *x) {
    api_error e = {0};
    const server_state state = (server_state)atomic_load(&x->server->state);
    if (state == SERVER_READY) {
        http_reply_json(x, 200, json_pack("{s:s}", "status", "ok"));
        return;
    }
    api_error_set(&e, API_UNAVAILABLE, NULL,
                  state == SERVER_LOADING ? "the model is being loaded" : "the server is going down");
    http_reply_error(x, &e);
}

void route_version(exchange *x) {
    http_reply_json(x, 200, json_pack("{s:s}", "version", nib_version()));
}

void route_load(exchange *x) {
    nib_stats stats = {.size = sizeof stats};
    nib_error words = {""};
    const nib_status status = nib_get_stats(x->server->engine, &stats, &words);
    if (status != NIB_OK) {
        api_error_from(&x->error, status, &words);
        http_reply_error(x, &x->error);
        return;
    }
    http_reply_json(x, 200,
                    json_pack("{s:i, s:i, s:i, s:i, s:i}", "server_load", (int)live_count(x->server->live),
                              "running", stats.running, "waiting", stats.waiting, "kv_pages", stats.kv_pages,
                              "kv_pages_free", stats.kv_pages_free));
}

static json_t *model(const server *s, const char *name) {
    return json_pack("{s:s, s:s, s:I, s:s, s:s, s:n, s:i, s:{s:i, s:i, s:I, s:s, s:s}}", "id", name, "object",
                     "model", "created", (json_int_t)s->created, "owned_by", "nibble", "root", s->info.name,
                     "parent", "max_model_len", s->info.max_model_len, "meta", "n_ctx_train",
                     s->info.model_len, "n_vocab", s->info.vocab_size, "size",
                     (json_int_t)s->info.weight_bytes, "family", s->info.family, "compute",
                     s->info.compute_path);
}

void route_models(exchange *x) {
    const server *s = x->server;
    json_t *list = json_array();
    for (size_t i = 0; i < s->options.n_names; i++)
        json_array_append_new(list, model(s, s->options.names[i]));
    if (s->options.n_names == 0)
        json_array_append_new(list, model(s, s->model_id));
    http_reply_json(x, 200, json_pack("{s:s, s:o}", "object", "list", "data", list));
}

void route_model(exchange *x) {
    if (routes_check_model(x, x->rest, &x->error))
        http_reply_json(x, 200, model(x->server, x->rest));
    else
        http_reply_error(x, &x->error);
}
