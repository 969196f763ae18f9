/* SPDX-License-Identifier: Apache-2.0
 *
 * nibble's FP4 matrix products for NVIDIA GPUs: D = alpha * A W^T (+ beta * C) (+ bias), W stored as NVFP4.
 * The header compiles alone as C11 and C++ beside nibble.h; no CUDA header is needed. All data pointers are
 * device pointers unless said otherwise, all matrices row-major; a stream is a cudaStream_t as void *.
 *
 * What is promised. No call but nib_gemm_open, nib_gemm_close, nib_gemm_weight_create and
 * nib_gemm_weight_free allocates device memory or waits for the device; the others only enqueue work on the
 * stream and may be captured in a CUDA graph. Results are the same bits in every run. A context is constant
 * once it is open: threads may share it, each call with a workspace of its own.
 *
 * Programmatic dependent launch is used: a product may read its packed weight while the kernel before it in
 * the stream still runs, so a packed weight is written by nib_gemm_weight_pack or a copy, in the same stream
 * or before an event that the stream waits for, and not by a kernel that triggers its dependents early.
 */
#ifndef NIBBLE_GEMM_H
#define NIBBLE_GEMM_H

#include "nibble.h"

#ifdef __cplusplus
extern "C" {
#endif
#if defined(__GNUC__)
#pragma GCC visibility push(default)
#endif

typedef struct nib_gemm nib_gemm;               /* a context on one device */
typedef struct nib_gemm_weight nib_gemm_weight; /* one packed weight, [n, k] */

/* A mode is asked for and never swapped: what the device has no kernel for is NIB_UNSUPPORTED, and the words
 * name what it has.
 *
 * W4A8 rounds a weight's value times its block scale / 8 to E4M3, whose smallest number is 2^-9. W4A8_EXACT
 * rounds no weight. */
typedef enum nib_gemm_mode {
    NIB_GEMM_AUTO = 0,  /* what nib_gemm_explain says: the fastest of the device, accuracy W4A8 or better */
    NIB_GEMM_W4A16,     /* exact: the weights' values times the activations, FP32 sums */
    NIB_GEMM_W4A8,      /* activations E4M3 per token; weights' values times block scale rounded to E4M3 */
    NIB_GEMM_W4A4,      /* activations NVFP4; Blackwell */
    NIB_GEMM_W4A8_EXACT /* as W4A8, weights as they are: sums of 16 k times their block's scale, FP32; Ada and
                           Blackwell GeForce */
} nib_gemm_mode;

typedef enum nib_gemm_type {
    NIB_GEMM_BF16 = 0,
    NIB_GEMM_F16,
    NIB_GEMM_F32,
    NIB_GEMM_E4M3, /* a only: with a_scale [m] FP32, value = e4m3 * a_scale[row] */
    NIB_GEMM_NVFP4 /* a only: codes [m, k/2], a_block_scale E4M3 [m, k/16], a_scale FP32 [1] */
} nib_gemm_type;

/* Where a weight comes from. Codes: element 2i in the low nibble. */
typedef enum nib_gemm_format {
    NIB_GEMM_FROM_NVFP4 = 0,  /* ModelOpt, compressed-tensors: codes [n, k/2], scales E4M3 [n, k/16] */
    NIB_GEMM_FROM_NVFP4_GGUF, /* codes: blocks of 64 in 36 bytes; k a multiple of 64; scales NULL */
    NIB_GEMM_FROM_MXFP4,      /* codes [n, k/2], scales E8M0 [n, k/32]; k a multiple of 32 */
    NIB_GEMM_FROM_MXFP4_GGUF, /* codes: blocks of 32 in 17 bytes; scales NULL */
    NIB_GEMM_FROM_BF16,       /* values [n, k], quantized here; scales NULL */
    NIB_GEMM_FROM_F16,
    NIB_GEMM_FROM_F32
} nib_gemm_format;

/* How block scales are chosen when values are quantized. */
typedef enum nib_gemm_method {
    NIB_GEMM_RTN = 0,       /* amax / 6, as ModelOpt */
    NIB_GEMM_FOUR_OVER_SIX, /* the better of 6 and 4 as a block's largest code */
    NIB_GEMM_SWEEP,         /* the scale of least squared error */
    NIB_GEMM_FP8_EXACT /* sweep over scales whose products with every code are E4M3: W4A8 rounds nothing */
} nib_gemm_method;

typedef struct nib_gemm_source {
    nib_gemm_format format;
    nib_gemm_method method; /* for values */
    size_t n, k;            /* multiples of 16 */
    const void *values;     /* codes, blocks or values, as the format says */
    const void *scales;
    const float *tensor_scale; /* FP32 [1], NULL: 1 (codes), or amax / 2688 taken here (values) */
    bool divides;              /* tensor_scale is compressed-tensors' divisor */
} nib_gemm_source;

/* One product. Zero means the default. */
typedef struct nib_gemm_product {
    const nib_gemm_weight *weight;
    nib_gemm_mode mode;
    size_t m; /* rows of a and d; 0 is legal and does nothing */
    const void *a;
    nib_gemm_type a_type;
    size_t lda; /* elements from row to row, 0: k. A multiple of 8, for E4M3 and NVFP4 of 16; of NVFP4 on 10.0
                   and 10.3 k */
    const float *a_scale;
    const void *a_block_scale;
    void *d;
    nib_gemm_type d_type; /* BF16, F16 or F32 */
    size_t ldd;           /* 0: n. A multiple of 4 */
    const void *c;        /* [m, n] of d's type, rows ldd apart; may be d. NULL: none */
    const void *bias;     /* [n] of d's type. NULL: none */
    float alpha, beta;    /* alpha 0 stands for 1; beta counts with c only */
    void *flags; /* device, a uint32 for each multiprocessor, zeros before and after the call, of one call at
                    a time. NULL: in the workspace, which has room for them either way, and cleared by a
                    launch where they are used */
} nib_gemm_product;

/* Experts: rows offsets[e] .. offsets[e + 1] of a and d belong to weights[e], which all have one shape, and
 * have bias[e] added. The offsets are read on the device only; offsets[0] is 0 and the last is at most
 * product.m. */
typedef struct nib_gemm_group {
    nib_gemm_product product;  /* its weight is weights[0]; bias [n_experts, n] of d's type or NULL; c NULL */
    size_t n_experts;          /* up to 1024 */
    const int32_t *offsets;    /* device, [n_experts + 1] */
    const void *const *packed; /* device, [n_experts]: nib_gemm_weight_data of each. Read, as weights are,
                                  while a kernel before that lets its dependents start early may still run */
    bool offsets_stand;        /* they were complete when the kernel before in the stream began: they may be
                                  read while it runs. So they were if it is nib_gemm_grouped of the same
                                  offsets, which lets none behind it begin before it knows them */
} nib_gemm_group;

nib_status nib_gemm_open(int device, nib_gemm **out, nib_error *err);
void nib_gemm_close(nib_gemm *g); /* NULL is legal. Weights must be freed before */

/* Packing. The packed form is one allocation of nib_gemm_packed_bytes on the device, 256-byte aligned: the
 * caller's (DATA) or, when DATA is NULL, made here. K and N are padded inside. A weight whose largest block
 * scale is 224 or less has all of them doubled, as often as they allow, and its tensor scale halved as often:
 * no value changes. *OUT may be used in the same stream at once. */
size_t nib_gemm_packed_bytes(size_t n, size_t k);
nib_status nib_gemm_weight_create(nib_gemm *g, size_t n, size_t k, void *data, nib_gemm_weight **out,
                                  nib_error *err);
nib_status nib_gemm_weight_pack(nib_gemm *g, nib_gemm_weight *w, const nib_gemm_source *source, void *stream,
                                nib_error *err);
void *nib_gemm_weight_data(const nib_gemm_weight *w);
void nib_gemm_weight_free(nib_gemm_weight *w); /* NULL is legal */

/* How many values packing MXFP4 changed (those that NVFP4's range of block scales made another value): waits
 * for the stream. 0 for every other source. */
nib_status nib_gemm_weight_changed(const nib_gemm_weight *w, void *stream, uint64_t *n_changed,
                                   nib_error *err);

/* The packed form, scales as packing doubled them, back to codes [n, k/2], scales E4M3 [n, k/16] and
 * tensor_scale [1] (each may be NULL). */
nib_status nib_gemm_weight_unpack(nib_gemm *g, const nib_gemm_weight *w, void *codes, void *scales,
                                  float *tensor_scale, void *stream, nib_error *err);

/* NVFP4 of values [rows, cols] (cols a multiple of 16), rows ldx apart: codes [rows, cols/2], scales E4M3
 * [rows, cols/16] or, SCALE_TILES, in tiles of 128 rows x 4 blocks (nib_gemm_scale_tile_bytes, padding
 * written). TENSOR_SCALE (device, [2]: the scale, then amax, which only 4over6 computes with) is read when
 * GIVEN_SCALE; else amax is found and the scale is amax / 2688 (/ 1536 for 4over6; for sweep and fp8-exact
 * made to have an exact reciprocal). Bit-equal to the CPU's codec. */
typedef struct nib_gemm_quantize_args {
    const void *x;
    nib_gemm_type x_type; /* BF16, F16, F32 */
    size_t rows, cols, ldx;
    nib_gemm_method method;
    bool given_scale, scale_tiles;
    void *codes, *scales;
    float *tensor_scale;
} nib_gemm_quantize_args;
size_t nib_gemm_scale_tile_bytes(size_t rows, size_t cols);
nib_status nib_gemm_quantize_nvfp4(nib_gemm *g, const nib_gemm_quantize_args *q, void *stream,
                                   nib_error *err);

/* E4M3 per token: q [rows, cols] = e4m3(x / scale[row]), scale[row] = amax(row) / 448 (1 for a row of zeros).
 */
nib_status nib_gemm_quantize_e4m3(nib_gemm *g, const void *x, nib_gemm_type x_type, size_t rows, size_t cols,
                                  size_t ldx, void *q, float *scale, void *stream, nib_error *err);

/* The workspace of P, 256-byte aligned. Of P's pointers it looks at the weight alone: a, d, scales and flags
 * may be NULL here whatever the call brings. 0 where none is needed, and for what the call refuses.
 * W4A4 takes at most 2^36 - 2^24 activations. On 10.0 and 10.3 it is cuBLASLt's, K a multiple of 32; what it
 * has no product for (a bias of F32, perhaps) the call alone finds out: NIB_UNSUPPORTED. */
size_t nib_gemm_workspace_bytes(const nib_gemm *g, const nib_gemm_product *p);
nib_status nib_gemm_matmul(nib_gemm *g, const nib_gemm_product *p, void *workspace, size_t workspace_bytes,
                           void *stream, nib_error *err);

size_t nib_gemm_grouped_workspace_bytes(const nib_gemm *g, const nib_gemm_group *p);
nib_status nib_gemm_grouped(nib_gemm *g, const nib_gemm_group *p, void *workspace, size_t workspace_bytes,
                            void *stream, nib_error *err);

/* Which kernel runs for this shape, in which precision, and why: one paragraph into TEXT. ARCH: a compute
 * capability as 10 * major + minor (90), or 0 for the context's device; G may be NULL when ARCH is given, and
 * then no GPU is needed. BF16 activations; what nib_gemm_matmul refuses of them is refused here. */
nib_status nib_gemm_explain(const nib_gemm *g, int arch, nib_gemm_mode mode, size_t m, size_t n, size_t k,
                            char *text, size_t text_bytes, nib_error *err);

/* The same of experts on G's GPU. Of P's pointers it looks at the weight alone. */
nib_status nib_gemm_grouped_explain(const nib_gemm *g, const nib_gemm_group *p, char *text, size_t text_bytes,
                                    nib_error *err);

#if defined(__GNUC__)
#pragma GCC visibility pop
#endif
#ifdef __cplusplus
}
#endif
#endif
