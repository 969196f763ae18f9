/* SPDX-License-Identifier: Apache-2.0
 *
 * Tensor maps of packed weights and prepared tokens, and the copies through them.
 */
#ifndef GEMM_TENSOR_MAP_CUH
#define GEMM_TENSOR_MAP_CUH

#include <cuda.h>

#include "gemm/gpu/device.cuh"

GEMM_DEV void tensor_copy(uint32_t to, const CUtensorMap *map, int x, int y, uint32_t bar) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0],[%1,{%2,%3}],[%4];" ::"r"(to),
                 "l"(map), "r"(x), "r"(y), "r"(bar)
                 : "memory");
}

/* READ_ONCE: it leaves L2 before what is read more often. */
GEMM_DEV void tensor_copy(uint32_t to, const CUtensorMap *map, int x, int y, int z, uint32_t bar, bool read_once) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
                 "[%0],[%1,{%2,%3,%4}],[%5],%6;" ::"r"(to),
                 "l"(map), "r"(x), "r"(y), "r"(z), "r"(bar), "l"(read_once ? EVICT_FIRST : EVICT_NORMAL)
                 : "memory");
}

GEMM_DEV void prefetch_map(const CUtensorMap *map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

typedef CUresult (*map_encoder)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *,
                                const cuuint64_t *, const cuuint32_t *, const cuuint32_t *, CUtensorMapInterleave,
                                CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

/* DIMENSIONS of SIZE elements, the first contiguous, the others STRIDES bytes apart; a copy takes a BOX, zeros past the end. */
static inline bool make_map(const gemm_task *t, CUtensorMap *map, CUtensorMapDataType type, const void *data, int dimensions,
                            const cuuint64_t *size, const cuuint64_t *strides, const cuuint32_t *box, CUtensorMapSwizzle swizzle) {
    const cuuint32_t steps[3] = {1, 1, 1};
    return ((map_encoder)t->tensor_map)(map, type, (cuuint32_t)dimensions, (void *)data, size, strides, box, steps,
                                        CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                                        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

/* Packed weights as words of 8 bytes [n / 16, groups, 144]; a copy takes GROUPS groups of ROW_TILES row tiles. */
static inline bool map_weights(const gemm_task *t, CUtensorMap *map, int groups, int row_tiles) {
    const cuuint64_t size[3] = {GEMM_GROUP_BYTES / 8, (cuuint64_t)t->groups, (cuuint64_t)t->n / 16};
    const cuuint64_t strides[2] = {GEMM_GROUP_BYTES, (cuuint64_t)t->groups * GEMM_GROUP_BYTES};
    const cuuint32_t box[3] = {GEMM_GROUP_BYTES / 8, (cuuint32_t)groups, (cuuint32_t)row_tiles};
    return make_map(t, map, CU_TENSOR_MAP_DATA_TYPE_FLOAT64, t->w, 3, size, strides, box, CU_TENSOR_MAP_SWIZZLE_NONE);
}

#endif
