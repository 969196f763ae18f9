/* SPDX-License-Identifier: Apache-2.0
 *
 * Answer: one client's request while the engine works on it: prompts, and the choices that are generated for
 * each. It gathers what comes; the files route_* write it down in their API's words.
 *
 * It belongs to its connection's thread; from others it can only be cancelled (live.h).
 */
#ifndef SERVE_ANSWER_H
#define SERVE_ANSWER_H

#include "serve/ask.h"
#include "serve/http.h"

#define ANSWER_MAX_CHOICES 512 /* of one request */

/* A stretch of what is new in a choice. */
typedef struct answer_piece {
    nib_piece_kind kind;
    int call;
    size_t n; /* bytes of choice.fresh */
} answer_piece;

typedef struct answer_call {
    char id[64];
    buf name, arguments;
} answer_call;

/* The log-probability of a token that was generated, and the TOP others'. */
typedef struct answer_token {
    int32_t token;
    float logprob;
    int n_top;
    nib_token_logprob top[NIB_MAX_LOGPROBS];
} answer_token;

typedef struct choice {
    int index;     /* as told; -1: others of its prompt were better */
    size_t prompt; /* which */
    nib_request *request;
    nib_guide guide;         /* of its shape; of zeros: none */
    struct allowed *allowed; /* tokens that may come; NULL: any */
    struct budget *budget;   /* of its reasoning; NULL: no bound */
    nib_reader *reader;      /* of conversations */
    bool over;
    bool enough; /* it began a second call where one was wanted */

    buf text, reasoning; /* so far */
    answer_call *calls;  /* [n_calls] */
    size_t n_calls;
    int32_t *ids; /* [n_ids] of what was generated */
    size_t n_ids, ids_capacity;
    answer_token *tokens; /* [n_tokens], where log-probabilities are asked for */
    size_t n_tokens, tokens_capacity;

    /* what is new since the last answer_told */
    buf fresh;
    answer_piece *pieces; /* [n_pieces] */
    size_t n_pieces, pieces_capacity, ids_told, tokens_told;
    bool begun, end_told; /* the writer's, as the next */
    size_t n_characters;  /* told */

    const char *finish; /* stop, length, tool_calls, abort; NULL until it is over */
    int stop_text;      /* number of the stop text that ended it, or -1 */
    int32_t stop_token; /* or -1 */
    int n_cached, n_reasoning, n_guessed, n_right_guesses;
    double queue_ms, prompt_ms, generate_ms;
    double last_token;  /* clock_seconds; 0: none yet */
    double sum_logprob; /* for best_of */
    float *vector;      /* [answer.n_numbers] of embeddings, once it is over */
} choice;

typedef struct answer_prompt {
    int32_t *ids; /* [n]; freed with nib_free */
    size_t n, n_forced;
    nib_request *scoring; /* answer_score.c's, as the next */
    nib_guide guide;
    answer_token *tokens; /* [n] what the network gave each token; NULL: not asked for */
} answer_prompt;

typedef struct answer {
    server *server;
    ask ask;
    json_t *body; /* the ask points into it; once started, what of it is still looked at */
    bool control_text;
    char id[64];
    long long created;
    uint64_t salt;
    answer_prompt *prompts; /* [n_prompts] */
    size_t n_prompts;
    choice *choices; /* [n_prompts * best_of] */
    size_t n_choices, n_started, n_running;
    size_t n_numbers;       /* of each vector, of embeddings */
    nib_shape *large_shape; /* of all choices, where the shelf does not keep it; else NULL */
    api_error error;        /* of the engine, while it ran */
    double deadline;        /* clock_seconds; 0: none */
    double told_at;         /* clock_seconds, when its stream last said something */
    buf chunk_head;         /* parts.c's: what all chunks of its stream begin with */
    live_request live;
    bool is_live;
    pthread_mutex_t lock; /* guards the choices' requests against cancellation, and the next */
    bool cancelled;
} answer;

/* Takes what ASK holds, and the reference BODY. */
bool answer_open(answer **out, exchange *x, ask *a, json_t *body, const char *id_prefix, api_error *e);
/* The body of X, read by READ, becomes an answer without prompts. */
bool answer_read(answer **out, exchange *x, bool (*read)(ask *, const json_t *, api_error *),
                 const char *id_prefix, api_error *e);
void answer_close(answer *r); /* cancels what still runs; NULL is fine */

/* Prompts before the start. Refused when it does not fit the context. IDS are taken, also then. */
bool answer_add_prompt(answer *r, int32_t *ids, size_t n, api_error *e);
bool answer_add_prompts(answer *r, api_error *e);      /* the ask's */
bool answer_add_conversation(answer *r, api_error *e); /* likewise */
bool answer_start(answer *r, api_error *e);

/* Waits up to TIMEOUT_MS for news of any choice. False: all are over, or r->error is set. */
bool answer_wait(answer *r, int timeout_ms);
/* Waits for the end of all; false: r->error is set. */
bool answer_finish(answer *r);
void answer_choose(answer *r); /* the n best of each prompt's best_of get the indices */
/* Its arguments are JSON: not so where it broke off when it was told in part already. */
bool answer_call_is_whole(const answer_call *call);
/* What is new becomes old: all of it, or the pieces alone. */
void answer_told(choice *c);
void answer_told_pieces(choice *c);

typedef struct answer_usage {
    int prompt, cached, completion, reasoning;
} answer_usage;

answer_usage answer_count(const answer *r);
const char *answer_model(const answer *r); /* as the client named it */

#endif
