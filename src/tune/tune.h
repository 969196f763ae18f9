/* SPDX-License-Identifier: Apache-2.0
 *
 * Tune: chooses codes and block scales (NVFP4, Q5_0) of a network's linear layers by what they do to its
 * activations, one layer after the other, each on inputs that have passed through the layers quantized before
 * it.
 *
 * Per layer: q, k, v on what they read; attention with the new ones; o; then gate and up; then down; each is
 * bound by the same look-up as a file's (model_file.stand_ins). In memory are the matrices of half a layer,
 * the second moments of one input, and the residual stream of the text, which lies on disk past a limit. What
 * is chosen goes into a journal beside the output: a killed run goes on where it was. The same input gives
 * the same bytes for any number of threads; processors with other vectors, or without FMA, add in another
 * order.
 *
 * For TUNE_BEST the source's own activations walk along, and each matrix aims at what the source's layer
 * gives, not at what it would itself give on inputs that have lost something already (quant/gptq.h,
 * gptq_pull).
 *
 * One text window in eight is held out: second moments of the others choose the codes, those of the held-out
 * ones choose between ways to choose them: how far H is shrunk toward its diagonal, and for TUNE_BEST how far
 * each matrix goes to meet the source and whether H's blocks, its diagonal or no H at all serve better.
 * Caller: cli quantize, through convert's hook.
 */
#ifndef TUNE_TUNE_H
#define TUNE_TUNE_H

#include <signal.h>

#include "base/progress.h"
#include "ops/ops.h"
#include "quant/gptq.h"
#include "store/model_file.h"

typedef enum tune_method {
    TUNE_GPTQ = 0, /* all of H, shrunk by what helps on held-out text */
    TUNE_BEST      /* the best of that, of its blocks, its diagonal and the sweep, tensor by tensor */
} tune_method;

typedef enum tune_way { TUNE_WAY_FULL = 0, TUNE_WAY_BLOCKS, TUNE_WAY_DIAGONAL, TUNE_WAY_SWEEP } tune_way;

/* A matrix to be quantized; cols a whole number of blocks. */
typedef struct tune_matrix {
    const tensor *t;               /* of the file's list */
    slot slot;                     /* t's, or SLOT_HEAD for a head made from the embedding */
    gptq_grid grid;                /* what it becomes */
    float tensor_scale;            /* NVFP4's */
    bool fp8_exact;                /* block scales of scale_search_is_fp8_exact only */
    size_t rank;                   /* of a low-rank branch to be made beside the codes; 0: none */
    const uint8_t *codes, *scales; /* filled, as gptq_codes has them; valid until tune_close */
    tensor_branch branch;          /* filled, likewise; its rows are T's */
    tune_way way;                  /* filled */
    double shrink, share; /* filled: TUNE_WAY_FULL: of H toward its diagonal; of the way to the source */
    /* filled: sum over rows of E((w (x + d) + r - w^ x)^2) on held-out x, what it would be without
     * quantization of this matrix, and with the sweep's; x + d are the source's inputs and r what its
     * residual stream has more. d and r are 0 without TUNE_BEST. */
    double error, lost, sweep_error;
} tune_matrix;

#define TUNE_WINDOW 512 /* tokens that see each other, at most */

typedef struct tune_options {
    tune_method method;
    /* Window w is ids [starts[w], starts[w + 1]): TUNE_WINDOW at most; starts [n_windows + 1]. */
    const int32_t *ids;
    const size_t *starts;
    size_t n_windows;    /* 2 at least */
    const float *counts; /* [n_windows] for how many like it a window counts; NULL: one each */
    int threads;
    size_t memory_bytes; /* activations beyond it lie on disk */
    const char *journal; /* path; what spills is beside it */
    progress progress;
    /* Told once where a stopped run's journal is gone on from: layers whose codes are all there. NULL: nobody
     * listens. */
    void (*goes_on)(void *context, int n_done, int n_layers);
    void *context;                            /* goes_on's */
    const volatile sig_atomic_t *interrupted; /* becomes non-zero: NIB_CANCELLED; may be NULL */
} tune_options;

typedef struct tune tune;

/* FILE has a network, BE computes exactly. MATRICES [n] live until close. On failure *out is NULL and the
 * journal stays. */
nib_status tune_run(tune **out, const model_file *file, backend *be, tune_matrix *matrices, size_t n,
                    const tune_options *options, nib_error *err);
void tune_close(tune *t, bool remove_journal); /* NULL is fine */

#endif
