/* SPDX-License-Identifier: Apache-2.0
 *
 * nibble quantize: a model file or directory in, a quantized one out, and a short report (quantize_report.h).
 */
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/cores.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/files.h"
#include "cli/own_answers.h"
#include "cli/plan.h"
#include "cli/plan_measure.h"
#include "cli/quantize_args.h"
#include "cli/quantize_report.h"
#include "cli/scratch.h"
#include "cli/tuned.h"
#include "cli/ui.h"
#include "convert/convert.h"
#include "engine/loaded.h"
#include "eval/calibrate.h"
#include "eval/imatrix.h"
#include "nouns/family.h"

#define MAX_CALIBRATION_TOKENS ((size_t)49152)
#define AUTO_GPTQ_WEIGHTS      150000000.0 /* of linear layers: about a minute on two cores */
#define ASKED_WEIGHTS          1e9         /* of linear layers of a model that has time to answer questions */
#define ASKED_TOKENS           2048 /* of a calibration that has room for the text beside the answers */

/* ---- calibration ---- */

typedef struct quantize_session {
    quantize_args *args;
    model_file *file;
    input_stats stats; /* of the calibration, or of --imatrix; nothing: not asked for yet */
    importance heed;
    size_t n_tokens; /* of the calibration */
    double calibrate_s;
    const char *sweep_note;   /* why auto took sweep, or NULL */
    const char *unasked_note; /* why the program's own questions were not answered, or NULL */
    nib_error sweep_reason, unasked_reason;
    method_choice used; /* of METHODS, with auto decided */
    tuned tuned;
    tuned_smoothed smoothed;
    scratch scratch;
    char *answered;         /* in it: the calibration with the model's own answers */
    const char *calib;      /* args->calib, or that */
    const char *calib_name; /* in sentences */
    size_t chat_tokens;     /* of it, where it holds conversations */
    own_answered own;       /* what the model was asked for it */
    char *copy;             /* in it: the source smoothed, in BF16; FILE is then of it */
    const char *in;         /* FILE's path: args->in, or the copy */
    convert_report copied;
    float *reach; /* for --input-scale and --kv-scales */
    plan plan;
    double spare_bits; /* that --size leaves for it */
    ui_bar bar;
    convert_report report;
} quantize_session;

static tuned_text text_of(const quantize_session *s) {
    return (tuned_text){.path = s->calib,
                        .name = s->calib_name,
                        .and_text = s->own.n > 0,
                        .max_tokens = s->args->calib_tokens,
                        .chat_tokens = s->chat_tokens};
}

static nib_status run_calibration(quantize_session *s, nib_error *err) {
    const double from = clock_seconds();
    const quantize_args *a = s->args;
    const loaded_needs needs = {.no_model = true};
    const nib_options compute = {.threads = a->convert.threads, .activations = NIB_ACTIVATIONS_F32};
    const tuned_text text = text_of(s);
    const calibrate_options o = {.looks = s->used == METHOD_LOCAL || quantize_has_reach(a),
                                 .threads = a->convert.threads,
                                 .progress = ui_bar_progress(&s->bar),
                                 .interrupted = &cli_interrupted};
    calib_set set = {0};
    loaded *l;
    NIB_TRY(loaded_open(&l, s->in, &compute, &needs, err));
    nib_status status = tuned_read_set(&set, l, &text, err);
    if (status == NIB_OK)
        status = calibrate(&s->stats, l->file, l->be, &set, &o, err);
    s->n_tokens = set.n_tokens;
    ui_bar_clear(&s->bar);
    loaded_close(l);
    calib_set_free(&set);
    s->calibrate_s += clock_seconds() - from;
    return status;
}

static nib_status read_imatrix(quantize_session *s, nib_error *err) {
    const quantize_args *a = s->args;
    const imatrix_needs needs = {.blocks = s->used == METHOD_LOCAL ? "--method local" : NULL,
                                 .peaks = a->convert.input_room > 0 ? "--input-scale" : NULL,
                                 .keys = a->convert.kv_scales ? "--kv-scales" : NULL,
                                 .head = a->convert.head == HEAD_NVFP4 || a->convert.head == HEAD_Q5_0};
    imatrix_about about;
    NIB_TRY(imatrix_read(&s->stats, s->file, a->imatrix, &about, err));
    s->n_tokens = about.n_tokens;
    return imatrix_check(&s->stats, s->file, a->imatrix, &needs, err);
}

/* What the inputs look like: once, for all who ask. */
static nib_status look_at_inputs(quantize_session *s, nib_error *err) {
    if (s->stats.of)
        return NIB_OK;
    NIB_TRY(model_file_need_network(s->file, err));
    NIB_TRY(s->args->imatrix ? read_imatrix(s, err) : run_calibration(s, err));
    return input_stats_importance(&s->heed, &s->stats, &s->file->hp, s->used == METHOD_LOCAL, err);
}

static tuned tuned_of(quantize_session *s, tune_method method) {
    return (tuned){.file = s->file,
                   .in = s->in,
                   .out = s->args->out,
                   .calib = text_of(s),
                   .even = !s->args->calib,
                   .method = method,
                   .threads = s->args->convert.threads,
                   .bar = &s->bar};
}

static nib_status open_tuned(quantize_session *s, method_choice method, nib_error *err) {
    const quantize_args *a = s->args;
    s->tuned = tuned_of(s, method == METHOD_BEST ? TUNE_BEST : TUNE_GPTQ);
    NIB_TRY(tuned_open(&s->tuned, err));
    s->args->convert.choose = tuned_choose;
    s->args->convert.choose_context = &s->tuned;
    s->args->convert.choose_path = s->tuned.journal;
    return convert_try_output(s->file, a->out, &a->convert, err); /* with room for what is kept beside it */
}

static double linear_weights(const model_file *file) {
    double weights = 0;
    for (size_t i = 0; i < file->n_tensors; i++) {
        const tensor *t = &file->tensors[i];
        if (place_is_linear(t->place.slot))
            weights += (double)t->rows * (double)t->cols;
    }
    return weights;
}

/* The best method that a model of this size has time for. */
static method_choice auto_method(const quantize_session *s) {
    const quantize_args *a = s->args;
    if ((a->convert.format != QF_NVFP4 && a->convert.format != QF_Q5_0) || a->imatrix)
        return METHOD_WEIGHTED;
    if (a->convert.svd_rank) /* whose codes are chosen layer by layer */
        return METHOD_GPTQ;
    return linear_weights(s->file) <= AUTO_GPTQ_WEIGHTS ? METHOD_GPTQ : METHOD_WEIGHTED;
}

static nib_status prepare_method(quantize_session *s, nib_error *err) {
    if (s->used < METHOD_WEIGHTED || !convert_quantizes(s->file, &s->args->convert))
        return NIB_OK;
    if (!quantize_is_tuned(s->used))
        return look_at_inputs(s, err);
    NIB_TRY(open_tuned(s, s->used, err));
    if (quantize_has_budget(s->args)) /* what a part costs is measured with weighted codes */
        NIB_TRY(look_at_inputs(s, err));
    s->n_tokens = s->tuned.n_tokens;
    return NIB_OK;
}

/* FP8, Q8_0 and BF16: no block scales to choose. */
static bool has_no_choice(const quantize_args *a) {
    return a->convert.format == QF_FP8 || a->convert.format == QF_Q8_0 || a->convert.format == QF_BF16;
}

/* What auto stands for. */
static void settle_method(quantize_session *s) {
    const quantize_args *a = s->args;
    s->used = has_no_choice(a) ? METHOD_RTN : a->method != METHOD_AUTO ? a->method : auto_method(s);
}

/* What the method needs. */
static nib_status choose_method(quantize_session *s, nib_error *err) {
    quantize_args *a = s->args;
    convert_options *c = &a->convert;
    static const quant_method of[] = {
        [METHOD_RTN] = QM_RTN,           [METHOD_SWEEP] = QM_SWEEP, [METHOD_4OVER6] = QM_FOUR_OVER_SIX,
        [METHOD_WEIGHTED] = QM_WEIGHTED, [METHOD_LOCAL] = QM_LOCAL, [METHOD_GPTQ] = QM_SWEEP,
        [METHOD_BEST] = QM_SWEEP};
    c->importance = &s->heed;
    c->method = QM_RTN;
    if (has_no_choice(a))
        return NIB_OK;
    c->method = QM_SWEEP;
    nib_status status = prepare_method(s, err);
    const bool may_sweep = a->method == METHOD_AUTO && !a->calib && !a->imatrix && !c->svd_rank;
    if (status == NIB_UNSUPPORTED && may_sweep) {
        s->sweep_reason = *err; /* a model that nibble does not run is swept */
        s->sweep_note = s->sweep_reason.text;
        s->used = METHOD_SWEEP;
        status = NIB_OK;
    }
    c->method = s->heed.mean_squares || s->used < METHOD_WEIGHTED ? of[s->used] : QM_SWEEP;
    return status;
}

/* ---- what is made of the input first ---- */

/* *path: NAME in a directory that goes with the session. */
static nib_status open_path(quantize_session *s, char **path, const char *name, nib_error *err) {
    if (!s->scratch.directory)
        NIB_TRY(scratch_open(&s->scratch, s->args->out, err));
    *path = scratch_path(&s->scratch, name);
    return *path ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "%s: out of memory", s->args->out);
}

/* Conversations that end with a question are answered by the model. */
static nib_status answer_questions(quantize_session *s, nib_error *err) {
    const quantize_args *a = s->args;
    NIB_TRY(open_path(s, &s->answered, "answered.jsonl", err));
    const own_asked asked = {.path = a->calib,
                             .in = a->in,
                             .out = s->answered,
                             .max_tokens = s->chat_tokens,
                             .threads = a->convert.threads,
                             .bar = &s->bar};
    const nib_status status = own_answers(&asked, &s->own, err);
    if (!a->calib && (status == NIB_UNSUPPORTED || status == NIB_BAD_FILE || status == NIB_BAD_ARGUMENT)) {
        s->unasked_reason = *err; /* a model with a template that nibble does not render: by the text alone */
        s->unasked_note = s->unasked_reason.text;
        s->own = (own_answered){0};
        return NIB_OK;
    }
    if (s->own.n && (a->calib || s->own.n_ended))
        s->calib = s->answered;
    return status;
}

/* Does the model answer the program's own questions? */
static bool asks_own(const quantize_session *s) {
    const quantize_args *a = s->args;
    return a->method == METHOD_BEST && !a->calib && a->calib_tokens >= ASKED_TOKENS &&
           s->file->words.chat_template.n && linear_weights(s->file) <= ASKED_WEIGHTS;
}

/* The last name of PATH, which an output made of it may be called by. */
static void last_part(const char *path, char *name, size_t room) {
    size_t end = strlen(path), begin;
    while (end > 0 && path[end - 1] == '/')
        end--;
    for (begin = end; begin > 0 && path[begin - 1] != '/';)
        begin--;
    snprintf(name, room, "%.*s", (int)(end - begin), path + begin);
    if (!*name || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
        snprintf(name, room, "model");
}

/* The smoothed copy is of the source's kind where that can hold it. */
static convert_options copy_options(quantize_session *s) {
    const convert_options *c = &s->args->convert;
    const bool gguf =
        s->file->format == FORMAT_GGUF || family_get(s->file->hp.family)->defaults.norm_plus_one;
    return (convert_options){.format = QF_BF16,
                             .method = QM_RTN,
                             .embed = c->embed,
                             .out = gguf ? OUT_GGUF : OUT_MODELOPT,
                             .smoothing = s->smoothed.powers,
                             .threads = c->threads,
                             .progress = ui_bar_progress(&s->bar),
                             .interrupted = &cli_interrupted};
}

/* A name for the copy, and room for it. */
static nib_status prepare_copy(quantize_session *s, nib_error *err) {
    char name[256];
    const convert_options o = copy_options(s);
    last_part(s->args->in, name, sizeof name);
    NIB_TRY(open_path(s, &s->copy, name, err));
    return convert_try_output(s->file, s->copy, &o, err);
}

/* What comes then is of the copy. */
static nib_status stand_on_copy(quantize_session *s, nib_error *err) {
    const convert_options o = copy_options(s);
    NIB_TRY(convert(s->file, s->copy, &o, &s->copied, err));
    s->args->convert.smoothing = NULL;
    tuned_close(&s->tuned, true);
    model_file *copy;
    NIB_TRY(model_file_open(&copy, s->copy, err));
    const nib_status status = plan_move(&s->plan, s->file, copy, err);
    model_file_close(s->file);
    s->file = copy;
    s->in = s->copy;
    s->args->convert.formats = s->plan.formats;
    return status;
}

static nib_status prepare_smoothing(quantize_session *s, nib_error *err) {
    const quantize_args *a = s->args;
    if (a->convert.out != OUT_GGUF && family_get(s->file->hp.family)->defaults.norm_plus_one)
        return nib_fail(
            err, NIB_UNSUPPORTED,
            "%s: its norms are stored as w of 1 + w, which a directory in BF16 could not hold smoothed; "
            "write a .gguf file",
            a->out);
    return a->convert.format != QF_BF16 ? prepare_copy(s, err) : NIB_OK;
}

static nib_status smooth(quantize_session *s, nib_error *err) {
    s->tuned = tuned_of(s, TUNE_GPTQ);
    NIB_TRY(tuned_open(&s->tuned, err));
    NIB_TRY(tuned_smooth(&s->smoothed, &s->tuned, err));
    s->n_tokens = s->tuned.n_tokens;
    s->calibrate_s = s->smoothed.seconds;
    s->args->convert.smoothing = s->smoothed.powers;
    return s->copy ? stand_on_copy(s, err) : NIB_OK;
}

/* The largest inputs, for static scales of them. */
static nib_status find_reach(quantize_session *s, nib_error *err) {
    if (!quantize_has_reach(s->args))
        return NIB_OK;
    tuned_close(&s->tuned, true); /* smoothing's, where no copy was made */
    NIB_TRY(look_at_inputs(s, err));
    NIB_TRY(input_stats_reach(&s->reach, &s->stats, err));
    s->args->convert.reach = s->reach;
    return NIB_OK;
}

static plan_options plan_options_of(quantize_session *s) {
    const quantize_args *a = s->args;
    return (plan_options){.in = s->in,
                          .out = a->out,
                          .calib = a->calib ? s->calib : NULL,
                          .calib_name = s->calib_name,
                          .max_tokens = a->calib_tokens,
                          .bits = a->bits,
                          .size_bytes = a->size,
                          .spare_bits = s->spare_bits,
                          .convert = &a->convert,
                          .apart = a->apart,
                          .heed = &s->heed,
                          .bar = &s->bar};
}

/* What a wanted size leaves, before anything is computed. */
static nib_status look_at_size(quantize_session *s, nib_error *err) {
    const plan_options o = plan_options_of(s);
    return s->args->size ? plan_measure_spare(&s->spare_bits, s->file, &o, err) : NIB_OK;
}

/* Which layers get how many bits. */
static nib_status make_plan(quantize_session *s, nib_error *err) {
    const quantize_args *a = s->args;
    const plan_options o = plan_options_of(s);
    if (!quantize_has_budget(a))
        return NIB_OK;
    NIB_TRY(plan_choose(&s->plan, s->file, &o, err));
    s->args->convert.formats = s->plan.formats;
    return a->save_plan ? plan_write(&s->plan, a->save_plan, err) : NIB_OK;
}

/* ---- report ---- */

/* What chose the codes; convert's default where nothing was chosen means nothing. */
static const char *method_text(const quantize_session *s) {
    quant_format f = s->args->convert.format;
    if (s->report.n_quantized == 0)
        return s->report.n_repacked ? "repacked" : "carried over";
    return f == QF_FP8 || f == QF_Q8_0 || f == QF_BF16 ? "nearest" : quantize_method_name(s->used);
}

/* What was there before is the source's, not its copy's. */
static void tell_source(quantize_session *s) {
    const convert_report *source = &s->copied;
    if (!s->copy)
        return;
    s->report.bytes_before = source->bytes_before;
    for (int i = 0; i < s->report.n_groups; i++)
        for (int j = 0; j < source->n_groups; j++)
            if (source->groups[j].slot == s->report.groups[i].slot) {
                s->report.groups[i].from = source->groups[j].from;
                s->report.groups[i].bytes_before = source->groups[j].bytes_before;
            }
}

static nib_status print(quantize_session *s, nib_error *err) {
    const quantize_args *a = s->args;
    tell_source(s);
    const quantize_report r = {.in = a->in,
                               .out = a->out,
                               .plan_path = a->plan ? a->plan : a->save_plan,
                               .format = s->plan.formats ? "mixed" : quantize_format_name(a->convert.format),
                               .method = method_text(s),
                               .asked = a->method == METHOD_AUTO ? NULL : quantize_method_name(a->method),
                               .sweep_note = s->sweep_note,
                               .unasked_note = s->unasked_note,
                               .fp8_exact = a->convert.fp8_exact,
                               .to_gguf = a->convert.out == OUT_GGUF,
                               .imatrix = a->imatrix != NULL,
                               .n_tokens = s->n_tokens,
                               .own = s->own,
                               .calibrate_s = s->calibrate_s + s->tuned.seconds,
                               .convert_s = s->report.seconds - s->tuned.seconds,
                               .tuned = &s->tuned,
                               .smoothed = &s->smoothed,
                               .plan = &s->plan,
                               .size = a->size,
                               .done = &s->report};
    return quantize_report_print(&r, a->json, err);
}

/* ---- all of it ---- */

/* The plan replaces nothing that is read, and can be written; convert sees to OUT. */
static nib_status check_save_plan(const quantize_args *a, nib_error *err) {
    const char *const read[] = {a->in, a->calib, a->imatrix};
    for (size_t i = 0; a->save_plan && i < sizeof read / sizeof *read; i++)
        NIB_TRY(files_check_output(a->save_plan, read[i], err));
    return a->save_plan ? files_try_output(a->save_plan, err) : NIB_OK;
}

/* For the output, and for the codes that are kept beside it by a method that was asked for by name. */
static nib_status ask_for_room(const quantize_session *s, nib_error *err) {
    const quantize_args *a = s->args;
    convert_options o = a->convert;
    char *journal = NULL;
    if (quantize_is_tuned(a->method)) {
        journal = tuned_journal_of(a->out);
        if (!journal)
            return nib_fail(err, NIB_NO_MEMORY, "no memory for a path");
        o.choose = tuned_choose;
        o.choose_path = journal;
    }
    const nib_status status = convert_try_output(s->file, a->out, &o, err);
    mem_free(journal);
    return status;
}

static nib_status prepare_input(quantize_session *s, nib_error *err) {
    const quantize_args *a = s->args;
    const bool calibrates = a->smooth || convert_quantizes(s->file, &a->convert);
    const bool chats = calibrates && (a->calib ? tuned_is_chats(a->calib) : asks_own(s));
    if (chats || a->smooth) /* before it takes long */
        NIB_TRY(ask_for_room(s, err));
    if (a->smooth)
        NIB_TRY(prepare_smoothing(s, err));
    if (chats)
        NIB_TRY(answer_questions(s, err));
    return a->smooth ? smooth(s, err) : NIB_OK;
}

static nib_status run(quantize_session *s, nib_error *err) {
    quantize_args *a = s->args;
    NIB_TRY(check_save_plan(a, err));
    s->in = a->in;
    s->calib = a->calib;
    s->calib_name = a->calib ? a->calib : OWN_QUESTIONS;
    NIB_TRY(model_file_open(&s->file, a->in, err));
    a->convert.keep = a->keep;
    a->convert.also_read[0] = a->calib ? a->calib : a->imatrix;
    a->convert.also_read[1] = a->plan;
    if (a->calib_tokens == 0)
        a->calib_tokens = MAX_CALIBRATION_TOKENS;
    s->chat_tokens = a->calib ? a->calib_tokens : a->calib_tokens / 4 * 3; /* room for the text */
    if (a->convert.threads == 0)
        a->convert.threads = cores_physical();
    if (a->plan)
        NIB_TRY(plan_read(&s->plan, s->file, a->plan, err));
    a->convert.formats = s->plan.formats;
    NIB_TRY(prepare_input(s, err));
    NIB_TRY(convert_try_output(s->file, a->out, &a->convert, err));
    settle_method(s);
    NIB_TRY(find_reach(s, err));
    NIB_TRY(look_at_size(s, err));
    NIB_TRY(choose_method(s, err));
    NIB_TRY(make_plan(s, err));
    a->convert.progress = ui_bar_progress(&s->bar);
    a->convert.interrupted = &cli_interrupted;
    NIB_TRY(convert(s->file, a->out, &a->convert, &s->report, err));
    ui_bar_clear(&s->bar);
    return print(s, err);
}

static int tell_failure(const quantize_session *s, nib_status status, const nib_error *err) {
    const char *journal = s->tuned.journal;
    if (status == NIB_CANCELLED && journal && access(journal, F_OK) == 0)
        return cli_say(
            CLI_INTERRUPTED + cli_interrupted,
            "interrupted; what was chosen so far is kept in %s: the same command goes on from there",
            journal);
    return cli_fail(status, err);
}

int cmd_quantize(int argc, char **argv) {
    quantize_args args = {0};
    quantize_args_parse(&args, argc, argv);
    quantize_session session = {.args = &args};
    nib_error err = {{0}};
    cli_catch_interrupt(false);
    nib_status status = run(&session, &err);
    ui_bar_clear(&session.bar);
    const int failed = status == NIB_OK ? CLI_OK : tell_failure(&session, status, &err);
    tuned_close(&session.tuned, status == NIB_OK);
    if (status == NIB_OK)
        tuned_discard(args.out);
    tuned_smoothed_free(&session.smoothed);
    plan_free(&session.plan);
    input_stats_free(&session.stats);
    input_stats_forget(&session.heed);
    model_file_close(session.file);
    mem_free(session.copy);
    mem_free(session.reach);
    mem_free(session.answered);
    scratch_close(&session.scratch);
    quantize_args_free(&args);
    return cli_finish_output(failed);
}
