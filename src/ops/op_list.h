/* SPDX-License-Identifier: Apache-2.0
 *
 * The ops: how far a result may lie from FP64 of the same operands where a backend computes exactly, and the
 * shapes they are tried on. Every op of ops.h stands here, and every op that stands here has a case with an
 * FP64 oracle (op_oracles.c): without one it does not compile. The op suite, the parity test and the
 * benchmark loop over this list.
 *
 * Errors of one output row: L2 is |got - want| / |want| over the row; ELEMENT the largest |got - want| /
 * |want| of an element (differences below 1e-37 do not count).
 */
#ifndef OPS_OP_LIST_H
#define OPS_OP_LIST_H

#include <stdbool.h>

typedef enum op_error { OP_ERROR_L2, OP_ERROR_ELEMENT } op_error;

/* OP(name, error, tolerance of an exact backend) */
#define OP_LIST(OP)                                                                                          \
    OP(embed, OP_ERROR_ELEMENT, 1.2e-7)                                                                      \
    OP(rmsnorm, OP_ERROR_ELEMENT, 5e-7)                                                                      \
    OP(rmsnorm_out, OP_ERROR_ELEMENT, 5e-7)                                                                  \
    OP(rmsnorm_add, OP_ERROR_L2, 3e-7)                                                                       \
    OP(matmul, OP_ERROR_L2, 2e-6)                                                                            \
    OP(matmul_add, OP_ERROR_L2, 2e-6)                                                                        \
    OP(matmul_glu, OP_ERROR_L2, 4e-6)                                                                        \
    OP(qk_norm_rope_store, OP_ERROR_L2, 4e-7)                                                                \
    OP(attention, OP_ERROR_L2, 3e-6)                                                                         \
    OP(softcap, OP_ERROR_ELEMENT, 5e-7)                                                                      \
    OP(sum_squares, OP_ERROR_ELEMENT, 1e-12)                                                                 \
    OP(sample, OP_ERROR_ELEMENT, 2e-6)

typedef enum op_id {
#define OP_ID(name, error, tolerance) OP_##name,
    OP_LIST(OP_ID)
#undef OP_ID
        OP_COUNT
} op_id;

typedef struct op_info {
    const char *name;
    op_error error;
    double tolerance;
} op_info;

static const op_info op_infos[OP_COUNT] = {
#define OP_INFO(name, error, tolerance) {#name, error, tolerance},
    OP_LIST(OP_INFO)
#undef OP_INFO
};

/* A network's layer. */
typedef struct op_shape {
    const char *name;
    int dim, ffn_dim, n_heads, n_kv_heads, head_dim;
    int window; /* 0: none */
    bool interleaved, qk_norm;
} op_shape;

static const op_shape op_shapes[] = {
    {"odd", 50, 37, 3, 1, 10, 0, true, false}, /* no length is a whole number of anything */
    {"small", 96, 160, 6, 2, 48, 70, false, true},
    {"smollm2-135m", 576, 1536, 9, 3, 64, 0, true, false},
    {"gemma3-270m", 640, 2048, 4, 1, 256, 512, false, true},
};

enum { OP_N_SHAPES = sizeof op_shapes / sizeof op_shapes[0] };

#endif
