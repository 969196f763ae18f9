/* SPDX-License-Identifier: Apache-2.0
 *
 * Weights on the device. NVFP4 tensors go through the FP4 library's packer; what it does not take, and
 * everything in the exact mode, stays as the file stores it and is decoded by the product (rare formats
 * become FP32). Bytes come by way of feed.c: weight_pack returns while they are still on their way,
 * weights_wait waits for them.
 */
#include <string.h>

#include "base/mem.h"
#include "base/status.h"
#include "cuda/gpu/state.h"

enum { DECODED_BYTES = 32 << 20 };

/* ---- streaming ---- */

/* Tensor scales as the packer left them: joined parts have one. */
static nib_status read_scales(cuda_backend *cb, cuda_weight *w, nib_error *err) {
    part_view *parts = w->view.parts;
    for (int i = 0; i < w->n_fp4; i++)
        CUDA_TRY(cudaMemcpyAsync(&parts[i].tensor_scale,
                                 gemm_tensor_scale(w->fp4[i]->data, w->fp4[i]->n, w->fp4[i]->k),
                                 sizeof(float), cudaMemcpyDeviceToHost, cb->stream),
                 err, "a weight's scale");
    CUDA_TRY(cudaStreamSynchronize(cb->stream), err, "a weight's scale");
    for (int i = w->n_fp4; i < w->view.n_parts; i++)
        parts[i].tensor_scale = parts[0].tensor_scale;
    return NIB_OK;
}

static nib_status weights_wait(backend *be, nib_error *err) {
    cuda_backend *cb = cuda_of(be);
    cuda_weight *w = cb->unread;
    cb->unread = NULL;
    NIB_TRY(feed_finish(cb, err));
    for (; w; w = w->next_unread)
        NIB_TRY(read_scales(cb, w, err));
    return NIB_OK;
}

void upload_settle(cuda_backend *cb) {
    nib_error why;
    const nib_status status = weights_wait(&cb->be, &why);
    if (status != NIB_OK && cb->failed_status == NIB_OK) {
        cb->failed_status = status;
        cb->failed_words = why;
    }
}

void upload_release(cuda_backend *cb) {
    if (cb->feed)
        upload_settle(cb);
    feed_close(cb);
    cudaFree(cb->staging);
    cb->staging = NULL;
    cb->staging_bytes = 0;
}

static nib_status grow_staging(cuda_backend *cb, size_t bytes, nib_error *err) {
    if (bytes <= cb->staging_bytes)
        return NIB_OK;
    NIB_TRY(feed_finish(cb, err));
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
    NIB_TRY(feed_push(cb, data, t->data, t->bytes, err));
    if (t->block_scales) {
        NIB_TRY(cuda_alloc(cb, &scales, scale_bytes(t), "a weight's scales", err));
        v->block_scales = scales;
        NIB_TRY(feed_push(cb, scales, t->block_scales, scale_bytes(t), err));
    }
    if (t->row_scales) {
        NIB_TRY(cuda_alloc(cb, &row_scales, t->rows * sizeof(float), "a weight's scales", err));
        v->row_scales = row_scales;
        NIB_TRY(feed_push(cb, row_scales, t->row_scales, t->rows * sizeof(float), err));
    }
    return NIB_OK;
}

/* Formats that no kernel decodes become FP32 on the way: exact, and 32 bits an element. */
static nib_status keep_decoded(cuda_backend *cb, part_view *v, const tensor *t, nib_error *err) {
    void *data;
    size_t row_bytes = t->cols * sizeof(float), chunk = DECODED_BYTES / row_bytes + 1;
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
        status = feed_push(cb, (uint8_t *)data + row * row_bytes, rows, n * row_bytes, err);
        if (status == NIB_OK)
            status = feed_finish(cb, err); /* ROWS are written again */
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

/* N tensors, rows joined, as one packed weight. */
static nib_status pack_parts(cuda_backend *cb, nib_gemm_weight **out, const tensor *const *parts, int n,
                             nib_error *err) {
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
            NIB_TRY(feed_push(cb, staged + code_at, parts[i]->data, parts[i]->bytes, err));
        NIB_TRY(feed_push(cb, gguf ? staged + code_at : staged_scales + scale_at,
                          gguf ? parts[i]->data : parts[i]->block_scales,
                          gguf ? parts[i]->bytes : scale_bytes(parts[i]), err));
        code_at += parts[i]->bytes;
        scale_at += scale_bytes(parts[i]);
    }
    const nib_gemm_source source = {.format = gguf ? NIB_GEMM_FROM_NVFP4_GGUF : NIB_GEMM_FROM_NVFP4,
                                    .n = rows,
                                    .k = cols,
                                    .values = staged,
                                    .scales = gguf ? NULL : staged_scales,
                                    .tensor_scale = tensor_scale};
    NIB_TRY(nib_gemm_weight_create(cb->gemm, rows, cols, NULL, out, err));
    return feed_pack(cb, *out, &source, parts[0]->tensor_scale, err);
}

static void weight_free(backend *be, weight *w) {
    cuda_weight *c = (cuda_weight *)w;
    if (!c)
        return;
    cuda_backend *cb = cuda_of(be);
    upload_settle(cb);
    step_forget_graphs(cb);
    gather_forget(cb, c);
    cb->head = cb->head == w ? NULL : cb->head;
    for (int i = 0; i < MAX_PARTS; i++) {
        cudaFree((void *)c->view.parts[i].data);
        cudaFree((void *)c->view.parts[i].block_scales);
        cudaFree((void *)c->view.parts[i].row_scales);
        nib_gemm_weight_free(c->fp4[i]);
    }
    thin_free(cb, c);
    cudaFree(c->scratch);
    mem_free(c);
}

static nib_status pack_fp4(cuda_backend *cb, cuda_weight *w, const tensor *const *parts, nib_error *err) {
    int n = w->view.n_parts, joined = one_scale(parts, n) ? n : 1;
    size_t row = 0;
    w->n_fp4 = n / joined;
    for (int i = 0; i < w->n_fp4; i++)
        NIB_TRY(pack_parts(cb, &w->fp4[i], parts + i * joined, joined, err));
    w->next_unread = cb->unread;
    cb->unread = w;
    for (int i = 0; i < n; i++) {
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
    NIB_TRY(thin_pack(cb, w, parts, err));
    if (w->view.n_parts == 2 && w->view.rows > cb->wide_cols) {
        cb->wide_cols = (w->view.rows + 127) / 128 * 128;
        return memory_reserve(cb, err);
    }
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
    upload_settle(cb);
    if (!w->scratch && cudaMalloc((void **)&w->scratch, w->view.cols * sizeof(float)) != cudaSuccess)
        return;
    if (embed_unpack_row(&cb->lane, w->scratch, &w->view, row) == cudaSuccess)
        cudaMemcpyAsync(dst, w->scratch, w->view.cols * sizeof(float), cudaMemcpyDeviceToHost, cb->stream);
    cudaStreamSynchronize(cb->stream);
}

void upload_set(backend *be) {
    be->weight_pack = weight_pack;
    be->weights_wait = weights_wait;
    be->weight_free = weight_free;
    be->weight_unpack_row = weight_unpack_row;
    be->layer_know = gather_know;
}
