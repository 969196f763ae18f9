/* SPDX-License-Identifier: Apache-2.0
 *
 * Ask: what a client asks for, whichever API it speaks, read from a JSON body and checked as far as that goes
 * without a model. The readers are pure: they know no engine, and a fuzz target feeds each of them.
 */
#ifndef SERVE_ASK_H
#define SERVE_ASK_H

#include "serve/fields.h"

#define ASK_MAX_CHOICES 128  /* n and best_of */
#define ASK_MAX_PROMPTS 1024 /* of one completion request */
#define ASK_MAX_INPUTS  2048 /* of one request for embeddings */

typedef enum ask_tool_choice {
    ASK_TOOLS_AUTO = 0,
    ASK_TOOLS_NONE,
    ASK_TOOLS_REQUIRED,
    ASK_TOOLS_NAMED
} ask_tool_choice;

typedef struct ask_shape {
    bool wanted;
    nib_shape_kind kind;
    char *text; /* freed with json_text_free; NULL where the kind has none */
} ask_shape;

typedef struct ask {
    const json_t *body;        /* borrowed: everything below may point into it */
    const char *const *echoed; /* its fields that the answer repeats, ends with NULL; NULL: none */
    const char *model, *request_id, *cache_salt;

    /* how the next token is chosen, and how far it goes */
    nib_sampling sampling;
    int max_tokens; /* -1: not given */
    int min_tokens, n, best_of, priority;
    bool ignore_eos, keep_special, include_stop;
    const char **stops; /* [n_stops] */
    size_t n_stops;
    int32_t *stop_ids; /* [n_stop_ids] */
    size_t n_stop_ids;
    nib_token_bias *bias; /* [n_bias] */
    size_t n_bias;
    int32_t *allowed; /* [n_allowed] no other token may come; NULL: any */
    size_t n_allowed;
    const char **bad_words; /* [n_bad_words] may not come */
    size_t n_bad_words;
    bool logprobs, no_prefix_cache;
    bool has_other_window;             /* than the penalty's */
    int top_logprobs, prompt_logprobs; /* the latter of the prompt's tokens; -1: not asked for */
    ask_shape shape;

    /* how it is told */
    bool stream, include_usage, continuous_usage, return_ids;

    /* of conversations */
    json_t *messages;  /* owned, as the next two */
    json_t *tools;     /* or NULL */
    json_t *variables; /* of the template */
    bool no_generation_prompt, single_call;
    bool continue_last; /* the assistant's last message is gone on with */
    ask_tool_choice tool_choice;
    const char *tool_name; /* ASK_TOOLS_NAMED */
    int reasoning_budget;  /* tokens; -1: no bound */

    /* of completions and embeddings */
    const json_t *prompt;    /* a string, a list of them, of ids, of lists of ids */
    const char *prompt_name; /* the field that it stood in */
    bool echo;

    /* of embeddings */
    bool embeds, base64;
    int dimensions; /* 0: all */
} ask;

/* OpenAI's bodies. BODY outlives the ask, which is freed with ask_free also after a failure. */
bool ask_read_chat(ask *a, const json_t *body, api_error *e);
bool ask_read_completion(ask *a, const json_t *body, api_error *e);
bool ask_read_responses(ask *a, const json_t *body, api_error *e);
bool ask_read_embeddings(ask *a, const json_t *body, api_error *e);
/* Anthropic's; COUNTING: its tokens are asked for, not an answer. */
bool ask_read_messages(ask *a, const json_t *body, bool counting, api_error *e);
void ask_free(ask *a); /* safe on a zeroed struct */

/* Their fields; each ends with NULL. */
extern const field *const ask_chat_tables[],
    *const ask_completion_tables[], *const ask_responses_tables[], *const ask_messages_tables[],
                                                                       *const ask_embeddings_tables[];

/* For the readers' files. */
extern const field ask_common[];            /* of every generating request of OpenAI's kind */
extern const char *const ask_roles[];       /* that messages have in OpenAI's API; ends with NULL */
extern const char *const ask_part_fields[]; /* that a part of a message's text may have */
extern const field ask_harmless[];          /* names that change nothing here */
/* Ways to draw tokens, of llama.cpp and vLLM, that may be given as long as they are off. */
extern const field ask_ways[];
void ask_defaults(ask *a, const json_t *body);
bool ask_finish(ask *a, api_error *e); /* what fields say together */
bool ask_no_memory(api_error *e);
/* a->prompt is what it may be, MOST of them at most. */
bool ask_check_prompt(const ask *a, size_t most, api_error *e);
bool ask_check_tools(ask *a, api_error *e); /* tools and tool_choice together */
/* Calls are to be held to: they must come, or a tool's arguments must keep to its schema when one comes. */
bool ask_holds_calls(const ask *a);
/* Fields of the same meaning in several APIs (field.read). */
bool ask_read_stop(void *target, const json_t *value, const char *name, api_error *e);
bool ask_read_tool_choice(void *target, const json_t *value, const char *name, api_error *e);
bool ask_read_parallel(void *target, const json_t *value, const char *name, api_error *e);
bool ask_read_effort(void *target, const json_t *value, const char *name, api_error *e);
/* A shape from its field; TEXT is taken (json_text_free). Refuses a second one. */
bool ask_set_shape(ask *a, nib_shape_kind kind, char *text, const char *name, api_error *e);
/* Its fields: response_format and the like. */
extern const field ask_shape_fields[];
/* The budget of reasoning, under its three names. */
extern const field ask_thinking_fields[];

#endif
