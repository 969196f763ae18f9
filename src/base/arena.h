/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory with one lifetime: many small pieces, freed together.
 */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stddef.h>

typedef struct arena {
    struct arena_block *head;
} arena; /* zero-initialize */

void *arena_alloc(arena *a, size_t n, size_t size);     /* zeroed, 16-byte aligned; NULL on failure */
char *arena_text(arena *a, const char *text, size_t n); /* n bytes and a NUL */
char *arena_format(arena *a, const char *format, ...) __attribute__((format(printf, 2, 3)));
void arena_free(arena *a);

#endif
