/* SPDX-License-Identifier: Apache-2.0
 *
 * nibble inspect: what a model file or directory holds, and what it takes to run it. Opens and checks the
 * whole file (tensors, hyper-parameters, tokenizer), so what inspect accepts is sound.
 */
#include "cli/cli.h"
#include "cli/inspect_json.h"
#include "cli/inspect_text.h"

typedef struct inspect_args {
    const char *path;
    bool json, tensors, fit;
} inspect_args;

static const struct argp_option options[] = {
    {"json", 'j', NULL, 0, "Print JSON", 0},
    {"tensors", 't', NULL, 0, "Also list every tensor", 0},
    {"fit", 'f', NULL, 0, "Also what it takes on GPUs of several kinds, and what their memory allows", 0},
    {0}};

static const cli_member members[] = {{'j', CLI_SWITCH, offsetof(inspect_args, json), NULL, 0, 0},
                                     {'t', CLI_SWITCH, offsetof(inspect_args, tensors), NULL, 0, 0},
                                     {'f', CLI_SWITCH, offsetof(inspect_args, fit), NULL, 0, 0},
                                     {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    inspect_args *a = state->input;
    switch (key) {
    case ARGP_KEY_ARG:
        cli_one_argument(state, "PATH", arg, &a->path);
        return 0;
    case ARGP_KEY_END:
        if (!a->path)
            argp_error(state, "expected a PATH");
        return 0;
    default:
        return cli_store(state, members, key, arg) ? 0 : ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    .options = options,
    .parser = parse,
    .args_doc = "PATH",
    .doc = "Tells what PATH holds (a GGUF file, a safetensors file or a model directory): family, sizes, "
           "formats, bits per weight, tokenizer, chat template, and what it takes to run.\v"
           "Example:\n"
           "  nibble inspect model.gguf --tensors",
};

static bool print(const findings *r, const inspect_args *a) {
    if (a->json)
        return inspect_json_print(r, a->tensors, a->fit);
    return inspect_text_print(r, a->tensors) && (!a->fit || !r->f->has_network || inspect_text_fit(r));
}

int cmd_inspect(int argc, char **argv) {
    inspect_args args = {0};
    cli_parse(&argp, argc, argv, &args);
    nib_error err = {""};
    model_file *f;
    nib_status status = model_file_open(&f, args.path, &err);
    if (status != NIB_OK)
        return cli_fail(status, &err);
    findings r;
    status = findings_open(&r, f, &err);
    if (status == NIB_OK && !print(&r, &args))
        status = nib_fail(&err, NIB_NO_MEMORY, "%s: no memory for a summary", args.path);
    findings_close(&r);
    model_file_close(f);
    return status == NIB_OK ? CLI_OK : cli_fail(status, &err);
}
