/* SPDX-License-Identifier: Apache-2.0
 *
 * See http.h.
 */
#include "serve/http.h"

#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/status.h"
#include "serve/meters.h"
#include "serve/routes.h"

enum {
    IDLE_SECONDS = 75,  /* a connection between two requests */
    SEND_SECONDS = 120, /* a client that takes nothing of its answer */
    STACK_BYTES = 4 << 20,
    POOL_BYTES = 64 << 10, /* headers of a request, a piece of an answer */
    DISCARD_TIMES = 4,     /* a body of so many times the limit is not even read to its end */
};

/* ---- answers ---- */

static bool add_header(struct MHD_Response *r, const char *name, const char *value) {
    return MHD_add_response_header(r, name, value) == MHD_YES;
}

static void add_cors(const exchange *x, struct MHD_Response *r) {
    const char *origin = x->server->options.cors_origin;
    if (!origin)
        return;
    add_header(r, "Access-Control-Allow-Origin", origin);
    add_header(r, "Access-Control-Allow-Headers", "Authorization, Content-Type, x-api-key");
    add_header(r, "Access-Control-Allow-Methods", "GET, POST, OPTIONS");
    if (strcmp(origin, "*") != 0)
        add_header(r, "Vary", "Origin");
}

/* For a piece of an answer to be taken. The wait for the piece counts too, which is never longer than the
 * silence that a stream may have. */
static unsigned send_seconds(const server *s) {
    const int silence = 2 * s->options.ping_seconds;
    return (unsigned)(silence > SEND_SECONDS ? silence : SEND_SECONDS);
}

/* Hands R over; a response that could not be made ends the connection. */
static void queue(exchange *x, int status, struct MHD_Response *r) {
    x->answered = true;
    if (!r)
        return;
    add_cors(x, r);
    add_header(r, "x-request-id", x->id);
    if (x->policy[0]) {
        add_header(r, "Content-Security-Policy", x->policy);
        add_header(r, "Referrer-Policy", "no-referrer");
        add_header(r, "X-Content-Type-Options", "nosniff");
        add_header(r, "Cache-Control", "no-store");
    }
    if (atomic_load(&x->server->state) == SERVER_DRAINING)
        add_header(r, "Connection", "close");
    MHD_set_connection_option(x->connection, MHD_CONNECTION_OPTION_TIMEOUT, send_seconds(x->server));
    live_expect(x->server->live, x->link, 0);
    meters_count_status(x->server->meters, status);
    MHD_queue_response(x->connection, (unsigned)status, r);
    MHD_destroy_response(r);
}

static struct MHD_Response *text_response(buf *text, const char *type) {
    struct MHD_Response *r;
    if (text->failed) {
        buf_free(text);
        return NULL;
    }
    buf_add(text, "", 0);
    r = MHD_create_response_from_buffer_with_free_callback(text->n, text->bytes, mem_free);
    if (!r)
        buf_free(text);
    *text = (buf){0};
    if (r)
        add_header(r, "Content-Type", type);
    return r;
}

void http_reply(exchange *x, int status, const char *type, buf *text) {
    queue(x, status, text_response(text, type));
}

void http_reply_json(exchange *x, int status, json_t *json) {
    buf text = {0};
    buf_json(&text, json);
    http_reply(x, status, "application/json", &text);
}

void http_reply_error(exchange *x, const api_error *e) {
    const bool anthropic = x->route && x->route->flags & ROUTE_ANTHROPIC;
    buf text = {0};
    buf_json(&text, api_error_json(e, anthropic ? API_STYLE_ANTHROPIC : API_STYLE_OPENAI));
    struct MHD_Response *r = text_response(&text, "application/json");
    if (r && e->kind == API_WRONG_METHOD)
        add_header(r, "Allow", x->allow_text);
    if (r && (e->kind == API_BUSY || e->kind == API_UNAVAILABLE))
        add_header(r, "Retry-After", e->kind == API_BUSY ? "1" : "5");
    if (r && (e->kind == API_FAILED || e->kind == API_TOO_SLOW)) /* clients repeat 5xx by themselves */
        add_header(r, "x-should-retry", "false");
    if (r && e->kind == API_UNAUTHORIZED)
        add_header(r, "WWW-Authenticate", "Bearer");
    queue(x, api_error_status(e), r);
}

/* ---- streams ---- */

typedef struct reader {
    stream *source;
    buf text;
    size_t told; /* bytes of it */
    bool over;
} reader;

static ssize_t read_stream(void *context, uint64_t position, char *out, size_t room) {
    reader *r = context;
    (void)position;
    if (r->told == r->text.n) {
        buf_clear(&r->text);
        r->told = 0;
        while (!r->over && r->text.n == 0)
            r->over = !r->source->next(r->source, &r->text);
    }
    if (r->text.failed)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (r->told == r->text.n)
        return MHD_CONTENT_READER_END_OF_STREAM;
    size_t n = r->text.n - r->told;
    n = n < room ? n : room;
    memcpy(out, r->text.bytes + r->told, n);
    r->told += n;
    return (ssize_t)n;
}

static void close_stream(void *context) {
    reader *r = context;
    r->source->close(r->source);
    buf_free(&r->text);
    mem_free(r);
}

void http_reply_stream(exchange *x, const char *type, stream *s) {
    reader *r = mem_array(1, sizeof *r);
    struct MHD_Response *response = NULL;
    if (r) {
        *r = (reader){.source = s};
        response =
            MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, POOL_BYTES / 4, read_stream, r, close_stream);
    }
    if (!response) {
        mem_free(r);
        s->close(s);
        queue(x, 500, NULL);
        return;
    }
    add_header(response, "Content-Type", type);
    add_header(response, "Cache-Control", "no-cache");
    add_header(response, "X-Accel-Buffering", "no");
    queue(x, 200, response);
}

/* ---- requests ---- */

const char *http_header(const exchange *x, const char *name) {
    return MHD_lookup_connection_value(x->connection, MHD_HEADER_KIND, name);
}

const char *http_query(const exchange *x, const char *name) {
    return MHD_lookup_connection_value(x->connection, MHD_GET_ARGUMENT_KIND, name);
}

struct allowed {
    const char *name, *other;
};

static enum MHD_Result look_at_name(void *context, enum MHD_ValueKind kind, const char *name,
                                    const char *value) {
    struct allowed *a = context;
    (void)kind, (void)value;
    if (!a->name || strcmp(a->name, name) != 0)
        a->other = name;
    return MHD_YES;
}

const char *http_query_beside(const exchange *x, const char *name) {
    struct allowed a = {.name = name};
    MHD_get_connection_values(x->connection, MHD_GET_ARGUMENT_KIND, look_at_name, &a);
    return a.other;
}

int http_socket(const exchange *x) {
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(x->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    return info ? info->connect_fd : -1;
}

void http_new_id(char *out, size_t size, const char *prefix) {
    static const char letters[] = "0123456789abcdefghijklmnopqrstuv";
    unsigned char random[24] = {0};
    while (getrandom(random, sizeof random, 0) != sizeof random) { /* the server has had some when it began */
    }
    size_t n = (size_t)snprintf(out, size, "%s", prefix);
    for (size_t i = 0; i < sizeof random && n + 1 < size; i++)
        out[n++] = letters[random[i] % 32];
    out[n] = 0;
}

bool http_json(exchange *x, json_t **out, api_error *e) {
    nib_error words = {""};
    const nib_status status =
        json_read(out, x->body.bytes ? x->body.bytes : "", x->body.n, "the body", &words);
    buf_free(&x->body); /* an answer may take long */
    if (status == NIB_NO_MEMORY)
        return api_error_from(e, status, &words);
    if (status != NIB_OK)
        return api_error_set(e, API_INVALID, NULL, "%s", words.text);
    if (json_is_object(*out))
        return true;
    json_decref(*out);
    *out = NULL;
    return api_error_set(e, API_INVALID, NULL, "the body must be a JSON object");
}

static size_t body_limit(const server *s) {
    return s->options.max_body_bytes;
}

static bool too_large(exchange *x) {
    return api_error_set(&x->error, API_TOO_LARGE, NULL, "the body is larger than %zu bytes",
                         body_limit(x->server));
}

/* A body that is announced as too large, or only sent when asked for, need not come at all. */
static bool answers_at_once(exchange *x) {
    const char *length = http_header(x, "Content-Length");
    const unsigned long long n = length ? strtoull(length, NULL, 10) : 0;
    if (n > body_limit(x->server))
        too_large(x);
    return x->error.kind != API_NO_ERROR &&
           (n / DISCARD_TIMES > body_limit(x->server) || http_header(x, "Expect"));
}

static exchange *begin(server *s, struct MHD_Connection *connection, const char *method, const char *path) {
    exchange *x = mem_array(1, sizeof *x);
    if (!x)
        return NULL;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);
    *x = (exchange){.server = s,
                    .connection = connection,
                    .link = info ? info->socket_context : NULL,
                    .method = method,
                    .path = path,
                    .began = clock_seconds()};
    live_enter(s->live);
    http_new_id(x->id, sizeof x->id, "req-");
    live_expect(s->live, x->link, s->options.receive_seconds);
    routes_find(x);
    return x;
}

/* False: the client sends without end. */
static bool take_body(exchange *x, const char *bytes, size_t n) {
    x->received += n;
    if (x->received > body_limit(x->server))
        too_large(x);
    if (x->error.kind == API_NO_ERROR)
        buf_add(&x->body, bytes, n);
    else
        buf_free(&x->body);
    return x->received / DISCARD_TIMES <= body_limit(x->server);
}

static enum MHD_Result on_request(void *context, struct MHD_Connection *connection, const char *path,
                                  const char *method, const char *version, const char *bytes, size_t *n,
                                  void **state) {
    exchange *x = *state;
    (void)version;
    if (!x) {
        *state = x = begin(context, connection, method, path);
        if (x && answers_at_once(x))
            http_reply_error(x, &x->error);
        return x ? MHD_YES : MHD_NO;
    }
    if (x->answered)
        return MHD_NO;
    if (*n > 0) {
        const bool more = take_body(x, bytes, *n);
        *n = 0;
        return more ? MHD_YES : MHD_NO;
    }
    live_expect(x->server->live, x->link, 0);
    MHD_set_connection_option(connection, MHD_CONNECTION_OPTION_TIMEOUT, 0u);
    if (x->body.failed)
        api_error_set(&x->error, API_FAILED, NULL, "out of memory for the body");
    routes_answer(x);
    return MHD_YES;
}

static void on_completed(void *context, struct MHD_Connection *connection, void **state,
                         enum MHD_RequestTerminationCode code) {
    exchange *x = *state;
    (void)context, (void)connection, (void)code;
    if (!x)
        return;
    if (x->link)
        live_expect(x->server->live, x->link, IDLE_SECONDS);
    buf_free(&x->body);
    live_leave(x->server->live);
    mem_free(x);
    *state = NULL;
}

static void on_connection(void *context, struct MHD_Connection *connection, void **socket_context,
                          enum MHD_ConnectionNotificationCode code) {
    server *s = context;
    live_connection *c = *socket_context;
    if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
        if (c)
            live_disconnect(s->live, c);
        mem_free(c);
        return;
    }
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    *socket_context = c = mem_array(1, sizeof *c);
    if (!c || !info)
        return;
    c->socket = info->connect_fd;
    live_connect(s->live, c);
    live_expect(s->live, c, s->options.receive_seconds);
}

/* ---- life ---- */

static bool is_loopback(const struct sockaddr *address) {
    if (address->sa_family == AF_INET)
        return (ntohl(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr) >> 24) == 127;
    return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)address)->sin6_addr);
}

static nib_status bind_to(server *s, const struct addrinfo *where, nib_error *err) {
    const serve_options *o = &s->options;
    const int one = 1;
    if (!is_loopback(where->ai_addr) && o->n_api_keys == 0 && !o->allow_anonymous)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "--host %s is reached from other machines; expected --api-key, or --allow-anonymous",
                        o->host);
    s->socket = socket(where->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (s->socket < 0)
        return nib_fail(err, NIB_IO, "no socket: %s", strerror(errno));
    setsockopt(s->socket, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(s->socket, where->ai_addr, where->ai_addrlen) != 0 || listen(s->socket, 1024) != 0)
        return nib_fail(err, NIB_IO, "%s port %d cannot be listened on: %s%s", o->host, o->port,
                        strerror(errno), errno == EADDRINUSE ? "; --port takes another" : "");
    return NIB_OK;
}

static nib_status listen_on(server *s, nib_error *err) {
    const struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found = NULL;
    char port[16];
    snprintf(port, sizeof port, "%d", s->options.port);
    const int failed = getaddrinfo(s->options.host, port, &hints, &found);
    if (failed)
        return nib_fail(err, NIB_BAD_ARGUMENT, "--host %s is no address here: %s", s->options.host,
                        gai_strerror(failed));
    const nib_status status = bind_to(s, found, err);
    freeaddrinfo(found);
    return status;
}

/* From the usual policy to SCHED_BATCH and back: whether this thread, and those that it starts, take a core
 * from another when they wake. A connection's thread wakes for every token; where all cores compute, each
 * time one is taken from a step all threads of that step wait. It comes by when they wait for each other, or
 * after a few milliseconds. False: nothing was changed; a policy that the user chose stays. */
static bool change_policy(int from, int to) {
    return sched_getscheduler(0) == from && sched_setscheduler(0, to, &(struct sched_param){0}) == 0;
}

nib_status http_start(server *s, nib_error *err) {
    const serve_options *o = &s->options;
    NIB_TRY(listen_on(s, err));
    unsigned flags = MHD_USE_POLL_INTERNAL_THREAD | MHD_USE_THREAD_PER_CONNECTION | MHD_USE_ITC;
    struct MHD_OptionItem tls[] = {
        {MHD_OPTION_END, 0, NULL}, {MHD_OPTION_END, 0, NULL}, {MHD_OPTION_END, 0, NULL}};
    if (o->tls_cert) {
        flags |= MHD_USE_TLS;
        tls[0] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_CERT, 0, (void *)(size_t)o->tls_cert};
        tls[1] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_MEM_KEY, 0, (void *)(size_t)o->tls_key};
    }
    const bool patient = change_policy(SCHED_OTHER, SCHED_BATCH);
    s->daemon = MHD_start_daemon(
        flags, 0, NULL, NULL, on_request, s, MHD_OPTION_LISTEN_SOCKET, s->socket, MHD_OPTION_NOTIFY_COMPLETED,
        on_completed, s, MHD_OPTION_NOTIFY_CONNECTION, on_connection, s, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)o->max_connections, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)IDLE_SECONDS,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)POOL_BYTES, MHD_OPTION_THREAD_STACK_SIZE,
        (size_t)STACK_BYTES, MHD_OPTION_ARRAY, tls, MHD_OPTION_END);
    if (patient)
        change_policy(SCHED_BATCH, SCHED_OTHER);
    if (!s->daemon)
        return nib_fail(err, NIB_IO, "the HTTP server does not start%s",
                        o->tls_cert ? "; are --ssl-certfile and --ssl-keyfile a certificate and its key?"
                                    : "");
    return NIB_OK;
}

int http_port(const server *s) {
    struct sockaddr_storage address;
    socklen_t n = sizeof address;
    if (getsockname(s->socket, (struct sockaddr *)(void *)&address, &n) != 0)
        return -1;
    return ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)(void *)&address)->sin6_port
                                               : ((struct sockaddr_in *)(void *)&address)->sin_port);
}

void http_quiesce(server *s) {
    if (s->daemon && s->socket >= 0) {
        MHD_quiesce_daemon(s->daemon);
        close(s->socket);
        s->socket = -1;
    }
}

void http_stop(server *s) {
    if (s->daemon)
        MHD_stop_daemon(s->daemon); /* closes the socket */
    else if (s->socket >= 0)
        close(s->socket);
    s->daemon = NULL;
    s->socket = -1;
}
