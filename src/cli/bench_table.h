/* SPDX-License-Identifier: Apache-2.0
 *
 * What `nibble bench` measured, as a table. Caller: cmd_bench.
 */
#ifndef CLI_BENCH_TABLE_H
#define CLI_BENCH_TABLE_H

#include "cli/ui.h"
#include "eval/speed.h"
#include "ops/ops.h"

/* A model, opened with a number of threads: what its lines say of it. */
typedef struct bench_setup {
    const char *model;
    char path[160]; /* what computes */
    unsigned long long file_bytes, n_parameters;
    nib_options compute; /* as it was decided */
    int threads;
    double read_bandwidth; /* bytes per second */
    double tensor_flops;   /* of what multiplies, per second; 0: not known */
} bench_setup;

/* One line of the table. */
typedef struct bench_row {
    const bench_setup *setup;
    speed_test test;
    speed_result result;
    op_profile profile[OP_PROFILE_MAX];
    size_t n_profile;
} bench_row;

typedef struct bench_table {
    const bench_row *rows; /* [n_rows] */
    int n_rows;
    ui_table_format format;
    bool profile; /* also where the time of each row went */
    bool several; /* models or numbers of threads: a profile says whose it is */
} bench_table;

/* Prints to standard output; notes and profiles to standard error when a program reads the table. */
nib_status bench_table_print(const bench_table *table, nib_error *err);

#endif
