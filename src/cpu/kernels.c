/* SPDX-License-Identifier: Apache-2.0
 *
 * Puts the table together, rung by rung.
 */
#include "cpu/kernels.h"

#include <string.h>

#include "nibble.h"

void kernels_init(cpu_kernels *k, uint32_t features) {
    memset(k, 0, sizeof *k);
    k->features = features;
    k->rung = "scalar";
    rows_ref_init(k);
    attn_ref_init(k);
    k->fp8_scale = kvscale_fit;
    k->fp8_steer = kvscale_steer;
    matmul_ref_init(&k->matmul);
#if defined(__x86_64__)
    if (features & NIB_CPU_AVX2) {
        k->rung = "avx2";
        rows_init_avx2(k);
        attn_init_avx2(k);
        attn_int_avx2_init(k);
        kvscale_avx2_init(k);
        matmul_avx2_init(&k->matmul, features);
    }
    if (features & NIB_CPU_AVX512) {
        k->rung = features & NIB_CPU_AVX512_VNNI ? "avx512-vnni" : "avx512";
        rows_init_avx512(k);
        attn_init_avx512(k);
        if (features & NIB_CPU_AVX512_VNNI)
            attn_int_vnni_init(k);
        matmul_avx512_init(&k->matmul, features);
    }
#endif
}
