/* SPDX-License-Identifier: Apache-2.0
 *
 * gpu_gemm: wgmma. Tiles with clusters, whole tiles and cut ones, on all multiprocessors and, in several waves, on five,
 * launched by hand, since the choice takes few of them for a shape. FP32 sums of BF16 are never cut: those are stored in BF16.
 */
#include "gemm_check.cuh"

static double wgmma_error(const weight &w, const gemm_task &t, bool fp8, const void *a, const uint8_t *q, double *not_numbers) {
    const size_t m = t.m, n = w.n, k = w.k;
    double *truth = device<double>(m * n), *e = device<double>(3), h[3];
    const places at = {(int)m, (int)n, (int)m, (int)n};
    CUDA(cudaMemset(t.out.d, 0xff, m * n * 4));
    CUDA((cudaError_t)(fp8 ? gemm_wgmma_e4m3(&t) : gemm_wgmma_bf16(&t)));
    CUDA(cudaMemset(e, 0, 24));
    oracle<<<(unsigned)((m * n + 7) / 8), 256>>>(at, w.codes, w.scales, w.tensor_scale, (int)k, fp8 ? (const void *)q : a,
                                                 fp8 ? NIB_GEMM_E4M3 : NIB_GEMM_BF16, k, fp8 ? t.out.token_scale : nullptr, fp8, truth);
    compare<<<(unsigned)((m * n + 255) / 256), 256>>>(at, t.out.d, t.out.type, n, truth, 0, e);
    CUDA(cudaMemcpy(h, e, 24, cudaMemcpyDeviceToHost));
    cudaFree(truth), cudaFree(e);
    *not_numbers = h[2];
    return sqrt(h[0] / h[1]);
}

/* Whether 20 more launches write the same bytes: a stage read before it has landed shows once in many. */
static bool repeats(const gemm_task &t, bool fp8) {
    const size_t bytes = (size_t)t.m * t.n * (t.out.type == NIB_GEMM_F32 ? 4 : 2);
    std::vector<uint8_t> first(bytes), next(bytes);
    CUDA(cudaMemcpy(first.data(), t.out.d, bytes, cudaMemcpyDeviceToHost));
    for (int i = 0; i < 20; i++) {
        CUDA((cudaError_t)(fp8 ? gemm_wgmma_e4m3(&t) : gemm_wgmma_bf16(&t)));
        CUDA(cudaMemcpy(next.data(), t.out.d, bytes, cudaMemcpyDeviceToHost));
        if (first != next)
            return false;
    }
    return true;
}

void test_wgmma_forms(void) {
    const size_t shapes[][2] = {{48, 640}, {640, 1152}, {1152, 2880}, {1152, 21504 /* a ring turns often */}};
    double worst[2] = {0, 0};
    for (auto &shape : shapes) {
        weight w = make_weight(shape[0], shape[1], TAME);
        const size_t n = w.n, k = w.k, groups = gemm_groups(k);
        for (size_t m : {1, 40, 130, 300}) {
            if (k > 2880 && m != 130)
                continue;
            for (int fp8 = 0; fp8 < 2; fp8++) {
                __nv_bfloat16 *a = device<__nv_bfloat16>(m * k);
                float *d = device<float>(m * n), *scale = device<float>(m + 256), *partial = device<float>((size_t)396 * 128 * 256);
                uint8_t *q = device<uint8_t>(m * k), *prepared = device<uint8_t>(m * groups * 256);
                uint32_t *flags = device<uint32_t>(396), left[396]; /* cleared once: who has seen a flag lowers it */
                CUDA(cudaMemset(flags, 0, sizeof left));
                fill<<<64, 256>>>(a, NIB_GEMM_BF16, m * k, 8);
                OK(nib_gemm_quantize_e4m3(ctx, a, NIB_GEMM_BF16, m, k, k, q, scale, nullptr, &err));
                OK(gemm_prepare(ctx, fp8 ? GEMM_A_E4M3_MMA : GEMM_A_BF16_MMA, a, NIB_GEMM_BF16, m, k, k, prepared, scale, nullptr, &err));
                for (int tile : {32, 64, 128, 256})
                    /* 0: cut; 8: in several waves; 16: of 192 rows; 32: cut, of which a third runs at a time */
                    for (int form : {0, 1, 2, 3, 4, 8, 9, 16, 17, 18, 19, 20, 24, 25, 32, 48}) {
                        const int ranks = form & 7;
                        const bool tall = form & 16;
                        if ((tall && tile != 64 && tile != 128) || ranks > (tile == 64 || tall ? 4 : tile == 256 ? 1 : 2))
                            continue;
                        gemm_task t = {};
                        t.w = nib_gemm_weight_data(w.w), t.a = prepared;
                        t.m = (int)m, t.n = (int)n, t.k = (int)k, t.groups = (int)groups, t.terms = 1;
                        t.tile_tokens = tile, t.tile_rows = tall ? 192 : 128, t.slices = ranks ? ranks : 1, t.cut = ranks == 0;
                        t.partial = partial, t.flags = flags, t.n_sms = form & 8 ? 5 : form & 32 ? 396 : 132;
                        t.dependent = true, t.tensor_map = ctx->tensor_map;
                        t.out.d = d, t.out.type = (t.cut && !fp8) || m == 40 || (fp8 && m == 300) ? NIB_GEMM_BF16 : NIB_GEMM_F32;
                        t.out.alpha = 1, t.out.ldd = (int)n, t.out.token_scale = scale;
                        t.out.tensor_scale = (const float *)((const char *)t.w + gemm_scale_offset(n, k));
                        double wrong, error = wgmma_error(w, t, fp8, a, q, &wrong);
                        const bool turns = k > 2880; /* one accumulator for all of k: looser, what counts is that it repeats */
                        const double bound = fp8 ? (turns ? 1e-2 : 4e-3) : t.out.type == NIB_GEMM_BF16 ? 3e-3 : turns ? 5e-5 : 2e-6;
                        worst[fp8] = fmax(worst[fp8], t.out.type == NIB_GEMM_BF16 || turns ? 0 : error);
                        char what[120];
                        snprintf(what, sizeof what, "wgmma %s %zux%zu m %zu tile %d form %d: relative L2 %.1e, %.0f not numbers",
                                 fp8 ? "e4m3" : "bf16", n, k, m, tile, form, error, wrong);
                        check(error <= bound && wrong == 0, what);
                        snprintf(what, sizeof what, "wgmma %s %zux%zu m %zu tile %d form %d: does not repeat", fp8 ? "e4m3" : "bf16",
                                 n, k, m, tile, form);
                        check(repeats(t, fp8), what);
                    }
                CUDA(cudaMemcpy(left, flags, sizeof left, cudaMemcpyDeviceToHost));
                for (uint32_t flag : left)
                    check(flag == 0, "wgmma: a flag stays raised");
                for (void *f : {(void *)a, (void *)d, (void *)scale, (void *)partial, (void *)q, (void *)prepared, (void *)flags})
                    cudaFree(f);
            }
        }
        free_weight(&w);
    }
    printf("wgmma, tiles and ways to share K by hand: bf16 %.1e, e4m3 %.1e\n", worst[0], worst[1]);
}
