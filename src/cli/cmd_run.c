/* SPDX-License-Identifier: Apache-2.0
 *
 * nibble run: one prompt answered, or a chat on the terminal. A client of nibble.h like any other program.
 */
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/mem.h"
#include "base/status.h"
#include "cli/cli.h"
#include "cli/prompt.h"
#include "cli/reply.h"
#include "cli/turns.h"
#include "cli/ui.h"

typedef enum chat_choice { CHAT_BY_MODEL, CHAT_ON, CHAT_OFF } chat_choice;

typedef struct run_args {
    const char *model, *schema, *grammar;
    const char *words[2]; /* [n_words] arguments */
    int n_words;
    prompt_source prompt;
    talk_options talk;
    bool hide_reasoning, chosen_reasoning, has_seed;
    chat_choice chat;
    reply_options answer;
} run_args;

enum {
    KEY_CHAT = 0x3000,
    KEY_NO_CHAT,
    KEY_TEMPERATURE,
    KEY_TOP_K,
    KEY_TOP_P,
    KEY_MIN_P,
    KEY_REPEAT_PENALTY,
    KEY_IGNORE_EOS,
    KEY_JSON_SCHEMA,
    KEY_GRAMMAR,
    KEY_CHAT_TEMPLATE,
    KEY_TOOLS,
    KEY_REASONING,
    KEY_SYSTEM,
    KEY_STOP,
    KEY_JSON,
    KEY_ALLOW_REPEATS
};

static const struct argp_option options[] = {
    {"model", 'm', "MODEL", 0, "The model, in place of the first argument", 1},
    {"prompt", 'p', "TEXT", 0, "The prompt, in place of the second argument", 1},
    {"file", 'f', "FILE", 0,
     "The prompt is this file's text, -: standard input; beside a prompt the document that it is about", 1},
    {"system", KEY_SYSTEM, "TEXT", 0, "The system message of a chat", 1},
    {"json", KEY_JSON, NULL, 0, "Print the answer as JSON, with why it ended, tokens, times and the seed", 1},
    {"stop", KEY_STOP, "TEXT", 0, "End an answer before this text; may be given again", 1},
    {"chat", KEY_CHAT, NULL, 0, "Put the prompt into the model's chat template (default where it has one)",
     1},
    {"no-chat", KEY_NO_CHAT, NULL, 0, "Continue the prompt as it is", 1},
    {"chat-template", KEY_CHAT_TEMPLATE, "FILE|NAME", 0,
     "A Jinja template in place of the model's own; a NAME is one of the model's, or of chatml, llama3, "
     "gemma",
     1},
    {"tools", KEY_TOOLS, "FILE", 0,
     "Offer these tools (a JSON list): calls are shown, and their results are read, a line each", 1},
    {"reasoning", KEY_REASONING, "show|hide|N", 0,
     "Show reasoning (default on a terminal) or hide it; N: show it and end it after N tokens", 1},
    {"max-tokens", 'n', "N", 0,
     "End an answer after N tokens, -1: as many as fit (default: 2048; 8192 where the model reasons)", 1},
    {"ignore-eos", KEY_IGNORE_EOS, NULL, 0, "Go on where the model would end, or repeat itself", 1},
    {"allow-repeats", KEY_ALLOW_REPEATS, NULL, 0,
     "Go on where the last 256 tokens or more are the same few again and again (default: stop and say so)",
     1},
    {NULL, 'c', "N", 0, "Like --max-model-len; 0: all that the model was made for", 1},
    {"json-schema", KEY_JSON_SCHEMA, "FILE|TEXT", 0, "Answers are JSON that this JSON schema allows", 1},
    {"grammar", KEY_GRAMMAR, "FILE", 0, "Answers are texts of this grammar (GBNF)", 1},
    {"verbose", 'v', NULL, 0,
     "Print what computes, memory and tokens per second on standard error (what computes is also "
     "printed where that is a terminal)",
     1},
    {NULL, 0, NULL, 0, "How the next token is chosen:", 5},
    {"temperature", KEY_TEMPERATURE, "T", 0, "0: always the most probable one (default 0.8)", 5},
    {"temp", 0, NULL, OPTION_ALIAS, NULL, 5},
    {"top-k", KEY_TOP_K, "K", 0, "Among the K most probable, 0: all (default 40)", 5},
    {"top-p", KEY_TOP_P, "P", 0, "Among the most probable that together have P, 0 or 1: all (default 0.95)",
     5},
    {"min-p", KEY_MIN_P, "P", 0,
     "Among those at least P times as probable as the first, 0: all (default 0.05)", 5},
    {"repeat-penalty", KEY_REPEAT_PENALTY, "R", 0,
     "Make tokens of the last 64 less probable, 1: off (default)", 5},
    {"seed", 's', "S", 0,
     "The same seed gives the same text (default: a random one, shown on a terminal, by -v and --json)", 5},
    {0}};

static const cli_member members[] = {
    {'m', CLI_WORD, offsetof(run_args, model), NULL, 0, 0},
    {'p', CLI_WORD, offsetof(run_args, prompt.words), NULL, 0, 0},
    {'f', CLI_WORD, offsetof(run_args, prompt.file), NULL, 0, 0},
    {KEY_SYSTEM, CLI_WORD, offsetof(run_args, talk.system), NULL, 0, 0},
    {KEY_CHAT_TEMPLATE, CLI_WORD, offsetof(run_args, talk.template_name), NULL, 0, 0},
    {KEY_TOOLS, CLI_WORD, offsetof(run_args, talk.tools), NULL, 0, 0},
    {KEY_JSON, CLI_SWITCH, offsetof(run_args, answer.json), NULL, 0, 0},
    {KEY_ALLOW_REPEATS, CLI_SWITCH, offsetof(run_args, answer.circles), NULL, 0, 0},
    {KEY_IGNORE_EOS, CLI_SWITCH, offsetof(run_args, answer.ignore_eos), NULL, 0, 0},
    {'v', CLI_SWITCH, offsetof(run_args, answer.verbose), NULL, 0, 0},
    {KEY_TEMPERATURE, CLI_FLOAT, offsetof(run_args, answer.sampling.temperature), "--temperature", 0, 100},
    {KEY_TOP_K, CLI_INT, offsetof(run_args, answer.sampling.top_k), "--top-k", 0, 1 << 24},
    {KEY_TOP_P, CLI_FLOAT, offsetof(run_args, answer.sampling.top_p), "--top-p", 0, 1},
    {KEY_MIN_P, CLI_FLOAT, offsetof(run_args, answer.sampling.min_p), "--min-p", 0, 1},
    {KEY_REPEAT_PENALTY, CLI_FLOAT, offsetof(run_args, answer.sampling.repeat_penalty), "--repeat-penalty",
     0.01, 100},
    {0}};

static void add_stop(run_args *a, const struct argp_state *state, const char *text) {
    if (!*text)
        argp_error(state, "--stop takes a text, not an empty one");
    const char **grown = mem_resize(a->answer.stops, a->answer.n_stops + 1, sizeof *grown);
    if (!grown)
        argp_failure(state, CLI_BAD_INPUT, 0, "out of memory");
    a->answer.stops = grown;
    a->answer.stops[a->answer.n_stops++] = text;
}

/* MODEL and PROMPT, unless flags gave them. */
static void take_words(run_args *a, const struct argp_state *state) {
    int at = 0;
    if (!a->model && at < a->n_words)
        a->model = a->words[at++];
    if (!a->prompt.words && at < a->n_words)
        a->prompt.words = a->words[at++];
    if (!a->model)
        argp_error(state, "expected a MODEL");
    if (at < a->n_words)
        argp_error(state, "'%s' is one argument too many: put the prompt in quotes", a->words[at]);
    a->prompt.keep_stdin = a->talk.tools != NULL;
    a->answer.model = a->model;
}

/* What goes together. */
static void check(const struct argp_state *state, const run_args *a) {
    if (a->chat == CHAT_OFF &&
        (a->talk.template_name || a->talk.tools || a->talk.system || a->chosen_reasoning))
        argp_error(state, "--no-chat with --system, --chat-template, --tools or --reasoning: these belong to "
                          "a chat");
    if (a->answer.ignore_eos && (a->schema || a->grammar))
        argp_error(state, "--ignore-eos with --json-schema or --grammar: such an answer has an end");
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    run_args *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = state->child_inputs[1] = &a->answer.compute;
        return 0;
    case 'c':
        a->answer.compute.max_model_len = cli_context_flag(state, arg);
        return 0;
    case 's':
        a->answer.sampling.seed = (uint64_t)cli_integer_flag(state, "--seed", arg, 0, INT64_MAX);
        a->has_seed = true;
        return 0;
    case KEY_STOP:
        add_stop(a, state, arg);
        return 0;
    case KEY_CHAT:
    case KEY_NO_CHAT:
        if (a->chat != CHAT_BY_MODEL)
            argp_error(state, "one of --chat and --no-chat, and only once");
        a->chat = key == KEY_CHAT ? CHAT_ON : CHAT_OFF;
        return 0;
    case 'n':
        a->answer.max_tokens =
            strcmp(arg, "-1") == 0 /* llama.cpp's "until it ends" */
                ? 1 << 20
                : (int)cli_integer_flag(state, "--max-tokens (but for -1)", arg, 1, 1 << 20);
        return 0;
    case KEY_JSON_SCHEMA:
    case KEY_GRAMMAR:
        if (a->schema || a->grammar)
            argp_error(state, "one of --json-schema and --grammar, and only once");
        *(key == KEY_GRAMMAR ? &a->grammar : &a->schema) = arg;
        return 0;
    case KEY_REASONING:
        a->chosen_reasoning = true;
        a->hide_reasoning = strcmp(arg, "hide") == 0;
        if (!a->hide_reasoning && strcmp(arg, "show") != 0 && !(*arg >= '0' && *arg <= '9'))
            argp_error(state, "--reasoning takes show, hide or a number of tokens, not '%s'", arg);
        if (!a->hide_reasoning && strcmp(arg, "show") != 0)
            a->answer.reasoning_budget = (int)cli_integer_flag(state, "--reasoning", arg, 1, 1 << 20);
        return 0;
    case ARGP_KEY_ARG:
        if (a->n_words == 2)
            argp_error(state, "'%s' is one argument too many: put the prompt in quotes", arg);
        a->words[a->n_words++] = arg;
        return 0;
    case ARGP_KEY_END:
        take_words(a, state);
        check(state, a);
        return 0;
    default:
        return cli_store(state, members, key, arg) ? 0 : ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {
    {&cli_compute_argp, 0, NULL, 0}, {&cli_speculate_argp, 0, NULL, 10}, {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .args_doc = "MODEL [PROMPT|-]",
    .doc = "Answers PROMPT with MODEL (a GGUF file or a Hugging Face directory). What is piped in is the "
           "prompt, or, "
           "beside one, the document that it is about. Without either it is a chat: \\help lists its "
           "commands, \\q or "
           "Ctrl-D leaves, Ctrl-C stops an answer.\v"
           "Examples:\n"
           "  nibble run smollm2-nvfp4 \"What is the capital of France?\"\n"
           "  nibble run gemma-nvfp4 --no-chat --temperature 0 --max-tokens 40 \"The primary colours are\"\n"
           "  nibble run smollm2-nvfp4 \"Sum this up.\" -f report.txt\n"
           "  nibble run smollm2-nvfp4",
    .children = children,
};

/* A base model has no template and continues texts; a template that cannot be used is not passed over. */
static nib_status choose_chat(reply *s, const run_args *args, nib_error *err) {
    const char *note = s->info.chat_template_note;
    talk_options o = args->talk;
    s->chat = args->chat != CHAT_OFF;
    o.show_reasoning = args->chosen_reasoning ? !args->hide_reasoning : ui_is_terminal(stdout);
    o.quiet = args->answer.json;
    o.model = args->model;
    if (!s->chat)
        return NIB_OK;
    if (s->info.has_chat_template || o.template_name)
        return talk_open(&s->talk, s->engine, &o, err);
    if (args->chat == CHAT_ON || note[0] || o.tools || o.system)
        return nib_fail(err, NIB_UNSUPPORTED, "%s: %s; use --no-chat to let it continue a text", args->model,
                        note[0] ? note : "the model has no chat template");
    fprintf(stderr, "nibble: %s: the model has no chat template; it continues the prompt as it is\n",
            args->model);
    s->chat = false;
    return NIB_OK;
}

/* What computes, and the seed: an answer that nobody can ask for again cannot be reported. */
static void print_head(const reply *s, const run_args *args) {
    const char *dim = ui_color(stderr, UI_DIM), *reset = ui_color(stderr, UI_RESET);
    const char *kv_name = cli_kv_name(args->answer.compute.kv_cache);
    char weights[32], kv[32];
    if (!args->answer.verbose) {
        if (isatty(STDERR_FILENO))
            fprintf(stderr, "%s%s, KV cache %s, seed %llu%s\n", dim, s->info.compute_path, kv_name,
                    (unsigned long long)s->seed, reset);
        return;
    }
    fprintf(stderr,
            "%smodel    %s, %s\ncompute  %s, KV cache %s, %d thread%s\nmemory   weights %s, KV cache %s for "
            "%d tokens\nseed     %llu%s\n",
            dim, args->model, s->info.family, s->info.compute_path, kv_name, s->info.threads,
            s->info.threads == 1 ? "" : "s", ui_bytes(weights, sizeof weights, s->info.weight_bytes),
            ui_bytes(kv, sizeof kv, s->info.kv_bytes), s->info.max_model_len, (unsigned long long)s->seed,
            reset);
}

/* One prompt; the lines are for the results of calls. */
static nib_status answer_prompt(reply *s, const run_args *args, const char *text, nib_error *err) {
    if (s->talk.tools && !args->answer.json && !(s->lines = lines_open("")))
        return nib_fail(err, NIB_NO_MEMORY, "out of memory");
    NIB_TRY(s->chat ? reply_turn(s, text, err) : reply_plain(s, text, err));
    return args->answer.json ? reply_print_json(s, err) : NIB_OK;
}

static nib_status run(reply *s, const run_args *args, const char *text, nib_error *err) {
    NIB_TRY(shapes_read(&s->shapes, args->schema, args->grammar, err));
    NIB_TRY(nib_open(&s->engine, args->model, &args->answer.compute, err));
    s->info.size = sizeof s->info;
    NIB_TRY(nib_get_info(s->engine, &s->info, err));
    NIB_TRY(choose_chat(s, args, err));
    NIB_TRY(shapes_check(&s->shapes, s->engine, err));
    print_head(s, args);
    cli_catch_interrupt(!text);
    return text ? answer_prompt(s, args, text, err) : turns_run(s, err);
}

int cmd_run(int argc, char **argv) {
    run_args args = {.answer = {.sampling = {.size = sizeof args.answer.sampling,
                                             .temperature = 0.8f,
                                             .top_k = 40,
                                             .top_p = 0.95f,
                                             .min_p = 0.05f,
                                             .repeat_penalty = 1.0f},
                                .compute = {.size = sizeof args.answer.compute, .max_num_seqs = 1}}};
    cli_parse(&argp, argc, argv, &args);
    reply session = {.options = &args.answer, .seed = args.answer.sampling.seed};
    if (!args.has_seed && getrandom(&session.seed, sizeof session.seed, 0) < 0)
        session.seed = (uint64_t)getpid();
    session.seed &= INT64_MAX; /* what --seed takes */
    nib_error err = {{0}};
    char *text = NULL;
    nib_status status = prompt_read(&args.prompt, &text, &err);
    if (status == NIB_OK && !text && args.answer.json)
        status = nib_fail(&err, NIB_BAD_ARGUMENT, "--json prints one answer: expected a prompt");
    if (status == NIB_OK)
        status = run(&session, &args, text, &err);
    reply_close(&session);
    mem_free(text);
    mem_free(args.answer.stops);
    return cli_finish_output(cli_fail(status, &err));
}
