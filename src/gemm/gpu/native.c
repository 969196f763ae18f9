/* SPDX-License-Identifier: Apache-2.0
 *
 * W4A4 through cuBLASLt's NVFP4 product, on Blackwell of data centers. cuBLASLt takes plain codes and scale
 * tiles, so both operands are brought into them in the caller's workspace: weights unpacked for each product
 * (9/16 byte a value written and read again), activations quantized, or their scales alone moved. Both
 * tensors' scales meet in alpha, on the device: nothing waits. Whether there is a product for a shape
 * cuBLASLt says when it is asked.
 */
#include "gemm/gpu/native.h"

#include "base/status.h"
#include "gemm/gpu/blaslt.h"
#include "gemm/gpu/check.h"
#include "gemm/gpu/launch.h"

#define LIBRARY_BYTES ((size_t)32 << 20) /* what cuBLASLt may use */

/* Byte offsets of what lies in the workspace. */
typedef struct places {
    size_t w_codes, w_scales, a_codes, a_scales, a_tensor_scale, factors, library, end;
} places;

static size_t after(size_t at, size_t bytes) {
    return (at + bytes + 255) / 256 * 256;
}

static places places_of(const nib_gemm_product *p) {
    size_t n = p->weight->n, k = p->weight->k;
    bool quantize = p->a_type != NIB_GEMM_NVFP4;
    places at = {.w_codes = 0};
    at.w_scales = after(at.w_codes, n * k / 2);
    at.a_codes = after(at.w_scales, nib_gemm_scale_tile_bytes(n, k));
    at.a_scales = after(at.a_codes, quantize ? p->m * k / 2 : 0);
    at.a_tensor_scale = after(at.a_scales, nib_gemm_scale_tile_bytes(p->m, k));
    at.factors = after(at.a_tensor_scale, 2 * sizeof(float));
    at.library = after(at.factors, 2 * sizeof(float));
    at.end = at.library + LIBRARY_BYTES;
    return at;
}

size_t native_bytes(const nib_gemm_product *p) {
    return places_of(p).end;
}

/* Codes, scale tiles and the tensor's scale of A, in the workspace or the caller's. */
static int bring_activations(const nib_gemm_product *p, const places *at, char *base, const void **codes,
                             const float **tensor_scale, void *stream) {
    if (p->a_type == NIB_GEMM_NVFP4) {
        *codes = p->a;
        *tensor_scale = p->a_scale;
        return gemm_tile_scales(p->a_block_scale, p->m, p->weight->k / 16, base + at->a_scales, stream);
    }
    nib_gemm_quantize_args q = {.x = p->a,
                                .x_type = p->a_type,
                                .rows = p->m,
                                .cols = p->weight->k,
                                .ldx = p->lda,
                                .scale_tiles = true,
                                .codes = base + at->a_codes,
                                .scales = base + at->a_scales,
                                .tensor_scale = (float *)(void *)(base + at->a_tensor_scale)};
    *codes = q.codes;
    *tensor_scale = q.tensor_scale;
    return gemm_quantize_launch(&q, stream);
}

nib_status native_matmul(const nib_gemm *g, const nib_gemm_product *p, void *workspace, void *stream,
                         nib_error *err) {
    const nib_gemm_weight *w = p->weight;
    const places at = places_of(p);
    char *base = workspace;
    const void *a_codes = NULL;
    const float *a_scale, *w_scale = gemm_tensor_scale(w->data, w->n, w->k);
    float *factors = (float *)(void *)(base + at.factors);
    const blaslt_shape shape = {.kind = BLASLT_NVFP4,
                                .m = p->m,
                                .n = w->n,
                                .k = w->k,
                                .ldd = p->ldd,
                                .d_type = p->d_type,
                                .w_scale = base + at.w_scales,
                                .a_scale = base + at.a_scales,
                                .bias = p->bias,
                                .workspace_bytes = LIBRARY_BYTES,
                                .alignment = 16};
    blaslt_product *product;
    NIB_TRY(blaslt_plan(g->lt, &shape, &product, err));
    int e =
        gemm_unpack_launch(w->data, w->n, w->k, base + at.w_codes, base + at.w_scales, true, NULL, stream);
    if (!e)
        e = bring_activations(p, &at, base, &a_codes, &a_scale, stream);
    if (!e)
        e = gemm_product_factors(p->alpha, w_scale, a_scale, p->c ? p->beta : 0.0f, factors, stream);
    nib_status status = check_cuda(e, "nib_gemm_matmul", err);
    if (status == NIB_OK) {
        e = blaslt_run(product, base + at.w_codes, a_codes, p->c, p->d, factors, base + at.library, stream);
        status = e ? nib_fail(err, NIB_IO, "nib_gemm_matmul: cuBLASLt: error %d", e) : NIB_OK;
    }
    blaslt_free(product);
    return status;
}
