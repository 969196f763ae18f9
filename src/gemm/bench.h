/* SPDX-License-Identifier: Apache-2.0
 *
 * Times of products on the GPU beside cuBLASLt's on the same shape: weights cold in L2 (copies in turn),
 * launches in a CUDA graph, medians of its replays. Without CUDA there is one function, which says so.
 */
#ifndef GEMM_BENCH_H
#define GEMM_BENCH_H

#include "gemm/gemm.h"

typedef enum bench_kind {
    BENCH_W4A16 = 0,
    BENCH_W4A8, /* activations BF16, quantized inside the time */
    BENCH_AUTO,
    BENCH_CUBLAS_BF16,
    BENCH_CUBLAS_FP8,       /* E4M3 weights and activations, one scale each; without quantization */
    BENCH_CUBLAS_FP8_TOKEN, /* the same with a scale per token and per weight row */
    BENCH_KINDS
} bench_kind;

typedef struct bench_row {
    size_t m, n, k;
    double us[BENCH_KINDS]; /* 0: there is none on this GPU */
} bench_row;

typedef struct bench_device {
    char name[64];
    int arch, n_sms;
    double read_tb_s; /* plain reads of 4 GiB, in this run */
} bench_device;

typedef struct bench bench;

nib_status bench_open(int device, bench **out, bench_device *facts, nib_error *err);
void bench_close(bench *b);
/* KINDS: a mask of 1 << bench_kind. */
nib_status bench_shape(bench *b, size_t m, size_t n, size_t k, unsigned kinds, bench_row *row,
                       nib_error *err);

/* TOKENS that each go to TOP of EXPERTS experts [n, k] (a fixed hash, another choice every launch); BYTES: of
 * the weights of the experts touched, mean over the launches. US: with offsets that the kernel before may
 * have written, STAND_US: with such as stood before it (nib_gemm_group). */
nib_status bench_experts(bench *b, size_t experts, size_t top, size_t tokens, size_t n, size_t k, double *us,
                         double *stand_us, double *bytes, nib_error *err);

/* The quantizer rtn on BF16 values [rows, cols] beside a copy of them: US and the bytes that each moves. */
typedef struct bench_pass {
    double us, bytes;
} bench_pass;
typedef struct bench_quantizer {
    bench_pass copy, given, sought; /* the tensor's scale given; amax sought first */
} bench_quantizer;
nib_status bench_quantize(bench *b, size_t rows, size_t cols, bench_quantizer *out, nib_error *err);

/* Hopper: the product alone, on prepared activations, or WHOLE, with their preparation, by the tiles and ways
 * to share K that may be the fastest. K_SLICES: blocks of a cluster, 1 for whole tiles, 0 for cut ones; US 0
 * for the other forms. CHOSEN: by gemm_choose. */
#define BENCH_TILES 23
typedef struct bench_tile {
    int tile_tokens, tile_rows, k_slices;
    bool chosen;
    double us;
} bench_tile;
nib_status bench_tiles(bench *b, size_t m, size_t n, size_t k, nib_gemm_mode mode, bool whole,
                       bench_tile rows[BENCH_TILES], nib_error *err);

#endif
