/* SPDX-License-Identifier: Apache-2.0
 *
 * Engine: the inside of nib_engine and nib_request, and who may touch what. Private to the room (and to its
 * tests).
 *
 * Two kinds of threads. The engine's own thread holds the tensors: it opens the model, runs the step loop and
 * closes the model. The callers' threads hold the text: they tokenize, wait for events and turn ids into
 * text. Between them stand two queues: submitted requests (engine->lock) and each request's tokens
 * (request->lock). The engine never waits for a caller: a request's queue has room for all it may generate.
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/loaded.h"
#include "engine/sampler.h"
#include "sched/sched.h"

struct nib_request {
    /* set by nib_submit, then constant */
    nib_engine *engine;
    nib_sampling sampling;
    bool ignore_eos;
    int32_t *prompt; /* [n_prompt]; freed once the scheduler has it */
    int n_prompt, max_tokens;
    double submitted; /* clock_seconds */

    atomic_bool cancelled; /* anyone's */

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t changed;
    int32_t *tokens; /* [max_tokens] generated so far, n_tokens of them */
    int n_tokens;
    double first_token, last_token; /* clock_seconds; 0 before */
    bool ended;
    nib_end_reason reason;
    nib_status status; /* of NIB_END_FAILED, as the next */
    nib_error error;
    int n_owners; /* the engine and the caller; the last to leave frees */

    /* the caller's, in nib_next_event */
    int n_taken;
    detokenizer detokenizer;
    char *text;
    size_t text_capacity;

    /* the engine thread's */
    nib_request *next; /* in the submitted queue: engine->lock */
    int seq;           /* the scheduler's id */
};

struct nib_engine {
    pthread_t thread;
    pthread_mutex_t lock; /* guards the fields down to the blank line */
    pthread_cond_t wake;  /* something was submitted, or closing; at start: opened */
    nib_request *submitted, **submitted_end;
    bool closing, opened;
    sched_counts counts; /* as of the last step */
    nib_status open_status;
    nib_error open_error;

    /* set before opened, then constant */
    const char *path;
    nib_options options;
    loaded_needs needs;
    loaded *l;

    /* the engine thread's */
    sched *sched;
    sampler *sampler;
    nib_request **by_seq; /* [n_by_seq] indexed by the scheduler's id; NULL where none */
    int n_by_seq;
    int n_active;
    int32_t *sampled; /* [max_num_seqs] */
    bool *ended;      /* [max_num_seqs] */
    int *out_seqs;    /* [max_num_seqs] */
};

/* nib_open, with needs of its own: tests give an engine few pages. NEEDS may be NULL. */
nib_status engine_open(nib_engine **out, const char *path, const nib_options *options,
                       const loaded_needs *needs, nib_error *err);

/* request.c, for the engine thread */
void request_token(nib_request *r, int32_t token);
/* Drops the engine's share. STATUS and ERROR (may be NULL) say why it failed. */
void request_end(nib_request *r, nib_end_reason reason, nib_status status, const char *error);

#endif
