/* SPDX-License-Identifier: Apache-2.0
 *
 * Contexts and weights: what touches the device's memory. Products are in product.c.
 */
#include <stdlib.h>
#include <string.h>

#include <cuda_runtime_api.h>

#include "base/status.h"
#include "gemm/gemm.h"
#include "gemm/gpu/blaslt.h"
#include "gemm/gpu/check.h"
#include "gemm/gpu/launch.h"

nib_status check_cuda(int code, const char *what, nib_error *err) {
    if (code == cudaSuccess)
        return NIB_OK;
    return nib_fail(err, code == cudaErrorMemoryAllocation ? NIB_NO_MEMORY : NIB_IO, "%s: the GPU says: %s",
                    what, cudaGetErrorString((cudaError_t)code));
}

nib_status check_device(const nib_gemm *g, nib_error *err) {
    int now = -1;
    NIB_TRY(check_cuda(cudaGetDevice(&now), "cudaGetDevice", err));
    if (now != g->device)
        return check_cuda(cudaSetDevice(g->device), "cudaSetDevice", err);
    return NIB_OK;
}

nib_status nib_gemm_open(int device, nib_gemm **out, nib_error *err) {
    struct cudaDeviceProp p;
    enum cudaDriverEntryPointQueryResult found;
    int count = 0;
    *out = NULL;
    NIB_TRY(check_cuda(cudaGetDeviceCount(&count), "nib_gemm_open", err));
    if (device < 0 || device >= count)
        return nib_fail(err, NIB_BAD_ARGUMENT, "GPU %d: there are %d", device, count);
    NIB_TRY(check_cuda(cudaGetDeviceProperties(&p, device), "nib_gemm_open", err));
    nib_gemm *g = calloc(1, sizeof *g);
    if (!g)
        return nib_fail(err, NIB_NO_MEMORY, "nib_gemm_open: out of memory");
    g->device = device;
    g->arch = 10 * p.major + p.minor;
    g->n_sms = p.multiProcessorCount;
    g->max_shared = (int)p.sharedMemPerBlockOptin;
    memcpy(g->name, p.name, sizeof g->name - 1);
    gemm_choice choice;
    nib_status status = gemm_choose(g->arch, g->n_sms, NIB_GEMM_AUTO, true, 1, 16, 16, &choice, err);
    if (status == NIB_OK)
        status = check_device(g, err);
    if (status == NIB_OK && g->arch >= 90)
        status = check_cuda(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &g->tensor_map, 12000,
                                                             cudaEnableDefault, &found),
                            "cuTensorMapEncodeTiled", err);
    if (status == NIB_OK && g->arch == 90)
        status = check_cuda(gemm_few_clusters(2, &g->pairs), "nib_gemm_open", err);
    if (status == NIB_OK && g->arch == 90)
        status = check_cuda(gemm_few_clusters(4, &g->fours), "nib_gemm_open", err);
    if (status == NIB_OK &&
        gemm_choose(g->arch, g->n_sms, NIB_GEMM_W4A4, true, 1, 16, 32, &choice, NULL) == NIB_OK &&
        choice.kernel == GEMM_KERNEL_BLASLT)
        (void)blaslt_open(&g->lt, NULL); /* without it gemm_choose_on says so */
    if (status != NIB_OK) {
        free(g);
        return status;
    }
    *out = g;
    return NIB_OK;
}

void nib_gemm_close(nib_gemm *g) {
    if (g)
        blaslt_close(g->lt);
    free(g);
}

static nib_status check_shape(const char *call, size_t n, size_t k, nib_error *err) {
    if (n == 0 || k == 0 || n % 16 || k % 16 || n > INT32_MAX || k > 1 << 24)
        return nib_fail(err, NIB_BAD_ARGUMENT, "%s: n = %zu, k = %zu: expected multiples of 16", call, n, k);
    return NIB_OK;
}

nib_status nib_gemm_weight_create(nib_gemm *g, size_t n, size_t k, void *data, nib_gemm_weight **out,
                                  nib_error *err) {
    *out = NULL;
    NIB_TRY(check_shape("nib_gemm_weight_create", n, k, err));
    if ((uintptr_t)data % 256)
        return nib_fail(err, NIB_BAD_ARGUMENT, "nib_gemm_weight_create: data must be 256-byte aligned");
    NIB_TRY(check_device(g, err));
    nib_gemm_weight *w = calloc(1, sizeof *w);
    if (!w)
        return nib_fail(err, NIB_NO_MEMORY, "nib_gemm_weight_create: out of memory");
    *w = (nib_gemm_weight){.g = g, .data = data, .n = n, .k = k, .owned = !data};
    if (!data) {
        nib_status status =
            check_cuda(cudaMalloc(&w->data, nib_gemm_packed_bytes(n, k)), "nib_gemm_weight_create", err);
        if (status != NIB_OK) {
            free(w);
            return status;
        }
    }
    *out = w;
    return NIB_OK;
}

void nib_gemm_weight_free(nib_gemm_weight *w) {
    if (w && w->owned)
        cudaFree(w->data);
    free(w);
}

void *nib_gemm_weight_data(const nib_gemm_weight *w) {
    return w->data;
}

nib_status nib_gemm_weight_pack(nib_gemm *g, nib_gemm_weight *w, const nib_gemm_source *s, void *stream,
                                nib_error *err) {
    size_t block = s->format == NIB_GEMM_FROM_NVFP4_GGUF                                       ? 64
                   : s->format == NIB_GEMM_FROM_MXFP4 || s->format == NIB_GEMM_FROM_MXFP4_GGUF ? 32
                                                                                               : 16;
    bool scaled = s->format == NIB_GEMM_FROM_NVFP4 || s->format == NIB_GEMM_FROM_MXFP4;
    if ((unsigned)s->format > NIB_GEMM_FROM_F32 || (unsigned)s->method > NIB_GEMM_FP8_EXACT)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "nib_gemm_weight_pack: format %d, method %d: there are none such", (int)s->format,
                        (int)s->method);
    if (s->n != w->n || s->k != w->k || s->k % block)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "nib_gemm_weight_pack: source [%zu, %zu]: expected [%zu, %zu], k a multiple of %zu",
                        s->n, s->k, w->n, w->k, block);
    if (!s->values || (scaled && !s->scales))
        return nib_fail(err, NIB_BAD_ARGUMENT, "nib_gemm_weight_pack: expected %s",
                        s->values ? "scales" : "values");
    if (s->format != NIB_GEMM_FROM_NVFP4_GGUF && s->format != NIB_GEMM_FROM_MXFP4_GGUF &&
        (uintptr_t)s->values % 16)
        return nib_fail(err, NIB_BAD_ARGUMENT, "nib_gemm_weight_pack: values must be 16-byte aligned");
    NIB_TRY(check_device(g, err));
    return check_cuda(gemm_pack_launch(s, w->data, stream), "nib_gemm_weight_pack", err);
}

nib_status nib_gemm_weight_changed(const nib_gemm_weight *w, void *stream, uint64_t *n_changed,
                                   nib_error *err) {
    uint32_t facts[4];
    NIB_TRY(check_device(w->g, err));
    NIB_TRY(check_cuda(cudaMemcpyAsync(facts, (char *)w->data + gemm_scale_offset(w->n, w->k), sizeof facts,
                                       cudaMemcpyDeviceToHost, stream),
                       "nib_gemm_weight_changed", err));
    NIB_TRY(check_cuda(cudaStreamSynchronize(stream), "nib_gemm_weight_changed", err));
    *n_changed = facts[2];
    return NIB_OK;
}

nib_status nib_gemm_weight_unpack(nib_gemm *g, const nib_gemm_weight *w, void *codes, void *scales,
                                  float *tensor_scale, void *stream, nib_error *err) {
    NIB_TRY(check_device(g, err));
    return check_cuda(gemm_unpack_launch(w->data, w->n, w->k, codes, scales, false, tensor_scale, stream),
                      "nib_gemm_weight_unpack", err);
}

nib_status nib_gemm_quantize_nvfp4(nib_gemm *g, const nib_gemm_quantize_args *q, void *stream,
                                   nib_error *err) {
    if (q->x_type > NIB_GEMM_F32 || (unsigned)q->method > NIB_GEMM_FP8_EXACT || q->cols % 16 || q->ldx % 8)
        return nib_fail(
            err, NIB_BAD_ARGUMENT,
            "nib_gemm_quantize_nvfp4: expected BF16, F16 or F32, cols a multiple of 16, ldx of 8");
    if (q->rows == 0 || q->cols == 0)
        return NIB_OK;
    if (q->rows > INT32_MAX || q->cols > INT32_MAX || q->rows > GEMM_MOST_BLOCKS / (q->cols / 16))
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "nib_gemm_quantize_nvfp4: [%zu, %zu]: expected at most 2^36 - 2^24 values, and below "
                        "2^31 rows and columns",
                        q->rows, q->cols);
    if (!q->x || !q->codes || !q->scales || !q->tensor_scale || ((uintptr_t)q->x | (uintptr_t)q->codes) % 16)
        return nib_fail(
            err, NIB_BAD_ARGUMENT,
            "nib_gemm_quantize_nvfp4: expected 16-byte aligned x and codes, scales, tensor_scale");
    NIB_TRY(check_device(g, err));
    return check_cuda(gemm_quantize_launch(q, stream), "nib_gemm_quantize_nvfp4", err);
}

nib_status nib_gemm_quantize_e4m3(nib_gemm *g, const void *x, nib_gemm_type x_type, size_t rows, size_t cols,
                                  size_t ldx, void *q, float *scale, void *stream, nib_error *err) {
    if (x_type > NIB_GEMM_F32 || cols % 16 || ldx % 8)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "nib_gemm_quantize_e4m3: expected BF16, F16 or F32, cols a multiple of 16, ldx of 8");
    if (rows == 0 || cols == 0)
        return NIB_OK;
    if (rows > INT32_MAX || cols > INT32_MAX)
        return nib_fail(err, NIB_BAD_ARGUMENT,
                        "nib_gemm_quantize_e4m3: [%zu, %zu]: expected below 2^31 rows and columns", rows,
                        cols);
    NIB_TRY(check_device(g, err));
    return check_cuda(gemm_prepare_launch(NIB_GEMM_E4M3, x, (int)x_type, (int)rows, (int)cols,
                                          ldx ? ldx : cols, 1, q, NULL, scale, NULL, 0, g->arch >= 90,
                                          stream),
                      "nib_gemm_quantize_e4m3", err);
}
