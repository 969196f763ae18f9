/* SPDX-License-Identifier: Apache-2.0
 *
 * The plots of the report's page, as SVG elements. Each has a title that says its numbers to who points at it
 * or hears the page.
 */
#ifndef CLI_REPORT_PLOTS_H
#define CLI_REPORT_PLOTS_H

#include "cli/report_page.h"

/* Mean KLD of each result that has one. */
void report_plots_bars(FILE *out, const report_eval *evals, size_t n);
/* What a map shows of a matrix, and how its numbers are written: in cells, and at the legend's ends. */
typedef struct report_map {
    const char *label;
    double (*value)(const report_page *p, size_t i); /* NAN: nothing; INFINITY: no number came out */
    double factor;
    int digits, legend_digits;
    const char *unit, *legend_unit;
} report_map;

/* Kinds of linear layers by layers. */
void report_plots_map(FILE *out, const report_page *p, const report_map *map);
/* E2M1 codes of all FP4 matrices, by value. */
void report_plots_codes(FILE *out, const survey *s);
/* A histogram of block scales for each kind of matrix. */
void report_plots_scales(FILE *out, const survey *s);

#endif
