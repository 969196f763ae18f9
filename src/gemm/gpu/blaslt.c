/* SPDX-License-Identifier: Apache-2.0
 *
 * cuBLASLt through dlopen: the few calls a product needs.
 */
#include "gemm/gpu/blaslt.h"

#include <dlfcn.h>
#include <stdlib.h>

#include <cublasLt.h>

#include "base/status.h"

struct blaslt {
    void *library;
    cublasLtHandle_t handle;
    cublasStatus_t (*create)(cublasLtHandle_t *);
    cublasStatus_t (*destroy)(cublasLtHandle_t);
    cublasStatus_t (*desc_create)(cublasLtMatmulDesc_t *, cublasComputeType_t, cudaDataType_t);
    cublasStatus_t (*desc_set)(cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t, const void *, size_t);
    cublasStatus_t (*desc_destroy)(cublasLtMatmulDesc_t);
    cublasStatus_t (*layout_create)(cublasLtMatrixLayout_t *, cudaDataType, uint64_t, uint64_t, int64_t);
    cublasStatus_t (*layout_destroy)(cublasLtMatrixLayout_t);
    cublasStatus_t (*preference_create)(cublasLtMatmulPreference_t *);
    cublasStatus_t (*preference_set)(cublasLtMatmulPreference_t, cublasLtMatmulPreferenceAttributes_t,
                                     const void *, size_t);
    cublasStatus_t (*preference_destroy)(cublasLtMatmulPreference_t);
    cublasStatus_t (*heuristic)(cublasLtHandle_t, cublasLtMatmulDesc_t, cublasLtMatrixLayout_t,
                                cublasLtMatrixLayout_t, cublasLtMatrixLayout_t, cublasLtMatrixLayout_t,
                                cublasLtMatmulPreference_t, int, cublasLtMatmulHeuristicResult_t *, int *);
    cublasStatus_t (*matmul)(cublasLtHandle_t, cublasLtMatmulDesc_t, const void *, const void *,
                             cublasLtMatrixLayout_t, const void *, cublasLtMatrixLayout_t, const void *,
                             const void *, cublasLtMatrixLayout_t, void *, cublasLtMatrixLayout_t,
                             const cublasLtMatmulAlgo_t *, void *, size_t, cudaStream_t);
};

struct blaslt_product {
    blaslt *b;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t w, a, d;
    cublasLtMatmulAlgo_t algo;
    size_t workspace_bytes;
};

#define FIND(field, name) (*(void **)&b->field = dlsym(b->library, name))

nib_status blaslt_open(blaslt **out, nib_error *err) {
    blaslt *b = calloc(1, sizeof *b);
    *out = NULL;
    if (!b)
        return nib_fail(err, NIB_NO_MEMORY, "cuBLASLt: out of memory");
    b->library = dlopen("libcublasLt.so.13", RTLD_NOW | RTLD_LOCAL);
    if (!b->library)
        b->library = dlopen("libcublasLt.so.12", RTLD_NOW | RTLD_LOCAL);
    bool found = b->library && FIND(create, "cublasLtCreate") && FIND(destroy, "cublasLtDestroy") &&
                 FIND(desc_create, "cublasLtMatmulDescCreate") &&
                 FIND(desc_set, "cublasLtMatmulDescSetAttribute") &&
                 FIND(desc_destroy, "cublasLtMatmulDescDestroy") &&
                 FIND(layout_create, "cublasLtMatrixLayoutCreate") &&
                 FIND(layout_destroy, "cublasLtMatrixLayoutDestroy") &&
                 FIND(preference_create, "cublasLtMatmulPreferenceCreate") &&
                 FIND(preference_set, "cublasLtMatmulPreferenceSetAttribute") &&
                 FIND(preference_destroy, "cublasLtMatmulPreferenceDestroy") &&
                 FIND(heuristic, "cublasLtMatmulAlgoGetHeuristic") && FIND(matmul, "cublasLtMatmul");
    if (!found || b->create(&b->handle) != CUBLAS_STATUS_SUCCESS) {
        if (b->library)
            dlclose(b->library);
        free(b);
        return nib_fail(err, NIB_UNSUPPORTED,
                        "libcublasLt.so.13 (or .12) cannot be used: is it in LD_LIBRARY_PATH?");
    }
    *out = b;
    return NIB_OK;
}

void blaslt_close(blaslt *b) {
    if (!b)
        return;
    b->destroy(b->handle);
    dlclose(b->library);
    free(b);
}

static bool describe(blaslt *b, blaslt_product *p, blaslt_kind kind, const float *w_scale,
                     const float *a_scale) {
    cublasOperation_t transposed = CUBLAS_OP_T, plain = CUBLAS_OP_N;
    bool good = b->desc_create(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
                !b->desc_set(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof transposed) &&
                !b->desc_set(p->desc, CUBLASLT_MATMUL_DESC_TRANSB, &plain, sizeof plain);
    if (kind == BLASLT_BF16)
        return good;
    int8_t fast = 1;
    good = good && !b->desc_set(p->desc, CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast) &&
           !b->desc_set(p->desc, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &w_scale, sizeof w_scale) &&
           !b->desc_set(p->desc, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &a_scale, sizeof a_scale);
#if CUBLAS_VERSION >= 120900
    if (kind == BLASLT_FP8_TOKEN) {
        int32_t rows = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
        good = good && !b->desc_set(p->desc, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &rows, sizeof rows) &&
               !b->desc_set(p->desc, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &rows, sizeof rows);
    }
#endif
    return good;
}

nib_status blaslt_plan(blaslt *b, blaslt_kind kind, size_t m, size_t n, size_t k, const float *w_scale,
                       const float *a_scale, size_t workspace_bytes, blaslt_product **out, nib_error *err) {
    blaslt_product *p = calloc(1, sizeof *p);
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t best;
    cudaDataType type = kind == BLASLT_BF16 ? CUDA_R_16BF : CUDA_R_8F_E4M3;
    int found = 0;
    *out = NULL;
    if (!p)
        return nib_fail(err, NIB_NO_MEMORY, "cuBLASLt: out of memory");
    p->b = b;
    p->workspace_bytes = workspace_bytes;
    bool good = describe(b, p, kind, w_scale, a_scale) && !b->layout_create(&p->w, type, k, n, (int64_t)k) &&
                !b->layout_create(&p->a, type, k, m, (int64_t)k) &&
                !b->layout_create(&p->d, CUDA_R_16BF, n, m, (int64_t)n) &&
                !b->preference_create(&preference) &&
                !b->preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
                                   sizeof workspace_bytes) &&
                !b->heuristic(b->handle, p->desc, p->w, p->a, p->d, p->d, preference, 1, &best, &found);
    if (preference)
        b->preference_destroy(preference);
    if (!good || !found) {
        blaslt_free(p);
        return nib_fail(err, NIB_UNSUPPORTED, "cuBLASLt has no product for m %zu, n %zu, k %zu", m, n, k);
    }
    p->algo = best.algo;
    *out = p;
    return NIB_OK;
}

int blaslt_run(blaslt_product *p, const void *w, const void *a, void *d, void *workspace, void *stream) {
    const float one = 1.0f, zero = 0.0f;
    return (int)p->b->matmul(p->b->handle, p->desc, &one, w, p->w, a, p->a, &zero, d, p->d, d, p->d, &p->algo,
                             workspace, p->workspace_bytes, stream);
}

void blaslt_free(blaslt_product *p) {
    if (!p)
        return;
    if (p->w)
        p->b->layout_destroy(p->w);
    if (p->a)
        p->b->layout_destroy(p->a);
    if (p->d)
        p->b->layout_destroy(p->d);
    if (p->desc)
        p->b->desc_destroy(p->desc);
    free(p);
}
