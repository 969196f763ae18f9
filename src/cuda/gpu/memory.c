/* SPDX-License-Identifier: Apache-2.0
 *
 * What the backend owns on the device: buffers, vectors, caches, and the scratch that its ops share. Device
 * memory starts as zeros, so that padding is zeros and a page never holds a NaN of somebody else's.
 */
#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "base/status.h"
#include "cuda/gpu/state.h"

enum { COLUMN_STEP = 128 };

nib_status cuda_fail(nib_error *err, int code, const char *what) {
    cudaGetLastError(); /* so that the next call does not report it again */
    nib_status status = code == cudaErrorMemoryAllocation ? NIB_NO_MEMORY : NIB_IO;
    return nib_fail(err, status, "GPU: %s: %s", what, cudaGetErrorString((cudaError_t)code));
}

nib_status cuda_alloc(cuda_backend *cb, void **out, size_t bytes, const char *what, nib_error *err) {
    size_t free_bytes = 0, total = 0;
    *out = NULL;
    CUDA_TRY(cudaSetDevice(cb->device), err, "choosing the device");
    int code = cudaMalloc(out, bytes ? bytes : 256);
    if (code != cudaSuccess) {
        cudaGetLastError();
        cudaMemGetInfo(&free_bytes, &total);
        return nib_fail(err, NIB_NO_MEMORY, "%s: no GPU memory for %s: %.1f MB wanted, %.1f of %.1f MB free",
                        cb->device_name, what, (double)bytes / 1e6, (double)free_bytes / 1e6,
                        (double)total / 1e6);
    }
    CUDA_TRY(cudaMemsetAsync(*out, 0, bytes ? bytes : 256, cb->stream), err, "clearing memory");
    return NIB_OK;
}

/* ---- scratch ---- */

/* What a product of M rows needs beside its operands: the most of all that opcalls asks for. */
static size_t product_bytes(const cuda_backend *cb, const size_t *shape, size_t m) {
    struct nib_gemm_weight w = {.g = cb->gemm, .n = shape[0], .k = shape[1]};
    const bool many = m > CUDA_FEW_ROWS, whole = shape[1] % GEMM_GROUP_K == 0;
    const struct {
        nib_gemm_type a;
        nib_gemm_mode mode;
        bool asked;
    } forms[] = {{NIB_GEMM_BF16, NIB_GEMM_W4A16,
                  !many || !cb->lane.wgmma || !whole || cb->be.mode == COMPUTE_W4A4 || cb->n_thin > 0},
                 {GEMM_A_BF16_MMA, NIB_GEMM_W4A16, many && cb->lane.wgmma && whole},
                 {GEMM_A_E4M3_MMA, NIB_GEMM_W4A8, many && cb->be.mode == COMPUTE_W4A8_FP8}};
    size_t most = 0;
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        for (int half = 0; half < 2 && forms[i].asked; half++) {
            nib_gemm_product p = {.weight = &w,
                                  .mode = forms[i].mode,
                                  .m = m,
                                  .a_type = forms[i].a,
                                  .d_type = half ? NIB_GEMM_BF16 : NIB_GEMM_F32};
            const size_t bytes = nib_gemm_workspace_bytes(cb->gemm, &p);
            most = bytes > most ? bytes : most;
        }
    return most;
}

/* Rows [from, to] of shape SHAPE. */
static void widen_workspace(const cuda_backend *cb, const size_t *shape, size_t from, size_t to,
                            size_t *most) {
    for (size_t m = from; m <= to; m++) {
        size_t bytes = product_bytes(cb, shape, m);
        *most = bytes > *most ? bytes : *most;
    }
}

/* Scratch of WANTED bytes at least. Recorded steps know where it lay. */
static nib_status grow(cuda_backend *cb, void **memory, size_t *bytes, size_t wanted, const char *what,
                       nib_error *err) {
    if (wanted <= *bytes)
        return NIB_OK;
    step_forget_graphs(cb);
    cudaFree(*memory);
    *bytes = 0;
    NIB_TRY(cuda_alloc(cb, memory, wanted, what, err));
    *bytes = wanted;
    return NIB_OK;
}

static nib_status grow_workspace(cuda_backend *cb, size_t most, nib_error *err) {
    return grow(cb, &cb->workspace, &cb->workspace_bytes, most, "partial products", err);
}

nib_status memory_know_shape(cuda_backend *cb, size_t rows, size_t cols, nib_error *err) {
    size_t most = cb->workspace_bytes;
    for (int i = 0; i < cb->n_shapes; i++)
        if (cb->shapes[i][0] == rows && cb->shapes[i][1] == cols)
            return NIB_OK;
    if (cb->n_shapes == CUDA_MAX_SHAPES)
        return nib_fail(err, NIB_UNSUPPORTED, "a network with NVFP4 weights of more than %d shapes",
                        CUDA_MAX_SHAPES);
    size_t *shape = cb->shapes[cb->n_shapes]; /* counted when what it needs is there */
    shape[0] = rows;
    shape[1] = cols;
    widen_workspace(cb, shape, 1, cb->shaped_rows, &most);
    NIB_TRY(grow_workspace(cb, most, err));
    if (!cb->flags)
        NIB_TRY(cuda_alloc(cb, &cb->flags, (size_t)cb->lane.n_sms * sizeof(uint32_t), "flags", err));
    NIB_TRY(grow(cb, (void **)&cb->squares, &cb->squares_bytes, GEMM_CHAIN_ROWS * (cols / 16) * sizeof(float),
                 "sums of squares", err));
    cb->n_shapes++;
    return NIB_OK;
}

nib_status memory_know_thin(cuda_backend *cb, size_t rank, nib_error *err) {
    if (cb->n_thin++ == 0) /* products of many rows read BF16 in another order now: other workspace */
        cb->shaped_rows = 0;
    cb->mid_cols = rank > cb->mid_cols ? rank : cb->mid_cols;
    return memory_reserve(cb, err);
}

nib_status memory_reserve(cuda_backend *cb, nib_error *err) {
    size_t most = cb->workspace_bytes;
    for (int i = 0; i < cb->n_shapes; i++)
        widen_workspace(cb, cb->shapes[i], cb->shaped_rows + 1, cb->max_rows, &most);
    NIB_TRY(grow_workspace(cb, most, err));
    cb->shaped_rows = cb->max_rows;
    NIB_TRY(grow(cb, (void **)&cb->mid, &cb->mid_bytes, cb->max_rows * cb->mid_cols * sizeof(float),
                 "low-rank branches", err));
    return grow(cb, (void **)&cb->wide, &cb->wide_bytes, cb->max_rows * cb->wide_cols * sizeof(float),
                "gate and up", err);
}

/* ---- buffers ---- */

static void buf_free(backend *be, buf *b) {
    cuda_backend *cb = cuda_of(be);
    cuda_buf *c = (cuda_buf *)b;
    if (!c)
        return;
    step_forget_graphs(cb);
    if (c->link) {
        *c->link = c->next;
        if (c->next)
            c->next->link = c->link;
    }
    cudaFree(c->data);
    cudaFree(c->fp8);
    cudaFree(c->scales);
    cudaFreeHost(c->host);
    mem_free(c);
}

static nib_status fill_buf(cuda_backend *cb, cuda_buf *c, nib_error *err) {
    bool act = c->head.kind == BUF_ACT;
    size_t elements = c->head.max_rows * c->stride;
    const char *what = act ? "activations" : "a buffer";
    c->format = ACT_F32;
    NIB_TRY(cuda_alloc(cb, &c->data, elements * sizeof(float), what, err));
    if (act && cb->be.mode == COMPUTE_W4A8_FP8) {
        size_t rows = (c->head.max_rows + 255) / 256 * 256; /* products read scales of whole tiles */
        NIB_TRY(cuda_alloc(cb, &c->fp8, elements, what, err));
        NIB_TRY(cuda_alloc(cb, (void **)&c->scales, rows * sizeof(float), what, err));
    }
    cb->max_rows = cb->max_rows > c->head.max_rows ? cb->max_rows : c->head.max_rows;
    NIB_TRY(step_reserve(cb, cb->max_rows, 0, err));
    return memory_reserve(cb, err);
}

static nib_status buf_new(backend *be, buf **out, buf_kind kind, split_kind split, size_t max_rows,
                          size_t cols, nib_error *err) {
    cuda_backend *cb = cuda_of(be);
    (void)split; /* one rank: whole */
    *out = NULL;
    if (max_rows > 65535)
        return nib_fail(err, NIB_BAD_ARGUMENT, "%zu rows of a step: a GPU takes at most 65535", max_rows);
    cuda_buf *c = mem_array(1, sizeof *c);
    if (!c)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a buffer");
    *c = (cuda_buf){.head = {.kind = kind, .cols = cols, .max_rows = max_rows},
                    .stride = (cols + COLUMN_STEP - 1) / COLUMN_STEP * COLUMN_STEP};
    nib_status status = fill_buf(cb, c, err);
    if (status != NIB_OK) {
        buf_free(be, &c->head);
        return status;
    }
    c->next = cb->bufs;
    c->link = &cb->bufs;
    if (c->next)
        c->next->link = &c->next;
    cb->bufs = c;
    step_forget_graphs(cb);
    *out = &c->head;
    return NIB_OK;
}

/* Latched: these calls have no status of their own, and the next step_wait tells. */
static void keep(cuda_backend *cb, int code, const char *what) {
    if (code != cudaSuccess && cb->failed == cudaSuccess) {
        cb->failed = code;
        cb->failed_op = what;
    }
}

/* Everything goes through the backend's stream: the device's default stream is not ordered with it. */
static void copy_rows(cuda_backend *cb, void *dst, size_t dst_stride, const void *src, size_t src_stride,
                      size_t cols, size_t rows, enum cudaMemcpyKind kind, const char *what) {
    keep(cb, cudaMemcpy2DAsync(dst, dst_stride * 4, src, src_stride * 4, cols * 4, rows, kind, cb->stream),
         what);
    keep(cb, cudaStreamSynchronize(cb->stream), what);
}

static void buf_write(backend *be, buf *b, const float *values, size_t rows, const weight *reader) {
    cuda_backend *cb = cuda_of(be);
    cuda_buf *c = (cuda_buf *)b;
    void *staged = NULL;
    b->rows = rows;
    if (rows == 0)
        return;
    c->format = b->kind == BUF_F32 ? ACT_F32 : opcalls_format(cb, reader, rows);
    c->gone = false;
    if (c->format == ACT_F32) {
        copy_rows(cb, c->data, c->stride, values, b->cols, b->cols, rows, cudaMemcpyHostToDevice,
                  "buf_write");
        return;
    }
    keep(cb, cudaMalloc(&staged, rows * b->cols * sizeof(float)), "buf_write");
    copy_rows(cb, staged, b->cols, values, b->cols, b->cols, rows, cudaMemcpyHostToDevice, "buf_write");
    keep(cb,
         convert_launch(&cb->lane, opcalls_view(c), (act_view){ACT_F32, staged, NULL, b->cols}, (int)rows,
                        b->cols),
         "buf_write");
    keep(cb, cudaStreamSynchronize(cb->stream), "buf_write");
    cudaFree(staged);
}

static void buf_read(backend *be, const buf *b, float *dst) {
    cuda_backend *cb = cuda_of(be);
    const cuda_buf *c = (const cuda_buf *)b;
    void *plain = NULL;
    if (b->rows == 0)
        return;
    keep(cb, cudaMalloc(&plain, b->rows * b->cols * sizeof(float)), "buf_read");
    keep(cb,
         convert_launch(&cb->lane, (act_view){ACT_F32, plain, NULL, b->cols}, opcalls_view(c), (int)b->rows,
                        b->cols),
         "buf_read");
    copy_rows(cb, dst, b->cols, plain, b->cols, b->cols, b->rows, cudaMemcpyDeviceToHost, "buf_read");
    cudaFree(plain);
}

static const float *buf_view(backend *be, const buf *b) {
    cuda_backend *cb = cuda_of(be);
    cuda_buf *c = (cuda_buf *)b;
    assert(c->format == ACT_F32); /* logits and streams; other products' results are for buf_read */
    if (!c->host)
        keep(cb, cudaMallocHost((void **)&c->host, (b->max_rows * b->cols + 1) * sizeof(float)), "buf_view");
    if (b->rows > 0)
        copy_rows(cb, c->host, b->cols, c->data, c->stride, b->cols, b->rows, cudaMemcpyDeviceToHost,
                  "buf_view");
    return c->host;
}

/* ---- vectors ---- */

static size_t vec_bytes(const vec *v) {
    return v->n * (v->kind == VEC_F32 ? sizeof(float) : sizeof(double));
}

static void vec_free(backend *be, vec *v) {
    cuda_vec *c = (cuda_vec *)v;
    if (!c)
        return;
    step_forget_graphs(cuda_of(be));
    cudaFree(c->data);
    mem_free(c);
}

static nib_status vec_new(backend *be, vec **out, vec_kind kind, size_t n, const void *values,
                          nib_error *err) {
    cuda_backend *cb = cuda_of(be);
    *out = NULL;
    cuda_vec *c = mem_array(1, sizeof *c);
    if (!c)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a vector");
    c->head = (vec){.kind = kind, .n = n};
    nib_status status = cuda_alloc(cb, &c->data, vec_bytes(&c->head) + 16, "a vector", err);
    if (status == NIB_OK && values) {
        int code = cudaMemcpyAsync(c->data, values, vec_bytes(&c->head), cudaMemcpyHostToDevice, cb->stream);
        if (code == cudaSuccess)
            code = cudaStreamSynchronize(cb->stream);
        if (code != cudaSuccess)
            status = cuda_fail(err, code, "copying a vector");
    }
    if (status != NIB_OK) {
        vec_free(be, &c->head);
        return status;
    }
    *out = &c->head;
    return NIB_OK;
}

static void vec_read(backend *be, const vec *v, void *dst) {
    cuda_backend *cb = cuda_of(be);
    keep(cb,
         cudaMemcpyAsync(dst, ((const cuda_vec *)v)->data, vec_bytes(v), cudaMemcpyDeviceToHost, cb->stream),
         "vec_read");
    keep(cb, cudaStreamSynchronize(cb->stream), "vec_read");
}

/* ---- caches ---- */

static size_t element_bytes(nib_kv_dtype t) {
    return t == NIB_KV_FP32 ? 4 : t == NIB_KV_FP8 ? 1 : 2;
}

static size_t page_bytes(backend *be, const cache_shape *s) {
    (void)be;
    size_t cells = (size_t)s->n_layers * (size_t)s->n_kv_heads * KV_PAGE_TOKENS;
    return 2 * cells *
           ((size_t)s->head_dim * element_bytes(s->dtype) + (s->dtype == NIB_KV_FP8 ? sizeof(float) : 0));
}

static size_t memory_free(backend *be) {
    size_t free_bytes = 0, total = 0;
    cudaSetDevice(cuda_of(be)->device);
    return cudaMemGetInfo(&free_bytes, &total) == cudaSuccess ? free_bytes : 0;
}

static bool is_wide(const cache *c) {
    for (int g = 0; g < c->n_groups; g++)
        if (c->shapes[g].dtype == NIB_KV_FP32)
            return true;
    return false;
}

static void cache_free(backend *be, cache *c) {
    cuda_cache *cc = (cuda_cache *)c;
    if (!cc)
        return;
    cuda_of(be)->gathered.n_wide_caches -= is_wide(c);
    step_forget_graphs(cuda_of(be));
    for (int g = 0; g < CACHE_MAX_GROUPS; g++) {
        cudaFree(cc->groups[g].k);
        cudaFree(cc->groups[g].v);
        cudaFree(cc->groups[g].k_scales);
        cudaFree(cc->groups[g].v_scales);
    }
    mem_free(cc);
}

static nib_status fill_group(cuda_backend *cb, cuda_group *g, const cache_shape *s, nib_error *err) {
    if (s->group.kind == CACHE_STATE)
        return nib_fail(err, NIB_UNSUPPORTED, "recurrent layers are not computed on a GPU yet");
    g->page_cells = (size_t)s->n_kv_heads * KV_PAGE_TOKENS;
    g->page_elements = g->page_cells * (size_t)s->head_dim;
    g->element_bytes = element_bytes(s->dtype);
    size_t pages = (size_t)s->n_layers * (size_t)s->group.n_pages;
    NIB_TRY(cuda_alloc(cb, (void **)&g->k, pages * g->page_elements * g->element_bytes, "keys", err));
    NIB_TRY(cuda_alloc(cb, (void **)&g->v, pages * g->page_elements * g->element_bytes, "values", err));
    if (s->dtype != NIB_KV_FP8)
        return NIB_OK;
    NIB_TRY(
        cuda_alloc(cb, (void **)&g->k_scales, pages * g->page_cells * sizeof(float), "scales of keys", err));
    return cuda_alloc(cb, (void **)&g->v_scales, pages * g->page_cells * sizeof(float), "scales of values",
                      err);
}

static nib_status cache_new(backend *be, cache **out, const cache_shape *shapes, int n_groups,
                            nib_error *err) {
    *out = NULL;
    cuda_cache *c = mem_array(1, sizeof *c);
    if (!c)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a cache");
    *c = (cuda_cache){.head = {.n_groups = n_groups}};
    nib_status status = NIB_OK;
    memcpy(c->head.shapes, shapes, (size_t)n_groups * sizeof *shapes);
    cuda_of(be)->gathered.n_wide_caches += is_wide(&c->head);
    for (int g = 0; g < n_groups && status == NIB_OK; g++) {
        c->head.bytes += page_bytes(be, &shapes[g]) * (size_t)shapes[g].group.n_pages;
        status = fill_group(cuda_of(be), &c->groups[g], &shapes[g], err);
    }
    if (status != NIB_OK) {
        cache_free(be, &c->head);
        return status;
    }
    *out = &c->head;
    return NIB_OK;
}

/* Page FROM becomes TO in an array of LAYERS times N_PAGES pages of BYTES. */
static int copy_pages(cuda_backend *cb, void *array, const cache_shape *s, size_t bytes, int32_t to,
                      int32_t from) {
    if (!array)
        return cudaSuccess;
    size_t layer = (size_t)s->group.n_pages * bytes;
    uint8_t *p = array;
    return cudaMemcpy2DAsync(p + (size_t)to * bytes, layer, p + (size_t)from * bytes, layer, bytes,
                             (size_t)s->n_layers, cudaMemcpyDeviceToDevice, cb->stream);
}

static void cache_copy(backend *be, cache *c, int group, int32_t to, int32_t from) {
    cuda_backend *cb = cuda_of(be);
    const cache_shape *s = &c->shapes[group];
    cuda_group *g = &((cuda_cache *)c)->groups[group];
    size_t bytes = g->page_elements * g->element_bytes, scales = g->page_cells * sizeof(float);
    keep(cb, copy_pages(cb, g->k, s, bytes, to, from), "cache_copy");
    keep(cb, copy_pages(cb, g->v, s, bytes, to, from), "cache_copy");
    keep(cb, copy_pages(cb, g->k_scales, s, scales, to, from), "cache_copy");
    keep(cb, copy_pages(cb, g->v_scales, s, scales, to, from), "cache_copy");
}

/* ---- the table ---- */

void memory_set(backend *be) {
    be->buf_new = buf_new;
    be->buf_free = buf_free;
    be->buf_write = buf_write;
    be->buf_read = buf_read;
    be->buf_view = buf_view;
    be->vec_new = vec_new;
    be->vec_read = vec_read;
    be->vec_free = vec_free;
    be->cache_page_bytes = page_bytes;
    be->memory_free = memory_free;
    be->cache_new = cache_new;
    be->cache_free = cache_free;
    be->cache_copy = cache_copy;
}

void memory_release(cuda_backend *cb) {
    cudaFree(cb->wide);
    cudaFree(cb->mid);
    cudaFree(cb->partial);
    cudaFree(cb->squares);
    cudaFree(cb->flags);
    cudaFree(cb->workspace);
}
