/* SPDX-License-Identifier: Apache-2.0
 *
 * Findings: what a model's file holds, counted: tensors by group and format, bits, its words, and what
 * running it takes. Callers: inspect, and its words as text and JSON.
 */
#ifndef CLI_FINDINGS_H
#define CLI_FINDINGS_H

#include "base/quote.h"
#include "store/model_file.h"
#include "text/chat.h"

typedef struct findings_group { /* tensors of one slot stored in one format */
    slot slot;
    const char *format;
    size_t rank; /* of low-rank branches beside them */
    size_t n_tensors;
    uint64_t elements, bytes;
    bool quantized;
} findings_group;

typedef struct findings {
    const model_file *f;
    findings_group *groups;
    size_t n_groups;
    uint64_t elements, bytes;             /* all tensors */
    uint64_t quant_elements, quant_bytes; /* those in block or 8-bit float formats */
    uint64_t linear_elements, linear_bytes;
    uint64_t run_bytes;      /* tensors of the network */
    size_t kv_bf16, kv_fp8;  /* bytes of one position in all layers */
    char computed[160];      /* which kernels compute which formats here; "": no network, or none does */
    tokenizer *words;        /* NULL: none */
    nib_error words_problem; /* why there is no tokenizer, when the file has one */
    chat *chat;              /* NULL: no template that can be used */
    nib_error chat_problem;  /* why */
} findings;

/* Its tensors alone. OUT is closed by findings_close, also after a failure. */
nib_status findings_count(findings *out, const model_file *f, nib_error *err);
/* All of it: a tokenizer of a kind that nibble does not know is told, a damaged one is a damaged file. F
 * stays open as long as OUT. */
nib_status findings_open(findings *out, const model_file *f, nib_error *err);
void findings_close(findings *r);

/* Bits per weight; 0 of no weights. */
double findings_bits(uint64_t bytes, uint64_t elements);
/* GGUF names the model; "" otherwise. */
quote_text findings_name(const model_file *f);
/* Extent of dimension D of T in elements, also where two are stored in a byte. */
size_t findings_extent(const tensor *t, int d);

#endif
