/* SPDX-License-Identifier: Apache-2.0
 *
 * The inside of the FP4 product library, for its own files and for the CUDA engine: what the two handles of
 * nibble_gemm.h hold, the packed layout, and activations in the order the tensor cores want.
 *
 * The engine may fill a nib_gemm_weight itself over memory of its own (data from nib_gemm_packed_bytes) and
 * calls nib_gemm_matmul like anybody else. Where its norms write prepared activations, it passes them with
 * GEMM_A_BF16_MMA or GEMM_A_E4M3_MMA as a_type and saves the pass that would reorder them.
 */
#ifndef GEMM_GEMM_H
#define GEMM_GEMM_H

#include <stdbool.h>

#include "nibble_gemm.h"

/* ---- packed weights ----
 * Row tiles of 16 rows one after another; in a row tile, groups of 128 k one after another; a group is
 *   offset    0: 32 lanes x 16 B, blocks 0..3 of 16 k: lane 4g + t holds block t of rows r0 and r1
 *   offset  512: 32 lanes x 16 B, blocks 4..7 likewise
 *   offset 1024: 32 lanes x 4 B, E4M3 scales: (r0, t) (r0, 4 + t) (r1, t) (r1, 4 + t)
 * with r0 = 4 (g / 2) + g % 2 and r1 = r0 + 2. Word s of the 16 B holds elements 8 (s / 2) .. + 7 of row r0
 * (s even) or r1 (s odd), bits ordered as word.h says. K is padded to whole groups with zeros. After the
 * last group, at a multiple of 16 bytes, stands the tensor's scale, FP32. */
#define GEMM_ROW_TILE    16
#define GEMM_GROUP_K     128
#define GEMM_GROUP_BYTES 1152

static inline size_t gemm_groups(size_t k) {
    return (k + GEMM_GROUP_K - 1) / GEMM_GROUP_K;
}

static inline size_t gemm_scale_offset(size_t n, size_t k) { /* of the tensor's scale */
    return n / GEMM_ROW_TILE * gemm_groups(k) * GEMM_GROUP_BYTES;
}

static inline const float *gemm_tensor_scale(const void *packed, size_t n, size_t k) {
    return (const float *)(const void *)((const char *)packed + gemm_scale_offset(n, k));
}

struct nib_gemm {
    int device;            /* CUDA ordinal */
    int arch;              /* 10 * major + minor: 90 */
    int n_sms, max_shared; /* bytes of shared memory a block may have */
    int pairs, fours;      /* Hopper: clusters of 2 and 4 blocks of gemm_few that run at a time */
    char name[64];         /* the driver's */
    void *tensor_map;      /* cuTensorMapEncodeTiled */
    struct blaslt *lt;     /* 10.0 and 10.3: cuBLASLt, NULL where it is not found */
};

struct nib_gemm_weight {
    const nib_gemm *g;
    void *data; /* packed */
    size_t n, k;
    bool owned; /* by the handle */
};

/* Blocks of 16 that are quantized in one call: they are counted in 32 bits, a grid at a time. */
#define GEMM_MOST_BLOCKS 0xfff00000u

/* ---- prepared activations: more values of nib_gemm_type, for products only ----
 * Rows of gemm_groups(k) * 128 elements (lda is ignored), zeros past k, elements of each 64 k reordered:
 *   BF16: position 16 s + {2t, 2t + 1, 2t + 8, 2t + 9} <- k = 16 t + 4 s + {0, 1, 2, 3}       (s, t 0..3)
 *   E4M3: position 32 (e / 8) + 16 r + 4 t + b <- k = 16 t + e, (r, b) of e % 8 = 0..7:
 *         (0,1) (1,1) (1,2) (0,2) (1,3) (0,3) (0,0) (1,0)
 * E4M3 comes with a_scale, FP32 per row, readable up to a multiple of 256 rows. */
#define GEMM_A_BF16_MMA ((nib_gemm_type)16)
#define GEMM_A_E4M3_MMA ((nib_gemm_type)17)

static inline size_t gemm_a_bytes(nib_gemm_type type, size_t m, size_t k) { /* of prepared activations */
    return m * gemm_groups(k) * GEMM_GROUP_K * (type == GEMM_A_BF16_MMA ? 2 : 1);
}

static inline int gemm_bf16_position(int k) { /* in its 64 */
    int t = k / 16, s = k / 4 % 4, j = k % 4;
    return 16 * s + 2 * t + j % 2 + 8 * (j / 2);
}

static inline int gemm_e4m3_position(int k) { /* in its 64 */
    int t = k / 16, e = k % 16;
    return 32 * (e / 8) + 16 * (0x96 >> e % 8 & 1) + 4 * t + (0x0fa5 >> 2 * (e % 8) & 3);
}

/* Reorders (and for GEMM_A_E4M3_MMA quantizes per token, writing SCALE) activations X [m, k], rows LDX apart.
 */
nib_status gemm_prepare(const nib_gemm *g, nib_gemm_type to, const void *x, nib_gemm_type x_type, size_t m,
                        size_t k, size_t ldx, void *out, float *scale, void *stream, nib_error *err);

/* ---- few tokens in a network's chain: a norm before the product, a gated unit after it, in one launch ----
 */
typedef struct gemm_norm { /* device: a = x / sqrt(mean(x^2) + eps) * w */
    const float *x, *w;    /* [k] */
    float eps;
} gemm_norm;

/* The same norm of 2 to GEMM_CHAIN_ROWS rows between two products, without a launch of its own: the one
 * before writes what it adds up times the norm's weights, and sums of squares of 16 columns each; the one
 * behind reads that, and 1 / rms is a factor of its sums. SCALED is
 * neither the input of the product before nor its sums. */
typedef struct gemm_spread { /* device */
    const float *w;          /* [k] */
    float eps;
    void *scaled;   /* BF16 [m, k]: x * w, rows LD apart */
    size_t ld;      /* a multiple of 8 */
    float *squares; /* [m, k / 16] */
} gemm_spread;

typedef enum gemm_unit { GEMM_UNIT_NONE = 0, GEMM_UNIT_SILU, GEMM_UNIT_GELU } gemm_unit; /* GELU: tanh form */

#define GEMM_CHAIN_ROWS 32

/* D [m, n] = a W^T, exact in the weights. One token: A is the norm's, x * w rounded to BF16 before it is
 * divided. 2 to GEMM_CHAIN_ROWS tokens: A is BF16 [m, k], rows LDA apart, or AFTER's. More, on Hopper and
 * with a unit alone: A is GEMM_A_BF16_MMA, or GEMM_A_E4M3_MMA with A_SCALE, D is GEMM_A_BF16_MMA; FLAGS and
 * WORKSPACE are those that nib_gemm_matmul of that shape takes. With a unit W is gate
 * and up, n / 2 rows each (multiples of 16), and D [m, n / 2] = f(a gate^T) * (a up^T). D: BF16 or F32.
 * BEFORE: D, F32, is added to, and what the next norm needs is left there. */
typedef struct gemm_chain {
    const nib_gemm_weight *weight;
    size_t m, lda, ldd;
    const gemm_norm *norm;
    const gemm_spread *after, *before;
    const void *a;
    const float *a_scale;
    gemm_unit unit;
    void *d;
    nib_gemm_type d_type;
    uint32_t *flags;
    void *workspace;
    size_t workspace_bytes;
} gemm_chain;

bool gemm_chain_serves(const nib_gemm *g, const gemm_chain *c);
nib_status gemm_chain_launch(const nib_gemm *g, const gemm_chain *c, void *stream, nib_error *err);

/* ---- the choice ---- */
typedef enum gemm_kernel {
    GEMM_KERNEL_NONE = 0,
    GEMM_KERNEL_GEMV,       /* M = 1, mma.sync, a block-diagonal operand */
    GEMM_KERNEL_PAIRS,      /* Hopper, M = 1, short products: the same, fed by a warp of its own */
    GEMM_KERNEL_GEMV16,     /* M = 2..16, mma.sync, tokens as columns */
    GEMM_KERNEL_FEW,        /* Hopper, M = 2..32, wgmma, K over a cluster */
    GEMM_KERNEL_WGMMA_BF16, /* Hopper, weights as the register operand */
    GEMM_KERNEL_WGMMA_E4M3,
    GEMM_KERNEL_TILE_BF16,       /* mma.sync, 128 rows x 64 tokens */
    GEMM_KERNEL_TILE_E4M3,       /* mma.sync E4M3: Ada */
    GEMM_KERNEL_TILE_E2M1,       /* mma.sync E2M1 with block scales: Blackwell GeForce */
    GEMM_KERNEL_BLASLT,          /* cuBLASLt's NVFP4 product: Blackwell of data centers */
    GEMM_KERNEL_TILE_E4M3_EXACT, /* mma.sync E4M3 a scale block at a time */
    GEMM_KERNEL_COUNT
} gemm_kernel;

typedef struct gemm_choice {
    gemm_kernel kernel;
    nib_gemm_mode mode; /* what AUTO became */
    int tile_tokens;    /* columns of a tile */
    int tile_rows;      /* wgmma: 128 or 192 */
    int k_slices;       /* K is cut into so many slices, summed in fixed order (wgmma: by a cluster) */
    int k_parts;        /* of the slices in one block of a cluster (few) */
    bool cut;           /* wgmma: tiles that do not fill the GPU are cut into equal runs (stream-K) */
    bool run_here;      /* this row has run on such a GPU; else only its emulation has */
    const char *name, *why;
} gemm_choice;

/* What runs product [m, n, k] in MODE on a GPU of ARCH with N_SMS multiprocessors. PLAIN: the activations are
 * BF16 as they lie, which the kernels for few tokens want. NIB_UNSUPPORTED names what is supported. */
nib_status gemm_choose(int arch, int n_sms, nib_gemm_mode mode, bool plain, size_t m, size_t n, size_t k,
                       gemm_choice *c, nib_error *err);
/* The same on G's GPU; NIB_UNSUPPORTED also where that is cuBLASLt's and it was not found. */
nib_status gemm_choose_on(const nib_gemm *g, nib_gemm_mode mode, bool plain, size_t m, size_t n, size_t k,
                          gemm_choice *c, nib_error *err);

/* Tensor cores cut long sums: exact FP32 results of wgmma take so many groups of K at a time and add up in
 * FP32. C, chosen for GEMM_KERNEL_WGMMA_BF16, is chosen again for such a product of GROUPS (of all terms). */
#define GEMM_EXACT_GROUPS 8
void gemm_choose_exact_sums(int n_sms, size_t m, size_t n, size_t groups, gemm_choice *c);

#endif
