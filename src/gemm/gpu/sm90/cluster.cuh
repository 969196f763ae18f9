/* SPDX-License-Identifier: Apache-2.0
 *
 * Blocks of a cluster: who they are, and how sums go from one to another's shared memory.
 */
#ifndef GEMM_CLUSTER_CUH
#define GEMM_CLUSTER_CUH

#include "gemm/gpu/device.cuh"

GEMM_DEV uint32_t cluster_rank() {
    uint32_t r;
    asm volatile("mov.u32 %0,%%cluster_ctarank;" : "=r"(r));
    return r;
}

GEMM_DEV uint32_t in_block(uint32_t address, uint32_t rank) { /* the same place of another block's shared memory */
    uint32_t a;
    asm volatile("mapa.shared::cluster.u32 %0,%1,%2;" : "=r"(a) : "r"(address), "r"(rank));
    return a;
}

/* Initialized barriers become visible to the cluster; cluster_arrive follows. */
GEMM_DEV void cluster_barrier_fence() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/* Relaxed: it orders no memory but barriers, after their own fence (a release would wait for every copy in flight). */
GEMM_DEV void cluster_arrive() {
    __syncwarp(); /* .aligned */
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}

GEMM_DEV void cluster_wait() {
    __syncwarp();
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

GEMM_DEV void send(uint32_t to, uint32_t bar, const float *v) { /* 16 bytes, counted by the receiver's barrier */
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0],{%1,%2,%3,%4},[%5];" ::"r"(to),
                 "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3]), "r"(bar)
                 : "memory");
}

GEMM_DEV void arrive_at(uint32_t bar) { /* what was read before it has arrived in registers */
    asm volatile("mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _,[%0];" ::"r"(bar) : "memory");
}

/* A launch of BLOCKS in clusters of RANKS, dependent where DEPENDENT. ATTRIBUTES: room for two. */
static inline cudaLaunchConfig_t cluster_config(cudaLaunchAttribute *attributes, int ranks, int blocks, int threads, int shared,
                                                bool dependent) {
    cudaLaunchConfig_t config = {};
    attributes[0].id = cudaLaunchAttributeClusterDimension;
    attributes[0].val.clusterDim.x = ranks;
    attributes[0].val.clusterDim.y = attributes[0].val.clusterDim.z = 1;
    attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[1].val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = blocks;
    config.blockDim = threads;
    config.dynamicSmemBytes = shared;
    config.attrs = attributes;
    config.numAttrs = dependent ? 2 : 1;
    return config;
}

#endif
