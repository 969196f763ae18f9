/* SPDX-License-Identifier: Apache-2.0
 *
 * A step: ops are queued as small descriptors and computed together, in one parallel region. An op is cut
 * into units; which thread takes which unit never changes a bit. Ops of one row after the other (by_row) that
 * follow each other on the same rows are run as one, without a barrier between them.
 *
 * Also the inside of struct backend on a CPU, which the op files share.
 */
#ifndef CPU_QUEUE_H
#define CPU_QUEUE_H

#include <stdatomic.h>

#include "cpu/cpu.h"
#include "cpu/kernels.h"
#include "cpu/pack.h"
#include "cpu/team.h"

enum { QUEUE_OPS = 4096, ROPE_TABLES = 4 };

typedef struct cpu_backend cpu_backend;
typedef struct cpu_op cpu_op;

/* Computes units [begin, end); SCRATCH is the thread's own. */
typedef void (*cpu_op_fn)(const cpu_backend *cb, const cpu_op *op, size_t begin, size_t end, void *scratch);

struct cpu_op {
    cpu_op_fn run;
    cpu_op_kind kind;
    bool by_row; /* unit u reads and writes row u alone */
    size_t rows;
    size_t units; /* 0: nothing to do */
    size_t bytes; /* moved from and to memory, for the profile */
    buf *out;
    const buf *in;
    const weight *weight;
    const float *w; /* norm weights */
    float value;    /* eps, or the embedding's factor */
    double *sums;
    attn_params attn;
    kv_cache *kv;
    const struct rope_table *rope;
    int max_pages; /* attention cut by pages: of one tile; 0 when whole tiles are units */
    matmul_job matmul;
    atomic_size_t next; /* first unit nobody has taken */
};

/* Cosines and sines of every row's position, [max_rows, half]; reused by all layers of a step. */
typedef struct rope_table {
    const float *inv_freq; /* NULL: empty */
    size_t half;
    float *cosines, *sines;
} rope_table;

/* Rows [row, row + n) of the batch: successive positions of one sequence within one KV page. */
typedef struct page_run {
    int32_t row, n, page, slot; /* slot of the first position in the page */
} page_run;

struct cpu_backend {
    backend be; /* first: a backend * is a cpu_backend * */
    cpu_kernels k;
    bool int8;
    team team;

    /* the queue */
    cpu_op *ops;
    size_t n_ops;
    void **scratch; /* [threads] */
    size_t scratch_bytes;

    nib_status failed; /* what kept the step from being computed: told by step_finish */
    nib_error failure;

    /* the batch of the step; arrays of max_rows */
    const batch *batch;
    size_t max_rows, max_half;
    int32_t *positions;
    page_run *runs;
    size_t n_runs;
    rope_table rope[ROPE_TABLES];
    unsigned next_rope; /* the table to be overwritten next */
    float *rope_memory;
    size_t rope_floats; /* of one array of cosines or sines */

    /* partial results of attention cut by pages */
    float *partial;
    size_t partial_floats;

    /* profile */
    bool profiling;
    cpu_profile_row profile[CPU_OP_KINDS];
};

static inline cpu_backend *queue_backend(backend *be) {
    return (cpu_backend *)be;
}

/* Appends an op; a full queue is computed first. */
void queue_push(cpu_backend *cb, const cpu_op *op);
void queue_run(cpu_backend *cb); /* or sets FAILED */
/* Sees to it that every thread has at least BYTES of scratch. */
nib_status queue_reserve(cpu_backend *cb, size_t bytes, nib_error *err);

#endif
