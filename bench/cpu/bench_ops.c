/* SPDX-License-Identifier: Apache-2.0
 *
 * Time, bytes and GB/s of every op of ops/op_list.h on the shapes of real models, beside the machine's
 * measured read bandwidth: the cases of the op suite, timed. An op with a weight goes round enough copies of
 * its case to come from memory, not from a cache.
 *
 *   bench_ops [threads] [features mask] [rows]      defaults: physical cores, all, 1
 */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "cpu/cpu.h"
#include "ops/cases/op_cases.h"

enum { MAX_ROWS = 512, DEPTH = 4096, PASSES = 9, MAX_COPIES = 256 };
#define COPIES_BYTES ((size_t)192 << 20)

static void die(const char *words) {
    fprintf(stderr, "bench_ops: %s\n", words);
    exit(1);
}

static int copies_for(const op_case *c) {
    size_t n = COPIES_BYTES / op_case_bytes(c) + 1;
    return n < MAX_COPIES ? (int)n : MAX_COPIES;
}

/* Best time of one call, from steps that go round all copies. */
static double time_of(backend *be, op_case *const *copies, int n) {
    double best = 1e9;
    nib_error err;
    for (int pass = 0; pass < PASSES; pass++) {
        step_begin(be, op_case_batch(copies[0]), 0);
        for (int i = 0; i < n; i++)
            op_case_queue(copies[i]);
        double start = clock_seconds();
        if (step_finish(be, &err) != NIB_OK)
            die(err.text);
        double each = (clock_seconds() - start) / n;
        best = each < best && pass > 0 ? each : best;
    }
    return best;
}

static void bench(backend *be, const op_setting *s, double bandwidth) {
    op_case *copies[MAX_COPIES];
    double error;
    int n = 0, wanted = 1;
    for (; n < wanted; n++) {
        nib_error err;
        if (op_case_open(&copies[n], be, s, &err) != NIB_OK ||
            op_case_check(copies[n], &error, &err) != NIB_OK)
            die(err.text);
        if (n == 0)
            wanted = copies_for(copies[0]);
    }
    double seconds = time_of(be, copies, n), bytes = (double)op_case_bytes(copies[0]);
    printf("| %s | %s (%s) | %zu | %d | %.2f | %.0f | %.2f | %.0f %% |\n", s->shape->name,
           op_infos[s->op].name, op_case_variant_name(s->op, s->variant), s->rows, s->depth, seconds * 1e6,
           bytes / 1e3, bytes / seconds / 1e9, bandwidth > 0 ? 100 * bytes / seconds / bandwidth : 0);
    fflush(stdout);
    while (n > 0)
        op_case_close(copies[--n]);
}

/* One variant of an op says how fast it is, of attention those that a cache is made of. */
static bool is_timed(op_id op, int variant, const op_shape *shape) {
    if (op == OP_attention)
        return variant == 1 || variant == 2 || (shape->window && variant == 4);
    return variant == (op_case_variants(op) > 4 && op != OP_qk_norm_rope_store ? 1 : 0);
}

int main(int argc, char **argv) {
    nib_error err;
    backend *be = NULL;
    cpu_options options = {.threads = argc > 1 ? atoi(argv[1]) : 0,
                           .features = argc > 2 ? (uint32_t)atoi(argv[2]) : 0};
    size_t rows = argc > 3 ? (size_t)atoi(argv[3]) : 1;
    if (rows < 1 || rows > MAX_ROWS)
        die("rows: expected 1 to 512");
    if (cpu_open(&be, &options, &err) != NIB_OK)
        die(err.text);
    double bandwidth = cpu_read_bandwidth(options.threads);
    printf("%s, %d threads, read bandwidth %.1f GB/s\n\n", be->path, cpu_threads(be), bandwidth / 1e9);
    printf(
        "| shape | op | rows | depth | us | KB | GB/s | of bandwidth |\n|---|---|---|---|---|---|---|---|\n");
    for (size_t i = 0; i < OP_N_SHAPES; i++)
        for (int op = 0; op < OP_COUNT && op_shapes[i].dim > 100; op++)
            for (int v = 0; v < op_case_variants((op_id)op); v++) {
                op_setting s = {
                    (op_id)op, v, &op_shapes[i], rows, OP_PATTERN_NORMAL, op == OP_attention ? DEPTH : 0};
                if (is_timed((op_id)op, v, &op_shapes[i]) && op_case_fits(be, &s))
                    bench(be, &s, bandwidth);
            }
    be->close(be);
    return 0;
}
