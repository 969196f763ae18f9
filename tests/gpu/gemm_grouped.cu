/* SPDX-License-Identifier: Apache-2.0
 *
 * gpu_gemm: products of experts in one launch.
 */
#include "gemm_check.cuh"

/* SHORTLY: the small shapes alone. On Hopper half of the runs have few tokens an expert, for experts.cu. */
void test_grouped(bool shortly) {
    /* the third: how often the seven experts come, enough of them for a block's teams; the fourth: the most tokens of one */
    const size_t shapes[][4] = {{48, 176, 1, 40},   {208, 1152, 1, 8},    {768, 2048, 1, 40},  {176, 12288, 1, 40}, {768, 2048, 12, 40},
                                {1040, 768, 12, 40}, {48, 176, 100, 40},  {768, 2048, 1, 9},   {768, 2048, 12, 9},  {1040, 768, 12, 9},
                                {48, 176, 100, 3},   {2048, 640, 5, 9},   {176, 4096, 3, 9},   {176, 7168, 2, 9},   {304, 1664, 4, 9},
                                {64, 128, 2, 9},     {768, 2048, 5, 9},   {1040, 768, 5, 9}};
    for (auto &shape : shapes) {
        if (shortly && shape[0] * shape[1] * shape[2] > 300000)
            continue;
        const size_t n = shape[0], k = shape[1], experts = 7 * shape[2];
        const int some[] = {0, 1, 3, 8, 9, 0, 40};
        std::vector<int> counts(experts), offsets(experts + 1);
        weight w[7];
        std::vector<const void *> packed(experts);
        for (size_t e = 0; e < experts; e++) {
            if (e < 7)
                w[e] = make_weight(n, k, e % 2);
            packed[e] = nib_gemm_weight_data(w[e % 7].w);
            counts[e] = std::min(some[(e + e / 7) % 7], (int)shape[3]);
            offsets[e + 1] = offsets[e] + counts[e];
        }
        const size_t m = offsets[experts];
        __nv_bfloat16 *a = device<__nv_bfloat16>(m * k);
        float *d = device<float>(m * n);
        int *dev_offsets = device<int>(experts + 1);
        const void **dev_packed = device<const void *>(experts);
        CUDA(cudaMemcpy(dev_offsets, offsets.data(), offsets.size() * sizeof(int), cudaMemcpyHostToDevice));
        CUDA(cudaMemcpy(dev_packed, packed.data(), packed.size() * sizeof(void *), cudaMemcpyHostToDevice));
        CUDA(cudaMemset(d, 0xff, m * n * 4));
        fill<<<64, 256>>>(a, NIB_GEMM_BF16, m * k, 9);
        nib_gemm_group p = {};
        p.product.weight = w[0].w, p.product.m = m, p.product.a = a, p.product.d = d, p.product.d_type = NIB_GEMM_F32;
        p.n_experts = experts, p.offsets = dev_offsets, p.packed = dev_packed;
        OK(nib_gemm_grouped(ctx, &p, nullptr, 0, nullptr, &err));
        CUDA(cudaDeviceSynchronize());
        double *truth = device<double>(m * n), *e3 = device<double>(3), h[3];
        CUDA(cudaMemset(e3, 0, 24));
        for (size_t e = 0; e < experts; e++)
            if (counts[e]) {
                places at = {counts[e], (int)n, counts[e], (int)n};
                oracle<<<(unsigned)((counts[e] * n + 7) / 8), 256>>>(at, w[e % 7].codes, w[e % 7].scales, w[e % 7].tensor_scale, (int)k,
                                                                     a + offsets[e] * k, NIB_GEMM_BF16, k, nullptr, false, truth);
                compare<<<(unsigned)((counts[e] * n + 255) / 256), 256>>>(at, d + offsets[e] * n, NIB_GEMM_F32, n, truth, 0, e3);
            }
        CUDA(cudaMemcpy(h, e3, 24, cudaMemcpyDeviceToHost));
        char what[100];
        snprintf(what, sizeof what, "grouped %zu of %zux%zu: relative L2 %.1e, %.0f not numbers", experts, n, k, sqrt(h[0] / h[1]), h[2]);
        check(sqrt(h[0] / h[1]) <= 2e-6 && h[2] == 0, what);
        for (void *q : {(void *)a, (void *)d, (void *)dev_offsets, (void *)dev_packed, (void *)truth, (void *)e3})
            cudaFree(q);
        for (auto &x : w)
            free_weight(&x);
    }
    printf("grouped: experts with 0 to 40 tokens, and with few\n");
}
