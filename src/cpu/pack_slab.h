/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory of packed weights: slabs on large pages that weights share, in the order they are packed. Reading
 * weights is a walk through all of them; on small pages a quarter of the time goes to finding the pages.
 * A slab is freed with the last weight in it. Any thread may call.
 */
#ifndef CPU_PACK_SLAB_H
#define CPU_PACK_SLAB_H

#include <stddef.h>
#include <stdint.h>

typedef struct pack_slab pack_slab;

/* BYTES, uninitialized, 64-byte aligned, in *slab; NULL when there is no memory. */
uint8_t *pack_slab_take(pack_slab **slab, size_t bytes);
void pack_slab_release(pack_slab *slab); /* once per take; NULL is fine */

#endif
