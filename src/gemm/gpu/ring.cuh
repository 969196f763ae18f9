/* SPDX-License-Identifier: Apache-2.0
 *
 * A warp's own ring of shared memory that weights stream through, STAGES deep: bulk copies and an mbarrier a
 * stage from sm_90 on, cp.async below. A stage is STAGE bytes, filled by up to two copies.
 *
 * Every lane calls every function. put() names what goes into the next stage, or nothing (bytes 0) when the
 * work is out: it keeps the count. A stage is refilled after all lanes have read it (release).
 */
#ifndef GEMM_RING_CUH
#define GEMM_RING_CUH

#include "gemm/gpu/device.cuh"

template <int STAGES, int STAGE> struct warp_ring {
    static const int bytes = STAGES * (STAGE + 8);
    uint32_t data, bars, phase;
    int at;

    /* DATA: this warp's stages; BARS: its STAGES barriers */
    GEMM_DEV void open(uint32_t data_, uint32_t bars_) {
        data = data_, bars = bars_, phase = 0, at = 0;
#if __CUDA_ARCH__ >= 900
        if ((threadIdx.x & 31) == 0) {
            for (int s = 0; s < STAGES; s++)
                barrier_init(bars + 8 * s, 1);
            barrier_fence();
        }
        __syncwarp();
#endif
    }

    /* Fills stage S with BYTES from A and, SECOND bytes further in the stage, BYTES from B (NULL: none). */
    GEMM_DEV void put(int s, const uint8_t *a, const uint8_t *b, int n, int second) {
#if __CUDA_ARCH__ >= 900
        if ((threadIdx.x & 31) == 0 && n > 0) {
            barrier_expect(bars + 8 * s, b ? 2 * n : n);
            bulk_copy_once(data + s * STAGE, a, n, bars + 8 * s);
            if (b)
                bulk_copy_once(data + s * STAGE + second, b, n, bars + 8 * s);
        }
#else
        for (int i = (threadIdx.x & 31) * 16; i < n; i += 512) {
            asm volatile("cp.async.cg.shared.global [%0],[%1],16;" ::"r"(data + s * STAGE + i), "l"(a + i) : "memory");
            if (b)
                asm volatile("cp.async.cg.shared.global [%0],[%1],16;" ::"r"(data + s * STAGE + second + i), "l"(b + i)
                             : "memory");
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
#endif
    }

    GEMM_DEV uint32_t wait() { /* address of the oldest stage, filled */
#if __CUDA_ARCH__ >= 900
        barrier_wait(bars + 8 * at, phase);
#else
        asm volatile("cp.async.wait_group %0;" ::"n"(STAGES - 1) : "memory");
        __syncwarp();
#endif
        return data + at * STAGE;
    }

    GEMM_DEV int release() { /* all lanes have read it: which stage may be refilled */
        __syncwarp();
        const int s = at;
        if (++at == STAGES) {
            at = 0;
            phase ^= 1;
        }
        return s;
    }
};

#endif
