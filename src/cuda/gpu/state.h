/* SPDX-License-Identifier: Apache-2.0
 *
 * What the CUDA backend's files share: the structs behind the contract's heads, and the device's own errors.
 */
#ifndef CUDA_STATE_H
#define CUDA_STATE_H

#include <cuda_runtime_api.h>

#include "cuda/launchers.h"
#include "cuda/pass.h"
#include "gemm/gemm.h"
#include "ops/ops.h"

/* Rows up to which NVFP4 products read BF16 activations whatever the mode: the FP4 library has kernels of one
 * launch there, whose weights are exact, and FP8 is no faster. */
#ifndef CUDA_FEW_ROWS
#define CUDA_FEW_ROWS 32
#endif
/* A product's result waits for its norm beyond CUDA_FEW_ROWS alone, and that norm reads the stream before the
 * kernel before it has ended (rmsnorm.cu). Kernels of few rows let go before their wait. */
_Static_assert(CUDA_FEW_ROWS >= GEMM_CHAIN_ROWS, "no gated product of few rows before such a norm");

/* Rows up to which a launch that makes FP8 of attention's result costs more than its reader gains by FP8. */
#define CUDA_SHORT_ROWS 160

#define CUDA_MAX_SHAPES 32 /* of FP4 weights that differ in rows or columns */

typedef struct cuda_buf {
    buf head;
    act_format format;             /* as the last writer left it */
    void *data;                    /* FP32 or BF16 [max_rows, stride]; room for FP32 */
    void *fp8;                     /* BUF_ACT of the FP8 mode: E4M3 [max_rows, stride]; else NULL */
    float *scales;                 /* of FP8, [max_rows] */
    size_t stride;                 /* columns, padded */
    bool gone;                     /* a product normed its own input: this was never written */
    bool rounded;                  /* to NVFP4, for W4A4 */
    float *host;                   /* buf_view's, pinned; NULL until asked for */
    struct cuda_buf *next, **link; /* the backend's list */
} cuda_buf;

typedef struct cuda_vec {
    vec head;
    void *data;
} cuda_vec;

/* Low-rank branches of a weight's parts (thin.c). */
typedef struct thin {
    void *memory;
    size_t rank;               /* of all parts, padded; 0: there are none */
    weight_view down;          /* [rank, cols] */
    weight_view up[MAX_PARTS]; /* [rows of the part, its rank]; cols 0: it has none */
} thin;

typedef struct cuda_weight {
    weight head;
    weight_view view;                /* parts as stored; of FP4 products, as packed */
    nib_gemm_weight *fp4[MAX_PARTS]; /* packed for FP4 products: each part's, or all joined */
    int n_fp4;
    float *scratch; /* one row decoded, for tests */
    bool is_fp4;    /* all parts are */
    thin thin;
    bool is_known;          /* q, k, v of a layer that gather_know was told of */
    struct gather_set *set; /* of q, k, v whose whole layer a pass takes; else NULL */
    int pass_rows;          /* of such a pass, at most; else 0 */
    struct cuda_weight *next_unread;
} cuda_weight;

typedef struct cuda_group {
    uint8_t *k, *v;             /* [n_layers, n_pages, n_kv_heads, KV_PAGE, head_dim] */
    float *k_scales, *v_scales; /* [n_layers, n_pages, n_kv_heads, KV_PAGE]; NULL unless FP8 */
    size_t page_elements;       /* of one layer and page: n_kv_heads * KV_PAGE * head_dim */
    size_t page_cells;          /* n_kv_heads * KV_PAGE */
    size_t element_bytes;
} cuda_group;

typedef struct cuda_cache {
    cache head;
    cuda_group groups[CACHE_MAX_GROUPS];
} cuda_cache;

/* ---- a step's table: one block of int32 on the host (pinned) and on the device, uploaded by one copy ----
 */

typedef struct step_table {
    int32_t *host, *device;
    size_t max_rows, max_pages; /* what they have room for: pages of all sequences and groups together */
    size_t n_words;             /* used by this step */
    int n_rows, n_out, n_alone;
    bool brief;   /* step_view's */
    bool all_out; /* out rows are all rows, in their order */
} step_table;

/* ---- CUDA graphs, one for each (key, rows, out rows, rows that stand alone, brief, all out) ---- */

#define CUDA_MAX_GRAPHS 64

typedef struct recorded {
    uint64_t key;
    int n_rows, n_out, n_alone;
    bool brief, all_out;
    cudaGraphExec_t exec; /* NULL: seen once, and then computed without */
    uint64_t last_use;
    size_t *buf_rows; /* rows of every buffer, in the list's order, as the recorded ops set them */
} recorded;

typedef enum step_state { STEP_EAGER = 0, STEP_RECORDING, STEP_REPLAYED } step_state;

/* ---- the ops of one row or two, gathered into one launch (gather.c) ---- */

enum { GATHER_SETS = 2, GATHER_STAGES = 5 };

typedef struct gather_set { /* where a pass over layers of some sizes hands values over */
    void *memory;
    int sizes[PASS_NOWHERE];
    int n_layers; /* that were told and not freed; 0: the set is free */
} gather_set;

typedef struct gathered {
    gather_set sets[GATHER_SETS];
    pass pass; /* n_ops 0: nothing is gathered */
    gather_set *set;
    int stage;             /* ops of the layer so far */
    pass_place from;       /* of the stream */
    cuda_buf *last;        /* where the last op's result would lie */
    pass_op *last_add;     /* whose result is in the stream */
    pass_op *loose;        /* a branch, the last op, which is not; or NULL */
    int n_layers, n_taken; /* known; those that a pass takes */
    int n_paired;          /* of them those that one of PASS_ROWS rows takes */
    int n_wide_caches;     /* with FP32 pages: no passes while there is one */
    bool refused;          /* the driver does not run all blocks at once: no passes any more */
} gathered;

/* ---- profile ---- */

#define CUDA_MAX_MARKS 4096

typedef struct mark {
    cudaEvent_t begin, end;
    int op;
} mark;

typedef struct cuda_backend {
    backend be; /* first: a backend * is this */
    cuda_lane lane;
    cudaStream_t stream;
    int device, arch;
    bool eager;
    char device_name[96];
    nib_gemm *gemm;

    cuda_buf *bufs;
    step_table table;
    recorded graphs[CUDA_MAX_GRAPHS];
    int n_graphs;
    uint64_t n_steps;
    step_state state;
    recorded *recording;

    const weight *head; /* the product with it gives logits */
    cuda_buf *lacking;  /* a residual stream that lacks ADDEND; NULL: none */
    act_view addend;
    struct {
        cuda_buf *out; /* whose norm waits for READER's product; NULL: none */
        const weight *reader;
        gemm_norm norm;
        size_t x_stride;
        bool gathers; /* of several rows, for a pass: nothing is left for the product by itself */
    } waiting;
    struct {
        cuda_buf *x; /* to which the product of A and W is still to be added; NULL: none */
        const cuda_buf *a;
        const cuda_weight *w;
    } unadded;
    struct {
        cuda_buf *q; /* whose making waits for its attention; NULL: none */
        cuda_buf *qkv;
        const attn_params *params;
        const cuda_cache *cache;
    } unmade;
    gathered gathered;

    /* scratch, grown when buffers and weights are made; never inside a step */
    size_t max_rows;
    float *wide; /* [max_rows, wide_cols] FP32: gate and up before their unit */
    size_t wide_cols, wide_bytes;
    void *partial;  /* of split attention */
    float *squares; /* of a norm between two products (gemm_spread): of GEMM_CHAIN_ROWS rows */
    size_t squares_bytes;
    void *flags; /* of FP4 products: nib_gemm_product.flags */
    float *mid;  /* [max_rows, mid_cols]: between a branch's two matrices */
    size_t mid_cols, mid_bytes;
    int n_thin;      /* weights with branches */
    void *workspace; /* of FP4 products */
    size_t workspace_bytes;
    size_t shapes[CUDA_MAX_SHAPES][2]; /* of FP4 products: rows, cols */
    int n_shapes;
    size_t shaped_rows; /* the workspace serves products of all shapes of so many rows */

    /* weights on their way; given back when the first step begins */
    struct feed *feed;
    struct cuda_weight *unread; /* whose tensor scales as packed are still to be read */
    void *staging;              /* one weight as stored */
    size_t staging_bytes;

    struct cuda_draws *draws;

    int failed; /* the first cudaError_t of the step */
    const char *failed_op;
    nib_status failed_status; /* of a library below */
    nib_error failed_words;

    bool profiling;
    mark *marks;
    int n_marks;
    op_profile *profile; /* rows by op */
} cuda_backend;

static inline cuda_backend *cuda_of(backend *be) {
    return (cuda_backend *)be;
}

/* Whether ops become part of their reader's launch: W4A4 rounds activations between them. */
static inline bool cuda_fuses(const cuda_backend *cb) {
    return cb->be.mode != COMPUTE_EXACT && cb->be.mode != COMPUTE_W4A4;
}

/* Whether W's product is one of the FP4 library's and nothing else. */
static inline bool cuda_is_bare(const cuda_weight *w) {
    return w->is_fp4 && w->thin.rank == 0;
}

/* Whether what a product reads is to be rounded now: W4A4 does it once, for again would move small blocks. */
static inline bool cuda_rounds(const cuda_backend *cb, const buf *a) {
    bool *rounded = &((cuda_buf *)(uintptr_t)a)->rounded;
    const bool now = cb->be.mode == COMPUTE_W4A4 && !*rounded;
    *rounded = *rounded || now;
    return now;
}

/* ---- errors.c: CUDA's as ours ---- */
nib_status cuda_fail(nib_error *err, int code, const char *what);
#define CUDA_TRY(call, err, what)                                                                            \
    do {                                                                                                     \
        int cuda_try_ = (int)(call);                                                                         \
        if (cuda_try_ != cudaSuccess)                                                                        \
            return cuda_fail(err, cuda_try_, what);                                                          \
    } while (0)

/* Device memory; NIB_NO_MEMORY in numbers. Zeroed. */
nib_status cuda_alloc(cuda_backend *cb, void **out, size_t bytes, const char *what, nib_error *err);

/* ---- memory.c ---- */
nib_status memory_reserve(cuda_backend *cb, nib_error *err); /* scratch for max_rows and all weights so far */
nib_status memory_know_shape(cuda_backend *cb, size_t rows, size_t cols,
                             nib_error *err);                               /* of FP4 products */
nib_status memory_know_thin(cuda_backend *cb, size_t rank, nib_error *err); /* of one more weight */
void memory_set(backend *be); /* buf_*, vec_*, cache_*, memory_free */
void memory_release(cuda_backend *cb);

/* ---- upload.c: weights ---- */
void upload_set(backend *be);
void upload_settle(cuda_backend *cb); /* waits for all weights; what fails is told by the next step_wait */
void upload_release(cuda_backend *cb);

/* ---- feed.c: bytes from files to the device ---- */
typedef struct feed feed;
/* SRC [bytes] of the host to DST, behind all that was pushed before. SRC is read until feed_finish; what
 * fails, here or there, may be an earlier piece, and lets all go that are on their way. */
nib_status feed_push(cuda_backend *cb, void *dst, const void *src, size_t bytes, nib_error *err);
/* Behind the last piece pushed: SOURCE, its tensor scale being TENSOR_SCALE, becomes PACKED. */
nib_status feed_pack(cuda_backend *cb, nib_gemm_weight *packed, const nib_gemm_source *source,
                     float tensor_scale, nib_error *err);
nib_status feed_finish(cuda_backend *cb, nib_error *err); /* all pieces are there, and packed */
void feed_close(cuda_backend *cb);

/* ---- thin.c: low-rank branches ---- */
nib_status thin_pack(cuda_backend *cb, cuda_weight *w, const tensor *const *parts, nib_error *err);
void thin_free(cuda_backend *cb, cuda_weight *w);
/* Around W's product with A: first down A, then OUT [rows of A, stride] += up of that. */
int thin_begin(cuda_backend *cb, const cuda_buf *a, const cuda_weight *w);
int thin_add(cuda_backend *cb, float *out, size_t stride, int rows, const cuda_weight *w);

/* ---- step.c ---- */
void step_set(backend *be);
nib_status step_reserve(cuda_backend *cb, size_t rows, size_t pages, nib_error *err);
void step_forget_graphs(cuda_backend *cb);
void step_release(cuda_backend *cb);
void step_launch_recorded(
    cuda_backend *cb); /* ends a recording and launches it; nothing else happens twice */
step_view step_view_of(const cuda_backend *cb, int group);
/* Around the launches of an op: what they return goes to step_end. */
void step_op(cuda_backend *cb, int op);
void step_end(cuda_backend *cb, int op, int code, uint64_t bytes);

/* ---- opcalls.c ---- */
void opcalls_set(backend *be);
void opcalls_settle(cuda_backend *cb); /* launches what waits for its reader: a sum, a norm, queries */
enum {
    CALL_EMBED = 0,
    CALL_RMSNORM,
    CALL_RMSNORM_OUT,
    CALL_RMSNORM_ADD,
    CALL_MATMUL,
    CALL_MATMUL_ADD,
    CALL_MATMUL_GLU,
    CALL_QKV,
    CALL_ATTENTION,
    CALL_SUM_SQUARES,
    CALL_SAMPLE,
    CALL_LAYERS, /* a pass: many ops */
    CALL_SOFTCAP,
    CALL_COUNT
};
extern const char *const opcalls_names[CALL_COUNT];

/* ---- gather.c ---- */
nib_status gather_new(cuda_backend *cb, nib_error *err);
void gather_release(cuda_backend *cb);
void gather_know(backend *be, const layer_parts *l);        /* decides whether passes take the layer */
void gather_forget(cuda_backend *cb, const cuda_weight *w); /* W is freed */
void gather_launch(cuda_backend *cb);                       /* what was gathered */
/* Whether a pass takes, as far as can be known, the product with READER of the norm of X. */
bool gather_awaits(const cuda_backend *cb, const cuda_buf *x, const weight *reader);
/* The op becomes part of the pass; false: it does not. NORMED and GATED: of the norm that waited. */
bool gather_normed(cuda_backend *cb, cuda_buf *out, const weight *w, const vec *bias);
bool gather_attend(cuda_backend *cb, cuda_buf *out, cuda_buf *qkv, const attn_view *view, const kv_view *kv,
                   const step_view *step);
bool gather_add(cuda_backend *cb, cuda_buf *stream, cuda_buf *a, const weight *w, const vec *bias);
bool gather_branch(cuda_backend *cb, cuda_buf *out, cuda_buf *a, const weight *w, const vec *bias);
bool gather_join(cuda_backend *cb, cuda_buf *stream, cuda_buf *branch, const float *norm, float eps);
bool gather_gated(cuda_backend *cb, cuda_buf *out, const weight *w, bool gelu);

/* The format of an activation that READER's product reads, ROWS rows of it. */
act_format opcalls_format(const cuda_backend *cb, const weight *reader, size_t rows);
act_view opcalls_view(const cuda_buf *b);                                       /* as its writer left it */
act_view opcalls_destination(cuda_backend *cb, buf *out, const weight *reader); /* OUT as READER wants it */
/* Of few rows, what would be FP8 becomes BF16 where its writer can leave that at once: a scale needs whole
 * rows, and a launch for it costs more than its reader gains. */
bool opcalls_stay_bf16(const cuda_backend *cb, buf *out, const weight *reader);
void opcalls_begin(cuda_backend *cb, int op); /* settles what waits, then step_op */

static inline size_t row_bytes(const buf *b) {
    return b->rows * b->cols * 4;
}

static inline const float *f32(const vec *v) {
    return v ? ((const cuda_vec *)v)->data : NULL;
}

/* ---- attend.c ---- */
void attend_set(backend *be);
void attend_settle(cuda_backend *cb); /* makes queries that wait for attention */
attn_view attend_view(const attn_params *p);

/* ---- cuda.c ---- */
void cuda_describe(cuda_backend *cb); /* what computes, for people */

#endif
