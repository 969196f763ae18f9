/* SPDX-License-Identifier: Apache-2.0
 *
 * Server: what all requests share. Private to the room; serve.h is for the program.
 */
#ifndef SERVE_SERVER_H
#define SERVE_SERVER_H

#include <pthread.h>
#include <stdatomic.h>

#include "serve/serve.h"

typedef enum server_state { SERVER_LOADING = 0, SERVER_READY, SERVER_DRAINING } server_state;

struct serve {
    serve_options options; /* strings are the caller's */
    atomic_int state;      /* server_state */
    atomic_bool asleep;    /* the model, or on its way there */
    long long created;     /* seconds since 1970 */
    uint64_t salt_seed;    /* of cache salts: random */

    /* set before SERVER_READY, then constant */
    nib_engine *engine;
    nib_info info;
    nib_chat *chat; /* NULL: no template */
    nib_chat_info chat_info;
    char chat_problem[512]; /* why */
    nib_pooling pooling;    /* of embeddings */
    char model_id[256];     /* of answers: the first served name */
    char fingerprint[64];   /* of answers */

    struct MHD_Daemon *daemon;
    int socket;
    struct live *live; /* requests and connections */
    struct shelf *shapes;
    struct meters *meters;
};

typedef struct serve server;

bool server_knows_model(const server *s, const char *name);

#endif
