/* SPDX-License-Identifier: Apache-2.0
 *
 * See tuned.h.
 */
#include "cli/tuned.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/mapfile.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/files.h"
#include "eval/calibrate.h"
#include "tune/journal.h"

#define ACTIVATION_BYTES ((size_t)640 << 20) /* more of them lie on disk */

static const char *const ways[] = {[TUNE_WAY_FULL] = "gptq",
                                   [TUNE_WAY_BLOCKS] = "local",
                                   [TUNE_WAY_DIAGONAL] = "weighted",
                                   [TUNE_WAY_SWEEP] = "sweep"};
enum { N_WAYS = sizeof ways / sizeof *ways };

nib_status tuned_open_text(mapfile *map, const char *path, nib_error *err) {
    NIB_TRY(mapfile_open(map, path, err));
    const nib_status status = files_check_text(path, (const char *)map->bytes, map->size, err);
    if (status != NIB_OK)
        mapfile_close(map);
    return status;
}

bool tuned_is_chats(const char *path) {
    size_t n = strlen(path);
    return n > 6 && strcmp(path + n - 6, ".jsonl") == 0;
}

static nib_status read_chats(calib_set *set, const loaded *l, const tuned_text *from, nib_error *err) {
    mapfile map = {0};
    if (!l->chat)
        return nib_fail(err, NIB_UNSUPPORTED, "%s: conversations need a chat template: %s", from->name,
                        l->chat_problem.text);
    NIB_TRY(tuned_open_text(&map, from->path, err));
    nib_status status = calib_set_chats(set, l->words, l->chat, (const char *)map.bytes, map.size,
                                        from->chat_tokens, from->name, err);
    mapfile_close(&map);
    const size_t left = from->max_tokens > set->n_tokens ? from->max_tokens - set->n_tokens : 0;
    if (status == NIB_OK && from->and_text && left >= CALIB_SET_WINDOW)
        status = calib_set_text(set, l->words, calibration_text, calibration_text_bytes, left, err);
    return status;
}

nib_status tuned_read_set(calib_set *set, const loaded *l, const tuned_text *from, nib_error *err) {
    mapfile map = {0};
    if (!from->path)
        return calib_set_text(set, l->words, calibration_text, calibration_text_bytes, from->max_tokens, err);
    if (tuned_is_chats(from->path))
        return read_chats(set, l, from, err);
    NIB_TRY(tuned_open_text(&map, from->path, err));
    const nib_status status =
        calib_set_text(set, l->words, (const char *)map.bytes, map.size, from->max_tokens, err);
    mapfile_close(&map);
    return status;
}

/* What is not the model's answers is not lost among them. */
static nib_status count_evenly(tuned *t, nib_error *err) {
    const calib_set *s = &t->set;
    const size_t chats = s->starts[s->n_chats], text = s->starts[s->n_windows] - chats;
    if (text == 0 || text >= chats)
        return NIB_OK;
    t->counts = mem_array(s->n_windows, sizeof *t->counts);
    if (!t->counts)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for %zu windows", s->n_windows);
    for (size_t w = 0; w < s->n_windows; w++)
        t->counts[w] = w < s->n_chats ? 1 : (float)chats / (float)text;
    return NIB_OK;
}

static nib_status read_set(tuned *t, nib_error *err) {
    NIB_TRY(tuned_read_set(&t->set, t->l, &t->calib, err));
    if (t->even && t->set.n_chats)
        NIB_TRY(count_evenly(t, err));
    return t->set.n_windows > 1
               ? NIB_OK
               : nib_fail(err, NIB_BAD_ARGUMENT,
                          "%s: makes one window to calibrate with; expected 2 at least (more "
                          "conversations), since one is held out to judge",
                          t->calib.name);
}

char *tuned_journal_of(const char *out) {
    static const char suffix[] = ".tuning";
    size_t n = strlen(out);
    while (n > 1 && out[n - 1] == '/')
        n--;
    char *path = mem_alloc(n + sizeof suffix);
    if (path) {
        memcpy(path, out, n);
        memcpy(path + n, suffix, sizeof suffix);
    }
    return path;
}

void tuned_discard(const char *out) {
    char *path = tuned_journal_of(out);
    if (path)
        journal_discard(path);
    mem_free(path);
}

nib_status tuned_open(tuned *t, nib_error *err) {
    loaded_needs needs = {.no_model = true};
    nib_options compute = {.threads = t->threads, .activations = NIB_ACTIVATIONS_F32};
    NIB_TRY(model_file_need_network(t->file, err));
    NIB_TRY(loaded_open(&t->l, t->in, &compute, &needs, err));
    NIB_TRY(read_set(t, err));
    t->n_tokens = t->set.n_tokens;
    t->journal = tuned_journal_of(t->out);
    return t->journal ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "no memory for a path");
}

static void goes_on(void *context, int n_done, int n_layers) {
    const tuned *t = context;
    ui_bar_clear(t->bar);
    fprintf(stderr, "goes on from %s: %d of %d layers are done\n", t->journal, n_done, n_layers);
}

static tune_options options_of(tuned *t) {
    return (tune_options){.method = t->method,
                          .ids = t->set.ids,
                          .starts = t->set.starts,
                          .n_windows = t->set.n_windows,
                          .counts = t->counts,
                          .threads = t->threads,
                          .memory_bytes = ACTIVATION_BYTES,
                          .journal = t->journal,
                          .progress = ui_bar_progress(t->bar),
                          .goes_on = goes_on,
                          .context = t,
                          .interrupted = &cli_interrupted};
}

nib_status tuned_choose(void *context, convert_matrix *matrices, size_t n, nib_error *err) {
    tuned *t = context;
    double from = clock_seconds();
    t->matrices = mem_array(n, sizeof *t->matrices);
    if (!t->matrices)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for %zu matrices", n);
    t->n = n;
    for (size_t i = 0; i < n; i++)
        t->matrices[i] = (tune_matrix){.t = matrices[i].t,
                                       .slot = matrices[i].slot,
                                       .grid = matrices[i].to == DT_Q5_0 ? GPTQ_Q5_0 : GPTQ_NVFP4,
                                       .tensor_scale = matrices[i].tensor_scale,
                                       .fp8_exact = matrices[i].fp8_exact,
                                       .rank = matrices[i].rank};
    const tune_options o = options_of(t);
    NIB_TRY(tune_run(&t->t, t->file, t->l->be, t->matrices, n, &o, err));
    ui_bar_clear(t->bar);
    for (size_t i = 0; i < n; i++) {
        matrices[i].codes = t->matrices[i].codes;
        matrices[i].scales = t->matrices[i].scales;
        matrices[i].branch = t->matrices[i].branch;
    }
    t->seconds = clock_seconds() - from;
    return NIB_OK;
}

void tuned_close(tuned *t, bool done) {
    tune_close(t->t, done);
    loaded_close(t->l);
    calib_set_free(&t->set);
    mem_free(t->counts);
    mem_free(t->matrices);
    mem_free(t->journal);
    *t = (tuned){0};
}

void tuned_print(const tuned *t) {
    double logs = 0;
    size_t counts[N_WAYS] = {0}, n = 0;
    for (size_t i = 0; i < t->n; i++) {
        const tune_matrix *m = &t->matrices[i];
        counts[m->way]++;
        if (m->error > 0 && m->sweep_error > 0) {
            logs += log(m->error / m->sweep_error);
            n++;
        }
    }
    if (n)
        printf("On held-out text the outputs' squared error is %.2f of the sweep's (geometric mean of %zu "
               "layers); chosen by",
               exp(logs / (double)n), n);
    for (size_t w = 0, first = 1; n && w < N_WAYS; w++)
        if (counts[w]) {
            printf("%s %s: %zu", first ? "" : ",", ways[w], counts[w]);
            first = 0;
        }
    printf("%s", n ? "\n" : "");
}

void tuned_print_json(const tuned *t) {
    printf("[");
    for (size_t i = 0; i < t->n; i++) {
        const tune_matrix *m = &t->matrices[i];
        printf("%s\n  {\"name\": ", i ? "," : "");
        ui_json_string(stdout, m->t->name);
        printf(", \"way\": \"%s\", \"shrink\": %.2f, \"share\": %.2f, \"held_out_error\": %.9g, "
               "\"sweep_error\": %.9g}",
               ways[m->way], m->shrink, m->share, m->error, m->sweep_error);
    }
    printf("]");
}

/* ---- smoothing ---- */

nib_status tuned_smooth(tuned_smoothed *out, tuned *t, nib_error *err) {
    const double from = clock_seconds();
    const tune_options o = options_of(t);
    NIB_TRY(smoothing_find(&out->found, t->file, t->l->be, &o, err));
    ui_bar_clear(t->bar);
    const size_t n = 2 * (size_t)out->found.n_layers;
    out->powers = mem_array(n, sizeof *out->powers);
    if (!out->powers)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for %zu norms", n);
    for (size_t i = 0; i < n; i++)
        out->powers[i] = out->found.norms[i].powers;
    out->seconds = clock_seconds() - from;
    return NIB_OK;
}

void tuned_smoothed_print(const tuned_smoothed *s) {
    double logs = 0;
    size_t n = 0, moved = 0;
    for (int i = 0; i < 2 * s->found.n_layers; i++) {
        const smoothing_norm *norm = &s->found.norms[i];
        moved += norm->strength > 0;
        if (norm->error > 0 && norm->before > 0) {
            logs += log(norm->error / norm->before);
            n++;
        }
    }
    if (n)
        printf("Smoothed behind %zu of %d norms: with weights and activations in NVFP4 their matrices' "
               "outputs lose "
               "%.2f of what they would lose (geometric mean, held-out text)\n",
               moved, 2 * s->found.n_layers, exp(logs / (double)n));
}

void tuned_smoothed_print_json(const tuned_smoothed *s) {
    printf("[");
    for (int i = 0; i < 2 * s->found.n_layers; i++)
        printf("%s\n  {\"layer\": %d, \"before\": \"%s\", \"rule\": \"%s\", \"strength\": %.2f, \"error\": "
               "%.9g, "
               "\"unsmoothed\": %.9g}",
               i ? "," : "", i / 2, i % 2 ? "mlp" : "attention", smooth_rules[s->found.norms[i].rule],
               s->found.norms[i].strength, s->found.norms[i].error, s->found.norms[i].before);
    printf("]");
}

void tuned_smoothed_free(tuned_smoothed *s) {
    smoothing_free(&s->found);
    mem_free(s->powers);
    *s = (tuned_smoothed){0};
}
