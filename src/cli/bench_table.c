/* SPDX-License-Identifier: Apache-2.0
 *
 * The tables of nibble bench. See bench_table.h.
 */
#include "cli/bench_table.h"

#include <stdio.h>
#include <unistd.h>

#include "cli/cli.h"

/* "pp512", "tg128", "tg128 x 16 @ d4096" */
static void name_test(char *name, size_t size, const speed_test *t) {
    char seqs[24] = "", depth[24] = "";
    if (t->n_seqs > 1)
        snprintf(seqs, sizeof seqs, " x %d", t->n_seqs);
    if (t->depth)
        snprintf(depth, sizeof depth, " @ d%d", t->depth);
    snprintf(name, size, "%s%d%s%s", t->n_prompt ? "pp" : "tg", t->n_prompt + t->n_gen, seqs, depth);
}

static double gb_per_s(const speed_result *r) {
    return r->bytes_per_token * r->tokens_per_s / 1e9;
}

static double percent_of_bandwidth(const bench_row *row) {
    const double rate = row->setup->read_bandwidth;
    return rate > 0 ? 100e9 * gb_per_s(&row->result) / rate : 0;
}

static double tflops(const bench_row *row) {
    return row->result.flops_per_token * row->result.tokens_per_s / 1e12;
}

/* Where their rate is known. */
static double percent_of_tensor_cores(const bench_row *row) {
    return 100e12 * tflops(row) / row->setup->tensor_flops;
}

static bool fill_md(const bench_table *s, ui_table *t) {
    char size[32], name[64];
    bool ok = true;
    for (int i = 0; ok && i < s->n_rows; i++) {
        const speed_result *r = &s->rows[i].result;
        const bench_setup *setup = s->rows[i].setup;
        name_test(name, sizeof name, &s->rows[i].test);
        ok = ui_table_add(t, "%s", setup->model) &&
             ui_table_add(t, "%s", ui_bytes(size, sizeof size, setup->file_bytes)) &&
             ui_table_add(t, "%.2f M", (double)setup->n_parameters / 1e6) &&
             ui_table_add(t, "%s", setup->path) && ui_table_add(t, "%d", setup->threads) &&
             ui_table_add(t, "%s", name) && ui_table_add(t, "%.2f ± %.2f", r->tokens_per_s, r->deviation) &&
             ui_table_add(t, "%.2f", r->bytes_per_token / 1e6) && ui_table_add(t, "%.2f", gb_per_s(r)) &&
             ui_table_add(t, "%.2f", setup->read_bandwidth / 1e9) &&
             ui_table_add(t, "%.1f %%", percent_of_bandwidth(&s->rows[i])) &&
             ui_table_add(t, "%.3g", tflops(&s->rows[i])) &&
             (setup->tensor_flops > 0 ? ui_table_add(t, "%.1f %%", percent_of_tensor_cores(&s->rows[i]))
                                      : ui_table_add(t, "-"));
    }
    return ok;
}

static bool fill_data(const bench_table *s, ui_table *t) {
    char name[64];
    bool ok = true;
    for (int i = 0; ok && i < s->n_rows; i++) {
        const speed_result *r = &s->rows[i].result;
        const speed_test *test = &s->rows[i].test;
        const bench_setup *setup = s->rows[i].setup;
        name_test(name, sizeof name, test);
        ok = ui_table_add(t, "%s", setup->model) && ui_table_add(t, "%llu", setup->file_bytes) &&
             ui_table_add(t, "%llu", setup->n_parameters) && ui_table_add(t, "%s", setup->path) &&
             ui_table_add(t, "%s", cli_activations_name(setup->compute.activations)) &&
             ui_table_add(t, "%s", cli_kv_name(setup->compute.kv_cache)) &&
             ui_table_add(t, "%d", setup->threads) && ui_table_add(t, "%s", name) &&
             ui_table_add(t, "%d", test->n_prompt) && ui_table_add(t, "%d", test->n_gen) &&
             ui_table_add(t, "%d", test->n_seqs) && ui_table_add(t, "%d", test->depth) &&
             ui_table_add(t, "%d", test->repeats) && ui_table_add(t, "%.3f", r->tokens_per_s) &&
             ui_table_add(t, "%.3f", r->deviation) && ui_table_add(t, "%.3f", r->median) &&
             ui_table_add(t, "%.0f", r->bytes_per_token) && ui_table_add(t, "%.3f", gb_per_s(r)) &&
             ui_table_add(t, "%.3f", setup->read_bandwidth / 1e9) &&
             ui_table_add(t, "%.2f", percent_of_bandwidth(&s->rows[i])) &&
             ui_table_add(t, "%.5g", tflops(&s->rows[i])) &&
             (setup->tensor_flops > 0 ? ui_table_add(t, "%.2f", percent_of_tensor_cores(&s->rows[i]))
                                      : ui_table_add(t, "%s", "")); /* not known */
    }
    return ok;
}

/* More than the memory gives: said why. */
static void print_note(const bench_table *s, FILE *out) {
    const bench_row *most = NULL;
    for (int i = 0; i < s->n_rows; i++)
        if (percent_of_bandwidth(&s->rows[i]) > 100 &&
            (!most || s->rows[i].result.bytes_per_token < most->result.bytes_per_token))
            most = &s->rows[i];
    if (!most)
        return;
    char needs[32], has[32];
    const long cache_bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
    ui_bytes(needs, sizeof needs, (unsigned long long)most->result.bytes_per_token);
    if (cache_bytes > 0 && most->result.bytes_per_token <= (double)cache_bytes)
        fprintf(out,
                "\nMore than 100 %%: %s of a token sit in the processor's cache of %s; memory's speed does "
                "not count.\n",
                needs, ui_bytes(has, sizeof has, (unsigned long long)cache_bytes));
    else
        fprintf(
            out,
            "\nMore than 100 %%: the memory was slower while its speed was measured, because something else "
            "ran; measure again on a quiet machine.\n");
}

static const ui_column md_columns[] = {{"model", "model", false},
                                       {"size", "size", true},
                                       {"params", "params", true},
                                       {"backend", "backend", false},
                                       {"threads", "threads", true},
                                       {"test", "test", true},
                                       {"t/s", "t_s", true},
                                       {"MB/token", "mb_token", true},
                                       {"GB/s", "gb_s", true},
                                       {"readable GB/s", "readable", true},
                                       {"of it", "of_it", true},
                                       {"TFLOP/s", "tflop_s", true},
                                       {"of tensor cores", "of_tensor", true}};

static const ui_column data_columns[] = {{"", "model", false},
                                         {"", "model_size", true},
                                         {"", "model_n_params", true},
                                         {"", "backend", false},
                                         {"", "activations", false},
                                         {"", "kv_cache_dtype", false},
                                         {"", "n_threads", true},
                                         {"", "test", false},
                                         {"", "n_prompt", true},
                                         {"", "n_gen", true},
                                         {"", "n_seqs", true},
                                         {"", "n_depth", true},
                                         {"", "repetitions", true},
                                         {"", "avg_ts", true},
                                         {"", "stddev_ts", true},
                                         {"", "median_ts", true},
                                         {"", "bytes_per_token", true},
                                         {"", "gb_per_s", true},
                                         {"", "read_bandwidth_gb_per_s", true},
                                         {"", "bandwidth_percent", true},
                                         {"", "tflop_per_s", true},
                                         {"", "tensor_percent", true}};

/* Where the time of one test went; on standard error when standard output is to be read by a program. */
static bool print_profile(const bench_table *s, const bench_row *row) {
    static const ui_column columns[] = {
        {"operation", "operation", false}, {"calls", "calls", true}, {"ms/token", "ms", true},
        {"of the time", "share", true},    {"GB/s", "gb_s", true},   {"of readable", "of_readable", true}};
    ui_table t = {.columns = columns, .n_columns = sizeof columns / sizeof *columns};
    double all = 0,
           tokens = (double)(row->test.n_prompt + row->test.n_gen * row->test.n_seqs) * row->test.repeats;
    for (size_t k = 0; k < row->n_profile; k++)
        all += row->profile[k].seconds;
    bool ok = true;
    for (size_t k = 0; ok && k < row->n_profile; k++) {
        const op_profile *p = &row->profile[k];
        double rate = p->seconds > 0 ? (double)p->bytes / p->seconds : 0;
        ok = ui_table_add(&t, "%s", p->name) && ui_table_add(&t, "%llu", (unsigned long long)p->calls) &&
             ui_table_add(&t, "%.4f", 1e3 * p->seconds / tokens) &&
             ui_table_add(&t, "%.1f %%", all > 0 ? 100 * p->seconds / all : 0) &&
             ui_table_add(&t, "%.2f", rate / 1e9) &&
             ui_table_add(&t, "%.1f %%",
                          row->setup->read_bandwidth > 0 ? 100 * rate / row->setup->read_bandwidth : 0);
    }
    FILE *out = s->format == UI_MD ? stdout : stderr;
    char name[64];
    name_test(name, sizeof name, &row->test);
    if (s->several)
        fprintf(out, "\n%s, threads %d, %s:\n\n", row->setup->model, row->setup->threads, name);
    else
        fprintf(out, "\n%s:\n\n", name);
    if (ok)
        ui_table_print(&t, UI_MD, out);
    ui_table_free(&t);
    return ok;
}

nib_status bench_table_print(const bench_table *s, nib_error *err) {
    bool md = s->format == UI_MD;
    ui_table t = {.columns = md ? md_columns : data_columns,
                  .n_columns = md ? sizeof md_columns / sizeof *md_columns
                                  : sizeof data_columns / sizeof *data_columns};
    bool ok = md ? fill_md(s, &t) : fill_data(s, &t);
    if (ok)
        ui_table_print(&t, s->format, stdout);
    ui_table_free(&t);
    print_note(s, md ? stdout : stderr);
    for (int i = 0; ok && s->profile && i < s->n_rows; i++)
        ok = print_profile(s, &s->rows[i]);
    return ok ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "out of memory for the table");
}
