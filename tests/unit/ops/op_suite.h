/* SPDX-License-Identifier: Apache-2.0
 *
 * The op suite: every op of ops/op_list.h x variant x shape x rows x pattern on one backend, each within its
 * tolerance of FP64. Included by the tests of every backend.
 */
#ifndef OP_SUITE_H
#define OP_SUITE_H

#include <stdio.h>

#include "ops/cases/op_cases.h"

/* PATHS: normal numbers only, which walk the same code: for sanitizers. SHORT: for backends that compute
 * slowly. */
typedef enum op_suite_size { OP_SUITE_PATHS, OP_SUITE_SHORT, OP_SUITE_FULL } op_suite_size;

/* Wide shapes are there for the vector kernels, and many rows differ from few by how they are shared out:
 * neither needs every pattern, nor every format with many rows. */
static bool op_suite_skips(const op_setting *s, op_suite_size size) {
    bool wide = s->shape->dim > 100, plain = s->pattern == OP_PATTERN_NORMAL;
    if (size == OP_SUITE_PATHS && !plain)
        return true;
    if (s->rows > 64)
        return !plain || wide || size == OP_SUITE_SHORT || s->op == OP_attention;
    if (wide)
        return !plain || (s->rows > 7 && (size == OP_SUITE_SHORT || s->variant != 1));
    return s->rows == 64 && !plain && s->variant > 1;
}

static void op_suite_one(backend *be, const op_setting *s, double *worst) {
    op_case *c;
    double error = 0;
    nib_error err = {""};
    if (op_case_open(&c, be, s, &err) != NIB_OK || op_case_check(c, &error, &err) != NIB_OK)
        fail_msg("%s: %s", be->path, err.text);
    double share = error / op_case_tolerance(c);
    if (!(share <= 1))
        fail_msg("%s: %s, %s, %s, %zu rows, depth %d, pattern %d: error %g, tolerance %g", be->path,
                 op_infos[s->op].name, op_case_variant_name(s->op, s->variant), s->shape->name, s->rows,
                 s->depth, (int)s->pattern, error, op_case_tolerance(c));
    *worst = share > *worst ? share : *worst;
    op_case_close(c);
}

/* Every case of one op; returns how many. */
static int op_suite_op(backend *be, op_id op, op_suite_size size) {
    static const size_t row_counts[] = {1, 7, 64, 513};
    double worst = 0;
    int n = 0;
    for (int v = 0; v < op_case_variants(op); v++)
        for (size_t shape = 0; shape < OP_N_SHAPES; shape++)
            for (size_t rows = 0; rows < 4; rows++)
                for (int pattern = 0; pattern < OP_N_PATTERNS; pattern++) {
                    op_setting s = {op,
                                    v,
                                    &op_shapes[shape],
                                    row_counts[rows],
                                    (op_pattern)pattern,
                                    op == OP_attention ? 130 : 0};
                    if (op_suite_skips(&s, size) || !op_case_fits(be, &s))
                        continue;
                    op_suite_one(be, &s, &worst);
                    n++;
                }
    printf("%-20s %-50s worst %.2f of the tolerance\n", op_infos[op].name, be->path, worst);
    return n;
}

__attribute__((unused)) static void op_suite_run(backend *be, op_suite_size size) {
    int n = 0;
    for (int op = 0; op < OP_COUNT; op++)
        n += op_suite_op(be, (op_id)op, size);
    printf("%d cases\n", n);
}

#endif
