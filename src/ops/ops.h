/* SPDX-License-Identifier: Apache-2.0
 *
 * The contract between the layers of a network (model) and a way to compute them (cpu, later cuda).
 *
 * A backend is one struct: resource calls that may fail, and ops that may not. Ops only queue; step_finish
 * computes the queue and reports the first failure once. Between step_begin and step_finish nothing is
 * allocated.
 *
 * What every backend promises, and the parity test holds:
 *  - shapes are asserted here or by the backend, never silently clipped;
 *  - the bits of an output row depend on that row's inputs alone: not on the other rows of the batch, on the
 * number of threads, or on how a prompt was cut into chunks;
 *  - weights compute from exactly the values they were packed from (tensor_decode_row); what is done to
 * activations is the activation mode, chosen at open and named in backend->path.
 *
 * Rows: ops work on the rows of their source and set the rows of their destination. The first op of a step
 * sets them from the batch.
 */
#ifndef OPS_OPS_H
#define OPS_OPS_H

#include "base/status.h"
#include "nouns/batch.h"
#include "nouns/hparams.h"
#include "nouns/tensor.h"

typedef struct backend backend;
typedef struct buf buf;           /* backend memory: activations of up to max_rows rows */
typedef struct weight weight;     /* packed, backend-owned, opaque; rows of several tensors may be joined */
typedef struct kv_cache kv_cache; /* pages of keys and values of every layer */

typedef enum buf_kind {
    BUF_F32, /* residual stream, projections, logits: FP32 [rows, cols] */
    BUF_ACT  /* what a matmul reads: the backend's activation format */
} buf_kind;

typedef struct kv_shape {
    int n_layers, n_kv_heads, head_dim;
    int n_pages; /* of KV_PAGE_TOKENS positions each */
    nib_kv_dtype dtype;
} kv_shape;

/* One layer's attention. Vectors are FP32 on the host and live as long as the model. */
typedef struct attn_params {
    int layer;
    int n_heads, n_kv_heads, head_dim;
    const float *q_norm, *k_norm; /* [head_dim] or NULL: no per-head RMS norm */
    float norm_eps;
    const float *inv_freq; /* [head_dim / 2] radians per position */
    bool interleaved;      /* RoPE pairs (2i, 2i+1); else (i, i + head_dim/2) */
    float scale;           /* multiplies q.k */
    int window;            /* keys with q - k < window; 0: all */
} attn_params;

struct backend {
    const char *name;
    char path[160]; /* what computes, for people: "cpu avx512-vnni, NVFP4 x int8 (per 32)" */

    /* ---- resources ---- */
    nib_status (*buf_new)(backend *be, buf **out, buf_kind kind, size_t max_rows, size_t cols,
                          nib_error *err);
    void (*buf_free)(backend *be, buf *b);
    /* FP32 view of a BUF_F32 after step_finish, [rows, cols]; valid until the next step. */
    const float *(*buf_read)(backend *be, const buf *b);
    /* Packs N_PARTS tensors of equal cols as one weight, rows joined in order; each keeps its own format and
     * scale. The tensors' bytes must outlive the weight (formats that need no packing are read in place). */
    nib_status (*weight_pack)(backend *be, weight **out, const tensor *const *parts, size_t n_parts,
                              nib_error *err);
    void (*weight_free)(backend *be, weight *w);
    size_t (*weight_bytes)(const weight *w); /* what one pass over it reads */
    /* Values of one packed row, FP32 [cols]: equal to tensor_decode_row of its part. For tests. */
    void (*weight_unpack_row)(backend *be, const weight *w, size_t row, float *dst);
    nib_status (*kv_new)(backend *be, kv_cache **out, const kv_shape *shape, nib_error *err);
    void (*kv_free)(backend *be, kv_cache *kv);
    size_t (*kv_bytes)(const kv_cache *kv);
    void (*step_begin)(backend *be, const batch *b); /* b lives until step_finish */
    nib_status (*step_finish)(backend *be, nib_error *err);
    void (*close)(backend *be);

    /* ---- ops; rows = batch rows unless said otherwise ---- */
    /* x[r, :] = table[token[r], :] * scale */
    void (*embed)(backend *be, buf *x, const weight *table, float scale);
    /* out = x / sqrt(mean(x^2) + eps) * w; w FP32 [cols] on the host, living as long as the model; out ACT or
     * F32 */
    void (*rmsnorm)(backend *be, buf *out, const buf *x, const float *w, float eps);
    /* the same for the batch's out_rows only: out has n_out rows */
    void (*rmsnorm_out)(backend *be, buf *out, const buf *x, const float *w, float eps);
    /* x += rmsnorm(y) * w */
    void (*rmsnorm_add)(backend *be, buf *x, const buf *y, const float *w, float eps);
    /* out = a W^T, out F32 [rows, weight rows], a ACT [rows, weight cols] */
    void (*matmul)(backend *be, buf *out, const buf *a, const weight *w);
    /* x += a W^T */
    void (*matmul_add)(backend *be, buf *x, const buf *a, const weight *w);
    /* out ACT [rows, F] = f(a Wg^T) * (a Wu^T); w: two parts of F rows, Wg and Wu */
    void (*matmul_glu)(backend *be, buf *out, const buf *a, const weight *w, glu_kind kind);
    /* qkv F32 [rows, (H + 2G) * D]: norm and rotate q (into q, F32 [rows, H * D]) and k; store k, v in the
     * pages */
    void (*qk_norm_rope_store)(backend *be, buf *q, const buf *qkv, const attn_params *p, kv_cache *kv);
    /* out ACT [rows, H * D] = softmax(scale * q K^T) V over the row's own sequence, causal, windowed */
    void (*attention)(backend *be, buf *out, const buf *q, const attn_params *p, kv_cache *kv);
    /* sums[c] += sum over rows of a[r, c]^2, in FP64 on the host, before any activation quantization;
     * calibration */
    void (*sum_squares)(backend *be, double *sums, const buf *a);
};

#endif
