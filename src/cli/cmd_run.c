/* SPDX-License-Identifier: Apache-2.0
 *
 * nibble run: one prompt answered, or a chat on the terminal. A client of nibble.h like any other program.
 */
#include <float.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/status.h"
#include "cli/cli.h"
#include "cli/lines.h"
#include "cli/shapes.h"
#include "cli/talk.h"
#include "cli/ui.h"

typedef enum chat_choice { CHAT_BY_MODEL, CHAT_ON, CHAT_OFF } chat_choice;

typedef struct run_args {
    const char *model, *prompt, *schema, *grammar;
    talk_options talk;
    bool hide_reasoning, chosen_reasoning;
    int reasoning_budget; /* tokens; 0: no bound */
    chat_choice chat;
    int max_tokens;
    bool ignore_eos, verbose, has_seed;
    nib_sampling sampling;
    nib_options compute;
} run_args;

enum {
    KEY_CHAT = 0x3000,
    KEY_NO_CHAT,
    KEY_MAX_TOKENS,
    KEY_TEMPERATURE,
    KEY_TOP_K,
    KEY_TOP_P,
    KEY_MIN_P,
    KEY_REPEAT_PENALTY,
    KEY_SEED,
    KEY_IGNORE_EOS,
    KEY_JSON_SCHEMA,
    KEY_GRAMMAR,
    KEY_CHAT_TEMPLATE,
    KEY_TOOLS,
    KEY_REASONING
};

static const struct argp_option options[] = {
    {"chat", KEY_CHAT, NULL, 0, "Put the prompt into the model's chat template (default where it has one)",
     1},
    {"no-chat", KEY_NO_CHAT, NULL, 0, "Continue the prompt as it is", 1},
    {"chat-template", KEY_CHAT_TEMPLATE, "FILE|NAME", 0,
     "A Jinja template in place of the model's own; a NAME is one of chatml, llama3, gemma", 1},
    {"tools", KEY_TOOLS, "FILE", 0,
     "Offer these tools (a JSON list): calls are shown, and their results are read, a line each", 1},
    {"reasoning", KEY_REASONING, "show|hide|N", 0,
     "Show reasoning (default on a terminal) or hide it; N: show it and end it after N tokens", 1},
    {"max-tokens", KEY_MAX_TOKENS, "N", 0, "End an answer after N tokens (default: when the model is full)",
     1},
    {"ignore-eos", KEY_IGNORE_EOS, NULL, 0, "Go on where the model would end", 1},
    {"json-schema", KEY_JSON_SCHEMA, "FILE|TEXT", 0, "Answers are JSON that this JSON schema allows", 1},
    {"grammar", KEY_GRAMMAR, "FILE", 0, "Answers are texts of this grammar (GBNF)", 1},
    {"verbose", 'v', NULL, 0,
     "Print what computes, memory and tokens per second on standard error (what computes is also "
     "printed where that is a terminal)",
     1},
    {NULL, 0, NULL, 0, "How the next token is chosen:", 5},
    {"temperature", KEY_TEMPERATURE, "T", 0, "0: always the most probable one (default 0.8)", 5},
    {"top-k", KEY_TOP_K, "K", 0, "Among the K most probable, 0: all (default 40)", 5},
    {"top-p", KEY_TOP_P, "P", 0,
     "Among the most probable that together have P, 1: all, 0: only the first (default 0.95)", 5},
    {"min-p", KEY_MIN_P, "P", 0,
     "Among those at least P times as probable as the first, 0: all (default 0.05)", 5},
    {"repeat-penalty", KEY_REPEAT_PENALTY, "R", 0,
     "Make tokens of the last 64 less probable, 1: off (default)", 5},
    {"seed", KEY_SEED, "S", 0, "The same seed gives the same text (default: a random one)", 5},
    {0}};

static error_t parse_sampling(int key, char *arg, struct argp_state *state) {
    nib_sampling *s = &((run_args *)state->input)->sampling;
    switch (key) {
    case KEY_TEMPERATURE:
        s->temperature = (float)cli_real_flag(state, "--temperature", arg, 0, 100);
        return 0;
    case KEY_TOP_K:
        s->top_k = (int)cli_integer_flag(state, "--top-k", arg, 0, 1 << 24);
        return 0;
    case KEY_TOP_P:
        s->top_p = (float)cli_real_flag(state, "--top-p", arg, 0, 1);
        if (s->top_p == 0)
            s->top_p = FLT_MIN; /* the API's 0 is "off"; the flag's is the strictest */
        return 0;
    case KEY_MIN_P:
        s->min_p = (float)cli_real_flag(state, "--min-p", arg, 0, 1);
        return 0;
    case KEY_REPEAT_PENALTY:
        s->repeat_penalty = (float)cli_real_flag(state, "--repeat-penalty", arg, 0.01, 100);
        return 0;
    case KEY_SEED:
        s->seed = (uint64_t)cli_integer_flag(state, "--seed", arg, 0, INT64_MAX);
        ((run_args *)state->input)->has_seed = true;
        return 0;
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    run_args *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->compute;
        return 0;
    case KEY_CHAT:
    case KEY_NO_CHAT:
        if (a->chat != CHAT_BY_MODEL)
            argp_error(state, "one of --chat and --no-chat, and only once");
        a->chat = key == KEY_CHAT ? CHAT_ON : CHAT_OFF;
        return 0;
    case KEY_MAX_TOKENS:
        a->max_tokens = (int)cli_integer_flag(state, "--max-tokens", arg, 1, 1 << 20);
        return 0;
    case KEY_IGNORE_EOS:
        a->ignore_eos = true;
        return 0;
    case KEY_JSON_SCHEMA:
    case KEY_GRAMMAR:
        if (a->schema || a->grammar)
            argp_error(state, "one of --json-schema and --grammar, and only once");
        *(key == KEY_GRAMMAR ? &a->grammar : &a->schema) = arg;
        return 0;
    case KEY_CHAT_TEMPLATE:
        a->talk.template_name = arg;
        return 0;
    case KEY_TOOLS:
        a->talk.tools = arg;
        return 0;
    case KEY_REASONING:
        a->chosen_reasoning = true;
        a->hide_reasoning = strcmp(arg, "hide") == 0;
        if (!a->hide_reasoning && strcmp(arg, "show") != 0)
            a->reasoning_budget = (int)cli_integer_flag(state, "--reasoning", arg, 1, 1 << 20);
        return 0;
    case 'v':
        a->verbose = true;
        return 0;
    case ARGP_KEY_ARG:
        if (state->arg_num == 0)
            a->model = arg;
        else if (state->arg_num == 1)
            a->prompt = arg;
        else
            argp_error(state, "'%s' is one argument too many: put the prompt in quotes", arg);
        return 0;
    case ARGP_KEY_END:
        if (!a->model)
            argp_error(state, "expected a MODEL");
        if (a->chat == CHAT_OFF && (a->talk.template_name || a->talk.tools || a->chosen_reasoning))
            argp_error(state,
                       "--no-chat with --chat-template, --tools or --reasoning: these belong to a chat");
        if (a->ignore_eos && (a->schema || a->grammar))
            argp_error(state, "--ignore-eos with --json-schema or --grammar: such an answer has an end");
        return 0;
    default:
        return parse_sampling(key, arg, state);
    }
}

static const struct argp_child children[] = {{&cli_compute_argp, 0, NULL, 0}, {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .args_doc = "MODEL [PROMPT]",
    .doc =
        "Answers PROMPT with MODEL (a GGUF file or a Hugging Face directory). Without PROMPT it is a chat: "
        "\\q or Ctrl-D leaves, Ctrl-C stops an answer.\v"
        "Examples:\n"
        "  nibble run smollm2-nvfp4 \"What is the capital of France?\"\n"
        "  nibble run gemma-nvfp4 --no-chat --temperature 0 --max-tokens 40 \"The primary colours are\"\n"
        "  nibble run smollm2-nvfp4",
    .children = children,
};

typedef struct run_session {
    const run_args *args;
    nib_engine *engine;
    nib_info info;
    shapes shapes;
    bool ended; /* the request at hand */
    bool chat;
    talk talk;           /* of a chat */
    lines *lines;        /* what is typed; NULL: not open */
    size_t answer_bytes; /* of the turn at hand, as the events told them */
    char last;           /* byte of it */
    int32_t *prompt;     /* of a chat's answer, and what has been generated of it */
    size_t n_prompt, prompt_capacity;
    int n_reasoned, n_generated;
    bool over_budget; /* the reasoning was ended */
} run_session;

static void print_verbose_head(const run_session *s) {
    char weights[32], kv[32];
    fprintf(stderr,
            "%smodel    %s, %s\ncompute  %s, KV cache %s, %d thread%s\nmemory   weights %s, KV cache %s for "
            "%d tokens\nseed     %llu%s\n",
            ui_color(stderr, UI_DIM), s->args->model, s->info.family, s->info.compute_path,
            cli_kv_name(s->args->compute.kv_cache), s->info.threads, s->info.threads == 1 ? "" : "s",
            ui_bytes(weights, sizeof weights, s->info.weight_bytes),
            ui_bytes(kv, sizeof kv, s->info.kv_bytes), s->info.max_model_len,
            (unsigned long long)s->args->sampling.seed, ui_color(stderr, UI_RESET));
}

static void print_verbose_tail(const nib_event *e) {
    struct rusage usage;
    char peak[32];
    getrusage(RUSAGE_SELF, &usage);
    double prompt_rate = e->prompt_ms > 0 ? 1e3 * e->n_prompt / e->prompt_ms : 0;
    fprintf(stderr, "%sprompt   %d tokens, %.1f tokens/s\n", ui_color(stderr, UI_DIM), e->n_prompt,
            prompt_rate);
    if (e->n_generated > 1 && e->generate_ms > 0)
        fprintf(stderr, "answer   %d tokens, %.1f tokens/s\n", e->n_generated,
                1e3 * (e->n_generated - 1) / e->generate_ms); /* the first came with the prompt */
    else
        fprintf(stderr, "answer   %d token%s\n", e->n_generated, e->n_generated == 1 ? "" : "s");
    fprintf(stderr, "memory   %s at most%s\n",
            ui_bytes(peak, sizeof peak, (unsigned long long)usage.ru_maxrss * 1024),
            ui_color(stderr, UI_RESET));
}

static nib_status keep_ids(run_session *s, const int32_t *ids, size_t n, nib_error *err) {
    if (s->n_prompt + n > s->prompt_capacity) {
        const size_t capacity = 2 * (s->n_prompt + n);
        int32_t *grown = mem_resize(s->prompt, capacity, sizeof *grown);
        if (!grown)
            return nib_fail(err, NIB_NO_MEMORY, "out of memory for the answer");
        s->prompt = grown;
        s->prompt_capacity = capacity;
    }
    if (n)
        memcpy(s->prompt + s->n_prompt, ids, n * sizeof *ids);
    s->n_prompt += n;
    return NIB_OK;
}

/* One event of an answer: shown, and in a chat understood. */
static nib_status take_event(run_session *s, nib_request *request, const nib_event *e, nib_error *err) {
    if (e->kind == NIB_EVENT_TOKEN && s->chat) {
        NIB_TRY(keep_ids(s, &e->token, 1, err));
        s->n_generated++;
        s->n_reasoned += nib_reader_in_reasoning(s->talk.reader);
        if (s->args->reasoning_budget && s->n_reasoned >= s->args->reasoning_budget && !s->over_budget) {
            s->over_budget = true;
            nib_cancel(request);
        }
    }
    if (e->text_bytes == 0)
        return NIB_OK;
    s->answer_bytes += e->text_bytes;
    s->last = e->text[e->text_bytes - 1];
    if (s->chat)
        return talk_push(&s->talk, e->text, e->text_bytes, err);
    ui_put_text(stdout, ui_is_terminal(stdout), e->text, e->text_bytes);
    fflush(stdout);
    return NIB_OK;
}

static nib_status end_answer(run_session *s, nib_error *err) {
    if (s->chat)
        return talk_end(&s->talk, err);
    if (s->answer_bytes == 0 || s->last != '\n')
        putchar('\n');
    return NIB_OK;
}

/* Streams the answer of REQUEST to standard output. Ctrl-C cancels it: NIB_CANCELLED. */
static nib_status stream(run_session *s, nib_request *request, nib_error *err) {
    s->answer_bytes = 0;
    s->ended = false;
    bool cancelled = false;
    nib_event e = {.size = sizeof e};
    while (e.kind != NIB_EVENT_END) {
        if (cli_interrupted && !cancelled) {
            nib_cancel(request);
            cancelled = true;
        }
        NIB_TRY(nib_next_event(request, &e, 100, err));
        s->ended = e.kind == NIB_EVENT_END;
        if (e.kind != NIB_EVENT_NONE && !s->over_budget)
            NIB_TRY(take_event(s, request, &e, err));
    }
    if (s->over_budget && !cancelled) /* it goes on behind its reasoning */
        return e.reason == NIB_END_FAILED ? nib_fail(err, e.status, "the answer failed: %s", e.error)
                                          : NIB_OK;
    NIB_TRY(end_answer(s, err));
    fflush(stdout);
    if (e.reason == NIB_END_FAILED)
        return nib_fail(err, e.status, "the answer failed: %s", e.error);
    if (s->args->verbose)
        print_verbose_tail(&e);
    if (e.reason == NIB_END_LENGTH && !s->args->max_tokens)
        fprintf(stderr, "%s(the answer ends here: %d tokens are all that fit; see --max-model-len)%s\n",
                ui_color(stderr, UI_DIM), s->info.max_model_len, ui_color(stderr, UI_RESET));
    return e.reason == NIB_END_CANCELLED ? nib_fail(err, NIB_CANCELLED, "interrupted") : NIB_OK;
}

/* The engine asks a guide until the END. */
static void wait_for_end(run_session *s, nib_request *request) {
    nib_event e = {.size = sizeof e};
    nib_cancel(request);
    while (!s->ended && nib_next_event(request, &e, -1, NULL) == NIB_OK)
        s->ended = e.kind == NIB_EVENT_END;
}

static nib_status answer(run_session *s, const int32_t *ids, size_t n_ids, nib_error *err) {
    nib_request_options o = {.size = sizeof o,
                             .prompt = ids,
                             .n_prompt = n_ids,
                             .max_tokens = s->args->max_tokens ? s->args->max_tokens - s->n_generated : 0,
                             .ignore_eos = s->args->ignore_eos,
                             .sampling = &s->args->sampling,
                             .control_text = s->chat && (s->talk.tools || s->talk.info.reasoning)};
    nib_request *request = NULL;
    nib_guide guide = {.size = sizeof guide};
    nib_status status = NIB_OK;
    if (s->shapes.text) {
        NIB_TRY(shapes_guide(&s->shapes, s->engine, ids, n_ids, &guide, err));
        o.guide = &guide;
    }
    status = nib_submit(s->engine, &o, &request, err);
    if (status == NIB_OK)
        status = stream(s, request, err);
    if (request && !s->ended)
        wait_for_end(s, request);
    nib_release(request);
    nib_shape_free_guide(&guide);
    return status;
}

static nib_status answer_plain(run_session *s, const char *prompt, nib_error *err) {
    int32_t *ids = NULL;
    size_t n_ids = 0;
    NIB_TRY(nib_tokenize(s->engine, prompt, strlen(prompt), 0, &ids, &n_ids, err));
    nib_status status = n_ids > 0
                            ? answer(s, ids, n_ids, err)
                            : nib_fail(err, NIB_BAD_ARGUMENT, "the prompt is empty; expected some text");
    nib_free(ids);
    return status;
}

/* The conversation's ids, its oldest turns left out where they no longer fit with room for an answer. */
static nib_status conversation(run_session *s, nib_error *err) {
    size_t room = (size_t)s->info.max_model_len / 4, dropped = 0, n;
    int32_t *ids;
    if (room > 256)
        room = 256;
    for (;;) {
        NIB_TRY(talk_ids(&s->talk, &ids, &n, err));
        if (n + room <= (size_t)s->info.max_model_len || !talk_drop_oldest(&s->talk))
            break;
        nib_free(ids);
        dropped++;
    }
    if (dropped)
        fprintf(stderr, "%s(%zu old turn%s left out: %d tokens are all that fit)%s\n",
                ui_color(stderr, UI_DIM), dropped, dropped == 1 ? "" : "s", s->info.max_model_len,
                ui_color(stderr, UI_RESET));
    s->n_prompt = 0;
    const nib_status status = keep_ids(s, ids, n, err);
    nib_free(ids);
    return status;
}

/* The reasoning has used up its budget: it is closed for the model, which goes on from there. */
static nib_status close_reasoning(run_session *s, nib_error *err) {
    char text[128];
    const int n = snprintf(text, sizeof text, "\n%s\n\n", s->talk.info.reasoning_end);
    int32_t *ids;
    size_t n_ids;
    NIB_TRY(talk_push(&s->talk, text, (size_t)n, err));
    NIB_TRY(nib_tokenize(s->engine, text, (size_t)n, NIB_TOKENIZE_NO_BOS, &ids, &n_ids, err));
    const nib_status status = keep_ids(s, ids, n_ids, err);
    nib_free(ids);
    return status;
}

/* The answer to the conversation so far, kept unless nothing came. */
static nib_status answer_talk(run_session *s, nib_error *err) {
    s->answer_bytes = 0;
    s->n_reasoned = s->n_generated = 0;
    s->over_budget = false;
    NIB_TRY(conversation(s, err));
    nib_status status = answer(s, s->prompt, s->n_prompt, err);
    const bool full = s->args->max_tokens && s->n_generated >= s->args->max_tokens;
    if (status == NIB_OK && s->over_budget) {
        s->over_budget = false;
        s->n_reasoned = INT32_MIN; /* once is enough */
        status = close_reasoning(s, err);
        if (status == NIB_OK)
            status = full ? end_answer(s, err) : answer(s, s->prompt, s->n_prompt, err);
    }
    if (status == NIB_OK || (status == NIB_CANCELLED && s->answer_bytes > 0)) {
        const nib_status kept = talk_keep_answer(&s->talk, err);
        return kept != NIB_OK ? kept : status;
    }
    return status;
}

/* Reads what the calls of the last answer gave, a line each; *all: none is missing. */
static nib_status read_results(run_session *s, bool *all, nib_error *err) {
    const size_t n = talk_n_calls(&s->talk);
    char **texts = mem_array(n, sizeof *texts);
    *all = texts != NULL;
    for (size_t i = 0; i < n && *all; i++) {
        const char *text;
        if (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO))
            printf("%s%s gives:%s\n", ui_color(stdout, UI_DIM), talk_call(&s->talk, i),
                   ui_color(stdout, UI_RESET));
        *all = lines_read(s->lines, &text) == LINES_TEXT;
        texts[i] = *all ? mem_copy_text(text, strlen(text)) : NULL;
        *all = texts[i] != NULL;
    }
    nib_status status = *all ? talk_add_results(&s->talk, (const char *const *)texts, n, err) : NIB_OK;
    for (size_t i = 0; texts && i < n; i++)
        mem_free(texts[i]);
    mem_free(texts);
    return status;
}

/* One turn of the chat, with the calls in it. A turn that failed or was stopped before a word is taken back.
 */
static nib_status answer_chat(run_session *s, const char *text, nib_error *err) {
    NIB_TRY(talk_add(&s->talk, "user", text, err));
    for (bool go_on = true; go_on;) {
        const nib_status status = answer_talk(s, err);
        if (status != NIB_OK) {
            if (s->answer_bytes == 0)
                talk_take_back_question(&s->talk);
            return status;
        }
        go_on = talk_n_calls(&s->talk) > 0;
        if (go_on)
            NIB_TRY(read_results(s, &go_on, err));
    }
    return NIB_OK;
}

static nib_status answer_one(run_session *s, const char *text, nib_error *err) {
    return s->chat ? answer_chat(s, text, err) : answer_plain(s, text, err);
}

/* A failed turn says why and the chat goes on; memory that ran out ends it. */
static nib_status chat_loop(run_session *s, nib_error *err) {
    char prompt[32];
    snprintf(prompt, sizeof prompt, "%s> ", s->chat ? "" : "text");
    lines *l = s->lines = lines_open(prompt);
    if (!l)
        return nib_fail(err, NIB_NO_MEMORY, "out of memory");
    if (isatty(STDIN_FILENO) && isatty(STDOUT_FILENO))
        printf("%s%s. \\q or Ctrl-D leaves, Ctrl-C stops an answer.%s\n", ui_color(stdout, UI_DIM),
               s->info.compute_path, ui_color(stdout, UI_RESET));
    nib_status status = NIB_OK;
    const char *text = NULL;
    lines_result got;
    while (status == NIB_OK && (got = lines_read(l, &text)) != LINES_END) {
        if (got == LINES_INTERRUPTED) {
            putchar('\n');
            continue;
        }
        if (strcmp(text, "\\q") == 0)
            break;
        if (text[strspn(text, " \t")] == 0)
            continue;
        status = answer_one(s, text, err);
        cli_interrupted = 0;
        if (status == NIB_CANCELLED)
            status = NIB_OK;
        else if (status != NIB_OK && status != NIB_NO_MEMORY) {
            cli_fail(status, err);
            status = NIB_OK;
        }
    }
    return status;
}

/* A base model has no template and continues texts; a template that cannot be used is not passed over. */
static nib_status choose_chat(run_session *s, nib_error *err) {
    const char *note = s->info.chat_template_note;
    talk_options o = s->args->talk;
    s->chat = s->args->chat != CHAT_OFF;
    o.show_reasoning = s->args->chosen_reasoning ? !s->args->hide_reasoning : ui_is_terminal(stdout);
    if (!s->chat)
        return NIB_OK;
    if (s->info.has_chat_template || o.template_name)
        return talk_open(&s->talk, s->engine, &o, err);
    if (s->args->chat == CHAT_ON || note[0] || o.tools)
        return nib_fail(err, NIB_UNSUPPORTED, "%s: %s; use --no-chat to let it continue a text",
                        s->args->model, note[0] ? note : "the model has no chat template");
    fprintf(stderr, "nibble: %s: the model has no chat template; it continues the prompt as it is\n",
            s->args->model);
    s->chat = false;
    return NIB_OK;
}

/* One prompt; the lines are for the results of calls. */
static nib_status answer_prompt(run_session *s, nib_error *err) {
    if (s->talk.tools && !(s->lines = lines_open("")))
        return nib_fail(err, NIB_NO_MEMORY, "out of memory");
    return answer_one(s, s->args->prompt, err);
}

static nib_status run(run_session *s, nib_error *err) {
    NIB_TRY(shapes_read(&s->shapes, s->args->schema, s->args->grammar, err));
    NIB_TRY(nib_open(&s->engine, s->args->model, &s->args->compute, err));
    s->info.size = sizeof s->info;
    NIB_TRY(nib_get_info(s->engine, &s->info, err));
    NIB_TRY(choose_chat(s, err));
    NIB_TRY(shapes_check(&s->shapes, s->engine, err));
    if (s->args->verbose)
        print_verbose_head(s);
    else if (isatty(STDERR_FILENO))
        fprintf(stderr, "%s%s, KV cache %s%s\n", ui_color(stderr, UI_DIM), s->info.compute_path,
                cli_kv_name(s->args->compute.kv_cache), ui_color(stderr, UI_RESET));
    cli_catch_interrupt(!s->args->prompt);
    return s->args->prompt ? answer_prompt(s, err) : chat_loop(s, err);
}

int cmd_run(int argc, char **argv) {
    run_args args = {.sampling = {.size = sizeof args.sampling,
                                  .temperature = 0.8f,
                                  .top_k = 40,
                                  .top_p = 0.95f,
                                  .min_p = 0.05f,
                                  .repeat_penalty = 1.0f},
                     .compute = {.size = sizeof args.compute, .max_num_seqs = 1}};
    cli_parse(&argp, argc, argv, &args);
    if (!args.has_seed && getrandom(&args.sampling.seed, sizeof args.sampling.seed, 0) < 0)
        args.sampling.seed = (uint64_t)getpid();
    args.sampling.seed &= INT64_MAX; /* what --seed takes */
    run_session session = {.args = &args};
    nib_error err = {{0}};
    nib_status status = run(&session, &err);
    if (session.lines)
        lines_close(session.lines);
    talk_close(&session.talk);
    mem_free(session.prompt);
    shapes_close(&session.shapes);
    if (session.engine)
        nib_close(session.engine);
    return cli_fail(status, &err);
}
