/* SPDX-License-Identifier: Apache-2.0
 *
 * nibble report: a page about a quantized file. The numbers are made in eval/survey and tune/outputs, the
 * page in report_page.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cores.h"
#include "base/mem.h"
#include "base/outfile.h"
#include "cli/cli.h"
#include "cli/files.h"
#include "cli/report_page.h"
#include "cli/report_read.h"
#include "cli/tuned.h"
#include "cli/ui.h"
#include "engine/loaded.h"

#define TEXT_TOKENS 2048 /* of --text */

typedef struct report_args {
    const char *path, *source, *text, *plan, *out;
    const char *evals[REPORT_MAX_EVALS], *benches[REPORT_MAX_EVALS];
    size_t n_evals, n_benches;
    int threads;
} report_args;

enum { KEY_SOURCE = 0x3000, KEY_EVAL, KEY_TEXT, KEY_BENCH, KEY_PLAN };

static const struct argp_option options[] = {
    {"output", 'o', "FILE", 0, "The page: one HTML file", 0},
    {"source", KEY_SOURCE, "MODEL", 0, "What OUT was made from: the error of every matrix is computed", 0},
    {"text", KEY_TEXT, "FILE", 0,
     "With --source: the error of what every matrix gives, on the first 2,048 tokens of a text that OUT was "
     "not "
     "calibrated with",
     0},
    {"eval", KEY_EVAL, "FILE", 0,
     "A result of nibble eval --json, of this file or another to compare with; may be given again", 0},
    {"bench", KEY_BENCH, "FILE", 0,
     "A result of nibble bench -o json, of this file or another to compare with; may be given again", 0},
    {"plan", KEY_PLAN, "FILE", 0,
     "What quantize --save-plan wrote for OUT: what each part of the network costs the predictions alone", 0},
    {"threads", 't', "N", 0, "Threads (default: physical cores)", 0},
    {0}};

static const cli_member members[] = {
    {'o', CLI_WORD, offsetof(report_args, out), NULL, 0, 0},
    {KEY_SOURCE, CLI_WORD, offsetof(report_args, source), NULL, 0, 0},
    {KEY_TEXT, CLI_WORD, offsetof(report_args, text), NULL, 0, 0},
    {KEY_PLAN, CLI_WORD, offsetof(report_args, plan), NULL, 0, 0},
    {'t', CLI_INT, offsetof(report_args, threads), "--threads", 1, CLI_MAX_THREADS},
    {0}};

static void add_file(const struct argp_state *state, const char *flag, const char *file, const char **files,
                     size_t *n) {
    if (*n == REPORT_MAX_EVALS)
        argp_error(state, "%s is taken %d times at most", flag, REPORT_MAX_EVALS);
    files[(*n)++] = file;
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    report_args *a = state->input;
    switch (key) {
    case KEY_EVAL:
        add_file(state, "--eval", arg, a->evals, &a->n_evals);
        return 0;
    case KEY_BENCH:
        add_file(state, "--bench", arg, a->benches, &a->n_benches);
        return 0;
    case ARGP_KEY_ARG:
        cli_one_argument(state, "OUT", arg, &a->path);
        return 0;
    case ARGP_KEY_END:
        if (!a->path)
            argp_error(state, "expected OUT, a quantized model");
        if (!a->out)
            argp_error(state, "-o FILE is missing");
        if (a->text && !a->source)
            argp_error(state, "--text belongs to --source, whose outputs OUT's are compared with");
        return 0;
    default:
        return cli_store(state, members, key, arg) ? 0 : ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    .options = options,
    .parser = parse,
    .args_doc = "OUT -o FILE",
    .doc = "Writes a page about OUT, a quantized file or directory: what became of each matrix, its error "
           "against the source in weights and, on a text, in outputs, how often each scale and code is "
           "taken, and what nibble eval measured. The page is one "
           "HTML file that needs no network, for a screen or for paper.\v"
           "Examples:\n"
           "  nibble eval kld out.gguf --base model.gguf --text wiki.test.txt --json > kld.json\n"
           "  nibble report out.gguf --source model.gguf --text wiki.test.txt --eval kld.json -o page.html",
};

/* ---- outputs ---- */

static nib_status read_text(calib_set *set, const loaded *l, const char *path, nib_error *err) {
    mapfile map = {0};
    nib_error problem = {{0}};
    NIB_TRY(tuned_open_text(&map, path, err));
    const nib_status status =
        calib_set_text(set, l->words, (const char *)map.bytes, map.size, TEXT_TOKENS, &problem);
    mapfile_close(&map);
    return status == NIB_OK ? NIB_OK : nib_fail(err, status, "%s: %s", path, problem.text);
}

static nib_status compare(outputs_pair *pairs, size_t n, const report_args *a, const model_file *file,
                          ui_bar *bar, nib_error *err) {
    const loaded_needs needs = {.no_model = true};
    const int threads = a->threads > 0 ? a->threads : cores_physical();
    const nib_options compute = {.threads = threads, .activations = NIB_ACTIVATIONS_F32};
    calib_set set = {0};
    loaded *l;
    NIB_TRY(loaded_open(&l, a->source, &compute, &needs, err));
    nib_status status = read_text(&set, l, a->text, err);
    const tune_options o = {.ids = set.ids,
                            .starts = set.starts,
                            .n_windows = set.n_windows,
                            .threads = threads,
                            .progress = ui_bar_progress(bar),
                            .interrupted = &cli_interrupted};
    if (status == NIB_OK)
        status = outputs_compare(pairs, n, file, l->file, l->be, &o, err);
    ui_bar_clear(bar);
    calib_set_free(&set);
    loaded_close(l);
    return status;
}

/* *out [found->n], freed with mem_free; NULL without a text. */
static nib_status compare_outputs(outputs_pair **out, const survey *found, const report_args *a,
                                  const model_file *file, ui_bar *bar, nib_error *err) {
    *out = NULL;
    if (!a->text)
        return NIB_OK;
    outputs_pair *pairs = mem_array(found->n + 1, sizeof *pairs);
    if (!pairs)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for %zu matrices", found->n);
    for (size_t i = 0; i < found->n; i++)
        pairs[i] = (outputs_pair){
            .t = found->matrices[i].t, .of = found->matrices[i].of, .order = found->matrices[i].order};
    const nib_status status = compare(pairs, found->n, a, file, bar, err);
    if (status == NIB_OK)
        *out = pairs;
    else
        mem_free(pairs);
    return status;
}

/* ---- all of it ---- */

static nib_status write_page(const report_page *page, const char *path, nib_error *err) {
    char *text = NULL;
    size_t n = 0;
    outfile *file;
    FILE *stream = open_memstream(&text, &n);
    if (!stream)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory for the page", path);
    report_page_write(stream, page);
    const bool failed = ferror(stream), whole = fclose(stream) == 0 && !failed;
    nib_status status = whole ? outfile_open(&file, path, err)
                              : nib_fail(err, NIB_NO_MEMORY, "%s: no memory for the page", path);
    if (status == NIB_OK) {
        status = outfile_write(file, text, n, err);
        if (status == NIB_OK)
            status = outfile_commit(file, err);
        else
            outfile_abandon(file);
    }
    free(text);
    if (status == NIB_OK) {
        printf("%s: %zu matrices", path, page->survey->n);
        if (report_page_lost(page))
            printf(", outputs of %zu are no numbers", report_page_lost(page));
        putchar('\n');
    }
    return status;
}

static bool stop(void *context) {
    (void)context;
    return cli_interrupted;
}

/* What the page shows beside what is computed for it. */
typedef struct results {
    report_eval evals[REPORT_MAX_EVALS];
    report_speed speeds[REPORT_MAX_SPEEDS];
    size_t n_speeds;
} results;

static nib_status read_results(results *r, const report_args *a, nib_error *err) {
    const char *const read[] = {a->path, a->source, a->text, a->plan};
    for (size_t i = 0; i < sizeof read / sizeof *read; i++)
        NIB_TRY(files_check_output(a->out, read[i], err));
    for (size_t i = 0; i < a->n_evals; i++) {
        NIB_TRY(files_check_output(a->out, a->evals[i], err));
        NIB_TRY(report_read_eval(&r->evals[i], a->evals[i], err));
    }
    for (size_t i = 0; i < a->n_benches; i++) {
        NIB_TRY(files_check_output(a->out, a->benches[i], err));
        NIB_TRY(report_read_speeds(r->speeds, &r->n_speeds, a->benches[i], err));
    }
    return NIB_OK;
}

static nib_status run(const report_args *a, results *r, model_file **file, model_file **source, ui_bar *bar,
                      nib_error *err) {
    survey found = {0};
    findings counted = {0};
    outputs_pair *outputs = NULL;
    double *costs = NULL;
    NIB_TRY(read_results(r, a, err));
    NIB_TRY(model_file_open(file, a->path, err));
    if (a->source)
        NIB_TRY(model_file_open(source, a->source, err));
    survey_options o = {.source = *source, .threads = a->threads, .progress = ui_bar_progress(bar)};
    o.progress.stop = stop;
    NIB_TRY(survey_make(&found, *file, &o, err));
    ui_bar_clear(bar);
    nib_status status = a->plan ? report_read_plan(&costs, &found, a->plan, err) : NIB_OK;
    if (status == NIB_OK)
        status = compare_outputs(&outputs, &found, a, *file, bar, err);
    const report_page page = {.file = *file,
                              .source = *source,
                              .counted = &counted,
                              .survey = &found,
                              .outputs = outputs,
                              .costs = costs,
                              .evals = r->evals,
                              .n_evals = a->n_evals,
                              .speeds = r->speeds,
                              .n_speeds = r->n_speeds};
    if (status == NIB_OK)
        status = findings_count(&counted, *file, err);
    if (status == NIB_OK)
        status = write_page(&page, a->out, err);
    findings_close(&counted);
    mem_free(outputs);
    mem_free(costs);
    survey_free(&found);
    return status;
}

int cmd_report(int argc, char **argv) {
    report_args args = {0};
    results read = {0};
    model_file *file = NULL, *source = NULL;
    ui_bar bar = {0};
    nib_error err = {{0}};
    cli_parse(&argp, argc, argv, &args);
    cli_catch_interrupt(false);
    const nib_status status = run(&args, &read, &file, &source, &bar, &err);
    ui_bar_clear(&bar);
    model_file_close(source);
    model_file_close(file);
    return cli_finish_output(status == NIB_OK ? CLI_OK : cli_fail(status, &err));
}
