/* SPDX-License-Identifier: Apache-2.0
 *
 * nibble gemm: what the FP4 product library would do with a shape, and how fast it does it beside cuBLAS.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/ui.h"
#include "gemm/bench.h"

#define MAX_SHAPES 32
#define MAX_TOKENS 32

typedef struct gemm_args {
    bool explain, bench;
    int arch, device, mode;
    size_t numbers[3]; /* M N K */
    int n_numbers;
    size_t shapes[MAX_SHAPES][2], tokens[MAX_TOKENS];
    int n_shapes, n_tokens;
    ui_table_format format;
} gemm_args;

enum { KEY_EXPLAIN = 0x4000, KEY_BENCH, KEY_ARCH, KEY_DEVICE, KEY_MODE, KEY_SHAPES };

static const char *const modes[] = {"auto", "w4a16", "w4a8", "w4a4", "w4a8-exact", NULL};

static const struct argp_option options[] = {
    {"explain", KEY_EXPLAIN, NULL, 0, "Say which kernel runs for M tokens and a weight [N, K], and why", 1},
    {"bench", KEY_BENCH, NULL, 0, "Measure products beside cuBLAS on this GPU", 1},
    {"mode", KEY_MODE, "auto|w4a16|w4a8|w4a8-exact|w4a4", 0, "The precision asked for (default auto)", 2},
    {"arch", KEY_ARCH, "CC", 0, "Explain for this compute capability, such as 90; needs no GPU", 2},
    {"device", KEY_DEVICE, "N", 0, "The GPU (default 0)", 2},
    {"shapes", KEY_SHAPES, "NxK,...", 0, "Weights to measure (default: those of an 8B model)", 3},
    {"tokens", 'm', "M,...", 0, "Numbers of tokens to measure (default 1 to 8192)", 3},
    {"output", 'o', "md|json|csv", 0, "How to print measurements (default md)", 3},
    {0}};

static void parse_shapes(const struct argp_state *state, const char *text, gemm_args *a) {
    a->n_shapes = 0;
    for (const char *p = text; *p;) {
        char *x, *end = (char *)p;
        unsigned long long n = strtoull(p, &x, 10), k = *x == 'x' ? strtoull(x + 1, &end, 10) : 0;
        if (n == 0 || k == 0 || n % 16 || k % 16 || n > 1 << 24 || k > 1 << 20 || (*end && *end != ','))
            argp_error(state, "--shapes takes NxK,... of multiples of 16, such as 24576x4096, not '%s'",
                       text);
        if (a->n_shapes == MAX_SHAPES)
            argp_error(state, "--shapes takes at most %d shapes", MAX_SHAPES);
        a->shapes[a->n_shapes][0] = (size_t)n;
        a->shapes[a->n_shapes++][1] = (size_t)k;
        p = *end ? end + 1 : end;
    }
}

static void parse_tokens(const struct argp_state *state, const char *text, gemm_args *a) {
    char copy[512];
    if (snprintf(copy, sizeof copy, "%s", text) >= (int)sizeof copy)
        argp_error(state, "--tokens takes numbers with commas between them, not '%s'", text);
    a->n_tokens = 0;
    for (char *rest = copy, *item; (item = strsep(&rest, ",")) != NULL;) {
        if (a->n_tokens == MAX_TOKENS)
            argp_error(state, "--tokens takes at most %d numbers", MAX_TOKENS);
        a->tokens[a->n_tokens++] = (size_t)cli_integer_flag(state, "--tokens", item, 1, 1 << 17);
    }
}

static void check(const struct argp_state *state, const gemm_args *a) {
    if (a->explain == a->bench)
        argp_error(state, "expected one of --explain M N K and --bench");
    if (a->explain && a->n_numbers != 3)
        argp_error(state, "--explain takes M N K: the tokens and the weight's two sizes");
    if (a->bench && a->n_numbers)
        argp_error(state, "--bench takes its sizes with --shapes and --tokens");
}

static const cli_member members[] = {{KEY_EXPLAIN, CLI_SWITCH, offsetof(gemm_args, explain), NULL, 0, 0},
                                     {KEY_BENCH, CLI_SWITCH, offsetof(gemm_args, bench), NULL, 0, 0},
                                     {KEY_ARCH, CLI_INT, offsetof(gemm_args, arch), "--arch", 10, 999},
                                     {KEY_DEVICE, CLI_INT, offsetof(gemm_args, device), "--device", 0, 255},
                                     {0}};

static error_t parse(int key, char *arg, struct argp_state *state) {
    static const char *const names[] = {"M", "N", "K"};
    gemm_args *a = state->input;
    switch (key) {
    case KEY_MODE:
        a->mode = cli_choice_flag(state, "--mode", arg, modes);
        return 0;
    case KEY_SHAPES:
        parse_shapes(state, arg, a);
        return 0;
    case 'm':
        parse_tokens(state, arg, a);
        return 0;
    case 'o':
        a->format = (ui_table_format)cli_choice_flag(state, "--output", arg, ui_table_formats);
        return 0;
    case ARGP_KEY_ARG:
        if (a->n_numbers == 3)
            argp_error(state, "M N K are expected; '%s' is one argument too many", arg);
        a->numbers[a->n_numbers] = (size_t)cli_integer_flag(state, names[a->n_numbers], arg, 1, 1 << 24);
        if (a->n_numbers > 0 && a->numbers[a->n_numbers] % 16 != 0)
            argp_error(state, "%s takes a multiple of 16, not '%s'", names[a->n_numbers], arg);
        a->n_numbers++;
        return 0;
    case ARGP_KEY_END:
        check(state, a);
        return 0;
    default:
        return cli_store(state, members, key, arg) ? 0 : ARGP_ERR_UNKNOWN;
    }
}

static const struct argp argp = {
    .options = options,
    .parser = parse,
    .args_doc = "[M N K]",
    .doc = "The FP4 matrix products of this library on an NVIDIA GPU: explains its choice of kernel, or "
           "measures "
           "it with weights cold in the cache beside cuBLAS BF16 and cuBLASLt FP8.\v"
           "Examples:\n"
           "  nibble gemm --explain 64 24576 4096 --arch 90\n"
           "  nibble gemm --bench --shapes 24576x4096 --tokens 1,8,64,2048",
};

static int explain(const gemm_args *a) {
    nib_gemm *g = NULL;
    nib_error err;
    char text[1024];
    nib_status status = a->arch ? NIB_OK : nib_gemm_open(a->device, &g, &err);
    if (status == NIB_OK)
        status = nib_gemm_explain(g, a->arch, (nib_gemm_mode)a->mode, a->numbers[0], a->numbers[1],
                                  a->numbers[2], text, sizeof text, &err);
    const bool opened = g != NULL;
    nib_gemm_close(g);
    if (status != NIB_OK)
        return !opened && !a->arch
                   ? cli_say(CLI_BAD_INPUT, "%s; --arch 90, say, explains it for a GPU that is not here",
                             err.text)
                   : cli_fail(status, &err);
    puts(text);
    return cli_finish_output(CLI_OK);
}

static const ui_column columns[] = {
    {"N", "n", true},
    {"K", "k", true},
    {"M", "m", true},
    {"W4A16 us", "w4a16_us", true},
    {"W4A8 us", "w4a8_us", true},
    {"auto us", "auto_us", true},
    {"cuBLAS BF16 us", "cublas_bf16_us", true},
    {"cuBLASLt FP8 us", "cublas_fp8_us", true},
    {"FP8 per token us", "cublas_fp8_token_us", true},
    {"auto against BF16", "auto_speedup", true},
    {"auto TFLOP/s", "auto_tflops", true},
    {"auto, share of read bandwidth %", "auto_bandwidth_percent", true},
};

static bool add_row(ui_table *t, const bench_row *r, double read_tb_s) {
    double us = r->us[BENCH_AUTO], packed = (double)nib_gemm_packed_bytes(r->n, r->k);
    bool good = ui_table_add(t, "%zu", r->n) && ui_table_add(t, "%zu", r->k) && ui_table_add(t, "%zu", r->m);
    for (int i = 0; i < BENCH_KINDS; i++)
        good = good && (r->us[i] > 0.0 ? ui_table_add(t, "%.2f", r->us[i]) : ui_table_add(t, "%s", ""));
    double bf16 = r->us[BENCH_CUBLAS_BF16];
    good = good && (us > 0.0 && bf16 > 0.0 ? ui_table_add(t, "%.2f", bf16 / us) : ui_table_add(t, "%s", ""));
    return good && ui_table_add(t, "%.0f", 2.0 * (double)r->m * (double)r->n * (double)r->k / us / 1e6) &&
           ui_table_add(t, "%.1f", 100.0 * packed / us / 1e6 / read_tb_s);
}

static nib_status measure(const gemm_args *a, bench *b, double read_tb_s, ui_table *t, nib_error *err) {
    ui_bar bar = {.what = "measuring"};
    progress done = ui_bar_progress(&bar);
    nib_status status = NIB_OK;
    int total = a->n_shapes * a->n_tokens;
    for (int i = 0; i < total && status == NIB_OK && !cli_interrupted; i++) {
        bench_row row;
        const size_t *shape = a->shapes[i / a->n_tokens];
        status = bench_shape(b, a->tokens[i % a->n_tokens], shape[0], shape[1], (1u << BENCH_KINDS) - 1, &row,
                             err);
        if (status == NIB_OK && !add_row(t, &row, read_tb_s))
            status = NIB_NO_MEMORY;
        progress_report(&done, "measuring", (uint64_t)i + 1, (uint64_t)total);
    }
    ui_bar_clear(&bar);
    return status;
}

static int run_bench(const gemm_args *a) {
    bench *b;
    bench_device facts;
    nib_error err = {""};
    ui_table table = {.columns = columns, .n_columns = sizeof columns / sizeof *columns};
    nib_status status = bench_open(a->device, &b, &facts, &err);
    if (status != NIB_OK)
        return cli_fail(status, &err);
    cli_catch_interrupt(false);
    status = measure(a, b, facts.read_tb_s, &table, &err);
    bench_close(b);
    if (a->format == UI_MD)
        printf("%s, %d multiprocessors, reads %.3f TB/s. Weights cold in L2, CUDA graphs, medians of 9. W4A8 "
               "and auto "
               "take BF16 activations; cuBLASLt FP8 gets them quantized.\n\n",
               facts.name, facts.n_sms, facts.read_tb_s);
    if (table.n_cells)
        ui_table_print(&table, a->format, stdout);
    ui_table_free(&table);
    if (status != NIB_OK)
        return cli_fail(status, &err);
    return cli_finish_output(cli_interrupted ? CLI_INTERRUPTED + cli_interrupted : CLI_OK);
}

int cmd_gemm(int argc, char **argv) {
    gemm_args a = {.n_shapes = 5,
                   .shapes = {{151936, 4096}, {24576, 4096}, {4096, 12288}, {6144, 4096}, {4096, 4096}},
                   .n_tokens = 13,
                   .tokens = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 8192}};
    cli_parse(&argp, argc, argv, &a);
    return a.explain ? explain(&a) : run_bench(&a);
}
