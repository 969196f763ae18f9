/* SPDX-License-Identifier: Apache-2.0
 *
 * Slabs: taken from front to back, one open at a time. What is left of a slab that the next weight does not
 * fit into is never touched, so it is not resident.
 */
#include "cpu/pack_slab.h"

#include <pthread.h>

#include "base/mem.h"

#define SLAB_BYTES ((size_t)32 << 20)

struct pack_slab {
    void *memory;  /* as allocated */
    uint8_t *next; /* the rest begins here, on a line */
    size_t left;
    size_t users;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pack_slab *current; /* the slab that is open; it has users */

static pack_slab *slab_new(size_t bytes) {
    pack_slab *s = mem_array(1, sizeof *s);
    if (!s)
        return NULL;
    s->left = bytes > SLAB_BYTES ? bytes : SLAB_BYTES;
    s->next = mem_large(&s->memory, s->left);
    if (!s->next) {
        mem_free(s);
        return NULL;
    }
    return s;
}

uint8_t *pack_slab_take(pack_slab **slab, size_t bytes) {
    size_t padded;
    if (!mem_add(bytes, 63, &padded))
        return NULL;
    padded &= ~(size_t)63;
    pthread_mutex_lock(&lock);
    pack_slab *s = current && current->left >= padded ? current : slab_new(padded);
    uint8_t *p = s ? s->next : NULL;
    if (s) {
        s->next += padded;
        s->left -= padded;
        s->users++;
        current = s;
        *slab = s;
    }
    pthread_mutex_unlock(&lock);
    return p;
}

void pack_slab_release(pack_slab *slab) {
    if (!slab)
        return;
    pthread_mutex_lock(&lock);
    bool last = --slab->users == 0;
    if (last && slab == current)
        current = NULL;
    pthread_mutex_unlock(&lock);
    if (last) {
        mem_free(slab->memory);
        mem_free(slab);
    }
}
