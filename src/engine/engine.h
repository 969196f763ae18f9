/* SPDX-License-Identifier: Apache-2.0
 *
 * Engine: the inside of nib_engine and nib_request, and who may touch what. Private to the room (and to its
 * tests).
 *
 * Two kinds of threads. The engine's own thread holds the tensors: it opens the model, runs the step loop and
 * closes the model. The callers' threads submit, wait for events and turn ids into text (of a request with a
 * callback, the engine's thread does). Between them stand two queues: submitted requests (engine->lock) and
 * each request's tokens (request->lock). The engine never waits for a caller: a request has room for all it
 * may generate.
 *
 * What a step gave is told to the callers when the next step has begun, so that a device computes meanwhile.
 */
#ifndef ENGINE_ENGINE_H
#define ENGINE_ENGINE_H

#include <pthread.h>
#include <stdatomic.h>

#include "engine/draft.h"
#include "engine/flow.h"
#include "engine/loaded.h"
#include "engine/pace.h"
#include "engine/pooling.h"
#include "engine/speculate.h"
#include "sched/sched.h"
#include "text/trie.h"

#define ENGINE_PENALTY_WINDOW 64 /* tokens back that repeat_penalty looks at */

/* How a request ended. */
typedef struct request_end {
    nib_end_reason reason;
    nib_status status; /* of NIB_END_FAILED, as the next */
    nib_error error;
    int32_t token; /* of NIB_END_STOP, or -1 */
    int text;      /* of a stop text, or -1 */
} request_end;

struct nib_request {
    /* set by nib_submit, then constant */
    nib_engine *engine;
    sample_row how;   /* the settings; what changes is filled in for each step */
    token_bias *bias; /* [n_banned] ends, forbidden at first, ascending; then the caller's [n_bias],
                         of which the last n_bias_of_banned are for those */
    int n_banned, n_bias, n_bias_of_banned;
    bool ignore_eos, no_prefix_cache;
    int32_t *stop_ids; /* [n_stop_ids] ascending */
    size_t n_stop_ids;
    stop_texts stops;
    nib_guide guide; /* .mask NULL: none */
    pooling pooling; /* .how NONE: it is answered; else the engine thread's until it has ended */
    int n_prompt, max_tokens, min_tokens, priority;
    uint64_t salt;
    void (*on_event)(void *context, nib_request *request, const nib_event *event);
    void *event_context;
    double submitted; /* clock_seconds */

    atomic_bool cancelled; /* anyone's */

    /* The prompt, then what is generated [max_tokens]: written by the engine's thread beyond n_tokens, read
     * by anyone below. So are log-probabilities, of the token and HOW.N_TOP others. */
    int32_t *tokens;
    token_logprob *logprobs; /* [max_tokens, 1 + how.n_top], NULL where not asked for */

    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t changed;
    int n_tokens;                            /* generated, that can be told */
    double started, first_token, last_token; /* clock_seconds; 0 before */
    int n_cached;
    bool ended;
    request_end end;
    int n_owners; /* the engine, the caller, requests of the same prompt; the last to leave frees */

    /* the consumer's: in nib_next_event, or the engine's thread before a callback */
    int n_taken;
    bool end_told;
    flow told;

    /* the engine thread's */
    nib_request *next;                 /* in the submitted queue (engine->lock), or the line of twins */
    nib_request *twin;                 /* it waits for this one's prompt; owned in part, or NULL */
    int seq;                           /* the scheduler's id; -1: none */
    int n_generated;                   /* n_tokens as it will be told */
    double begun, got_first, got_last; /* as will be told */
    int found;                         /* n_cached, as will be told */
    int n_guessed, n_right;            /* complete before the end is told */
    bool is_over;                      /* OVER is how */
    request_end over;
    bool has_news;
    nib_request *next_news;
    flow watched; /* where there are stop texts */
    speculate_luck luck;
    draft_seq *draft;        /* what the draft remembers of it */
    bool no_draft;           /* its guesses do not pay */
    uint32_t *mask;          /* [ceil(vocab / 32)], where there is a guide */
    nib_status guide_status; /* of its last call */
    nib_error guide_error;
};

struct nib_engine {
    pthread_t thread;
    pthread_mutex_t lock; /* guards the fields down to the blank line */
    pthread_cond_t wake;  /* something was submitted, or closing; at start: opened */
    nib_request *submitted, **submitted_end;
    int n_waiting;         /* submitted, and those that have no place yet: at most max_waiting */
    pthread_cond_t rested; /* REST has become what was WANTED, or will not */
    nib_rest wanted, rest; /* rest: written by the engine's thread */
    nib_status rest_status;
    nib_error rest_error;
    bool closing, opened, forget_prefixes;
    trie *trie;      /* of the words, for shapes; made when the first is asked for */
    nib_stats stats; /* as of the last step; submitted and refused as of now */
    nib_status open_status;
    nib_error open_error;

    atomic_bool any_cancelled;

    /* set before opened, then constant */
    char *path, *device, *draft_path; /* of the options, the last two; or NULL */
    char *compute_path;
    nib_options options;
    nib_info info;
    loaded_needs needs;
    loaded *l;
    char *name;
    nib_pooling pooling;
    int32_t *ends; /* [n_ends] tokens that end an answer */
    size_t n_ends, longest_piece;

    /* the engine thread's */
    sched *sched;
    pace pace;
    speculate_costs costs;
    double hope, mean_answer; /* moving averages over requests: of speculate_luck.right, and of tokens */
    draft *draft;
    double step_began, step_ended; /* clock_seconds */
    double guess_seconds;          /* that the draft took before the step */
    nib_stats counted;
    nib_request **by_seq; /* [n_by_seq] indexed by the scheduler's id; NULL where none */
    int n_by_seq, n_active;
    nib_request *twins, *news; /* of these lists, n_twins and any */
    int n_twins;
    bool rest_cancelled; /* on the way to a rest that ends all: what there was is cancelled */
    sample_row *rows;    /* [max_out] as the next five */
    sampled *sampled;
    int32_t *tokens;
    int *n_accepted;
    bool *ended;
};

/* nib_open, with needs of its own: tests give an engine few pages. NEEDS may be NULL. */
nib_status engine_open(nib_engine **out, const char *path, const nib_options *options,
                       const loaded_needs *needs, nib_error *err);

/* loop.c: what the engine's thread does from opened to closing. */
nib_status loop_open(nib_engine *e, nib_error *err);
void loop_run(nib_engine *e);
void loop_close(nib_engine *e);
void loop_publish_stats(nib_engine *e); /* what it counts, as others see it; E is locked */

/* request.c */
nib_status request_make(nib_request **out, nib_engine *e, const nib_request_options *o, nib_error *err);
void request_leave(nib_request *r);                         /* one owner less */
bool request_stops_at(const nib_request *r, int32_t token); /* one of its stop ids */
/* What is wanted of the token behind AHEAD guesses, but for a guide's mask. */
void request_row(const nib_request *r, int ahead, sample_row *row);
/* How many of the next tokens no guide looks at. */
int request_free_tokens(const nib_request *r);

/* rest.c, for the engine's thread. */
void rest_follow(nib_engine *e);                 /* to what is wanted, where that can be now */
void rest_wait(nib_engine *e);                   /* with e->lock held: until there is something to do */
nib_request *rest_take_submitted(nib_engine *e); /* likewise: all, or while it rests those cancelled */

void guesses_plan(nib_engine *e); /* guesses.c: before a step */

/* event.c, for the engine's thread: what it has found out can be told now, and callbacks are told it. After
 * the end the engine's share is gone. */
void event_publish(nib_request *r);

#endif
