/* SPDX-License-Identifier: Apache-2.0
 *
 * nibble bench: llama-bench's tests and table, and beside each speed how much of the machine's memory
 * bandwidth it is.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "cli/bench_table.h"
#include "cli/cli.h"
#include "cli/load.h"
#include "cpu/cpu.h"
#include "engine/backends.h"
#include "engine/loaded.h"
#include "store/shape_file.h"

#define MAX_LIST   16
#define MAX_TOKENS (1 << 20)

typedef struct number_list {
    int values[MAX_LIST];
    int n;
} number_list;

typedef struct bench_args {
    const char *models[MAX_LIST]; /* [n_models] */
    bool is_shape[MAX_LIST];      /* the model is a shape's name */
    int n_models;
    number_list n_prompt, n_gen, depth, batch, threads;
    int repeats;
    ui_table_format format;
    bool profile;
    bool has_prompt;
    int n_streams; /* of --server-load; 0: the usual tests */
    nib_options compute;
} bench_args;

enum { KEY_PROFILE = 0x3000, KEY_LOAD, KEY_SHAPE, KEY_MAX_BATCHED };

static const struct argp_option options[] = {
    {"n-prompt", 'p', "N,...", 0, "Prompt lengths to measure, 0: none (default 512)", 1},
    {"n-gen", 'n', "N,...", 0, "Answer lengths to measure, 0: none (default 128)", 1},
    {"batch-size", 'b', "N,...", 0, "Answers written side by side (default 1)", 1},
    {"n-depth", 'd', "N,...", 0, "Tokens that stand before the test, not timed (default 0)", 1},
    {"max-num-batched-tokens", KEY_MAX_BATCHED, "N", 0,
     "Tokens of a prompt in one step (default 512, on a GPU 2048)", 1},
    {"repetitions", 'r', "N", 0, "Timed runs of each test (default 5)", 1},
    {"output", 'o', "md|json|csv", 0, "How to print (default md)", 1},
    {"profile", KEY_PROFILE, NULL, 0, "Also print where the time goes, per kind of operation", 1},
    {"server-load", KEY_LOAD, "STREAMS", OPTION_ARG_OPTIONAL,
     "Instead: how long STREAMS answers (default 8) wait from token to token, alone and while a long prompt "
     "(--n-prompt, default 3400) is read, and that prompt for its first token",
     1},
    {"shape", KEY_SHAPE, "NAME", 0,
     "A model that is only a shape, with random NVFP4 weights: smollm2-135m, llama3-1b, qwen3-8b, "
     "llama3-8b, gemma3-27b, qwen3-32b, llama3-70b (which takes 40 GB)",
     1},
    {"threads", 't', "N,...", 0, "Threads, each number in turn (default: one per physical core)", 10},
    {0}};

static void parse_list(const struct argp_state *state, const char *flag, const char *text, int least,
                       int most, number_list *out) {
    char copy[256];
    if (snprintf(copy, sizeof copy, "%s", text) >= (int)sizeof copy)
        argp_error(state, "%s takes numbers with commas between them, not '%s'", flag, text);
    out->n = 0;
    for (char *rest = copy, *item; (item = strsep(&rest, ",")) != NULL;) {
        if (out->n == MAX_LIST)
            argp_error(state, "%s takes at most %d numbers", flag, MAX_LIST);
        out->values[out->n++] = (int)cli_integer_flag(state, flag, item, least, most);
    }
}

static int longest_of(const number_list *l) {
    int longest = 0;
    for (int i = 0; i < l->n; i++)
        longest = l->values[i] > longest ? l->values[i] : longest;
    return longest;
}

/* Tokens of one sequence in the longest test, with what stands before it. */
static int longest_test(const bench_args *a) {
    int prompt = longest_of(&a->n_prompt), gen = longest_of(&a->n_gen);
    return longest_of(&a->depth) + (prompt > gen ? prompt : gen);
}

/* KV pages of the test that takes the most. */
static int most_pages(const bench_args *a) {
    const int depth = longest_of(&a->depth);
    const speed_test prompt = {.n_prompt = longest_of(&a->n_prompt), .n_seqs = 1, .depth = depth},
                     answers = {
                         .n_gen = longest_of(&a->n_gen), .n_seqs = longest_of(&a->batch), .depth = depth};
    return speed_pages(&prompt) > speed_pages(&answers) ? speed_pages(&prompt) : speed_pages(&answers);
}

static void add_model(const struct argp_state *state, bench_args *a, const char *name, bool is_shape) {
    if (a->n_models == MAX_LIST)
        argp_error(state, "at most %d models at a time", MAX_LIST);
    a->is_shape[a->n_models] = is_shape;
    a->models[a->n_models++] = name;
}

/* What goes together. */
static void check(const struct argp_state *state, const bench_args *a) {
    if (!a->n_models)
        argp_error(state, "expected a MODEL or a --shape");
    if (a->n_streams && a->is_shape[0])
        argp_error(state, "--server-load takes a MODEL; a shape has no words");
    if (a->n_streams && (a->n_models > 1 || a->threads.n > 1))
        argp_error(state, "--server-load takes one MODEL and one number of --threads");
    if (a->n_streams && longest_of(&a->batch) > 1)
        argp_error(state, "--server-load=STREAMS says how many answers; --batch-size does not");
    if (a->compute.max_num_batched_tokens && a->compute.max_num_batched_tokens < longest_of(&a->batch))
        argp_error(state, "--max-num-batched-tokens %d: a step of --batch-size %d has more",
                   a->compute.max_num_batched_tokens, longest_of(&a->batch));
    if (longest_of(&a->n_prompt) + longest_of(&a->n_gen) == 0)
        argp_error(state, "nothing to measure: --n-prompt and --n-gen are 0");
    if (a->n_streams && a->has_prompt && (a->n_prompt.n != 1 || a->n_prompt.values[0] < 1))
        argp_error(state, "--server-load takes one --n-prompt of at least 1");
    if (!a->n_streams && a->compute.max_model_len && longest_test(a) > a->compute.max_model_len)
        argp_error(state, "a test of %d tokens is longer than --max-model-len %d", longest_test(a),
                   a->compute.max_model_len);
}

static const cli_member members[] = {
    {KEY_PROFILE, CLI_SWITCH, offsetof(bench_args, profile), NULL, 0, 0},
    {'r', CLI_INT, offsetof(bench_args, repeats), "--repetitions", 1, SPEED_MAX_REPEATS},
    {KEY_MAX_BATCHED, CLI_INT, offsetof(bench_args, compute.max_num_batched_tokens),
     "--max-num-batched-tokens", 1, 1 << 20},
    {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    bench_args *a = state->input;
    const char *number;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->compute;
        return 0;
    case 'p':
        parse_list(state, "--n-prompt", arg, 0, MAX_TOKENS / 4, &a->n_prompt);
        a->has_prompt = true;
        return 0;
    case 'n':
        parse_list(state, "--n-gen", arg, 0, MAX_TOKENS / 4, &a->n_gen);
        return 0;
    case 'd':
        parse_list(state, "--n-depth", arg, 0, MAX_TOKENS / 4, &a->depth);
        return 0;
    case 'b':
        parse_list(state, "--batch-size", arg, 1, 1024, &a->batch);
        return 0;
    case 't':
        parse_list(state, "--threads", arg, 1, CLI_MAX_THREADS, &a->threads);
        return 0;
    case 'o':
        a->format = (ui_table_format)cli_choice_flag(state, "--output", arg, ui_table_formats);
        return 0;
    case KEY_LOAD:
        number = cli_optional_number(state, arg);
        a->n_streams =
            number ? (int)cli_integer_flag(state, "--server-load", number, 1, LOAD_MAX_STREAMS) : 8;
        return 0;
    case KEY_SHAPE:
        if (!shape_file_is(arg))
            argp_error(state, "no shape '%s'; expected " SHAPE_NAMES, arg);
        add_model(state, a, arg, true);
        return 0;
    case ARGP_KEY_ARG:
        add_model(state, a, arg, false);
        return 0;
    case ARGP_KEY_END:
        check(state, a);
        return 0;
    default:
        return cli_store(state, members, key, arg) ? 0 : ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_child children[] = {{&cli_compute_no_threads_argp, 0, NULL, 0}, {0}};
static const struct argp argp = {
    .options = options,
    .parser = parse,
    .args_doc = "[MODEL...]",
    .doc =
        "Measures how fast each MODEL reads a prompt (ppN) and writes an answer (tgN), in tokens per second, "
        "and how "
        "much of the machine's memory read bandwidth that takes.\v"
        "Examples:\n"
        "  nibble bench gemma-nvfp4 -p 512 -n 128 -d 0,4096\n"
        "  nibble bench gemma-nvfp4 gemma.gguf -t 1,2,4\n"
        "  nibble bench --shape qwen3-8b --device cuda -b 1,16,64",
    .children = children,
};

typedef struct bench_session {
    const bench_args *args;
    loaded *model; /* the one at hand */
    bench_setup *setups;
    int n_setups;
    bench_row *rows;
    int n_rows;
    ui_bar bar;
} bench_session;

static unsigned long long count_parameters(const model_file *f) {
    unsigned long long n = 0;
    for (size_t i = 0; i < f->n_tensors; i++)
        if (f->tensors[i].place.slot != SLOT_NONE && f->tensors[i].place.slot != SLOT_ROPE_FREQS)
            n += (unsigned long long)f->tensors[i].rows * f->tensors[i].cols;
    return n;
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

/* The most that what computes can do. */
static void find_limits(const loaded *l, bench_setup *setup) {
    device_info list[BACKEND_MAX_DEVICES];
    size_t n = 0;
    const char *colon = l->options.device ? strchr(l->options.device, ':') : NULL;
    const size_t device = colon ? (size_t)atoi(colon + 1) : 0;
    if (strcmp(l->be->name, "cuda") != 0) {
        setup->read_bandwidth = cpu_read_bandwidth(l->threads);
    } else if (backends_gpus(list, &n, true, NULL) == NIB_OK && device < n) {
        setup->read_bandwidth = list[device].read_bandwidth;
        setup->tensor_flops =
            list[device].tensor_flops * (l->options.activations == NIB_ACTIVATIONS_FP8 ? 2 : 1);
    }
}

static nib_status setup_open(bench_session *s, int m, int threads, nib_error *err) {
    const bench_args *a = s->args;
    const char *path = a->models[m];
    nib_options compute = a->compute;
    compute.threads = threads;
    compute.max_num_seqs = longest_of(&a->batch);
    const loaded_needs needs = {.max_len = longest_test(a),
                                .n_kv_pages = most_pages(a),
                                .no_words = true,
                                .is_shape = a->is_shape[m]};
    NIB_TRY(loaded_open(&s->model, path, &compute, &needs, err));
    const int context_len = s->model->file->hp.context_len;
    if (longest_test(a) > context_len)
        cli_say(CLI_OK, "note: %s was made for %d tokens, and a test has %d", path, context_len,
                longest_test(a));
    bench_setup *setup = &s->setups[s->n_setups++];
    *setup = (bench_setup){.model = base_name(path),
                           .file_bytes = s->model->file->file_bytes,
                           .n_parameters = count_parameters(s->model->file),
                           .compute = s->model->options,
                           .threads = s->model->threads};
    find_limits(s->model, setup);
    snprintf(setup->path, sizeof setup->path, "%s", s->model->be->path);
    return NIB_OK;
}

static void start_profile(void *context) {
    bench_session *s = context;
    s->model->be->profile_start(s->model->be);
}

static nib_status run_test(bench_session *s, int n_prompt, int n_gen, int n_seqs, int depth, nib_error *err) {
    if (n_prompt + n_gen == 0)
        return NIB_OK;
    bench_row *row = &s->rows[s->n_rows];
    row->setup = &s->setups[s->n_setups - 1];
    row->test = (speed_test){.n_prompt = n_prompt,
                             .n_gen = n_gen,
                             .n_seqs = n_seqs,
                             .depth = depth,
                             .repeats = s->args->repeats,
                             .timing = s->args->profile ? start_profile : NULL,
                             .context = s};
    progress p = ui_bar_progress(&s->bar);
    NIB_TRY(
        speed_run(s->model->model, &s->model->limits, &row->test, &p, &cli_interrupted, &row->result, err));
    ui_bar_clear(&s->bar);
    if (s->args->profile)
        row->n_profile = s->model->be->profile_stop(s->model->be, row->profile, OP_PROFILE_MAX);
    s->n_rows++;
    return NIB_OK;
}

static nib_status run_model(bench_session *s, int m, int threads, nib_error *err) {
    const bench_args *a = s->args;
    NIB_TRY(setup_open(s, m, threads, err));
    for (int d = 0; d < a->depth.n; d++) {
        for (int i = 0; i < a->n_prompt.n; i++)
            NIB_TRY(run_test(s, a->n_prompt.values[i], 0, 1, a->depth.values[d], err));
        for (int i = 0; i < a->n_gen.n; i++)
            for (int b = 0; b < a->batch.n; b++)
                NIB_TRY(run_test(s, 0, a->n_gen.values[i], a->batch.values[b], a->depth.values[d], err));
    }
    loaded_close(s->model);
    s->model = NULL;
    return NIB_OK;
}

static nib_status run_all(bench_session *s, nib_error *err) {
    const bench_args *a = s->args;
    const size_t n_setups = (size_t)a->n_models * (size_t)a->threads.n;
    s->setups = mem_array(n_setups, sizeof *s->setups);
    s->rows = mem_array(n_setups * (size_t)a->depth.n * (size_t)(a->n_prompt.n + a->n_gen.n * a->batch.n),
                        sizeof *s->rows);
    if (!s->setups || !s->rows)
        return nib_fail(err, NIB_NO_MEMORY, "out of memory");
    for (int m = 0; m < a->n_models; m++)
        for (int t = 0; t < a->threads.n; t++)
            NIB_TRY(run_model(s, m, a->threads.values[t], err));
    return NIB_OK;
}

/* ---- --server-load ---- */

static const ui_column load_columns[] = {{"prompt tokens beside", "prefill_beside", false},
                                         {"streams", "streams", true},
                                         {"prompt", "n_prompt", true},
                                         {"gap alone ms", "alone_median_ms", true},
                                         {"p99", "alone_p99_ms", true},
                                         {"gap beside ms", "beside_median_ms", true},
                                         {"p99", "beside_p99_ms", true},
                                         {"max", "beside_max_ms", true},
                                         {"p99 / p99 alone", "ratio", true},
                                         {"first token ms", "first_token_ms", true}};

/* With prompts read as if nobody waited, and within the budget that the engine finds. */
static nib_status run_load(const bench_args *a, nib_error *err) {
    static const struct {
        const char *name;
        int prefill_beside;
    } policies[] = {{"512", 512}, {"auto", 0}};
    ui_table t = {.columns = load_columns, .n_columns = sizeof load_columns / sizeof *load_columns};
    nib_status status = NIB_OK;
    nib_options compute = a->compute;
    compute.threads = a->threads.values[0];
    for (int i = 0; status == NIB_OK && i < 2; i++) {
        load_test test = {.n_streams = a->n_streams,
                          .n_prompt = a->has_prompt ? a->n_prompt.values[0] : 0,
                          .prefill_beside = policies[i].prefill_beside};
        load_result r;
        status = load_run(a->models[0], &compute, &test, &r, err);
        if (status == NIB_OK &&
            !(ui_table_add(&t, "%s", policies[i].name) && ui_table_add(&t, "%d", a->n_streams) &&
              ui_table_add(&t, "%d", r.n_prompt) && ui_table_add(&t, "%.1f", r.alone.median) &&
              ui_table_add(&t, "%.1f", r.alone.p99) && ui_table_add(&t, "%.1f", r.beside.median) &&
              ui_table_add(&t, "%.1f", r.beside.p99) && ui_table_add(&t, "%.1f", r.beside.max) &&
              ui_table_add(&t, "%.2f", r.alone.p99 > 0 ? r.beside.p99 / r.alone.p99 : 0) &&
              ui_table_add(&t, "%.0f", r.first_token_ms)))
            status = nib_fail(err, NIB_NO_MEMORY, "out of memory for the table");
    }
    if (status == NIB_OK)
        ui_table_print(&t, a->format, stdout);
    ui_table_free(&t);
    return status;
}

static int bench_load(const bench_args *a) {
    nib_error err = {{0}};
    cli_catch_interrupt(false);
    nib_status status = run_load(a, &err);
    return cli_fail(status, &err);
}

int cmd_bench(int argc, char **argv) {
    bench_args args = {.n_prompt = {{512}, 1},
                       .n_gen = {{128}, 1},
                       .depth = {{0}, 1},
                       .batch = {{1}, 1},
                       .threads = {{0}, 1}, /* the default */
                       .repeats = 5,
                       .format = UI_MD};
    cli_parse(&argp, argc, argv, &args);
    if (args.n_streams)
        return bench_load(&args);
    bench_session session = {.args = &args};
    nib_error err = {{0}};
    cli_catch_interrupt(false);
    nib_status status = run_all(&session, &err);
    ui_bar_clear(&session.bar);
    nib_error print_err = {{0}};
    const bench_table table = {session.rows, session.n_rows, args.format, args.profile, session.n_setups > 1};
    if ((status == NIB_OK || session.n_rows > 0) && bench_table_print(&table, &print_err) != NIB_OK &&
        status == NIB_OK) {
        status = NIB_NO_MEMORY;
        err = print_err;
    }
    mem_free(session.rows);
    mem_free(session.setups);
    loaded_close(session.model);
    return cli_fail(status, &err);
}
