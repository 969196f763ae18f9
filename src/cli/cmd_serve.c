/* SPDX-License-Identifier: Apache-2.0
 *
 * nibble serve: a model behind HTTP until a signal ends it.
 */
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "base/mem.h"
#include "base/status.h"
#include "cli/cli.h"
#include "cli/files.h"
#include "cli/inspect_json.h"
#include "cli/settings.h"
#include "cli/talk.h"
#include "cli/ui.h"
#include "serve/serve.h"

typedef struct serve_args {
    serve_options serve;
    const char *keys[SERVE_MAX_NAMES], *names[SERVE_MAX_NAMES], *template_name, *report;
    const char *cert, *cert_key;
    int drain_seconds;
} serve_args;

enum {
    KEY_HOST = 0x3400,
    KEY_PORT,
    KEY_API_KEY,
    KEY_ANONYMOUS,
    KEY_NAME,
    KEY_TEMPLATE,
    KEY_MAX_SEQS,
    KEY_MAX_BATCHED,
    KEY_MAX_WAITING,
    KEY_MAX_CONNECTIONS,
    KEY_MAX_BODY,
    KEY_MAX_TOKENS,
    KEY_PING,
    KEY_RECEIVE,
    KEY_REQUEST_TIME,
    KEY_DRAIN,
    KEY_REASONING_FIELD,
    KEY_POOLING,
    KEY_REPORT,
    KEY_CONFIG,
    KEY_CERT,
    KEY_CERT_KEY,
    KEY_CORS,
    KEY_TENSOR_PARALLEL,
    KEY_AUTO_TOOLS,
    KEY_TOOL_PARSER,
    KEY_REASONING_PARSER
};

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "Who is answered:", 1},
    {"model", 'm', "MODEL", 0, "The model, in place of the argument", 1},
    {NULL, 'c', "N", 0, "Like --max-model-len; 0: all that the model was made for", 3},
    {"host", KEY_HOST, "ADDRESS", 0, "Listen there (default 127.0.0.1: this machine alone)", 1},
    {"port", KEY_PORT, "N", 0, "And there; 0: any that is free (default 8000)", 1},
    {"api-key", KEY_API_KEY, "KEY", 0, "Answer only who brings it; may be given several times", 1},
    {"allow-anonymous", KEY_ANONYMOUS, NULL, 0, "Answer other machines without a key", 1},
    {"served-model-name", KEY_NAME, "NAME", 0,
     "The model's name in the API, may be given several times (default: its file's name)", 1},
    {"cors-allow-origins", KEY_CORS, "ORIGIN", 0, "Let pages of this origin ask, *: of any", 1},
    {"ssl-certfile", KEY_CERT, "FILE", 0, "Speak TLS with this certificate (PEM)", 1},
    {"ssl-keyfile", KEY_CERT_KEY, "FILE", 0, "And this key", 1},
    {"config", KEY_CONFIG, "FILE", 0,
     "Flags from a file, a line NAME = VALUE each; NIBBLE_NAME in the environment goes before it, and a flag "
     "here before "
     "both",
     1},
    {NULL, 0, NULL, 0, "What is answered:", 2},
    {"chat-template", KEY_TEMPLATE, "FILE|NAME", 0,
     "A Jinja template in place of the model's own; a NAME is one of the model's, or of chatml, llama3, "
     "gemma",
     2},
    {"max-tokens", KEY_MAX_TOKENS, "N", 0,
     "Tokens of an answer where a request does not say (default: as many as fit)", 2},
    {"reasoning-field", KEY_REASONING_FIELD, "reasoning_content|reasoning", 0,
     "Where reasoning stands in an answer (default reasoning_content)", 2},
    {"pooling", KEY_POOLING, "last|mean", 0,
     "What of a text becomes its embedding: its last token's vector, or the mean of all (default: as the "
     "model's "
     "files say, else last)",
     2},
    {"quantize-report", KEY_REPORT, "FILE", 0,
     "What nibble quantize --json said of this model: the page shows its errors", 2},
    {NULL, 0, NULL, 0, "Limits:", 3},
    {"max-num-seqs", KEY_MAX_SEQS, "N", 0, "Answers that are written at a time (default 16)", 3},
    {"max-num-batched-tokens", KEY_MAX_BATCHED, "N", 0, "Tokens of one step (default 512, on a GPU 2048)", 3},
    {"max-waiting", KEY_MAX_WAITING, "N", 0,
     "Requests that wait for their turn; more are refused (default 1024)", 3},
    {"max-connections", KEY_MAX_CONNECTIONS, "N", 0, "Connections at a time (default 1024)", 3},
    {"max-body-bytes", KEY_MAX_BODY, "N", 0, "Of a request (default 32 MiB)", 3},
    {"receive-timeout", KEY_RECEIVE, "S", 0, "Seconds that a request may take to arrive (default 60)", 3},
    {"request-timeout", KEY_REQUEST_TIME, "S", 0, "Seconds that an answer may take (default: no limit)", 3},
    {"drain-timeout", KEY_DRAIN, "S", 0, "Seconds for what runs when SIGTERM comes (default 30)", 3},
    {"sse-keep-alive-interval", KEY_PING, "S", 0,
     "Seconds of silence in a stream, broken by a comment (default 15)", 3},
    {NULL, 0, NULL, 0, "Flags of vLLM that change nothing here (what each is for is found by itself):", 4},
    {"tensor-parallel-size", KEY_TENSOR_PARALLEL, "1", 0, "One device computes", 4},
    {"enable-auto-tool-choice", KEY_AUTO_TOOLS, NULL, 0, "Tools are always offered when a request has them",
     4},
    {"tool-call-parser", KEY_TOOL_PARSER, "NAME", 0, "Calls are read as the chat template writes them", 4},
    {"reasoning-parser", KEY_REASONING_PARSER, "NAME", 0, "Reasoning, too", 4},
    {0}};

static const char *const poolings[] = {"last", "mean", NULL}; /* nib_pooling, from 1 */
static const char *const reasoning_fields[] = {"reasoning_content", "reasoning", NULL};

/* One more NAME of a flag that may be given several times. */
static void add_name(const struct argp_state *state, const char *flag, const char **list, size_t *n,
                     const char *name) {
    if (!name[0])
        argp_error(state, "%s%s takes some text", cli_origin(state), flag);
    if (*n == SERVE_MAX_NAMES)
        argp_error(state, "%s%s may be given %d times at most", cli_origin(state), flag, SERVE_MAX_NAMES);
    else
        list[(*n)++] = name;
}

static const cli_member members[] = {
    {KEY_HOST, CLI_WORD, offsetof(serve_args, serve.host), NULL, 0, 0},
    {KEY_TEMPLATE, CLI_WORD, offsetof(serve_args, template_name), NULL, 0, 0},
    {KEY_REPORT, CLI_WORD, offsetof(serve_args, report), NULL, 0, 0},
    {KEY_CORS, CLI_WORD, offsetof(serve_args, serve.cors_origin), NULL, 0, 0},
    {KEY_CERT, CLI_WORD, offsetof(serve_args, cert), NULL, 0, 0},
    {KEY_CERT_KEY, CLI_WORD, offsetof(serve_args, cert_key), NULL, 0, 0},
    {KEY_ANONYMOUS, CLI_SWITCH, offsetof(serve_args, serve.allow_anonymous), NULL, 0, 0},
    {KEY_PORT, CLI_INT, offsetof(serve_args, serve.port), "--port", 0, 65535},
    {KEY_MAX_SEQS, CLI_INT, offsetof(serve_args, serve.compute.max_num_seqs), "--max-num-seqs", 1, 1024},
    {KEY_MAX_BATCHED, CLI_INT, offsetof(serve_args, serve.compute.max_num_batched_tokens),
     "--max-num-batched-tokens", 16, 1 << 20},
    {KEY_MAX_WAITING, CLI_INT, offsetof(serve_args, serve.compute.max_waiting), "--max-waiting", 1, 1 << 20},
    {KEY_MAX_CONNECTIONS, CLI_INT, offsetof(serve_args, serve.max_connections), "--max-connections", 1,
     1 << 16},
    {KEY_MAX_BODY, CLI_SIZE, offsetof(serve_args, serve.max_body_bytes), "--max-body-bytes", 1024, 1LL << 32},
    {KEY_MAX_TOKENS, CLI_INT, offsetof(serve_args, serve.default_max_tokens), "--max-tokens", 1, 1 << 20},
    {KEY_PING, CLI_INT, offsetof(serve_args, serve.ping_seconds), "--sse-keep-alive-interval", 1, 3600},
    {KEY_RECEIVE, CLI_INT, offsetof(serve_args, serve.receive_seconds), "--receive-timeout", 1, 86400},
    {KEY_REQUEST_TIME, CLI_INT, offsetof(serve_args, serve.request_seconds), "--request-timeout", 1, 86400},
    {KEY_DRAIN, CLI_INT, offsetof(serve_args, drain_seconds), "--drain-timeout", 0, 86400},
    {0}};

/* Flags that say nothing: kept so that a command for vLLM starts, and said. */
static error_t parse_foreign(int key, char *arg, struct argp_state *state) {
    switch (key) {
    case KEY_TENSOR_PARALLEL:
        if (strcmp(arg, "1") != 0)
            argp_error(state, "%s--tensor-parallel-size takes 1, not '%s': nibble uses one GPU today",
                       cli_origin(state), arg);
        return 0;
    case KEY_TOOL_PARSER:
    case KEY_REASONING_PARSER:
        cli_say(CLI_OK, "%s changes nothing here: the chat template shows the format",
                key == KEY_TOOL_PARSER ? "--tool-call-parser" : "--reasoning-parser");
        return 0;
    case KEY_AUTO_TOOLS:
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    serve_args *a = state->input;
    serve_options *o = &a->serve;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = state->child_inputs[1] = &o->compute;
        return 0;
    case 'm':
    case ARGP_KEY_ARG:
        cli_one_argument(state, "MODEL", arg, &o->model);
        return 0;
    case 'c':
        o->compute.max_model_len = cli_context_flag(state, arg);
        return 0;
    case KEY_API_KEY:
        add_name(state, "--api-key", a->keys, &o->n_api_keys, arg);
        return 0;
    case KEY_NAME:
        add_name(state, "--served-model-name", a->names, &o->n_names, arg);
        return 0;
    case KEY_REASONING_FIELD:
        o->reasoning_field = cli_choice_flag(state, "--reasoning-field", arg, reasoning_fields) == 1;
        return 0;
    case KEY_POOLING:
        o->pooling = (nib_pooling)(1 + cli_choice_flag(state, "--pooling", arg, poolings));
        return 0;
    case KEY_CONFIG: /* read before, by settings.c */
        return 0;
    case ARGP_KEY_END:
        if (!o->model)
            argp_error(state, "expected a MODEL");
        if (!a->cert != !a->cert_key)
            argp_error(state, "--ssl-certfile and --ssl-keyfile: both or none");
        return 0;
    default:
        return cli_store(state, members, key, arg) ? 0 : parse_foreign(key, arg, state);
    }
}

static const struct argp_child children[] = {
    {&cli_compute_argp, 0, NULL, 0}, {&cli_speculate_argp, 0, NULL, 10}, {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .args_doc = "MODEL",
    .doc = "Serves MODEL (a GGUF file or a Hugging Face directory) over HTTP, in the words of OpenAI's API: "
           "point any "
           "client of it at http://127.0.0.1:8000/v1. SIGTERM or Ctrl-C ends it when what runs is answered; "
           "a second "
           "one at once.\v"
           "Examples:\n"
           "  nibble serve smollm2-nvfp4.gguf\n"
           "  nibble serve qwen3-nvfp4 --host 0.0.0.0 --api-key secret --max-num-seqs 64",
    .children = children,
};

static bool still_wanted(void *context, const char *what, uint64_t done, uint64_t total) {
    (void)context, (void)what, (void)done, (void)total;
    return !cli_interrupted;
}

static void say_where(const serve *s, const serve_options *o) {
    const nib_info *info = serve_info(s);
    char weights[32], kv[32];
    fprintf(stderr,
            "model    %s, %s\ncompute  %s, KV cache %s, %d thread%s\nmemory   weights %s, KV cache %s\n",
            o->n_names ? o->names[0] : info->name, info->family, info->compute_path,
            cli_kv_name(o->compute.kv_cache), info->threads, info->threads == 1 ? "" : "s",
            ui_bytes(weights, sizeof weights, info->weight_bytes), ui_bytes(kv, sizeof kv, info->kv_bytes));
    const bool v6 = o->host && strchr(o->host, ':');
    printf("%s://%s%s%s:%d\n", o->tls_cert ? "https" : "http", v6 ? "[" : "", o->host ? o->host : "127.0.0.1",
           v6 ? "]" : "", serve_port(s));
    fflush(stdout);
}

static nib_status read_report(const char *path, json_t **out, nib_error *err) {
    if (!path)
        return NIB_OK;
    NIB_TRY(files_read_json(path, out, err));
    if (!json_is_array(json_object_get(*out, "groups")))
        return nib_fail(err, NIB_BAD_FILE,
                        "%s: no list 'groups'; expected what nibble quantize --json prints", path);
    return NIB_OK;
}

/* A connection is a descriptor: as many as the system lets. */
static void raise_files_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* glibc would learn from the first large body to keep the memory of those that follow. */
static void return_large_blocks(void) {
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
}

static nib_status run(serve_args *a, nib_error *err) {
    serve *s;
    cli_catch_interrupt(false);
    signal(SIGPIPE, SIG_IGN); /* a client that has left is an error of its connection */
    raise_files_limit();
    return_large_blocks();
    NIB_TRY(serve_open(&s, &a->serve, err));
    say_where(s, &a->serve);
    while (!cli_interrupted)
        nanosleep(&(struct timespec){.tv_nsec = 50000000}, NULL);
    if (!serve_drain(s, a->drain_seconds))
        cli_say(CLI_OK, "some answers were not complete and are cut off");
    serve_close(s);
    return NIB_OK;
}

/* A text of PATH, or NULL for a PATH of NULL. */
static nib_status read_text(const char *path, char **text, nib_error *err) {
    char *bytes;
    size_t n;
    if (!path)
        return NIB_OK;
    NIB_TRY(files_read(path, &bytes, &n, err));
    *text = mem_copy_text(bytes, n);
    mem_free(bytes);
    return *text ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "out of memory for %s", path);
}

static nib_status read_files_and_run(serve_args *a, nib_error *err) {
    char *template_text = NULL, *cert = NULL, *cert_key = NULL;
    nib_status status = talk_read_template(a->serve.model, a->template_name, &template_text, err);
    if (status == NIB_OK)
        status = read_text(a->cert, &cert, err);
    if (status == NIB_OK)
        status = read_text(a->cert_key, &cert_key, err);
    a->serve.chat_template = template_text;
    a->serve.tls_cert = cert;
    a->serve.tls_key = cert_key;
    if (status == NIB_OK)
        status = read_report(a->report, &a->serve.quantize_report, err);
    if (status == NIB_OK)
        status = inspect_json(a->serve.model, &a->serve.about, err);
    if (status == NIB_OK) /* where it lies is nobody's business */
        json_object_del(a->serve.about, "path");
    if (status == NIB_OK)
        status = run(a, err);
    json_decref(a->serve.about);
    json_decref(a->serve.quantize_report);
    mem_free(template_text);
    mem_free(cert);
    mem_free(cert_key);
    return status;
}

int cmd_serve(int argc, char **argv) {
    serve_args args = {
        .serve = {.compute = {.size = sizeof args.serve.compute, .progress = still_wanted}, .port = 8000},
        .drain_seconds = 30};
    nib_error err = {{0}};
    settings all;
    nib_status status = settings_open(&all, &argp, argc, argv, &err);
    args.serve.api_keys = args.keys;
    args.serve.names = args.names;
    if (status == NIB_OK) {
        cli_set_origins((const char *const *)all.origins, all.argc);
        cli_parse(&argp, all.argc, all.argv, &args);
        status = read_files_and_run(&args, &err);
    }
    settings_free(&all);
    return cli_fail(status, &err);
}
