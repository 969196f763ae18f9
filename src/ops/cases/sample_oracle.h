/* SPDX-License-Identifier: Apache-2.0
 *
 * The op `sample` as nouns/sampling.h tells it, in FP64 over the whole sorted vocabulary: what every
 * backend's is compared with, and what a backend of plain loops takes as its own. Golden draws hold it
 * (tests/unit/ops/golden_draws.h).
 */
#ifndef OPS_SAMPLE_ORACLE_H
#define OPS_SAMPLE_ORACLE_H

#include <stddef.h>

#include "nouns/sampling.h"

/* One row: LOGITS [n]. Ends the program without memory (a test's few megabytes). */
void sample_oracle(sampled *out, const float *logits, size_t n, const sample_row *how);

#endif
