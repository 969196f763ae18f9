/* SPDX-License-Identifier: Apache-2.0
 *
 * What the library's C side hands to the kernels' launchers. A launcher checks nothing: shapes were checked
 * by the public call. It returns a cudaError_t as int.
 */
#ifndef GEMM_GPU_LAUNCH_H
#define GEMM_GPU_LAUNCH_H

#include "gemm/gemm.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Where a product's sums go: d = alpha * tensor_scale * sum (* token scale) + bias + beta * c. */
typedef struct gemm_out {
    void *d;
    const void *c, *bias;
    const float *tensor_scale; /* device, of the weight */
    const float *token_scale;  /* device, [m], or NULL */
    float alpha, beta;
    int ldd;
    int type; /* nib_gemm_type of d, c and bias */
} gemm_out;

typedef struct gemm_task {
    const void *w;           /* packed */
    const void *a;           /* natural BF16 (gemv, gemv16, tile BF16) or prepared */
    const void *block_scale; /* of NVFP4 activations, [m, k / 16]; out.token_scale is then one for all */
    int m, n, k, groups, lda;
    int terms; /* BF16 terms an activation is split into: rows are terms * groups * 128 long, prepared */
    int tile_tokens, tile_rows, slices, parts; /* TILE_ROWS: wgmma's */
    float *partial;  /* gemv16: [slices, m, n] where slices > 1. wgmma: [n_sms, tile_rows, tile_tokens] */
    uint32_t *flags; /* wgmma: [n_sms], zero */
    gemm_out out;
    gemm_unit unit;                  /* of the chain's launchers */
    gemm_spread after, before;       /* few's; squares NULL: none */
    int n_sms, max_shared, clusters; /* of few's, at a time */
    bool dependent;                  /* the GPU has programmatic dependent launch */
    bool cut;                        /* wgmma: as gemm_choice has it */
    void *tensor_map;                /* cuTensorMapEncodeTiled */
    void *stream;
} gemm_task;

int gemm_gemv(const gemm_task *t);
int gemm_gemv_chain(const gemm_task *t, const gemm_norm *norm);
int gemm_gemv16_gated(const gemm_task *t);
int gemm_gemv16(const gemm_task *t);
int gemm_pairs_alone(const gemm_task *t); /* one weight, 1 or 2 tokens */
int gemm_few(const gemm_task *t);
int gemm_few_clusters(int ranks, int *clusters); /* that run at a time */
int gemm_wgmma_bf16(const gemm_task *t);
/* The chain's: by tiles of 64 tokens (BF16: and 192 rows), 128 and, BF16, 256. */
int gemm_wgmma_bf16_gated(const gemm_task *t);
int gemm_wgmma_e4m3_gated(const gemm_task *t);
int gemm_wgmma_e4m3(const gemm_task *t);
int gemm_tile_bf16(const gemm_task *t);
int gemm_tile_e4m3(const gemm_task *t);
int gemm_tile_e4m3_exact(const gemm_task *t);
int gemm_tile_e2m1(const gemm_task *t);

/* T without a weight: P names them. */
int gemm_grouped(const gemm_task *t, const nib_gemm_group *p);
bool gemm_experts_serves(const gemm_task *t, const nib_gemm_group *p); /* Hopper: few tokens an expert */
int gemm_experts(const gemm_task *t, const nib_gemm_group *p);
bool gemm_pairs_serves(const gemm_task *t, const nib_gemm_group *p); /* Hopper: one or two tokens an expert */
int gemm_pairs(const gemm_task *t, const nib_gemm_group *p);

/* d from the partial sums of T, each times FACTOR. */
int gemm_reduce(const gemm_task *t, float factor);

/* Activations prepared (TO: GEMM_A_*_MMA) or, TO NIB_GEMM_E4M3, quantized in the natural order. TO
 * NIB_GEMM_BF16: terms in the natural order. X in E4M3 is only reordered, its scales GIVEN. SCALE [m] is
 * written where E4M3 is. */
int gemm_prepare_launch(int to, const void *x, int x_type, int m, int k, size_t ldx, int terms, void *out,
                        const float *given, float *scale, uint32_t *flags, int n_flags, bool dependent,
                        void *stream);
int gemm_zero_flags(const gemm_task *t);

/* Where the tensor's scale stands there are four words: the scale, the FP32 bits of amax (MXFP4: the largest
 * E8M0), the count of values that changed (MXFP4), and whether a scale was NaN. */
int gemm_pack_launch(const nib_gemm_source *s, void *packed, void *stream);
/* TILES: scales as scale_tile.h has them, padded with zeros. */
int gemm_unpack_launch(const void *packed, size_t n, size_t k, void *codes, void *scales, bool tiles,
                       float *tensor_scale, void *stream);
int gemm_tile_scales(const void *plain, size_t rows, size_t blocks, void *tiles, void *stream);
/* FACTORS, device, [2]: alpha times both scales, beta. */
int gemm_product_factors(float alpha, const float *a, const float *b, float beta, float *factors,
                         void *stream);
int gemm_quantize_launch(const nib_gemm_quantize_args *q, void *stream);

/* The benchmark's: reads BYTES from P; N random normals, BF16. */
int gemm_read_launch(const void *p, size_t bytes, void *out, void *stream);
int gemm_normal_launch(void *x, size_t n, uint32_t seed, void *stream);

#ifdef __cplusplus
}
#endif
#endif
