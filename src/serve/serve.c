/* SPDX-License-Identifier: Apache-2.0
 *
 * A server's life. See serve.h.
 */
#include "serve/serve.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <time.h>

#include "base/mem.h"
#include "base/status.h"
#include "serve/http.h"
#include "serve/meters.h"
#include "serve/shelf.h"

enum { LAST_WORDS_SECONDS = 2 }; /* for clients that are slow to take them */

static nib_status check(const serve_options *o, nib_error *err) {
    for (size_t i = 0; i < o->n_api_keys; i++)
        if (!o->api_keys[i][0])
            return nib_fail(err, NIB_BAD_ARGUMENT, "an API key is empty; expected some text");
    for (size_t i = 0; i < o->n_names; i++)
        if (!o->names[i][0])
            return nib_fail(err, NIB_BAD_ARGUMENT, "a served model name is empty; expected some text");
    if (!o->tls_cert != !o->tls_key)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "a certificate without its key, or a key alone; expected both");
    return NIB_OK;
}

static void fill_defaults(serve_options *o) {
    o->host = o->host ? o->host : "127.0.0.1";
    o->max_connections = o->max_connections ? o->max_connections : 1024;
    o->max_body_bytes = o->max_body_bytes ? o->max_body_bytes : (size_t)32 << 20;
    o->ping_seconds = o->ping_seconds ? o->ping_seconds : 15;
    o->receive_seconds = o->receive_seconds ? o->receive_seconds : 60;
}

static nib_status open_chat(server *s, nib_error *err) {
    nib_error problem = {""};
    const nib_status status = nib_chat_open(&s->chat, s->engine, s->options.chat_template, &problem);
    if (status == NIB_OK) {
        s->chat_info.size = sizeof s->chat_info;
        return nib_chat_get_info(s->chat, &s->chat_info, err);
    }
    if (s->options.chat_template || status == NIB_NO_MEMORY) {
        return nib_fail(err, status, "%s", problem.text);
    }
    snprintf(s->chat_problem, sizeof s->chat_problem, "%s",
             problem.text); /* completions are still to be had */
    return NIB_OK;
}

/* The first served name; else that of the file or directory, without its suffix: what a file gives as its
 * name may be anything. */
static void name_model(server *s) {
    const char *name = s->options.n_names > 0 ? s->options.names[0] : s->options.model;
    size_t begin = 0, end = strlen(name);
    if (s->options.n_names == 0) {
        while (end > 1 && name[end - 1] == '/')
            end--;
        for (begin = end; begin > 0 && name[begin - 1] != '/';)
            begin--;
        if (end - begin > 5 && strncasecmp(name + end - 5, ".gguf", 5) == 0)
            end -= 5;
    }
    snprintf(s->model_id, sizeof s->model_id, "%.*s", (int)(end - begin), name + begin);
}

static nib_status open_model(server *s, nib_error *err) {
    NIB_TRY(nib_open(&s->engine, s->options.model, &s->options.compute, err));
    s->info.size = sizeof s->info;
    NIB_TRY(nib_get_info(s->engine, &s->info, err));
    s->pooling = s->options.pooling ? s->options.pooling : s->info.pooling;
    NIB_TRY(open_chat(s, err));
    name_model(s);
    snprintf(s->fingerprint, sizeof s->fingerprint, "nibble-%s-%s", nib_version(), s->info.compute_mode);
    return NIB_OK;
}

static nib_status open_parts(server *s, nib_error *err) {
    NIB_TRY(check(&s->options, err));
    if (getrandom(&s->salt_seed, sizeof s->salt_seed, 0) != sizeof s->salt_seed)
        return nib_fail(err, NIB_IO, "the system gives no random numbers");
    NIB_TRY(live_open(&s->live, err));
    NIB_TRY(shelf_open(&s->shapes, err));
    NIB_TRY(meters_open(&s->meters, err));
    NIB_TRY(http_start(s, err));
    NIB_TRY(open_model(s, err));
    atomic_store(&s->state, SERVER_READY);
    return NIB_OK;
}

nib_status serve_open(serve **out, const serve_options *options, nib_error *err) {
    *out = NULL;
    server *s = mem_array(1, sizeof *s);
    if (!s)
        return nib_fail(err, NIB_NO_MEMORY, "out of memory for the server");
    s->options = *options;
    s->socket = -1;
    s->created = time(NULL);
    fill_defaults(&s->options);
    const nib_status status = open_parts(s, err);
    if (status == NIB_OK)
        *out = s;
    else
        serve_close(s);
    return status;
}

int serve_port(const serve *s) {
    return http_port(s);
}

const nib_info *serve_info(const serve *s) {
    return &s->info;
}

/* Paused, or asleep: what waits would wait for ever. */
static bool computes(const server *s) {
    nib_stats stats = {.size = sizeof stats};
    return nib_get_stats(s->engine, &stats, NULL) == NIB_OK && stats.rest == NIB_REST_NONE;
}

bool serve_drain(serve *s, int seconds) {
    atomic_store(&s->state, SERVER_DRAINING);
    http_quiesce(s);
    for (int left = seconds; left > 0 && computes(s); left--)
        if (live_wait_empty(s->live, 1))
            return true;
    return live_wait_empty(s->live, 0);
}

void serve_close(serve *s) {
    if (!s)
        return;
    atomic_store(&s->state, SERVER_DRAINING);
    http_quiesce(s);
    if (s->live) { /* what is cut off is told so */
        live_cancel(s->live, NULL);
        live_wait_empty(s->live, LAST_WORDS_SECONDS);
    }
    http_stop(s); /* waits for the connections' threads */
    nib_chat_close(s->chat);
    shelf_close(s->shapes);
    nib_close(s->engine);
    live_close(s->live);
    meters_close(s->meters);
    mem_free(s);
}
