/* SPDX-License-Identifier: Apache-2.0
 *
 * A case: one op on one backend, with operands of a given shape, and what FP64 says the result should be.
 * For the op suite (every op x backend x rung x shape x rows x pattern) and for the benchmark, which times
 * the same calls. Callers: tests and benches of every backend.
 */
#ifndef OPS_OP_CASES_H
#define OPS_OP_CASES_H

#include "ops/op_list.h"
#include "ops/ops.h"

/* Shaped inputs: nothing, the ordinary, one value in 16 ten thousand times the others, the largest ones. */
typedef enum op_pattern {
    OP_PATTERN_ZEROS,
    OP_PATTERN_NORMAL,
    OP_PATTERN_OUTLIERS,
    OP_PATTERN_MAX,
    OP_N_PATTERNS
} op_pattern;

typedef struct op_setting {
    op_id op;
    int variant; /* below op_case_variants: formats of weights and caches, biases, gates */
    const op_shape *shape;
    size_t rows;
    op_pattern pattern;
    int depth; /* attention: positions that are in the pages already */
} op_setting;

typedef struct op_case op_case;

int op_case_variants(op_id op);
const char *op_case_variant_name(op_id op, int variant);
/* Whether the shape is whole blocks of the variant's formats. */
bool op_case_fits(const backend *be, const op_setting *s);

/* Random operands, the same for the same setting. */
nib_status op_case_open(op_case **out, backend *be, const op_setting *s, nib_error *err);
void op_case_close(op_case *c); /* NULL is fine */

const batch *op_case_batch(const op_case *c);
void op_case_queue(op_case *c); /* the op, within a step of op_case_batch */

/* One step of one call, once in a case's life; *error: of its worst row against FP64. */
nib_status op_case_check(op_case *c, double *error, nib_error *err);
/* How large that may be, given what the backend does to operands (its compute mode); after op_case_check. */
double op_case_tolerance(const op_case *c);

size_t op_case_bytes(const op_case *c); /* that one call must move at least: weights, keys and values, rows */

#endif
