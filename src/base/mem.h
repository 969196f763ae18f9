/* SPDX-License-Identifier: Apache-2.0
 *
 * All heap memory of the library comes from here, so that a test can let any allocation fail
 * (mem_fail_after). Every call returns NULL on failure or when n * size wraps.
 */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stdbool.h>
#include <stddef.h>

void *mem_alloc(size_t bytes);                    /* uninitialized; freed with mem_free */
void *mem_array(size_t n, size_t size);           /* zeroed n * size bytes */
void *mem_resize(void *p, size_t n, size_t size); /* like realloc of n * size bytes */
void *mem_aligned(size_t bytes);                  /* uninitialized, 64-byte aligned; freed with mem_free */
/* Zeroed, in large pages where it fills one, else 64-byte aligned; *memory is what mem_free takes. */
void *mem_large(void **memory, size_t bytes);
char *mem_copy_text(const char *text, size_t n); /* n bytes and a NUL */
void mem_free(void *p);

bool mem_mul(size_t a, size_t b, size_t *out); /* false when the product wraps */
bool mem_add(size_t a, size_t b, size_t *out);

/* Bytes that the machine can give without swapping (Linux's MemAvailable); SIZE_MAX where it does not say. */
size_t mem_available(void);

/* Test hook: the N-th allocation from now fails, and all after it (N >= 0); -1 turns it off. */
void mem_fail_after(long n);

#endif
