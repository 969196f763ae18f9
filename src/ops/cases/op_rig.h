/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of a case, shared by op_cases.c (operands, running, comparing) and op_oracles.c (what each op
 * reads, calls and should give).
 */
#ifndef OPS_OP_RIG_H
#define OPS_OP_RIG_H

#include "ops/cases/op_cases.h"

enum { RIG_VOCAB = 41, RIG_SEQS = 3, RIG_MAX_OWNED = 24, OP_MAX_HEAD_DIM = 512 };

struct op_case {
    backend *be;
    op_setting s;
    nib_error *err; /* while opening */
    size_t dim, ffn, h, g, d;

    batch b;
    batch_seq seqs[RIG_SEQS];
    int32_t *tokens, *out_rows, *pages;

    /* operands on the backend, and as FP32 on the host */
    buf *in, *out; /* OUT may also be read (add) */
    float *x, *y;  /* of IN [rows, in cols]; of OUT before the call, or NULL */
    weight *w;
    float *values;      /* of W [rows, cols] */
    vec *v[4];          /* norm weights or bias; per-head norms; frequencies; sums; keys' mean */
    float *v_values[4]; /* of those */
    cache *cache;
    float *kv_rows; /* [depth + rows, (H + 2G) * D] all that went into the pages, in order of the sequence */
    buf *q;         /* attention: the queries */
    attn_params attn;
    double *keys; /* [positions, G, D] rotated, of the sequence KEYS_OF */
    const batch_seq *keys_of;
    double score_size; /* the largest sum of |q||k| * scale met so far */

    sample_row *rows; /* sample: how, [rows] */
    sampled *samples; /* and what came of it */

    void *owned[RIG_MAX_OWNED]; /* host memory */
    int n_owned;
    uint64_t random;
};

/* The variant of attention whose scores are capped, that of qk_norm_rope_store whose queries grow with their
 * position. */
#define RIG_CAPPED    6
#define RIG_QUERY_LOG 6
/* That of products whose NVFP4 weight has low-rank branches beside the first part and the last. */
#define RIG_BRANCHES 8
/* That of attention whose keys are stored less a mean. */
#define RIG_KEY_MEAN 7

/* What an op's case is. Rows of the result are compared in order. */
typedef struct op_fns {
    int n_variants;
    const char *const *names;
    dtype (*format)(int variant); /* of the weight; NULL: none */
    nib_status (*open)(op_case *c);
    void (*queue)(op_case *c);
    void (*want)(op_case *c, size_t row, double *out); /* [cols of the result] */
    /* By how much a row's result moves when each activation does, both relative: a row's error may be half of
     * it times the tolerance where that is more than 1. NULL: 1 */
    double (*condition)(const op_case *c, size_t row, const double *want);
    /* NULL: the result is c->out. Else its columns (of one row, or of all), and what came of the step. */
    size_t (*cols)(const op_case *c);
    void (*read)(op_case *c, double *got);
} op_fns;

#define OP_DECLARE(name, error, tolerance) extern const op_fns op_fns_##name;
OP_LIST(OP_DECLARE)
#undef OP_DECLARE

/* ---- operands; all of them belong to the case ---- */
void *op_rig_memory(op_case *c, size_t n, size_t size); /* NULL: ERR is set */
/* N numbers by the case's pattern; LARGEST: what OP_PATTERN_MAX holds, with alternating signs. */
float *op_rig_random(op_case *c, size_t n, op_pattern pattern, float largest);
nib_status op_rig_buf(op_case *c, buf **out, buf_kind kind, size_t cols);
nib_status op_rig_vec(op_case *c, int i, size_t n, float spread); /* c->v[i]: 1 +- SPREAD */
/* c->w of N_PARTS parts of ROWS[i] rows each, with scales of their own. */
nib_status op_rig_weight(op_case *c, dtype type, const size_t *rows, size_t n_parts, size_t cols);
/* c->cache, c->attn, and DEPTH + rows positions in RIG_SEQS sequences at most; those below pos are stored. */
nib_status op_rig_attention(op_case *c, nib_kv_dtype type, bool windowed);

static inline size_t op_rig_result_rows(const op_case *c) {
    return c->s.op == OP_rmsnorm_out ? (size_t)c->b.n_out : c->s.op == OP_sum_squares ? 1 : c->s.rows;
}

#endif
