/* SPDX-License-Identifier: Apache-2.0
 *
 * Attention over the KV pages. See ops.h.
 */
#ifndef CPU_ATTENTION_H
#define CPU_ATTENTION_H

#include "cpu/queue.h"

void attention_attend(backend *be, buf *out, const buf *q, const attn_params *p, cache *c,
                      const weight *reader);
size_t attention_scratch_bytes(size_t head_dim);

#endif
