/* SPDX-License-Identifier: Apache-2.0
 *
 * nibble: run 4-bit floating-point language models. The public C API, but for the FP4 matrix
 * products (nibble_gemm.h); compiles alone as C11 and C++.
 *
 * One engine holds one model and takes many requests at a time. The library never prints and never exits:
 * what can fail returns a nib_status and puts words into a nib_error (which may be NULL).
 *
 * Threads. An engine has a thread of its own, and a program may have several engines. Any thread may submit,
 * tokenize and ask for facts, many at once. A request tells what becomes of it in one of two ways: it is
 * waited for (nib_next_event, by one thread at a time), or it calls back from the engine's thread (on_event).
 * nib_cancel comes from any thread, also beside either. No call on a request may overlap its nib_release or
 * come after it, and no call on an engine or its requests may overlap nib_close or come after it. An
 * engine's threads start in nib_open, which fails in words when the system denies one, and have ended when
 * nib_close returns. They take no signals. A forked child must leave the engines of its parent alone.
 *
 * Callbacks run on the engine's thread while it holds no lock, and hold up every request: they must not wait.
 * They may call nib_submit, nib_cancel, the functions for words, and nib_release on a request whose END they
 * are told of; not nib_open, nib_close or nib_next_event.
 *
 * Files. Weights are read while the engine is opened, and no file is touched after nib_open returns: what
 * becomes of the files then does not matter. Weights that are cut short while they are read are an error in
 * words. Only words and metadata are read through maps, in the first moments of nib_open: a file that is cut
 * short just then is SIGBUS to the program.
 *
 * Compatibility. Every struct but nib_error and the pairs (nib_message, nib_token_bias, nib_token_logprob,
 * which never change) begins with its size: set it to sizeof the struct. A library newer than the program's
 * header takes what is missing at the end for zero, and an older one refuses what it does not know unless
 * that is zero. Structs that the library fills are filled as far as their size. A NULL where a pointer is
 * needed is refused (NIB_BAD_ARGUMENT), not followed; an error's may always be NULL.
 */
#ifndef NIBBLE_H
#define NIBBLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The library is built with everything hidden but what stands here. */
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

#define NIB_VERSION "0.1.0"

const char *nib_version(void); /* of the library that runs; NIB_VERSION is the header's */

typedef enum nib_status {
    NIB_OK = 0,
    NIB_BAD_ARGUMENT, /* a call or a flag that makes no sense */
    NIB_BAD_FILE,     /* a file that is damaged, hostile or not what it claims */
    NIB_UNSUPPORTED,  /* a sound file that nibble does not handle */
    NIB_NO_MEMORY,
    NIB_IO, /* the system could not read or write */
    NIB_CANCELLED,
    NIB_BUSY /* too many requests wait already: try again later */
} nib_status;

typedef struct nib_error {
    char text[512]; /* one sentence: the file, the field, what was expected */
} nib_error;

/* ---- options: zero means the default; what is out of range is refused (NIB_BAD_ARGUMENT) ---- */

typedef enum nib_activations {
    NIB_ACTIVATIONS_AUTO = 0, /* int8 on a CPU, bf16 on a GPU */
    NIB_ACTIVATIONS_F32,      /* exact: the quantized weights' values times FP32 activations */
    /* Integers: 8 bits with a scale per 16 for matrix products; attention too, where the rung is faster so
     * (13-bit queries, 12-bit keys, 8-bit weights and values, whatever the cache stores). */
    NIB_ACTIVATIONS_INT8,
    NIB_ACTIVATIONS_BF16, /* GPUs: W4A16 */
    NIB_ACTIVATIONS_FP8,  /* GPUs: W4A8, E4M3 with a scale per row beyond a few rows */
    NIB_ACTIVATIONS_FP4   /* GPUs: W4A4 */
} nib_activations;

typedef enum nib_kv_dtype {
    NIB_KV_AUTO = 0,
    NIB_KV_BF16,
    NIB_KV_FP8,
    NIB_KV_FP32
} nib_kv_dtype; /* AUTO: BF16 on a CPU, FP8 on a GPU */

/* Guesses of what comes next, computed beside the next token and kept where they are right. They are used
 * where that is measured to be faster; an answer stays as it is without, where row_bits_fixed. */
typedef enum nib_speculate {
    NIB_SPECULATE_OFF = 0,
    NIB_SPECULATE_LOOKUP, /* what followed when the last tokens stood in the text before */
    NIB_SPECULATE_DRAFT   /* what a smaller model of the same words says, `draft` */
} nib_speculate;

typedef struct nib_options {
    size_t size;
    /* "auto" (NULL too): a GPU where there is one and no option asks for the CPU (threads, cpu_features,
     * int8); "cpu"; "cuda", "cuda:0": one GPU. Several ("cuda:0,1") are refused in words. */
    const char *device;
    int threads; /* 0: physical cores */
    /* NIB_CPU_* mask that lowers the CPU rung; a bit brings those below it; 0: all the machine has */
    uint32_t cpu_features;
    nib_activations activations;
    nib_kv_dtype kv_cache;
    /* Tokens of one sequence, prompt and answer; 0: the model's, at most 4096; INT32_MAX: the model's. More
     * than the model was made for is refused, not cut. */
    int max_model_len;
    int max_num_seqs;           /* sequences in flight; 0: 16 */
    int max_num_batched_tokens; /* rows of one step; 0: 512 on a CPU, 2048 on a GPU */
    int max_waiting;            /* requests that wait for their turn; more are refused (NIB_BUSY); 0: 1024 */
    /* Tokens of prompts in a step in which others are answered; 0: as many as let such a step take as many
     * times as long as one without as there are requests for each that is answered; 1.6 to 6 times. */
    int prefill_beside;
    bool no_prefix_cache; /* remember no beginnings of texts */
    /* Called now and then by nib_open, on the engine's thread; false ends it (NIB_CANCELLED). */
    bool (*progress)(void *context, const char *what, uint64_t done, uint64_t total);
    void *progress_context;
    nib_speculate speculate;
    const char *draft; /* of NIB_SPECULATE_DRAFT: a file or directory, computed as the model is */
    /* A GPU's: the share of its free memory that weights, buffers and KV pages may take together; 0: 0.9 */
    float gpu_memory_utilization;
    bool enforce_eager; /* a GPU's: no CUDA graphs */
} nib_options;

#define NIB_CPU_SCALAR      1u
#define NIB_CPU_AVX2        2u /* AVX2, FMA, F16C */
#define NIB_CPU_AVX512      4u /* AVX-512 F, BW, VL, DQ */
#define NIB_CPU_AVX512_VNNI 8u /* AVX-512 VNNI */
#define NIB_CPU_ALL         15u

/* What becomes of a request's prompt in place of an answer: a vector, made of the hidden states of its tokens
 * (the final norm's output). */
typedef enum nib_pooling {
    NIB_POOLING_NONE = 0, /* an answer is generated */
    NIB_POOLING_LAST,     /* the last token's, which has seen all others */
    NIB_POOLING_MEAN      /* the mean of all tokens' */
} nib_pooling;

/* ---- an engine ---- */

typedef struct nib_engine nib_engine;

/* PATH is a GGUF file or a Hugging Face model directory. OPTIONS may be NULL. */
nib_status nib_open(nib_engine **out, const char *path, const nib_options *options, nib_error *err);
/* Every nib_request must have been released before; what still runs of them ends. NULL is fine. */
void nib_close(nib_engine *engine);

typedef struct nib_info {
    size_t size;
    const char *name;         /* of the model, as its file gives it; else its file's or directory's */
    const char *family;       /* "llama", "qwen3", "gemma3", ... */
    const char *compute_path; /* what computes, for people: "cpu avx2, activations int8 ..." */
    const char *compute_mode; /* what is done to weights and activations: "exact", "w4a8-int8", ... */
    bool row_bits_fixed;      /* an answer's bits do not depend on what runs beside it */
    uint64_t weight_bytes;    /* as packed in memory */
    /* Shared by all sequences; where one alone does not need more, at most 512 MiB on a CPU, on a GPU what
     * gpu_memory_utilization leaves beside the weights. */
    uint64_t kv_bytes;
    int max_model_len; /* of this engine */
    int model_len;     /* what the model was made for */
    int vocab_size;
    int threads;
    int32_t bos;         /* begins a text; -1: none */
    const int32_t *ends; /* [n_ends] end an answer (EOS and its like) */
    size_t n_ends;
    bool adds_bos;                  /* nib_tokenize puts BOS in front */
    bool has_chat_template;         /* a template nibble knows */
    const char *chat_template_note; /* why not; "" too where the model has none */
    int max_num_seqs;               /* of this engine */
    int embedding_size;             /* numbers of a pooled prompt */
    nib_pooling pooling; /* the model's own way: LAST where its files name none, NONE one unknown here */
} nib_info;

/* Strings and lists live as long as the engine. */
nib_status nib_get_info(const nib_engine *engine, nib_info *info, nib_error *err);

/* What an engine does in place of computing. Whatever it is, requests are taken and wait, as many as
 * max_waiting. */
typedef enum nib_rest {
    NIB_REST_NONE = 0, /* it computes */
    NIB_REST_WAIT,     /* nothing, once what had been submitted has come to its end */
    NIB_REST_ABORT,    /* nothing: what had been submitted is cancelled */
    NIB_REST_KEEP,     /* nothing: what runs stays where it is, and goes on later */
    NIB_REST_SLEEP     /* as ABORT, and the memory of weights and KV cache is given back */
} nib_rest;

/* Returns when it is so. From NIB_REST_SLEEP the model's files are read anew: where that fails, or they hold
 * another model by now, the engine stays asleep. NIB_BUSY: another call has wanted something else meanwhile.
 */
nib_status nib_set_rest(nib_engine *engine, nib_rest rest, nib_error *err);

enum { NIB_STATS_POSITIONS = 8, NIB_STATS_ROWS = 16 };

/* What happened since nib_open; as of the last step. */
typedef struct nib_stats {
    size_t size;
    int waiting, running;
    uint64_t submitted, refused; /* requests taken; those refused with NIB_BUSY */
    uint64_t ended[4];           /* by nib_end_reason */
    uint64_t prompt_tokens, cached_prompt_tokens, generated_tokens;
    uint64_t prefix_queries, prefix_hits; /* tokens looked for in the prefix cache, and found */
    uint64_t preemptions;
    uint64_t steps, step_rows; /* rows: tokens computed */
    double step_seconds;       /* spent in steps */
    /* Of the layers that see everything, where there are such, else of those with windows: a page holds 64
     * tokens. Free: no sequence holds it; remembered: of these, what still serves the prefix cache. */
    int kv_pages, kv_pages_free, kv_pages_remembered;
    uint64_t guessed_tokens, right_guesses; /* of speculation */
    uint64_t draft_failures;                /* steps in which the draft failed: those it read go on without */
    uint64_t drafts; /* how often tokens were guessed ahead in a sequence, one or more */
    nib_rest rest;
    int waiting_for_twin; /* of those that wait: for the prompt of a request of the same */
    uint64_t corrupted;   /* requests that failed as the network's output was not a number */
    uint64_t right_by_position[NIB_STATS_POSITIONS]; /* right guesses by how far ahead, from the next token */
    uint64_t steps_by_rows[NIB_STATS_ROWS]; /* steps of at most 2^i rows, those of fewer not among them;
                                               the last: of more */
} nib_stats;

nib_status nib_get_stats(nib_engine *engine, nib_stats *stats, nib_error *err);

/* Forgets all beginnings of texts that the prefix cache remembers, before the next step. */
nib_status nib_reset_prefix_cache(nib_engine *engine, nib_error *err);

/* ---- words ---- */

#define NIB_TOKENIZE_NO_BOS     1u /* do not add the beginning-of-sequence token */
#define NIB_TOKENIZE_NO_SPECIAL 2u /* control tokens in the text are plain text (user input) */
#define NIB_TOKENIZE_CLOSED     4u /* behind the text what the model's files put behind a complete one */

/* Ids of TEXT (any bytes). *ids is the caller's, freed with nib_free. */
nib_status nib_tokenize(const nib_engine *engine, const char *text, size_t bytes, unsigned flags,
                        int32_t **ids, size_t *n_ids, nib_error *err);

/* The text of N ids as an answer's events give it: valid UTF-8 (U+FFFD for what is none), control tokens left
 * out. Ends with a NUL that *bytes does not count. Freed with nib_free. */
nib_status nib_detokenize(const nib_engine *engine, const int32_t *ids, size_t n, char **text, size_t *bytes,
                          nib_error *err);

/* The bytes of one token as they stand in a text, which may be part of a character; of a control token, its
 * name. Not NUL-terminated; they live as long as the engine. */
nib_status nib_token_bytes(const nib_engine *engine, int32_t token, const char **bytes, size_t *n_bytes,
                           nib_error *err);

typedef struct nib_message {
    const char *role; /* "system", "user", "assistant" */
    const char *content;
} nib_message;

/* Token ids of a conversation through the model's chat template, with the generation prompt; contents are
 * user text, so control tokens inside them stay text. Freed with nib_free. */
nib_status nib_chat_tokens(const nib_engine *engine, const nib_message *messages, size_t n_messages,
                           int32_t **ids, size_t *n_ids, nib_error *err);
void nib_free(void *memory);

/* ---- conversations in full: any template, tools, reasoning ---- */

/* A chat template over an engine's words. Immutable: any thread may use it. */
typedef struct nib_chat nib_chat;

/* TEMPLATE_TEXT: Jinja; NULL: the model's own. The engine lives longer. */
nib_status nib_chat_open(nib_chat **out, const nib_engine *engine, const char *template_text, nib_error *err);
void nib_chat_close(nib_chat *chat); /* NULL is fine */

typedef struct nib_chat_info {
    size_t size;
    const char
        *call_format;      /* how the model writes calls of tools ("hermes", "harmony", ...); NULL: unknown */
    const char *reasoning; /* what opens its reasoning; NULL: it knows none */
    const char *reasoning_end; /* what closes it, control tokens as their text; NULL likewise */
    const char *answer_begin;  /* what the answer itself begins with, where that is more than the end of
                                * reasoning (harmony's <|channel|>final<|message|>); else NULL */
    bool takes_tools;          /* the template says something of tools: else they are left out */
    bool may_reason; /* the model may open its reasoning by itself: the template is its own, or the words have
                      * a token for it. Else a template of another family only knows what reasoning is */
} nib_chat_info;

/* Strings live as long as the chat. */
nib_status nib_chat_get_info(const nib_chat *chat, nib_chat_info *info, nib_error *err);

/* All are JSON texts, in the form of OpenAI's API. */
typedef struct nib_conversation {
    size_t size;
    const char *messages;  /* a list of {role, content, tool_calls, tool_call_id, reasoning_content, ...} */
    const char *tools;     /* a list of {type, function}, or NULL */
    const char *variables; /* an object: further variables of the template, or NULL */
    bool no_generation_prompt;
} nib_conversation;

/* What a model writes, taken apart as it comes. The pieces of a kind, put together, are the plain answer. */
typedef struct nib_reader nib_reader;

/* Token ids of a conversation; what its strings hold becomes no control token. READER, unless NULL, gets a
 * reader for the answer to it: nib_reader_close. *ids is freed with nib_free. What the template refuses is
 * NIB_BAD_ARGUMENT in its own words. */
nib_status nib_chat_render(const nib_chat *chat, const nib_conversation *conversation, int32_t **ids,
                           size_t *n_ids, nib_reader **reader, nib_error *err);

typedef enum nib_piece_kind {
    NIB_PIECE_TEXT,
    NIB_PIECE_REASONING,
    NIB_PIECE_CALL,     /* a call of a tool begins: its name */
    NIB_PIECE_ARGUMENTS /* more of its arguments' JSON */
} nib_piece_kind;

typedef struct nib_piece {
    size_t size;
    nib_piece_kind kind;
    int call;         /* CALL, ARGUMENTS: which one, from 0 */
    const char *text; /* UTF-8, not empty; ends with no NUL; lives during the callback, as ID does */
    size_t text_bytes;
    const char *id; /* CALL: as the model wrote it; empty where its format has none */
    size_t id_bytes;
} nib_piece;

typedef void (*nib_piece_callback)(void *context, const nib_piece *piece);

/* Another reader of the same conversation, for another answer to it; of one that was told nothing yet. */
nib_status nib_reader_again(const nib_reader *unread, nib_reader **out, nib_error *err);

/* For a reader that was told nothing yet, and those made from it: calls are told while they are written, the
 * name once it is known, then the arguments as they grow. A call that breaks off stays as far as it was told,
 * its arguments no JSON, and what follows is text. */
void nib_reader_stream_calls(nib_reader *reader);

/* More of the answer: the events' text of a request with `control_text`. A call is told when it is whole
 * (but nib_reader_stream_calls); what does not parse as one is text. */
nib_status nib_reader_push(nib_reader *reader, const char *text, size_t bytes, nib_piece_callback on_piece,
                           void *context, nib_error *err);
/* Nothing follows. */
nib_status nib_reader_end(nib_reader *reader, nib_piece_callback on_piece, void *context, nib_error *err);
bool nib_reader_in_reasoning(const nib_reader *reader);
void nib_reader_close(nib_reader *reader); /* NULL is fine; before its chat */

/* ---- requests ---- */

/* How the next token is chosen, in this order: bias and guide (of the request), penalties, temperature,
 * top-k, top-p of what top-k left, min-p, one draw. */
typedef struct nib_sampling {
    size_t size;
    float temperature;       /* 0: greedy */
    int top_k;               /* 0: off */
    float top_p;             /* 0 or 1: off */
    float min_p;             /* 0: off */
    float repeat_penalty;    /* 0 or 1: off; else 0.01 to 100; over the last 64 tokens, prompt too */
    float presence_penalty;  /* -100 to 100, off the logits of tokens that were generated */
    float frequency_penalty; /* the same, for each time */
    uint64_t seed;           /* the same seed gives the same answer, where row_bits_fixed */
    bool random_seed;        /* take a random one; events tell which */
} nib_sampling;

typedef struct nib_token_bias {
    int32_t token;
    float bias; /* added to its logit; -INFINITY: never */
} nib_token_bias;

typedef struct nib_token_logprob {
    int32_t token;
    float logprob; /* natural logarithm, of the network's own distribution: before bias and temperature */
} nib_token_logprob;

/* What may come next, decided by the program; called on the engine's thread. A failure ends the request with
 * its words. */
typedef struct nib_guide {
    size_t size;
    void *context; /* lives until the END event, as the guide itself need not */
    /* Before a token is chosen: set bit t % 32 of BITS [n_words][t / 32] where token t may come. All are 0.
     */
    nib_status (*mask)(void *context, uint32_t *bits, size_t n_words, nib_error *err);
    /* TOKEN was chosen. Tokens that end the answer are not told. */
    nib_status (*accept)(void *context, int32_t token, nib_error *err);
    /* NULL, or how many of the next tokens may be any, whatever stands before them: MASK is not asked for
     * those, and guesses ahead (nib_options.speculate) may be among them. */
    int (*n_free)(void *context);
} nib_guide;

/* ---- answers of a given shape: guides that the library makes (docs/structured.md) ---- */

typedef enum nib_shape_kind {
    NIB_SHAPE_JSON_OBJECT = 0, /* any JSON object; no text */
    NIB_SHAPE_JSON_SCHEMA,
    NIB_SHAPE_REGEX,  /* of the whole answer */
    NIB_SHAPE_CHOICE, /* a JSON list of strings, one of which is the answer */
    NIB_SHAPE_GBNF,   /* llama.cpp's grammars */
    /* Calls of tools with arguments that keep to their schemas: a JSON object of "tools" (as in
     * nib_conversation), "name" (the one to call; none: any), "format" (nib_chat_info's call_format; none:
     * one call as {"name": ..., "arguments": {...}}), "single" (true: one call) and "free" (true: calls need
     * not come; text is free up to what begins one. Arguments whose schema cannot be held to are then free as
     * well, unless their function is "strict"). */
    NIB_SHAPE_CALL
} nib_shape_kind;

typedef struct nib_shape nib_shape;

typedef struct nib_shape_options {
    size_t size;
    nib_shape_kind kind;
    const char *text;
    size_t bytes;
    /* Reasoning that may come before the shape, from BEGIN to END ("<think>", "</think>"); without a BEGIN it
     * has begun in the prompt and must end. END NULL or "": none. */
    const char *reasoning_begin, *reasoning_end;
} nib_shape_options;

/* Fills what may come before a shape (OPTIONS with its kind) in an answer of a chat: reasoning, where the
 * model may open it or the prompt has (BEGUN: the reader is in it). */
void nib_chat_shape(const nib_chat_info *info, bool begun, nib_shape_options *options);

/* Reads and compiles a shape, for any number of requests. NIB_UNSUPPORTED, with the keyword and its place:
 * what cannot be held to. Released before nib_close. */
nib_status nib_shape_open(nib_engine *engine, const nib_shape_options *options, nib_shape **out,
                          nib_error *err);
void nib_shape_release(nib_shape *shape); /* its guides may live on; NULL is fine */
/* Fills GUIDE (its size is set) for one request. nib_shape_free_guide once the request has ended, before
 * nib_close. */
nib_status nib_shape_guide(nib_shape *shape, nib_guide *guide, nib_error *err);
void nib_shape_free_guide(nib_guide *guide); /* one of zeros is fine */

typedef struct nib_request nib_request;
typedef struct nib_event nib_event;

#define NIB_MAX_LOGPROBS 20

/* Everything that is pointed to is copied, but the contexts. */
typedef struct nib_request_options {
    size_t size;
    const int32_t *prompt;
    size_t n_prompt; /* >= 1 */
    int max_tokens;  /* 0: up to max_model_len */
    int min_tokens;  /* before them nothing that would end the answer can come, but a stop text */
    bool ignore_eos; /* go on where the model would end */
    const nib_sampling *sampling; /* NULL: greedy */
    const int32_t *stop_ids;      /* [n_stop_ids] end the answer, as the model's own ends do */
    size_t n_stop_ids;
    const char *const *stop_texts; /* [n_stop_texts] UTF-8; where one appears the answer ends before it */
    size_t n_stop_texts;
    const nib_token_bias *bias; /* [n_bias] distinct tokens */
    size_t n_bias;
    bool logprobs;          /* tell the log-probability of every token */
    int top_logprobs;       /* and those of the N most probable, up to NIB_MAX_LOGPROBS */
    int priority;           /* lower first; 0 */
    const nib_guide *guide; /* NULL: everything may come */
    bool no_prefix_cache;   /* neither use nor leave remembered beginnings */
    uint64_t cache_salt;    /* they are shared only with requests of the same salt */
    nib_request
        *same_prompt; /* NULL, or a request of the same prompt, not yet released: it is computed once */
    /* NULL: the request is waited for. Else it is told of every event, with nib_next_event's contents. */
    void (*on_event)(void *context, nib_request *request, const nib_event *event);
    void *event_context;
    bool
        control_text; /* control tokens are their text in the events, not left out: what a nib_reader needs */
    /* Nothing is generated: the END event has an embedding. What is about generated tokens must be zero. */
    nib_pooling pooling;
} nib_request_options;

/* Also refused: NIB_BUSY, when max_waiting requests wait. */
nib_status nib_submit(nib_engine *engine, const nib_request_options *options, nib_request **out,
                      nib_error *err);

typedef enum nib_event_kind { NIB_EVENT_NONE = 0, NIB_EVENT_TOKEN, NIB_EVENT_END } nib_event_kind;
typedef enum nib_end_reason {
    NIB_END_STOP = 0, /* the model ended, or a stop id or stop text came */
    NIB_END_LENGTH,
    NIB_END_CANCELLED,
    NIB_END_FAILED
} nib_end_reason;

struct nib_event {
    size_t size;
    nib_event_kind kind;
    int32_t token; /* of NIB_EVENT_TOKEN */
    const char
        *text; /* UTF-8, never a broken character, maybe empty; lives until the next call on this request */
    size_t text_bytes;
    nib_end_reason reason; /* of NIB_EVENT_END; its text holds what was still held back */
    nib_status status;     /* of NIB_END_FAILED: what kind of failure; else NIB_OK */
    const char *error;     /* of NIB_END_FAILED; else "" */
    int32_t end_token;     /* of NIB_END_STOP: the token that ended it, which has no event; -1: a stop text */
    int end_text;          /* of NIB_END_STOP by a stop text: its number; else -1 */
    int n_prompt, n_generated;
    int n_cached; /* tokens of the prompt that were found in the prefix cache */
    uint64_t seed;
    /* Engine time: submission to first step; submission to first token; first token to last. */
    double queue_ms, prompt_ms, generate_ms;
    float logprob;                /* of NIB_EVENT_TOKEN, where asked for */
    const nib_token_logprob *top; /* [n_top] descending; lives as text does */
    int n_top;
    /* [n_embedding] of the END of a request with pooling that did not fail: as the network gives it, not of
     * unit length; lives until nib_release */
    const float *embedding;
    int n_embedding;
    int n_guessed, n_right_guesses; /* of END: tokens guessed ahead, and how many of them were right */
};

/* Wait up to TIMEOUT_MS (-1: for ever) for the next event; NIB_EVENT_NONE when none came. One waiter per
 * request: no two calls on the same request at the same time. */
nib_status nib_next_event(nib_request *request, nib_event *event, int timeout_ms, nib_error *err);
void nib_cancel(nib_request *request); /* from any thread; an END event follows; NULL is fine */
/* Cancels what still runs; no call may overlap it. on_event is still told of the END, so what its context
 * points to lives until then. NULL is fine. */
void nib_release(nib_request *request);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif
#endif
