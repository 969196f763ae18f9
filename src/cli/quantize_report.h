/* SPDX-License-Identifier: Apache-2.0
 *
 * What `nibble quantize` says at its end, as a text or as JSON. Caller: cmd_quantize.
 */
#ifndef CLI_QUANTIZE_REPORT_H
#define CLI_QUANTIZE_REPORT_H

#include "cli/own_answers.h"
#include "cli/plan.h"
#include "cli/tuned.h"

typedef struct quantize_report {
    const char *in, *out;
    const char *plan_path; /* read or written; NULL: none */
    const char *format;
    const char *method;       /* what chose the codes */
    const char *asked;        /* the method that was asked for; NULL: auto */
    const char *sweep_note;   /* why auto took sweep, or NULL */
    const char *unasked_note; /* why the program's own questions were not answered, or NULL */
    bool fp8_exact, to_gguf;
    bool imatrix;     /* in place of a calibration: n_tokens are what it was made of */
    size_t n_tokens;  /* of the calibration */
    own_answered own; /* its questions */
    double calibrate_s, convert_s;
    const tuned *tuned;
    const tuned_smoothed *smoothed;
    const plan *plan;
    uint64_t size; /* that was asked for; 0: none */
    const convert_report *done;
} quantize_report;

nib_status quantize_report_print(const quantize_report *r, bool json, nib_error *err);

#endif
