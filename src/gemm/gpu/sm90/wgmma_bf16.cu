/* SPDX-License-Identifier: Apache-2.0
 *
 * W4A16 on Hopper: exact, BF16 weights and activations. The kernel is wgmma.cuh.
 */
#include "gemm/gpu/sm90/wgmma.cuh"

extern "C" int gemm_wgmma_bf16_gated(const gemm_task *t) {
    switch (t->tile_tokens) {
    case 64:
        return launch_wgmma<false, 64, 192, true>(t);
    case 128:
        return t->tile_rows == 192 ? launch_wgmma<false, 128, 192, true>(t) : launch_wgmma<false, 128, 128, true>(t);
    default:
        return launch_wgmma<false, 256, 128, true>(t);
    }
}

extern "C" int gemm_wgmma_bf16(const gemm_task *t) {
    switch (t->tile_tokens) {
    case 32:
        return launch_wgmma<false, 32>(t);
    case 64:
        return t->tile_rows == 192 ? launch_wgmma<false, 64, 192>(t) : launch_wgmma<false, 64>(t);
    case 128:
        return t->tile_rows == 192 ? launch_wgmma<false, 128, 192>(t) : launch_wgmma<false, 128>(t);
    default:
        return launch_wgmma<false, 256>(t);
    }
}
