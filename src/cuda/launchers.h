/* SPDX-License-Identifier: Apache-2.0
 *
 * What the kernels can be asked for, for plain C. Kernel and launcher share a .cu file; a launcher checks
 * shapes, queues on the lane's stream and returns a cudaError_t as int (0: queued). Pointers are device
 * pointers. Nothing here allocates, synchronizes or reads host memory later than the call, so every launch
 * can be captured in a CUDA graph; what changes from step to step is read from the step's table.
 */
#ifndef CUDA_LAUNCHERS_H
#define CUDA_LAUNCHERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nouns/sampling.h"
#include "num/dtype.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KV_PAGE     64 /* = KV_PAGE_TOKENS */
#define MAX_PARTS   3  /* = WEIGHT_MAX_PARTS */
#define BRIEF_KEYS  512
#define MAX_CLUSTER 8 /* blocks that share memory: as many as every GPU with clusters takes */

/* Where work is queued. PDL: each kernel may start while the one before it ends (sm_90 and up). */
typedef struct cuda_lane {
    void *stream; /* cudaStream_t */
    bool pdl;
    int n_sms;
    bool off;        /* nothing is launched: a step that could not begin */
    bool wgmma;      /* Hopper: prefill attention through wgmma */
    int most_shared; /* decode_know_clusters: what a block may have */
    /* decode_know_clusters: how many clusters of N blocks run at once, [1][N] of wide ones; 0 below sm_90 */
    int clusters[2][MAX_CLUSTER + 1];
} cuda_lane;

/* ---- operands ---- */

/* What a matrix product reads, or plain FP32. Rows lie STRIDE elements apart, a multiple of 128 where a
 * product reads them; columns from the last to the stride are zeros. */
typedef enum act_format {
    ACT_F32 = 0,
    ACT_BF16,
    ACT_FP8, /* E4M3, value = e4m3(code) * scales[row]; elements in the order of GEMM_A_E4M3_MMA (gemm/gemm.h)
              */
    ACT_BF16_MMA /* elements in the order of GEMM_A_BF16_MMA: what Hopper's products of many rows read */
} act_format;

typedef struct act_view {
    act_format format;
    void *data;
    float *scales; /* [rows] of ACT_FP8 */
    size_t stride;
} act_view;

/* A tensor as the file stores it, or (PACKED) NVFP4 in the FP4 library's layout; values as tensor_decode_row
 * gives them. */
typedef struct part_view {
    dtype type;
    const uint8_t *packed; /* NULL: DATA; else rows from packed_row on are the tensor's */
    size_t packed_row;
    const uint8_t *data; /* rows row_bytes apart */
    size_t row_bytes;
    const uint8_t *block_scales; /* DT_NVFP4: E4M3 [rows, cols/16]; DT_MXFP4: E8M0 [rows, cols/32] */
    const float *row_scales;     /* [rows] or NULL */
    float tensor_scale;
    size_t rows;
} part_view;

typedef struct weight_view {
    part_view parts[MAX_PARTS];
    int n_parts;
    size_t rows, cols;
} weight_view;

/* The step's table, on the device. A row's pages of group g begin at page_table[first_page[row]],
 * FIRST_PAGE being that of the group; the page of position p is p / KV_PAGE entries on. */
typedef struct step_view {
    const int32_t *tokens;     /* [n_rows] */
    const int32_t *positions;  /* [n_rows] */
    const int32_t *out_rows;   /* [n_out] */
    const int32_t *first_page; /* of one group: [n_rows] */
    const int32_t *page_table;
    const int32_t *alone;  /* [n_alone] rows that stand alone in their sequence: decode's */
    const int32_t *prompt; /* [n_rows] the sequence of a row that does not; -1: it stands alone */
    bool brief;            /* no row that stands alone has more than BRIEF_KEYS keys */
} step_view;

typedef enum kv_format { KV_F32 = 0, KV_BF16, KV_FP8 } kv_format;

/* Keys and values of one layer: blocks [page, kv head] of [KV_PAGE, head_dim] elements; FP8 has FP32 scales
 * [page, kv head, KV_PAGE] beside. */
typedef struct kv_view {
    kv_format format;
    void *k, *v;
    float *k_scales, *v_scales;
} kv_view;

typedef struct attn_view {
    int n_heads, n_kv_heads, head_dim;
    const float *q_norm, *k_norm; /* [head_dim] or NULL */
    float norm_eps;
    const float *inv_freq; /* [n_freq] */
    int n_freq;            /* the first 2 n_freq dimensions turn */
    float rope_scale;
    bool interleaved;
    float scale;
    int window;             /* 0: none */
    float cap;              /* scores become cap * tanh(score / cap); 0: they stay */
    float k_scale, v_scale; /* of FP8 codes, all alike; 0: fitted to each vector */
    /* [n_kv_heads * head_dim] or NULL: FP8 keys are stored less this, but for those of position 0, whose
     * scores lose its product with the query (docs/notes/kv-fp8.md). CAP is 0 then. */
    const float *k_mean;
    float query_log; /* queries times 1 + query_log * log(1 + floor(position / query_log_len)); 0: no */
    int query_log_len;
} attn_view;

/* ---- rows ---- */

/* out[r, :] = table[tokens[r], :] * scale */
int embed_launch(const cuda_lane *lane, float *out, size_t stride, const weight_view *table, float scale,
                 const int32_t *tokens, int n_rows);
/* dst[c] = value of row ROW, FP32 [cols] */
int embed_unpack_row(const cuda_lane *lane, float *dst, const weight_view *table, size_t row);

/* out[r, :] = x / sqrt(mean(x^2) + eps) * w for x row GATHER[r] (NULL: r) */
int rmsnorm_launch(const cuda_lane *lane, act_view out, const float *x, size_t x_stride, const float *w,
                   float eps, int n_rows, size_t cols, const int32_t *gather);
/* x += y (BF16), then the same; x is written too */
int rmsnorm_after_launch(const cuda_lane *lane, act_view out, float *x, size_t x_stride, act_view y,
                         const float *w, float eps, int n_rows, size_t cols);
/* x += rmsnorm(y) * w; y F32 or BF16 */
int rmsnorm_add_launch(const cuda_lane *lane, float *x, size_t x_stride, act_view y, const float *w,
                       float eps, int n_rows, size_t cols);

/* out[r, :] = x[r, :] in another format */
int convert_launch(const cuda_lane *lane, act_view out, act_view x, int n_rows, size_t cols);
/* out[r, f] = f(x[r, f]) * x[r, n + f], x F32 or BF16; GELU: tanh form, else SiLU */
int glu_launch(const cuda_lane *lane, act_view out, act_view x, int n_rows, size_t n, bool gelu);
/* x += y (BF16); columns in eights */
int add_launch(const cuda_lane *lane, float *x, size_t stride, act_view y, int n_rows, size_t cols);
/* BF16 activations as NVFP4 has them, a power of two a row in the place of the tensor's scale; in place */
int emulate_nvfp4_launch(const cuda_lane *lane, act_view x, int n_rows, size_t cols);
/* x = cap * tanh(x / cap) */
int softcap_launch(const cuda_lane *lane, float *x, size_t stride, float cap, int n_rows, size_t cols);
/* x[r, c] += bias[c] */
int bias_launch(const cuda_lane *lane, float *x, size_t stride, const float *bias, int n_rows, size_t cols);
/* sums[c] += sum over rows of a[r, c]^2 */
int sum_squares_launch(const cuda_lane *lane, double *sums, act_view a, int n_rows, size_t cols);

/* ---- attention ---- */

/* qkv [rows, (H + 2G) * D] FP32 or BF16 -> q [rows, H * D] FP32, keys and values into their pages */
int qkv_launch(const cuda_lane *lane, float *q, size_t q_stride, act_view qkv, const attn_view *p,
               const kv_view *kv, const step_view *step, int n_rows);

/* An RMS norm over a row's first n_q elements and one over the n_k behind them, in place. */
int qk_norm_launch(const cuda_lane *lane, act_view qkv, const float *q_norm, const float *k_norm, size_t n_q,
                   size_t n_k, float eps, int n_rows);

/* Any head_dim, any format, FP32 throughout: one warp a row and head. */
int attention_exact_launch(const cuda_lane *lane, act_view out, const float *q, size_t q_stride,
                           const attn_view *p, const kv_view *kv, const step_view *step, int n_rows);

/* Split-KV decode of N_ALONE rows (step->alone); head_dim 64, 96, 128, 256, KV FP8 or BF16. PARTIAL holds
 * decode_partial_bytes; only without clusters it is needed. */
int decode_know_clusters(cuda_lane *lane); /* on sm_90 and up, before the first launch */
bool decode_supports(const attn_view *p, kv_format format);
size_t decode_partial_bytes(const cuda_lane *lane, const attn_view *p, int n_alone);
size_t decode_partial_most(const cuda_lane *lane); /* of any rows and shape */
int decode_launch(const cuda_lane *lane, act_view out, const float *q, size_t q_stride, const attn_view *p,
                  const kv_view *kv, const step_view *step, int n_alone, void *partial);

/* The same and qkv_launch in one, bit for bit, where rows are few (sm_90 and up; every row stands alone). */
bool decode_makes(const cuda_lane *lane, const attn_view *p, kv_format format, int n_alone);
int decode_make_launch(const cuda_lane *lane, act_view out, act_view qkv, const attn_view *p,
                       const kv_view *kv, const step_view *step, int n_alone);

/* All rows but those that stand alone; the same shapes. Takes Hopper's own kernel where it serves. */
bool prefill_supports(const attn_view *p, kv_format format);
int prefill_launch(const cuda_lane *lane, act_view out, const float *q, size_t q_stride, const attn_view *p,
                   const kv_view *kv, const step_view *step, int n_rows);

bool prefill_wgmma_supports(const cuda_lane *lane, const attn_view *p, kv_format format);
int prefill_wgmma_launch(const cuda_lane *lane, act_view out, const float *q, size_t q_stride,
                         const attn_view *p, const kv_view *kv, const step_view *step, int n_rows);

/* ---- matrix products on weights as the file stores them ---- */

/* Whether kernels decode the format; embed and product take no other. */
bool product_knows(dtype type);

/* out[r, j] (+)= sum_k a[r, k] w[j, k]; exact products, FP32 sums. a: ACT_F32 or ACT_BF16 */
int product_launch(const cuda_lane *lane, float *out, size_t out_stride, act_view a, const weight_view *w,
                   int n_rows, bool add);

/* A low-rank branch beside BF16 activations: mid [n_rows, rank] = a DOWN^T; then OUT [n_rows, STRIDE] += mid
 * UP^T, whose parts take as many columns of mid as they have, one after the other. Columns are whole steps
 * of 32. */
int thin_products_down(const cuda_lane *lane, float *mid, act_view a, const weight_view *down, int n_rows);
int thin_products_up(const cuda_lane *lane, float *out, size_t stride, const float *mid, size_t rank,
                     const weight_view *up, int n_parts, int n_rows);

/* ---- sampling (nouns/sampling.h) ---- */

/* A token that penalties touch. */
typedef struct sample_adjust {
    int32_t token;
    int32_t repeated;  /* stands in the window of the repeat penalty */
    int32_t generated; /* times */
} sample_adjust;

/* A sample_row in numbers; lists lie in the same block, AT bytes from its start. */
typedef struct sample_job {
    double per_temperature; /* 1 / temperature */
    uint64_t seed, position;
    float temperature, top_p, floor_delta; /* of min-p: added to the largest logit; minus infinity: off */
    float repeat_penalty, presence_penalty, frequency_penalty;
    int32_t top_k, n_top;
    uint32_t adjust_at, n_adjust, bias_at, n_bias, mask_at; /* mask_at 0: every token is allowed */
} sample_job;

/* results[r] of logits row r; BLOCK: N_ROWS sample_jobs and their lists. Both may be pinned memory of the
 * host. ROOM: [n_rows, vocab + 2 SAMPLE_SLICES]. */
#define SAMPLE_SLICES 32
int sample_launch(const cuda_lane *lane, sampled *results, const float *logits, size_t stride, int vocab,
                  const void *block, int n_rows, float *room);

/* ---- */

/* Reads BYTES at P once; SINK: 4 bytes that nothing is written to. */
int bandwidth_launch(const cuda_lane *lane, const void *p, size_t bytes, uint32_t *sink);

#ifdef __cplusplus
}
#endif

#endif
