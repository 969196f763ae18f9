/* SPDX-License-Identifier: Apache-2.0
 *
 * gpu_gemm: kernels that this GPU's table does not choose, launched by hand: tiles of Ampere and Ada, the GEMVs in little
 * shared memory, W4A8 with exact weights of Ada, W4A4 of Blackwell.
 */
#include "gemm_check.cuh"

void test_other_generations(void) {
    const size_t shapes[][2] = {{48, 176}, {640, 1152}, {2880, 2880}};
    enum { BF16, FOLDED, E4M3_EXACT, KINDS };
    static const char *const names[] = {"tile bf16 (Ampere)", "tile e4m3 (Ada)", "tile e4m3, exact weights (Ada)"};
    static const double bounds[] = {2e-6, 1e-4, 2e-6};
    double worst[KINDS] = {0, 0, 0};
    for (auto &shape : shapes) {
        weight w = make_weight(shape[0], shape[1], TAME);
        const size_t n = w.n, k = w.k, groups = (k + 127) / 128;
        for (size_t m : {1, 17, 64, 65, 200})
            for (int kind = BF16; kind < KINDS; kind++) {
                const bool fp8 = kind != BF16;
                __nv_bfloat16 *a = device<__nv_bfloat16>(m * k);
                float *d = device<float>(m * n), *scale = device<float>(m + 256);
                uint8_t *q = device<uint8_t>(m * k), *prepared = device<uint8_t>(m * groups * 128);
                fill<<<64, 256>>>(a, NIB_GEMM_BF16, m * k, 8);
                CUDA(cudaMemset(d, 0xff, m * n * 4));
                OK(nib_gemm_quantize_e4m3(ctx, a, NIB_GEMM_BF16, m, k, k, q, scale, nullptr, &err));
                OK(gemm_prepare(ctx, GEMM_A_E4M3_MMA, a, NIB_GEMM_BF16, m, k, k, prepared, scale, nullptr, &err));
                gemm_task t = {};
                t.w = nib_gemm_weight_data(w.w), t.a = fp8 ? (void *)prepared : a;
                t.m = (int)m, t.n = (int)n, t.k = (int)k, t.groups = (int)groups, t.lda = (int)(fp8 ? groups * 128 : k);
                t.terms = 1, t.slices = 1, t.max_shared = 99 * 1024, t.n_sms = 132;
                t.out.d = d, t.out.type = NIB_GEMM_F32, t.out.alpha = 1, t.out.ldd = (int)n, t.out.token_scale = scale;
                t.out.tensor_scale = (const float *)((const char *)t.w + gemm_scale_offset(n, k));
                CUDA((cudaError_t)(kind == BF16 ? gemm_tile_bf16(&t) : kind == FOLDED ? gemm_tile_e4m3(&t) : gemm_tile_e4m3_exact(&t)));
                double *truth = device<double>(m * n), *e = device<double>(3), h[3];
                CUDA(cudaMemset(e, 0, 24));
                places at = {(int)m, (int)n, (int)m, (int)n};
                oracle<<<(unsigned)((m * n + 7) / 8), 256>>>(at, w.codes, w.scales, w.tensor_scale, (int)k, fp8 ? (void *)q : a,
                                                             fp8 ? NIB_GEMM_E4M3 : NIB_GEMM_BF16, k, fp8 ? scale : nullptr, kind == FOLDED, truth);
                compare<<<(unsigned)((m * n + 255) / 256), 256>>>(at, d, NIB_GEMM_F32, n, truth, 0, e);
                CUDA(cudaMemcpy(h, e, 24, cudaMemcpyDeviceToHost));
                const double error = sqrt(h[0] / h[1]);
                worst[kind] = fmax(worst[kind], error);
                check(error <= bounds[kind] && h[2] == 0, names[kind]);
                if (!fp8 && m <= 16) { /* the small-memory forms of gemv and gemv16 */
                    CUDA(cudaMemset(d, 0xff, m * n * 4));
                    CUDA((cudaError_t)(m == 1 ? gemm_gemv(&t) : gemm_gemv16(&t)));
                    CUDA(cudaMemset(e, 0, 24));
                    compare<<<(unsigned)((m * n + 255) / 256), 256>>>(at, d, NIB_GEMM_F32, n, truth, 0, e);
                    CUDA(cudaMemcpy(h, e, 24, cudaMemcpyDeviceToHost));
                    check(sqrt(h[0] / h[1]) <= 2e-6 && h[2] == 0, "gemv with 99 KB of shared memory");
                }
                for (void *f : {(void *)a, (void *)d, (void *)scale, (void *)q, (void *)prepared, (void *)truth, (void *)e})
                    cudaFree(f);
            }
        free_weight(&w);
    }
    printf("kernels of other generations: tile bf16 %.1e, tile e4m3 %.1e, with exact weights %.1e\n", worst[0], worst[1], worst[2]);
}

/* W4A8 of Ada with exact weights, as a caller asks for it: the context says that it is a GPU which has it. */
void test_w4a8_exact(void) {
    const int arch = ctx->arch;
    const size_t shapes[][2] = {{16, 16}, {48, 176}, {640, 1152}, {176, 21504}};
    double worst[2] = {0, 0};
    for (auto &shape : shapes) {
        weight w = make_weight(shape[0], shape[1], WILD);
        for (int ada : {89, 120}) {
            ctx->arch = ada;
            for (size_t m : {1, 7, 64, 65, 130}) {
                check_run(w, m, NIB_GEMM_W4A8_EXACT, NIB_GEMM_BF16, NIB_GEMM_F32, UNFOLDED, 2e-6, worst);
                check_run(w, m, NIB_GEMM_W4A8_EXACT, NIB_GEMM_E4M3, NIB_GEMM_BF16, UNFOLDED, 3e-3, worst + 1);
            }
        }
        ctx->arch = arch;
        nib_gemm_product p = {};
        p.weight = w.w, p.mode = NIB_GEMM_W4A8_EXACT, p.m = 64, p.a = p.d = w.codes;
        check(arch != 90 || (nib_gemm_matmul(ctx, &p, nullptr, 0, nullptr, &err) == NIB_UNSUPPORTED &&
                             strstr(err.text, "has no w4a8-exact: it has w4a16 and w4a8")),
              "w4a8-exact is refused by name on Hopper");
        free_weight(&w);
    }
    printf("w4a8 with exact weights (emulated): f32 %.1e, bf16 %.1e\n", worst[0], worst[1]);
}

/* W4A4, whose instruction is emulated here: the context says that it is a GPU which has it. */
void test_w4a4(void) {
    nib_gemm blackwell = *ctx;
    blackwell.arch = 120;
    const size_t shapes[][2] = {{16, 16}, {48, 176}, {640, 1152}, {176, 2880}};
    double worst = 0;
    for (auto &shape : shapes) {
        weight w = make_weight(shape[0], shape[1], WILD);
        const size_t n = w.n, k = w.k;
        for (size_t m : {1, 7, 64, 65, 130}) {
            __nv_bfloat16 *x = device<__nv_bfloat16>(m * k);
            uint8_t *codes = device<uint8_t>(m * k / 2), *scales = device<uint8_t>(m * k / 16);
            float *ts = device<float>(2), *values = device<float>(m * k), *d[2] = {device<float>(m * n), device<float>(m * n)}, h_ts;
            fill<<<64, 256>>>(x, NIB_GEMM_BF16, m * k, 6);
            nib_gemm_quantize_args q = {};
            q.x = x, q.rows = m, q.cols = k, q.codes = codes, q.scales = scales, q.tensor_scale = ts;
            OK(nib_gemm_quantize_nvfp4(ctx, &q, nullptr, &err));
            std::vector<uint8_t> c(m * k / 2), s(m * k / 16);
            std::vector<float> v(m * k);
            CUDA(cudaMemcpy(c.data(), codes, c.size(), cudaMemcpyDeviceToHost));
            CUDA(cudaMemcpy(s.data(), scales, s.size(), cudaMemcpyDeviceToHost));
            CUDA(cudaMemcpy(&h_ts, ts, 4, cudaMemcpyDeviceToHost));
            for (size_t i = 0; i < v.size(); i++)
                v[i] = e2m1(c[i / 2] >> 4 * (i & 1) & 15) * e4m3(s[i / 16]);
            CUDA(cudaMemcpy(values, v.data(), v.size() * 4, cudaMemcpyHostToDevice));
            nib_gemm_product p = {};
            p.weight = w.w, p.mode = NIB_GEMM_W4A4, p.m = m, p.a = x, p.d_type = NIB_GEMM_F32;
            const size_t bytes = nib_gemm_workspace_bytes(&blackwell, &p);
            void *workspace = device<uint8_t>(bytes);
            for (int given = 0; given < 2; given++) { /* BF16, quantized inside; and the caller's NVFP4 */
                CUDA(cudaMemset(d[given], 0xff, m * n * 4));
                CUDA(cudaMemset(workspace, 0xff, bytes));
                p.d = d[given];
                if (given)
                    p.a = codes, p.a_type = NIB_GEMM_NVFP4, p.a_block_scale = scales, p.a_scale = ts;
                OK(nib_gemm_matmul(&blackwell, &p, workspace, bytes, nullptr, &err));
            }
            double *truth = device<double>(m * n), *e = device<double>(3), h[3];
            CUDA(cudaMemset(e, 0, 24));
            places at = {(int)m, (int)n, (int)m, (int)n};
            oracle<<<(unsigned)((m * n + 7) / 8), 256>>>(at, w.codes, w.scales, w.tensor_scale, (int)k, values, NIB_GEMM_F32, k,
                                                         nullptr, false, truth);
            std::vector<double> t(m * n);
            CUDA(cudaMemcpy(t.data(), truth, t.size() * 8, cudaMemcpyDeviceToHost));
            for (double &y : t)
                y *= h_ts;
            CUDA(cudaMemcpy(truth, t.data(), t.size() * 8, cudaMemcpyHostToDevice));
            compare<<<(unsigned)((m * n + 255) / 256), 256>>>(at, d[0], NIB_GEMM_F32, n, truth, 0, e);
            CUDA(cudaMemcpy(h, e, 24, cudaMemcpyDeviceToHost));
            std::vector<float> d0(m * n), d1(m * n);
            CUDA(cudaMemcpy(d0.data(), d[0], m * n * 4, cudaMemcpyDeviceToHost));
            CUDA(cudaMemcpy(d1.data(), d[1], m * n * 4, cudaMemcpyDeviceToHost));
            const double error = sqrt(h[0] / h[1]);
            worst = fmax(worst, error);
            char what[120];
            snprintf(what, sizeof what, "w4a4 %zux%zu m %zu: relative L2 %.1e, %.0f not numbers, %s", n, k, m, error, h[2],
                     d0 == d1 ? "the same from NVFP4" : "NOT THE SAME FROM NVFP4");
            check(error <= 2e-6 && h[2] == 0 && d0 == d1, what);
            for (void *f : {(void *)x, (void *)codes, (void *)scales, (void *)ts, (void *)values, (void *)d[0], (void *)d[1], workspace,
                            (void *)truth, (void *)e})
                cudaFree(f);
        }
        free_weight(&w);
    }
    printf("w4a4 (emulated): f32 %.1e\n", worst);
}
