/* SPDX-License-Identifier: Apache-2.0
 *
 * Steps: the batch becomes a table of integers that one copy brings to the device; ops are queued, or
 * recorded into a CUDA graph the second time a key is seen with as many rows, out rows (all in order or not)
 * and rows that stand alone (brief or not), and replayed from then on. Recorded kernels read whatever changes
 * (positions, pages, tokens) from the table, whose layout follows from the number of rows.
 */
#include <string.h>

#include "base/mem.h"
#include "base/status.h"
#include "cuda/gpu/draw.h"
#include "cuda/gpu/state.h"

/* Beyond, decode attention has too many blocks to split anything, and a graph for brief rows would be the
 * same. */
enum { BRIEF_ROWS = 16 };

/* Arrays of n_rows words before the pages. */
enum {
    AT_TOKENS = 0,
    AT_POSITIONS,
    AT_PROMPT,
    AT_ALONE,
    AT_OUT,
    AT_FIRST_PAGE,
    ARRAYS = AT_FIRST_PAGE + CACHE_MAX_GROUPS
};

static void keep(cuda_backend *cb, int code, const char *what) {
    if (code == cudaErrorCooperativeLaunchTooLarge) /* this step fails, and the next ones do without */
        cb->gathered.refused = true;
    if (code != cudaSuccess && cb->failed == cudaSuccess) {
        cudaGetLastError();
        cb->failed = code;
        cb->failed_op = what;
    }
}

/* ---- the table ---- */

nib_status step_reserve(cuda_backend *cb, size_t rows, size_t pages, nib_error *err) {
    step_table *t = &cb->table;
    rows = rows > t->max_rows ? rows : t->max_rows;
    pages = pages > t->max_pages ? pages : t->max_pages;
    pages = pages > 4096 ? pages : 4096;
    if (t->host && rows == t->max_rows && pages == t->max_pages)
        return NIB_OK;
    size_t bytes = (rows * ARRAYS + pages) * sizeof(int32_t);
    int32_t *host, *device;
    CUDA_TRY(cudaMallocHost((void **)&host, bytes), err, "pinned memory for steps");
    nib_status status = cuda_alloc(cb, (void **)&device, bytes, "the tables of a step", err);
    if (status != NIB_OK) {
        cudaFreeHost(host);
        return status;
    }
    step_forget_graphs(cb);
    cudaFreeHost(t->host);
    cudaFree(t->device);
    *t = (step_table){.host = host, .device = device, .max_rows = rows, .max_pages = pages};
    return NIB_OK;
}

static size_t count_pages(const batch *b) {
    size_t n = 0;
    for (int32_t s = 0; s < b->n_seqs; s++)
        for (int g = 0; g < CACHE_MAX_GROUPS; g++)
            n += b->seqs[s].pages[g] ? (size_t)b->seqs[s].n_pages : 0;
    return n;
}

static void fill_rows(step_table *t, const batch_seq *s, int seq, const size_t *first_page) {
    size_t n = (size_t)t->n_rows;
    for (int32_t i = 0; i < s->n_rows; i++) {
        size_t row = (size_t)(s->row + i);
        t->host[AT_POSITIONS * n + row] = s->pos + i;
        t->host[AT_PROMPT * n + row] = s->n_rows == 1 ? -1 : seq;
        for (int g = 0; g < CACHE_MAX_GROUPS; g++)
            t->host[(size_t)(AT_FIRST_PAGE + g) * n + row] = (int32_t)first_page[g];
    }
    if (s->n_rows == 1) {
        t->host[AT_ALONE * n + (size_t)t->n_alone++] = s->row;
        t->brief = t->brief && s->pos < BRIEF_KEYS;
    }
}

static void fill_table(step_table *t, const batch *b) {
    size_t n = (size_t)b->n_rows, next = 0;
    t->n_rows = b->n_rows;
    t->n_out = b->n_out;
    t->n_alone = 0;
    t->brief = true;
    memcpy(t->host, b->tokens, n * sizeof(int32_t));
    memcpy(t->host + AT_OUT * n, b->out_rows, (size_t)b->n_out * sizeof(int32_t));
    for (int32_t i = 0; i < b->n_seqs; i++) {
        const batch_seq *s = &b->seqs[i];
        size_t first_page[CACHE_MAX_GROUPS] = {0};
        for (int g = 0; g < CACHE_MAX_GROUPS; g++) {
            if (!s->pages[g])
                continue;
            first_page[g] = next;
            memcpy(t->host + ARRAYS * n + next, s->pages[g], (size_t)s->n_pages * sizeof(int32_t));
            next += (size_t)s->n_pages;
        }
        fill_rows(t, s, i, first_page);
    }
    t->brief = t->brief && t->n_alone <= BRIEF_ROWS;
    t->all_out = b->n_out == b->n_rows;
    for (int32_t i = 0; i < b->n_out; i++)
        t->all_out = t->all_out && b->out_rows[i] == i;
    t->n_words = ARRAYS * n + next;
}

step_view step_view_of(const cuda_backend *cb, int group) {
    const int32_t *d = cb->table.device;
    size_t n = (size_t)cb->table.n_rows;
    return (step_view){.tokens = d,
                       .positions = d + AT_POSITIONS * n,
                       .prompt = d + AT_PROMPT * n,
                       .alone = d + AT_ALONE * n,
                       .out_rows = d + AT_OUT * n,
                       .first_page = d + (size_t)(AT_FIRST_PAGE + group) * n,
                       .page_table = d + ARRAYS * n,
                       .brief = cb->table.brief};
}

/* ---- graphs ---- */

static void forget(recorded *r) {
    if (r->exec)
        cudaGraphExecDestroy(r->exec);
    mem_free(r->buf_rows);
    *r = (recorded){0};
}

void step_forget_graphs(cuda_backend *cb) {
    for (int i = 0; i < cb->n_graphs; i++)
        forget(&cb->graphs[i]);
    cb->n_graphs = 0;
}

static bool matches(const recorded *r, uint64_t key, const step_table *t) {
    return r->key == key && r->n_rows == t->n_rows && r->n_out == t->n_out && r->n_alone == t->n_alone &&
           r->brief == t->brief && r->all_out == t->all_out;
}

/* Whether A makes room before B: the one longest unused, but those of a pass's rows last. They are few, every
 * conversation comes back to them, and they hold a cooperative launch. */
static bool goes_before(const recorded *a, const recorded *b) {
    const bool pass_a = a->n_rows <= PASS_ROWS, pass_b = b->n_rows <= PASS_ROWS;
    return pass_a != pass_b ? pass_b : a->last_use < b->last_use;
}

/* The entry of this step, made (in the place of another) when there was none. */
static recorded *find(cuda_backend *cb, uint64_t key, bool *found) {
    recorded *oldest = &cb->graphs[0];
    *found = true;
    for (int i = 0; i < cb->n_graphs; i++) {
        recorded *r = &cb->graphs[i];
        if (matches(r, key, &cb->table))
            return r;
        oldest = goes_before(r, oldest) ? r : oldest;
    }
    *found = false;
    recorded *r = cb->n_graphs < CUDA_MAX_GRAPHS ? &cb->graphs[cb->n_graphs++] : oldest;
    forget(r);
    r->key = key;
    r->n_rows = cb->table.n_rows;
    r->n_out = cb->table.n_out;
    r->n_alone = cb->table.n_alone;
    r->brief = cb->table.brief;
    r->all_out = cb->table.all_out;
    return r;
}

static size_t count_bufs(const cuda_backend *cb) {
    size_t n = 0;
    for (const cuda_buf *b = cb->bufs; b; b = b->next)
        n++;
    return n;
}

static void save_rows(cuda_backend *cb, recorded *r) {
    size_t i = 0;
    mem_free(r->buf_rows); /* of a recording that failed */
    r->buf_rows = mem_array(count_bufs(cb) + 1, sizeof *r->buf_rows);
    for (const cuda_buf *b = cb->bufs; r->buf_rows && b; b = b->next)
        r->buf_rows[i++] = b->head.rows;
}

static void set_rows(cuda_backend *cb, const recorded *r) {
    size_t i = 0;
    for (cuda_buf *b = cb->bufs; b; b = b->next)
        b->head.rows = r->buf_rows[i++];
}

void step_launch_recorded(cuda_backend *cb) {
    opcalls_settle(cb);
    if (cb->state != STEP_RECORDING)
        return;
    cb->state = STEP_EAGER;
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    int code = cudaStreamEndCapture(cb->stream, &graph);
    if (code == cudaSuccess)
        code = cudaGraphInstantiate(&exec, graph, 0);
    if (graph)
        cudaGraphDestroy(graph);
    if (code == cudaSuccess)
        code = cudaGraphLaunch(exec, cb->stream);
    keep(cb, code, "recording a step");
    save_rows(cb, cb->recording);
    if (code == cudaSuccess && cb->failed == cudaSuccess && cb->recording->buf_rows)
        cb->recording->exec = exec;
    else if (exec)
        cudaGraphExecDestroy(exec);
    cb->recording = NULL;
}

/* ---- ops ---- */

static void mark_time(cuda_backend *cb, int op, bool begin) {
    if (cb->n_marks >= CUDA_MAX_MARKS)
        return;
    mark *m = &cb->marks[cb->n_marks];
    m->op = op;
    keep(cb, cudaEventRecord(begin ? m->begin : m->end, cb->stream), "profile");
    cb->n_marks += begin ? 0 : 1;
}

void step_op(cuda_backend *cb, int op) {
    if (cb->profiling)
        mark_time(cb, op, true);
}

void step_end(cuda_backend *cb, int op, int code, uint64_t bytes) {
    keep(cb, code, opcalls_names[op]);
    if (!cb->profiling)
        return;
    mark_time(cb, op, false);
    cb->profile[op].calls++;
    cb->profile[op].bytes += bytes;
}

/* ---- the contract's calls ---- */

static bool begin(backend *be, const batch *b, uint64_t key) {
    cuda_backend *cb = cuda_of(be);
    nib_error why;
    keep(cb, cudaSetDevice(cb->device), "choosing the device");
    if (cb->feed)
        upload_release(cb);
    cb->n_steps++;
    cb->state = STEP_EAGER;
    nib_status status = step_reserve(cb, (size_t)b->n_rows, count_pages(b), &why);
    cb->lane.off = status != NIB_OK;
    if (status != NIB_OK) { /* told by step_wait; without a table no op may run */
        cb->failed_status = status;
        cb->failed_words = why;
        return false;
    }
    fill_table(&cb->table, b);
    keep(cb,
         cudaMemcpyAsync(cb->table.device, cb->table.host, cb->table.n_words * sizeof(int32_t),
                         cudaMemcpyHostToDevice, cb->stream),
         "copying the batch");
    if (key == 0 || cb->eager || cb->profiling)
        return false;
    bool found;
    recorded *r = find(cb, key, &found);
    r->last_use = cb->n_steps;
    if (r->exec) {
        keep(cb, cudaGraphLaunch(r->exec, cb->stream), "replaying a step");
        set_rows(cb, r);
        cb->state = STEP_REPLAYED;
        return true;
    }
    if (found) {
        int code = cudaStreamBeginCapture(cb->stream, cudaStreamCaptureModeThreadLocal);
        keep(cb, code, "recording a step");
        if (code == cudaSuccess) {
            cb->state = STEP_RECORDING;
            cb->recording = r;
        }
    }
    return false;
}

static void submit(backend *be) {
    step_launch_recorded(cuda_of(be));
}

static void add_times(cuda_backend *cb) {
    for (int i = 0; i < cb->n_marks; i++) {
        float ms = 0;
        cudaEventElapsedTime(&ms, cb->marks[i].begin, cb->marks[i].end);
        cb->profile[cb->marks[i].op].seconds += (double)ms * 1e-3;
    }
    cb->n_marks = 0;
}

static nib_status wait_for(backend *be, nib_error *err) {
    cuda_backend *cb = cuda_of(be);
    keep(cb, cudaStreamSynchronize(cb->stream), "a step");
    add_times(cb);
    draw_deliver(cb);
    nib_status status = cb->failed_status;
    int code = cb->failed;
    cb->failed_status = NIB_OK;
    cb->failed = cudaSuccess;
    cb->lane.off = false;
    if (code == cudaErrorCooperativeLaunchTooLarge)
        step_forget_graphs(cb);
    if (status != NIB_OK)
        return nib_fail(err, status, "%s", cb->failed_words.text);
    return code == cudaSuccess ? NIB_OK : cuda_fail(err, code, cb->failed_op);
}

static void profile_start(backend *be) {
    cuda_backend *cb = cuda_of(be);
    if (!cb->marks) {
        cb->marks = mem_array(CUDA_MAX_MARKS, sizeof *cb->marks);
        cb->profile = mem_array(CALL_COUNT, sizeof *cb->profile);
        for (int i = 0; cb->marks && cb->profile && i < CUDA_MAX_MARKS; i++) {
            cudaEventCreate(&cb->marks[i].begin);
            cudaEventCreate(&cb->marks[i].end);
        }
    }
    cb->profiling = cb->marks && cb->profile;
    cb->n_marks = 0;
    for (int i = 0; cb->profiling && i < CALL_COUNT; i++)
        cb->profile[i] = (op_profile){.name = opcalls_names[i]};
}

static size_t profile_stop(backend *be, op_profile *rows, size_t max_rows) {
    cuda_backend *cb = cuda_of(be);
    size_t n = 0;
    for (int i = 0; cb->profiling && i < CALL_COUNT && n < max_rows; i++)
        if (cb->profile[i].calls > 0)
            rows[n++] = cb->profile[i];
    cb->profiling = false;
    return n;
}

void step_set(backend *be) {
    be->step_begin = begin;
    be->step_submit = submit;
    be->step_wait = wait_for;
    be->profile_start = profile_start;
    be->profile_stop = profile_stop;
}

void step_release(cuda_backend *cb) {
    step_forget_graphs(cb);
    cudaFreeHost(cb->table.host);
    cudaFree(cb->table.device);
    for (int i = 0; cb->marks && i < CUDA_MAX_MARKS; i++) {
        cudaEventDestroy(cb->marks[i].begin);
        cudaEventDestroy(cb->marks[i].end);
    }
    mem_free(cb->marks);
    mem_free(cb->profile);
}
