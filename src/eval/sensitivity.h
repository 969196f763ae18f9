/* SPDX-License-Identifier: Apache-2.0
 *
 * Sensitivity: what each part of a network does to its predictions when that part alone is stored in NVFP4:
 * the mean KL divergence from the network as it is, over the windows of a text. A part is the matrices that
 * other engines join into one (q, k and v; gate and up), or one matrix (o; down). Caller: cli plan.
 */
#ifndef EVAL_SENSITIVITY_H
#define EVAL_SENSITIVITY_H

#include "eval/eval.h"
#include "quant/scale_search.h"

#define SENSITIVITY_MATRICES 3

typedef struct sensitivity_part {
    const tensor *matrices[SENSITIVITY_MATRICES]; /* [n] of the file's list */
    int n, layer;
    bool mlp; /* else of the attention half */
    uint64_t elements;
    double kld;                    /* of NVFP4 */
    double error4, error5, error8; /* sum of E[x_j^2] (w - w^)^2 of NVFP4, of Q5_0, of 8 bits */
} sensitivity_part;

typedef struct sensitivity {
    sensitivity_part *parts; /* [n], by layer; freed with sensitivity_free */
    size_t n;
    double kld_all; /* with all parts in NVFP4 */
    double seconds;
} sensitivity;

typedef struct sensitivity_options {
    const importance *heed; /* E[x^2]; NULL: codes by sweep, errors unweighted */
    const eval_text *text;
    bool apart;       /* every matrix is a part of its own */
    const char *base; /* a file for the network's own distributions: it is written over */
    /* What has more bits than NVFP4: Q5_0 and Q8_0 (columns are a multiple of 64), or FP8 under a scale per
     * tensor (of 16); other matrices are passed over. */
    bool to_gguf;
    eval_options eval;
} sensitivity_options;

/* M is FILE's network, computed exactly, and is so again at the end; after a failure it can only be closed.
 */
nib_status sensitivity_measure(sensitivity *out, model *m, const model_file *file,
                               const sensitivity_options *options, nib_error *err);
void sensitivity_free(sensitivity *s);

#endif
