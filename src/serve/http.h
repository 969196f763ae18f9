/* SPDX-License-Identifier: Apache-2.0
 *
 * Http: libmicrohttpd's side. An exchange is one request and its answer, on the thread of its connection.
 *
 * While a handler waits, no timeout of the connection runs (libmicrohttpd would take the silence for a dead
 * client); live.h sees clients that leave.
 */
#ifndef SERVE_HTTP_H
#define SERVE_HTTP_H

#include "serve/api_error.h"
#include "serve/buf.h"
#include "serve/live.h"
#include "serve/server.h"

struct MHD_Connection;
struct route;

typedef struct exchange {
    server *server;
    struct MHD_Connection *connection;
    live_connection *link;
    const struct route *route; /* NULL: none was found */
    const char *method, *path; /* libmicrohttpd's */
    const char *rest;          /* of the path, where the route has a star */
    const char *allow;         /* methods that the path knows, where the method is wrong */
    char allow_text[64];
    char id[48];      /* of this request, for logs and x-request-id */
    char policy[256]; /* what a page may do in a browser (Content-Security-Policy), or "" */
    api_error error;
    buf body;
    size_t received;
    double began; /* clock_seconds */
    bool answered;
} exchange;

/* An answer that comes piece by piece. */
typedef struct stream {
    /* Appends what comes next to OUT (empty); waits for it. False: nothing follows. */
    bool (*next)(struct stream *s, buf *out);
    void (*close)(struct stream *s); /* frees it; also when the client has left */
} stream;

nib_status http_start(server *s, nib_error *err); /* listens and answers */
void http_quiesce(server *s);                     /* takes no more connections */
void http_stop(server *s);                        /* ends all; waits for their threads */
int http_port(const server *s);

const char *http_header(const exchange *x, const char *name); /* NULL: none */
const char *http_query(const exchange *x, const char *name);  /* of the address; NULL: none */
const char *http_query_beside(const exchange *x,
                              const char *name); /* one that is not NAME (NULL: any); NULL: none */
int http_socket(const exchange *x);

/* Each answers X, once. A body's bytes are taken (and TEXT is empty afterwards); JSON's reference too. */
void http_reply(exchange *x, int status, const char *type, buf *text);
void http_reply_json(exchange *x, int status, json_t *json);
void http_reply_error(exchange *x, const api_error *e);
void http_reply_stream(exchange *x, const char *type, stream *s);

/* The body as a JSON object, freed with json_decref; false: it is none. */
bool http_json(exchange *x, json_t **out, api_error *e);

/* PREFIX and random letters. */
void http_new_id(char *out, size_t size, const char *prefix);

#endif
