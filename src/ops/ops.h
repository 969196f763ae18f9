/* SPDX-License-Identifier: Apache-2.0
 *
 * The contract between the layers of a network (model) and a way to compute them (cpu, cuda).
 *
 * A backend is one struct: facts it states, resource calls that may fail, and ops that may not. Nothing here
 * lives on the host by nature: weights, vectors, buffers and caches are the backend's, and only their heads
 * (shapes) are public. Layers call op_NAME below, which asserts the shapes once for every backend and then
 * queues; step_submit starts the queue, step_wait reports the first failure once. Between step_begin and
 * step_wait nothing is allocated.
 *
 * What every backend promises, and the op suite (op_cases.h) holds:
 *  - weights compute from exactly the values they were packed from (tensor_decode_row); what is done to
 *    activations is the compute mode, a fact of the backend;
 *  - a step computed twice gives the same bits;
 *  - where row_bits_fixed: the bits of an output row depend on that row's inputs alone: not on the other
 *    rows of the batch, on the number of threads, or on how a prompt was cut into chunks. Where not, a row
 *    lies within the op's tolerance of what it is alone.
 *
 * Rows: ops work on the rows of their source and set the rows of their destination. The first op of a step
 * sets them from the batch.
 *
 * Several ranks (tensor parallel): every rank runs the same ops on its share. A weight split by SPLIT_ROWS or
 * SPLIT_HEADS has a share of the output features, one split by SPLIT_COLS a share of the inputs: its products
 * are summed over the ranks inside the op. Heads state the rank's own share. With one rank a split is whole.
 */
#ifndef OPS_OPS_H
#define OPS_OPS_H

#include "base/status.h"
#include "nouns/batch.h"
#include "nouns/hparams.h"
#include "nouns/sampling.h"
#include "nouns/tensor.h"

typedef struct backend backend;

/* ---- what a backend owns; its own fields follow the head ---- */

typedef enum buf_kind {
    BUF_F32, /* residual stream, projections, logits: FP32 [rows, cols] */
    BUF_ACT  /* what a matmul reads: the backend's activation format */
} buf_kind;

typedef enum split_kind { SPLIT_NONE = 0, SPLIT_ROWS, SPLIT_COLS, SPLIT_HEADS } split_kind;

/* Activations of up to max_rows rows. */
typedef struct buf {
    buf_kind kind;
    size_t rows; /* set by the op that writes it */
    size_t cols, max_rows;
} buf;

/* Numbers that stay: norm weights, RoPE frequencies, biases (FP32); sums over rows (FP64). */
typedef enum vec_kind { VEC_F32, VEC_F64 } vec_kind;
typedef struct vec {
    vec_kind kind;
    size_t n;
} vec;

/* Packed matrix; rows of several tensors may be joined. */
#define WEIGHT_MAX_PARTS 3
typedef struct weight {
    size_t rows, cols;
    size_t n_parts, part_rows[WEIGHT_MAX_PARTS];
    size_t bytes; /* what one pass over it reads */
    split_kind split;
} weight;

/* Keys and values of the layers of one cache group, or their state. */
typedef struct cache_shape {
    cache_group group;
    int n_layers, n_kv_heads, head_dim;
    nib_kv_dtype dtype;
} cache_shape;

typedef struct cache {
    int n_groups;
    cache_shape shapes[CACHE_MAX_GROUPS];
    size_t bytes; /* in memory */
} cache;

/* ---- what ops are told ---- */

/* One layer's attention; lives as long as the model. */
typedef struct attn_params {
    int group, layer; /* cache group, and the layer's number within it */
    int n_heads, n_kv_heads, head_dim;
    const vec *q_norm, *k_norm; /* [head_dim]: an RMS norm per head; [heads * head_dim]: one over all heads;
                                   NULL: none */
    float norm_eps;
    const vec
        *inv_freq;    /* [n <= head_dim / 2] radians per position: the first 2n dimensions turn; NULL: none */
    float rope_scale; /* multiplies cosines and sines (YaRN's attention factor); 1 */
    bool interleaved; /* RoPE pairs (2i, 2i+1); else (i, i + n) */
    float query_log;  /* (query_log) multiplies queries at position p by 1 + query_log * log(1 + floor(p /
                         query_log_len)); 0: they stay */
    int query_log_len;
    float scale;            /* multiplies q.k */
    float cap;              /* (caps) scores become cap * tanh(score / cap); 0: they stay */
    int window;             /* keys with q - k < window; 0: all */
    float k_scale, v_scale; /* of an FP8 cache's codes, all alike; 0, or where a backend does not look here:
                               fitted to what is stored */
    /* (key_means) [n_kv_heads * head_dim], or NULL. Without K_SCALE keys are stored less this, but for those
     * of position 0: attention takes q . k_mean from their scores, as all others lack it. CAP is 0. */
    const vec *k_mean;
    /* (qk_rotation) [n_kv_heads * head_dim], or NULL. Before that keys are divided by this and queries
     * multiplied with it, and both turned, which changes no score. */
    const vec *qk_balance;
} attn_params;

/* Whether q's and k's norms are over all heads: done before anything is done by heads. */
static inline bool attn_norms_rows(const attn_params *p) {
    return p->q_norm && p->q_norm->n != (size_t)p->head_dim;
}

/* What a layer is made of. */
typedef struct layer_parts {
    const weight *qkv, *attn_out, *gate_up, *down;
    const attn_params *attn;
    norm_place norms; /* of both halves */
} layer_parts;

/* What is done to the operands of a matrix product. */
typedef enum compute_mode {
    COMPUTE_EXACT = 0, /* weights and activations as they are, sums in FP32 */
    COMPUTE_W4A16,     /* activations rounded to BF16 */
    COMPUTE_W4A8_INT8, /* activations as 8-bit integers with a scale per 16 */
    COMPUTE_W4A8_FP8,  /* activations E4M3 with a scale per row; block scales folded into E4M3 weights */
    COMPUTE_W4A4       /* activations NVFP4 */
} compute_mode;
const char *compute_mode_name(compute_mode m); /* "exact", "w4a16", ... */

#define OP_PROFILE_MAX 32
typedef struct op_profile {
    const char *name; /* "matmul", ... */
    uint64_t calls;
    double seconds;
    uint64_t bytes; /* weights, KV and activations moved */
} op_profile;

/* ---- ops; rows = batch rows unless said otherwise. One line each in op_list.h ---- */

typedef struct op_table {
    /* x[r, :] = table[token[r], :] * scale */
    void (*embed)(backend *be, buf *x, const weight *table, float scale);
    /* out = x / sqrt(mean(x^2) + eps) * w; w F32 [cols], or NULL: out = x; out is F32, or ACT
     * for READER (NULL: for whoever reads it) */
    void (*rmsnorm)(backend *be, buf *out, const buf *x, const vec *w, float eps, const weight *reader);
    /* the same for the batch's out_rows only: out has n_out rows */
    void (*rmsnorm_out)(backend *be, buf *out, const buf *x, const vec *w, float eps, const weight *reader);
    /* x += rmsnorm(y) * w */
    void (*rmsnorm_add)(backend *be, buf *x, const buf *y, const vec *w, float eps);
    /* out = a W^T + bias, out F32 [rows, weight rows], a ACT [rows, weight cols]; bias [weight rows] or NULL
     */
    void (*matmul)(backend *be, buf *out, const buf *a, const weight *w, const vec *bias);
    /* x += a W^T + bias */
    void (*matmul_add)(backend *be, buf *x, const buf *a, const weight *w, const vec *bias);
    /* out ACT [rows, F] for READER = f(a Wg^T) * (a Wu^T); w: two parts of F rows, Wg and Wu */
    void (*matmul_glu)(backend *be, buf *out, const buf *a, const weight *w, glu_kind kind,
                       const weight *reader);
    /* qkv F32 [rows, (H + 2G) * D]: norm and rotate q (into q, F32 [rows, H * D]) and k; store k, v in the
     * pages. Norms over all heads may be done in QKV's own memory. */
    void (*qk_norm_rope_store)(backend *be, buf *q, const buf *qkv, const attn_params *p, cache *c);
    /* out ACT [rows, H * D] for READER = softmax(cap(scale * q K^T)) V over the row's own sequence, causal,
     * windowed */
    void (*attention)(backend *be, buf *out, const buf *q, const attn_params *p, cache *c,
                      const weight *reader);
    /* (caps) x = cap * tanh(x / cap), F32, all rows of x */
    void (*softcap)(backend *be, buf *x, float cap);
    /* sums[c] += sum over rows of a[r, c]^2 in FP64, before any activation quantization; calibration */
    void (*sum_squares)(backend *be, vec *sums, const buf *a);
    /* out[r] = a token from logits F32 [n, vocab] row r, as rows[r] says (nouns/sampling.h); OUT is host
     * memory, written by step_wait; it and ROWS live until then */
    void (*sample)(backend *be, sampled *out, const buf *logits, const sample_row *rows);
} op_table;

struct backend {
    /* ---- facts ---- */
    const char *name;    /* "cpu", "cuda" */
    char path[160];      /* what computes, for people: "cpu avx512-vnni, activations int8 (a scale per 16)" */
    bool row_bits_fixed; /* the strict promise above */
    bool caps;           /* softcap, and attention with a cap */
    bool query_log;      /* queries that grow with their position */
    bool key_means;      /* keys of an FP8 cache less a mean */
    bool rounds_keys;    /* to few bits before they are stored: then those of any cache are less a mean */
    int qk_rotation;     /* order of the Hadamard matrix that balanced queries and keys are turned with; 0 */
    bool branches;       /* weights with a low-rank branch */
    compute_mode mode;
    int n_ranks, rank;
    bool owns_weights;  /* set before the first weight is packed: what weights need of their tensors is copied
                         */
    const batch *batch; /* of the step in progress, set by step_begin; else NULL */

    /* ---- resources ---- */
    nib_status (*buf_new)(backend *be, buf **out, buf_kind kind, split_kind split, size_t max_rows,
                          size_t cols, nib_error *err);
    void (*buf_free)(backend *be, buf *b);
    /* For tests: FP32 [rows, cols] in (the op that reads it is READER's matmul, or NULL) and out. */
    void (*buf_write)(backend *be, buf *b, const float *values, size_t rows, const weight *reader);
    void (*buf_read)(backend *be, const buf *b, float *dst);
    /* A BUF_F32 on the host after step_wait, FP32 [rows, cols]; valid until the next step. Of products'
     * results only logits: a backend may keep another for norms and attention to read in a narrower format.
     */
    const float *(*buf_view)(backend *be, const buf *b);
    /* VALUES FP32 or FP64 [n] by kind; NULL: zeros. */
    nib_status (*vec_new)(backend *be, vec **out, vec_kind kind, size_t n, const void *values,
                          nib_error *err);
    void (*vec_read)(backend *be, const vec *v, void *dst);
    void (*vec_free)(backend *be, vec *v);
    /* Packs N_PARTS tensors of equal cols as one weight, rows joined in order; each keeps its own format and
     * scale, and (branches) its low-rank branch. Unless the backend owns_weights, the tensors' bytes must
     * outlive the weight (formats that need no packing are read in place). */
    nib_status (*weight_pack)(backend *be, weight **out, const tensor *const *parts, size_t n_parts,
                              split_kind split, nib_error *err);
    /* Tensors' bytes may still be on their way when weight_pack returns, and be needed until this does. NULL:
     * they never are. What fails here failed for any of the weights packed since it was asked last. */
    nib_status (*weights_wait)(backend *be, nib_error *err);
    void (*weight_free)(backend *be, weight *w);
    /* Once a layer's weights are packed: a backend may compute the layer's ops as one. NULL: none does. */
    void (*layer_know)(backend *be, const layer_parts *l);
    /* Values of one packed row, FP32 [cols]: equal to tensor_decode_row of its part, without its branch. For
     * tests. */
    void (*weight_unpack_row)(backend *be, const weight *w, size_t row, float *dst);
    /* What one page (or slot) of a group takes: asked before anything is allocated. */
    size_t (*cache_page_bytes)(backend *be, const cache_shape *shape);
    /* Bytes that are free now, of memory that is the backend's own; NULL: it lies in the host's, which other
     * programs need too. */
    size_t (*memory_free)(backend *be);
    nib_status (*cache_new)(backend *be, cache **out, const cache_shape *shapes, int n_groups,
                            nib_error *err);
    void (*cache_free)(backend *be, cache *c);
    /* Page (or slot) TO of a group becomes a copy of FROM; between steps. */
    void (*cache_copy)(backend *be, cache *c, int group, int32_t to, int32_t from);

    /* ---- a step: each is NULL where nothing is to be done; ops may compute at once ----
     * b and all it points to live until step_wait. Equal non-zero keys with batches of as many rows and out
     * rows promise equal ops on equal buffers (sample apart): where true comes back, the backend replays what
     * it recorded under the key, and the caller queues nothing but sample. */
    bool (*step_begin)(backend *be, const batch *b, uint64_t key);
    void (*step_submit)(backend *be); /* returns before the work is done, where the backend can */
    nib_status (*step_wait)(backend *be, nib_error *err);

    /* ---- where the time goes: off until asked for ---- */
    void (*profile_start)(backend *be);
    size_t (*profile_stop)(backend *be, op_profile *rows, size_t max_rows); /* how many rows were written */

    void (*close)(backend *be);

    op_table op;
};

/* ---- what layers call: shapes are asserted here ---- */
void op_embed(backend *be, buf *x, const weight *table, float scale);
void op_rmsnorm(backend *be, buf *out, const buf *x, const vec *w, float eps, const weight *reader);
void op_rmsnorm_out(backend *be, buf *out, const buf *x, const vec *w, float eps, const weight *reader);
void op_rmsnorm_add(backend *be, buf *x, const buf *y, const vec *w, float eps);
void op_matmul(backend *be, buf *out, const buf *a, const weight *w, const vec *bias);
void op_matmul_add(backend *be, buf *x, const buf *a, const weight *w, const vec *bias);
void op_matmul_glu(backend *be, buf *out, const buf *a, const weight *w, glu_kind kind, const weight *reader);
void op_qk_norm_rope_store(backend *be, buf *q, const buf *qkv, const attn_params *p, cache *c);
void op_attention(backend *be, buf *out, const buf *q, const attn_params *p, cache *c, const weight *reader);
void op_softcap(backend *be, buf *x, float cap);
void op_sum_squares(backend *be, vec *sums, const buf *a);
void op_sample(backend *be, sampled *out, const buf *logits, const sample_row *rows);

/* A step, its batch checked: rows in order, a page for every position. See the struct. */
bool step_begin(backend *be, const batch *b, uint64_t key);
void step_submit(backend *be);
nib_status step_wait(backend *be, nib_error *err);
nib_status step_finish(backend *be, nib_error *err); /* submit and wait */

#endif
