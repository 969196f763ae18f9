/* SPDX-License-Identifier: Apache-2.0
 *
 * The base's distributions in a file, so that many quantized models can be compared with one run of the base.
 *
 * A safetensors file:
 *   kld.vocab_bos_check  I32 [3]: tokens of the vocabulary; the BOS that begins a window (-1: none); a check
 *                        of these two and the windows
 *   kld.windows          I32 [n_chunks, n_ctx]: the text's ids
 *   kld.distributions    U8 [bytes]: a record per scored row; a window has n_ctx - 1 - n_ctx/2 of them
 *
 * A record, little-endian:
 *   u32 check (of the rest of the record), u32 n, i32 top (most probable id),
 *   f32 target_log_prob, f32 max_log_prob, f32 step, f32 tail, u16 gaps [n], u16 codes [n]
 *
 * Kept are the most probable tokens, so many that the others together have probability TAIL <= 1e-4; ids
 * ascend, id[i] = id[i-1] + 1 + gaps[i] (id[-1] = -1; a token more is kept where a gap would not fit);
 * ln p = max_log_prob - step * code. The divergence treats the tail as one event, which can only make it
 * smaller, by at most TAIL times the divergence within the tail. A full-precision row of a 262,144-token
 * vocabulary has 1 MiB; a record has some tens of KiB. The check is FNV-1a over 32-bit words (a last odd
 * half-word is taken as a word).
 */
#ifndef EVAL_KLDFILE_H
#define EVAL_KLDFILE_H

#include "eval/eval.h"
#include "eval/softmax.h"

typedef struct kldfile_writer kldfile_writer;
/* Up to MAX_ROWS rows are encoded (each by any thread), then written in order. */
nib_status kldfile_create(kldfile_writer **out, const char *path, const eval_text *text, int32_t vocab,
                          int max_rows, nib_error *err);
void kldfile_encode(kldfile_writer *w, int i, const float *x, const softmax_row *row, int32_t target);
nib_status kldfile_write(kldfile_writer *w, int n_rows, nib_error *err);
nib_status kldfile_commit(kldfile_writer *w, nib_error *err); /* frees W */
void kldfile_abandon(kldfile_writer *w);

typedef struct kldfile_record {
    uint32_t n;
    int32_t top;
    double target_log_prob, max_log_prob, step, tail;
    const unsigned char *gaps, *codes; /* u16 [n], in the mapped file */
} kldfile_record;

typedef struct kldfile_reader kldfile_reader;
nib_status kldfile_open(kldfile_reader **out, const char *path, nib_error *err);
/* The same windows (or the first of them), the same vocabulary. */
nib_status kldfile_match(const kldfile_reader *f, const eval_text *text, int32_t vocab, nib_error *err);
int32_t kldfile_vocab(const kldfile_reader *f);
nib_status kldfile_next(kldfile_reader *f, kldfile_record *out, nib_error *err);
double kldfile_kl(const kldfile_record *r, const float *x, const softmax_row *row);
void kldfile_close(kldfile_reader *f);

/* Whether the file at PATH begins like one of these. */
bool kldfile_is(const char *path);

#endif
