/* SPDX-License-Identifier: Apache-2.0
 *
 * nibble eval: perplexity of a text, or KL divergence from a base model. The numbers are made in eval/; here
 * are the flags and the two ways to print.
 */
#include <stdio.h>
#include <string.h>

#include "base/mapfile.h"
#include "base/mem.h"
#include "cli/cli.h"
#include "cli/emulated.h"
#include "cli/files.h"
#include "cli/ui.h"
#include "engine/loaded.h"
#include "eval/eval.h"
#include "eval/kldfile.h"
#include "eval/weight_format.h"

#define MAX_CTX     131072
#define DEFAULT_CTX 512
#define TOO_LONG    "windows of %d tokens are longer than --max-model-len %d"

typedef struct eval_args {
    bool kld;
    const char *model, *text, *base, *save_base;
    int n_ctx, n_chunks; /* 0: not given */
    bool json;
    emulated compute; /* of MODEL */
    const char *weights;
    weight_format format; /* where WEIGHTS is given */
} eval_args;

enum { KEY_TEXT = 0x3000, KEY_BASE, KEY_SAVE_BASE, KEY_CHUNKS, KEY_WEIGHTS, KEY_JSON };

static const struct argp_option options[] = {
    {"text", KEY_TEXT, "FILE", 0, "The text to score; -: standard input", 1},
    {"base", KEY_BASE, "BASE", 0,
     "kld: compare with this model, computed exactly, or with a file that --save-base wrote", 1},
    {"save-base", KEY_SAVE_BASE, "FILE", 0,
     "kld: compute MODEL exactly (unless flags say otherwise) and store its distributions in FILE", 1},
    {"ctx", 'c', "N", 0, "Tokens of a window (default 512)", 1},
    {"chunks", KEY_CHUNKS, "N", 0, "Score the first N windows (default: all)", 1},
    {"weights", KEY_WEIGHTS, "FORMAT", 0,
     "Round MODEL's linear layers to this format first: nvfp4, mxfp4, nf4, nf4:double, or "
     "ELEMENT[:GROUP[:SCALE]][:best], with "
     "elements e2m1, e1m2, e3m0, int4, nf4, e4m3, e5m2, groups of 8 to 4096 columns, row or tensor, scales "
     "f32, f16, "
     "e4m3, e8m0, e8m0-ceil",
     1},
    {"json", KEY_JSON, NULL, 0, "Print JSON", 1},
    {0}};

static const cli_member members[] = {
    {KEY_TEXT, CLI_WORD, offsetof(eval_args, text), NULL, 0, 0},
    {KEY_BASE, CLI_WORD, offsetof(eval_args, base), NULL, 0, 0},
    {KEY_SAVE_BASE, CLI_WORD, offsetof(eval_args, save_base), NULL, 0, 0},
    {KEY_JSON, CLI_SWITCH, offsetof(eval_args, json), NULL, 0, 0},
    {'c', CLI_INT, offsetof(eval_args, n_ctx), "--ctx", 8, MAX_CTX},
    {KEY_CHUNKS, CLI_INT, offsetof(eval_args, n_chunks), "--chunks", 1, 1 << 24},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    eval_args *a = state->input;
    int n_ctx;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->compute;
        return 0;
    case KEY_WEIGHTS:
        if (!weight_format_parse(&a->format, arg))
            argp_error(
                state,
                "--weights takes ELEMENT[:GROUP[:SCALE]][:best] as --help says, groups being powers of two "
                "from 8 to 4096, not '%s'",
                arg);
        a->weights = arg;
        return 0;
    case ARGP_KEY_ARG:
        if (state->arg_num == 0) {
            static const char *const kinds[] = {"ppl", "kld", NULL};
            a->kld = cli_choice_flag(state, "eval", arg, kinds) == 1;
        } else {
            cli_one_argument(state, "MODEL", arg, &a->model);
        }
        return 0;
    case ARGP_KEY_END:
        if (!a->model)
            argp_error(state, "expected ppl or kld, and a MODEL");
        if (!a->text)
            argp_error(state, "--text FILE is missing");
        if (!a->kld && (a->base || a->save_base))
            argp_error(state, "--base and --save-base belong to kld");
        if (a->kld && !a->base == !a->save_base)
            argp_error(state, a->base ? "--base compares and --save-base stores; kld does one of them"
                                      : "kld needs --base or --save-base");
        n_ctx = a->n_ctx ? a->n_ctx : a->base ? 0 : DEFAULT_CTX; /* a base's file has its own */
        if (a->compute.options.max_model_len && n_ctx > a->compute.options.max_model_len)
            argp_error(state, TOO_LONG, n_ctx, a->compute.options.max_model_len);
        return 0;
    default:
        return cli_store(state, members, key, arg) ? 0 : ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {{&emulated_argp, 0, NULL, 0}, {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .args_doc = "ppl|kld MODEL --text FILE",
    .doc = "Measures how well MODEL predicts a text (ppl: perplexity), or how far its predictions are from "
           "those "
           "of a base model (kld: KL divergence), by llama-perplexity's convention: windows of --ctx tokens, "
           "the "
           "second half of each scored.\v"
           "Examples:\n"
           "  nibble eval ppl gemma-nvfp4 --text wiki.test.txt --chunks 60\n"
           "  nibble eval kld gemma-nvfp4 --base gemma.gguf --text wiki.test.txt --chunks 60\n"
           "  nibble eval kld gemma.gguf --save-base gemma.kld --text wiki.test.txt --chunks 60\n"
           "  nibble eval kld gemma-nvfp4 --base gemma.kld --text wiki.test.txt --chunks 60\n"
           "  nibble eval kld gemma-nvfp4 --base gemma.kld --text wiki.test.txt --activations nvfp4",
    .children = children,
};

/* What one run has open. */
typedef struct eval_session {
    const eval_args *args;
    loaded *model, *base;
    weight_format_made *rounded; /* MODEL's linear layers */
    double weight_bits;
    mapfile text_file;
    char *typed;            /* of standard input */
    const char *text_bytes; /* [n_text] of either */
    size_t n_text;
    eval_text text;
    eval_options options;
    ui_bar bar;
} eval_session;

static nib_status open_model(loaded **out, const char *path, emulated compute, int n_ctx, bool exact,
                             nib_error *err) {
    nib_options *o = &compute.options;
    if (exact && o->activations == NIB_ACTIVATIONS_AUTO)
        o->activations = NIB_ACTIVATIONS_F32;
    if (exact && o->kv_cache == NIB_KV_AUTO)
        o->kv_cache = NIB_KV_FP32;
    model_limits l = eval_limits(n_ctx, o->kv_cache);
    loaded_needs needs = {.max_rows = l.max_rows,
                          .max_out = l.max_out,
                          .max_len = l.n_pages[0] * KV_PAGE_TOKENS,
                          .n_kv_pages = l.n_pages[0]};
    NIB_TRY(emulated_backend(&needs.be, &compute, err));
    NIB_TRY(loaded_open(out, path, o, &needs, err));
    if (needs.be)
        (*out)->threads = cpu_threads(needs.be);
    return emulated_check(&compute, *out, err);
}

/* The base computes exactly whatever MODEL's flags are; threads and CPU rung stay. */
static nib_status open_base(eval_session *s, int n_ctx, nib_error *err) {
    emulated compute = {.options = s->args->compute.options};
    compute.options.activations = NIB_ACTIVATIONS_F32;
    compute.options.kv_cache = NIB_KV_FP32;
    const nib_status status = open_model(&s->base, s->args->base, compute, n_ctx, true, err);
    const size_t used = strlen(err->text);
    if (status == NIB_BAD_FILE)
        snprintf(err->text + used, sizeof err->text - used,
                 "; --base takes a model, or a file that --save-base wrote");
    NIB_TRY(status);
    if (tokenizer_vocab(s->base->words) != tokenizer_vocab(s->model->words))
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "%s has a vocabulary of %zu tokens and %s of %zu; expected the same", s->args->base,
                        tokenizer_vocab(s->base->words), s->args->model, tokenizer_vocab(s->model->words));
    return NIB_OK;
}

/* Side by side both models read the same ids: they must be the ids of both. */
static nib_status check_base_words(const eval_session *s, nib_error *err) {
    const eval_args *a = s->args;
    eval_text text;
    NIB_TRY(eval_text_open(&text, s->base->words, s->text_bytes, s->n_text, s->text.n_ctx, s->text.n_chunks,
                           a->text, err));
    nib_status status = eval_text_compare(&s->text, &text, a->text, a->model, a->base, err);
    eval_text_close(&text);
    return status;
}

static bool base_is_file(const eval_args *a) {
    return a->base && kldfile_is(a->base);
}

/* A file is mapped, standard input is read; perplexity of what is no text would mean nothing. */
static nib_status open_text(eval_session *s, nib_error *err) {
    if (strcmp(s->args->text, "-") == 0) {
        NIB_TRY(files_read_text(s->args->text, &s->typed, &s->n_text, err));
        s->text_bytes = s->typed;
        return NIB_OK;
    }
    NIB_TRY(mapfile_open(&s->text_file, s->args->text, err));
    s->text_bytes = (const char *)s->text_file.bytes;
    s->n_text = s->text_file.size;
    return files_check_text(s->args->text, s->text_bytes, s->n_text, err);
}

static nib_status session_open(eval_session *s, nib_error *err) {
    const eval_args *a = s->args;
    int n_ctx = a->n_ctx, n_chunks = a->n_chunks;
    if (base_is_file(a)) {
        int file_ctx, file_chunks;
        NIB_TRY(eval_kld_file_shape(a->base, &file_ctx, &file_chunks, err));
        n_ctx = n_ctx ? n_ctx : file_ctx;
        n_chunks = n_chunks ? n_chunks : file_chunks;
    }
    n_ctx = n_ctx ? n_ctx : DEFAULT_CTX;
    if (a->compute.options.max_model_len && n_ctx > a->compute.options.max_model_len)
        return nib_fail(err, NIB_BAD_ARGUMENT, TOO_LONG, n_ctx, a->compute.options.max_model_len);
    NIB_TRY(open_text(s, err));
    NIB_TRY(open_model(&s->model, a->model, a->compute, n_ctx, a->save_base != NULL, err));
    if (a->weights)
        NIB_TRY(weight_format_apply(&s->rounded, &a->format, s->model->model, s->model->file,
                                    s->model->threads, &s->weight_bits, err));
    if (a->base && !base_is_file(a))
        NIB_TRY(open_base(s, n_ctx, err));
    if (n_ctx > s->model->file->hp.context_len)
        cli_say(CLI_OK, "note: %s was made for %d tokens, and the windows have %d", a->model,
                s->model->file->hp.context_len, n_ctx);
    s->options = (eval_options){
        .threads = s->model->threads, .progress = ui_bar_progress(&s->bar), .stop = &cli_interrupted};
    NIB_TRY(
        eval_text_open(&s->text, s->model->words, s->text_bytes, s->n_text, n_ctx, n_chunks, a->text, err));
    return s->base ? check_base_words(s, err) : NIB_OK;
}

static void session_close(eval_session *s) {
    eval_text_close(&s->text);
    loaded_close(s->base);
    loaded_close(s->model);
    weight_format_free(s->rounded);
    mapfile_close(&s->text_file);
    mem_free(s->typed);
}

static void print_head(const eval_session *s, size_t n_scored, double seconds) {
    const eval_args *a = s->args;
    const loaded *l = s->model;
    if (a->json) {
        printf("{\n  \"model\": ");
        ui_json_string(stdout, a->model);
        if (a->weights)
            printf(",\n  \"weights\": \"%s\",\n  \"weight_bits\": %.4f", a->weights, s->weight_bits);
        printf(",\n  \"compute\": ");
        ui_json_string(stdout, l->be->path);
        printf(",\n  \"activations\": \"%s\",\n  \"kv_cache_dtype\": \"%s\",\n  \"text\": ",
               emulated_activations_name(&a->compute, l), emulated_kv_name(&a->compute, l));
        ui_json_string(stdout, a->text);
        if (a->compute.rotate_qk)
            printf(",\n  \"rotate_qk\": %d", emulated_order(&a->compute, l));
        printf(",\n  \"ctx\": %d,\n  \"chunks\": %d,\n  \"scored\": %zu,\n  \"seconds\": %.2f", s->text.n_ctx,
               s->text.n_chunks, n_scored, seconds);
        return;
    }
    printf("model      %s\n", a->model);
    if (a->weights)
        printf("weights    linear layers rounded to %s, %.3f bits\n", a->weights, s->weight_bits);
    printf("computed   %s, KV cache %s", l->be->path, emulated_kv_name(&a->compute, l));
    if (a->compute.rotate_qk)
        printf(" by a matrix of order %d", emulated_order(&a->compute, l));
    putchar('\n');
    if (s->base)
        printf("base       %s (%s, KV cache %s)\n", a->base, s->base->be->path,
               cli_kv_name(s->base->options.kv_cache));
    else if (a->base)
        printf("base       %s\n", a->base);
    printf("text       %s: %d window%s of %d tokens, %zu scored, %.1f s\n\n", a->text, s->text.n_chunks,
           s->text.n_chunks == 1 ? "" : "s", s->text.n_ctx, n_scored, seconds);
}

static void print_mean(bool json, const char *key, const char *title, eval_mean m, double factor, int digits,
                       const char *unit) {
    if (json)
        printf(",\n  \"%s\": %.*f,\n  \"%s_error\": %.*f", key, digits, m.value * factor, key, digits,
               m.error * factor);
    else
        printf("%-26s %12.*f ± %.*f%s\n", title, digits, m.value * factor, digits, m.error * factor, unit);
}

static void print_percentiles(bool json, const char *key, const char *title, const double *at, double factor,
                              int digits, const char *unit) {
    if (json)
        printf(",\n  \"%s_percentiles\": {", key);
    for (int i = 0; i < EVAL_N_PERCENTILES; i++) {
        double percent = eval_permille[i] / 10.0;
        char name[40];
        if (json) {
            printf("%s\"%g\": %.*f", i ? ", " : "", percent, digits, at[i] * factor);
            continue;
        }
        if (eval_permille[i] == 1000 || eval_permille[i] == 0 || eval_permille[i] == 500)
            snprintf(name, sizeof name, "%s %s",
                     eval_permille[i] == 500 ? "Median"
                     : i                     ? "Minimum"
                                             : "Maximum",
                     title);
        else
            snprintf(name, sizeof name, "%g%% %s", percent, title);
        printf("%-26s %12.*f%s\n", name, digits, at[i] * factor, unit);
    }
    if (json)
        putchar('}');
}

static void print_ppl(const eval_session *s, const eval_ppl_result *r) {
    print_head(s, r->n_scored, r->seconds);
    print_mean(s->args->json, "ppl", "PPL", r->ppl, 1, 4, "");
    if (s->args->json)
        puts("\n}");
}

static void print_kld(const eval_session *s, const eval_kld_result *r) {
    bool json = s->args->json;
    print_head(s, r->n_scored, r->seconds);
    if (json) {
        printf(",\n  \"base\": ");
        ui_json_string(stdout, s->args->base);
    }
    print_mean(json, "ppl", "PPL of the model", r->ppl, 1, 6, "");
    print_mean(json, "ppl_base", "PPL of the base", r->ppl_base, 1, 6, "");
    print_mean(json, "ppl_ratio", "PPL ratio", r->ppl_ratio, 1, 6, "");
    print_mean(json, "log_ppl_ratio", "ln(PPL ratio)", r->log_ratio, 1, 6, "");
    if (json)
        printf(",\n  \"correlation\": %.6f", r->correlation);
    else
        printf("%-26s %12.2f %%\n\n", "Correlation of ln(PPL)", r->correlation * 100);
    print_mean(json, "kld", "Mean KLD", r->kld, 1, 6, "");
    print_percentiles(json, "kld", "KLD", r->kld_at, 1, 6, "");
    if (!json)
        putchar('\n');
    print_mean(json, "p_diff", "Mean Δp", r->p_diff, json ? 1 : 100, json ? 6 : 3, " %");
    print_mean(json, "p_diff_rms", "RMS Δp", r->p_diff_rms, json ? 1 : 100, json ? 6 : 3, " %");
    print_percentiles(json, "p_diff", "Δp", r->p_diff_at, json ? 1 : 100, json ? 6 : 3, " %");
    print_mean(json, "same_top", "Same top token", r->same_top, json ? 1 : 100, json ? 6 : 3, " %");
    if (json)
        puts("\n}");
}

static nib_status measure(eval_session *s, nib_error *err) {
    const eval_args *a = s->args;
    eval_ppl_result ppl;
    eval_kld_result kld;
    if (!a->kld || a->save_base) {
        NIB_TRY(a->kld ? eval_kld_save(s->model->model, &s->text, a->save_base, &s->options, &ppl, err)
                       : eval_ppl(s->model->model, &s->text, &s->options, &ppl, err));
        ui_bar_clear(&s->bar);
        print_ppl(s, &ppl);
        return NIB_OK;
    }
    NIB_TRY(s->base ? eval_kld(s->model->model, s->base->model, &s->text, &s->options, &kld, err)
                    : eval_kld_against_file(s->model->model, &s->text, a->base, &s->options, &kld, err));
    ui_bar_clear(&s->bar);
    print_kld(s, &kld);
    return NIB_OK;
}

int cmd_eval(int argc, char **argv) {
    eval_args args = {0};
    cli_parse(&argp, argc, argv, &args);
    eval_session session = {.args = &args};
    nib_error err = {{0}};
    nib_status status = session_open(&session, &err);
    if (status == NIB_OK) {
        cli_catch_interrupt(false);
        status = measure(&session, &err);
        ui_bar_clear(&session.bar);
    }
    session_close(&session);
    return cli_fail(status, &err);
}
