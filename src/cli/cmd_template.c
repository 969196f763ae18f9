/* SPDX-License-Identifier: Apache-2.0
 *
 * nibble template: the prompt that a chat template makes of a conversation. Needs no weights.
 */
#include <stdio.h>
#include <string.h>

#include "base/mapfile.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "cli/cli.h"
#include "cli/files.h"
#include "cli/ui.h"
#include "store/model_file.h"
#include "text/chat_reader.h"

typedef struct template_args {
    const char *model, *messages, *tools, *kwargs, *bos, *eos, *answer;
    bool no_generation_prompt;
} template_args;

enum { KEY_MESSAGES = 0x3100, KEY_TOOLS, KEY_KWARGS, KEY_BOS, KEY_EOS, KEY_NO_GENERATION_PROMPT, KEY_ANSWER };

static const struct argp_option options[] = {
    {"messages", KEY_MESSAGES, "FILE", 0,
     "The conversation: a JSON list of {role, content, ...}; - reads standard input", 0},
    {"tools", KEY_TOOLS, "FILE", 0, "A JSON list of the tools that the model may call", 0},
    {"kwargs", KEY_KWARGS, "JSON", 0,
     "Further variables of the template, an object: '{\"enable_thinking\": false}'", 0},
    {"bos", KEY_BOS, "TEXT", 0, "The template's bos_token (default: the model's)", 0},
    {"eos", KEY_EOS, "TEXT", 0, "The template's eos_token (default: the model's)", 0},
    {"no-generation-prompt", KEY_NO_GENERATION_PROMPT, NULL, 0, "Do not open an answer at the end", 0},
    {"answer", KEY_ANSWER, "FILE", 0,
     "Print no prompt but what is in an answer to it, as JSON: content, reasoning_content, tool_calls", 0},
    {0}};

static const cli_member members[] = {
    {KEY_MESSAGES, CLI_WORD, offsetof(template_args, messages), NULL, 0, 0},
    {KEY_TOOLS, CLI_WORD, offsetof(template_args, tools), NULL, 0, 0},
    {KEY_KWARGS, CLI_WORD, offsetof(template_args, kwargs), NULL, 0, 0},
    {KEY_BOS, CLI_WORD, offsetof(template_args, bos), NULL, 0, 0},
    {KEY_EOS, CLI_WORD, offsetof(template_args, eos), NULL, 0, 0},
    {KEY_ANSWER, CLI_WORD, offsetof(template_args, answer), NULL, 0, 0},
    {KEY_NO_GENERATION_PROMPT, CLI_SWITCH, offsetof(template_args, no_generation_prompt), NULL, 0, 0},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    template_args *a = state->input;
    switch (key) {
    case ARGP_KEY_ARG:
        cli_one_argument(state, "MODEL", arg, &a->model);
        return 0;
    case ARGP_KEY_END:
        if (!a->model)
            argp_error(state, "expected a MODEL or a FILE.jinja");
        if (!a->messages)
            argp_error(state, "expected --messages FILE");
        return 0;
    default:
        return cli_store(state, members, key, arg) ? 0 : ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    .options = options,
    .parser = parse,
    .args_doc = "MODEL|FILE.jinja",
    .doc =
        "Prints the prompt that a chat template makes of a conversation, and nothing else. The template is a "
        "model's own (a GGUF file or a model directory) or a file that ends in .jinja. When the template "
        "itself "
        "refuses the conversation, its words are printed as the error.\v"
        "Examples:\n"
        "  nibble template model.gguf --messages talk.json\n"
        "  nibble template qwen3.jinja --messages talk.json --tools tools.json",
};

static strview text_or(const char *given, strview otherwise) {
    return given ? strview_of(given) : otherwise;
}

/* Opens FILE.jinja, or the template of a model with the flags' tokens in place of its own. */
static nib_status open_chat(const template_args *a, chat **out, nib_error *err) {
    const strview none = {0};
    if (files_is_template(a->model)) {
        mapfile text;
        NIB_TRY(mapfile_open(&text, a->model, err));
        const nib_status status = chat_open(out, (strview){(const char *)text.bytes, text.size},
                                            text_or(a->bos, none), text_or(a->eos, none), err);
        mapfile_close(&text);
        return status;
    }
    model_file *model;
    tokenizer *t = NULL;
    NIB_TRY(model_file_open_words(&model, a->model, err));
    nib_status status = tokenizer_open(&t, &model->words, err);
    if (status == NIB_OK)
        status = chat_open_model(out, &model->words, t, text_or(a->bos, none), text_or(a->eos, none), err);
    tokenizer_close(t);
    model_file_close(model);
    return status;
}

static nib_status read_inputs(const template_args *a, chat_request *q, nib_error *err) {
    json_t *json;
    NIB_TRY(files_read_json(a->messages, &json, err));
    q->messages = json;
    if (a->tools) {
        NIB_TRY(files_read_json(a->tools, &json, err));
        q->tools = json;
    }
    if (a->kwargs) {
        NIB_TRY(json_read(&json, a->kwargs, strlen(a->kwargs), "--kwargs", err));
        q->kwargs = json;
    }
    return NIB_OK;
}

static json_t *calls_json(const chat_answer *a) {
    json_t *calls = json_array();
    for (size_t i = 0; i < a->n_calls; i++) {
        const struct chat_answer_call *c = &a->calls[i];
        json_array_append_new(calls, json_pack("{s:s, s:s, s:{s:s, s:s}}", "id", c->id, "type", "function",
                                               "function", "name", c->name, "arguments", c->arguments));
    }
    return calls;
}

/* A message as OpenAI's API has it; reasoning and calls only where there are some. */
static nib_status print_answer(const chat_answer *a, nib_error *err) {
    json_t *message = json_pack("{s:s, s:s}", "role", "assistant", "content", a->text);
    bool fits = message != NULL;
    if (fits && a->reasoning[0])
        fits = json_object_set_new(message, "reasoning_content", json_string(a->reasoning)) == 0;
    if (fits && a->n_calls)
        fits = json_object_set_new(message, "tool_calls", calls_json(a)) == 0;
    fits = fits && json_dumpf(message, stdout, JSON_INDENT(2)) == 0;
    if (fits)
        putchar('\n');
    json_decref(message);
    return fits ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "no memory for the answer");
}

static nib_status read_answer(const template_args *a, const chat *c, const json_t *tools,
                              const chat_prompt *prompt, nib_error *err) {
    char *text;
    size_t n;
    chat_answer answer;
    NIB_TRY(files_read(a->answer, &text, &n, err));
    nib_status status = utf8_valid_prefix(text, n) == n
                            ? chat_read(c, tools, prompt, text, n, &answer, err)
                            : nib_fail(err, NIB_BAD_FILE, "%s: no UTF-8 text", a->answer);
    if (status == NIB_OK) {
        status = print_answer(&answer, err);
        chat_answer_free(&answer);
    }
    mem_free(text);
    return status;
}

static nib_status print_prompt(const template_args *a, nib_error *err) {
    chat_request q = {.no_generation_prompt = a->no_generation_prompt};
    chat *c = NULL;
    chat_prompt prompt = {0};
    nib_status status = open_chat(a, &c, err);
    if (status == NIB_OK)
        status = read_inputs(a, &q, err);
    if (status == NIB_OK && q.tools && !chat_takes_tools(c))
        fprintf(stderr, "nibble: the chat template says nothing of tools: they are left out\n");
    if (status == NIB_OK)
        status = chat_render(c, &q, &prompt, err);
    if (status == NIB_OK && a->answer)
        status = read_answer(a, c, q.tools, &prompt, err);
    else if (status == NIB_OK)
        ui_put_text(stdout, ui_is_terminal(stdout), prompt.text, prompt.n);
    chat_prompt_free(&prompt);
    json_decref((json_t *)q.messages);
    json_decref((json_t *)q.tools);
    json_decref((json_t *)q.kwargs);
    chat_close(c);
    return status;
}

int cmd_template(int argc, char **argv) {
    template_args args = {0};
    cli_parse(&argp, argc, argv, &args);
    nib_error err = {""};
    const nib_status status = print_prompt(&args, &err);
    return cli_finish_output(cli_fail(status, &err));
}
