/* SPDX-License-Identifier: Apache-2.0
 *
 * Sample: one token from one row of logits, as nouns/sampling.h says.
 */
#ifndef CPU_SAMPLE_H
#define CPU_SAMPLE_H

#include "cpu/queue.h"

size_t sample_scratch_bytes(size_t vocab);

/* LOGITS [vocab]; SCRATCH sample_scratch_bytes(vocab), 64-byte aligned, its content of no matter. */
void sample_pick(sampled *out, const float *logits, size_t vocab, const sample_row *how, void *scratch);

/* The op: see ops.h. A unit is a row. */
void sample_tokens(backend *be, sampled *out, const buf *logits, const sample_row *rows);

#endif
