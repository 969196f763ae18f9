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
#include "cli/tuned.h"
#include "cli/ui.h"
#include "engine/loaded.h"

#define TEXT_TOKENS 2048 /* of --text */

typedef struct report_args {
    const char *path, *source, *text, *out;
    const char *evals[REPORT_MAX_EVALS];
    size_t n_evals;
    int threads;
} report_args;

enum { KEY_SOURCE = 0x3000, KEY_EVAL, KEY_TEXT };

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
    {"threads", 't', "N", 0, "Threads (default: physical cores)", 0},
    {0}};

static const cli_member members[] = {
    {'o', CLI_WORD, offsetof(report_args, out), NULL, 0, 0},
    {KEY_SOURCE, CLI_WORD, offsetof(report_args, source), NULL, 0, 0},
    {KEY_TEXT, CLI_WORD, offsetof(report_args, text), NULL, 0, 0},
    {'t', CLI_INT, offsetof(report_args, threads), "--threads", 1, CLI_MAX_THREADS},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    report_args *a = state->input;
    switch (key) {
    case KEY_EVAL:
        if (a->n_evals == REPORT_MAX_EVALS)
            argp_error(state, "--eval is taken %d times at most", REPORT_MAX_EVALS);
        a->evals[a->n_evals++] = arg;
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

/* ---- results of eval ---- */

static double number(const json_t *root, const char *key) {
    const json_t *value = json_object_get(root, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

static const char *text_of(const json_t *root, const char *key) {
    const char *text = json_string_value(json_object_get(root, key));
    return text ? text : "";
}

/* The model's file without folders, and the formats of activations and cache. */
static void name_eval(report_eval *e, const json_t *root) {
    const char *path = text_of(root, "model");
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    size_t from = n;
    while (from > 0 && path[from - 1] != '/')
        from--;
    snprintf(e->name, sizeof e->name, "%.*s (%.12s, cache %.16s)", (int)(n - from > 48 ? 48 : n - from),
             path + from, text_of(root, "activations"), text_of(root, "kv_cache_dtype"));
}

static nib_status read_eval(report_eval *e, const char *path, nib_error *err) {
    json_t *root;
    NIB_TRY(files_read_json(path, &root, err));
    *e = (report_eval){.kld = number(root, "kld"),
                       .kld_error = number(root, "kld_error"),
                       .ppl = number(root, "ppl"),
                       .ppl_error = number(root, "ppl_error"),
                       .ppl_base = number(root, "ppl_base"),
                       .same_top = number(root, "same_top")};
    const bool sound = json_is_object(root) && *text_of(root, "model") && isfinite(e->ppl);
    if (sound)
        name_eval(e, root);
    json_decref(root);
    return sound ? NIB_OK
                 : nib_fail(err, NIB_BAD_FILE, "%s: no result of nibble eval --json (\"model\" and \"ppl\")",
                            path);
}

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
    if (status == NIB_OK)
        printf("%s: %zu matrices\n", path, page->survey->n);
    return status;
}

static bool stop(void *context) {
    (void)context;
    return cli_interrupted;
}

static nib_status check_paths(const report_args *a, report_eval *evals, nib_error *err) {
    NIB_TRY(files_check_output(a->out, a->path, err));
    NIB_TRY(files_check_output(a->out, a->source, err));
    NIB_TRY(files_check_output(a->out, a->text, err));
    for (size_t i = 0; i < a->n_evals; i++) {
        NIB_TRY(files_check_output(a->out, a->evals[i], err));
        NIB_TRY(read_eval(&evals[i], a->evals[i], err));
    }
    return NIB_OK;
}

static nib_status run(const report_args *a, model_file **file, model_file **source, ui_bar *bar,
                      nib_error *err) {
    report_eval evals[REPORT_MAX_EVALS];
    survey found = {0};
    findings counted = {0};
    outputs_pair *outputs = NULL;
    NIB_TRY(check_paths(a, evals, err));
    NIB_TRY(model_file_open(file, a->path, err));
    if (a->source)
        NIB_TRY(model_file_open(source, a->source, err));
    survey_options o = {.source = *source, .threads = a->threads, .progress = ui_bar_progress(bar)};
    o.progress.stop = stop;
    NIB_TRY(survey_make(&found, *file, &o, err));
    ui_bar_clear(bar);
    nib_status status = compare_outputs(&outputs, &found, a, *file, bar, err);
    const report_page page = {.file = *file,
                              .source = *source,
                              .counted = &counted,
                              .survey = &found,
                              .outputs = outputs,
                              .evals = evals,
                              .n_evals = a->n_evals};
    if (status == NIB_OK)
        status = findings_count(&counted, *file, err);
    if (status == NIB_OK)
        status = write_page(&page, a->out, err);
    findings_close(&counted);
    mem_free(outputs);
    survey_free(&found);
    return status;
}

int cmd_report(int argc, char **argv) {
    report_args args = {0};
    model_file *file = NULL, *source = NULL;
    ui_bar bar = {0};
    nib_error err = {{0}};
    cli_parse(&argp, argc, argv, &args);
    cli_catch_interrupt(false);
    const nib_status status = run(&args, &file, &source, &bar, &err);
    ui_bar_clear(&bar);
    model_file_close(source);
    model_file_close(file);
    return cli_finish_output(status == NIB_OK ? CLI_OK : cli_fail(status, &err));
}
