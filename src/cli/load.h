/* SPDX-License-Identifier: Apache-2.0
 *
 * Load: several answers being written while a long prompt arrives, as on a server: how long the answers wait
 * from token to token, and the prompt for its first. A client of nibble.h.
 */
#ifndef CLI_LOAD_H
#define CLI_LOAD_H

#include "nibble.h"

typedef struct load_test {
    int n_streams;
    int n_prompt;       /* tokens of the long prompt; 0: as many as fit, at most LOAD_PROMPT */
    int prefill_beside; /* as in nib_options */
} load_test;

#define LOAD_MAX_STREAMS 256
#define LOAD_PROMPT      3400

/* Milliseconds from one token of an answer to the next, over all answers. */
typedef struct load_gaps {
    double median, p99, max;
    int n;
} load_gaps;

typedef struct load_result {
    load_gaps alone, beside; /* before the prompt was submitted; from then to its first token */
    int n_prompt;
    double first_token_ms; /* the prompt's */
} load_result;

/* Opens MODEL with COMPUTE and one sequence more than there are streams. NIB_CANCELLED: Ctrl-C. */
nib_status load_run(const char *model, const nib_options *compute, const load_test *test, load_result *out,
                    nib_error *err);

#endif
