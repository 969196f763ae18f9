/* SPDX-License-Identifier: Apache-2.0
 *
 * Serve: a model behind HTTP, in the words of OpenAI's API and what grew around it (docs/server.md). A client
 * of nibble.h; it prints nothing.
 *
 * A connection has a thread of its own, from libmicrohttpd: it reads a request, waits for the engine, writes
 * the answer. One more thread watches all sockets for clients that leave (live.h).
 */
#ifndef SERVE_SERVE_H
#define SERVE_SERVE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/json.h"
#include "nibble.h"

enum { SERVE_MAX_NAMES = 32 }; /* of keys and of model names */

typedef struct serve_options {
    const char *model; /* path */
    nib_options compute;
    const char *host;            /* NULL: 127.0.0.1 */
    int port;                    /* 0: any that is free */
    const char *const *api_keys; /* [n_api_keys]; none: everybody may ask */
    size_t n_api_keys;
    bool allow_anonymous;     /* beyond loopback without a key */
    const char *const *names; /* [n_names] the model goes by; none: its own */
    size_t n_names;
    const char *chat_template;      /* Jinja in place of the model's own, or NULL */
    int max_connections;            /* 0: 1024 */
    size_t max_body_bytes;          /* 0: 32 MiB */
    int default_max_tokens;         /* where a request names none; 0: as many as fit */
    int ping_seconds;               /* silence in a stream that is broken by a comment; 0: 15 */
    int receive_seconds;            /* that a request may take to arrive; 0: 60 */
    int request_seconds;            /* that an answer may take; 0: no limit */
    const char *cors_origin;        /* "*", an origin, or NULL */
    const char *tls_cert, *tls_key; /* PEM texts; NULL: no TLS */
    nib_pooling pooling;            /* of embeddings; NONE: as the model's files say, else the last token */
    bool reasoning_field;           /* "reasoning" in place of "reasoning_content" */
    json_t *about;                  /* what the model's file holds (nibble inspect --json), or NULL */
    json_t *quantize_report;        /* of nibble quantize --json, or NULL */
} serve_options;

typedef struct serve serve;

/* Listens, then opens the model; while it does, requests are told to wait (503). OPTIONS' strings outlive the
 * server. */
nib_status serve_open(serve **out, const serve_options *options, nib_error *err);
int serve_port(const serve *s);
const nib_info *serve_info(const serve *s);
/* Takes no more requests and waits up to SECONDS for those that run; true: all came to their end. */
bool serve_drain(serve *s, int seconds);
void serve_close(serve *s); /* cancels what still runs; NULL is fine */

#endif
