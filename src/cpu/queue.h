/* SPDX-License-Identifier: Apache-2.0
 *
 * A step: ops are queued as small descriptors and computed together, in one run of the pool. An op is cut
 * into units; which thread takes which unit never changes a bit. Ops of one row after the other (by_row) that
 * follow each other on the same rows are run as one, without a barrier between them.
 *
 * Also the inside of struct backend on a CPU, which the op files share.
 */
#ifndef CPU_QUEUE_H
#define CPU_QUEUE_H

#include <stdatomic.h>

#include "base/pool.h"
#include "cpu/cpu.h"
#include "cpu/kernels.h"
#include "cpu/pack.h"

enum { QUEUE_OPS = 4096, ROPE_TABLES = 4 };

typedef struct cpu_backend cpu_backend;
typedef struct cpu_op cpu_op;

/* What the profile tells apart. */
typedef enum cpu_op_kind {
    CPU_OP_EMBED = 0,
    CPU_OP_RMSNORM,
    CPU_OP_RMSNORM_OUT,
    CPU_OP_RMSNORM_ADD,
    CPU_OP_MATMUL,
    CPU_OP_MATMUL_ADD,
    CPU_OP_MATMUL_GLU,
    CPU_OP_BRANCH, /* the products of a low-rank branch */
    CPU_OP_ROPE_TABLE,
    CPU_OP_QK_NORM_ROPE_STORE,
    CPU_OP_ATTENTION,
    CPU_OP_ATTENTION_JOIN, /* pages computed apart, put together */
    CPU_OP_QUANTIZE,       /* activations whose producer could not quantize them itself, or emulated */
    CPU_OP_SOFTCAP,
    CPU_OP_SUM_SQUARES,
    CPU_OP_SAMPLE,
    CPU_OP_KINDS
} cpu_op_kind;

/* Computes units [begin, end); SCRATCH is the thread's own. */
typedef void (*cpu_op_fn)(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end, void *scratch);

struct cpu_op {
    cpu_op_fn run;
    cpu_op_kind kind;
    bool by_row; /* unit u reads and writes row u alone */
    size_t rows;
    size_t units; /* 0: nothing to do */
    size_t bytes; /* moved from and to memory, for the profile */
    act *out;
    const act *in;
    const packed *weight;
    const float *w; /* norm weights */
    float value;    /* eps, the embedding's factor or a cap */
    double *sums;
    const attn_params *attn;
    const kv_cache *kv;
    const struct rope_table *rope;
    size_t n_partials; /* of attention cut by pages: (row, head, page); 0 when whole tiles are units */
    matmul_job matmul;
    size_t branch_part; /* of the weight */
    sampled *sampled;   /* [units], for SAMPLE_ROWS [units] */
    const sample_row *sample_rows;
    atomic_size_t next; /* first unit nobody has taken */
};

/* Cosines and sines of every row's position, [max_rows, angles]; reused by all layers of a step. */
typedef struct rope_table {
    const vec *inv_freq; /* NULL: empty */
    float scale;         /* of the cosines and sines */
    float *cosines, *sines;
} rope_table;

/* Rows [row, row + n) of the batch: successive positions of one sequence within one KV page. */
typedef struct page_run {
    int32_t row, n;
    int32_t seq, page; /* entry PAGE of the sequence's page tables */
    int32_t slot;      /* of the first position in the page */
} page_run;

struct cpu_backend {
    backend be; /* first: a backend * is a cpu_backend * */
    cpu_kernels k;
    bool int8;
    cpu_rounding rounding;
    bool has_short; /* a weight in FP4 or FP8 has been packed; kept where ROUNDING */
    bool round_kv;
    pool *pool;
    int threads; /* of the pool */

    /* the queue */
    cpu_op *ops;
    size_t n_ops;
    void **scratch; /* [threads] */
    size_t scratch_bytes;

    /* the rows of the step; arrays of max_rows */
    size_t max_rows, max_half;
    int32_t *positions;
    page_run *runs;
    size_t n_runs;
    rope_table rope[ROPE_TABLES];
    unsigned next_rope; /* the table to be overwritten next */
    float *rope_memory;
    size_t rope_floats; /* of one array of cosines or sines */

    /* results of low-rank branches (branch.c) */
    float *branch; /* [WEIGHT_MAX_PARTS, max_rows, branch_rank], [max_rows, branch_cols] */
    size_t branch_floats, branch_rank, branch_cols;

    /* partial results of attention cut by pages */
    float *partial;
    size_t partial_floats;

    /* profile */
    bool profiling;
    op_profile profile[CPU_OP_KINDS];
};

static inline cpu_backend *queue_backend(backend *be) {
    return (cpu_backend *)be;
}

static inline const batch *queue_batch(const cpu_backend *cb) {
    return cb->be.batch;
}

/* The page of group GROUP that RUN's rows lie in. */
static inline int queue_page(const cpu_backend *cb, const page_run *run, int group) {
    return cb->be.batch->seqs[run->seq].pages[group][run->page];
}

/* Appends an op; a full queue is computed first. */
void queue_push(cpu_backend *cb, const cpu_op *op);
void queue_run(cpu_backend *cb);
/* The backend's profile calls. */
void queue_profile_start(backend *be);
size_t queue_profile_stop(backend *be, op_profile *rows, size_t max_rows);
/* Sees to it that every thread has at least BYTES of scratch. */
nib_status queue_reserve(cpu_backend *cb, size_t bytes, nib_error *err);

#endif
