/* SPDX-License-Identifier: Apache-2.0
 *
 * Penalties are worked out here, token by token of the sequence, because there they are few; the device gets
 * a list of (token, in the window of the repeat penalty, times generated) per row. A vocabulary's masks and
 * biases go up as they are.
 */
#include "cuda/gpu/draw.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/status.h"

typedef struct cuda_draws {
    uint8_t *host, *device; /* rows, then lists and masks */
    size_t bytes;
    sampled *results; /* pinned: kernels write there */
    float *adjusted;  /* the kernels' room */
    size_t adjusted_bytes;
    int max_results;

    sampled *out; /* of the step in progress; NULL: no sampling */
    int n_out;

    int32_t *order; /* scratch: the sequence's tokens, sorted */
    size_t order_room;
} cuda_draws;

nib_status draw_new(cuda_backend *cb, nib_error *err) {
    cb->draws = mem_array(1, sizeof *cb->draws);
    return cb->draws ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "no memory to sample");
}

void draw_free(cuda_backend *cb) {
    cuda_draws *s = cb->draws;
    if (!s)
        return;
    cudaFreeHost(s->host);
    cudaFree(s->device);
    cudaFreeHost(s->results);
    cudaFree(s->adjusted);
    mem_free(s->order);
    mem_free(s);
    cb->draws = NULL;
}

/* ---- room: grows with what is asked, so that steps of one kind allocate once ---- */

static int grow_pinned(void **host, size_t bytes) {
    cudaFreeHost(*host);
    *host = NULL;
    return (int)cudaMallocHost(host, bytes);
}

static int grow_pair(void **host, void **device, size_t bytes) {
    cudaFree(*device);
    *device = NULL;
    int code = grow_pinned(host, bytes);
    return code == cudaSuccess ? (int)cudaMalloc(device, bytes) : code;
}

static int reserve(cuda_draws *s, int n_rows, size_t vocab, size_t bytes) {
    int code = cudaSuccess;
    if (n_rows > s->max_results) {
        code = grow_pinned((void **)&s->results, (size_t)n_rows * sizeof(sampled));
        s->max_results = code == cudaSuccess ? n_rows : 0;
    }
    size_t adjusted = (size_t)n_rows * (vocab + 2 * SAMPLE_SLICES) * sizeof(float);
    if (code == cudaSuccess && adjusted > s->adjusted_bytes) {
        cudaFree(s->adjusted);
        s->adjusted_bytes = adjusted;
        code = cudaMalloc((void **)&s->adjusted, s->adjusted_bytes);
        s->adjusted_bytes = code == cudaSuccess ? s->adjusted_bytes : 0;
    }
    if (code == cudaSuccess && bytes > s->bytes) {
        s->bytes = bytes * 2;
        code = grow_pair((void **)&s->host, (void **)&s->device, s->bytes);
        s->bytes = code == cudaSuccess ? s->bytes : 0;
    }
    return code;
}

/* ---- lists ---- */

static bool repeats(const sample_row *r) {
    return r->repeat_penalty > 0 && r->repeat_penalty != 1;
}

static bool counts(const sample_row *r) {
    return r->presence_penalty != 0 || r->frequency_penalty != 0;
}

static size_t list_room(const sample_row *r) {
    return (repeats(r) || counts(r) ? (size_t)r->n_tokens : 0) * sizeof(sample_adjust) +
           (size_t)r->n_bias * sizeof(token_bias);
}

static int by_value(const void *a, const void *b) {
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* Tokens [first, n) of the sequence, sorted. */
static int32_t *sorted_tokens(cuda_draws *s, const sample_row *r, int first) {
    size_t n = (size_t)(r->n_tokens - first);
    if (n > s->order_room) {
        int32_t *room = mem_resize(s->order, 2 * n, sizeof *room);
        if (!room)
            return NULL;
        s->order = room;
        s->order_room = 2 * n;
    }
    memcpy(s->order, r->tokens + first, n * sizeof *s->order);
    qsort(s->order, n, sizeof *s->order, by_value);
    return s->order;
}

/* Each token once; returns how many, -1 without memory. */
static int list_adjustments(cuda_draws *s, const sample_row *r, sample_adjust *list) {
    int n = 0, window = repeats(r) ? r->n_tokens - r->penalty_window : r->n_tokens;
    window = window < 0 ? 0 : window;
    int first = counts(r) && r->n_prompt < window ? r->n_prompt : window, all = r->n_tokens - first;
    int32_t *sorted = all > 0 ? sorted_tokens(s, r, first) : NULL;
    if (all > 0 && !sorted)
        return -1;
    for (int i = 0; i < all; i++)
        if (i == 0 || sorted[i] != sorted[i - 1])
            list[n++] = (sample_adjust){.token = sorted[i]};
    for (int i = first; i < r->n_tokens && n > 0; i++) { /* entries stand in the order of SORTED's values */
        int lo = 0, hi = n - 1;
        while (lo < hi) {
            int middle = (lo + hi) / 2;
            if (list[middle].token < r->tokens[i])
                lo = middle + 1;
            else
                hi = middle;
        }
        list[lo].repeated |= repeats(r) && i >= window;
        list[lo].generated += counts(r) && i >= r->n_prompt;
    }
    return n;
}

/* ---- the op ---- */

static sample_job job_of(const sample_row *r) {
    return (sample_job){.temperature = r->temperature,
                        .per_temperature = r->temperature > 0 ? 1.0 / r->temperature : 0,
                        .top_k = r->top_k,
                        .top_p = r->top_p > 0 && r->top_p < 1 ? r->top_p : 0,
                        .floor_delta = r->min_p > 0 && r->temperature > 0
                                           ? r->temperature * logf(fminf(r->min_p, 1))
                                           : -INFINITY,
                        .repeat_penalty = r->repeat_penalty,
                        .presence_penalty = r->presence_penalty,
                        .frequency_penalty = r->frequency_penalty,
                        .seed = r->seed,
                        .position = r->position,
                        .n_top = r->n_top};
}

/* Everything the device reads, into the pinned block; returns its length, 0 without memory. */
static size_t fill_block(cuda_draws *s, const sample_row *rows, int n, size_t vocab) {
    sample_job *jobs = (sample_job *)s->host;
    size_t at = (size_t)n * sizeof *jobs, words = (vocab + 31) / 32;
    for (int i = 0; i < n; i++) {
        const sample_row *r = &rows[i];
        jobs[i] = job_of(r);
        jobs[i].adjust_at = (uint32_t)at;
        if (repeats(r) || counts(r)) {
            int listed = list_adjustments(s, r, (sample_adjust *)(s->host + at));
            if (listed < 0)
                return 0;
            jobs[i].n_adjust = (uint32_t)listed;
            at += (size_t)listed * sizeof(sample_adjust);
        }
        jobs[i].bias_at = (uint32_t)at;
        jobs[i].n_bias = (uint32_t)r->n_bias;
        if (r->n_bias > 0)
            memcpy(s->host + at, r->bias, (size_t)r->n_bias * sizeof(token_bias));
        at += (size_t)r->n_bias * sizeof(token_bias);
        jobs[i].mask_at = r->mask ? (uint32_t)at : 0;
        if (r->mask) {
            memcpy(s->host + at, r->mask, words * sizeof(uint32_t));
            at += words * sizeof(uint32_t);
        }
        at = (at + 7) & ~(size_t)7;
    }
    return at;
}

static int launch(cuda_backend *cb, sampled *out, const cuda_buf *logits, const sample_row *rows) {
    cuda_draws *s = cb->draws;
    int n = (int)logits->head.rows;
    size_t vocab = logits->head.cols, room = 0;
    for (int i = 0; i < n; i++)
        room += sizeof(sample_job) + list_room(&rows[i]) + (rows[i].mask ? (vocab + 31) / 32 * 4 : 0) + 16;
    int code = reserve(s, n, vocab, room);
    if (code != cudaSuccess)
        return code;
    size_t bytes = fill_block(s, rows, n, vocab);
    if (bytes == 0)
        return cudaErrorMemoryAllocation;
    s->out = out;
    s->n_out = n;
    const uint8_t *block = s->host; /* rows alone are few bytes: a copy would wait for the network's end */
    if (bytes > (size_t)n * sizeof(sample_job)) {
        block = s->device;
        code = cudaMemcpyAsync(s->device, s->host, bytes, cudaMemcpyHostToDevice, cb->stream);
    }
    if (code != cudaSuccess)
        return code;
    return sample_launch(&cb->lane, s->results, logits->data, logits->stride, (int)vocab, block, n,
                         s->adjusted);
}

static void sample(backend *be, sampled *out, const buf *logits, const sample_row *rows) {
    cuda_backend *cb = cuda_of(be);
    step_launch_recorded(cb); /* what differs from step to step stays out of the graph */
    if (logits->rows == 0 || cb->lane.off)
        return;
    step_op(cb, CALL_SAMPLE);
    int code = launch(cb, out, (const cuda_buf *)logits, rows);
    step_end(cb, CALL_SAMPLE, code, logits->rows * logits->cols * 4);
}

void draw_deliver(cuda_backend *cb) {
    cuda_draws *s = cb->draws;
    if (s->out && cb->failed == cudaSuccess && cb->failed_status == NIB_OK)
        memcpy(s->out, s->results, (size_t)s->n_out * sizeof *s->out);
    s->out = NULL;
}

void draw_set(backend *be) {
    be->op.sample = sample;
}
