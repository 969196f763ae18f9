/* SPDX-License-Identifier: Apache-2.0
 *
 * For who runs the server: metrics, what runs, settings, ending requests.
 */
#include "base/clock.h"
#include "serve/meters.h"
#include "serve/parts.h"
#include "serve/routes.h"

void route_metrics(exchange *x) {
    buf text = {0};
    meters_write(x->server->meters, x->server, &text);
    http_reply(x, 200, "text/plain; version=0.0.4; charset=utf-8", &text);
}

/* ---- what runs ---- */

typedef struct slot_list {
    json_t *list;
    double now;
} slot_list;

static void add_slot(void *context, const live_request *r) {
    slot_list *s = context;
    json_array_append_new(s->list,
                          json_pack("{s:I, s:s, s:b, s:f}", "id", (json_int_t)json_array_size(s->list),
                                    "request_id", r->id, "is_processing", 1, "seconds", s->now - r->began));
}

void route_slots(exchange *x) {
    slot_list s = {json_array(), clock_seconds()};
    live_each(x->server->live, add_slot, &s);
    http_reply_json(x, 200, s.list);
}

void route_props(exchange *x) {
    const server *s = x->server;
    const nib_info *i = &s->info;
    json_t *formats =
        json_pack("{s:s?, s:s?, s:s?}", "tool_calls", s->chat_info.call_format, "reasoning",
                  s->chat_info.reasoning, "template_problem", s->chat_problem[0] ? s->chat_problem : NULL);
    http_reply_json(x, 200,
                    json_pack("{s:{s:i}, s:i, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:i, s:o, s:{s:b, s:b}}",
                              "default_generation_settings", "n_ctx", i->max_model_len, "total_slots",
                              i->max_num_seqs, "model_alias", s->model_id, "model_name", i->name, "family",
                              i->family, "compute_path", i->compute_path, "compute_mode", i->compute_mode,
                              "weight_bytes", (json_int_t)i->weight_bytes, "kv_bytes",
                              (json_int_t)i->kv_bytes, "threads", i->threads, "chat", formats, "modalities",
                              "vision", 0, "audio", 0));
}

/* ---- ending requests ---- */

typedef struct abort_ask {
    const char *id;
    bool all;
} abort_ask;

static const field abort_fields[] = {{"request_id", FIELD_TEXT, offsetof(abort_ask, id), 0, 0, NULL, NULL},
                                     {"rid", FIELD_TEXT, offsetof(abort_ask, id), 0, 0, NULL, NULL},
                                     {"abort_all", FIELD_BOOL, offsetof(abort_ask, all), 0, 0, NULL, NULL},
                                     FIELD_END};
const field *const route_abort_tables[] = {abort_fields, NULL};

void route_abort(exchange *x) {
    json_t *body = NULL;
    abort_ask a = {0};
    if (http_json(x, &body, &x->error) && fields_read(route_abort_tables, &a, body, "", &x->error) &&
        !a.all && !a.id)
        api_error_set(&x->error, API_INVALID, "request_id", "'request_id' or 'abort_all' must be given");
    if (x->error.kind == API_NO_ERROR)
        http_reply_json(
            x, 200,
            json_pack("{s:I}", "aborted", (json_int_t)live_cancel(x->server->live, a.all ? NULL : a.id)));
    else
        http_reply_error(x, &x->error);
    json_decref(body);
}

void route_forget(exchange *x) {
    nib_error words = {""};
    const nib_status status = nib_reset_prefix_cache(x->server->engine, &words);
    if (status == NIB_OK)
        http_reply_json(x, 200, json_pack("{s:b}", "success", 1));
    else if (!api_error_from(&x->error, status, &words))
        http_reply_error(x, &x->error);
}
