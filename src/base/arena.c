/* SPDX-License-Identifier: Apache-2.0
 *
 * A chain of blocks; a piece larger than a quarter of a block gets a block of its own behind the head, so
 * the head's free room is not lost.
 */
#include "base/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"

#define BLOCK_BYTES ((size_t)65536)

struct arena_block {
    struct arena_block *next;
    size_t used, size;
    _Alignas(16) unsigned char bytes[];
};

static struct arena_block *block_new(size_t size) {
    size_t bytes;
    if (!mem_add(sizeof(struct arena_block), size, &bytes))
        return NULL;
    struct arena_block *b = mem_array(1, bytes);
    if (b)
        b->size = size;
    return b;
}

void *arena_alloc(arena *a, size_t n, size_t size) {
    size_t bytes;
    if (!mem_mul(n, size, &bytes) || bytes > SIZE_MAX - 15)
        return NULL;
    bytes = (bytes + 15) & ~(size_t)15;
    if (a->head && a->head->size - a->head->used >= bytes) {
        void *piece = a->head->bytes + a->head->used;
        a->head->used += bytes;
        return piece;
    }
    bool own = bytes > BLOCK_BYTES / 4;
    struct arena_block *b = block_new(own ? bytes : BLOCK_BYTES);
    if (!b)
        return NULL;
    b->used = bytes;
    if (own && a->head) {
        b->next = a->head->next;
        a->head->next = b;
    } else {
        b->next = a->head;
        a->head = b;
    }
    return b->bytes;
}

char *arena_text(arena *a, const char *text, size_t n) {
    size_t bytes;
    char *copy = mem_add(n, 1, &bytes) ? arena_alloc(a, bytes, 1) : NULL;
    if (copy && n)
        memcpy(copy, text, n);
    return copy;
}

char *arena_format(arena *a, const char *format, ...) {
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    char *text = n < 0 ? NULL : arena_alloc(a, (size_t)n + 1, 1);
    if (text)
        vsnprintf(text, (size_t)n + 1, format, again);
    va_end(again);
    return text;
}

void arena_free(arena *a) {
    for (struct arena_block *b = a->head, *next; b; b = next) {
        next = b->next;
        mem_free(b);
    }
    a->head = NULL;
}
