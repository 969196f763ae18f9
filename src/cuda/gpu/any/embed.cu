/* SPDX-License-Identifier: Apache-2.0
 *
 * Token embeddings from a table in any stored format, and single rows of a weight for tests.
 *
 * One thread decodes 16 elements; a block of 128 threads covers 2,048 columns of one row. Bytes moved: the
 * rows as stored, 4 * cols out. Launch-bound at any batch size that decodes.
 */
#include "cuda/gpu/any/codec.cuh"
#include "gemm/gemm.h"
#include "gemm/word.h"

enum { THREADS = 128 };

/* Block G of 16 elements of ROW in the layout of gemm/gemm.h. */
static __device__ void decode_packed(const part_view &part, size_t row, size_t g, size_t cols, float *v) {
    row += part.packed_row;
    const size_t in_tile = row % 16, r = in_tile / 2 % 2, lane = 4 * (in_tile / 4 * 2 + in_tile % 2) + g % 4;
    const uint8_t *group =
        part.packed + (row / 16 * ((cols + GEMM_GROUP_K - 1) / GEMM_GROUP_K) + g / 8) * GEMM_GROUP_BYTES;
    const uint32_t *words = (const uint32_t *)(group + g % 8 / 4 * 512 + lane * 16);
    const float scale = from_e4m3(group[1024 + lane * 4 + g % 8 / 4 + 2 * r]);
    for (int half = 0; half < 2; half++) {
        uint32_t codes = gemm_word_unpack(words[2 * half + r]);
#pragma unroll
        for (int i = 0; i < 8; i++)
            v[8 * half + i] = e2m1_value(codes >> 4 * i) * scale * part.tensor_scale;
    }
}

/* Packed rows are one format more. */
enum { PACKED = DT_COUNT };

template <int T>
__device__ __forceinline__ void decode_part(const part_view &part, size_t row, size_t g, size_t cols,
                                            float *v) {
    if (T == PACKED)
        decode_packed(part, row, g, cols, v);
    else
        decode16<T == PACKED ? DT_NVFP4 : T>(part, row, g, cols, v);
}

template <int T>
static __global__ void embed_rows(float *out, size_t stride, part_view table, size_t cols, float scale,
                                  const int32_t *tokens) {
    pdl_wait();
    pdl_go();
    size_t g = blockIdx.x * (size_t)THREADS + threadIdx.x;
    if (16 * g >= cols)
        return;
    float v[16];
    decode_part<T>(table, tokens[blockIdx.y], g, cols, v);
    float *to = out + blockIdx.y * stride + 16 * g;
#pragma unroll
    for (int i = 0; i < 16; i++)
        if (16 * g + i < cols)
            to[i] = v[i] * scale;
}

template <int T> static __global__ void unpack_row(float *dst, part_view part, size_t cols, size_t row) {
    pdl_wait();
    size_t g = blockIdx.x * (size_t)THREADS + threadIdx.x;
    if (16 * g >= cols)
        return;
    float v[16];
    decode_part<T>(part, row, g, cols, v);
#pragma unroll
    for (int i = 0; i < 16; i++)
        if (16 * g + i < cols)
            dst[16 * g + i] = v[i];
}

static unsigned blocks_of(size_t cols) {
    return (unsigned)((cols + 16 * THREADS - 1) / (16 * THREADS));
}

extern "C" int embed_launch(const cuda_lane *lane, float *out, size_t stride, const weight_view *table,
                            float scale, const int32_t *tokens, int n_rows) {
    if (table->n_parts != 1 || stride < table->cols || n_rows < 0)
        return cudaErrorInvalidValue;
    dim3 grid(blocks_of(table->cols), (unsigned)n_rows);
#define EMBED(T)                                                                                             \
    return launch_kernel(lane, embed_rows<T>, grid, THREADS, 0, out, stride, table->parts[0], table->cols,   \
                         scale, tokens)
    if (table->parts[0].packed)
        EMBED(PACKED);
    CODEC_SWITCH(table->parts[0].type, EMBED)
}

extern "C" int embed_unpack_row(const cuda_lane *lane, float *dst, const weight_view *table, size_t row) {
    const part_view *part = table->parts;
    if (row >= table->rows)
        return cudaErrorInvalidValue;
    for (; row >= part->rows; part++)
        row -= part->rows;
#define UNPACK(T)                                                                                            \
    return launch_kernel(lane, unpack_row<T>, dim3(blocks_of(table->cols)), THREADS, 0, dst, *part,          \
                         table->cols, row)
    if (part->packed)
        UNPACK(PACKED);
    CODEC_SWITCH(part->type, UNPACK)
}
