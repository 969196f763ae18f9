/* SPDX-License-Identifier: Apache-2.0
 *
 * Results that other commands printed as JSON, read for the page of `nibble report`. What is none of them is
 * NIB_BAD_FILE.
 */
#ifndef CLI_REPORT_READ_H
#define CLI_REPORT_READ_H

#include "cli/report_page.h"

/* nibble eval --json. */
nib_status report_read_eval(report_eval *e, const char *path, nib_error *err);
/* nibble bench -o json: its rows behind the *N that SPEEDS [REPORT_MAX_SPEEDS] holds. */
nib_status report_read_speeds(report_speed *speeds, size_t *n, const char *path, nib_error *err);
/* quantize --save-plan: *costs [found->n], freed with mem_free, is the KLD that a matrix's part leaves alone;
 * NAN: the plan does not name it. One that names none of them is refused. */
nib_status report_read_plan(double **costs, const survey *found, const char *path, nib_error *err);

#endif
