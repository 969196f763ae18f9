/* SPDX-License-Identifier: Apache-2.0
 *
 * Imatrix: what the inputs of linear layers look like (input_stats) in a file of llama.cpp's format, which
 * its quantizer takes too: it reads the first two of each layer and ignores what else there is.
 *
 *   a GGUF file, general.type "imatrix"
 *   imatrix.datasets      strings: what was read
 *   imatrix.chunk_count   u32: windows of imatrix.chunk_size (u32) tokens at most
 *   NAME.in_sum2          F32 [1, cols] sums of x_j^2, NAME being a weight's in a GGUF file, with ".weight"
 *   NAME.counts           F32 [1, 1] rows that were added up; 0: the layer saw none
 * and of nibble, of each input beside the first weight that reads it:
 *   NAME.in_blocks        F32 [cols, 16] sums of x_i x_j, j of i's block
 *   NAME.in_peaks         F32 [1, 4] the largest |x|, and what 99, 99.9 and 99.99 % of them do not exceed
 *   NAME.out_peak         F32 [1, 1] beside k and v: the largest key as a cache stores it, or value
 *
 * Callers: cli calibrate, cli quantize.
 */
#ifndef EVAL_IMATRIX_H
#define EVAL_IMATRIX_H

#include "eval/input_stats.h"
#include "store/model_file.h"

typedef struct imatrix_about {
    const char *dataset; /* written: the text's name */
    size_t n_tokens;     /* read: the most rows of a layer */
    size_t n_windows;
    int chunk_size;   /* tokens of a window */
    size_t n_tensors; /* filled: written, or read and used */
    size_t n_unused;  /* filled by reading: of no linear layer of this network */
} imatrix_about;

/* The linear layers of FILE and its head, under "output.weight" where it is the embedding. */
nib_status imatrix_write(const input_stats *stats, const model_file *file, const char *path,
                         imatrix_about *about, nib_error *err);

/* OUT is freed with input_stats_free. Layers that the file leaves out have no entry. A file of another shape
 * of network, or without any of its layers, is refused, and so is what is no sum of products. */
nib_status imatrix_read(input_stats *out, const model_file *file, const char *path, imatrix_about *about,
                        nib_error *err);

/* How tensors' names end. */
#define IMATRIX_SUMS   ".in_sum2"
#define IMATRIX_COUNTS ".counts"
#define IMATRIX_BLOCKS ".in_blocks"
#define IMATRIX_PEAKS  ".in_peaks"
#define IMATRIX_OUT    ".out_peak"

/* What somebody needs of every linear layer, and for what, in sentences; NULL: not needed. */
typedef struct imatrix_needs {
    const char *blocks, *peaks, *keys;
    bool head; /* BLOCKS of the head's input, too */
} imatrix_needs;

/* NIB_BAD_ARGUMENT in words where S, read from PATH, lacks it. */
nib_status imatrix_check(const input_stats *s, const model_file *file, const char *path,
                         const imatrix_needs *needs, nib_error *err);

#endif
