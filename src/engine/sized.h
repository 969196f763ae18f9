/* SPDX-License-Identifier: Apache-2.0
 *
 * Structs that begin with their size, across a program and a library of different ages.
 */
#ifndef ENGINE_SIZED_H
#define ENGINE_SIZED_H

#include "base/status.h"

/* DST [bytes], the library's form, from the caller's SRC: what it does not have is zero, what only it has
 * must be. SRC NULL: all zero. NAME is the struct's, for words. */
nib_status sized_read(void *dst, size_t bytes, const void *src, const char *name, nib_error *err);

/* CALLER is a struct whose size is set. */
nib_status sized_check(const void *caller, const char *name, nib_error *err);

/* The caller's DST from SRC [bytes], which the library has filled: as much as fits; what only DST has becomes
 * zero. DST keeps its size. */
nib_status sized_write(void *dst, const void *src, size_t bytes, const char *name, nib_error *err);

#endif
