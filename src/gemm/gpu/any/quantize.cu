/* SPDX-License-Identifier: Apache-2.0
 *
 * NVFP4 of values in the plain layout or in scale tiles: a thread a block of 16, the next one's values on their way meanwhile.
 * For rtn a pass reads 2 or 4 bytes a value and writes 9/16. Without a given scale a pass over the values finds amax first.
 */
#include "gemm/gpu/quant.cuh"
#include "gemm/scale_tile.h"

#define GRID 1584 /* whole waves of 2, 4 or 6 blocks on each of 132 multiprocessors */
static_assert(GRID * 256u <= UINT32_MAX - GEMM_MOST_BLOCKS, "a block's number and a step more are 32 bits");

struct quantize_args {
    const void *x;
    size_t ldx;
    int rows, blocks; /* blocks of 16 in a row */
    bool tiles;
    bool dense; /* rows follow one another, and so do their scales: a block's number says where it is */
    uint64_t *codes;
    uint8_t *scales;
    const float *tensor_scale; /* and amax after it */
};

/* Blocks on a multiprocessor: as many as keep everything in registers. */
template <class T, int METHOD> constexpr int resident() {
    return METHOD == NIB_GEMM_FOUR_OVER_SIX ? 2 : METHOD == NIB_GEMM_RTN && sizeof(T) == 2 ? 6 : 4;
}

template <class T, int METHOD>
static __global__ void __launch_bounds__(256, resident<T, METHOD>()) quantize_blocks(const quantize_args a) {
    const unsigned all = (unsigned)a.rows * a.blocks, step = gridDim.x * blockDim.x;
    const float tensor_scale = a.tensor_scale[0], amax = METHOD == NIB_GEMM_FOUR_OVER_SIX ? a.tensor_scale[1] : 0.0f;
    uint32_t next[sizeof(T) * 4];
    auto load = [&](unsigned id) {
        size_t from = (size_t)id * 16;
        if (!a.dense) /* a division costs as much as two values */
            from = (size_t)(id / a.blocks) * a.ldx + (id % a.blocks) * 16;
        load_words<true>((const T *)a.x + from, next);
    };
    unsigned id = blockIdx.x * blockDim.x + threadIdx.x;
    if (id < all)
        load(id);
    for (; id < all; id += step) {
        uint32_t w[sizeof(T) * 4], scale;
#pragma unroll
        for (int i = 0; i < (int)sizeof(T) * 4; i++)
            w[i] = next[i];
        if (id + step < all) /* on its way while this one is computed */
            load(id + step);
        a.codes[id] = quantize_words<T, METHOD>(w, tensor_scale, amax, &scale);
        a.scales[a.tiles ? gemm_scale_place(id / a.blocks, id % a.blocks, a.blocks) : id] = (uint8_t)scale;
    }
}

template <class T> static __global__ void __launch_bounds__(256) find_amax(const quantize_args a, uint32_t *amax) {
    uint32_t most = 0;
    const size_t all = (size_t)a.rows * a.blocks;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < all; i += (size_t)gridDim.x * blockDim.x) {
        float v[16];
        load_block<true>((const T *)a.x + i / a.blocks * a.ldx + i % a.blocks * 16, v);
        most = max(most, __float_as_uint(block_amax(v)));
    }
    most = __reduce_max_sync(~0u, most);
    if ((threadIdx.x & 31) == 0)
        atomicMax(amax, most);
}

static __global__ void finish_scale(float *tensor_scale, int method) {
    tensor_scale[0] = tensor_scale_of(tensor_scale[1], method);
}

template <class T> static int quantize_typed(const nib_gemm_quantize_args *q, quantize_args a, cudaStream_t stream) {
    if (!q->given_scale) {
        cudaMemsetAsync(q->tensor_scale + 1, 0, 4, stream);
        find_amax<T><<<1056, 256, 0, stream>>>(a, (uint32_t *)q->tensor_scale + 1);
        finish_scale<<<1, 1, 0, stream>>>(q->tensor_scale, q->method);
    }
    const unsigned grid = (unsigned)min(((size_t)a.rows * a.blocks + 255) / 256, (size_t)GRID);
    switch (q->method) {
    case NIB_GEMM_RTN:
        quantize_blocks<T, NIB_GEMM_RTN><<<grid, 256, 0, stream>>>(a);
        break;
    case NIB_GEMM_FOUR_OVER_SIX:
        quantize_blocks<T, NIB_GEMM_FOUR_OVER_SIX><<<grid, 256, 0, stream>>>(a);
        break;
    case NIB_GEMM_SWEEP:
        quantize_blocks<T, NIB_GEMM_SWEEP><<<grid, 256, 0, stream>>>(a);
        break;
    default:
        quantize_blocks<T, NIB_GEMM_FP8_EXACT><<<grid, 256, 0, stream>>>(a);
    }
    return cudaGetLastError();
}

extern "C" int gemm_quantize_launch(const nib_gemm_quantize_args *q, void *stream_) {
    const cudaStream_t stream = (cudaStream_t)stream_;
    const size_t ldx = q->ldx ? q->ldx : q->cols;
    const quantize_args a = {.x = q->x,
                             .ldx = ldx,
                             .rows = (int)q->rows,
                             .blocks = (int)(q->cols / 16),
                             .tiles = q->scale_tiles,
                             .dense = ldx == q->cols && !q->scale_tiles,
                             .codes = (uint64_t *)q->codes,
                             .scales = (uint8_t *)q->scales,
                             .tensor_scale = q->tensor_scale};
    if (q->scale_tiles)
        cudaMemsetAsync(q->scales, 0, nib_gemm_scale_tile_bytes(q->rows, q->cols), stream);
    switch (q->x_type) {
    case NIB_GEMM_BF16:
        return quantize_typed<__nv_bfloat16>(q, a, stream);
    case NIB_GEMM_F16:
        return quantize_typed<__half>(q, a, stream);
    default:
        return quantize_typed<float>(q, a, stream);
    }
}
