/* SPDX-License-Identifier: Apache-2.0
 *
 * Survey: what became of each matrix of a quantized file: its format, how often each block scale and each
 * 4-bit code stands in it, and how far its values are from those of a source. Caller: cli report.
 */
#ifndef EVAL_SURVEY_H
#define EVAL_SURVEY_H

#include "base/progress.h"
#include "nouns/row_order.h"
#include "store/model_file.h"

typedef struct survey_matrix {
    const tensor *t;
    uint64_t elements, bytes; /* bytes: of codes and scales */
    bool fp4;                 /* NVFP4 or MXFP4: the counts below are of it */
    bool mx;                  /* scales are E8M0, else E4M3 */
    uint64_t scales[256], codes[16];
    const tensor *of;   /* the source's, or NULL */
    row_order order;    /* of t's rows in it */
    double norm, error; /* sums of w^2 and (w - w^)^2 over the source's w */
} survey_matrix;

typedef struct survey {
    survey_matrix *matrices; /* [n] of places in the network, two dimensions; by layer, then by slot */
    size_t n;
} survey;

typedef struct survey_options {
    const model_file *source; /* NULL: nothing is compared. Containers may differ */
    int threads;
    progress progress;
} survey_options;

/* Freed with survey_free. A matrix whose shape is another in the source is refused. */
nib_status survey_make(survey *out, const model_file *file, const survey_options *options, nib_error *err);
void survey_free(survey *s);

#endif
