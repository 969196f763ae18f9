/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights on the device. NVFP4 tensors go through the FP4 library's packer; what it does not take, and
 * everything in the exact mode, stays as the file stores it and is decoded by the product (rare formats
 * become FP32). Bytes stream from the mapped file through two pinned buffers, so that reading the file, the
 * bus and the packer overlap.
 */
#include <string.h>

#include "base/mem.h"
#include "base/status.h"
#include "cuda/gpu/state.h"

enum { PINNED_BYTES = 32 << 20, SMALL_BYTES = 1 << 20 /* not worth a pinned buffer */ };

/* ---- streaming ---- */

static nib_status open_pinned(cuda_backend *cb, nib_error *err) {
    if (cb->pinned[1])
        return NIB_OK;
    for (int i = 0; i < 2; i++) {
        CUDA_TRY(cudaMallocHost((void **)&cb->pinned[i], PINNED_BYTES), err, "pinned memory");
        CUDA_TRY(cudaEventCreateWithFlags(&cb->pinned_free[i], cudaEventDisableTiming), err, "an event");
    }
    return NIB_OK;
}

void upload_release(cuda_backend *cb) {
    for (int i = 0; i < 2; i++) {
        cudaFreeHost(cb->pinned[i]);
        if (cb->pinned_free[i])
            cudaEventDestroy(cb->pinned_free[i]);
        cb->pinned[i] = NULL;
        cb->pinned_free[i] = NULL;
    }
    cudaFree(cb->staging);
    cb->staging = NULL;
    cb->staging_bytes = 0;
}

/* SRC [bytes] of the host to DST, queued. */
static nib_status upload(cuda_backend *cb, void *dst, const void *src, size_t bytes, nib_error *err) {
    if (bytes <= SMALL_BYTES) {
        CUDA_TRY(cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, cb->stream), err,
                 "copying a weight");
        CUDA_TRY(cudaStreamSynchronize(cb->stream), err, "copying a weight");
        return NIB_OK;
    }
    NIB_TRY(open_pinned(cb, err));
    for (size_t at = 0; at < bytes; at += PINNED_BYTES) {
        size_t n = bytes - at < PINNED_BYTES ? bytes - at : PINNED_BYTES;
        int i = cb->next_pinned;
        CUDA_TRY(cudaEventSynchronize(cb->pinned_free[i]), err, "copying a weight");
        memcpy(cb->pinned[i], (const uint8_t *)src + at, n);
        CUDA_TRY(cudaMemcpyAsync((uint8_t *)dst + at, cb->pinned[i], n, cudaMemcpyHostToDevice, cb->stream),
                 err, "copying a weight");
        CUDA_TRY(cudaEventRecord(cb->pinned_free[i], cb->stream), err, "copying a weight");
        cb->next_pinned = 1 - i;
    }
    return NIB_OK;
}

static nib_status grow_staging(cuda_backend *cb, size_t bytes, nib_error *err) {
    if (bytes <= cb->staging_bytes)
        return NIB_OK;
    CUDA_TRY(cudaStreamSynchronize(cb->stream), err, "packing a weight");
    cudaFree(cb->staging);
    cb->staging_bytes = 0;
    NIB_TRY(cuda_alloc(cb, &cb->staging, bytes, "a weight on its way", err));
    cb->staging_bytes = bytes;
    return NIB_OK;
}

/* ---- packing ---- */

static size_t scale_bytes(const tensor *t) {
    return t->block_scales ? t->rows * (t->cols / (t->dtype == DT_MXFP4 ? 32 : 16)) : 0;
}

static bool takes_fp4(const cuda_backend *cb, const tensor *t) {
    return cb->be.mode != COMPUTE_EXACT && dtype_is_nvfp4(t->dtype) && !t->row_scales && t->rows % 16 == 0 &&
           t->cols % 16 == 0;
}

/* As the file stores it. */
static nib_status keep_part(cuda_backend *cb, part_view *v, const tensor *t, nib_error *err) {
    void *data, *scales = NULL, *row_scales = NULL;
    NIB_TRY(cuda_alloc(cb, &data, t->bytes + 64, "a weight", err));
    v->data = data;
    NIB_TRY(upload(cb, data, t->data, t->bytes, err));
    if (t->block_scales) {
        NIB_TRY(cuda_alloc(cb, &scales, scale_bytes(t), "a weight's scales", err));
        v->block_scales = scales;
        NIB_TRY(upload(cb, scales, t->block_scales, scale_bytes(t), err));
    }
    if (t->row_scales) {
        NIB_TRY(cuda_alloc(cb, &row_scales, t->rows * sizeof(float), "a weight's scales", err));
        v->row_scales = row_scales;
        NIB_TRY(upload(cb, row_scales, t->row_scales, t->rows * sizeof(float), err));
    }
    return NIB_OK;
}

/* Formats that no kernel decodes become FP32 on the way: exact, and 32 bits an element. */
static nib_status keep_decoded(cuda_backend *cb, part_view *v, const tensor *t, nib_error *err) {
    void *data;
    size_t row_bytes = t->cols * sizeof(float), chunk = PINNED_BYTES / row_bytes + 1;
    NIB_TRY(cuda_alloc(cb, &data, t->rows * row_bytes + 64, "a weight", err));
    *v =
        (part_view){.type = DT_F32, .data = data, .row_bytes = row_bytes, .tensor_scale = 1, .rows = t->rows};
    float *rows = mem_array(chunk, row_bytes);
    if (!rows)
        return nib_fail(err, NIB_NO_MEMORY, "%s: no memory to decode it", t->name);
    nib_status status = NIB_OK;
    for (size_t row = 0; row < t->rows && status == NIB_OK; row += chunk) {
        size_t n = t->rows - row < chunk ? t->rows - row : chunk;
        for (size_t i = 0; i < n; i++)
            tensor_decode_row(t, row + i, rows + i * t->cols);
        status = upload(cb, (uint8_t *)data + row * row_bytes, rows, n * row_bytes, err);
    }
    mem_free(rows);
    return status;
}

/* The library takes one tensor scale a weight: parts that share theirs are packed as one, so that one product
 * computes them all (exporters give q, k, v and gate, up a common scale for this). */
static bool one_scale(const tensor *const *parts, int n) {
    for (int i = 1; i < n; i++)
        if (parts[i]->tensor_scale != parts[0]->tensor_scale || parts[i]->dtype != parts[0]->dtype)
            return false;
    return true;
}

static size_t aligned(size_t bytes) {
    return (bytes + 255) & ~(size_t)255;
}

/* N tensors, rows joined, as one packed weight; SCALE: its tensor scale, once the stream is done. */
static nib_status pack_parts(cuda_backend *cb, nib_gemm_weight **out, const tensor *const *parts, int n,
                             float *scale, nib_error *err) {
    size_t codes = 0, scales = 0, rows = 0, code_at = 0, scale_at = 0, cols = parts[0]->cols;
    for (int i = 0; i < n; i++) {
        codes += parts[i]->bytes;
        scales += scale_bytes(parts[i]);
        rows += parts[i]->rows;
    }
    NIB_TRY(grow_staging(cb, aligned(codes) + aligned(scales) + 256, err));
    uint8_t *staged = cb->staging, *staged_scales = staged + aligned(codes);
    float *tensor_scale = (float *)(void *)(staged_scales + aligned(scales));
    const bool gguf = parts[0]->dtype == DT_GGUF_NVFP4;
    for (int i = 0; i < n; i++) {
        if (!gguf)
            NIB_TRY(upload(cb, staged + code_at, parts[i]->data, parts[i]->bytes, err));
        NIB_TRY(upload(cb, gguf ? staged + code_at : staged_scales + scale_at,
                       gguf ? parts[i]->data : parts[i]->block_scales,
                       gguf ? parts[i]->bytes : scale_bytes(parts[i]), err));
        code_at += parts[i]->bytes;
        scale_at += scale_bytes(parts[i]);
    }
    NIB_TRY(upload(cb, tensor_scale, &parts[0]->tensor_scale, sizeof(float), err));
    NIB_TRY(nib_gemm_weight_create(cb->gemm, rows, cols, NULL, out, err));
    nib_gemm_source source = {.format = gguf ? NIB_GEMM_FROM_NVFP4_GGUF : NIB_GEMM_FROM_NVFP4,
                              .n = rows,
                              .k = cols,
                              .values = staged,
                              .scales = gguf ? NULL : staged_scales,
                              .tensor_scale = tensor_scale};
    NIB_TRY(nib_gemm_weight_pack(cb->gemm, *out, &source, cb->stream, err));
    CUDA_TRY(cudaMemcpyAsync(scale, gemm_tensor_scale((*out)->data, rows, cols), sizeof(float),
                             cudaMemcpyDeviceToHost, cb->stream),
             err, "a weight's scale");
    return NIB_OK;
}

static void weight_free(backend *be, weight *w) {
    cuda_weight *c = (cuda_weight *)w;
    if (!c)
        return;
    cuda_backend *cb = cuda_of(be);
    step_forget_graphs(cb);
    gather_forget(cb, c);
    cb->head = cb->head == w ? NULL : cb->head;
    for (int i = 0; i < MAX_PARTS; i++) {
        cudaFree((void *)c->view.parts[i].data);
        cudaFree((void *)c->view.parts[i].block_scales);
        cudaFree((void *)c->view.parts[i].row_scales);
        nib_gemm_weight_free(c->fp4[i]);
    }
    cudaFree(c->scratch);
    mem_free(c);
}

static nib_status pack_fp4(cuda_backend *cb, cuda_weight *w, const tensor *const *parts, nib_error *err) {
    int n = w->view.n_parts, joined = one_scale(parts, n) ? n : 1;
    size_t row = 0;
    w->n_fp4 = n / joined;
    float scales[MAX_PARTS];
    for (int i = 0; i < w->n_fp4; i++)
        NIB_TRY(pack_parts(cb, &w->fp4[i], parts + i * joined, joined, &scales[i], err));
    CUDA_TRY(cudaStreamSynchronize(cb->stream), err, "packing a weight");
    for (int i = 0; i < n; i++) {
        w->view.parts[i].tensor_scale = scales[joined > 1 ? 0 : i];
        w->view.parts[i].packed = nib_gemm_weight_data(w->fp4[joined > 1 ? 0 : i]);
        w->view.parts[i].packed_row = joined > 1 ? row : 0;
        row += parts[i]->rows;
    }
    for (int i = 0; i < w->n_fp4; i++)
        NIB_TRY(memory_know_shape(cb, joined > 1 ? row : parts[i]->rows, w->view.cols, err));
    return NIB_OK;
}

static nib_status fill_weight(cuda_backend *cb, cuda_weight *w, const tensor *const *parts, nib_error *err) {
    w->is_fp4 = true;
    for (int i = 0; i < w->view.n_parts; i++)
        w->is_fp4 = w->is_fp4 && takes_fp4(cb, parts[i]);
    for (int i = 0; i < w->view.n_parts; i++) {
        const tensor *t = parts[i];
        size_t row_bytes = 0;
        dtype_bytes(t->dtype, t->cols, &row_bytes);
        w->view.parts[i] = (part_view){
            .type = t->dtype, .row_bytes = row_bytes, .tensor_scale = t->tensor_scale, .rows = t->rows};
        w->head.part_rows[i] = t->rows;
        w->head.rows += t->rows;
        w->head.bytes += tensor_total_bytes(t);
        if (!w->is_fp4)
            NIB_TRY(product_knows(t->dtype) ? keep_part(cb, &w->view.parts[i], t, err)
                                            : keep_decoded(cb, &w->view.parts[i], t, err));
    }
    w->view.rows = w->head.rows;
    if (w->is_fp4)
        NIB_TRY(pack_fp4(cb, w, parts, err));
    if (w->view.n_parts == 2 && w->view.rows > cb->wide_cols) {
        cb->wide_cols = (w->view.rows + 127) / 128 * 128;
        NIB_TRY(memory_reserve(cb, err));
    }
    CUDA_TRY(cudaStreamSynchronize(cb->stream), err, "packing a weight");
    return NIB_OK;
}

/* The formats of CODEC_SWITCH (any/codec.cuh): those up to IQ4_NL, FP8 with a scale per tensor or row. */
static bool has_codec(const tensor *t) {
    return dtype_get(t->dtype)->is_weight && t->dtype <= DT_IQ4_NL && !t->tile_scales;
}

static nib_status weight_pack(backend *be, weight **out, const tensor *const *parts, size_t n_parts,
                              split_kind split, nib_error *err) {
    cuda_backend *cb = cuda_of(be);
    *out = NULL;
    for (size_t i = 0; i < n_parts; i++)
        if (!has_codec(parts[i]))
            return nib_fail(err, NIB_UNSUPPORTED, "%s: %s%s is no format that nibble computes from on a GPU",
                            parts[i]->name, dtype_get(parts[i]->dtype)->name,
                            parts[i]->tile_scales ? " with a scale per tile" : "");
    cuda_weight *w = mem_array(1, sizeof *w);
    if (!w)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a weight");
    *w = (cuda_weight){.head = {.cols = parts[0]->cols, .n_parts = n_parts, .split = split},
                       .view = {.n_parts = (int)n_parts, .cols = parts[0]->cols}};
    nib_status status = fill_weight(cb, w, parts, err);
    if (status != NIB_OK) {
        weight_free(be, &w->head);
        return status;
    }
    *out = &w->head;
    return NIB_OK;
}

/* ---- reading back, for tests ---- */

static void weight_unpack_row(backend *be, const weight *weight_head, size_t row, float *dst) {
    cuda_backend *cb = cuda_of(be);
    cuda_weight *w = (cuda_weight *)weight_head;
    if (!w->scratch && cudaMalloc((void **)&w->scratch, w->view.cols * sizeof(float)) != cudaSuccess)
        return;
    if (embed_unpack_row(&cb->lane, w->scratch, &w->view, row) == cudaSuccess)
        cudaMemcpyAsync(dst, w->scratch, w->view.cols * sizeof(float), cudaMemcpyDeviceToHost, cb->stream);
    cudaStreamSynchronize(cb->stream);
}

void upload_set(backend *be) {
    be->weight_pack = weight_pack;
    be->weight_free = weight_free;
    be->weight_unpack_row = weight_unpack_row;
    be->layer_know = gather_know;
}
