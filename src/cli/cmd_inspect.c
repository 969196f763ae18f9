/* SPDX-License-Identifier: Apache-2.0
 *
 * nibble inspect: what a model file or directory holds, and what it takes to run it. Opens and checks the
 * whole file (tensors, hyper-parameters, tokenizer), so what inspect accepts is sound.
 */
#include "cli/cli.h"
#include "cli/inspect_imatrix.h"
#include "cli/inspect_json.h"
#include "cli/inspect_text.h"
#include "store/shape_file.h"

typedef struct inspect_args {
    const char *path, *shape;
    bool json, tensors, fit;
} inspect_args;

enum { KEY_SHAPE = 0x3000 };

static const struct argp_option options[] = {
    {"json", 'j', NULL, 0, "Print JSON", 0},
    {"tensors", 't', NULL, 0, "Also list every tensor", 0},
    {"fit", 'f', NULL, 0, "Also what it takes on GPUs of several kinds, and what their memory allows", 0},
    {"shape", KEY_SHAPE, "NAME", 0,
     "In place of PATH, a network of NVFP4 that nobody has to have: " SHAPE_NAMES, 0},
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
    case KEY_SHAPE:
        if (!shape_file_is(arg))
            argp_error(state, "no shape '%s'; expected " SHAPE_NAMES, arg);
        a->shape = arg;
        return 0;
    case ARGP_KEY_END:
        if (!a->path == !a->shape)
            argp_error(state,
                       a->path ? "a PATH and --shape are two models; expected one" : "expected a PATH");
        return 0;
    default:
        return cli_store(state, members, key, arg) ? 0 : ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    .options = options,
    .parser = parse,
    .args_doc = "[PATH]",
    .doc = "Tells what PATH holds (a GGUF file, a safetensors file or a model directory): family, sizes, "
           "formats, bits per weight, tokenizer, chat template, what it takes to run, and what computes it "
           "here; of an importance matrix which statistics of how many layers.\v"
           "Examples:\n"
           "  nibble inspect model.gguf --tensors\n"
           "  nibble inspect --shape llama3-70b --fit",
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
    if (args.path && inspect_imatrix_is(args.path)) {
        if (args.fit)
            return cli_fail(nib_fail(&err, NIB_BAD_ARGUMENT,
                                     "%s: an importance matrix has no network for --fit", args.path),
                            &err);
        const nib_status told = inspect_imatrix_print(args.path, args.json, args.tensors, &err);
        return told == NIB_OK ? CLI_OK : cli_fail(told, &err);
    }
    nib_status status =
        args.shape ? shape_file_open(&f, args.shape, &err) : model_file_open(&f, args.path, &err);
    if (status != NIB_OK)
        return cli_fail(status, &err);
    findings r;
    status = findings_open(&r, f, &err);
    if (status == NIB_OK && !print(&r, &args))
        status = nib_fail(&err, NIB_NO_MEMORY, "%s: no memory for a summary", f->path);
    findings_close(&r);
    model_file_close(f);
    return status == NIB_OK ? CLI_OK : cli_fail(status, &err);
}
