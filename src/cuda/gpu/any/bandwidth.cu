/* SPDX-License-Identifier: Apache-2.0
 *
 * Reads a buffer once, 16 bytes a load, 8 loads in flight a thread: what `nibble devices` calls the read
 * bandwidth, and what every share of bandwidth is taken of.
 */
#include "cuda/gpu/any/kernel.cuh"

enum { THREADS = 512, DEPTH = 8 };

static __global__ void __launch_bounds__(THREADS) read_all(const uint4 *p, size_t n, uint32_t *sink) {
    size_t step = (size_t)gridDim.x * THREADS;
    uint32_t all = 0;
    for (size_t i = blockIdx.x * (size_t)THREADS + threadIdx.x; i < n; i += step * DEPTH) {
        uint4 v[DEPTH];
#pragma unroll
        for (int k = 0; k < DEPTH; k++)
            v[k] = i + k * step < n ? __ldcs(p + i + k * step) : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int k = 0; k < DEPTH; k++)
            all ^= v[k].x ^ v[k].y ^ v[k].z ^ v[k].w;
    }
    if (all == 0x12345678)
        *sink = all; /* keeps the loads */
}

extern "C" int bandwidth_launch(const cuda_lane *lane, const void *p, size_t bytes, uint32_t *sink) {
    return launch_kernel(lane, read_all, dim3((unsigned)(2 * lane->n_sms)), THREADS, 0, (const uint4 *)p,
                         bytes / 16, sink);
}
