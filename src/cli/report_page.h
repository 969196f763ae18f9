/* SPDX-License-Identifier: Apache-2.0
 *
 * The page of `nibble report`: one HTML document that needs nothing else, with plots as SVG, for a screen in
 * light or dark and for paper.
 */
#ifndef CLI_REPORT_PAGE_H
#define CLI_REPORT_PAGE_H

#include <stdio.h>

#include "cli/findings.h"
#include "eval/survey.h"
#include "tune/outputs.h"

#define REPORT_MAX_EVALS 64

/* One result of `nibble eval --json`. */
typedef struct report_eval {
    char name[96]; /* the model's file, and what it was computed with */
    double ppl, ppl_error;
    double kld, kld_error, ppl_base, same_top; /* NAN where it was perplexity alone */
} report_eval;

typedef struct report_page {
    const model_file *file, *source; /* source: NULL, or what was compared with */
    const findings *counted;
    const survey *survey;
    const outputs_pair *outputs; /* [survey->n], or NULL: no text was given */
    const report_eval *evals;
    size_t n_evals;
} report_page;

/* Relative error of matrix I against the source's, of weights and of outputs: NAN where there is none. */
double report_page_weights_error(const report_page *p, size_t i);
double report_page_outputs_error(const report_page *p, size_t i);

void report_page_write(FILE *out, const report_page *p);

/* TEXT with what HTML takes for marks written out. */
void report_page_text(FILE *out, const char *text);

#endif
