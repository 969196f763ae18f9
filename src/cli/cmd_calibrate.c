/* SPDX-License-Identifier: Apache-2.0
 *
 * nibble calibrate: what the inputs of a network's linear layers look like over a text, as an importance
 * matrix of llama.cpp's format and what nibble keeps beside it: made once, for many quantizations, here and
 * there.
 */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/cores.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/files.h"
#include "cli/own_answers.h"
#include "cli/scratch.h"
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
     "What to calibrate with: a text, or conversations in a .jsonl file, where the model first answers those "
     "that end with a question, and the text inside the program is read as well (default: that text)",
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
        "Runs a text through MODEL and writes what the inputs of its linear layers look like: an importance "
        "matrix (the mean square of every channel), which llama.cpp's quantizer takes too, and beside it the "
        "second moments inside blocks of 16 channels and the largest inputs, keys and values. `nibble "
        "quantize --imatrix` takes all of it in place of a calibration.\v"
        "Examples:\n"
        "  nibble calibrate model.gguf --text mine.txt -o model.imatrix.gguf\n"
        "  nibble quantize model.gguf model-nvfp4.gguf --imatrix model.imatrix.gguf --method local",
};

typedef struct calibrate_session {
    const calibrate_args *args;
    tuned_text from;
    own_answered own;
    scratch scratch;
    char *answered; /* in it: the conversations with the model's own answers */
    ui_bar bar;
} calibrate_session;

/* Conversations that end with a question are answered by the model, as quantize does. */
static nib_status answer_questions(calibrate_session *s, nib_error *err) {
    const calibrate_args *a = s->args;
    NIB_TRY(scratch_open(&s->scratch, a->out, err));
    s->answered = scratch_path(&s->scratch, "answered.jsonl");
    if (!s->answered)
        return nib_fail(err, NIB_NO_MEMORY, "%s: out of memory", a->out);
    const own_asked asked = {.path = a->text,
                             .in = a->model,
                             .out = s->answered,
                             .max_tokens = a->max_tokens,
                             .threads = a->threads ? a->threads : cores_physical(),
                             .bar = &s->bar};
    NIB_TRY(own_answers(&asked, &s->own, err));
    if (s->own.n)
        s->from.path = s->answered;
    s->from.and_text = s->own.n > 0;
    return NIB_OK;
}

static nib_status measure(calibrate_session *s, const loaded *l, nib_error *err) {
    const calibrate_args *a = s->args;
    input_stats stats = {0};
    calib_set set = {0};
    const double from = clock_seconds();
    const calibrate_options o = {.looks = true,
                                 .threads = a->threads ? a->threads : cores_physical(),
                                 .progress = ui_bar_progress(&s->bar),
                                 .interrupted = &cli_interrupted};
    nib_status status = tuned_read_set(&set, l, &s->from, err);
    if (status == NIB_OK)
        status = calibrate(&stats, l->file, l->be, &set, &o, err);
    ui_bar_clear(&s->bar);
    imatrix_about about = {.dataset = s->from.name,
                           .n_tokens = set.n_tokens,
                           .n_windows = set.n_windows,
                           .chunk_size = CALIB_SET_WINDOW};
    if (status == NIB_OK)
        status = imatrix_write(&stats, l->file, a->out, &about, err);
    if (status == NIB_OK)
        printf("%s: %zu layers, %zu tokens of %s, in %.1f s\n", a->out, about.n_tensors, about.n_tokens,
               about.dataset, clock_seconds() - from);
    input_stats_free(&stats);
    calib_set_free(&set);
    return status;
}

static nib_status run(calibrate_session *s, nib_error *err) {
    const calibrate_args *a = s->args;
    const nib_options compute = {.threads = a->threads, .activations = NIB_ACTIVATIONS_F32};
    const loaded_needs needs = {.no_model = true};
    loaded *l;
    NIB_TRY(files_check_output(a->out, a->model, err));
    NIB_TRY(files_check_output(a->out, a->text, err));
    NIB_TRY(files_try_output(a->out, err));
    s->from = (tuned_text){.path = a->text,
                           .name = a->text ? a->text : "nibble's built-in text",
                           .max_tokens = a->max_tokens,
                           .chat_tokens = a->max_tokens};
    if (a->text && tuned_is_chats(a->text))
        NIB_TRY(answer_questions(s, err));
    NIB_TRY(loaded_open(&l, a->model, &compute, &needs, err));
    const nib_status status = measure(s, l, err);
    loaded_close(l);
    return status;
}

int cmd_calibrate(int argc, char **argv) {
    calibrate_args args = {.max_tokens = DEFAULT_TOKENS};
    calibrate_session session = {.args = &args};
    nib_error err = {{0}};
    cli_parse(&argp, argc, argv, &args);
    cli_catch_interrupt(false);
    const nib_status status = run(&session, &err);
    ui_bar_clear(&session.bar);
    mem_free(session.answered);
    scratch_close(&session.scratch);
    return cli_finish_output(status == NIB_OK ? CLI_OK : cli_fail(status, &err));
}
