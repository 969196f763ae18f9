/* SPDX-License-Identifier: Apache-2.0
 *
 * Writes a safetensors file as a stream: declare every tensor, then give the bytes in the order declared. The
 * last one's size may come out only as it is written.
 * The header carries {"format":"pt"}, which transformers asks for. The file appears whole or not at all;
 * inside a base/outdir it appears in the temporary directory.
 */
#ifndef EXPORT_SAFETENSORS_WRITE_H
#define EXPORT_SAFETENSORS_WRITE_H

#include "base/status.h"
#include "num/dtype.h"

typedef struct safetensors_write safetensors_write;

nib_status safetensors_write_open(safetensors_write **out, const char *path, nib_error *err);
/* DIMS outermost first, n_dims 0..8; of DT_NVFP4 and DT_MXFP4 those of the bytes, [rows, cols / 2]. Problems
 * stick and are reported by begin: among them a tensor that would start at no multiple of its element size
 * (after a tensor of an odd number of bytes), which PyTorch refuses: declare wide types first. */
void safetensors_write_tensor(safetensors_write *w, const char *name, dtype type, int n_dims,
                              const size_t *dims);
/* Behind them a tensor U8 [n] of all the bytes that follow, however many: commit fills in how many. */
void safetensors_write_rest(safetensors_write *w, const char *name);
nib_status safetensors_write_begin(safetensors_write *w, nib_error *err);
nib_status safetensors_write_data(safetensors_write *w, const void *bytes, size_t n, nib_error *err);
/* Fails when a declared byte was not written. Frees W whatever happens. */
nib_status safetensors_write_commit(safetensors_write *w, uint64_t *file_bytes, nib_error *err);
void safetensors_write_abandon(safetensors_write *w); /* leaves no file; NULL is fine */

#endif
