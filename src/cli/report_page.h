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

#define REPORT_MAX_EVALS  64
#define REPORT_MAX_SPEEDS 64
#define REPORT_NAME       96

/* One result of `nibble eval --json`. */
typedef struct report_eval {
    char name[REPORT_NAME]; /* the model's file, and what it was computed with */
    double ppl, ppl_error;
    double kld, kld_error, ppl_base, same_top; /* NAN where it was perplexity alone */
} report_eval;

/* One test of `nibble bench -o json`. */
typedef struct report_speed {
    char name[REPORT_NAME], test[48];
    int threads;
    double tokens_per_s, deviation, gb_per_s, percent; /* of the readable bandwidth */
} report_speed;

typedef struct report_page {
    const model_file *file, *source; /* source: NULL, or what was compared with */
    const findings *counted;
    const survey *survey;
    const outputs_pair *outputs; /* [survey->n], or NULL: no text was given */
    const double *costs;         /* [survey->n] KLD of a matrix's part alone, NAN: none; or NULL: no plan */
    const report_eval *evals;
    size_t n_evals;
    const report_speed *speeds;
    size_t n_speeds;
} report_page;

void report_page_write(FILE *out, const report_page *p);
/* Of how many matrices the outputs are no numbers (NaN, infinite), in one of the two networks. */
size_t report_page_lost(const report_page *p);

/* TEXT with what HTML takes for marks written out. */
void report_page_text(FILE *out, const char *text);

#endif
