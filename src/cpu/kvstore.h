/* SPDX-License-Identifier: Apache-2.0
 *
 * What feeds attention: per-head norms, rotary positions, keys and values into their pages. See ops.h.
 */
#ifndef CPU_KVSTORE_H
#define CPU_KVSTORE_H

#include "cpu/queue.h"

void kvstore_qk_norm_rope_store(backend *be, buf *q, const buf *qkv, const attn_params *p, cache *c);
size_t kvstore_scratch_bytes(size_t head_dim);

#endif
