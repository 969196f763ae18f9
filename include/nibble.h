/* SPDX-License-Identifier: Apache-2.0
 *
 * nibble: run 4-bit floating-point language models. The whole public C API; compiles alone as C11 and C++.
 *
 * One engine holds one model and takes many requests at a time. The library never prints and never exits:
 * what can fail returns a nib_status and puts words into a nib_error (which may be NULL).
 *
 * Threads. The engine has a thread of its own. Any thread may submit, tokenize and ask for facts, many at
 * once. One request has one waiter: nib_next_event is called by one thread at a time; nib_cancel comes from
 * any thread, also beside it. No call on a request may overlap its nib_release or come after it, and no call
 * on an engine or its requests may overlap nib_close or come after it. Threads are OpenMP's, which ends a
 * process that is denied one: so nib_open first shows that the system gives as many, or fails in words.
 *
 * The process. JSON is read with jansson, whose allocators belong to the whole process: the first model that
 * is opened sets them (malloc and free underneath) unless the program has set its own before. A program that
 * sets jansson's allocators does so before its first nib_open, or keeps no JSON across it.
 *
 * Compatibility. Structs are the caller's, so their layout is part of the interface: they grow at their end
 * only, and only with a new soname.
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
    NIB_CANCELLED
} nib_status;

typedef struct nib_error {
    char text[512]; /* one sentence: the file, the field, what was expected */
} nib_error;

/* ---- options: zero means the default; what is out of range is refused (NIB_BAD_ARGUMENT) ---- */

typedef enum nib_activations {
    NIB_ACTIVATIONS_AUTO = 0, /* int8 on a CPU */
    NIB_ACTIVATIONS_F32,      /* exact: the quantized weights' values times FP32 activations */
    /* Integers: 8 bits with a scale per 16 for matrix products; attention too, where the rung is faster so
     * (13-bit queries, 12-bit keys, 8-bit weights and values, whatever the cache stores). */
    NIB_ACTIVATIONS_INT8
} nib_activations;

typedef enum nib_kv_dtype {
    NIB_KV_AUTO = 0,
    NIB_KV_BF16,
    NIB_KV_FP8,
    NIB_KV_FP32
} nib_kv_dtype; /* AUTO is BF16 */

typedef struct nib_options {
    int threads; /* 0: physical cores */
    /* NIB_CPU_* mask that lowers the CPU rung; a bit brings those below it; 0: all the machine has */
    uint32_t cpu_features;
    nib_activations activations;
    nib_kv_dtype kv_cache;
    /* Tokens of one sequence, prompt and answer; 0: the model's, at most 4096. More than the model was made
     * for is refused, not cut. */
    int max_model_len;
    int max_num_seqs;           /* sequences in flight; 0: 16 */
    int max_num_batched_tokens; /* rows of one step; 0: 512 */
} nib_options;

#define NIB_CPU_SCALAR      1u
#define NIB_CPU_AVX2        2u /* AVX2, FMA, F16C */
#define NIB_CPU_AVX512      4u /* AVX-512 F, BW, VL, DQ */
#define NIB_CPU_AVX512_VNNI 8u /* AVX-512 VNNI */
#define NIB_CPU_ALL         15u

/* ---- an engine ---- */

typedef struct nib_engine nib_engine;

/* PATH is a GGUF file or a Hugging Face model directory. */
nib_status nib_open(nib_engine **out, const char *path, const nib_options *options, nib_error *err);
/* Every nib_request must have been released before; what still runs of them ends. */
void nib_close(nib_engine *engine);

typedef struct nib_info {
    const char *family;       /* "llama", "qwen3", "gemma3" */
    const char *compute_path; /* what computes, for people: "cpu avx2, activations int8 ..." */
    uint64_t weight_bytes;    /* as packed in memory */
    uint64_t kv_bytes;        /* shared by all sequences; at most 512 MiB unless one alone needs more */
    int max_model_len;
    int vocab_size;
    int threads;
    bool has_chat_template;         /* a template nibble knows */
    const char *chat_template_note; /* why not; "" too where the model has none */
} nib_info;

void nib_get_info(const nib_engine *engine, nib_info *info); /* strings live as long as the engine */

/* ---- words ---- */

#define NIB_TOKENIZE_NO_BOS     1u /* do not add the beginning-of-sequence token */
#define NIB_TOKENIZE_NO_SPECIAL 2u /* control tokens in the text are plain text (user input) */

/* Ids of TEXT (any bytes). *ids is the caller's, freed with nib_free. */
nib_status nib_tokenize(const nib_engine *engine, const char *text, size_t bytes, unsigned flags,
                        int32_t **ids, size_t *n_ids, nib_error *err);

/* The text of N ids as an answer's events give it: valid UTF-8 (U+FFFD for what is none), control tokens left
 * out. Ends with a NUL that *bytes does not count. Freed with nib_free. */
nib_status nib_detokenize(const nib_engine *engine, const int32_t *ids, size_t n, char **text, size_t *bytes,
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

/* ---- requests ---- */

typedef struct nib_sampling {
    float temperature;    /* 0: greedy */
    int top_k;            /* 0: off */
    float top_p;          /* 0 or 1: off */
    float min_p;          /* 0: off */
    float repeat_penalty; /* 0 or 1: off; else 0.01 to 100; over the last 64 tokens */
    uint64_t seed;
} nib_sampling;

typedef struct nib_request_options {
    const int32_t *prompt; /* copied */
    size_t n_prompt;       /* >= 1 */
    int max_tokens;        /* 0: up to max_model_len */
    bool ignore_eos;
    nib_sampling sampling;
} nib_request_options;

typedef struct nib_request nib_request;

nib_status nib_submit(nib_engine *engine, const nib_request_options *options, nib_request **out,
                      nib_error *err);

typedef enum nib_event_kind { NIB_EVENT_NONE = 0, NIB_EVENT_TOKEN, NIB_EVENT_END } nib_event_kind;
typedef enum nib_end_reason {
    NIB_END_STOP = 0,
    NIB_END_LENGTH,
    NIB_END_CANCELLED,
    NIB_END_FAILED
} nib_end_reason;

typedef struct nib_event {
    nib_event_kind kind;
    int32_t token;
    const char
        *text; /* UTF-8, never a broken character, maybe empty; lives until the next call on this request */
    size_t text_bytes;
    nib_end_reason reason; /* of NIB_EVENT_END; its text holds what was still held back */
    const char *error;     /* of NIB_END_FAILED */
    int n_prompt, n_generated;
    double prompt_ms, generate_ms; /* engine time: submission to first token; first token to last */
    nib_status status;             /* of NIB_END_FAILED: what kind of failure; else NIB_OK */
} nib_event;

/* Wait up to TIMEOUT_MS (-1: for ever) for the next event; NIB_EVENT_NONE when none came. One waiter per
 * request: no two calls on the same request at the same time. */
nib_status nib_next_event(nib_request *request, nib_event *event, int timeout_ms, nib_error *err);
void nib_cancel(nib_request *request);  /* from any thread; an END event follows */
void nib_release(nib_request *request); /* cancels what still runs; no call may overlap it */

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif

#ifdef __cplusplus
}
#endif
#endif
