/* SPDX-License-Identifier: Apache-2.0
 *
 * The library built without CUDA: no context opens, and the words say why. What needs a context says the
 * same, so that a program links against either build.
 */
#include <stdlib.h>

#include "base/status.h"
#include "gemm/bench.h"
#include "gemm/gemm.h"

static nib_status no_cuda(nib_error *err) {
    return nib_fail(err, NIB_UNSUPPORTED, "this nibble was built without CUDA (make cuda builds it with)");
}

nib_status nib_gemm_open(int device, nib_gemm **out, nib_error *err) {
    (void)device;
    *out = NULL;
    return no_cuda(err);
}

void nib_gemm_close(nib_gemm *g) {
    (void)g;
}

nib_status nib_gemm_weight_create(nib_gemm *g, size_t n, size_t k, void *data, nib_gemm_weight **out,
                                  nib_error *err) {
    (void)g, (void)n, (void)k, (void)data;
    *out = NULL;
    return no_cuda(err);
}

nib_status nib_gemm_weight_pack(nib_gemm *g, nib_gemm_weight *w, const nib_gemm_source *source, void *stream,
                                nib_error *err) {
    (void)g, (void)w, (void)source, (void)stream;
    return no_cuda(err);
}

void *nib_gemm_weight_data(const nib_gemm_weight *w) {
    return w->data;
}

void nib_gemm_weight_free(nib_gemm_weight *w) {
    free(w);
}

nib_status nib_gemm_weight_changed(const nib_gemm_weight *w, void *stream, uint64_t *n_changed,
                                   nib_error *err) {
    (void)w, (void)stream;
    *n_changed = 0;
    return no_cuda(err);
}

nib_status nib_gemm_weight_unpack(nib_gemm *g, const nib_gemm_weight *w, void *codes, void *scales,
                                  float *tensor_scale, void *stream, nib_error *err) {
    (void)g, (void)w, (void)codes, (void)scales, (void)tensor_scale, (void)stream;
    return no_cuda(err);
}

nib_status nib_gemm_quantize_nvfp4(nib_gemm *g, const nib_gemm_quantize_args *q, void *stream,
                                   nib_error *err) {
    (void)g, (void)q, (void)stream;
    return no_cuda(err);
}

nib_status nib_gemm_quantize_e4m3(nib_gemm *g, const void *x, nib_gemm_type x_type, size_t rows, size_t cols,
                                  size_t ldx, void *q, float *scale, void *stream, nib_error *err) {
    (void)g, (void)x, (void)x_type, (void)rows, (void)cols, (void)ldx, (void)q, (void)scale, (void)stream;
    return no_cuda(err);
}

size_t nib_gemm_workspace_bytes(const nib_gemm *g, const nib_gemm_product *p) {
    (void)g, (void)p;
    return 0;
}

nib_status nib_gemm_matmul(nib_gemm *g, const nib_gemm_product *p, void *workspace, size_t workspace_bytes,
                           void *stream, nib_error *err) {
    (void)g, (void)p, (void)workspace, (void)workspace_bytes, (void)stream;
    return no_cuda(err);
}

size_t nib_gemm_grouped_workspace_bytes(const nib_gemm *g, const nib_gemm_group *p) {
    (void)g, (void)p;
    return 0;
}

nib_status nib_gemm_grouped(nib_gemm *g, const nib_gemm_group *p, void *workspace, size_t workspace_bytes,
                            void *stream, nib_error *err) {
    (void)g, (void)p, (void)workspace, (void)workspace_bytes, (void)stream;
    return no_cuda(err);
}

nib_status nib_gemm_grouped_explain(const nib_gemm *g, const nib_gemm_group *p, char *text, size_t text_bytes,
                                    nib_error *err) {
    (void)g, (void)p, (void)text, (void)text_bytes;
    return no_cuda(err);
}

nib_status bench_open(int device, bench **out, bench_device *facts, nib_error *err) {
    (void)device, (void)facts;
    *out = NULL;
    return no_cuda(err);
}

void bench_close(bench *b) {
    (void)b;
}

nib_status bench_shape(bench *b, size_t m, size_t n, size_t k, unsigned kinds, bench_row *row,
                       nib_error *err) {
    (void)b, (void)kinds;
    *row = (bench_row){.m = m, .n = n, .k = k};
    return no_cuda(err);
}

nib_status bench_experts(bench *b, size_t experts, size_t top, size_t tokens, size_t n, size_t k, double *us,
                         double *stand_us, double *bytes, nib_error *err) {
    (void)b, (void)experts, (void)top, (void)tokens, (void)n, (void)k;
    *us = *stand_us = *bytes = 0.0;
    return no_cuda(err);
}

nib_status bench_quantize(bench *b, size_t rows, size_t cols, bench_quantizer *out, nib_error *err) {
    (void)b, (void)rows, (void)cols, (void)out;
    return no_cuda(err);
}

nib_status bench_tiles(bench *b, size_t m, size_t n, size_t k, nib_gemm_mode mode, bool whole,
                       bench_tile rows[BENCH_TILES], nib_error *err) {
    (void)b, (void)m, (void)n, (void)k, (void)mode, (void)whole, (void)rows;
    return no_cuda(err);
}
