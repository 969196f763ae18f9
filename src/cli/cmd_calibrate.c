/* SPDX-License-Identifier: Apache-2.0
 *
 * nibble calibrate: what the inputs of a network's linear layers look like over a text, as an importance
 * matrix of llama.cpp's format: made once, for many quantizations, here and there.
 */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mapfile.h"
#include "cli/cli.h"
#include "cli/files.h"
#include "cli/tuned.h"
#include "cli/ui.h"
#include "engine/loaded.h"
#include "eval/calibrate.h"
#include "eval/imatrix.h"

#define DEFAULT_TOKENS 49152

typedef struct calibrate_args {
    const char *model, *text, *out;
    size_t max_tokens;
    int threads;
} calibrate_args;

enum { KEY_TEXT = 0x3000, KEY_TOKENS };

static const struct argp_option options[] = {
    {"text", KEY_TEXT, "FILE", 0,
     "What to calibrate with: a text, or conversations in a .jsonl file (default: a text inside the program)",
     0},
    {"tokens", KEY_TOKENS, "N", 0, "Its first N tokens at most (default: 49152)", 0},
    {"output", 'o', "FILE", 0, "The importance matrix: a GGUF file", 0},
    {"threads", 't', "N", 0, "Threads (default: physical cores)", 0},
    {0}};

static const cli_member members[] = {
    {KEY_TEXT, CLI_WORD, offsetof(calibrate_args, text), NULL, 0, 0},
    {'o', CLI_WORD, offsetof(calibrate_args, out), NULL, 0, 0},
    {KEY_TOKENS, CLI_SIZE, offsetof(calibrate_args, max_tokens), "--tokens", 128, 1 << 30},
    {'t', CLI_INT, offsetof(calibrate_args, threads), "--threads", 1, CLI_MAX_THREADS},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    calibrate_args *a = state->input;
    switch (key) {
    case ARGP_KEY_ARG:
        cli_one_argument(state, "MODEL", arg, &a->model);
        return 0;
    case ARGP_KEY_END:
        if (!a->model)
            argp_error(state, "expected a MODEL");
        if (!a->out)
            argp_error(state, "-o FILE is missing");
        return 0;
    default:
        return cli_store(state, members, key, arg) ? 0 : ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    .options = options,
    .parser = parse,
    .args_doc = "MODEL -o FILE",
    .doc =
        "Runs a text through MODEL and writes the mean square of every input channel of its linear layers: "
        "an importance matrix, which `nibble quantize --imatrix` and llama.cpp's quantizer take.\v"
        "Examples:\n"
        "  nibble calibrate model.gguf --text mine.txt -o model.imatrix.gguf\n"
        "  nibble quantize model.gguf model-nvfp4.gguf --imatrix model.imatrix.gguf",
};

static nib_status measure(const calibrate_args *a, const loaded *l, const mapfile *map, ui_bar *bar,
                          nib_error *err) {
    const bool chats = a->text && tuned_is_chats(a->text);
    importance heed = {0};
    calib_set set = {0};
    const double from = clock_seconds();
    calibrate_options o = {.set = chats ? &set : NULL,
                           .text = map->bytes ? (const char *)map->bytes : calibration_text,
                           .bytes = map->bytes ? map->size : calibration_text_bytes,
                           .max_tokens = a->max_tokens,
                           .progress = ui_bar_progress(bar),
                           .interrupted = &cli_interrupted};
    imatrix_about about = {.dataset = a->text ? a->text : "nibble's built-in text",
                           .chunk_size = CALIBRATE_WINDOW};
    nib_status status = chats ? tuned_read_chats(&set, l, a->text, a->text, a->max_tokens, err) : NIB_OK;
    if (status == NIB_OK)
        status = calibrate(&heed, l->file, l->be, l->words, &o, &about.n_tokens, err);
    ui_bar_clear(bar);
    if (status == NIB_OK)
        status = imatrix_write(&heed, l->file, a->out, &about, err);
    if (status == NIB_OK)
        printf("%s: %zu layers, %zu tokens of %s, in %.1f s\n", a->out, about.n_tensors, about.n_tokens,
               about.dataset, clock_seconds() - from);
    calibrate_free(&heed);
    calib_set_free(&set);
    return status;
}

static nib_status run(const calibrate_args *a, ui_bar *bar, nib_error *err) {
    const nib_options compute = {.threads = a->threads, .activations = NIB_ACTIVATIONS_F32};
    const loaded_needs needs = {.no_model = true};
    mapfile map = {0};
    loaded *l;
    NIB_TRY(files_check_output(a->out, a->model, err));
    NIB_TRY(files_check_output(a->out, a->text, err));
    NIB_TRY(files_try_output(a->out, err));
    if (a->text && !tuned_is_chats(a->text))
        NIB_TRY(tuned_open_text(&map, a->text, err));
    nib_status status = loaded_open(&l, a->model, &compute, &needs, err);
    if (status == NIB_OK) {
        status = measure(a, l, &map, bar, err);
        loaded_close(l);
    }
    mapfile_close(&map);
    return status;
}

int cmd_calibrate(int argc, char **argv) {
    calibrate_args args = {.max_tokens = DEFAULT_TOKENS};
    ui_bar bar = {0};
    nib_error err = {{0}};
    cli_parse(&argp, argc, argv, &args);
    cli_catch_interrupt(false);
    const nib_status status = run(&args, &bar, &err);
    ui_bar_clear(&bar);
    return cli_finish_output(status == NIB_OK ? CLI_OK : cli_fail(status, &err));
}
