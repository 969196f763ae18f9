/* SPDX-License-Identifier: Apache-2.0
 *
 * The way of one row or two through many layers in one launch (gpu/sm90/persistent.cu): what it computes, as
 * a list of products and attentions, and where its blocks hand values to each other. Plain C; passed by
 * value. The walker's limits are stated beside its code.
 */
#ifndef CUDA_PASS_H
#define CUDA_PASS_H

#include "cuda/launchers.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum pass_kind {
    PASS_NORMED = 0, /* out = norm(stream) W^T + bias; W may have no rows */
    PASS_ADD,        /* stream += in W^T + bias */
    PASS_BRANCH,     /* out = in W^T + bias, whose norm the op behind adds to the stream */
    PASS_GATED,      /* out = f(norm(stream) gate^T) * (norm(stream) up^T) */
    PASS_ATTEND      /* out = attention of qkv; the row's key and value go into their pages */
} pass_kind;

/* Where values are handed over. Each is used by at most every third op: then all have read the use before. */
typedef enum pass_place {
    PASS_STREAM = 0, /* and PASS_STREAM + 1 in turn, FP32 [hidden]; or a branch and, behind it, the stream */
    PASS_QKV = 2,    /* FP32 */
    PASS_HEADS,      /* BF16: attention's result */
    PASS_UNIT,       /* BF16: the gated unit's */
    PASS_NOWHERE     /* from: the stream as the op before the pass left it; to: only PLAIN is written */
} pass_place;

typedef struct pass_op {
    uint8_t kind, from, to, gelu;
    int32_t view; /* PASS_ATTEND: of the views */
    union {
        struct {
            const uint8_t *w;   /* packed (gemm/gemm.h) */
            const float *norm;  /* [k]; PASS_BRANCH: [n], or NULL: nothing adds it */
            const float *bias;  /* [n] or NULL */
            const float *scale; /* the tensor's */
            float eps;
            int32_t k, groups;   /* columns; groups of 128 */
            int32_t rounds;      /* row tiles (PASS_GATED: pairs) of a block */
            int16_t rest, first; /* blocks that have one more; who has the first (of PASS_BRANCH's lists) */
            int32_t twin;        /* PASS_GATED: tiles from one of the gate to its twin of up; else 0 */
        } product;
        struct {
            const float *q_norm, *k_norm, *k_mean; /* of the view, but a layer's own */
            float k_scale, v_scale;                /* likewise */
            void *k;
            float *k_scales;
        } attention;
    };
    void *plain; /* the result for later kernels too, or NULL: FP32; of HEADS and UNIT BF16; of a branch that
                    is normed the stream with it */
} pass_op;

#define PASS_OPS     404
#define PASS_ROWS    2 /* at most */
#define PASS_VIEWS   4
#define PASS_COLUMNS 8  /* query heads of a KV head */
#define PASS_SPLITS  16 /* of a row's keys, at most */

typedef struct pass_view {
    attn_view p; /* without norms, mean and scales */
    step_view step;
    ptrdiff_t v, v_scales; /* bytes from a layer's keys to its values, and from scales to scales */
} pass_view;

typedef struct pass {
    int n_ops, n_views;
    int hidden, max_k;
    int n_blocks;
    bool branches; /* PASS_BRANCH instead of PASS_ADD */
    kv_format format;
    float *stream; /* FP32 [n_rows, hidden], as the op before left it */
    uint32_t *places[PASS_NOWHERE];
    uint64_t *parts; /* of split attention: [row, kv head, split, column, head_dim + 2] */
    uint32_t
        *counters; /* tags of the last uses, a bit a place; number of the last split attention; blocks done */
    pass_view views[PASS_VIEWS];
    pass_op ops[PASS_OPS];
    int n_rows; /* 1 or PASS_ROWS, each alone in its sequence; values of places [n_rows, width] */
    int stream_stride, plain_stride; /* elements from row to row: of STREAM, of PLAIN elsewhere */
} pass;

int pass_blocks(const cuda_lane *lane, int hidden);
/* Whether a pass over such layers runs here. */
bool pass_serves(const cuda_lane *lane, const attn_view *p, kv_format format, int hidden, int max_k,
                 bool branches, int rows);
/* Whether all its blocks run at once, which the driver is asked: once a layer, not in a step. */
bool pass_resides(const cuda_lane *lane, const attn_view *p, int hidden, int max_k, bool branches, int rows);
int pass_launch(const cuda_lane *lane, const pass *p);

#ifdef __cplusplus
}
#endif

#endif
