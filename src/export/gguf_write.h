/* SPDX-License-Identifier: Apache-2.0
 *
 * Writes a GGUF v3 file as a stream: first metadata and tensor declarations, then the tensors' bytes in the
 * order declared. The file appears whole or not at all (base/outfile).
 *
 *   gguf_write_open; gguf_write_* keys and gguf_write_tensor in any order; gguf_write_begin;
 *   gguf_write_data for each tensor's bytes, in any cuts; gguf_write_commit
 *
 * Declarations cannot fail by themselves: the first problem sticks and gguf_write_begin reports it. Writing a
 * key again replaces its value in place; gguf_write_drop removes it. Names and values are copied.
 */
#ifndef EXPORT_GGUF_WRITE_H
#define EXPORT_GGUF_WRITE_H

#include "store/gguf.h"

typedef struct gguf_write gguf_write;

nib_status gguf_write_open(gguf_write **out, const char *path, nib_error *err);

void gguf_write_u32(gguf_write *w, const char *key, uint32_t value);
void gguf_write_i32(gguf_write *w, const char *key, int32_t value);
void gguf_write_u64(gguf_write *w, const char *key, uint64_t value);
void gguf_write_f32(gguf_write *w, const char *key, float value);
void gguf_write_bool(gguf_write *w, const char *key, bool value);
void gguf_write_text(gguf_write *w, const char *key, strview value);
/* Any scalar type; VALUE points to the number in host order. */
void gguf_write_scalar(gguf_write *w, const char *key, gguf_type type, const void *value);
/* N items of a scalar type, tightly packed in host order (bool: one byte each). */
void gguf_write_array(gguf_write *w, const char *key, gguf_type item_type, const void *items, size_t n);
void gguf_write_texts(gguf_write *w, const char *key, const strview *items, size_t n);
/* A parsed key, byte for byte. One file's keys, before any other is written: unlike what the others write, a
 * copied key is not looked for, because a file may hold tens of thousands and has each once. */
void gguf_write_copy(gguf_write *w, const gguf_key *key);
void gguf_write_drop(gguf_write *w, const char *key);

/* DIMS outermost first (as nouns/tensor.h), n_dims 0..4. */
void gguf_write_tensor(gguf_write *w, const char *name, dtype type, int n_dims, const size_t *dims);

nib_status gguf_write_begin(gguf_write *w, nib_error *err);
nib_status gguf_write_data(gguf_write *w, const void *bytes, size_t n, nib_error *err);
/* Fails when a declared byte was not written. Frees W whatever happens. */
nib_status gguf_write_commit(gguf_write *w, uint64_t *file_bytes, nib_error *err);
void gguf_write_abandon(gguf_write *w); /* leaves no file; NULL is fine */

#endif
