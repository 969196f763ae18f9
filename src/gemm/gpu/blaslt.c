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

static cudaDataType type_of(nib_gemm_type t) {
    return t == NIB_GEMM_F32 ? CUDA_R_32F : t == NIB_GEMM_F16 ? CUDA_R_16F : CUDA_R_16BF;
}

#define SET(attribute, value) (!b->desc_set(p->desc, attribute, &(value), sizeof(value)))

static bool describe(blaslt *b, blaslt_product *p, const blaslt_shape *s) {
    cublasOperation_t transposed = CUBLAS_OP_T, plain = CUBLAS_OP_N;
    bool good = b->desc_create(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == CUBLAS_STATUS_SUCCESS &&
                SET(CUBLASLT_MATMUL_DESC_TRANSA, transposed) && SET(CUBLASLT_MATMUL_DESC_TRANSB, plain);
    if (s->bias) {
        cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
        cudaDataType type = type_of(s->d_type);
        good = good && SET(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue) &&
               SET(CUBLASLT_MATMUL_DESC_BIAS_POINTER, s->bias) &&
               SET(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type);
    }
    if (s->kind == BLASLT_BF16)
        return good;
    good = good && SET(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, s->w_scale) &&
           SET(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, s->a_scale);
    if (s->kind != BLASLT_NVFP4) {
        int8_t fast = 1;
        good = good && SET(CUBLASLT_MATMUL_DESC_FAST_ACCUM, fast);
    }
#if CUBLAS_VERSION >= 120900
    if (s->kind == BLASLT_FP8_TOKEN || s->kind == BLASLT_NVFP4) {
        int32_t mode = s->kind == BLASLT_NVFP4 ? CUBLASLT_MATMUL_MATRIX_SCALE_VEC16_UE4M3
                                               : CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
        good = good && SET(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, mode) &&
               SET(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, mode);
    }
    if (s->kind == BLASLT_NVFP4) {
        cublasLtPointerMode_t device = CUBLASLT_POINTER_MODE_DEVICE;
        good = good && SET(CUBLASLT_MATMUL_DESC_POINTER_MODE, device);
    }
#else
    good = good && s->kind == BLASLT_FP8;
#endif
    return good;
}

static bool prefer(blaslt *b, cublasLtMatmulPreference_t preference, const blaslt_shape *s) {
    static const cublasLtMatmulPreferenceAttributes_t aligned[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    bool good = !b->preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &s->workspace_bytes,
                                   sizeof s->workspace_bytes);
    for (size_t i = 0; i < sizeof aligned / sizeof *aligned && s->alignment; i++)
        good = good && !b->preference_set(preference, aligned[i], &s->alignment, sizeof s->alignment);
    return good;
}

nib_status blaslt_plan(blaslt *b, const blaslt_shape *s, blaslt_product **out, nib_error *err) {
    static const char *const names[] = {"BF16", "FP8", "FP8 per token", "NVFP4"};
    blaslt_product *p = calloc(1, sizeof *p);
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t best; /* its state is its own, whatever the call says */
    cudaDataType type = s->kind == BLASLT_BF16    ? CUDA_R_16BF
                        : s->kind == BLASLT_NVFP4 ? CUDA_R_4F_E2M1
                                                  : CUDA_R_8F_E4M3;
    int found = 0;
    *out = NULL;
    if (!p)
        return nib_fail(err, NIB_NO_MEMORY, "cuBLASLt: out of memory");
    p->b = b;
    p->workspace_bytes = s->workspace_bytes;
    bool good = describe(b, p, s) && !b->layout_create(&p->w, type, s->k, s->n, (int64_t)s->k) &&
                !b->layout_create(&p->a, type, s->k, s->m, (int64_t)s->k) &&
                !b->layout_create(&p->d, type_of(s->d_type), s->n, s->m, (int64_t)(s->ldd ? s->ldd : s->n)) &&
                !b->preference_create(&preference) && prefer(b, preference, s) &&
                !b->heuristic(b->handle, p->desc, p->w, p->a, p->d, p->d, preference, 1, &best, &found);
    if (preference)
        b->preference_destroy(preference);
    if (!good || !found || best.state != CUBLAS_STATUS_SUCCESS) {
        blaslt_free(p);
        return nib_fail(err, NIB_UNSUPPORTED,
                        "cuBLASLt has no %s product for m %zu, n %zu, k %zu on this GPU", names[s->kind],
                        s->m, s->n, s->k);
    }
    p->algo = best.algo;
    *out = p;
    return NIB_OK;
}

int blaslt_run(blaslt_product *p, const void *w, const void *a, const void *c, void *d, const float *factors,
               void *workspace, void *stream) {
    static const float one_and_zero[2] = {1.0f, 0.0f};
    const float *f = factors ? factors : one_and_zero;
    return (int)p->b->matmul(p->b->handle, p->desc, f, w, p->w, a, p->a, f + 1, c ? c : d, p->d, d, p->d,
                             &p->algo, workspace, p->workspace_bytes, stream);
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
