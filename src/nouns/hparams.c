/* SPDX-License-Identifier: Apache-2.0
 *
 * Which tensors a network of given numbers has, and their shapes: the one place that says it. Readers: store,
 * which checks files against it, and whoever makes a network up.
 */
#include "nouns/hparams.h"

typedef struct shape {
    size_t rows, cols; /* cols 0: the network has no such tensor */
} shape;

static shape vector(bool has, size_t n) {
    return (shape){1, has ? n : 0};
}

static shape attention_shape(const hparams *hp, slot s) {
    size_t dim = (size_t)hp->dim, head = (size_t)hp->head_dim;
    size_t q = (size_t)hp->n_heads * head, kv = (size_t)hp->n_kv_heads * head;
    switch (s) {
    case SLOT_Q:
        return (shape){q, hp->joined ? 0 : dim};
    case SLOT_K:
    case SLOT_V:
        return (shape){kv, hp->joined ? 0 : dim};
    case SLOT_QKV:
        return (shape){q + 2 * kv, hp->joined ? dim : 0};
    case SLOT_O:
        return (shape){dim, q};
    case SLOT_Q_BIAS:
        return vector(hp->qkv_bias, q);
    case SLOT_K_BIAS:
    case SLOT_V_BIAS:
        return vector(hp->qkv_bias, kv);
    case SLOT_O_BIAS:
        return vector(hp->o_bias, dim);
    case SLOT_Q_NORM:
        return vector(hp->qk_norm != QK_NORM_NONE, hp->qk_norm == QK_NORM_ROW ? q : head);
    case SLOT_K_NORM:
        return vector(hp->qk_norm != QK_NORM_NONE, hp->qk_norm == QK_NORM_ROW ? kv : head);
    default:
        return vector(false, 0);
    }
}

static shape mlp_shape(const hparams *hp, slot s) {
    size_t dim = (size_t)hp->dim, ffn = (size_t)hp->ffn_dim;
    switch (s) {
    case SLOT_GATE:
    case SLOT_UP:
        return (shape){ffn, hp->joined ? 0 : dim};
    case SLOT_GATE_UP:
        return (shape){2 * ffn, hp->joined ? dim : 0};
    case SLOT_DOWN:
        return (shape){dim, ffn};
    default:
        return vector(false, 0);
    }
}

static shape shape_of(const hparams *hp, slot s) {
    size_t dim = (size_t)hp->dim;
    switch (s) {
    case SLOT_EMBED:
        return (shape){(size_t)hp->vocab, dim};
    case SLOT_HEAD:
        return (shape){(size_t)hp->vocab, hp->tied ? 0 : dim};
    case SLOT_FINAL_NORM:
        return vector(true, dim);
    case SLOT_ATTN_NORM:
    case SLOT_FFN_NORM:
        return vector(hp->norms != NORM_AFTER, dim);
    case SLOT_POST_ATTN_NORM:
    case SLOT_POST_FFN_NORM:
        return vector(hp->norms != NORM_BEFORE, dim);
    case SLOT_GATE:
    case SLOT_UP:
    case SLOT_GATE_UP:
    case SLOT_DOWN:
        return mlp_shape(hp, s);
    default:
        return attention_shape(hp, s);
    }
}

bool hparams_has(const hparams *hp, slot s, size_t *rows, size_t *cols) {
    shape of = shape_of(hp, s);
    *rows = of.rows;
    *cols = of.cols;
    return of.cols > 0;
}
