/* SPDX-License-Identifier: Apache-2.0
 *
 * Meters: what happened, in Prometheus' text format and under vLLM's names (and some of llama.cpp's), so that
 * their dashboards work. Any thread may count.
 */
#ifndef SERVE_METERS_H
#define SERVE_METERS_H

#include "serve/buf.h"
#include "serve/server.h"

typedef enum meter {
    METER_TTFT = 0, /* seconds, as all down to DECODE */
    METER_ITL,
    METER_TPOT,
    METER_E2E,
    METER_QUEUE,
    METER_INFERENCE,
    METER_PREFILL,
    METER_DECODE,
    METER_PROMPT_TOKENS,
    METER_GENERATION_TOKENS,
    METER_LONGEST,         /* tokens of the longest answer to a request */
    METER_COMPUTED_TOKENS, /* of prompts, not found in the prefix cache */
    METER_N,
    METER_MAX_TOKENS,
    METER_HISTOGRAMS
} meter;

typedef enum meter_end { METER_STOP = 0, METER_LENGTH, METER_ABORT, METER_ERROR, METER_ENDS } meter_end;

typedef struct meters meters;

nib_status meters_open(meters **out, nib_error *err);
void meters_close(meters *m); /* NULL is fine */
void meters_observe(meters *m, meter which, double value);
void meters_count_end(meters *m, meter_end how);
void meters_count_status(meters *m, int http_status);
void meters_write(meters *m, server *s, buf *out);

#endif
