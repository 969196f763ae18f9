/* SPDX-License-Identifier: Apache-2.0
 *
 * Moments: what the choice of codes at a site needs to know of its inputs: H = E[x x^T], and where the
 * source's own activations walk along, how far x and the residual stream have come from them. Caller: tune.c.
 */
#ifndef TUNE_MOMENTS_H
#define TUNE_MOMENTS_H

#include "quant/gptq.h"
#include "tune/gram.h"
#include "tune/walk.h"

/* Of the calibration's windows, or of those held out. */
typedef struct moments {
    gram h;         /* of x with itself */
    gram c, r;      /* with x: of d, the source's x - x; of r, the source's residual stream - ours */
    gptq_pull pull; /* c and r */
    bool pulls;     /* c is there */
    /* of those held out: what is lost before anything is chosen (gptq_lost) */
    gram d, across;  /* of d with itself, of r with d */
    double *squares; /* [dim] E[r^2]; NULL as r is */
} moments;

typedef struct moments_job {
    moments *train, *test; /* zeroed */
    walk *now, *source;    /* source NULL: H alone */
    const hparams *hp;
    pool *team;
    walk_site at;
    int layer;
    size_t cols;                                       /* of the site's inputs */
    nib_status (*tick)(void *context, nib_error *err); /* called once a batch */
    void *context;
} moments_job;

nib_status moments_gather(const moments_job *job, nib_error *err);
void moments_close(moments *m); /* safe on zeroed moments */

#endif
