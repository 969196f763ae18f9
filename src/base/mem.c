/* SPDX-License-Identifier: Apache-2.0
 *
 * The heap, with the hook that lets a test fail any allocation. mem_free is plain free, so memory may be
 * handed to libraries that free it themselves.
 */
#include "base/mem.h"

#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define LARGE_PAGE ((size_t)2 << 20)

static atomic_long allocations_left = -1; /* -1: the hook is off; 0: every allocation fails */

static bool must_fail(void) {
    long left = atomic_load_explicit(&allocations_left, memory_order_relaxed);
    while (left > 0)
        if (atomic_compare_exchange_weak(&allocations_left, &left, left - 1))
            return false;
    return left == 0;
}

void mem_fail_after(long n) {
    atomic_store(&allocations_left, n < 0 ? -1 : n);
}

bool mem_mul(size_t a, size_t b, size_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

bool mem_add(size_t a, size_t b, size_t *out) {
    return !__builtin_add_overflow(a, b, out);
}

void *mem_alloc(size_t bytes) {
    return must_fail() ? NULL : malloc(bytes ? bytes : 1);
}

void *mem_array(size_t n, size_t size) {
    size_t bytes;
    if (must_fail() || !mem_mul(n, size, &bytes))
        return NULL;
    return calloc(1, bytes ? bytes : 1);
}

void *mem_resize(void *p, size_t n, size_t size) {
    size_t bytes;
    if (must_fail() || !mem_mul(n, size, &bytes))
        return NULL;
    return realloc(p, bytes ? bytes : 1);
}

void *mem_aligned(size_t bytes) {
    size_t padded;
    if (must_fail() || !mem_add(bytes ? bytes : 1, 63, &padded))
        return NULL;
    return aligned_alloc(64, padded & ~(size_t)63);
}

void *mem_large(void **memory, size_t bytes) {
    const size_t align = bytes < LARGE_PAGE ? 64 : LARGE_PAGE;
    size_t room;
    if (!mem_add(bytes, 2 * align, &room) || !(*memory = mem_array(room, 1)))
        return NULL;
    const size_t whole = (bytes + align - 1) / align * align;
    uint8_t *p = (uint8_t *)*memory + (align - (uintptr_t)*memory % align) % align;
    if (align == LARGE_PAGE) /* a system without them only takes longer */
        madvise(p, whole, MADV_HUGEPAGE);
    return p;
}

char *mem_copy_text(const char *text, size_t n) {
    size_t bytes;
    char *copy = mem_add(n, 1, &bytes) ? mem_alloc(bytes) : NULL;
    if (!copy)
        return NULL;
    if (n)
        memcpy(copy, text, n);
    copy[n] = '\0';
    return copy;
}

void mem_free(void *p) {
    free(p);
}

size_t mem_available(void) {
    unsigned long long kib = 0;
    char line[128];
    FILE *file = fopen("/proc/meminfo", "re");
    while (file && kib == 0 && fgets(line, sizeof line, file))
        (void)sscanf(line, "MemAvailable: %llu kB", &kib);
    if (file)
        fclose(file);
    return kib && kib < SIZE_MAX / 1024 ? (size_t)kib * 1024 : SIZE_MAX;
}
