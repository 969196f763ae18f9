/* SPDX-License-Identifier: Apache-2.0
 *
 * gpu_gemm: few. Every way to share K, in a chain of dependent launches.
 */
#include "gemm_check.cuh"

/* The gated unit (SiLU) of TRUTH [m, n], on the device [m, n / 2]. */
static double *gated_truth(const double *truth, size_t m, size_t n) {
    std::vector<double> all(m * n), units(m * (n / 2));
    CUDA(cudaMemcpy(all.data(), truth, m * n * 8, cudaMemcpyDeviceToHost));
    for (size_t i = 0; i < units.size(); i++) {
        const double *row = &all[i / (n / 2) * n], g = row[i % (n / 2)];
        units[i] = g / (1 + exp(-g)) * row[n / 2 + i % (n / 2)];
    }
    double *out = device<double>(units.size());
    CUDA(cudaMemcpy(out, units.data(), units.size() * 8, cudaMemcpyHostToDevice));
    return out;
}

void test_few_forms(void) {
    const size_t shapes[][2] = {{48, 640}, {640, 1152}, {2880, 2880}, {176, 12288}, {1152, 5376}};
    double worst = 0;
    int n_run = 0, n_gated = 0;
    for (auto &shape : shapes) {
        weight w = make_weight(shape[0], shape[1], TAME);
        const size_t n = w.n, k = w.k, groups = gemm_groups(k);
        for (size_t m : {3, 16, 31}) {
            __nv_bfloat16 *a = device<__nv_bfloat16>(m * k);
            float *d = device<float>(m * n);
            double *truth = device<double>(m * n), *e = device<double>(3), h[3];
            const places at = {(int)m, (int)n, (int)m, (int)n};
            fill<<<64, 256>>>(a, NIB_GEMM_BF16, m * k, 8);
            oracle<<<(unsigned)((m * n + 7) / 8), 256>>>(at, w.codes, w.scales, w.tensor_scale, (int)k, a, NIB_GEMM_BF16, k, nullptr,
                                                         false, truth);
            double *unit_truth = n % 32 ? nullptr : gated_truth(truth, m, n);
            for (int ranks : {1, 2, 4})
                for (int form : {1, 2, 4, 17, 18, 20, 33, 34, 36}) { /* 16: in many rounds, of one cluster and two; 32: gated */
                    const int parts = form & 15;
                    const bool gated = form & 32;
                    const size_t n_out = gated ? n / 2 : n;
                    gemm_task t = {};
                    t.w = nib_gemm_weight_data(w.w), t.a = a;
                    t.m = (int)m, t.n = (int)n, t.k = (int)k, t.groups = (int)groups, t.lda = (int)k, t.terms = 1;
                    t.tile_tokens = m <= 8 ? 8 : m <= 16 ? 16 : 32, t.slices = ranks * parts, t.parts = parts;
                    t.n_sms = ctx->n_sms, t.max_shared = ctx->max_shared, t.dependent = true, t.tensor_map = ctx->tensor_map;
                    t.clusters = ranks == 1 ? ctx->n_sms : ranks == 2 ? ctx->pairs : ctx->fours;
                    t.clusters = form & 16 ? parts == 4 ? 2 : 1 : t.clusters;
                    t.out.d = d, t.out.type = NIB_GEMM_F32, t.out.alpha = 1, t.out.ldd = (int)n_out;
                    t.unit = gated ? GEMM_UNIT_SILU : GEMM_UNIT_NONE;
                    t.out.tensor_scale = (const float *)((const char *)t.w + gemm_scale_offset(n, k));
                    if (groups > 14 * (size_t)t.slices) /* more than one accumulator may sum */
                        continue;
                    if (gated && (!unit_truth || ranks * 4 > t.tile_tokens)) /* what gemm_chain does not give it */
                        continue;
                    CUDA(cudaMemset(d, 0xff, m * n * 4));
                    int code = cudaSuccess;
                    for (int i = 0; i < 8 && !code; i++) /* the next one's blocks start while this one runs */
                        code = gemm_few(&t);
                    if (code == cudaErrorInvalidValue) /* does not fit */
                        continue;
                    CUDA((cudaError_t)code);
                    CUDA(cudaMemset(e, 0, 24));
                    const places out_at = {(int)m, (int)n_out, (int)m, (int)n_out};
                    compare<<<(unsigned)((m * n_out + 255) / 256), 256>>>(out_at, d, NIB_GEMM_F32, n_out, gated ? unit_truth : truth, 0, e);
                    CUDA(cudaMemcpy(h, e, 24, cudaMemcpyDeviceToHost));
                    const double error = sqrt(h[0] / h[1]);
                    worst = fmax(worst, gated ? 0 : error);
                    (gated ? n_gated : n_run)++;
                    char what[120];
                    snprintf(what, sizeof what, "few %zux%zu m %zu ranks %d form %d: relative L2 %.1e, %.0f not numbers", n, k, m,
                             ranks, form, error, h[2]);
                    check(error <= (gated ? 1e-5 : 2e-6) && h[2] == 0, what);
                }
            for (void *f : {(void *)a, (void *)d, (void *)truth, (void *)unit_truth, (void *)e})
                cudaFree(f);
        }
        free_weight(&w);
    }
    check(n_gated >= 15, "few: some ways to share K of gated products fit");
    check(n_run >= 150, "few: most ways to share K fit");
    printf("few: %d ways to share K by hand: %.1e; %d gated\n", n_run, worst, n_gated);
}
