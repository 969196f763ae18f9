/* SPDX-License-Identifier: Apache-2.0
 *
 * Thin: low-rank branches, two thin BF16 matrices beside a weight's part: y += scale up (down x), in FP32 but
 * for x as the weight's product reads it. DOWN of all parts is one matrix, whose results lie beside each
 * other in the backend's MID. Ranks are padded to whole steps of the kernels (any/thin_products.cu; in the
 * exact mode any/product.cu); the padding is zeros.
 */
#include "base/mapfile.h"
#include "base/mem.h"
#include "base/status.h"
#include "cuda/gpu/state.h"

enum { STEP = 32 /* columns */ };

static size_t padded(size_t n) {
    return (n + STEP - 1) / STEP * STEP;
}

/* SRC BF16 [rows, cols] of a file to DST [rows, padded cols], which is zeros. */
static nib_status put(cuda_backend *cb, uint8_t *dst, const uint16_t *src, size_t rows, size_t cols,
                      nib_error *err) {
    const size_t bytes = rows * cols * sizeof *src, wide = padded(cols) * sizeof *src;
    if (padded(cols) == cols)
        return feed_push(cb, dst, src, bytes, err);
    void *own = mem_alloc(bytes);
    if (!own)
        return nib_fail(err, NIB_NO_MEMORY, "no memory for a low-rank branch");
    nib_status status = mapfile_read(own, src, bytes, err);
    if (status == NIB_OK) {
        const size_t row = cols * sizeof *src;
        int code = cudaMemcpy2DAsync(dst, wide, own, row, row, rows, cudaMemcpyHostToDevice, cb->stream);
        if (code == cudaSuccess)
            code = cudaStreamSynchronize(cb->stream);
        status = code == cudaSuccess ? NIB_OK : cuda_fail(err, code, "copying a low-rank branch");
    }
    mem_free(own);
    return status;
}

static weight_view view_of(const uint8_t *data, size_t rows, size_t cols, float scale) {
    weight_view v = {.n_parts = 1, .rows = rows, .cols = cols};
    v.parts[0] = (part_view){.type = DT_BF16,
                             .data = data,
                             .row_bytes = padded(cols) * sizeof(uint16_t),
                             .tensor_scale = scale,
                             .rows = rows};
    return v;
}

nib_status thin_pack(cuda_backend *cb, cuda_weight *w, const tensor *const *parts, nib_error *err) {
    thin *t = &w->thin;
    const size_t cols = w->view.cols, row_bytes = padded(cols) * sizeof(uint16_t);
    size_t bytes = 0;
    for (int i = 0; i < w->view.n_parts; i++) {
        const size_t rank = padded(parts[i]->branch.rank);
        t->rank += rank;
        bytes += rank * row_bytes + parts[i]->rows * rank * sizeof(uint16_t);
    }
    if (t->rank == 0)
        return NIB_OK;
    NIB_TRY(cuda_alloc(cb, &t->memory, bytes, "low-rank branches", err));
    NIB_TRY(memory_know_thin(cb, t->rank, err));
    uint8_t *down = t->memory, *up = down + t->rank * row_bytes;
    t->down = view_of(down, t->rank, cols, 1);
    for (int i = 0; i < w->view.n_parts; i++) {
        const tensor_branch *b = &parts[i]->branch;
        t->up[i] = view_of(up, parts[i]->rows, padded(b->rank), b->scale);
        if (b->rank == 0)
            continue;
        NIB_TRY(put(cb, down, b->down, b->rank, cols, err));
        NIB_TRY(put(cb, up, b->up, parts[i]->rows, b->rank, err));
        down += padded(b->rank) * row_bytes;
        up += parts[i]->rows * t->up[i].parts[0].row_bytes;
    }
    return NIB_OK;
}

void thin_free(cuda_backend *cb, cuda_weight *w) {
    cb->n_thin -= w->thin.memory != NULL;
    cudaFree(w->thin.memory);
}

int thin_begin(cuda_backend *cb, const cuda_buf *a, const cuda_weight *w) {
    const act_view view = opcalls_view(a);
    const int rows = (int)a->head.rows;
    return view.format == ACT_BF16
               ? thin_products_down(&cb->lane, cb->mid, view, &w->thin.down, rows)
               : product_launch(&cb->lane, cb->mid, w->thin.rank, view, &w->thin.down, rows, false);
}

int thin_add(cuda_backend *cb, float *out, size_t stride, int rows, const cuda_weight *w) {
    const thin *t = &w->thin;
    if (cb->be.mode != COMPUTE_EXACT)
        return thin_products_up(&cb->lane, out, stride, cb->mid, t->rank, t->up, w->view.n_parts, rows);
    int code = cudaSuccess;
    size_t at = 0;
    for (int i = 0; i < w->view.n_parts && code == cudaSuccess; i++) {
        const act_view mid = {ACT_F32, cb->mid + at, NULL, t->rank};
        if (t->up[i].cols > 0)
            code = product_launch(&cb->lane, out, stride, mid, &t->up[i], rows, true);
        out += t->up[i].rows;
        at += t->up[i].cols;
    }
    return code;
}
