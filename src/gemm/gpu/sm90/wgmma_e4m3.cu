/* SPDX-License-Identifier: Apache-2.0
 *
 * W4A8 on Hopper: scales folded into E4M3 weights, activations E4M3 per token. The kernel is wgmma.cuh.
 */
#include "gemm/gpu/sm90/wgmma.cuh"

extern "C" int gemm_wgmma_e4m3_gated(const gemm_task *t) {
    if (t->tile_tokens == 64)
        return t->tile_rows == 192 ? launch_wgmma<true, 64, 192, true>(t) : launch_wgmma<true, 64, 128, true>(t);
    return t->tile_rows == 192 ? launch_wgmma<true, 128, 192, true>(t) : launch_wgmma<true, 128, 128, true>(t);
}

extern "C" int gemm_wgmma_e4m3(const gemm_task *t) {
    switch (t->tile_tokens) {
    case 32:
        return launch_wgmma<true, 32>(t);
    case 64:
        return t->tile_rows == 192 ? launch_wgmma<true, 64, 192>(t) : launch_wgmma<true, 64>(t);
    case 128:
        return t->tile_rows == 192 ? launch_wgmma<true, 128, 192>(t) : launch_wgmma<true, 128>(t);
    default:
        return launch_wgmma<true, 256>(t);
    }
}
