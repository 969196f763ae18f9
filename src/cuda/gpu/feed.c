/* SPDX-License-Identifier: Apache-2.0
 *
 * Bytes of files on their way to the device. Several threads read pieces into pinned memory; a piece is
 * copied when it and all before it are there, and what is queued behind it (a weight's packing) follows on
 * the stream. So disk, bus and packer work at once, from one weight to the next too. Only the thread that
 * loads speaks to the stream.
 */
#include <pthread.h>

#include "base/cores.h"
#include "base/mapfile.h"
#include "base/mem.h"
#include "base/status.h"
#include "cuda/gpu/state.h"

enum { MAX_READERS = 8, SLOTS = 16, SLOT_BYTES = 4 << 20 };
enum { SMALL_BYTES = 1 << 20 }; /* not worth threads and pinned memory, where there are none yet */

typedef struct piece {
    uint8_t *pinned;    /* [SLOT_BYTES], made by its first reader: pinning takes long */
    cudaEvent_t copied; /* it may be written again */
    void *dst;
    const void *src;
    size_t bytes;
    bool is_read;
    nib_status status; /* of reading */
    nib_error why;
    bool packs; /* a weight is whole with this piece */
    nib_gemm_weight *packed;
    nib_gemm_source source;
    float tensor_scale;
} piece;

struct feed {
    int device;
    piece slots[SLOTS];
    pthread_t readers[MAX_READERS];
    int n_readers;
    pthread_mutex_t lock; /* of what follows, and is_read */
    pthread_cond_t asked, read;
    size_t n_asked, n_taken; /* pieces so far: asked for, and taken by a reader */
    bool ends;
    size_t n_queued; /* on the stream; the loading thread's */
};

static nib_status read_piece(piece *s) {
    if (!s->pinned)
        CUDA_TRY(cudaMallocHost((void **)&s->pinned, SLOT_BYTES), &s->why, "pinned memory");
    CUDA_TRY(cudaEventSynchronize(s->copied), &s->why, "copying a weight");
    return mapfile_read(s->pinned, s->src, s->bytes, &s->why);
}

static void *read_pieces(void *context) {
    feed *f = context;
    cudaSetDevice(f->device);
    pthread_mutex_lock(&f->lock);
    for (;;) {
        while (f->n_taken == f->n_asked && !f->ends)
            pthread_cond_wait(&f->asked, &f->lock);
        if (f->n_taken == f->n_asked)
            break;
        piece *s = &f->slots[f->n_taken++ % SLOTS];
        pthread_mutex_unlock(&f->lock);
        const nib_status status = read_piece(s);
        pthread_mutex_lock(&f->lock);
        s->status = status;
        s->is_read = true;
        pthread_cond_signal(&f->read);
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

static nib_status fill_feed(feed *f, nib_error *err) {
    const int cores = cores_physical();
    for (int i = 0; i < SLOTS; i++)
        CUDA_TRY(
            cudaEventCreateWithFlags(&f->slots[i].copied, cudaEventDisableTiming | cudaEventBlockingSync),
            err, "an event");
    while (f->n_readers < MAX_READERS && f->n_readers < cores) {
        if (pthread_create(&f->readers[f->n_readers], NULL, read_pieces, f) != 0)
            break; /* fewer do */
        f->n_readers++;
    }
    return f->n_readers ? NIB_OK : nib_fail(err, NIB_NO_MEMORY, "no thread to read weights");
}

static nib_status feed_open(cuda_backend *cb, nib_error *err) {
    if (cb->feed)
        return NIB_OK;
    feed *f = mem_array(1, sizeof *f);
    if (!f)
        return nib_fail(err, NIB_NO_MEMORY, "no memory to read weights");
    *f = (feed){.device = cb->device};
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->asked, NULL);
    pthread_cond_init(&f->read, NULL);
    cb->feed = f;
    const nib_status status = fill_feed(f, err);
    if (status != NIB_OK)
        feed_close(cb);
    return status;
}

void feed_close(cuda_backend *cb) {
    feed *f = cb->feed;
    if (!f)
        return;
    pthread_mutex_lock(&f->lock);
    f->ends = true;
    pthread_cond_broadcast(&f->asked);
    pthread_mutex_unlock(&f->lock);
    for (int i = 0; i < f->n_readers; i++)
        pthread_join(f->readers[i], NULL);
    for (int i = 0; i < SLOTS; i++) {
        if (f->slots[i].copied)
            cudaEventDestroy(f->slots[i].copied);
        cudaFreeHost(f->slots[i].pinned);
    }
    pthread_cond_destroy(&f->read);
    pthread_cond_destroy(&f->asked);
    pthread_mutex_destroy(&f->lock);
    mem_free(f);
    cb->feed = NULL;
}

/* ---- the loading thread ---- */

static bool is_read(feed *f, bool wait) {
    const piece *s = &f->slots[f->n_queued % SLOTS];
    pthread_mutex_lock(&f->lock);
    while (wait && !s->is_read)
        pthread_cond_wait(&f->read, &f->lock);
    const bool is = s->is_read;
    pthread_mutex_unlock(&f->lock);
    return is;
}

static nib_status pack(cuda_backend *cb, nib_gemm_weight *packed, const nib_gemm_source *source,
                       float tensor_scale, nib_error *err) {
    CUDA_TRY(cudaMemcpyAsync((void *)(uintptr_t)source->tensor_scale, &tensor_scale, sizeof tensor_scale,
                             cudaMemcpyHostToDevice, cb->stream),
             err, "copying a weight");
    return nib_gemm_weight_pack(cb->gemm, packed, source, cb->stream, err);
}

static nib_status queue_piece(cuda_backend *cb, const piece *s, nib_error *err) {
    if (s->status != NIB_OK)
        return nib_fail(err, s->status, "%s", s->why.text);
    CUDA_TRY(cudaMemcpyAsync(s->dst, s->pinned, s->bytes, cudaMemcpyHostToDevice, cb->stream), err,
             "copying a weight");
    CUDA_TRY(cudaEventRecord(s->copied, cb->stream), err, "copying a weight");
    return s->packs ? pack(cb, s->packed, &s->source, s->tensor_scale, err) : NIB_OK;
}

/* The oldest piece, once it is read. Where that fails all others are let go. */
static nib_status queue_oldest(cuda_backend *cb, nib_error *err) {
    feed *f = cb->feed;
    is_read(f, true);
    const nib_status status = queue_piece(cb, &f->slots[f->n_queued++ % SLOTS], err);
    for (; status != NIB_OK && f->n_queued < f->n_asked; f->n_queued++)
        is_read(f, true);
    return status;
}

static nib_status copy_small(cuda_backend *cb, void *dst, const void *src, size_t bytes, nib_error *err) {
    void *own = mem_alloc(bytes);
    if (!own)
        return nib_fail(err, NIB_NO_MEMORY, "no memory to read weights");
    nib_status status = mapfile_read(own, src, bytes, err);
    if (status == NIB_OK) {
        int code = cudaMemcpyAsync(dst, own, bytes, cudaMemcpyHostToDevice, cb->stream);
        if (code == cudaSuccess)
            code = cudaStreamSynchronize(cb->stream);
        status = code == cudaSuccess ? NIB_OK : cuda_fail(err, code, "copying a weight");
    }
    mem_free(own);
    return status;
}

nib_status feed_push(cuda_backend *cb, void *dst, const void *src, size_t bytes, nib_error *err) {
    if (!cb->feed && bytes <= SMALL_BYTES)
        return copy_small(cb, dst, src, bytes, err);
    NIB_TRY(feed_open(cb, err));
    feed *f = cb->feed;
    for (size_t at = 0; at < bytes; at += SLOT_BYTES) {
        while (f->n_asked - f->n_queued == SLOTS || (f->n_queued < f->n_asked && is_read(f, false)))
            NIB_TRY(queue_oldest(cb, err));
        piece *s = &f->slots[f->n_asked % SLOTS];
        s->dst = (uint8_t *)dst + at;
        s->src = (const uint8_t *)src + at;
        s->bytes = bytes - at < SLOT_BYTES ? bytes - at : SLOT_BYTES;
        s->is_read = s->packs = false;
        pthread_mutex_lock(&f->lock);
        f->n_asked++;
        pthread_cond_signal(&f->asked);
        pthread_mutex_unlock(&f->lock);
    }
    return NIB_OK;
}

nib_status feed_pack(cuda_backend *cb, nib_gemm_weight *packed, const nib_gemm_source *source,
                     float tensor_scale, nib_error *err) {
    feed *f = cb->feed;
    if (!f)
        return pack(cb, packed, source, tensor_scale, err);
    piece *last = &f->slots[(f->n_asked - 1) % SLOTS];
    last->packs = true;
    last->packed = packed;
    last->source = *source;
    last->tensor_scale = tensor_scale;
    return NIB_OK;
}

nib_status feed_finish(cuda_backend *cb, nib_error *err) {
    feed *f = cb->feed;
    while (f && f->n_queued < f->n_asked)
        NIB_TRY(queue_oldest(cb, err));
    CUDA_TRY(cudaStreamSynchronize(cb->stream), err, "packing a weight");
    return NIB_OK;
}
