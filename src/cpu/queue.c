/* SPDX-License-Identifier: Apache-2.0
 *
 * Every thread walks the whole queue. Units are dealt out by number or taken in shares from a counter.
 */
#include "cpu/queue.h"

#include <assert.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"

enum {
    SHARES = 8,          /* per thread, of what an op leaves to whoever is free */
    DEALT_ROWS = 32,     /* of a batch: its ops are over in microseconds */
    LONG_BYTES = 4 << 20 /* per thread: a tenth of a millisecond */
};

void queue_push(cpu_backend *cb, const cpu_op *op) {
    if (op->units == 0)
        return;
    if (cb->n_ops == QUEUE_OPS)
        queue_run(cb);
    cpu_op *entry = &cb->ops[cb->n_ops++];
    *entry = *op;
    atomic_init(&entry->next, 0);
}

/* Ops [first, end) can be run row by row. */
static size_t chain_end(const cpu_backend *cb, size_t first) {
    const cpu_op *a = &cb->ops[first];
    size_t end = first + 1;
    if (a->by_row && !cb->profiling)
        while (end < cb->n_ops && cb->ops[end].by_row && cb->ops[end].units == a->units)
            end++;
    return end;
}

static void run_units(const cpu_backend *cb, size_t first, size_t last, size_t begin, size_t end,
                      void *scratch) {
    if (last - first == 1) {
        cb->ops[first].run(cb, &cb->ops[first], begin, end, scratch);
        return;
    }
    for (size_t u = begin; u < end; u++)
        for (size_t i = first; i < last; i++)
            cb->ops[i].run(cb, &cb->ops[i], u, u + 1, scratch);
}

/* Units [*begin, *end) that THREAD has for its own; the units behind all of these are for whoever is free, so
 * that a thread held up by the system does not hold up the rest. Decoding deals out short ops whole, since a
 * counter that many cores reach for would take longer than the op, and three quarters of long ones: the same
 * in every step, so that a core finds its weights where it left them. */
static size_t own_units(const cpu_backend *cb, const cpu_op *op, size_t thread, size_t n_threads,
                        size_t *begin, size_t *end) {
    size_t dealt = op->units;
    if (op->units > n_threads) {
        if (queue_batch(cb)->n_rows > DEALT_ROWS)
            dealt = 0;
        else if (op->bytes / n_threads > LONG_BYTES)
            dealt = op->units * 3 / 4;
    }
    *begin = dealt * thread / n_threads;
    *end = dealt * (thread + 1) / n_threads;
    return dealt;
}

static void run_chain(cpu_backend *cb, size_t first, size_t last, size_t thread, size_t n_threads) {
    cpu_op *op = &cb->ops[first];
    void *scratch = cb->scratch[thread];
    size_t begin, end, dealt = own_units(cb, op, thread, n_threads, &begin, &end);
    if (begin < end)
        run_units(cb, first, last, begin, end, scratch);
    if (dealt == op->units)
        return;
    size_t share = (op->units - dealt) / (n_threads * SHARES);
    share = share ? share : 1;
    for (;;) {
        begin = dealt + atomic_fetch_add_explicit(&op->next, share, memory_order_relaxed);
        if (begin >= op->units)
            return;
        end = begin + share < op->units ? begin + share : op->units;
        run_units(cb, first, last, begin, end, scratch);
    }
}

/* Chains that one thread has to do alone, between two barriers. */
typedef struct alone {
    cpu_backend *cb;
    size_t first, end;
} alone;

static void run_alone(void *arg) {
    const alone *a = arg;
    for (size_t first = a->first, last; first < a->end; first = last) {
        last = chain_end(a->cb, first);
        run_units(a->cb, first, last, 0, 1, a->cb->scratch[0]);
    }
}

static size_t alone_end(const cpu_backend *cb, size_t first) {
    while (first < cb->n_ops && cb->ops[first].units == 1 && !cb->profiling)
        first++;
    return first;
}

/* Ops of the queue from FROM on, up to TO, which thread 0 sets. */
typedef struct stretch {
    cpu_backend *cb;
    size_t from, to;
} stretch;

static void walk(void *arg, int thread, int n_threads) {
    stretch *s = arg;
    cpu_backend *cb = s->cb;
    bool timed = cb->profiling && thread == 0, stay = true;
    double start = timed ? clock_seconds() : 0;
    size_t first = s->from;
    while (stay && first < cb->n_ops) {
        size_t last = chain_end(cb, first);
        run_chain(cb, first, last, (size_t)thread, (size_t)n_threads);
        alone rest = {.cb = cb, .first = last, .end = alone_end(cb, last)};
        if (rest.end < cb->n_ops || rest.end > last || cb->profiling)
            stay = pool_barrier(cb->pool, thread, run_alone, &rest);
        if (timed) {
            double now = clock_seconds();
            op_profile *row = &cb->profile[cb->ops[first].kind];
            row->calls++;
            row->seconds += now - start;
            row->bytes += cb->ops[first].bytes;
            start = now;
        }
        first = rest.end;
    }
    if (thread == 0)
        s->to = first;
}

void queue_run(cpu_backend *cb) {
    for (stretch s = {.cb = cb}; s.from < cb->n_ops; s.from = s.to)
        pool_run(cb->pool, walk, &s);
    cb->n_ops = 0;
}

nib_status queue_reserve(cpu_backend *cb, size_t bytes, nib_error *err) {
    if (bytes <= cb->scratch_bytes)
        return NIB_OK;
    assert(cb->n_ops == 0);
    for (int i = 0; i < cb->threads; i++) {
        void *memory = mem_aligned(bytes);
        if (!memory)
            return nib_fail(err, NIB_NO_MEMORY, "no memory for %zu bytes of scratch per thread", bytes);
        memset(memory, 0, bytes);
        mem_free(cb->scratch[i]);
        cb->scratch[i] = memory;
    }
    cb->scratch_bytes = bytes;
    return NIB_OK;
}

/* ---- where the time goes ---- */

void queue_profile_start(backend *be) {
    cpu_backend *cb = queue_backend(be);
    cb->profiling = true;
    memset(cb->profile, 0, sizeof cb->profile);
}

size_t queue_profile_stop(backend *be, op_profile *rows, size_t max_rows) {
    static const char *const names[CPU_OP_KINDS] = {
        [CPU_OP_EMBED] = "embed",
        [CPU_OP_RMSNORM] = "rmsnorm",
        [CPU_OP_RMSNORM_OUT] = "rmsnorm_out",
        [CPU_OP_RMSNORM_ADD] = "rmsnorm_add",
        [CPU_OP_MATMUL] = "matmul",
        [CPU_OP_MATMUL_ADD] = "matmul_add",
        [CPU_OP_MATMUL_GLU] = "matmul_glu",
        [CPU_OP_BRANCH] = "branch",
        [CPU_OP_ROPE_TABLE] = "rope_table",
        [CPU_OP_QK_NORM_ROPE_STORE] = "qk_norm_rope_store",
        [CPU_OP_ATTENTION] = "attention",
        [CPU_OP_ATTENTION_JOIN] = "attention_join",
        [CPU_OP_QUANTIZE] = "quantize",
        [CPU_OP_SOFTCAP] = "softcap",
        [CPU_OP_SUM_SQUARES] = "sum_squares",
        [CPU_OP_SAMPLE] = "sample",
    };
    cpu_backend *cb = queue_backend(be);
    size_t n = 0;
    cb->profiling = false;
    for (int i = 0; i < CPU_OP_KINDS && n < max_rows; i++)
        if (cb->profile[i].calls > 0) {
            rows[n] = cb->profile[i];
            rows[n++].name = names[i];
        }
    return n;
}
